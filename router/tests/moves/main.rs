//! Tenants that move under their clients' hands: through a router, between real shards.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod control;
mod follow;
mod holds;
mod mover;

use common::{Setup, setup_with};
use tenantry_testkit::Fleet;

/// Two shards, four tenants, a router.
pub async fn fleet() -> Setup {
    setup_with(Fleet::builder().shards(2).tenants(4), |_| ()).await
}
