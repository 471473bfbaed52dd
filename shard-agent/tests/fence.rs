//! Fences: a fenced tenant is refused by PostgreSQL itself, at every isolation level, whoever sends the statement.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Fixture, code, stock, text};
use tenantry_schema::guard::{self, TENANT_FENCED};
use tenantry_schema::tenant::{Epoch, TenantKey};
use tokio_postgres::Client;
use tokio_postgres::error::DbError;

const MOVE: &str = "0192f0c1-7b6a-7c3e-8a51-000000000001";
const NONCE: &str = "0192f0c1-7b6a-7c3e-8a51-000000000002";
const PROOF: &str = "0192f0c1-7b6a-7c3e-8a51-000000000003";

async fn start(tenants: &[&str]) -> (Fixture, Client) {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(tenants).await;
    let agent = fixture.agent().await;
    (fixture, agent)
}

fn fence(tenant: &str, epoch: u64, lasts: &str) -> String {
    format!("SELECT tenantry.fence('{tenant}', '{MOVE}', '{NONCE}', '{PROOF}', {epoch}, '{lasts}')")
}

async fn refusal(client: &Client, sql: &str) -> DbError {
    let error = client.batch_execute(sql).await.unwrap_err();
    error.as_db_error().unwrap().clone()
}

fn detail(error: &DbError) -> serde_json::Value {
    serde_json::from_str(error.detail().unwrap()).unwrap()
}

