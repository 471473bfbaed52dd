//! The kill switch: what it refuses, what it lets through, and that no words get around it.

use std::time::Duration;

use tenantry_schema::catalog::SwitchThrow;
use tenantry_schema::limits::KillMode;
use tenantry_testkit::{error_of, rows_of};
use tenantry_wire::frontend::{self, Format};

use crate::common::Setup;
use crate::common::probe::{assert_fields, assert_refused};
use crate::{becomes, fleet, followed, refusal};

async fn throw(setup: &Setup, tenant: Option<usize>, mode: KillMode, lasts: Option<Duration>) {
    let throw = SwitchThrow {
        tenant: tenant.map(|index| setup.tenant(index).id),
        mode,
        reason: Some("payment fraud"),
        lasts,
        cool_down: Some(Duration::ZERO),
        actor: "test",
    };
    setup.fleet.catalog().throw_switch(&throw).await.unwrap();
    followed(setup).await;
}

fn insert(id: u32) -> String {
    format!("INSERT INTO events (id, kind, subject) VALUES ({id}, 'k', 's')")
}

async fn count(setup: &Setup, index: usize) -> String {
    let mut client = setup.raw_for(index).await;
    let messages = client.query("SELECT count(*) FROM events").await.unwrap();
    rows_of(&messages)[0][0].clone().unwrap()
}

#[tokio::test]
async fn refused_is_all_that_begins_and_all_that_runs() {
    let setup = fleet().await;
    let (mut client, mut other) = (setup.raw_for(0).await, setup.raw_for(1).await);
    let (mut running, mut open) = (setup.raw_for(0).await, setup.raw_for(0).await);
    open.query(&format!("BEGIN; {}", insert(1))).await.unwrap();
    running
        .send(|out| frontend::put_query(out, "SELECT pg_sleep(60)"))
        .await
        .unwrap();
    throw(&setup, Some(0), KillMode::Refuse, None).await;

    let messages = client.query("SELECT 1").await.unwrap();
    let error = assert_refused(&messages, "53400", "KILL_SWITCH");
    let detail = error.detail.unwrap();
    assert!(
        detail.starts_with("kill switch of the tenant, since "),
        "{detail}"
    );
    assert!(
        detail.ends_with(", until it is released: payment fraud"),
        "{detail}"
    );
    let cancelled = running.until_ready().await.unwrap();
    assert_refused(&cancelled, "53400", "KILL_SWITCH");
    becomes(&mut open, "SELECT 1", Some("53400")).await;
    open.query("ROLLBACK").await.unwrap();
    assert_eq!(refusal(&mut other, "SELECT 1").await, None);

    throw(&setup, Some(0), KillMode::Off, None).await;
    becomes(&mut client, "SELECT 1", None).await;
    assert_eq!(count(&setup, 0).await, "0");
    setup.nothing_leaked(4).await;
}

#[tokio::test]
async fn the_fleets_switch_holds_for_everybody_until_its_end() {
    let setup = fleet().await;
    let (mut one, mut nobody) = (setup.raw_for(0).await, setup.raw().await);
    let lasts = Some(Duration::from_secs(1));
    throw(&setup, None, KillMode::Refuse, lasts).await;
    let error = refusal(&mut one, "SELECT 1").await.unwrap();
    assert_fields(&error, "53400", "KILL_SWITCH");
    assert!(error.detail.unwrap().contains("kill switch of the fleet"));
    let error = refusal(&mut nobody, "SELECT 1 FROM pg_class")
        .await
        .unwrap();
    assert_fields(&error, "53400", "KILL_SWITCH");
    becomes(&mut one, "SELECT 1", None).await;
    becomes(&mut nobody, "SELECT 1 FROM pg_class", None).await;
}

