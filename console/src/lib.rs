//! The operators' HTTP API and dashboards.
