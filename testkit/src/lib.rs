//! Dev-only: real PostgreSQL fixtures, a fault-injecting TCP proxy and a raw protocol client.
