//! Cancel requests: the statement they are for, and nobody else's.

use super::*;

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
