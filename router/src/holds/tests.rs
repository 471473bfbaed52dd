//! Holds without sessions.
#![allow(clippy::unwrap_used)]

use tenantry_schema::control::MoveNotice;

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn tenant() -> TenantId {
    TenantId::from_bigint(7).unwrap()
}

fn notice(move_id: u128) -> MoveNotice {
    MoveNotice {
        tenant: tenant(),
        move_id: Uuid::from_u128(move_id),
        source: ShardId::new(1).unwrap(),
        destination: ShardId::new(2).unwrap(),
    }
}

fn met() -> TenantRefusal {
    TenantRefusal {
        state: OwnerState::Fenced,
        epoch: None,
        shard: None,
        move_id: Some(Uuid::from_u128(1)),
        proof: None,
    }
}

#[tokio::test]
async fn a_hold_ends_by_release_or_by_itself() {
    let holds = Holds::default();
    assert!(holds.alert().is_quiet());
    let held = holds.hold(&notice(1), LONG, Instant::now());
    assert!(held.is_held() && held.enter().is_none());
    // Another move's release is not this one's.
    let other = holds.release(tenant(), Uuid::from_u128(2), Instant::now());
    assert_eq!(other, Released::default());
    assert!(held.is_held());

    let release = async { holds.release(tenant(), Uuid::from_u128(1), Instant::now()) };
    let (waits, released) = tokio::join!(held.pass(Instant::now(), LONG), release);
    assert!(waits.is_ok() && !held.is_held());
    assert_eq!(released.held, 1);

    let short = Duration::from_millis(20);
    holds.hold(&notice(1), short, Instant::now());
    assert!(held.pass(Instant::now(), LONG).await.is_ok());
    assert!(!held.is_held() && held.enter().is_some());
}

#[tokio::test]
async fn nobody_waits_longer_than_it_may() {
    let holds = Holds::default();
    let held = holds.hold(&notice(1), LONG, Instant::now());
    let limit = Duration::from_millis(20);
    let waited = held.pass(Instant::now(), limit).await.unwrap_err();
    assert!(waited.0 >= limit);
    assert_eq!(held.inner.lock().waiting, 0);
}

#[tokio::test]
async fn what_is_in_flight_is_waited_for() {
    let holds = Holds::default();
    holds.prepare(&notice(1), LONG, Instant::now());
    let entry = holds.of(tenant()).unwrap();
    let in_flight = entry.enter().unwrap();
    let held = holds.hold(&notice(1), LONG, Instant::now());
    assert_eq!(held.drained(Duration::ZERO).await.in_flight, 1);
    let (answer, ()) = tokio::join!(held.drained(LONG), async { drop(in_flight) });
    assert_eq!(answer.in_flight, 0);
}

#[tokio::test]
async fn a_fence_is_followed_by_one() {
    let holds = Holds::default();
    let shard = ShardId::new(1).unwrap();
    let limit = Duration::from_secs(5);
    assert!(holds.meet_fence(tenant(), shard, &met(), limit, Instant::now()));
    assert!(!holds.meet_fence(tenant(), shard, &met(), limit, Instant::now()));
    let entry = holds.of(tenant()).unwrap();
    assert!(entry.is_held() && entry.is_probed());
    entry.followed(ShardId::new(2).ok());
    assert!(!entry.is_held() && !entry.is_probed());

    // A rebalancer's hold outlasts a tenant that was found where it was.
    assert!(holds.meet_fence(tenant(), shard, &met(), limit, Instant::now()));
    holds.hold(&notice(1), LONG, Instant::now());
    entry.followed(None);
    assert!(entry.is_held());
}

#[tokio::test]
async fn what_is_over_is_forgotten() {
    let holds = Holds::default();
    holds.prepare(&notice(1), Duration::from_secs(10), Instant::now());
    let entry = holds.of(tenant()).unwrap();
    let in_flight = entry.enter();
    let later = Instant::now() + LONG;
    holds.prune(later);
    assert!(holds.of(tenant()).is_some());
    drop(in_flight);
    holds.prune(later);
    assert!(holds.of(tenant()).is_none() && holds.alert().is_quiet());
    assert!(!holds.forget(tenant(), Uuid::from_u128(1)));
}
