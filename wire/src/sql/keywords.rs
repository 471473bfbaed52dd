//! Keywords that cannot be names. `pg_get_keywords()`, categories R and T, in PostgreSQL 15 to 18.

/// Keywords that are never names without quotes. Sorted.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

/// Keywords that name functions and types, but not columns, cursors, settings or statements. Sorted.
const TYPE_OR_FUNCTION: &[&str] = &[
    "authorization",
    "binary",
    "collation",
    "concurrently",
    "cross",
    "current_schema",
    "freeze",
    "full",
    "ilike",
    "inner",
    "is",
    "isnull",
    "join",
    "left",
    "like",
    "natural",
    "notnull",
    "outer",
    "overlaps",
    "right",
    "similar",
    "tablesample",
    "verbose",
];

pub(super) fn is_reserved(folded: &str) -> bool {
    RESERVED.binary_search(&folded).is_ok()
}

/// Whether a name without quotes may be this (`ColId` of the grammar).
pub(super) fn may_be_name(folded: &str) -> bool {
    !is_reserved(folded) && TYPE_OR_FUNCTION.binary_search(&folded).is_err()
}

/// A word in lower case, or nothing if it is longer than the longest keyword the caller knows.
pub(super) fn fold<'b, const LIMIT: usize>(word: &[u8], folded: &'b mut [u8; LIMIT]) -> &'b [u8] {
    match folded.get_mut(..word.len()) {
        Some(folded) => {
            folded.copy_from_slice(word);
            folded.make_ascii_lowercase();
            folded
        }
        None => b"",
    }
}
