//! What holds for every plan of every fleet.

use proptest::prelude::*;

use super::super::ledger::Ledger;
use super::*;

fn any_shard(number: u16) -> impl Strategy<Value = ShardEntry> {
    let kind = prop_oneof![
        8 => Just(ShardKind::Shared),
        1 => Just(ShardKind::Dedicated),
        1 => Just(ShardKind::Spare),
    ];
    let state = prop_oneof![
        8 => Just(ShardState::Active),
        1 => Just(ShardState::Draining),
        1 => Just(ShardState::ReadOnly),
        1 => Just(ShardState::Down),
    ];
    let zone = prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
    (kind, state, 0_u32..4, zone).prop_map(move |(kind, state, weight, zone)| ShardEntry {
        kind,
        state,
        weight,
        zone: zone.map(str::to_owned),
        ..shared(number)
    })
}

fn any_tenant(number: i64, shards: u16) -> impl Strategy<Value = TenantEntry> {
    let bytes = prop_oneof![
        1 => Just(None),
        2 => Just(Some(0)),
        10 => (10_u32..38, 0_u64..1024).prop_map(|(scale, rest)| Some((1 << scale) + (rest << (scale - 10)))),
    ];
    let busy = prop_oneof![3 => Just(0.0), 5 => 0.0..0.5, 1 => 0.5..10.0];
    let pin = proptest::option::of(proptest::sample::select(PinReason::ALL.to_vec()));
    let obstacle = prop_oneof![
        9 => Just(None),
        1 => prop_oneof![Just(Some(Obstacle::Moving)), Just(Some(Obstacle::Closing))],
    ];
    let home = 1..=shards;
    let ring = prop_oneof![4 => Just(None), 3 => (1..=shards).prop_map(Some)];
    (bytes, busy, pin, obstacle, home, ring).prop_map(
        move |(bytes, busy, pin, obstacle, home, ring)| TenantEntry {
            bytes,
            pin,
            obstacle,
            ring: Some(shard_id(ring.unwrap_or(home))),
            ..tenant(number, home, 0, busy)
        },
    )
}

fn any_inventory() -> impl Strategy<Value = Inventory> {
    (1_u16..7, 0_i64..60).prop_flat_map(|(shards, tenants)| {
        let shard_list: Vec<_> = (1..=shards).map(any_shard).collect();
        let tenant_list: Vec<_> = (1..=tenants).map(|n| any_tenant(n, shards)).collect();
        (shard_list, tenant_list).prop_map(|(shards, tenants)| Inventory { shards, tenants })
    })
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let zones = prop_oneof![Just(ZoneRule::Prefer), Just(ZoneRule::Stay)];
    let moves = prop_oneof![2 => Just(500), 1 => 0_usize..10];
    let bytes = prop_oneof![2 => Just(u64::MAX), 1 => 0_u64..(100 << 30)];
    (zones, moves, bytes, 0.02..0.5).prop_map(|(zones, moves_max, bytes_max, tolerance)| Limits {
        moves_max,
        bytes_max,
        tolerance,
        zones,
        ..Limits::default()
    })
}

fn any_goal() -> impl Strategy<Value = Goal> {
    prop_oneof![
        Just(Goal::Balance),
        Just(Goal::Pins),
        Just(Goal::Even),
        (1_u16..7).prop_map(|number| Goal::Drain(shard_id(number))),
    ]
}

fn find(inventory: &Inventory, id: TenantId) -> &TenantEntry {
    inventory
        .tenants
        .iter()
        .find(|tenant| tenant.tenant == id)
        .unwrap()
}

/// The fleet after these moves.
fn moved(inventory: &Inventory, moves: &[PlannedMove]) -> Inventory {
    let mut after = inventory.clone();
    for planned in moves {
        let tenant = after
            .tenants
            .iter_mut()
            .find(|tenant| tenant.tenant == planned.tenant);
        tenant.unwrap().shard = planned.destination;
    }
    after
}