/// Every way to write that we know of.
#[tokio::test]
async fn nothing_is_written_while_a_tenant_only_reads() {
    let setup = fleet().await;
    let mut client = setup.raw_for(0).await;
    assert_eq!(refusal(&mut client, &insert(1)).await, None);
    throw(
        &setup,
        Some(0),
        KillMode::ReadOnly,
        Some(Duration::from_secs(600)),
    )
    .await;

    let messages = client.query(&insert(2)).await.unwrap();
    let error = assert_refused(&messages, "25006", "TENANT_READ_ONLY");
    assert_eq!(
        error.message,
        "cannot execute INSERT in a read-only transaction"
    );
    let detail = error.detail.unwrap();
    assert!(
        detail.contains(", until 20") && detail.ends_with(": payment fraud"),
        "{detail}"
    );
    let read = client.query("SELECT count(*) FROM events").await.unwrap();
    assert_eq!(rows_of(&read), [[Some("1".to_owned())]]);

    let write = insert(3);
    for attempt in [
        format!("BEGIN READ WRITE; {write}; COMMIT"),
        format!("BEGIN; SET TRANSACTION READ WRITE; {write}; COMMIT"),
        format!("BEGIN; SET transaction_read_only = off; {write}; COMMIT"),
        format!("BEGIN; SELECT set_config('transaction_read_only', 'off', false); {write}; COMMIT"),
        format!("SET transaction_read_only = off; {write}"),
        format!("SET default_transaction_read_only = off; {write}"),
        format!("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; {write}"),
        format!("SELECT set_config('transaction_read_only', 'off', true); {write}"),
        format!("BEGIN; SELECT 1; COMMIT AND CHAIN; SET TRANSACTION READ WRITE; {write}; COMMIT"),
        format!("BEGIN; SELECT 1; ROLLBACK AND CHAIN; SET TRANSACTION READ WRITE; {write}; COMMIT"),
        format!(
            "BEGIN; SAVEPOINT a; SELECT 1; ROLLBACK TO a; SET TRANSACTION READ WRITE; {write}; COMMIT"
        ),
        format!("BEGIN; SAVEPOINT a; SELECT 1; RELEASE a; {write}; COMMIT"),
        format!("SELECT 1; COMMIT; {write}"),
        format!("BEGIN; SELECT 1; COMMIT; SET TRANSACTION READ WRITE; {write}"),
        format!("DO $$BEGIN {write}; END$$"),
        format!("DO $$BEGIN COMMIT; {write}; END$$"),
        format!("DO $$BEGIN SET default_transaction_read_only = off; COMMIT; {write}; END$$"),
        format!("SELECT 1; /* x */ do $$BEGIN COMMIT; {write}; END$$"),
        format!(
            "DO $$BEGIN PERFORM set_config('transaction_read_only', 'off', true); {write}; END$$"
        ),
        format!("WITH w AS ({write} RETURNING 1) SELECT * FROM w"),
        format!("EXPLAIN ANALYZE {write}"),
        format!("PREPARE w AS {write}; EXECUTE w"),
        "SELECT * FROM events FOR UPDATE".to_owned(),
    ] {
        client.query(&attempt).await.unwrap();
        client.query("ROLLBACK").await.unwrap();
        client.query("DISCARD ALL").await.unwrap();
        assert_eq!(count(&setup, 0).await, "1", "{attempt}");
    }
    for statement in [
        "BEGIN",
        "SAVEPOINT a",
        "SELECT 1",
        "RELEASE a",
        &write,
        "COMMIT",
    ] {
        client.query(statement).await.unwrap();
    }
    assert_eq!(count(&setup, 0).await, "1", "behind RELEASE");
    // A procedure of the schema's owner may commit, and so begin a transaction that is not read-only.
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let procedure = format!(
        "CREATE PROCEDURE public.sneak() LANGUAGE plpgsql AS $$BEGIN COMMIT; {}; END$$",
        insert(8)
    );
    admin.batch_execute(&procedure).await.unwrap();
    for call in [
        "CALL public.sneak()",
        "SELECT 1; /* x */ call public.sneak()",
    ] {
        let messages = client.query(call).await.unwrap();
        let error = assert_refused(&messages, "25006", "TENANT_READ_ONLY");
        assert_eq!(
            error.message,
            "cannot execute CALL in a read-only transaction"
        );
        assert_eq!(count(&setup, 0).await, "1", "{call}");
    }
    let copied = client
        .query("COPY events (id, kind, subject) FROM STDIN")
        .await
        .unwrap();
    assert_refused(&copied, "25006", "TENANT_READ_ONLY");
    setup.nothing_leaked(1).await;

    // What was read-only passes to nobody else, and ends when it is released.
    let mut other = setup.raw_for(1).await;
    assert_eq!(refusal(&mut other, &insert(1)).await, None);
    throw(&setup, Some(0), KillMode::Off, None).await;
    becomes(&mut client, &insert(4), None).await;
    assert_eq!(refusal(&mut client, "CALL public.sneak()").await, None);
    assert_eq!(count(&setup, 0).await, "3");
}