/// Waits until some session waits for an advisory lock.
async fn until_someone_waits(admin: &Client) {
    let waiting = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let wait = async {
        while text(admin, waiting).await != "true" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_fenced_tenant_is_refused_and_the_others_are_not() {
    let (fixture, agent) = start(&["1", "2"]).await;
    let (one, two) = (fixture.tenant("1").await, fixture.tenant("2").await);
    stock(&one, "acme").await;
    agent.batch_execute(&fence("1", 1, "1 min")).await.unwrap();

    for sql in [
        "SELECT FROM products",
        "INSERT INTO stores (name, email) VALUES ('x', 'x')",
        "UPDATE products SET title = 'x'",
        "DELETE FROM products",
        "SELECT tenantry.tenant()",
        "BEGIN READ ONLY; SELECT FROM products",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT FROM products",
    ] {
        let error = refusal(&one, sql).await;
        assert_eq!(error.code().code(), "40001", "{sql}");
        assert_eq!(error.constraint(), Some(TENANT_FENCED), "{sql}");
        let detail = detail(&error);
        assert_eq!(detail["state"], "fenced");
        assert_eq!(detail["epoch"], 2);
        assert_eq!(detail["move"], MOVE);
        one.batch_execute("ROLLBACK").await.unwrap();
    }
    stock(&two, "other").await;

    assert_eq!(
        text(&agent, &format!("SELECT tenantry.unfence('1', '{MOVE}')")).await,
        "3"
    );
    assert_eq!(text(&one, "SELECT count(*) FROM products").await, "1");
}

#[tokio::test]
async fn a_tenant_that_was_never_here_is_absent() {
    let (fixture, _) = start(&[]).await;
    let client = fixture.tenant("99").await;
    let error = refusal(&client, "SELECT FROM products").await;
    assert_eq!(error.code().code(), "40001");
    assert_eq!(detail(&error)["state"], "absent");
}

#[tokio::test]
async fn a_moved_tenant_leaves_its_forwarding_address() {
    let (fixture, agent) = start(&["1"]).await;
    let client = fixture.tenant("1").await;
    agent.batch_execute(&fence("1", 1, "1 min")).await.unwrap();
    let hand_over =
        |epoch| format!("SELECT tenantry.hand_over('1', '{MOVE}', {epoch}, 9::smallint)");
    assert_eq!(text(&agent, &hand_over(1)).await, "false");
    assert_eq!(text(&agent, &hand_over(2)).await, "true");
    assert_eq!(text(&agent, &hand_over(2)).await, "false");
    let detail = detail(&refusal(&client, "SELECT FROM products").await);
    assert_eq!(
        (&detail["state"], &detail["shard"], &detail["epoch"]),
        (&"moved".into(), &9.into(), &2.into())
    );
    // Past the commit point there is nothing to lift.
    assert_eq!(
        text(
            &agent,
            &format!("SELECT coalesce(tenantry.unfence('1', '{MOVE}'), 0)")
        )
        .await,
        "0"
    );
    assert_eq!(
        text(
            &agent,
            &format!("SELECT tenantry.unfence_expired('{MOVE}')")
        )
        .await,
        "false"
    );
}

#[tokio::test]
async fn a_fence_waits_for_what_is_in_flight_and_stops_what_comes_after() {
    let (fixture, agent) = start(&["1"]).await;
    let admin = fixture.admin().await;
    let (first, late) = (fixture.tenant("1").await, fixture.tenant("1").await);
    first
        .batch_execute("BEGIN; INSERT INTO stores (name, email) VALUES ('in flight', 'x')")
        .await
        .unwrap();

    let fencing = tokio::spawn(async move {
        let done = agent.batch_execute(&fence("1", 1, "1 min")).await;
        (agent, done)
    });
    until_someone_waits(&admin).await;
    // Begun before the fence is there, decided after: the owner row counts as of now, not as of the statement.
    let late = tokio::spawn(async move { code(&late, "UPDATE stores SET name = 'late'").await });
    first.batch_execute("COMMIT").await.unwrap();
    let (agent, done) = fencing.await.unwrap();
    done.unwrap();
    assert_eq!(late.await.unwrap(), "40001");
    assert_eq!(
        text(&agent, "SELECT string_agg(name, ',') FROM stores").await,
        "in flight"
    );
}

#[tokio::test]
async fn an_older_snapshot_does_not_get_past_a_fence() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let (fixture, agent) = start(&["1", "2"]).await;
        let (one, two) = (fixture.tenant("1").await, fixture.tenant("2").await);
        stock(&one, "acme").await;
        stock(&two, "other").await;
        for client in [&one, &two] {
            // Takes the snapshot without naming the tenant.
            client
                .batch_execute(&format!(
                    "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"
                ))
                .await
                .unwrap();
        }
        agent.batch_execute(&fence("1", 1, "1 min")).await.unwrap();
        let error = refusal(&one, "UPDATE products SET title = 'late'").await;
        assert_eq!(
            (error.code().code(), error.constraint()),
            ("40001", Some(TENANT_FENCED)),
            "{level}"
        );
        assert_eq!(detail(&error)["state"], "changed");
        // The other tenant's snapshot is as old, and its row unchanged.
        two.batch_execute("UPDATE products SET title = 'fine'; COMMIT")
            .await
            .unwrap();

        // A snapshot taken after a lifted fence is current again: the row is not locked.
        agent
            .batch_execute(&format!("SELECT tenantry.unfence('1', '{MOVE}')"))
            .await
            .unwrap();
        two.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL {level}; SELECT FROM products"
        ))
        .await
        .unwrap();
        assert_eq!(
            text(&two, "SELECT pg_current_xact_id_if_assigned() IS NULL").await,
            "true",
            "a read wrote"
        );
    }
}

#[tokio::test]
async fn a_fence_that_was_rolled_back_costs_nobody_correctness() {
    let (fixture, agent) = start(&["1", "2"]).await;
    let two = fixture.tenant("2").await;
    agent
        .batch_execute(&format!("BEGIN; {}; ROLLBACK", fence("1", 1, "1 min")))
        .await
        .unwrap();
    let in_step =
        "SELECT f.last_value = m.number FROM tenantry.fence_number f, tenantry.fence_mark m";
    assert_eq!(text(&agent, in_step).await, "false");
    let read = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM products; COMMIT";
    two.batch_execute(read).await.unwrap();
    two.batch_execute(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT FROM products; COMMIT",
    )
    .await
    .unwrap();
    agent
        .batch_execute("SELECT tenantry.settle_fences()")
        .await
        .unwrap();
    assert_eq!(text(&agent, in_step).await, "true");
}

