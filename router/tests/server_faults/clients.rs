//! Clients that leave without a goodbye, at work and while they wait.

use super::*;

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
