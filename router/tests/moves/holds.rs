//! A tenant is held, moves, and is released: its clients wait and notice nothing else.

use std::time::Duration;

use tenantry_testkit::{RawClient, error_of, rows_of};

use super::clients::{ALL, Crowd, Way, Writer};
use super::common::probe::{metric, until};
use super::common::{Setup, setup_with};
use super::fleet;
use super::mover::Mover;

/// What SHOW says of the session's own place.
pub async fn place(client: &mut RawClient) -> (String, String) {
    let mut shown = Vec::new();
    for name in ["shard", "epoch"] {
        let answer = client
            .query(&format!("SHOW tenantry.{name}"))
            .await
            .unwrap();
        shown.push(rows_of(&answer)[0][0].clone().unwrap());
    }
    (shown[0].clone(), shown[1].clone())
}

pub fn shard_name(setup: &Setup, id: tenantry_schema::shard::ShardId) -> String {
    let mut shards = setup.fleet.shards().iter();
    let shard = shards.find(|shard| shard.id() == id).unwrap();
    shard.name().to_string()
}

#[tokio::test]
async fn held_clients_of_every_protocol_see_no_error() {
    let setup = fleet().await;
    let mut mover = Mover::of(&setup, 0).await;
    let crowd = Crowd::start(&setup, 0, ALL).await;
    let others = Crowd::start(&setup, 1, &[Way::Simple]).await;
    crowd.more(3).await;
    let prepared = mover.prepare(setup.http).await;
    assert!(
        prepared.warmed > 0 && prepared.problem.is_none(),
        "{prepared:?}"
    );
    crowd.more(3).await;

    let held = mover.hold(setup.http, 20_000).await;
    assert_eq!(held.in_flight, 0);
    others.more(3).await;
    mover.fence("1 min").await;
    mover.copy_rows().await;
    let before = mover.subjects(mover.source).await;
    mover.hand_over().await;
    mover.activate().await;
    let released = mover.release(setup.http, mover.destination).await;
    assert!(released.held > 0 && released.longest_us > 0, "{released:?}");
    crowd.more(5).await;

    let ledger = crowd.stop().await;
    others.stop().await;
    assert_eq!(mover.subjects(mover.destination).await, ledger);
    assert_eq!(mover.subjects(mover.source).await, before);
    let body = setup.metrics().await;
    assert!(metric(&body, "tenant_hold_wait_seconds_count", "") > 0.0);
    assert_eq!(metric(&body, "fence_follows_total", ""), 0.0, "{body}");

    // The catalog has nothing new to say.
    let mut client = setup.raw_for(0).await;
    let home = (shard_name(&setup, mover.destination), "2".to_owned());
    assert_eq!(place(&mut client).await, home);
    record(&setup, &mover).await;
    assert_eq!(place(&mut client).await, home);
    assert!(mover.forget(setup.http).await);
    assert!(!mover.forget(setup.http).await);
    let mut writer = Writer::start(&setup, 0, Way::Simple, "later".to_owned()).await;
    writer.write().await;
    assert_eq!(mover.subjects(mover.source).await, before);
}