#[tokio::test]
async fn an_expired_fence_may_be_lifted_by_anyone_and_no_other() {
    let (fixture, agent) = start(&["1"]).await;
    let client = fixture.tenant("1").await;
    let lift = format!("SELECT tenantry.unfence_expired('{MOVE}')");
    agent.batch_execute(&fence("1", 1, "1 min")).await.unwrap();
    assert_eq!(text(&client, &lift).await, "false");
    agent
        .batch_execute(&format!("SELECT tenantry.unfence('1', '{MOVE}')"))
        .await
        .unwrap();
    agent.batch_execute(&fence("1", 3, "-1 s")).await.unwrap();
    assert_eq!(code(&client, "SELECT FROM products").await, "40001");
    assert_eq!(text(&client, &lift).await, "true");
    assert_eq!(code(&client, "SELECT FROM products").await, "");
    // The late commit of the move that was given up fails: the epoch has grown.
    assert_eq!(
        text(
            &agent,
            &format!("SELECT tenantry.hand_over('1', '{MOVE}', 4, 9::smallint)")
        )
        .await,
        "false"
    );
}

#[tokio::test]
async fn a_fence_needs_the_tenant_active_at_the_expected_epoch() {
    let (_fixture, agent) = start(&["1"]).await;
    assert_eq!(code(&agent, &fence("1", 7, "1 min")).await, "55000");
    assert_eq!(code(&agent, &fence("5", 1, "1 min")).await, "55000");
    assert_eq!(code(&agent, &fence("1", 1, "1 min")).await, "");
    assert_eq!(code(&agent, &fence("1", 2, "1 min")).await, "55000");
}

#[tokio::test]
async fn the_caller_bounds_the_wait_of_a_fence() {
    let (fixture, agent) = start(&["1"]).await;
    let holder = fixture.tenant("1").await;
    holder
        .batch_execute("BEGIN; SELECT FROM products")
        .await
        .unwrap();
    agent
        .batch_execute("SET lock_timeout = '20ms'")
        .await
        .unwrap();
    assert_eq!(code(&agent, &fence("1", 1, "1 min")).await, "55P03");
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(code(&agent, &fence("1", 1, "1 min")).await, "");
}

/// A shard to which tenant 1 moves, expected with [`PROOF`] at epoch 2.
async fn destination() -> (Fixture, Client) {
    let (fixture, agent) = start(&[]).await;
    assert_eq!(text(&agent, &begin_import(MOVE, 1)).await, "absent");
    let hash = guard::proof_hash(PROOF.parse().unwrap(), Epoch(2));
    agent
        .execute(
            "SELECT tenantry.expect_proof('1', $1::text::uuid, $2)",
            &[&MOVE, &hash.as_slice()],
        )
        .await
        .unwrap();
    (fixture, agent)
}

fn begin_import(mover: &str, epoch: u64) -> String {
    format!("SELECT tenantry.begin_import('1', '{mover}', {epoch})")
}

fn by_proof(tenant: &str, mover: &str, proof: &str, epoch: u64) -> String {
    format!("SELECT tenantry.activate_by_proof('{tenant}', '{mover}', '{proof}', {epoch})")
}

const OTHER: &str = "0192f0c1-7b6a-7c3e-8a51-00000000000f";
const EARLIER: &str = "0192f0c0-7b6a-7c3e-8a51-000000000001";

