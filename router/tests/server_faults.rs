//! Shards fail and clients leave at every moment of a session: what is said, what becomes of the work, and that
//! nothing stays behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use common::probe::{assert_refused, until};
use common::{Setup, setup_with};
use tenantry_router::Config;
use tenantry_schema::shard::ShardAddress;
use tenantry_testkit::{
    Direction, FaultProxy, Fleet, RawClient, commands_of, error_of, rows_of, send_cancel, status_of,
};
use tenantry_wire::backend::TxStatus;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::tag::backend as tag;
use tokio_postgres::Client;

/// Long enough to see a row that is committed and to cut before the answer has passed.
const ANSWER_DELAY: Duration = Duration::from_secs(1);
const SLOW: &str = "SELECT pg_sleep(60)";

/// One shard with two tenants, and the superuser's session with it.
struct Stage {
    setup: Setup,
    admin: Client,
}

impl Stage {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let setup = setup_with(Fleet::builder().shards(1).tenants(2), change).await;
        setup.seed().await;
        let admin = setup.fleet.shard(0).admin().await.unwrap();
        Self { setup, admin }
    }

    /// Reaches the shard through a proxy from here on.
    async fn proxied(change: impl FnOnce(&mut Config)) -> (Self, FaultProxy) {
        let stage = Self::new(change).await;
        let fleet = &stage.setup.fleet;
        let shard = fleet.shard(0);
        let target = SocketAddr::from(([127, 0, 0, 1], shard.shard().address.port));
        let proxy = FaultProxy::start(target).await.unwrap();
        let address = ShardAddress {
            port: proxy.port(),
            ..shard.shard().address.clone()
        };
        fleet
            .catalog()
            .set_shard_address(shard.id(), &address)
            .await
            .unwrap();
        until("the router uses the proxy", async || {
            let mut client = stage.setup.raw_for(0).await;
            client.query("SELECT 1").await.unwrap();
            (proxy.accepted() > 0).then_some(())
        })
        .await;
        (stage, proxy)
    }

    /// Ends every server connection of the router and waits until they are gone.
    async fn terminate(&self) {
        self.admin
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tenantry_app'",
                &[],
            )
            .await
            .unwrap();
        until("the backends are gone", async || {
            (self.backends("true").await == 0).then_some(())
        })
        .await;
    }

    /// Server connections of the router for which a condition on pg_stat_activity holds.
    async fn backends(&self, condition: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tenantry_app' AND {condition}"
        );
        self.admin.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// Waits until a statement of the router runs that begins so.
    async fn running(&self, text: &str) {
        let condition = format!("state = 'active' AND starts_with(query, '{text}')");
        until("the statement runs", async || {
            (self.backends(&condition).await > 0).then_some(())
        })
        .await;
    }

    async fn count(&self, kind: &str) -> i64 {
        let sql = "SELECT count(*) FROM events WHERE kind = $1";
        self.admin.query_one(sql, &[&kind]).await.unwrap().get(0)
    }

    /// Sends what commits one more event of this kind, and cuts the connection to the shard once it
    /// is committed, while the answer is still on its way.
    async fn cut_once_done(
        &self,
        proxy: &FaultProxy,
        client: &mut RawClient,
        kind: &str,
        build: impl FnOnce(&mut BytesMut),
    ) {
        let before = self.count(kind).await;
        proxy.delay(ANSWER_DELAY);
        client.send(build).await.unwrap();
        until("committed", async || {
            (self.count(kind).await == before + 1).then_some(())
        })
        .await;
        proxy.cut();
        proxy.resume().await;
    }

    /// The session serves its tenant, outside a transaction.
    async fn usable(&self, client: &mut RawClient) {
        let messages = client
            .query("SELECT kind FROM events WHERE id = 1")
            .await
            .unwrap();
        let expected = vec![vec![Some(format!("tenant-{}", self.setup.id(0)))]];
        assert_eq!(rows_of(&messages), expected);
        assert_eq!(status_of(&messages), Some(TxStatus::Idle));
    }
}

fn put_extended(out: &mut BytesMut, text: &str) {
    frontend::put_parse(out, "", text, &[]);
    frontend::put_bind(out, "", "", &[], Format::Text);
    frontend::put_execute(out, "", 0);
    frontend::put_sync(out);
}

