//! Changes of one shard arrive on the other exactly once, whatever their shape and whatever breaks on the way.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod streaming;

use common::text;
use streaming::{LIMIT, MOVE, Moving, NONCE, PROOF};
use tenantry_rebalancer::apply::{ApplierConfig, ApplyError, ApplyPhase, Direction, HaltError};
use tokio::time::timeout;

const SHAPES: &str = "
CREATE TABLE plain (tenant_id bigint, id bigint, note text, amount numeric(12,2), PRIMARY KEY (tenant_id, id));
CREATE TABLE wide (tenant_id bigint, id bigint, big text, other text, n int, PRIMARY KEY (tenant_id, id));
ALTER TABLE wide ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;
CREATE TABLE made (
    tenant_id bigint, id bigint GENERATED ALWAYS AS IDENTITY, net int, gross int GENERATED ALWAYS AS (net * 2) STORED,
    serial bigint GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (tenant_id, id));
CREATE TABLE keys (tenant_id bigint, a text, b uuid, c date, n int, PRIMARY KEY (c, tenant_id, b, a));
CREATE TABLE only_key (tenant_id bigint, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE full_row (tenant_id bigint, id int, n int, PRIMARY KEY (tenant_id, id));
ALTER TABLE full_row REPLICA IDENTITY FULL;
CREATE TABLE places (tenant_id bigint, id int, place int, PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, place));
CREATE TABLE deferred (
    tenant_id bigint, id int, place int, PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, place) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE parts (tenant_id bigint, id int, n int, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (200);
CREATE TABLE \"Tree of \"\"Life\"\"\" (
    tenant_id bigint, \"Id\" int, \"select\" int, PRIMARY KEY (tenant_id, \"Id\"),
    FOREIGN KEY (tenant_id, \"select\") REFERENCES \"Tree of \"\"Life\"\"\" DEFERRABLE INITIALLY DEFERRED);
";

#[tokio::test]
async fn inserts_updates_and_deletes_of_every_shape_arrive() {
    let moving = Moving::start(SHAPES).await;
    let applier = moving.forward().await;
    for step in [
        "INSERT INTO plain SELECT 1, g, 'note ' || g, g / 3.0 FROM generate_series(1, 700) g;
         INSERT INTO plain VALUES (2, 1, 'another tenant', 0)",
        "UPDATE plain SET note = NULL, amount = amount + 1 WHERE tenant_id = 1 AND id % 3 = 0;
         UPDATE plain SET note = note || E'\\\\ \\t\\'\"' WHERE id = 5;
         DELETE FROM plain WHERE tenant_id = 1 AND id % 7 = 0",
        // The same rows several times in one transaction.
        "BEGIN; INSERT INTO plain VALUES (1, 1000, 'a', 1), (1, 1001, 'b', 2);
         UPDATE plain SET note = 'c' WHERE id = 1000; DELETE FROM plain WHERE id = 1001;
         DELETE FROM plain WHERE id = 1; INSERT INTO plain VALUES (1, 1, 'again', 9);
         UPDATE plain SET amount = 10 WHERE tenant_id = 1 AND id = 1; COMMIT",
        "INSERT INTO wide VALUES (1, 1, repeat('x', 9000), repeat('y', 9000), 0), (1, 2, repeat('z', 9000), NULL, 0);
         UPDATE wide SET n = 1; UPDATE wide SET n = 2, other = 'short' WHERE id = 1;
         BEGIN; UPDATE wide SET big = repeat('w', 8000) WHERE id = 2; UPDATE wide SET n = 3 WHERE id = 2; COMMIT;
         UPDATE wide SET id = 3 WHERE id = 2",
        "INSERT INTO made (tenant_id, net) SELECT 1, g FROM generate_series(1, 20) g;
         UPDATE made SET net = 100 WHERE id = 2; UPDATE made SET serial = DEFAULT WHERE id = 3;
         DELETE FROM made WHERE id = 4; UPDATE made SET id = DEFAULT WHERE id = 5",
        "INSERT INTO keys SELECT 1, 'k' || g, md5(g::text)::uuid, '2026-01-01'::date + g, g FROM generate_series(1, 50) g;
         UPDATE keys SET n = n + 1 WHERE n < 10; UPDATE keys SET a = a || '!' WHERE n > 40; DELETE FROM keys WHERE n = 20",
        "INSERT INTO only_key VALUES (1, 1), (1, 2), (1, 3); UPDATE only_key SET id = id WHERE id = 1;
         UPDATE only_key SET id = 9 WHERE id = 2; DELETE FROM only_key WHERE id = 3",
        "INSERT INTO full_row SELECT 1, g, g FROM generate_series(1, 9) g;
         UPDATE full_row SET n = NULL WHERE id < 4; UPDATE full_row SET id = 20 WHERE id = 5; DELETE FROM full_row WHERE id = 6",
        // Values of a unique index that wander from row to row, folded they collide.
        "INSERT INTO places SELECT 1, g, g FROM generate_series(1, 5) g",
        "BEGIN; UPDATE places SET place = 10 WHERE id = 1; UPDATE places SET place = 1 WHERE id = 2;
         UPDATE places SET place = 2 WHERE id = 1; COMMIT;
         BEGIN; INSERT INTO places VALUES (1, 6, 6); UPDATE places SET place = 60 WHERE id = 6;
         INSERT INTO places VALUES (1, 7, 6); DELETE FROM places WHERE id = 5; INSERT INTO places VALUES (1, 8, 5); COMMIT",
        "INSERT INTO deferred VALUES (1, 1, 1), (1, 2, 2);
         BEGIN; UPDATE deferred SET place = 3 - place; COMMIT",
        "INSERT INTO parts SELECT 1, g, g FROM generate_series(90, 110) g; UPDATE parts SET n = 0 WHERE id IN (95, 105);
         UPDATE parts SET id = id + 50 WHERE id = 96; DELETE FROM parts WHERE id = 109",
        "BEGIN; INSERT INTO \"Tree of \"\"Life\"\"\" VALUES (1, 2, 1), (1, 1, 3), (1, 3, NULL);
         UPDATE \"Tree of \"\"Life\"\"\" SET \"select\" = 2 WHERE \"Id\" = 3; COMMIT",
    ] {
        moving.write(step).await;
        moving.caught_up(&applier).await;
        moving.same_rows().await;
    }
    let status = applier.status().borrow().clone();
    assert!(
        status.changes > 900 && status.groups < status.changes,
        "{status:?}"
    );
    // What could not be folded was applied in order, without anybody's help.
    assert!(
        status.restarts > 0 && status.phase == ApplyPhase::Applying,
        "{status:?}"
    );
    assert_eq!(
        text(
            &moving.to,
            "SELECT count(*) FROM plain WHERE tenant_id <> 1"
        )
        .await,
        "0"
    );
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn triggers_do_not_fire_and_foreign_keys_are_not_checked_again() {
    let moving = Moving::start(
        "CREATE TABLE parent (tenant_id bigint, id int, PRIMARY KEY (tenant_id, id));
         CREATE TABLE child (tenant_id bigint, id int, parent int, PRIMARY KEY (tenant_id, id),
             FOREIGN KEY (tenant_id, parent) REFERENCES parent ON DELETE CASCADE);
         CREATE TABLE seen (tenant_id bigint, id int, times int, PRIMARY KEY (tenant_id, id));
         CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.seen VALUES (new.tenant_id, new.id, 1)
             ON CONFLICT (tenant_id, id) DO UPDATE SET times = seen.times + 1; RETURN new; END $$;
         CREATE TRIGGER counts BEFORE INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION count_it()",
    )
    .await;
    let applier = moving.forward().await;
    moving
        .write(
            "INSERT INTO parent VALUES (1, 1), (1, 2);
             INSERT INTO child SELECT 1, g, g % 2 + 1 FROM generate_series(1, 10) g;
             UPDATE child SET parent = 1 WHERE id = 3; DELETE FROM parent WHERE id = 2",
        )
        .await;
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    assert_ne!(text(&moving.to, "SELECT count(*) FROM child").await, "0");
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn a_large_transaction_that_still_runs_keeps_nobody_waiting() {
    let moving = Moving::start(SHAPES).await;
    let applier = moving
        .forward_with(|config| config.memory_bytes = 100_000)
        .await;
    let large = moving.writer().await;
    large
        .batch_execute(
            "BEGIN; INSERT INTO plain SELECT 1, g, repeat('n', 100), 0 FROM generate_series(10001, 15000) g;
             SAVEPOINT a; DELETE FROM plain WHERE tenant_id = 1; UPDATE wide SET n = 5; SAVEPOINT b;
             INSERT INTO plain SELECT 1, g, repeat('m', 100), 0 FROM generate_series(20001, 24000) g;
             RELEASE b; ROLLBACK TO a;
             INSERT INTO plain SELECT 1, g, repeat('o', 100), 0 FROM generate_series(30001, 33000) g",
        )
        .await
        .unwrap();
    let other = moving.writer().await;
    other
        .batch_execute(
            "BEGIN; INSERT INTO plain SELECT 2, g, repeat('n', 100), 0 FROM generate_series(1, 20000) g",
        )
        .await
        .unwrap();
    moving
        .write("INSERT INTO plain VALUES (1, 1, 'small', 0)")
        .await;
    applier.probe(&moving.from).await.unwrap();
    assert_eq!(
        text(&moving.to, "SELECT string_agg(note, ',') FROM plain").await,
        "small"
    );
    let spilled = applier.until(|status| status.kept_bytes > 100_000);
    timeout(LIMIT, spilled).await.unwrap().unwrap();

    other.batch_execute("ROLLBACK").await.unwrap();
    large.batch_execute("COMMIT").await.unwrap();
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    assert_eq!(text(&moving.to, "SELECT count(*) FROM plain").await, "8001");
    applier.probe(&moving.from).await.unwrap();
    assert_eq!(applier.status().borrow().kept_bytes, 0);
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_followed_ends_the_applier_with_a_reason() {
    type Expected = fn(&ApplyError) -> bool;
    let cases: [(&str, Expected); 5] = [
        (
            "TRUNCATE wide",
            |error| matches!(error, ApplyError::Truncated { tables } if tables == &["public.wide"]),
        ),
        (
            "ALTER TABLE plain ADD COLUMN more int; INSERT INTO plain VALUES (1, 2, '', 0, 1)",
            |error| matches!(error, ApplyError::SchemaChanged { table, .. } if table == "public.plain"),
        ),
        (
            "ALTER TABLE plain ALTER note TYPE varchar(9); UPDATE plain SET note = 'x'",
            |error| matches!(error, ApplyError::SchemaChanged { table, .. } if table == "public.plain"),
        ),
        // A row that comes from another tenant without what is stored out of line.
        (
            "INSERT INTO wide VALUES (2, 5, repeat('x', 9000), '', 0); UPDATE wide SET tenant_id = 1 WHERE tenant_id = 2",
            |error| matches!(error, ApplyError::Incomplete { table } if table == "public.wide"),
        ),
        (
            "UPDATE plain SET note = 'gone there' WHERE id = 1",
            |error| matches!(error, ApplyError::RowCount { affected: 0, expected: 1, key, .. } if key == "(1, 1)"),
        ),
    ];
    for (sql, expected) in cases {
        let moving = Moving::start(SHAPES).await;
        let applier = moving.forward().await;
        moving.write("INSERT INTO plain VALUES (1, 1, 'here', 0); INSERT INTO wide VALUES (1, 1, '', '', 1)").await;
        moving.caught_up(&applier).await;
        moving
            .to
            .batch_execute("DELETE FROM plain WHERE id = 1")
            .await
            .unwrap();
        moving.write(sql).await;
        let error = timeout(LIMIT, applier.ended()).await.unwrap().unwrap_err();
        assert!(expected(&error), "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn the_fence_marker_halts_and_unfencing_goes_on() {
    let moving = Moving::start(SHAPES).await;
    let applier = moving.forward().await;
    moving
        .write("INSERT INTO plain VALUES (1, 1, 'before', 0)")
        .await;
    // A marker that anyone with the right to write one could write.
    let forged = format!(
        "SELECT pg_logical_emit_message(true, 'tenantry.fence',
             json_build_object('tenant', '1', 'move', '{MOVE}', 'nonce', '{MOVE}')::text)"
    );
    moving.from.batch_execute(&forged).await.unwrap();
    moving.fence(1).await;
    timeout(LIMIT, applier.until_marker(NONCE))
        .await
        .unwrap()
        .unwrap();
    let status = applier.status().borrow().clone();
    assert_eq!(
        (status.phase, status.marker),
        (ApplyPhase::Fenced, Some(NONCE))
    );
    let stored = "SELECT marker_nonce FROM tenantry.move_progress WHERE direction = 'forward'";
    assert_eq!(text(&moving.to, stored).await, NONCE.to_string());
    assert_eq!(text(&moving.to, "SELECT count(*) FROM plain").await, "1");

    // One that begins again knows.
    applier.stop().await.unwrap();
    let applier = moving.forward().await;
    timeout(
        LIMIT,
        applier.until(|status| status.phase == ApplyPhase::Fenced),
    )
    .await
    .unwrap()
    .unwrap();
    moving
        .from
        .batch_execute(&format!("SELECT tenantry.unfence(1, '{MOVE}')"))
        .await
        .unwrap();
    moving
        .write("INSERT INTO plain VALUES (1, 2, 'after', 0)")
        .await;
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    assert_eq!(
        text(
            &moving.to,
            &format!("SELECT coalesce(({stored})::text, 'none')")
        )
        .await,
        "none"
    );
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn handing_over_ends_it_and_a_change_behind_the_fence_is_an_error() {
    let moving = Moving::start(SHAPES).await;
    let applier = moving.forward().await;
    moving.fence(1).await;
    timeout(LIMIT, applier.until_marker(NONCE))
        .await
        .unwrap()
        .unwrap();
    let hand_over = format!("SELECT tenantry.hand_over(1, '{MOVE}', 2, 2::smallint)");
    assert_eq!(
        text(&moving.from, &hand_over.replace("SELECT ", "")).await,
        "true"
    );
    timeout(LIMIT, applier.ended()).await.unwrap().unwrap();

    let moving = Moving::start(SHAPES).await;
    let applier = moving.forward().await;
    moving.fence(1).await;
    timeout(LIMIT, applier.until_marker(NONCE))
        .await
        .unwrap()
        .unwrap();
    moving
        .write("INSERT INTO plain VALUES (1, 1, 'by a superuser', 0)")
        .await;
    let error = timeout(LIMIT, applier.ended()).await.unwrap().unwrap_err();
    assert!(matches!(error, ApplyError::BehindFence { .. }), "{error:?}");
}

#[tokio::test]
async fn a_killed_walsender_loses_and_doubles_nothing() {
    let moving = Moving::start(SHAPES).await;
    let applier = moving.forward().await;
    let writing = moving.writes_in_background();
    let kill_source =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    let kill_destination = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'tenantry-rebalancer' AND datname = current_database()";
    for kill in 0..12 {
        let before = applier.status().borrow().transactions;
        let further = applier.until(|status| status.transactions > before + 20);
        let further = timeout(LIMIT, further).await;
        assert!(
            matches!(further, Ok(Ok(()))),
            "{:?}",
            applier.status().borrow()
        );
        let (client, sql) = if kill % 2 == 0 {
            (&moving.from, kill_source)
        } else {
            (&moving.to, kill_destination)
        };
        client.batch_execute(sql).await.unwrap();
    }
    assert!(writing.finish().await > 200);
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    let status = applier.status().borrow().clone();
    assert!(
        status.restarts > 0 && status.phase == ApplyPhase::Applying,
        "{status:?}"
    );
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn two_appliers_of_one_move_do_not_apply_twice() {
    let moving = Moving::start(SHAPES).await;
    let first = moving.forward().await;
    moving
        .write("INSERT INTO plain VALUES (1, 1, 'once', 0)")
        .await;
    moving.caught_up(&first).await;
    // The second waits for the slot.
    let second = moving.forward().await;
    timeout(LIMIT, second.until(|status| status.restarts > 2))
        .await
        .unwrap()
        .unwrap();
    first.stop().await.unwrap();
    moving.write("UPDATE plain SET note = 'twice'").await;
    moving.caught_up(&second).await;
    moving.same_rows().await;
    // Whoever finds that progress was stored behind its back applies nothing and begins again from there.
    let restarts = second.status().borrow().restarts;
    moving
        .to
        .batch_execute("UPDATE tenantry.move_progress SET applied_lsn = applied_lsn + 1")
        .await
        .unwrap();
    moving.write("UPDATE plain SET note = 'thrice'").await;
    moving.caught_up(&second).await;
    moving.same_rows().await;
    let status = second.status().borrow().clone();
    assert_eq!(status.restarts, restarts + 1);
    assert!(status.last_error.unwrap().starts_with("progress from"));
    second.stop().await.unwrap();
}

#[tokio::test]
async fn the_source_hears_from_an_applier_that_waits_for_the_destination() {
    let moving = Moving::start(SHAPES).await;
    let applier = moving.forward().await;
    moving
        .write("INSERT INTO plain VALUES (1, 1, 'a', 0)")
        .await;
    moving.caught_up(&applier).await;
    let mut blocker = moving.fleet.shard(1).admin().await.unwrap();
    let blocking = blocker.transaction().await.unwrap();
    blocking.batch_execute("LOCK TABLE plain").await.unwrap();
    moving.write("UPDATE plain SET note = 'b'").await;
    let waits =
        "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'plain'::regclass";
    streaming::until_true(&moving.to, waits).await;
    let heard = text(&moving.from, "SELECT now()").await;
    let later = format!("SELECT max(reply_time) > '{heard}' FROM pg_stat_replication");
    streaming::until_true(&moving.from, &later).await;
    blocking.rollback().await.unwrap();
    moving.caught_up(&applier).await;
    moving.same_rows().await;
    assert_eq!(applier.status().borrow().restarts, 0);
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn a_halt_is_exact() {
    let moving = Moving::start(SHAPES).await;
    let applier = moving.forward().await;
    let writing = moving.writes_in_background();
    for _ in 0..5 {
        let mut halt = timeout(LIMIT, applier.halt()).await.unwrap().unwrap();
        let source = moving.snapshot().await;
        timeout(LIMIT, halt.advance_to(source.position))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(halt.position(), source.position);
        let (there, here) = (
            moving.digest(&source.session).await,
            moving.digest(&moving.to).await,
        );
        assert_eq!(there, here, "at {}", source.position);
        assert!(applier.status().borrow().halted);
        let before = applier.status().borrow().transactions;
        drop(halt);
        timeout(
            LIMIT,
            applier.until(|status| !status.halted && status.transactions > before),
        )
        .await
        .unwrap()
        .unwrap();
    }
    writing.finish().await;
    moving.caught_up(&applier).await;
    moving.same_rows().await;

    // On an idle source as well, and not at what is past.
    let source = moving.snapshot().await;
    let halt = timeout(LIMIT, applier.halt_at(source.position))
        .await
        .unwrap()
        .unwrap();
    drop(halt);
    moving.write("UPDATE plain SET note = 'later'").await;
    moving.caught_up(&applier).await;
    let refused = timeout(LIMIT, applier.halt_at(source.position))
        .await
        .unwrap();
    assert!(
        matches!(refused, Err(HaltError::Passed { .. })),
        "{refused:?}"
    );
    applier.stop().await.unwrap();
}

#[tokio::test]
async fn the_way_back_begins_with_the_activation() {
    let moving = Moving::start(SHAPES).await;
    moving
        .write("INSERT INTO plain SELECT 1, g, 'old', 0 FROM generate_series(1, 10) g")
        .await;
    let forward = moving.forward().await;
    moving.caught_up(&forward).await;
    let reverse = moving.reverse().await;
    // What the forward stream writes there does not come back.
    moving
        .write("INSERT INTO plain VALUES (1, 11, 'by the forward stream', 0)")
        .await;
    moving.caught_up(&forward).await;
    reverse.probe(&moving.to).await.unwrap();
    assert_eq!(reverse.status().borrow().phase, ApplyPhase::Discarding);

    moving.fence(1).await;
    timeout(LIMIT, forward.until_marker(NONCE))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        text(
            &moving.from,
            &format!("tenantry.hand_over(1, '{MOVE}', 2, 2::smallint)")
        )
        .await,
        "true"
    );
    timeout(LIMIT, forward.ended()).await.unwrap().unwrap();
    assert_eq!(
        text(&moving.to, &format!("tenantry.activate(1, '{MOVE}', 2)")).await,
        "true"
    );
    moving
        .to
        .batch_execute("UPDATE plain SET note = 'new' WHERE id < 5; DELETE FROM plain WHERE id = 9; INSERT INTO plain VALUES (1, 12, 'new', 0)")
        .await
        .unwrap();
    timeout(LIMIT, reverse.until(|status| status.changes == 6))
        .await
        .unwrap()
        .unwrap();
    moving.same_rows().await;

    // Begun again it continues, and stops at the marker of the way back.
    reverse.stop().await.unwrap();
    let reverse = moving.applier(Direction::Reverse, |_| {}).await;
    moving
        .to
        .batch_execute("UPDATE plain SET note = 'newer' WHERE id = 1")
        .await
        .unwrap();
    moving
        .to
        .batch_execute(&format!(
            "SELECT tenantry.fence(1, '{MOVE}', '{NONCE}', '{PROOF}', 2, '1 min')"
        ))
        .await
        .unwrap();
    timeout(LIMIT, reverse.until_marker(NONCE))
        .await
        .unwrap()
        .unwrap();
    moving.same_rows().await;
    reverse.stop().await.unwrap();
}

#[tokio::test]
async fn beside_an_interrupted_copy_rows_may_be_absent_but_keys_may_not_move_in() {
    let moving = Moving::start(SHAPES).await;
    // As if a copy had come as far as row 5.
    moving
        .write("INSERT INTO plain SELECT 1, g, 'old', 0 FROM generate_series(1, 10) g")
        .await;
    let copied = moving.slot_again().await;
    moving
        .to
        .batch_execute("INSERT INTO plain SELECT 1, g, 'old', 0 FROM generate_series(1, 5) g")
        .await
        .unwrap();
    let partial = |config: &mut ApplierConfig| {
        config.from = copied;
        config.is_partial = true;
    };
    let applier = moving.forward_with(partial).await;
    let mut halt = timeout(LIMIT, applier.halt()).await.unwrap().unwrap();
    moving
        .write(
            "UPDATE plain SET note = 'new' WHERE id IN (2, 8); DELETE FROM plain WHERE id IN (3, 9);
             INSERT INTO plain VALUES (1, 20, 'more', 0); UPDATE plain SET id = 30 WHERE id = 4",
        )
        .await;
    let source = moving.snapshot().await;
    timeout(LIMIT, halt.advance_to(source.position))
        .await
        .unwrap()
        .unwrap();
    let there = "SELECT string_agg(id || ' ' || note, ', ' ORDER BY id) FROM plain";
    assert_eq!(
        text(&moving.to, there).await,
        "1 old, 2 new, 5 old, 20 more, 30 old"
    );
    drop(halt);

    moving.write("UPDATE plain SET id = 0 WHERE id = 10").await;
    let error = timeout(LIMIT, applier.ended()).await.unwrap().unwrap_err();
    assert!(
        matches!(error, ApplyError::RowCount { affected: 0, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_lost_slot_is_told_from_a_lost_connection() {
    let moving = Moving::start(SHAPES).await;
    let applier = moving
        .forward_with(|config| config.slot = "elsewhere".to_owned())
        .await;
    let error = timeout(LIMIT, applier.ended()).await.unwrap().unwrap_err();
    assert!(matches!(error, ApplyError::SlotMissing { .. }), "{error:?}");
}
