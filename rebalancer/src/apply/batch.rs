//! Changes of whole transactions, folded into as few statements as possible.
//!
//! Within a batch each row is touched once, by what became of it in the end. Tables are independent of each other:
//! foreign keys are not checked here, they were where the rows come from. Within a table rows are first deleted, then
//! updated, then inserted. A unique index besides the key may object to that order though no state in between was wrong
//! on the source; whoever applies a batch then begins again with a batch in order, which folds nothing.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use super::error::ApplyError;
use super::row::{Op, Row, Value};
use super::sql::Kind;
use super::target::{Target, Targets};

/// Rows that one kind of statement applies to one table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Index of the target.
    pub(super) target: usize,
    pub(super) kind: Kind,
    /// The parameters of each row.
    pub(super) rows: Vec<Row>,
}

/// What became of a row within the batch.
#[derive(Debug)]
enum Net {
    /// It is new.
    Insert(Row),
    /// It was there and has changed.
    Update(Row),
    /// It was there and is gone.
    Delete,
    /// It was there, and another has its key now.
    Replace(Row),
    /// It came and went.
    Nothing,
}

#[derive(Debug, Default)]
struct TableBatch {
    /// In the order of first appearance.
    rows: Vec<(Row, Net)>,
    by_key: HashMap<Row, usize>,
}

/// Changes that are to be applied together.
#[derive(Debug)]
pub(super) struct Batch {
    targets: Arc<Targets>,
    in_order: bool,
    tables: Vec<TableBatch>,
    /// Tables with rows, in the order of first appearance.
    touched: Vec<usize>,
    /// What comes before the folded rows.
    sealed: Vec<Statement>,
    ops: usize,
    bytes: usize,
}

impl Batch {
    /// An empty batch. In order, every change becomes a statement of its own.
    pub(super) fn new(targets: Arc<Targets>, in_order: bool) -> Self {
        let tables = (0..targets.len()).map(|_| TableBatch::default()).collect();
        Self {
            targets,
            in_order,
            tables,
            touched: Vec::new(),
            sealed: Vec::new(),
            ops: 0,
            bytes: 0,
        }
    }

