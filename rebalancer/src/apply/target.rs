//! Where changes go: the destination's tables, and how the source's relations map to them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tenantry_wire::replication::{OldTuple, Relation, Tuple, TupleValue};

use super::error::ApplyError;
use super::row::{Row, Value};
use crate::tables::{Column, TenantTable};

/// Types with smaller oids come with the server and are the same on every shard.
const FIRST_OWN_TYPE: u32 = 16_384;

/// A table of the destination.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) table: Arc<TenantTable>,
    /// Columns that have a value of their own, in the order of rows.
    pub(super) columns: Vec<Column>,
    /// Positions of the key in `columns`; empty if a row has no name.
    pub(super) key: Vec<usize>,
    /// Position of the tenant column in `columns`.
    tenant: usize,
    /// A row cannot be updated in place: UPDATE gives identity columns no value of ours.
    pub(super) rewrites: bool,
}

impl Target {
    fn new(table: &Arc<TenantTable>) -> Result<Self, ApplyError> {
        let columns: Vec<Column> = table.written().cloned().collect();
        let place = |index: &usize| {
            let name = table.columns.get(*index).map(|column| &column.name);
            columns.iter().position(|column| Some(&column.name) == name)
        };
        let unusable = || ApplyError::Key {
            table: table.relation(),
        };
        let key: Option<Vec<usize>> = table.key.iter().map(place).collect();
        let key = key.ok_or_else(unusable)?;
        let tenant = place(&table.tenant).ok_or_else(unusable)?;
        let rewrites = columns
            .iter()
            .enumerate()
            .any(|(i, column)| column.identity && !key.contains(&i));
        Ok(Self {
            table: Arc::clone(table),
            columns,
            key,
            tenant,
            rewrites,
        })
    }

    /// The key of a row.
    pub(super) fn key_of(&self, row: &[Value]) -> Row {
        self.key
            .iter()
            .filter_map(|i| row.get(*i))
            .cloned()
            .collect()
    }
}

/// All tables of the destination and the tenant whose rows they get.
#[derive(Debug)]
pub(super) struct Targets {
    targets: Vec<Target>,
    by_name: HashMap<(String, String), usize>,
    tenant: Bytes,
}