#[tokio::test]
async fn a_backend_lost_while_idle_is_nobodys_loss() {
    let stage = Stage::new(|_| ()).await;
    let mut client = stage.setup.raw_for(0).await;
    for _ in 0..5 {
        stage.usable(&mut client).await;
        stage.terminate().await;
    }
    stage.usable(&mut client).await;
    drop(client);
    stage.setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_backend_lost_between_statements_of_a_transaction() {
    let stage = Stage::new(|_| ()).await;
    let mut client = stage.setup.raw_for(0).await;
    let begin = "BEGIN; INSERT INTO events (kind, subject) VALUES ('lost', 'x')";
    for extended in [false, true] {
        let next = async |client: &mut RawClient, text: &str| {
            client
                .send(|out| match extended {
                    true => put_extended(out, text),
                    false => frontend::put_query(out, text),
                })
                .await
                .unwrap();
            client.until_ready().await.unwrap()
        };
        assert_eq!(error_of(&client.query(begin).await.unwrap()), None);
        stage.terminate().await;
        let told = next(&mut client, "SELECT 1").await;
        assert_refused(&told, "40001", "BACKEND_LOST");
        assert_eq!(status_of(&told), Some(TxStatus::Failed));
        let again = next(&mut client, "SELECT 1").await;
        assert_refused(&again, "25P02", "TRANSACTION_ABORTED");
        let ended = next(&mut client, "ROLLBACK").await;
        assert_eq!(commands_of(&ended), ["ROLLBACK"]);
        stage.usable(&mut client).await;

        // Drivers do not look at the tag of COMMIT: ROLLBACK would pass for success.
        assert_eq!(error_of(&client.query(begin).await.unwrap()), None);
        stage.terminate().await;
        let told = next(&mut client, "COMMIT").await;
        assert_refused(&told, "40001", "BACKEND_LOST");
        assert_eq!(status_of(&told), Some(TxStatus::Idle));
        stage.usable(&mut client).await;

        // Who gives up anyway need not hear of it, and the next transaction knows nothing of it.
        assert_eq!(error_of(&client.query(begin).await.unwrap()), None);
        stage.terminate().await;
        assert_eq!(error_of(&next(&mut client, "ROLLBACK").await), None);
        let next_one = client.query("BEGIN; SELECT 1 / 0").await.unwrap();
        assert_eq!(error_of(&next_one).unwrap().code, "22012");
        let aborted = next(&mut client, "SELECT 1").await;
        assert_eq!(error_of(&aborted).unwrap().code, "25P02");
        client.query("ROLLBACK").await.unwrap();
        stage.usable(&mut client).await;
    }
    assert_eq!(stage.count("lost").await, 0);
    drop(client);
    stage.setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_backend_lost_in_a_statement() {
    let stage = Stage::new(|_| ()).await;
    let mut client = stage.setup.raw_for(0).await;
    for extended in [false, true] {
        let slow = |out: &mut BytesMut| match extended {
            true => put_extended(out, SLOW),
            false => frontend::put_query(out, SLOW),
        };
        // Alone it may have had its effect.
        client.send(slow).await.unwrap();
        stage.running(SLOW).await;
        stage.terminate().await;
        let told = client.until_ready().await.unwrap();
        assert_refused(&told, "08007", "OUTCOME_UNKNOWN");
        assert_eq!(status_of(&told), Some(TxStatus::Idle));
        stage.usable(&mut client).await;

        // In a transaction it has not.
        client.query("BEGIN; SELECT 1").await.unwrap();
        client.send(slow).await.unwrap();
        stage.running(SLOW).await;
        stage.terminate().await;
        let told = client.until_ready().await.unwrap();
        assert_refused(&told, "40001", "BACKEND_LOST");
        assert_eq!(status_of(&told), Some(TxStatus::Failed));
        assert_eq!(
            commands_of(&client.query("COMMIT").await.unwrap()),
            ["ROLLBACK"]
        );
        stage.usable(&mut client).await;

        // Each statement of a pipeline gets its answer.
        client
            .send(|out| {
                slow(out);
                put_extended(out, "SELECT 1");
                frontend::put_query(out, "SELECT 2");
            })
            .await
            .unwrap();
        stage.running(SLOW).await;
        stage.terminate().await;
        assert_refused(
            &client.until_ready().await.unwrap(),
            "08007",
            "OUTCOME_UNKNOWN",
        );
        for _ in 0..2 {
            let messages = client.until_ready().await.unwrap();
            if error_of(&messages).is_some() {
                assert_refused(&messages, "08007", "OUTCOME_UNKNOWN");
            }
        }
        stage.usable(&mut client).await;
    }
    assert!(stage.setup.metric("servers_lost_total", "").await >= 6.0);
    drop(client);
    stage.setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_backend_lost_in_commit() {
    // One connection, so that no other that was ended as well is taken for a good one.
    let (stage, proxy) = Stage::proxied(|config| config.pool_size = 1).await;
    stage
        .admin
        .batch_execute(
            "CREATE FUNCTION public.slow_commit() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_catalog.pg_sleep(60); RETURN NULL; END $$; \
             GRANT EXECUTE ON FUNCTION public.slow_commit TO PUBLIC; \
             CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW WHEN (NEW.kind = 'slow') EXECUTE FUNCTION public.slow_commit()",
        )
        .await
        .unwrap();
    let mut client = stage.setup.raw_for(0).await;
    let insert = |kind: &str| format!("INSERT INTO events (kind, subject) VALUES ('{kind}', 'x')");
    for extended in [false, true] {
        let commit = |out: &mut BytesMut| match extended {
            true => put_extended(out, "COMMIT"),
            false => frontend::put_query(out, "COMMIT"),
        };
        // Killed before it was done: not committed, and the router cannot know.
        client
            .query(&format!("BEGIN; {}", insert("slow")))
            .await
            .unwrap();
        client.send(commit).await.unwrap();
        stage.running("COMMIT").await;
        stage.terminate().await;
        let told = client.until_ready().await.unwrap();
        assert_refused(&told, "08007", "OUTCOME_UNKNOWN");
        assert_eq!(status_of(&told), Some(TxStatus::Idle));
        stage.usable(&mut client).await;

        // Done, and the answer is lost: committed, and the router cannot know.
        let before = stage.count("done").await;
        client
            .query(&format!("BEGIN; {}", insert("done")))
            .await
            .unwrap();
        stage
            .cut_once_done(&proxy, &mut client, "done", commit)
            .await;
        let told = client.until_ready().await.unwrap();
        assert_refused(&told, "08007", "OUTCOME_UNKNOWN");
        assert_eq!(stage.count("done").await, before + 1);
        stage.usable(&mut client).await;

        // A whole transaction in one Query.
        client
            .query(&format!("BEGIN; {}", insert("more")))
            .await
            .unwrap();
        client
            .send(|out| frontend::put_query(out, format!("{}; COMMIT", insert("slow"))))
            .await
            .unwrap();
        stage.running("INSERT").await;
        stage.terminate().await;
        assert_refused(
            &client.until_ready().await.unwrap(),
            "08007",
            "OUTCOME_UNKNOWN",
        );
        stage.usable(&mut client).await;
    }
    // An INSERT of its own whose answer is lost.
    stage.usable(&mut client).await;
    stage
        .cut_once_done(&proxy, &mut client, "alone", |out| {
            frontend::put_query(out, insert("alone"));
        })
        .await;
    let told = client.until_ready().await.unwrap();
    assert_refused(&told, "08007", "OUTCOME_UNKNOWN");
    assert_eq!(
        (stage.count("alone").await, stage.count("slow").await),
        (1, 0)
    );
    stage.usable(&mut client).await;
    drop(client);
    stage.setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn a_connection_cut_in_a_result_is_told_or_closed() {
    let (stage, proxy) = Stage::proxied(|_| ()).await;
    // Between rows, and inside of one that was still held, the client can be told. Inside of a large one it cannot, and
    // must not take what follows for its rest.
    for (bytes, width) in [(3_000, 100), (30_000, 100), (100_000, 1_000_000)] {
        let mut client = stage.setup.raw_for(0).await;
        stage.usable(&mut client).await;
        proxy.cut_after(Direction::ToClient, bytes);
        let text = format!("SELECT repeat('x', {width}) FROM generate_series(1, 5000)");
        client
            .send(|out| frontend::put_query(out, text))
            .await
            .unwrap();
        let mut messages = Vec::new();
        let told = loop {
            match client.receive().await {
                Ok(message) if message.tag == tag::READY_FOR_QUERY => break true,
                Ok(message) => messages.push(message),
                Err(_) => break false,
            }
        };
        if told {
            assert_refused(&messages, "08007", "OUTCOME_UNKNOWN");
            stage.usable(&mut client).await;
        }
        assert!(told || width > 1000, "closed although between rows");
        drop(client);
        stage.setup.nothing_leaked(0).await;
    }
}

#[tokio::test]
async fn a_shard_that_does_not_answer_is_down_within_the_limit() {
    let (stage, proxy) = Stage::proxied(|config| {
        config.timeouts.server_connect = Duration::from_millis(200);
        config.timeouts.server_retry = Duration::from_millis(10);
    })
    .await;
    let mut client = stage.setup.raw_for(0).await;
    stage.usable(&mut client).await;
    // Also the connection that the session would find idle.
    proxy.cut();
    proxy.wait_open(0).await;
    proxy.half_open();
    assert_refused(
        &client.query("SELECT 1").await.unwrap(),
        "57P03",
        "SHARD_DOWN",
    );
    proxy.resume().await;
    until("the shard is up", async || {
        error_of(&client.query("SELECT 1").await.unwrap())
            .is_none()
            .then_some(())
    })
    .await;
    proxy.refuse().await;
    proxy.reset();
    proxy.wait_open(0).await;
    until("the shard is down", async || {
        error_of(&client.query("SELECT 1").await.unwrap()).filter(|error| error.code == "57P03")
    })
    .await;
    proxy.resume().await;
    until("the shard is up", async || {
        error_of(&client.query("SELECT 1").await.unwrap())
            .is_none()
            .then_some(())
    })
    .await;
    stage.usable(&mut client).await;
    drop(client);
    stage.setup.nothing_leaked(0).await;
}

/// What a client sends before it is gone without a goodbye.
#[tokio::test]
async fn a_client_that_leaves_takes_everything_with_it() {
    let stage = Stage::new(|config| config.pool_size = 2).await;
    let lock = "BEGIN; UPDATE events SET subject = 'left' WHERE id = 1";
    let big = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)";
    let copy = "COPY events (kind, subject) FROM STDIN";
    let goodbye = b"X\0\0\0\x04".as_slice();
    let half = b"Q\0\0\x10\0SELECT ".as_slice();
    let disguised = b"Q\0\0\x10\0SELECT X\0\0\0\x04".as_slice();
    let copied = b"d\0\0\0\x0fcopied\tmore\n".as_slice();
    let half_copied = b"d\0\0\x10\0copied\tmo".as_slice();
    let half_disguised = b"d\0\0\x10\0copied\tmoX\0\0\0\x04".as_slice();
    let query = |text: &str| {
        let mut out = BytesMut::new();
        frontend::put_query(&mut out, text);
        out.to_vec()
    };
    // First a query and the tag of the message to wait for, then bytes.
    let script: Vec<(&str, u8, Vec<u8>)> = vec![
        ("SELECT 1", tag::READY_FOR_QUERY, half.to_vec()),
        (lock, tag::READY_FOR_QUERY, Vec::new()),
        (lock, tag::READY_FOR_QUERY, half.to_vec()),
        (lock, tag::READY_FOR_QUERY, disguised.to_vec()),
        (lock, tag::READY_FOR_QUERY, goodbye.to_vec()),
        (lock, tag::READY_FOR_QUERY, query(SLOW)),
        (
            lock,
            tag::READY_FOR_QUERY,
            [query(SLOW), half.to_vec()].concat(),
        ),
        (
            lock,
            tag::READY_FOR_QUERY,
            [query("COMMIT"), half.to_vec()].concat(),
        ),
        (big, tag::ROW_DESCRIPTION, Vec::new()),
        (big, tag::DATA_ROW, goodbye.to_vec()),
        (big, tag::DATA_ROW, half.to_vec()),
        (copy, tag::COPY_IN, Vec::new()),
        (copy, tag::COPY_IN, copied.to_vec()),
        (copy, tag::COPY_IN, [copied, half_copied].concat()),
        (copy, tag::COPY_IN, [copied, half_disguised].concat()),
        (copy, tag::COPY_IN, [copied, goodbye].concat()),
        ("COPY events TO STDOUT", tag::COPY_OUT, Vec::new()),
        (
            "SELECT 1",
            tag::READY_FOR_QUERY,
            b"P\0\0\0\x10\0SELECT 1\0\0\0D\0\0".to_vec(),
        ),
    ];
    for (text, wanted, bytes) in script {
        let case = format!("{text} and {:?}", String::from_utf8_lossy(&bytes));
        println!("{case}");
        let mut client = stage.setup.raw_for(0).await;
        client
            .send(|out| frontend::put_query(out, text))
            .await
            .unwrap();
        let seen = client.until(wanted).await.unwrap();
        assert_eq!(error_of(&seen), None, "{case}");
        client.send_bytes(&bytes).await.unwrap();
        drop(client);
        stage.setup.nothing_leaked(0).await;
    }
    assert_eq!(stage.count("copied").await, 0);
    let mut client = stage.setup.raw_for(0).await;
    stage.usable(&mut client).await;
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_leaves_no_gap() {
    let stage = Stage::new(|config| config.pool_size = 1).await;
    let mut holder = stage.setup.raw_for(0).await;
    holder.query("BEGIN; SELECT 1").await.unwrap();
    for bytes in [b"".as_slice(), b"Q\0\0\x10\0SELECT X\0\0\0\x04"] {
        let mut waiting = stage.setup.raw_for(1).await;
        waiting
            .send(|out| frontend::put_query(out, SLOW))
            .await
            .unwrap();
        until("it waits", async || {
            (stage.setup.metric("pool_waiting", "").await >= 1.0).then_some(())
        })
        .await;
        waiting.send_bytes(bytes).await.unwrap();
        drop(waiting);
        until("its session is over", async || {
            (stage.setup.metric("clients", "").await == 1.0).then_some(())
        })
        .await;
    }
    holder.query("COMMIT").await.unwrap();
    stage.usable(&mut holder).await;
    drop(holder);
    stage.setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn cancel_reaches_the_statement_it_is_for() {
    let stage = Stage::new(|config| config.pool_size = 1).await;
    let mut client = stage.setup.raw_for(0).await;
    let (pid, key) = client
        .cancel_key()
        .map(|(pid, key)| (pid, key.to_vec()))
        .unwrap();
    // Without a statement it does nothing.
    client.cancel().await.unwrap();
    stage.usable(&mut client).await;
    client
        .send(|out| frontend::put_query(out, SLOW))
        .await
        .unwrap();
    stage.running(SLOW).await;
    let wrong: Vec<u8> = key.iter().map(|byte| !byte).collect();
    for (pid, key) in [
        (pid, wrong.as_slice()),
        (pid, &key[..3]),
        (pid + 1, key.as_slice()),
        (0, key.as_slice()),
        (-1, key.as_slice()),
        (pid, [0; 256].as_slice()),
    ] {
        send_cancel(stage.setup.address, pid, key).await.unwrap();
    }
    assert_eq!(stage.backends("state = 'active'").await, 1);
    send_cancel(stage.setup.address, pid, &key).await.unwrap();
    let cancelled = client.until_ready().await.unwrap();
    assert_eq!(error_of(&cancelled).unwrap().code, "57014");
    stage.usable(&mut client).await;

    // One that waits for a connection is cancelled by the router.
    let mut holder = stage.setup.raw_for(1).await;
    holder.query("BEGIN; SELECT 1").await.unwrap();
    client
        .send(|out| frontend::put_query(out, SLOW))
        .await
        .unwrap();
    until("it waits", async || {
        (stage.setup.metric("pool_waiting", "").await >= 1.0).then_some(())
    })
    .await;
    client.cancel().await.unwrap();
    assert_refused(&client.until_ready().await.unwrap(), "57014", "CANCELED");
    holder.query("COMMIT").await.unwrap();
    stage.usable(&mut client).await;
    drop((client, holder));
    stage.setup.nothing_leaked(0).await;
}

const LATE_CANCELS: usize = 400;

/// A cancel request that comes as its statement ends must not hit the next client on the same connection.
#[tokio::test]
async fn a_late_cancel_hits_nobody_else() {
    let stage = Stage::new(|config| config.pool_size = 1).await;
    let mut victim = stage.setup.raw_for(1).await;
    let runs = tokio::spawn(async move {
        let mut statements = 0_usize;
        loop {
            let messages = victim.query("SELECT count(*) FROM events").await.unwrap();
            assert_eq!(error_of(&messages), None, "after {statements} statements");
            statements += 1;
            if statements >= 3 * LATE_CANCELS {
                return statements;
            }
        }
    });
    let mut client = stage.setup.raw_for(0).await;
    let (pid, key) = client
        .cancel_key()
        .map(|(pid, key)| (pid, key.to_vec()))
        .unwrap();
    let (mut hit, mut late) = (0, 0);
    for round in 0..LATE_CANCELS {
        client
            .send(|out| frontend::put_query(out, "SELECT count(*) FROM events"))
            .await
            .unwrap();
        // Before its answer, or just behind it.
        let mut messages = Vec::new();
        if round % 2 == 0 {
            messages = client.until_ready().await.unwrap();
        }
        send_cancel(stage.setup.address, pid, &key).await.unwrap();
        if round % 2 == 1 {
            messages = client.until_ready().await.unwrap();
        }
        match error_of(&messages) {
            None => late += 1,
            Some(error) => {
                assert_eq!(error.code, "57014");
                hit += 1;
            }
        }
    }
    let statements = runs.await.unwrap();
    println!(
        "{LATE_CANCELS} requests: {hit} hit, {late} came late; {statements} statements of another client"
    );
    assert!(late >= LATE_CANCELS / 4);
    drop(client);
    stage.setup.nothing_leaked(0).await;
}