    pub(super) fn ops(&self) -> usize {
        self.ops
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next change of a table.
    ///
    /// # Errors
    /// It contradicts what the batch knows of its row.
    pub(super) fn push(&mut self, index: usize, op: Op) -> Result<(), ApplyError> {
        self.ops += 1;
        self.bytes += op.bytes();
        let targets = Arc::clone(&self.targets);
        let target = targets.target(index);
        match op {
            // Without a key nothing can refer to the row again.
            Op::Insert(new) if target.key.is_empty() || self.in_order => {
                self.sealed.push(Statement {
                    target: index,
                    kind: Kind::Insert,
                    rows: vec![new],
                });
            }
            // Rows that exchange their keys do so in their order.
            Op::Update { old_key, new } if target.rewrites || old_key.is_some() => {
                self.seal();
                let key = old_key.unwrap_or_else(|| target.key_of(&new));
                self.sealed.push(rewrite(index, target, key, &new));
            }
            Op::Update { new, .. } if self.in_order => {
                self.sealed
                    .extend(update(index, target, target.key_of(&new), &new));
            }
            Op::Delete { key } if self.in_order => self.sealed.push(Statement {
                target: index,
                kind: Kind::Delete,
                rows: vec![key],
            }),
            op => self.fold(index, target, op)?,
        }
        Ok(())
    }

    /// Ends the order of single changes.
    pub(super) fn fold_from_now_on(&mut self) {
        self.in_order = false;
    }

    /// The statements of everything since the last time, in the order in which they are to run.
    pub(super) fn take(&mut self) -> Vec<Statement> {
        self.seal();
        self.ops = 0;
        self.bytes = 0;
        mem::take(&mut self.sealed)
    }

    fn fold(&mut self, index: usize, target: &Target, op: Op) -> Result<(), ApplyError> {
        let key = match &op {
            Op::Insert(new) | Op::Update { new, .. } => target.key_of(new),
            Op::Delete { key } => key.clone(),
        };
        let table = &mut self.tables[index];
        if table.rows.is_empty() {
            self.touched.push(index);
        }
        match table.by_key.get(&key) {
            Some(&at) => {
                let net = &mut table.rows[at].1;
                let before = mem::replace(net, Net::Nothing);
                *net = follow(before, op).ok_or_else(|| ApplyError::Contradiction {
                    table: target.table.relation(),
                    key: shown(&key),
                })?;
            }
            None => {
                let net = match op {
                    Op::Insert(new) => Net::Insert(new),
                    Op::Update { new, .. } => Net::Update(new),
                    Op::Delete { .. } => Net::Delete,
                };
                table.by_key.insert(key.clone(), table.rows.len());
                table.rows.push((key, net));
            }
        }
        Ok(())
    }

    /// Turns the folded rows into statements.
    fn seal(&mut self) {
        for index in mem::take(&mut self.touched) {
            let table = mem::take(&mut self.tables[index]);
            let target = self.targets.target(index);
            seal_table(index, target, table, &mut self.sealed);
        }
    }
}

fn seal_table(index: usize, target: &Target, table: TableBatch, out: &mut Vec<Statement>) {
    let mut deleted = Vec::new();
    let mut updated: Vec<Statement> = Vec::new();
    let mut inserted = Vec::new();
    for (key, net) in table.rows {
        match net {
            Net::Nothing => {}
            Net::Delete => deleted.push(key),
            Net::Insert(new) => inserted.push(new),
            Net::Replace(new) => {
                deleted.push(key);
                inserted.push(new);
            }
            Net::Update(new) => {
                let Some(one) = update(index, target, key, &new) else {
                    continue;
                };
                match updated.iter_mut().find(|many| many.kind == one.kind) {
                    Some(many) => many.rows.extend(one.rows),
                    None => updated.push(one),
                }
            }
        }
    }
    let statement = |kind, rows| Statement {
        target: index,
        kind,
        rows,
    };
    if !deleted.is_empty() {
        out.push(statement(Kind::Delete, deleted));
    }
    out.extend(updated);
    if !inserted.is_empty() {
        out.push(statement(Kind::Insert, inserted));
    }
}

/// What a row's fate is after one more change; none if that cannot have happened.
fn follow(before: Net, op: Op) -> Option<Net> {
    Some(match (before, op) {
        (Net::Insert(old), Op::Update { new, .. }) => Net::Insert(merge(old, new)),
        (Net::Insert(_), Op::Delete { .. }) => Net::Nothing,
        (Net::Update(old), Op::Update { new, .. }) => Net::Update(merge(old, new)),
        (Net::Update(_) | Net::Replace(_), Op::Delete { .. }) => Net::Delete,
        (Net::Delete, Op::Insert(new)) => Net::Replace(new),
        (Net::Replace(old), Op::Update { new, .. }) => Net::Replace(merge(old, new)),
        (Net::Nothing, Op::Insert(new)) => Net::Insert(new),
        _ => return None,
    })
}

/// The newer row, with the older one's values where it says that they did not change.
fn merge(old: Row, mut new: Row) -> Row {
    for (value, before) in new.iter_mut().zip(old) {
        if *value == Value::Unchanged {
            *value = before;
        }
    }
    new
}

fn unchanged(row: &[Value]) -> Vec<usize> {
    let unchanged = row
        .iter()
        .enumerate()
        .filter(|(_, value)| **value == Value::Unchanged);
    unchanged.map(|(i, _)| i).collect()
}

/// An UPDATE of one row; none if it sets nothing.
fn update(index: usize, target: &Target, key: Row, new: &[Value]) -> Option<Statement> {
    let kind = Kind::Update {
        unchanged: unchanged(new),
    };
    let given = kind.given(target);
    (!given.is_empty()).then(|| Statement {
        target: index,
        rows: vec![parameters(key, &given, new)],
        kind,
    })
}

fn rewrite(index: usize, target: &Target, key: Row, new: &[Value]) -> Statement {
    let kind = Kind::Rewrite {
        unchanged: unchanged(new),
    };
    let given = kind.given(target);
    Statement {
        target: index,
        rows: vec![parameters(key, &given, new)],
        kind,
    }
}

fn parameters(key: Row, given: &[usize], new: &[Value]) -> Row {
    let given = given.iter().filter_map(|i| new.get(*i)).cloned();
    key.into_iter().chain(given).collect()
}

/// A key for errors.
pub(super) fn shown(key: &[Value]) -> String {
    let text = |value: &Value| match value.parameter() {
        Some(text) => String::from_utf8_lossy(text).into_owned(),
        None => "NULL".to_owned(),
    };
    let values: Vec<String> = key.iter().map(text).collect();
    format!("({})", values.join(", "))
}

#[cfg(test)]
mod tests;
