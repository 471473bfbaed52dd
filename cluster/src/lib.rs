//! Starts and stops local PostgreSQL clusters from installed binaries.