impl Targets {
    pub(super) fn new(tables: &[Arc<TenantTable>], tenant: &str) -> Result<Self, ApplyError> {
        let targets: Vec<_> = tables.iter().map(Target::new).collect::<Result<_, _>>()?;
        let by_name = targets.iter().enumerate().map(|(i, target)| {
            let name = (target.table.schema.clone(), target.table.name.clone());
            (name, i)
        });
        Ok(Self {
            by_name: by_name.collect(),
            targets,
            tenant: Bytes::copy_from_slice(tenant.as_bytes()),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    pub(super) fn target(&self, index: usize) -> &Target {
        &self.targets[index]
    }
}

/// A table of the source as the stream described it.
#[derive(Debug)]
pub(super) enum Bound {
    /// A tenant table.
    Table(BoundTable),
    /// `tenantry.owner`: positions of the columns that matter.
    Owner(OwnerColumns),
    /// Nothing that rows may come from: the server also describes partitions, whose rows come as their root's.
    Other {
        /// Its name.
        table: String,
    },
}

/// How rows of a source's table map to a [`Target`].
#[derive(Debug)]
pub(super) struct BoundTable {
    /// Index of the target.
    pub(super) target: usize,
    /// For each value of a tuple its place in a row.
    order: Vec<usize>,
    definition: Definition,
}

/// What a relation message said: a second one that differs means that the table was altered.
type Definition = Vec<(Vec<u8>, u32, i32, bool)>;

#[derive(Debug)]
pub(super) struct OwnerColumns {
    state: usize,
    move_id: usize,
    nonce: usize,
}

/// The columns of an owner row that matter to a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnerRow {
    pub(super) state: String,
    pub(super) move_id: Option<String>,
    pub(super) nonce: Option<String>,
}

impl Bound {
    /// Finds the destination's table for a relation of the source.
    ///
    /// # Errors
    /// It has other columns, or the relation is not what it was.
    pub(super) fn new(
        targets: &Targets,
        relation: &Relation<'_>,
        before: Option<&Self>,
    ) -> Result<Self, ApplyError> {
        let schema = String::from_utf8_lossy(relation.schema).into_owned();
        let name = String::from_utf8_lossy(relation.name).into_owned();
        if (schema.as_str(), name.as_str()) == ("tenantry", "owner") {
            return OwnerColumns::new(relation).map(Self::Owner);
        }
        let changed = |reason: String| ApplyError::SchemaChanged {
            table: format!("{schema}.{name}"),
            reason,
        };
        let Some(&target) = targets.by_name.get(&(schema.clone(), name.clone())) else {
            let table = format!("{schema}.{name}");
            return Ok(Self::Other { table });
        };
        let order = order(targets.target(target), relation).map_err(changed)?;
        let definition = relation
            .columns
            .iter()
            .map(|column| {
                let name = column.name.to_vec();
                (name, column.type_oid, column.type_modifier, column.is_key)
            })
            .collect();
        if let Some(Self::Table(before)) = before
            && before.definition != definition
        {
            return Err(changed("its columns are not what they were".to_owned()));
        }
        Ok(Self::Table(BoundTable {
            target,
            order,
            definition,
        }))
    }
}

/// The place of each of a relation's columns in the target's rows.
fn order(target: &Target, relation: &Relation<'_>) -> Result<Vec<usize>, String> {
    let mut order = Vec::with_capacity(relation.columns.len());
    for sent in &relation.columns {
        let place = target
            .columns
            .iter()
            .position(|column| column.name.as_bytes() == sent.name);
        let name = String::from_utf8_lossy(sent.name);
        let place = place.ok_or_else(|| format!("column {name} is not known here"))?;
        let here = target
            .columns
            .get(place)
            .map_or(0, |column| column.type_oid);
        let built_in = sent.type_oid < FIRST_OWN_TYPE || here < FIRST_OWN_TYPE;
        if built_in && sent.type_oid != here {
            return Err(format!("column {name} has another type"));
        }
        order.push(place);
    }
    match target
        .columns
        .iter()
        .enumerate()
        .find(|(i, _)| !order.contains(i))
    {
        None => Ok(order),
        Some((_, missing)) => Err(format!("column {} does not come", missing.name)),
    }
}

impl BoundTable {
    /// A whole row.
    pub(super) fn row(
        &self,
        targets: &Targets,
        message: &Bytes,
        tuple: Tuple<'_>,
    ) -> Result<Row, ApplyError> {
        let target = targets.target(self.target);
        if tuple.len() != self.order.len() {
            return Err(ApplyError::Malformed(
                "a row with another number of columns",
            ));
        }
        let mut row = vec![Value::Null; self.order.len()].into_boxed_slice();
        for (value, place) in tuple.values().zip(&self.order) {
            let value = match value {
                TupleValue::Null => Value::Null,
                TupleValue::Unchanged => Value::Unchanged,
                TupleValue::Text(text) => Value::Text(message.slice_ref(text)),
                TupleValue::Binary(_) => {
                    return Err(ApplyError::Malformed(
                        "a binary value, which nobody asked for",
                    ));
                }
            };
            if let Some(slot) = row.get_mut(*place) {
                *slot = value;
            }
        }
        // The publication's filter promises it; a row in the wrong tenant would be the worst that can happen here.
        match row.get(target.tenant) {
            Some(Value::Text(tenant)) if *tenant == targets.tenant => Ok(row),
            _ => Err(ApplyError::TenantChanged {
                table: target.table.relation(),
            }),
        }
    }

    /// The key in what is known of an old row.
    pub(super) fn old_key(
        &self,
        targets: &Targets,
        message: &Bytes,
        old: OldTuple<'_>,
    ) -> Result<Row, ApplyError> {
        let target = targets.target(self.target);
        let row = self.row(targets, message, old.tuple())?;
        let key = target.key_of(&row);
        if key.is_empty() || key.iter().any(|value| value.parameter().is_none()) {
            return Err(ApplyError::Key {
                table: target.table.relation(),
            });
        }
        Ok(key)
    }
}

impl OwnerColumns {
    fn new(relation: &Relation<'_>) -> Result<Self, ApplyError> {
        let place = |name: &'static str| {
            relation
                .columns
                .iter()
                .position(|column| column.name == name.as_bytes())
                .ok_or(ApplyError::Malformed("an owner table without its columns"))
        };
        Ok(Self {
            state: place("state")?,
            move_id: place("move_id")?,
            nonce: place("nonce")?,
        })
    }

    pub(super) fn row(&self, tuple: Tuple<'_>) -> OwnerRow {
        let text = |place: usize| match tuple.values().nth(place) {
            Some(TupleValue::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        };
        OwnerRow {
            state: text(self.state).unwrap_or_default(),
            move_id: text(self.move_id),
            nonce: text(self.nonce),
        }
    }
}
