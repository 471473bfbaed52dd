//! The catalog against real PostgreSQL: its rules, its change log, ring changes, and those who follow it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

mod changes;
mod fixture;
mod ring;
mod rules;
