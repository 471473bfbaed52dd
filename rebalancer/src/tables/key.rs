//! Ranges of a table's key, within one tenant: how work on a table is cut into pieces that can be named, repeated and
//! compared.
//!
//! A key is written as the text of its columns without the tenant's, in the order of the index. Text, because it is
//! stored beside the rows that were copied and read by the other shard.

use tenantry_wire::sql::quote_literal;

use super::{Column, TenantTable};

/// Values of the inner key, as text.
pub type Key = Vec<String>;

/// The rows behind `after` up to `upto`, both of which may be open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// Rows with this key and smaller ones are not in it.
    pub after: Option<Key>,
    /// The row with this key is the last.
    pub upto: Option<Key>,
}

impl KeyRange {
    /// Every row.
    pub const ALL: Self = Self {
        after: None,
        upto: None,
    };

    /// From behind a key to the end.
    #[must_use]
    pub fn behind(after: Option<Key>) -> Self {
        Self { after, upto: None }
    }
}

impl TenantTable {
    /// The condition that holds for this tenant's rows in a range.
    #[must_use]
    pub fn within(&self, tenant: &str, range: &KeyRange) -> String {
        let mut condition = self.tenant_is(tenant);
        let columns = tuple(self.inner_key().map(Column::sql));
        for (operator, bound) in [(">", &range.after), ("<=", &range.upto)] {
            if let Some(key) = bound {
                let values = self.inner_key().zip(key).map(|(column, value)| {
                    format!("{}::{}", quote_literal(value), column.type_sql)
                });
                condition += &format!(" AND {columns} {operator} {}", tuple(values));
            }
        }
        condition
    }

    /// The key of a row, as an array of texts.
    #[must_use]
    pub fn key_text(&self) -> String {
        let columns: Vec<String> = self
            .inner_key()
            .map(|column| format!("{}::text", column.sql()))
            .collect();
        format!("ARRAY[{}]::text[]", columns.join(", "))
    }

    /// Asks for the key of the `rows`-th row of a range; no row if there are fewer.
    #[must_use]
    pub fn nth_key(&self, tenant: &str, range: &KeyRange, rows: u64) -> String {
        let order: Vec<String> = self.inner_key().map(Column::sql).collect();
        format!(
            "SELECT {} FROM {} WHERE {} ORDER BY {} OFFSET {} LIMIT 1",
            self.key_text(),
            self.relation(),
            self.within(tenant, range),
            order.join(", "),
            rows.saturating_sub(1)
        )
    }

    /// Whether a tenant can have more than one row.
    #[must_use]
    pub fn has_inner_key(&self) -> bool {
        self.inner_key().next().is_some()
    }
}

/// One value stands for itself: the planner estimates that better than a row of one.
fn tuple(values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.collect();
    match values.as_slice() {
        [one] => one.clone(),
        _ => format!("({})", values.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(inner: &[(&str, &str)]) -> TenantTable {
        let column = |name: &str, type_sql: &str| Column {
            name: name.to_owned(),
            type_sql: type_sql.to_owned(),
            type_oid: 0,
            generated: false,
            identity: false,
            binary: true,
        };
        let mut columns = vec![column("tenant_id", "bigint")];
        columns.extend(inner.iter().map(|(name, ty)| column(name, ty)));
        TenantTable {
            oid: 1,
            schema: "public".to_owned(),
            name: "Odd".to_owned(),
            key: (0..columns.len()).collect(),
            columns,
            tenant: 0,
            sequences: Vec::new(),
            partitioned: false,
        }
    }

    #[test]
    fn a_range_is_a_condition_on_the_key() {
        let table = table(&[("id", "bigint"), ("Name", "text")]);
        let key = |id: &str, name: &str| Some(vec![id.to_owned(), name.to_owned()]);
        let range = KeyRange {
            after: key("1", "it's"),
            upto: key("2", "b\\"),
        };
        assert_eq!(
            table.within("7", &range),
            "tenant_id OPERATOR(pg_catalog.=) '7'::bigint AND (id, \"Name\") > ('1'::bigint, 'it''s'::text) \
             AND (id, \"Name\") <= ('2'::bigint, E'b\\\\'::text)"
        );
        assert_eq!(
            table.within("7", &KeyRange::ALL),
            "tenant_id OPERATOR(pg_catalog.=) '7'::bigint"
        );
    }

    #[test]
    fn a_key_of_one_column_is_compared_without_a_row() {
        let one = table(&[("id", "uuid")]);
        let range = KeyRange::behind(Some(vec!["x".to_owned()]));
        assert!(one.within("7", &range).ends_with(" AND id > 'x'::uuid"));
        assert_eq!(
            one.nth_key("7", &KeyRange::ALL, 5),
            "SELECT ARRAY[id::text]::text[] FROM public.\"Odd\" WHERE tenant_id OPERATOR(pg_catalog.=) '7'::bigint \
             ORDER BY id OFFSET 4 LIMIT 1"
        );
        assert!(!table(&[]).has_inner_key());
    }
}
