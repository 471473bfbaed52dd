//! Plans of small fleets, as they read.

use super::*;

fn even(shards: Vec<ShardEntry>, tenants: Vec<TenantEntry>) -> String {
    let inventory = Inventory { shards, tenants };
    shown(&plan(&inventory, Goal::Even, &Limits::default()))
}

#[test]
fn an_even_fleet_is_left_alone() {
    let shards = vec![shared(1), shared(2)];
    let tenants = vec![
        tenant(1, 1, 10 * GIB, 1.0),
        tenant(2, 2, 10 * GIB + 64 * MIB, 1.2),
    ];
    insta::assert_snapshot!(even(shards, tenants), @r"
    s1: 1 -> 1 tenants, 10 GiB -> 10 GiB, busy 1.0 -> 1.0, bytes 1.00 -> 1.00, load 0.91 -> 0.91
    s2: 1 -> 1 tenants, 10 GiB -> 10 GiB, busy 1.2 -> 1.2, bytes 1.00 -> 1.00, load 1.09 -> 1.09
    ");
}

#[test]
fn bytes_move_to_an_empty_shard_with_as_few_as_do() {
    let shards = vec![shared(1), shared(2), shared(3)];
    let mut tenants: Vec<_> = (1..=6).map(|n| tenant(n, 1, 2 * GIB, 0.1)).collect();
    tenants.extend((7..=12).map(|n| tenant(n, 2, 2 * GIB, 0.1)));
    insta::assert_snapshot!(even(shards, tenants), @r"
    store-1: 1 -> 3: s1 has 1.50 of its share of bytes (12 GiB of 8.0 GiB); without store-1 (2.0 GiB, 0.10 busy) it has 1.25, and s3 goes from 0.00 to 0.25 of its share of bytes
    store-7: 2 -> 3: s2 has 1.50 of its share of bytes (12 GiB of 8.0 GiB); without store-7 (2.0 GiB, 0.10 busy) it has 1.25, and s3 goes from 0.25 to 0.50 of its share of bytes
    store-2: 1 -> 3: s1 has 1.25 of its share of bytes (10 GiB of 8.0 GiB); without store-2 (2.0 GiB, 0.10 busy) it has 1.00, and s3 goes from 0.50 to 0.75 of its share of bytes
    store-8: 2 -> 3: s2 has 1.25 of its share of bytes (10 GiB of 8.0 GiB); without store-8 (2.0 GiB, 0.10 busy) it has 1.00, and s3 goes from 0.75 to 1.00 of its share of bytes
    s1: 6 -> 4 tenants, 12 GiB -> 8.0 GiB, busy 0.6 -> 0.4, bytes 1.50 -> 1.00, load 1.50 -> 1.00
    s2: 6 -> 4 tenants, 12 GiB -> 8.0 GiB, busy 0.6 -> 0.4, bytes 1.50 -> 1.00, load 1.50 -> 1.00
    s3: 0 -> 4 tenants, 0 B -> 8.0 GiB, busy 0.0 -> 0.4, bytes 0.00 -> 1.00, load 0.00 -> 1.00
    ");
}

#[test]
fn load_is_evened_by_the_smallest_tenant_that_brings_it() {
    let shards = vec![shared(1), shared(2)];
    let tenants = vec![
        tenant(1, 1, 8 * GIB, 3.0),
        tenant(2, 1, GIB / 2, 3.0),
        tenant(3, 2, 8 * GIB, 0.5),
        tenant(4, 2, GIB / 2, 0.5),
    ];
    insta::assert_snapshot!(even(shards, tenants), @r"
    store-2: 1 -> 2: s1 has 1.71 of its share of load (6.00 of 3.50 busy connections); without store-2 (512 MiB, 3.00 busy) it has 0.86, and s2 goes from 0.29 to 1.14 of its share of load
    s1: 2 -> 1 tenants, 8.5 GiB -> 8.0 GiB, busy 6.0 -> 3.0, bytes 1.00 -> 0.94, load 1.71 -> 0.86
    s2: 2 -> 3 tenants, 8.5 GiB -> 9.0 GiB, busy 1.0 -> 4.0, bytes 1.00 -> 1.06, load 0.29 -> 1.14
    ");
}

#[test]
fn weights_decide_what_is_even() {
    let shards = vec![
        ShardEntry {
            weight: 3,
            ..shared(1)
        },
        shared(2),
    ];
    let tenants = (1..=8)
        .map(|n| tenant(n, 1 + u16::from(n > 4), 3 * GIB, 0.0))
        .collect();
    insta::assert_snapshot!(even(shards, tenants), @r"
    store-5: 2 -> 1: s2 has 2.00 of its share of bytes (12 GiB of 6.0 GiB); without store-5 (3.0 GiB) it has 1.50, and s1 goes from 0.67 to 0.83 of its share of bytes
    store-6: 2 -> 1: s2 has 1.50 of its share of bytes (9.0 GiB of 6.0 GiB); without store-6 (3.0 GiB) it has 1.00, and s1 goes from 0.83 to 1.00 of its share of bytes
    s1: 4 -> 6 tenants, 12 GiB -> 18 GiB, busy 0.0 -> 0.0, bytes 0.67 -> 1.00, load 0.00 -> 0.00
    s2: 4 -> 2 tenants, 12 GiB -> 6.0 GiB, busy 0.0 -> 0.0, bytes 2.00 -> 1.00, load 0.00 -> 0.00
    ");
}

#[test]
fn what_cannot_be_evened_is_said() {
    let shards = vec![shared(1), shared(2)];
    let giant = vec![
        tenant(1, 1, 40 * GIB, 0.0),
        tenant(2, 1, GIB, 0.0),
        tenant(3, 2, GIB, 0.0),
    ];
    insta::assert_snapshot!(even(shards.clone(), giant), @r"
    store-2: 1 -> 2: s1 has 1.95 of its share of bytes (41 GiB of 21 GiB); without store-2 (1.0 GiB) it has 1.90, and s2 goes from 0.05 to 0.10 of its share of bytes
    left: on 1: s1 stays at 1.90 of its share of bytes (40 GiB of 21 GiB): store-1 alone is 1.90 of it, and would be anywhere; it could be isolated
    s1: 2 -> 1 tenants, 41 GiB -> 40 GiB, busy 0.0 -> 0.0, bytes 1.95 -> 1.90, load 0.00 -> 0.00
    s2: 1 -> 2 tenants, 1.0 GiB -> 2.0 GiB, busy 0.0 -> 0.0, bytes 0.05 -> 0.10, load 0.00 -> 0.00
    ");
    let pinned = (1..=4)
        .map(|n| TenantEntry {
            pin: Some(PinReason::Manual),
            ..tenant(n, 1, 4 * GIB, 0.0)
        })
        .collect();
    insta::assert_snapshot!(even(shards.clone(), pinned), @r"
    left: on 1: s1 stays at 2.00 of its share of bytes (16 GiB of 8.0 GiB): no other tenant could leave it and make the fleet more even
    s1: 4 -> 4 tenants, 16 GiB -> 16 GiB, busy 0.0 -> 0.0, bytes 2.00 -> 2.00, load 0.00 -> 0.00
    s2: 0 -> 0 tenants, 0 B -> 0 B, busy 0.0 -> 0.0, bytes 0.00 -> 0.00, load 0.00 -> 0.00
    ");
    let inventory = Inventory {
        shards,
        tenants: (1..=4).map(|n| tenant(n, 1, 4 * GIB, 0.0)).collect(),
    };
    let limits = Limits {
        bytes_max: 5 * GIB,
        ..Limits::default()
    };
    insta::assert_snapshot!(shown(&plan(&inventory, Goal::Even, &limits)), @r"
    store-1: 1 -> 2: s1 has 2.00 of its share of bytes (16 GiB of 8.0 GiB); without store-1 (4.0 GiB) it has 1.50, and s2 goes from 0.00 to 0.50 of its share of bytes
    left: on 1: s1 stays at 1.50 of its share of bytes (12 GiB of 8.0 GiB): a plan moves at most 5.0 GiB
    s1: 4 -> 3 tenants, 16 GiB -> 12 GiB, busy 0.0 -> 0.0, bytes 2.00 -> 1.50, load 0.00 -> 0.00
    s2: 0 -> 1 tenants, 0 B -> 4.0 GiB, busy 0.0 -> 0.0, bytes 0.00 -> 0.50, load 0.00 -> 0.00
    ");
}

#[test]
fn tenants_stay_in_their_zone_if_they_have_to() {
    let zoned = |number, zone: &str| ShardEntry {
        zone: Some(zone.to_owned()),
        ..shared(number)
    };
    let shards = vec![zoned(1, "a"), zoned(2, "b"), zoned(3, "a")];
    let tenants: Vec<_> = (1..=4).map(|n| tenant(n, 1, 4 * GIB, 0.0)).collect();
    let inventory = Inventory { shards, tenants };
    let limits = Limits {
        zones: ZoneRule::Stay,
        ..Limits::default()
    };
    insta::assert_snapshot!(shown(&plan(&inventory, Goal::Even, &limits)), @r"
    store-1: 1 -> 3: s1 has 2.00 of its share of bytes (16 GiB of 8.0 GiB); without store-1 (4.0 GiB) it has 1.50, and s3 goes from 0.00 to 0.50 of its share of bytes
    store-2: 1 -> 3: s1 has 1.50 of its share of bytes (12 GiB of 8.0 GiB); without store-2 (4.0 GiB) it has 1.00, and s3 goes from 0.50 to 1.00 of its share of bytes
    s1: 4 -> 2 tenants, 16 GiB -> 8.0 GiB, busy 0.0 -> 0.0, bytes 2.00 -> 1.00, load 0.00 -> 0.00
    s2: 0 -> 0 tenants, 0 B -> 0 B, busy 0.0 -> 0.0, bytes 0.00 -> 0.00, load 0.00 -> 0.00
    s3: 0 -> 2 tenants, 0 B -> 8.0 GiB, busy 0.0 -> 0.0, bytes 0.00 -> 1.00, load 0.00 -> 0.00
    ");
    insta::assert_snapshot!(shown(&plan(&inventory, Goal::Even, &Limits::default())), @r"
    store-1: 1 -> 3: s1 has 3.00 of its share of bytes (16 GiB of 5.3 GiB); without store-1 (4.0 GiB) it has 2.25, and s3 goes from 0.00 to 0.75 of its share of bytes
    store-2: 1 -> 2: s1 has 2.25 of its share of bytes (12 GiB of 5.3 GiB); without store-2 (4.0 GiB) it has 1.50, and s2 goes from 0.00 to 0.75 of its share of bytes
    left: on 1: s1 stays at 1.50 of its share of bytes (8.0 GiB of 5.3 GiB): no other tenant could leave it and make the fleet more even
    s1: 4 -> 2 tenants, 16 GiB -> 8.0 GiB, busy 0.0 -> 0.0, bytes 3.00 -> 1.50, load 0.00 -> 0.00
    s2: 0 -> 1 tenants, 0 B -> 4.0 GiB, busy 0.0 -> 0.0, bytes 0.00 -> 0.75, load 0.00 -> 0.00
    s3: 0 -> 1 tenants, 0 B -> 4.0 GiB, busy 0.0 -> 0.0, bytes 0.00 -> 0.75, load 0.00 -> 0.00
    ");
}

#[test]
fn a_ring_change_is_followed_and_its_pins_go() {
    let mut shards = vec![shared(1), shared(2), shared(3)];
    shards[1].state = ShardState::ReadOnly;
    let tenants = vec![
        behind(1, 1, 3, 5 * GIB),
        behind(2, 1, 3, GIB),
        behind(3, 1, 1, GIB),
        behind(4, 1, 2, GIB),
        TenantEntry {
            obstacle: Some(Obstacle::Moving),
            ..behind(5, 1, 3, GIB)
        },
        TenantEntry {
            pin: Some(PinReason::Manual),
            ..behind(6, 1, 3, GIB)
        },
    ];
    let inventory = Inventory { shards, tenants };
    insta::assert_snapshot!(shown(&plan(&inventory, Goal::Pins, &Limits::default())), @r"
    store-2: 1 -> 3: the ring wants store-2 (1.0 GiB) on s3, where a pin on s1 kept it from going; s3 goes from 0.00 to 0.20 of its share of bytes
    store-1: 1 -> 3: the ring wants store-1 (5.0 GiB) on s3, where a pin on s1 kept it from going; s3 goes from 0.20 to 1.20 of its share of bytes
    unpinned: 3
    left: 4 on 1: the ring wants it elsewhere, but s2 is readonly
    s1: 6 -> 4 tenants, 10 GiB -> 4.0 GiB, busy 0.0 -> 0.0, bytes 2.00 -> 0.80, load 0.00 -> 0.00
    s2: 0 -> 0 tenants, 0 B -> 0 B, busy 0.0 -> 0.0
    s3: 0 -> 2 tenants, 0 B -> 6.0 GiB, busy 0.0 -> 0.0, bytes 0.00 -> 1.20, load 0.00 -> 0.00
    ");
    let limits = Limits {
        moves_max: 1,
        ..Limits::default()
    };
    insta::assert_snapshot!(shown(&plan(&inventory, Goal::Pins, &limits)), @r"
    store-2: 1 -> 3: the ring wants store-2 (1.0 GiB) on s3, where a pin on s1 kept it from going; s3 goes from 0.00 to 0.20 of its share of bytes
    unpinned: 3
    left: 4 on 1: the ring wants it elsewhere, but s2 is readonly
    left: 1 on 1: a plan has at most 1 move; 1 tenant in all are behind a pin of the ring's
    s1: 6 -> 5 tenants, 10 GiB -> 9.0 GiB, busy 0.0 -> 0.0, bytes 2.00 -> 1.80, load 0.00 -> 0.00
    s2: 0 -> 0 tenants, 0 B -> 0 B, busy 0.0 -> 0.0
    s3: 0 -> 1 tenants, 0 B -> 1.0 GiB, busy 0.0 -> 0.0, bytes 0.00 -> 0.20, load 0.00 -> 0.00
    ");
}

#[test]
fn balance_follows_the_ring_first_and_then_evens() {
    let shards = vec![shared(1), shared(2), shared(3)];
    let mut tenants: Vec<_> = (1..=4).map(|n| tenant(n, 1, 3 * GIB, 0.0)).collect();
    tenants.extend((5..=8).map(|n| tenant(n, 2, 3 * GIB, 0.0)));
    tenants[0] = behind(1, 1, 3, 3 * GIB);
    let inventory = Inventory { shards, tenants };
    insta::assert_snapshot!(shown(&plan(&inventory, Goal::Balance, &Limits::default())), @r"
    store-1: 1 -> 3: the ring wants store-1 (3.0 GiB) on s3, where a pin on s1 kept it from going; s3 goes from 0.00 to 0.38 of its share of bytes
    store-5: 2 -> 3: s2 has 1.50 of its share of bytes (12 GiB of 8.0 GiB); without store-5 (3.0 GiB) it has 1.12, and s3 goes from 0.38 to 0.75 of its share of bytes
    left: on 1: s1 stays at 1.12 of its share of bytes (9.0 GiB of 8.0 GiB): no other tenant could leave it and make the fleet more even
    left: on 2: s2 stays at 1.12 of its share of bytes (9.0 GiB of 8.0 GiB): no other tenant could leave it and make the fleet more even
    s1: 4 -> 3 tenants, 12 GiB -> 9.0 GiB, busy 0.0 -> 0.0, bytes 1.50 -> 1.12, load 0.00 -> 0.00
    s2: 4 -> 3 tenants, 12 GiB -> 9.0 GiB, busy 0.0 -> 0.0, bytes 1.50 -> 1.12, load 0.00 -> 0.00
    s3: 0 -> 2 tenants, 0 B -> 6.0 GiB, busy 0.0 -> 0.0, bytes 0.00 -> 0.75, load 0.00 -> 0.00
    ");
}

#[test]
fn a_drained_shard_is_emptied_evenly() {
    let mut shards = vec![shared(1), shared(2), shared(3)];
    shards[2].state = ShardState::Draining;
    let mut tenants = vec![
        tenant(1, 1, 4 * GIB, 0.2),
        tenant(2, 2, 6 * GIB, 0.2),
        behind(3, 3, 2, 4 * GIB),
        behind(4, 3, 1, GIB),
        behind(5, 3, 2, GIB),
    ];
    tenants.push(TenantEntry {
        pin: Some(PinReason::Manual),
        bytes: None,
        ..tenant(6, 3, 0, 0.0)
    });
    tenants.push(TenantEntry {
        obstacle: Some(Obstacle::Provisioning),
        ..tenant(7, 3, 0, 0.0)
    });
    let mut inventory = Inventory { shards, tenants };
    let goal = Goal::Drain(shard_id(3));
    insta::assert_snapshot!(shown(&plan(&inventory, goal, &Limits::default())), @r"
    store-3: 3 -> 1: s3 is being emptied; s1 has most room for store-3 (4.0 GiB); s1 goes from 0.80 to 1.14 of its share of bytes
    store-4: 3 -> 2: s3 is being emptied; s2 has most room for store-4 (1.0 GiB); s2 goes from 0.86 to 0.93 of its share of bytes
    store-5: 3 -> 2: s3 is being emptied; the ring wants store-5 (1.0 GiB) on s2; s2 goes from 0.93 to 1.00 of its share of bytes
    store-6: 3 -> 1: s3 is being emptied; s1 has most room for store-6 (not measured yet); s1 goes from 1.00 to 1.00 of its share of bytes
    left: 7 on 3: its shard has not taken it in yet
    s1: 1 -> 3 tenants, 4.0 GiB -> 8.0 GiB, busy 0.2 -> 0.2, bytes 0.80 -> 1.00, load 1.00 -> 1.00
    s2: 1 -> 3 tenants, 6.0 GiB -> 8.0 GiB, busy 0.2 -> 0.2, bytes 1.20 -> 1.00, load 1.00 -> 1.00
    s3: 5 -> 1 tenants, 6.0 GiB -> 0 B, busy 0.0 -> 0.0
    ");
    inventory.shards[2].state = ShardState::Down;
    inventory.tenants.truncate(4);
    insta::assert_snapshot!(shown(&plan(&inventory, goal, &Limits::default())), @r"
    left: 3 on 3: moves write on the shard they start from, and it is down
    left: 4 on 3: moves write on the shard they start from, and it is down
    s1: 1 -> 1 tenants, 4.0 GiB -> 4.0 GiB, busy 0.2 -> 0.2, bytes 0.80 -> 0.80, load 1.00 -> 1.00
    s2: 1 -> 1 tenants, 6.0 GiB -> 6.0 GiB, busy 0.2 -> 0.2, bytes 1.20 -> 1.20, load 1.00 -> 1.00
    s3: 2 -> 2 tenants, 5.0 GiB -> 5.0 GiB, busy 0.0 -> 0.0
    ");
    inventory.shards.truncate(1);
    inventory.shards[0].state = ShardState::Draining;
    let goal = Goal::Drain(shard_id(1));
    insta::assert_snapshot!(shown(&plan(&inventory, goal, &Limits::default())), @r"
    left: 1 on 1: no shard takes it: there is no other active shared shard that may have it
    s1: 1 -> 1 tenants, 4.0 GiB -> 4.0 GiB, busy 0.2 -> 0.2
    ");
}

#[test]
fn moves_wait_for_their_shards_and_let_others_pass() {
    let shards = (1..=4).map(shared).collect();
    let tenants = (1..=12)
        .map(|n| tenant(n, 1 + u16::from(n > 6), GIB, 0.0))
        .collect();
    let plan = plan(
        &Inventory { shards, tenants },
        Goal::Even,
        &Limits::default(),
    );
    let ends = |index: usize| {
        let planned = &plan.moves[index];
        (planned.source.number(), planned.destination.number())
    };
    let next = |live: &[LiveMove], limits: Limits| {
        let chosen = next_moves(plan.moves.iter().map(Waiting::from), live, &limits);
        chosen.into_iter().map(ends).collect::<Vec<_>>()
    };
    let all: Vec<_> = (0..plan.moves.len()).map(ends).collect();
    assert_eq!(all, [(1, 3), (2, 4), (1, 3), (2, 4), (1, 3), (2, 4)]);
    let one = Limits {
        per_shard_max: 1,
        ..Limits::default()
    };
    assert_eq!(next(&[], one), [(1, 3), (2, 4)]);
    let live = |number, arrived| LiveMove {
        tenant: tenant_id(number),
        source: shard_id(2),
        destination: shard_id(1),
        arrived,
    };
    assert_eq!(next(&[live(99, false)], one), []);
    assert_eq!(next(&[live(99, true)], one), [(1, 3), (2, 4)]);
    let two = Limits::default();
    assert_eq!(next(&[], two), [(1, 3), (2, 4), (1, 3), (2, 4)]);
    assert_eq!(next(&[live(99, false)], two), [(1, 3), (2, 4)]);
    let open: Vec<LiveMove> = (94..=99).map(|number| live(number, true)).collect();
    assert_eq!(
        next(&open[..5], two),
        [(1, 3), (2, 4)],
        "one slot is left on each"
    );
    assert_eq!(next(&open, two), [], "no slot is left");
    let own = LiveMove {
        tenant: plan.moves[0].tenant,
        source: shard_id(7),
        destination: shard_id(8),
        arrived: false,
    };
    assert_eq!(
        next(&[own], two),
        [(2, 4), (1, 3), (2, 4)],
        "it moves already"
    );
    let single = Limits {
        at_once_max: 1,
        ..two
    };
    assert_eq!(next(&[], single), [(1, 3)]);
    assert_eq!(next(&[own], single), []);
}
