//! `tenantry-bench`: load scenarios.
fn main() {}
