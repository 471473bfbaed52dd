//! How many bytes the greedy plan moves against the fewest possible, found by trying everything on small fleets.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const SHARDS: u16 = 3;
const TENANTS: u32 = 7;
const SEED: u64 = 20_261_120;

/// The fewest bytes that leave no shard above its share and the tolerance; `None`: it cannot be done.
fn fewest(inventory: &Inventory, limits: &Limits) -> Option<u64> {
    let mut best = None;
    for code in 0..u32::from(SHARDS).pow(TENANTS) {
        let mut after = inventory.clone();
        let (mut rest, mut bytes) = (code, 0);
        for tenant in &mut after.tenants {
            let shard = shard_id(1 + (rest % u32::from(SHARDS)) as u16);
            rest /= u32::from(SHARDS);
            if shard != tenant.shard {
                bytes += tenant.size();
                tenant.shard = shard;
            }
        }
        if best.is_none_or(|best| bytes < best) && is_even(&after, limits) {
            best = Some(bytes);
        }
    }
    best
}

fn is_even(inventory: &Inventory, limits: &Limits) -> bool {
    let ledger = Draft::new(inventory, Goal::Even, limits).ledger;
    ledger
        .receivers()
        .all(|shard| ledger.above(shard).is_none())
}

fn random_fleet(random: &mut impl rand::Rng) -> Inventory {
    let tenants = (1..=i64::from(TENANTS)).map(|number| {
        let bytes = (GIB as f64 * 2_f64.powf(random.random_range(-2.0..2.5))) as u64;
        // Most on one shard, as after shards were added.
        let shard = if random.random_bool(0.6) {
            1
        } else {
            random.random_range(1..=SHARDS)
        };
        tenant(number, shard, bytes, 0.0)
    });
    let tenants = tenants.collect();
    Inventory {
        shards: (1..=SHARDS).map(shared).collect(),
        tenants,
    }
}

#[test]
fn few_more_bytes_move_than_have_to() {
    let limits = Limits {
        tolerance: 0.25,
        ..Limits::default()
    };
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut possible, mut reached, mut planned_bytes, mut fewest_bytes) = (0, 0, 0, 0);
    for _ in 0..60 {
        let inventory = random_fleet(&mut random);
        let Some(fewest) = fewest(&inventory, &limits) else {
            continue;
        };
        possible += 1;
        let plan = plan(&inventory, Goal::Even, &limits);
        if plan.left.is_empty() {
            reached += 1;
            planned_bytes += plan.bytes();
            fewest_bytes += fewest;
        }
    }
    let ratio = planned_bytes as f64 / fewest_bytes as f64;
    let seen = format!(
        "seed {SEED}: {reached} of {possible} fleets evened, {ratio:.2} times the fewest bytes"
    );
    assert!(possible >= 30, "{seen}");
    assert!(f64::from(reached) >= 0.9 * f64::from(possible), "{seen}");
    assert!((1.0..1.1).contains(&ratio), "{seen}");
}
