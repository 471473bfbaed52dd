//! A shard's side is lost: idle, in a transaction, in a statement, in COMMIT, in a result.

use super::*;

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
