//! The settings that a console session reports: what drivers look at before anything else.

/// By name as `SHOW` takes it. The version is the router's, as PgBouncer's console has its own.
const PARAMETERS: &[(&str, &str)] = &[
    (
        "server_version",
        concat!(env!("CARGO_PKG_VERSION"), "/tenantry"),
    ),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("application_name", "tenantry"),
    ("is_superuser", "off"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
];

/// Not reported, but asked for.
const ASKED: &[(&str, &str)] = &[
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
    ("search_path", "public"),
];

pub(super) fn reported() -> impl Iterator<Item = (&'static str, &'static str)> {
    PARAMETERS.iter().copied()
}

/// The value of a setting.
pub(super) fn value(name: &str) -> Option<&'static str> {
    let mut all = PARAMETERS.iter().chain(ASKED);
    all.find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| *value)
}