#[tokio::test]
async fn only_the_right_proof_activates_what_arrives() {
    let (fixture, agent) = destination().await;
    let client = fixture.tenant("1").await;
    let refused = detail(&refusal(&client, "SELECT FROM products").await);
    assert_eq!(refused["state"], "importing");
    assert_eq!(refused["proof"], serde_json::Value::Null);

    for (wrong, why) in [
        (by_proof("1", MOVE, OTHER, 2), "another proof"),
        (by_proof("1", MOVE, PROOF, 3), "another epoch"),
        (by_proof("1", OTHER, PROOF, 2), "another move"),
        (by_proof("2", MOVE, PROOF, 2), "another tenant"),
        (
            format!("SELECT tenantry.activate_by_proof('1', '{MOVE}', null, 2)"),
            "no proof",
        ),
    ] {
        assert_eq!(text(&client, &wrong).await, "false", "{why}");
        assert_eq!(
            code(&client, "SELECT FROM products").await,
            "40001",
            "{why}"
        );
    }

    let right = by_proof("1", MOVE, PROOF, 2);
    assert_eq!(text(&client, &right).await, "true");
    assert_eq!(code(&client, "SELECT FROM products").await, "");
    // Once more, by another router or the rebalancer itself, it is true and changes nothing.
    assert_eq!(text(&client, &right).await, "true");
    let activate = format!("SELECT tenantry.activate('1', '{MOVE}', 2)");
    assert_eq!(text(&agent, &activate).await, "true");
    assert_eq!(
        text(&agent, "SELECT state || epoch FROM tenantry.owner").await,
        "active2"
    );
    // Nothing of a move removes a tenant that lives here.
    for function in ["drop_import", "drop_moved"] {
        let drop = format!("SELECT tenantry.{function}('1', '{MOVE}')");
        assert_eq!(text(&agent, &drop).await, "false", "{function}");
    }
}

#[tokio::test]
async fn nobody_without_the_proof_holds_a_tenant_up() {
    let (fixture, _agent) = start(&["1"]).await;
    let client = fixture.tenant("1").await;
    client
        .batch_execute("BEGIN; SELECT FROM products")
        .await
        .unwrap();
    let stranger = fixture.tenant("2").await;
    // It returns although the tenant's lock is taken, and leaves nothing locked behind.
    stranger.batch_execute("BEGIN").await.unwrap();
    assert_eq!(
        text(&stranger, &by_proof("1", MOVE, PROOF, 2)).await,
        "false"
    );
    let agent = fixture.agent().await;
    client.batch_execute("COMMIT").await.unwrap();
    agent
        .batch_execute("SET lock_timeout = '5s'")
        .await
        .unwrap();
    assert_eq!(code(&agent, &fence("1", 1, "1 min")).await, "");
}

