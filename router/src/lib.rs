//! The data plane: PostgreSQL wire proxy, HTTP, pools, metrics.
