//! Decisions in situations that were thought up.

use std::fmt::Write as _;

use super::*;

fn shown(policy: &Policy, situation: &Situation) -> String {
    let mut text = String::new();
    for decision in decide(policy, situation) {
        let to = decision
            .act
            .destination()
            .map_or_else(String::new, |to| format!(" to {to}"));
        let (act, rule) = (decision.act.as_str(), decision.rule.as_str());
        writeln!(text, "{act}{to} ({rule}): {}", decision.why).unwrap();
    }
    text
}

/// Three shared shards, the first busy, and two spares.
fn fleet() -> Situation {
    Situation {
        now: at(100),
        shards: vec![
            shard(1, ShardKind::Shared, 12.0, 50),
            shard(2, ShardKind::Shared, 3.0, 50),
            shard(3, ShardKind::Shared, 1.0, 50),
            shard(8, ShardKind::Spare, 0.0, 0),
            shard(9, ShardKind::Spare, 0.0, 0),
        ],
        hot: Vec::new(),
        isolated: Vec::new(),
        under_way: 0,
    }
}

#[test]
fn the_hottest_get_the_spares_and_the_next_the_least_loaded_shard() {
    let mut situation = fleet();
    situation.hot = vec![hot(1, 1, 60, 2.5), hot(2, 1, 90, 5.0), hot(3, 1, 80, 4.0)];
    insta::assert_snapshot!(shown(&acting(), &situation), @r"
    isolate to 8 (spare): store-2 has been hot for 10 s: 5.0 connections busy, 80 % of its shard; the spare s8 becomes its own
    isolate to 9 (spare): store-3 has been hot for 20 s: 4.0 connections busy, 80 % of its shard; the spare s9 becomes its own
    wait (nowhere_better): store-1 has been hot for 40 s: 2.5 connections busy, 80 % of its shard; no spare is left, and on s3, the least loaded shard, no fewer connections of others are busy (1.0, here 0.5)
    ");
    let kept = Policy {
        spares_kept: 2,
        ..acting()
    };
    insta::assert_snapshot!(shown(&kept, &situation), @r"
    relieve to 3 (least_loaded): store-2 has been hot for 10 s: 5.0 connections busy, 80 % of its shard; what is left is kept for operators (2 spares); on s3, the least loaded shard, 1.0 connections of others are busy instead of 7.0
    wait (nowhere_better): store-3 has been hot for 20 s: 4.0 connections busy, 80 % of its shard; what is left is kept for operators (2 spares), and on s2, the least loaded shard, no fewer connections of others are busy (3.0, here 3.0)
    relieve to 2 (least_loaded): store-1 has been hot for 40 s: 2.5 connections busy, 80 % of its shard; what is left is kept for operators (2 spares); on s2, the least loaded shard, 3.0 connections of others are busy instead of 4.5
    ");
    let stay = Policy {
        isolated_max: 1,
        without_spare: WithoutSpare::Stay,
        ..acting()
    };
    insta::assert_snapshot!(shown(&stay, &situation), @r"
    isolate to 8 (spare): store-2 has been hot for 10 s: 5.0 connections busy, 80 % of its shard; the spare s8 becomes its own
    wait (stays): store-3 has been hot for 20 s: 4.0 connections busy, 80 % of its shard; the policy may isolate 1 tenant, and no more, and the policy lets it stay then
    wait (stays): store-1 has been hot for 40 s: 2.5 connections busy, 80 % of its shard; the policy may isolate 1 tenant, and no more, and the policy lets it stay then
    ");
    let one = Policy {
        at_once_max: 1,
        ..acting()
    };
    insta::assert_snapshot!(shown(&one, &situation), @r"
    isolate to 8 (spare): store-2 has been hot for 10 s: 5.0 connections busy, 80 % of its shard; the spare s8 becomes its own
    wait (at_once): store-3 has been hot for 20 s: 4.0 connections busy, 80 % of its shard; the policy may have 1 move under way at a time, and no more
    wait (at_once): store-1 has been hot for 40 s: 2.5 connections busy, 80 % of its shard; the policy may have 1 move under way at a time, and no more
    ");
}

#[test]
fn a_move_that_would_not_help_is_not_made() {
    let mut situation = fleet();
    situation.shards.truncate(2);
    situation.shards[1].busy = 10.0;
    situation.hot = vec![hot(1, 1, 60, 5.0)];
    insta::assert_snapshot!(shown(&acting(), &situation), @"wait (nowhere_better): store-1 has been hot for 40 s: 5.0 connections busy, 80 % of its shard; no spare is left, and on s2, the least loaded shard, no fewer connections of others are busy (10.0, here 7.0)");
    situation.shards.truncate(1);
    insta::assert_snapshot!(shown(&acting(), &situation), @"wait (nowhere_better): store-1 has been hot for 40 s: 5.0 connections busy, 80 % of its shard; no spare is left, and there is no other shared shard");
}

#[test]
fn who_is_left_alone_is_told_why() {
    let mut situation = fleet();
    situation
        .shards
        .push(shard(7, ShardKind::Dedicated, 9.0, 1));
    situation.hot = vec![
        hot(1, 1, 97, 9.0),
        HotTenant {
            share: 0.3,
            ..hot(2, 1, 0, 8.0)
        },
        hot(3, 1, 0, 1.5),
        HotTenant {
            bytes: Some(30 << 30),
            ..hot(4, 1, 0, 7.0)
        },
        HotTenant {
            moved_at: Some(at(50)),
            ..hot(5, 1, 0, 6.0)
        },
        HotTenant {
            pin: Some(PinReason::Manual),
            ..hot(6, 1, 0, 5.0)
        },
        hot(7, 7, 0, 4.0),
        HotTenant {
            obstacle: Some(Obstacle::Moving),
            ..hot(8, 1, 0, 3.0)
        },
    ];
    insta::assert_snapshot!(shown(&acting(), &situation), @r"
    wait (time): store-1 has been hot for 3 s: 9.0 connections busy, 80 % of its shard; not for the 5 s that the policy asks for, 2 s are left
    wait (share): store-2 has been hot for 100 s: 8.0 connections busy, 30 % of its shard; less than the 0.50 of the shard that the policy asks for
    wait (size): store-4 has been hot for 100 s: 7.0 connections busy, 80 % of its shard; it is larger than the 20 GiB that the policy moves
    wait (cool_down): store-5 has been hot for 100 s: 6.0 connections busy, 80 % of its shard; it has moved lately and cools down for 850 s more
    wait (pinned): store-6 has been hot for 100 s: 5.0 connections busy, 80 % of its shard; an operator has pinned it there
    wait (alone): store-7 has been hot for 100 s: 4.0 connections busy, 80 % of its shard; it has its shard to itself
    wait (obstacle): store-8 has been hot for 100 s: 3.0 connections busy, 80 % of its shard; a move of it is under way
    wait (busy): store-3 has been hot for 100 s: 1.5 connections busy, 80 % of its shard; less than the 2.0 connections that the policy asks for
    ");
}

#[test]
fn who_is_cold_returns_in_time() {
    let mut situation = fleet();
    situation.now = at(5000);
    situation.shards[3] = shard(8, ShardKind::Dedicated, 0.1, 1);
    situation.isolated = vec![
        IsolatedTenant {
            ring: Some(shard_id(2)),
            ..isolated(1, 8, Some(1000), 0.1)
        },
        isolated(2, 8, Some(1100), 0.2),
        isolated(3, 8, Some(4000), 0.0),
        isolated(4, 8, Some(0), 0.9),
        isolated(5, 8, None, 3.0),
        IsolatedTenant {
            is_automatic: false,
            ..isolated(6, 8, Some(0), 0.0)
        },
        IsolatedTenant {
            moved_at: Some(at(4500)),
            ..isolated(7, 8, Some(0), 0.0)
        },
    ];
    insta::assert_snapshot!(shown(&acting(), &situation), @r"
    wait (busy): store-4 has been cold for 5000 s and keeps 0.9 connections busy; it returns at 0.5 or less
    wait (cool_down): store-7 has been cold for 5000 s and keeps 0.0 connections busy; it has moved lately and cools down for 400 s more
    return to 2 (cold): store-1 has been cold for 4000 s and keeps 0.1 connections busy; it returns to s2, where the ring wants it
    return to 3 (cold): store-2 has been cold for 3900 s and keeps 0.2 connections busy; it returns to s3, the least loaded shard
    wait (time): store-3 has been cold for 1000 s and keeps 0.0 connections busy; it returns after 3600 s, 2600 s are left
    ");
    let never = Policy {
        returns: false,
        ..acting()
    };
    assert_eq!(decide(&never, &situation), []);
}

#[test]
fn nothing_is_decided_when_off_and_the_same_when_recommending() {
    let mut situation = fleet();
    situation.hot = vec![hot(1, 1, 0, 5.0)];
    let with = |mode| Policy { mode, ..acting() };
    assert_eq!(decide(&with(Mode::Off), &situation), []);
    let recommended = decide(&with(Mode::Recommend), &situation);
    assert_eq!(recommended, decide(&with(Mode::Act), &situation));
    assert_eq!(recommended[0].act, Act::Isolate { to: shard_id(8) });
}

#[test]
fn policies_that_contradict_themselves_are_refused() {
    assert_eq!(Policy::default().check(), Ok(()));
    let wrong = |change: fn(&mut Policy)| {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.check()
    };
    assert_eq!(
        wrong(|policy| policy.busy_back_max = policy.busy_min),
        Err(PolicyError::NoDistance)
    );
    assert_eq!(
        wrong(|policy| policy.share_min = 0.0),
        Err(PolicyError::Share)
    );
    assert_eq!(
        wrong(|policy| policy.share_min = f64::NAN),
        Err(PolicyError::Share)
    );
    assert_eq!(
        wrong(|policy| policy.busy_min = -1.0),
        Err(PolicyError::Busy)
    );
    let unknown = serde_json::from_str::<Policy>(r#"{"busy_minimum": 3}"#);
    assert!(unknown.unwrap_err().to_string().contains("busy_minimum"));
}
