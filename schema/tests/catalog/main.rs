//! The catalog against real PostgreSQL: its rules, its change log, ring changes, and those who follow it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

mod changes;
mod fixture;
mod follow;
mod limits;
mod moves;
mod rebalance;
mod ring;
mod rules;
mod usage;