/// The catalog learns of the move, and the router of that.
async fn record(setup: &Setup, mover: &Mover) {
    let session = setup.fleet.catalog_session().await.unwrap();
    let text = format!(
        "BEGIN; UPDATE tenantry.tenant SET epoch = {} WHERE id = {};
         INSERT INTO tenantry.pin (tenant, shard, reason) VALUES ({1}, {2}, 'move')
         ON CONFLICT (tenant) DO UPDATE SET shard = excluded.shard; COMMIT",
        mover.epoch,
        mover.id,
        mover.destination.number()
    );
    session.batch_execute(&text).await.unwrap();
    let sequence = setup.fleet.catalog().load_fleet().await.unwrap().sequence;
    let mut follow = setup.router.as_ref().unwrap().follow.clone();
    let wanted = follow.wait_for(|status| status.sequence >= Some(sequence));
    tokio::time::timeout(Duration::from_secs(20), wanted)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_hold_waits_for_the_open_transaction_and_ends_by_itself() {
    let setup = fleet().await;
    let mover = Mover::of(&setup, 0).await;
    mover.prepare(setup.http).await;
    let mut open = setup.raw_for(0).await;
    open.query("BEGIN; INSERT INTO events (kind, subject) VALUES ('moves', 'open')")
        .await
        .unwrap();
    let holding = mover.hold(setup.http, 300);
    let committing = async {
        until("the transaction is waited for", async || {
            let mut console = console(&setup).await;
            let moves = rows_of(&console.query("SHOW MOVES").await.unwrap());
            let phase = moves.first()?.get(3)?.clone()?;
            (phase == "held" && moves[0][6].as_deref() == Some("1")).then_some(())
        })
        .await;
        error_of(&open.query("COMMIT").await.unwrap())
    };
    let (held, error) = tokio::join!(holding, committing);
    assert_eq!((held.in_flight, error), (0, None));

    // Nobody releases it.
    let mut client = setup.raw_for(0).await;
    let answer = client.query("SELECT count(*) FROM events").await.unwrap();
    assert_eq!(rows_of(&answer), [[Some("1".to_owned())]]);
    assert_eq!(mover.owner(mover.source).await, ("active".to_owned(), 1));
}

async fn console(setup: &Setup) -> RawClient {
    let login = tenantry_testkit::Login::new("ops", super::common::PASSWORD, "tenantry");
    RawClient::login(setup.address, &login).await.unwrap()
}

#[tokio::test]
async fn who_waits_longer_than_it_may_is_told_that_nothing_was_run() {
    let fleet = tenantry_testkit::Fleet::builder().shards(2).tenants(2);
    let setup = setup_with(fleet, |config| {
        config.timeouts.query_wait = Duration::from_millis(300);
    })
    .await;
    let mover = Mover::of(&setup, 0).await;
    mover.hold(setup.http, 30_000).await;
    let mut client = setup.raw_for(0).await;
    let answer = client
        .query("INSERT INTO events (kind, subject) VALUES ('moves', 'never')")
        .await;
    super::common::probe::assert_refused(&answer.unwrap(), "40001", "TENANT_HELD");
    let mut other = setup.raw_for(1).await;
    assert_eq!(
        error_of(&other.query("SELECT FROM events").await.unwrap()),
        None
    );
    mover.release(setup.http, mover.source).await;
    assert_eq!(
        error_of(&client.query("SELECT FROM events").await.unwrap()),
        None
    );
    assert!(mover.subjects(mover.source).await.is_empty());
}

/// A session that listens cannot follow its tenant; one of pool mode `session`, or a pinned one, is told in order.
#[tokio::test]
async fn a_session_that_cannot_follow_is_ended_with_a_reason() {
    let setup = fleet().await;
    let mut mover = Mover::of(&setup, 0).await;
    let mut listens = setup.raw_for(0).await;
    listens.query("LISTEN news").await.unwrap();
    mover.prepare(setup.http).await;
    // It works on while the move is prepared.
    assert_eq!(
        error_of(&listens.query("SELECT count(*) FROM events").await.unwrap()),
        None
    );
    mover.hold(setup.http, 20_000).await;
    mover.fence("1 min").await;
    mover.hand_over().await;
    mover.activate().await;
    mover.release(setup.http, mover.destination).await;
    let last = listens.until_closed().await.unwrap();
    let error = error_of(&last).unwrap();
    assert_eq!(
        (error.code.as_str(), error.routine.as_deref()),
        ("57P01", Some("TENANT_MOVED"))
    );
}

/// An attempt that took too long is given up, and the next one succeeds; nobody is told of either.
#[tokio::test]
async fn an_attempt_that_is_given_up_costs_a_wait() {
    let setup = fleet().await;
    let mut mover = Mover::of(&setup, 0).await;
    let crowd = Crowd::start(&setup, 0, ALL).await;
    mover.prepare(setup.http).await;
    for _ in 0..3 {
        crowd.more(1).await;
        mover.hold(setup.http, 20_000).await;
        mover.fence("1 min").await;
        mover.unfence().await;
        mover.release(setup.http, mover.source).await;
        // Those that waited write at home, before and after they are asked to wait again.
        crowd.more(1).await;
        mover.prepare(setup.http).await;
    }
    let ledger = crowd.stop().await;
    assert_eq!(mover.subjects(mover.source).await, ledger);
    assert!(mover.subjects(mover.destination).await.is_empty());
}