#[tokio::test]
async fn a_pipeline_and_what_was_prepared_before_only_read() {
    let setup = fleet().await;
    let mut client = setup.raw_for(0).await;
    let write = "INSERT INTO events (id, kind, subject) VALUES (9, 'k', 's')";
    client
        .send(|out| {
            frontend::put_parse(out, "w", write, &[]);
            let escape = format!("DO $$BEGIN COMMIT; {write}; END$$");
            frontend::put_parse(out, "d", escape, &[]);
            frontend::put_parse(out, "r", "SELECT 1", &[]);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    assert_eq!(error_of(&client.until_ready().await.unwrap()), None);
    throw(&setup, Some(0), KillMode::ReadOnly, None).await;
    client
        .send(|out| {
            for statement in ["r", "w", "d", "r", "w"] {
                frontend::put_bind(out, "", statement, &[], Format::Text);
                frontend::put_execute(out, "", 0);
                frontend::put_sync(out);
            }
        })
        .await
        .unwrap();
    let mut codes = Vec::new();
    for _ in 0..5 {
        let error = error_of(&client.until_ready().await.unwrap());
        codes.push(error.map(|error| error.code));
    }
    let refused = || Some("25006".to_owned());
    assert_eq!(codes, [None, refused(), refused(), None, refused()]);
    assert_eq!(count(&setup, 0).await, "0");
}

/// What a transaction has written before stays its own to commit; from then on it reads.
#[tokio::test]
async fn an_open_transaction_stops_writing() {
    let setup = fleet().await;
    let mut client = setup.raw_for(0).await;
    client
        .query(&format!("BEGIN; {}", insert(1)))
        .await
        .unwrap();
    throw(&setup, Some(0), KillMode::ReadOnly, None).await;
    client.query("SAVEPOINT a").await.unwrap();
    let error = refusal(&mut client, &insert(2)).await.unwrap();
    assert_fields(&error, "25006", "TENANT_READ_ONLY");
    client.query("ROLLBACK TO a").await.unwrap();
    let error = refusal(&mut client, &insert(3)).await.unwrap();
    assert_fields(&error, "25006", "TENANT_READ_ONLY");
    client.query("ROLLBACK TO a").await.unwrap();
    assert_eq!(refusal(&mut client, "COMMIT").await, None);
    assert_eq!(count(&setup, 0).await, "1");
}

/// What a session knew of the switch is looked at anew before a procedure is refused: nothing else runs in between.
#[tokio::test]
async fn procedures_run_as_soon_as_the_switch_is_released() {
    let setup = fleet().await;
    let (mut simple, mut extended) = (setup.raw_for(0).await, setup.raw_for(0).await);
    let admin = setup.fleet.shard(0).admin().await.unwrap();
    let procedure = "CREATE PROCEDURE public.rest() LANGUAGE sql AS 'SELECT 1'";
    admin.batch_execute(procedure).await.unwrap();
    let run = "CALL public.rest()";
    extended
        .send(|out| {
            frontend::put_parse(out, "d", run, &[]);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    assert_eq!(error_of(&extended.until_ready().await.unwrap()), None);
    for mode in [KillMode::ReadOnly, KillMode::Off, KillMode::ReadOnly] {
        throw(&setup, Some(0), mode, None).await;
        let expected = (mode == KillMode::ReadOnly).then_some("25006");
        let error = refusal(&mut simple, run).await;
        let code = error.as_ref().map(|error| error.code.as_str());
        assert_eq!(code, expected, "{mode:?}: {error:?}");
        extended
            .send(|out| {
                frontend::put_bind(out, "", "d", &[], Format::Text);
                frontend::put_execute(out, "", 0);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let error = error_of(&extended.until_ready().await.unwrap());
        let code = error.as_ref().map(|error| error.code.as_str());
        assert_eq!(code, expected, "{mode:?}: {error:?}");
    }
    // In a transaction that the router has only begun itself.
    throw(&setup, Some(0), KillMode::Off, None).await;
    simple.query("BEGIN").await.unwrap();
    assert_eq!(refusal(&mut simple, run).await, None);
    assert_eq!(refusal(&mut simple, "COMMIT").await, None);
    setup.nothing_leaked(2).await;
}