/// How uneven a fleet is, and how full its fullest shard is.
fn unevenness(inventory: &Inventory, limits: &Limits) -> (f64, f64) {
    let draft = Draft::new(inventory, Goal::Even, limits);
    let ledger: &Ledger<'_> = &draft.ledger;
    let highest = ledger
        .receivers()
        .filter_map(|shard| Some(ledger.fill(shard)?.highest().1));
    (ledger.imbalance(), highest.fold(0.0, f64::max))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_move_is_allowed(inventory in any_inventory(), goal in any_goal(), limits in any_limits()) {
        let plan = plan(&inventory, goal, &limits);
        let shards: BTreeMap<_, _> = inventory.shards.iter().map(|shard| (shard.id, shard)).collect();
        let mut seen = BTreeSet::new();
        for planned in &plan.moves {
            let tenant = find(&inventory, planned.tenant);
            let destination = shards[&planned.destination];
            prop_assert!(seen.insert(planned.tenant), "{} moves twice", planned.slug);
            prop_assert_eq!(planned.source, tenant.shard);
            prop_assert_ne!(planned.source, planned.destination);
            prop_assert!(destination.takes_tenants(), "{:?}", destination);
            prop_assert!(shards[&planned.source].gives_tenants());
            prop_assert_eq!(tenant.obstacle, None);
            if let Goal::Drain(drained) = goal {
                prop_assert_eq!(planned.source, drained);
            } else {
                prop_assert!(tenant.pin.is_none_or(|pin| pin == PinReason::Ring || pin == PinReason::Move));
            }
            if limits.zones == ZoneRule::Stay {
                prop_assert_eq!(&shards[&planned.source].zone, &destination.zone);
            }
            prop_assert!(planned.why.contains(&planned.slug), "{}", planned.why);
        }
        prop_assert!(plan.moves.len() <= limits.moves_max);
        prop_assert!(plan.bytes() <= limits.bytes_max);
        for tenant in &plan.unpins {
            let tenant = find(&inventory, *tenant);
            prop_assert_eq!(tenant.ring, Some(tenant.shard));
            prop_assert!(!seen.contains(&tenant.tenant));
        }
    }

    #[test]
    fn a_plan_does_not_depend_on_order(
        (inventory, shuffled) in any_inventory().prop_flat_map(|inventory| {
            let shards = Just(inventory.shards.clone()).prop_shuffle();
            let tenants = Just(inventory.tenants.clone()).prop_shuffle();
            let shuffled = (shards, tenants).prop_map(|(shards, tenants)| Inventory { shards, tenants });
            (Just(inventory), shuffled)
        }),
        goal in any_goal(),
        limits in any_limits(),
    ) {
        prop_assert_eq!(plan(&inventory, goal, &limits), plan(&shuffled, goal, &limits));
    }

    #[test]
    fn evening_helps_and_no_move_can_be_left_out(inventory in any_inventory(), limits in any_limits()) {
        let plan = plan(&inventory, Goal::Even, &limits);
        let (before, fullest_before) = unevenness(&inventory, &limits);
        let (after, fullest_after) = unevenness(&moved(&inventory, &plan.moves), &limits);
        prop_assert!(after <= before + 1e-6, "{} to {}", before, after);
        prop_assert!(fullest_after <= fullest_before + 1e-6, "{} to {}", fullest_before, fullest_after);
        for index in 0..plan.moves.len() {
            let mut without = plan.moves.clone();
            without.remove(index);
            let (worse, _) = unevenness(&moved(&inventory, &without), &limits);
            prop_assert!(worse > after, "{} is not needed", plan.moves[index].slug);
        }
    }

    #[test]
    fn what_was_evened_needs_no_other_plan(inventory in any_inventory(), limits in any_limits()) {
        let first = plan(&inventory, Goal::Even, &limits);
        if first.left.is_empty() {
            let second = plan(&moved(&inventory, &first.moves), Goal::Even, &limits);
            prop_assert_eq!(second.moves, []);
        }
    }

    #[test]
    fn a_drain_accounts_for_everybody(inventory in any_inventory(), number in 1_u16..7) {
        let shard = shard_id(number);
        let plan = plan(&inventory, Goal::Drain(shard), &Limits::default());
        let on_it = inventory.tenants.iter().filter(|tenant| tenant.shard == shard);
        for tenant in on_it {
            let moves = plan.moves.iter().any(|planned| planned.tenant == tenant.tenant);
            let left = plan.left.iter().any(|left| left.tenant == Some(tenant.tenant));
            prop_assert!(moves != left, "{} is forgotten, or moves and is left", tenant.slug);
        }
    }

    #[test]
    fn forecasts_add_up(inventory in any_inventory(), goal in any_goal(), limits in any_limits()) {
        let plan = plan(&inventory, goal, &limits);
        let after = moved(&inventory, &plan.moves);
        for forecast in &plan.shards {
            let on = |inventory: &Inventory| {
                let here: Vec<_> = inventory.tenants.iter().filter(|tenant| tenant.shard == forecast.shard).collect();
                (here.len(), here.iter().map(|tenant| tenant.size()).sum::<u64>())
            };
            prop_assert_eq!((forecast.tenants.0, forecast.bytes.0), on(&inventory));
            prop_assert_eq!((forecast.tenants.1, forecast.bytes.1), on(&after));
        }
    }

    #[test]
    fn what_starts_is_within_the_limits(
        inventory in any_inventory(),
        per_shard_max in 1_usize..4,
        at_once_max in 0_usize..6,
        ends in proptest::collection::vec((1_u16..7, 1_u16..7), 0..4),
    ) {
        let limits = Limits { per_shard_max, at_once_max, ..Limits::default() };
        let plan = plan(&inventory, Goal::Balance, &limits);
        let live: Vec<LiveMove> = ends.iter().enumerate().map(|(index, (source, destination))| LiveMove {
            tenant: tenant_id(1000 + index as i64),
            source: shard_id(*source),
            destination: shard_id(*destination),
            arrived: false,
        }).collect();
        let mut at: BTreeMap<ShardId, usize> = BTreeMap::new();
        for live in &live {
            *at.entry(live.source).or_default() += 1;
            *at.entry(live.destination).or_default() += 1;
        }
        let chosen = next_moves(plan.moves.iter().map(Waiting::from), &live, &limits);
        prop_assert!(chosen.is_empty() || chosen.len() + live.len() <= at_once_max);
        prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        for index in chosen {
            for shard in [plan.moves[index].source, plan.moves[index].destination] {
                *at.entry(shard).or_default() += 1;
                prop_assert!(at[&shard] <= per_shard_max);
            }
        }
    }
}
