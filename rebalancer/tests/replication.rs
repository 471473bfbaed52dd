//! Slots, publications and streams against real servers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::endpoint;
use tenantry_rebalancer::replication::{
    Frame, LinkError, Lsn, ReplicationStream, SlotKind, SnapshotAction, Walsender, publication,
    slot,
};
use tenantry_rebalancer::shard;
use tenantry_rebalancer::tables;
use tenantry_schema::tenant::TenantId;
use tenantry_testkit::{Fleet, FleetShard};
use tenantry_wire::replication::{Change, Decoder, PgOutput, TupleValue};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

async fn fleet(shards: usize) -> Fleet {
    Fleet::builder()
        .shards(shards)
        .agent(false)
        .start()
        .await
        .unwrap()
}

async fn admit(shard: &FleetShard, tenants: &[i64]) {
    let admin = shard.admin().await.unwrap();
    for tenant in tenants {
        let row = "INSERT INTO tenantry.owner (tenant_id, state, epoch) VALUES ($1, 'active', 1)";
        admin.execute(row, &[tenant]).await.unwrap();
    }
}

/// Reads until a frame's message satisfies `seen`, and fails instead of hanging.
async fn until(stream: &mut ReplicationStream, mut seen: impl FnMut(PgOutput<'_>) -> bool) {
    let mut decoder = Decoder::new();
    let wait = async {
        loop {
            if let Frame::Data(message) = stream.next().await.unwrap()
                && seen(decoder.decode(&message).unwrap())
            {
                return;
            }
        }
    };
    timeout(LIMIT, wait).await.unwrap();
}

fn texts(tuple: tenantry_wire::replication::Tuple<'_>) -> Vec<String> {
    let text = |value: TupleValue<'_>| match value {
        TupleValue::Text(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("{other:?}"),
    };
    tuple.values().map(text).collect()
}

#[tokio::test]
async fn a_stream_has_what_the_snapshot_has_not_and_only_this_tenant() {
    let fleet = fleet(1).await;
    let shard = fleet.shard(0);
    admit(shard, &[1, 2]).await;
    let at = endpoint(shard);
    let agent = shard::connect(&at).await.unwrap();
    let tables = tables::read(&agent, "tenant_id").await.unwrap();
    let store = |client: tokio_postgres::Client, name: &'static str| async move {
        let insert = "INSERT INTO stores (name, email) VALUES ($1, $1)";
        client.execute(insert, &[&name]).await.unwrap();
    };
    let one = || async {
        shard
            .app_as(TenantId::from_bigint(1).unwrap())
            .await
            .unwrap()
    };
    let two = || async {
        shard
            .app_as(TenantId::from_bigint(2).unwrap())
            .await
            .unwrap()
    };
    store(one().await, "before").await;

    publication::create(&agent, "p", &tables.tables, "1")
        .await
        .unwrap();
    publication::create(&agent, "p", &tables.tables, "1")
        .await
        .unwrap();
    let mut walsender = Walsender::connect(&at).await.unwrap();
    let created = walsender
        .create_slot("s", SlotKind::Permanent, SnapshotAction::Export)
        .await
        .unwrap();
    store(two().await, "another tenant's").await;
    store(one().await, "after").await;

    let seen = shard::Snapshot::session(&at, created.snapshot.as_deref().unwrap())
        .await
        .unwrap();
    let names = seen
        .query("SELECT name FROM public.stores", &[])
        .await
        .unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].get::<_, &str>(0), "before");

    let mut stream = walsender
        .start("s", created.consistent_point, "p")
        .await
        .unwrap();
    let mut rows = Vec::new();
    until(&mut stream, |message| match message {
        PgOutput::Change {
            change: Change::Insert { new, .. },
            ..
        } => {
            rows.push(texts(new));
            false
        }
        PgOutput::Commit { commit_lsn, .. } => {
            assert!(commit_lsn >= created.consistent_point);
            !rows.is_empty()
        }
        _ => false,
    })
    .await;
    assert_eq!(rows.len(), 1);
    assert!(rows[0].contains(&"after".to_owned()), "{rows:?}");
}

