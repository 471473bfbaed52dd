//! Decisions as they read, and what holds for every course of heat.
#![allow(clippy::unwrap_used, clippy::panic)]

mod course;
mod golden;

use std::collections::BTreeSet;

use tenantry_schema::shard::{ShardKind, ShardState};

use super::*;

fn shard_id(number: u16) -> ShardId {
    ShardId::new(number).unwrap()
}

fn tenant_id(number: i64) -> TenantId {
    TenantId::from_bigint(number).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn shard(number: u16, kind: ShardKind, busy: f64, tenants: usize) -> ShardNow {
    ShardNow {
        entry: ShardEntry {
            id: shard_id(number),
            name: format!("s{number}"),
            kind,
            state: ShardState::Active,
            weight: 1,
            zone: None,
        },
        busy,
        tenants,
    }
}

fn hot(number: i64, shard: u16, since: i64, busy: f64) -> HotTenant {
    HotTenant {
        tenant: tenant_id(number),
        slug: format!("store-{number}"),
        shard: shard_id(shard),
        since: at(since),
        share: 0.8,
        busy,
        bytes: Some(500 << 20),
        pin: None,
        moved_at: None,
        obstacle: None,
    }
}

fn isolated(number: i64, shard: u16, cold_since: Option<i64>, busy: f64) -> IsolatedTenant {
    IsolatedTenant {
        tenant: tenant_id(number),
        slug: format!("store-{number}"),
        shard: shard_id(shard),
        is_automatic: true,
        cold_since: cold_since.map(at),
        busy,
        ring: None,
        moved_at: None,
        obstacle: None,
    }
}

fn acting() -> Policy {
    Policy {
        mode: Mode::Act,
        at_once_max: 4,
        share_min: 0.5,
        busy_min: 2.0,
        ..Policy::default()
    }
}