#[tokio::test]
async fn the_proof_is_shown_when_the_move_is_committed_and_not_before() {
    let (fixture, agent) = start(&["1"]).await;
    let (client, operator) = (fixture.tenant("1").await, fixture.operator().await);
    let shown = async |state: &str| {
        let detail = detail(&refusal(&client, "SELECT FROM products").await);
        assert_eq!(detail["state"], state);
        detail["proof"].clone()
    };
    agent.batch_execute(&fence("1", 1, "1 min")).await.unwrap();
    assert_eq!(shown("fenced").await, serde_json::Value::Null);
    assert_eq!(
        code(&operator, "SELECT proof FROM tenantry.owner").await,
        "42501"
    );
    assert_eq!(
        code(&operator, "SELECT state FROM tenantry.owner").await,
        ""
    );

    let hand_over = format!("SELECT tenantry.hand_over('1', '{MOVE}', 2, 9::smallint)");
    agent.batch_execute("BEGIN").await.unwrap();
    assert_eq!(text(&agent, &hand_over).await, "true");
    assert_eq!(shown("fenced").await, serde_json::Value::Null);
    let older = fixture.tenant("1").await;
    older
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
        .await
        .unwrap();
    agent.batch_execute("COMMIT").await.unwrap();
    assert_eq!(shown("moved").await, PROOF);

    // A snapshot from before the commit does not show it either.
    let seen = detail(&refusal(&older, "SELECT FROM products").await);
    assert_eq!(
        (&seen["state"], &seen["proof"]),
        (&"fenced".into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn a_proof_of_a_fence_that_was_lifted_is_worthless() {
    let (_fixture, source) = start(&["1"]).await;
    source.batch_execute(&fence("1", 1, "1 min")).await.unwrap();
    source
        .batch_execute(&format!("SELECT tenantry.unfence('1', '{MOVE}')"))
        .await
        .unwrap();
    assert_eq!(
        text(&source, "SELECT proof IS NULL FROM tenantry.owner").await,
        "true"
    );
    // The next attempt has another proof, and so has the destination.
    let (_fixture, destination) = destination().await;
    let hash = guard::proof_hash(OTHER.parse().unwrap(), Epoch(4));
    destination
        .execute(
            "SELECT tenantry.expect_proof('1', $1::text::uuid, $2)",
            &[&MOVE, &hash.as_slice()],
        )
        .await
        .unwrap();
    assert_eq!(
        text(&destination, &by_proof("1", MOVE, PROOF, 2)).await,
        "false"
    );
    assert_eq!(
        text(&destination, &by_proof("1", MOVE, OTHER, 4)).await,
        "true"
    );
}

#[tokio::test]
async fn the_way_back_needs_a_proof_of_its_own() {
    let (fixture, agent) = start(&["1"]).await;
    agent.batch_execute(&fence("1", 1, "1 min")).await.unwrap();
    agent
        .batch_execute(&format!(
            "SELECT tenantry.hand_over('1', '{MOVE}', 2, 9::smallint)"
        ))
        .await
        .unwrap();
    // The proof of the way there, which everyone may know by now, does not bring the tenant back.
    let client = fixture.tenant("1").await;
    for epoch in [2, 3] {
        assert_eq!(
            text(&client, &by_proof("1", MOVE, PROOF, epoch)).await,
            "false"
        );
    }
    let hash = guard::proof_hash(OTHER.parse().unwrap(), Epoch(3));
    agent
        .execute(
            "SELECT tenantry.expect_proof('1', $1::text::uuid, $2)",
            &[&MOVE, &hash.as_slice()],
        )
        .await
        .unwrap();
    // A late order to activate at the epoch of the way there changes nothing.
    let activate = |epoch| format!("SELECT tenantry.activate('1', '{MOVE}', {epoch})");
    assert_eq!(text(&agent, &activate(2)).await, "false");
    assert_eq!(text(&client, &by_proof("1", MOVE, OTHER, 3)).await, "true");
    assert_eq!(code(&client, "SELECT FROM products").await, "");
    assert_eq!(text(&agent, &activate(3)).await, "true");
}

#[tokio::test]
async fn an_import_replaces_remains_and_nothing_else() {
    let (_fixture, agent) = start(&["1"]).await;
    // The tenant lives here.
    assert_eq!(code(&agent, &begin_import(MOVE, 9)).await, "55000");
    agent.batch_execute(&fence("1", 1, "1 min")).await.unwrap();
    assert_eq!(code(&agent, &begin_import(OTHER, 9)).await, "55000");
    agent
        .batch_execute(&format!(
            "SELECT tenantry.hand_over('1', '{MOVE}', 2, 9::smallint)"
        ))
        .await
        .unwrap();
    // It comes back by a later move; one that does not know of its leaving is too late.
    assert_eq!(code(&agent, &begin_import(OTHER, 1)).await, "55000");
    assert_eq!(text(&agent, &begin_import(OTHER, 2)).await, "moved");
    assert_eq!(text(&agent, &begin_import(OTHER, 2)).await, "same");
    agent
        .batch_execute(&format!(
            "INSERT INTO tenantry.move_progress (move_id, direction, tenant_id, applied_lsn) VALUES ('{OTHER}', 'forward', '1', '0/1');
             INSERT INTO tenantry.move_chunk VALUES ('{OTHER}', 'orders', 0, null, 1, 1, '0/1')"
        ))
        .await
        .unwrap();
    // An earlier move does not take its place, a later one does, and what the former remembered is gone.
    assert_eq!(code(&agent, &begin_import(EARLIER, 2)).await, "55000");
    let later = "0192f0c2-7b6a-7c3e-8a51-000000000001";
    assert_eq!(text(&agent, &begin_import(later, 2)).await, "importing");
    let remembered = "SELECT (SELECT count(*) FROM tenantry.move_progress) + (SELECT count(*) FROM tenantry.move_chunk)";
    assert_eq!(text(&agent, remembered).await, "0");
    let drop = format!("SELECT tenantry.drop_import('1', '{later}')");
    assert_eq!(text(&agent, &drop).await, "true");
    assert_eq!(text(&agent, &drop).await, "false");
    assert_eq!(
        text(&agent, "SELECT count(*) FROM tenantry.owner").await,
        "0"
    );
}