#[tokio::test]
async fn a_server_that_is_asked_says_how_far_it_is() {
    let fleet = fleet(1).await;
    let at = endpoint(fleet.shard(0));
    let agent = shard::connect(&at).await.unwrap();
    publication::create(&agent, "p", &[], "1").await.unwrap();
    let mut walsender = Walsender::connect(&at).await.unwrap();
    let created = walsender
        .create_slot("s", SlotKind::Temporary, SnapshotAction::Nothing)
        .await
        .unwrap();
    assert_eq!(created.snapshot, None);
    let mut stream = walsender.start("s", Lsn::INVALID, "p").await.unwrap();
    let end = timeout(LIMIT, async {
        loop {
            stream
                .confirm(created.consistent_point, true)
                .await
                .unwrap();
            if let Frame::Keepalive(keepalive) = stream.next().await.unwrap() {
                return keepalive.end;
            }
        }
    })
    .await
    .unwrap();
    assert!(end >= created.consistent_point);
    assert_eq!(stream.received(), end);
}

#[tokio::test]
async fn dropping_by_name_ends_the_stream_and_may_be_repeated() {
    let fleet = fleet(1).await;
    let at = endpoint(fleet.shard(0));
    let agent = shard::connect(&at).await.unwrap();
    publication::create(&agent, "p", &[], "1").await.unwrap();
    let mut walsender = Walsender::connect(&at).await.unwrap();
    let create = walsender.create_slot("moving", SlotKind::Permanent, SnapshotAction::Nothing);
    let created = create.await.unwrap();
    let again = walsender
        .create_slot("moving", SlotKind::Permanent, SnapshotAction::Nothing)
        .await;
    assert_eq!(again.unwrap_err().code(), Some("42710"));
    let mut stream = walsender
        .start("moving", created.consistent_point, "p")
        .await
        .unwrap();

    let found = slot::slots(&agent, "^mov").await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].active && !found[0].lost && !found[0].temporary);
    assert_eq!(found[0].confirmed, Some(created.consistent_point));

    slot::drop(&agent, "moving").await.unwrap();
    slot::drop(&agent, "moving").await.unwrap();
    publication::drop(&agent, "p").await.unwrap();
    publication::drop(&agent, "p").await.unwrap();
    assert!(slot::slots(&agent, "").await.unwrap().is_empty());
    let ended = timeout(LIMIT, async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    })
    .await
    .unwrap();
    assert!(ended.is_transient(), "{ended:?}");
    let gone = Walsender::connect(&at)
        .await
        .unwrap()
        .start("moving", Lsn(1), "p")
        .await;
    assert_eq!(gone.unwrap_err().code(), Some("42704"));
}

#[tokio::test]
async fn making_a_slot_waits_for_writers_and_can_be_given_up() {
    let fleet = fleet(1).await;
    let shard = fleet.shard(0);
    let at = endpoint(shard);
    let agent = shard::connect(&at).await.unwrap();
    let writer = shard.admin().await.unwrap();
    writer
        .batch_execute("BEGIN; CREATE TABLE public.unfinished ()")
        .await
        .unwrap();
    let mut walsender = Walsender::connect(&at).await.unwrap();
    let cancel = walsender.cancel_token();
    let making = tokio::spawn(async move {
        walsender
            .create_slot("s", SlotKind::Permanent, SnapshotAction::Nothing)
            .await
    });
    let waits =
        "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted";
    timeout(LIMIT, async {
        while !agent.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    cancel.cancel().await.unwrap();
    let refused = making.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Some("57014"), "{refused:?}");
    assert!(slot::slots(&agent, "").await.unwrap().is_empty());
    writer.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_refused_without_being_shown() {
    let fleet = fleet(1).await;
    let mut at = endpoint(fleet.shard(0));
    at.password = "not the password".to_owned().into();
    let error = Walsender::connect(&at).await.unwrap_err();
    assert_eq!(error.code(), Some("28P01"));
    assert!(!error.is_transient());
    assert!(!format!("{error:?} {at:?}").contains("not the password"));
    at.address.port = 1;
    let error = Walsender::connect(&at).await.unwrap_err();
    assert!(matches!(error, LinkError::Unreachable { .. }) && error.is_transient());
}
