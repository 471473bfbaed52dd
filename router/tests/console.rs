//! The console database: what operators see there, and what their commands do.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use common::{PASSWORD, Setup, setup_with};
use tenantry_router::{Config, Shutdown};
use tenantry_schema::fleet::RoleKind;
use tenantry_testkit::{Fleet, Login, RawClient, error_of, rows_of};
use tenantry_wire::backend;
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::tag::backend as tag;
use tokio_postgres::{Client, SimpleQueryMessage};

async fn setup(change: impl FnOnce(&mut Config)) -> Setup {
    let setup = setup_with(Fleet::builder().shards(2).tenants(4), change).await;
    setup
        .fleet
        .add_role("ops", PASSWORD, RoleKind::Operator, Vec::new())
        .await
        .unwrap();
    // The router learns of the role as of any change.
    loop {
        match RawClient::login(setup.address, &console_login()).await {
            Ok(_) => return setup,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn console_login() -> Login {
    Login::new("ops", PASSWORD, "tenantry")
}

async fn raw_console(setup: &Setup) -> RawClient {
    RawClient::login(setup.address, &console_login())
        .await
        .unwrap()
}

async fn console(setup: &Setup) -> Client {
    setup.connect("ops", "tenantry").await.unwrap()
}

type Row = HashMap<String, Option<String>>;

/// Rows of a command by simple protocol, values by name.
async fn show(client: &Client, command: &str) -> Vec<Row> {
    let messages = client.simple_query(command).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        let names = row.columns().iter().enumerate();
        names
            .map(|(at, column)| (column.name().to_owned(), row.get(at).map(str::to_owned)))
            .collect()
    })
    .collect()
}

fn get<'r>(row: &'r Row, name: &str) -> &'r str {
    row.get(name).unwrap().as_deref().unwrap_or("NULL")
}

/// The row of SHOW CLIENTS for the process id that a client was told.
async fn client_row(console: &Client, pid: i32) -> Option<Row> {
    let rows = show(console, "SHOW CLIENTS").await;
    rows.into_iter()
        .find(|row| get(row, "pid") == pid.to_string())
}

/// Waits until a session is in this state.
async fn until(console: &Client, pid: i32, activity: &str) -> Row {
    loop {
        if let Some(row) = client_row(console, pid).await
            && get(&row, "activity") == activity
        {
            return row;
        }
        tokio::task::yield_now().await;
    }
}

fn pid_of(client: &RawClient) -> i32 {
    client.cancel_key().unwrap().0
}

#[tokio::test]
async fn only_operators_get_in() {
    let setup = setup(|_| ()).await;
    for user in ["shop", "store1"] {
        let login = Login::new(user, PASSWORD, "tenantry");
        let error = RawClient::login(setup.address, &login).await.unwrap_err();
        assert_eq!(error.refusal().unwrap().code, "28000", "{user}");
    }
    let wrong = Login::new("ops", "guess", "tenantry");
    let error = RawClient::login(setup.address, &wrong).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, "28P01");
}

/// Names and order as PgBouncer has them; what is ours stands behind.
#[tokio::test]
async fn every_show_has_the_columns_it_says_in_both_protocols() {
    let setup = setup(|_| ()).await;
    setup.seed().await;
    // Somebody holds a server connection.
    let mut holder = setup.raw_for(0).await;
    holder.query("BEGIN; SELECT 1").await.unwrap();
    let client = console(&setup).await;
    for (command, columns) in [
        (
            "SHOW CLIENTS",
            "type user database replication state addr port local_addr local_port connect_time \
             request_time wait wait_us close_needed ptr link remote_pid tls application_name \
             prepared_statements id activity",
        ),
        (
            "SHOW SERVERS",
            "type user database replication state addr port local_addr local_port connect_time \
             request_time wait wait_us close_needed ptr link remote_pid tls application_name \
             prepared_statements id tenant",
        ),
        (
            "SHOW POOLS",
            "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req \
             sv_active sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login \
             maxwait maxwait_us pool_mode load_balance_hosts pool_size",
        ),
        ("SHOW QUEUES", "database tenant waiting held share"),
        (
            "SHOW DATABASES",
            "name host port database force_user pool_size min_pool_size reserve_pool_size \
             server_lifetime pool_mode load_balance_hosts max_connections current_connections \
             max_client_connections current_client_connections paused disabled kind",
        ),
        (
            "SHOW USERS",
            "name pool_size reserve_pool_size pool_mode max_user_connections current_connections \
             max_user_client_connections current_client_connections kind",
        ),
        (
            "SHOW STATS",
            "database total_xact_count total_query_count total_server_assignment_count \
             total_server_closed_count total_received total_sent total_xact_time total_query_time \
             total_wait_time total_server_lifetime total_client_parse_count \
             total_server_parse_count total_bind_count total_error_count avg_xact_count",
        ),
        (
            "SHOW STATS_TOTALS",
            "database xact_count query_count server_assignment_count server_closed_count received",
        ),
        (
            "SHOW STATS_AVERAGES",
            "database xact_count query_count server_assignment_count server_closed_count recv sent",
        ),
        ("SHOW TOTALS", "total_xact_count total_query_count"),
        ("SHOW LISTS", "list items"),
        ("SHOW CONFIG", "key value default changeable"),
        ("SHOW MEM", "name size used free memtotal"),
        ("SHOW STATE", "key value"),
        ("SHOW VERSION", "version"),
        ("SHOW SOCKETS", "type user database"),
        ("SHOW ACTIVE_SOCKETS", "type user database"),
        (
            "SHOW SHARDS",
            "id name kind state weight host port database",
        ),
        ("SHOW ROUTERS", "id name peer_address"),
        ("SHOW FLEET", "key value"),
        (
            "SHOW MOVES",
            "tenant slug move phase source destination in_flight waiting held",
        ),
        ("SHOW TENANTS", "tenant slug state plan shard pinned epoch"),
        (
            "SHOW TOP_TENANTS",
            "tenant slug shard xact_count query_count",
        ),
    ] {
        let statement = client.prepare(command).await.unwrap();
        let names: Vec<&str> = statement.columns().iter().map(|c| c.name()).collect();
        let expected: Vec<&str> = columns.split_whitespace().collect();
        assert_eq!(names[..expected.len()], expected, "{command}");
        // Binary values of every type.
        let rows = client.query(&statement, &[]).await.unwrap();
        let simple = show(&client, command).await;
        // Nobody moves here; router/tests/moves sees who does.
        let is_filled = command != "SHOW MOVES";
        assert_eq!(!rows.is_empty(), is_filled, "{command}");
        assert_eq!(!simple.is_empty(), is_filled, "{command}");
        if is_filled {
            assert_eq!(simple[0].len(), names.len(), "{command}");
        }
    }
    let tenant = setup.tenant(0).slug.to_string();
    let row = &show(&client, &format!("SHOW TENANT {tenant}")).await[0];
    assert_eq!(get(row, "tenant"), setup.id(0));
    assert_ne!(get(row, "xact_count"), "0");
}

#[tokio::test]
async fn drivers_find_what_they_ask_when_they_connect() {
    let setup = setup(|_| ()).await;
    let client = console(&setup).await;
    let row = client.query_one("SELECT 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
    let version: String = client
        .query_one("SELECT version()", &[])
        .await
        .unwrap()
        .get(0);
    assert!(version.starts_with("Tenantry "));
    client
        .batch_execute("SET client_encoding TO 'UTF8'; SET extra_float_digits = 3; BEGIN; SHOW LISTS; COMMIT; DISCARD ALL")
        .await
        .unwrap();
    let lists = client.query("SHOW LISTS", &[]).await.unwrap();
    let used = lists
        .iter()
        .find(|row| row.get::<_, &str>(0) == "used_clients");
    assert_eq!(used.unwrap().get::<_, i32>(1), 1);
}

#[tokio::test]
async fn errors_follow_the_protocol() {
    let setup = setup(|_| ()).await;
    let mut raw = raw_console(&setup).await;
    let messages = raw.query("SELECT * FROM products").await.unwrap();
    let error = error_of(&messages).unwrap();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("42601", "unknown command \"SELECT * FROM\"")
    );
    assert_eq!(error.hint.as_deref(), Some("SHOW HELP lists the commands"));
    let messages = raw.query("PAUSE nowhere").await.unwrap();
    assert_eq!(error_of(&messages).unwrap().code, "42704");
    assert!(error_of(&raw.query("SHOW VERSION").await.unwrap()).is_none());

    // A batch is skipped up to Sync; then the session goes on.
    let mut out = BytesMut::new();
    frontend::put_parse(&mut out, "", "SHOW NONSENSE", &[]);
    frontend::put_bind(&mut out, "", "", &[], Format::Text);
    frontend::put_execute(&mut out, "", 0);
    frontend::put_sync(&mut out);
    raw.send_bytes(&out).await.unwrap();
    let messages = raw.until_ready().await.unwrap();
    let tags: Vec<u8> = messages.iter().map(|message| message.tag).collect();
    assert_eq!(tags, [tag::ERROR, tag::READY_FOR_QUERY]);

    // Rows in portions, as PostgreSQL gives them.
    let mut out = BytesMut::new();
    frontend::put_parse(&mut out, "s", "SHOW LISTS", &[]);
    frontend::put_bind(&mut out, "p", "s", &[], Format::Text);
    frontend::put_describe(&mut out, TargetKind::Portal, "p");
    frontend::put_execute(&mut out, "p", 2);
    frontend::put_execute(&mut out, "p", 0);
    frontend::put_sync(&mut out);
    raw.send_bytes(&out).await.unwrap();
    let messages = raw.until_ready().await.unwrap();
    let tags: Vec<u8> = messages.iter().map(|message| message.tag).collect();
    let rows = tags
        .iter()
        .filter(|letter| **letter == tag::DATA_ROW)
        .count();
    assert_eq!(
        tags[..6],
        [
            tag::PARSE_COMPLETE,
            tag::BIND_COMPLETE,
            tag::ROW_DESCRIPTION,
            tag::DATA_ROW,
            tag::DATA_ROW,
            tag::PORTAL_SUSPENDED
        ]
    );
    assert_eq!(rows, 14);
    let complete = messages
        .iter()
        .find(|message| message.tag == tag::COMMAND_COMPLETE)
        .unwrap();
    assert_eq!(backend::command_complete(complete.body()).unwrap(), b"SHOW");

    // Help is a notice, as in PgBouncer.
    let messages = raw.query("SHOW HELP").await.unwrap();
    let notice = messages.iter().find(|message| message.tag == tag::NOTICE);
    let fields = backend::ErrorFields::decode(notice.unwrap().body()).unwrap();
    assert!(fields.detail.unwrap().contains("KILL_CLIENT id"));
}

#[tokio::test]
async fn sessions_are_seen_in_what_they_do() {
    let setup = setup(|config| config.pool_size = 1).await;
    let console = console(&setup).await;
    let mut busy = setup.raw_for(0).await;
    let pid = pid_of(&busy);
    let row = client_row(&console, pid).await.unwrap();
    assert_eq!(
        (
            get(&row, "state"),
            get(&row, "activity"),
            get(&row, "tenant")
        ),
        ("idle", "idle", setup.id(0).as_str())
    );
    busy.query("SET application_name = 'billing'; BEGIN; SELECT count(*) FROM events")
        .await
        .unwrap();
    let row = until(&console, pid, "idle in transaction").await;
    assert_eq!(
        (
            get(&row, "state"),
            get(&row, "application_name"),
            get(&row, "user")
        ),
        ("active", "billing", "shop")
    );
    let link = get(&row, "link").to_owned();
    let servers = show(&console, "SHOW SERVERS").await;
    let server = servers.iter().find(|row| get(row, "ptr") == link).unwrap();
    assert_eq!(
        (get(server, "state"), get(server, "tenant")),
        ("active", setup.id(0).as_str())
    );

    // One connection to the shard: the next one waits.
    let mut waiting = setup.raw_for(0).await;
    let waiting_pid = pid_of(&waiting);
    let waited = tokio::spawn(async move {
        let messages = waiting.query("SELECT 1/0").await.unwrap();
        (waiting, messages)
    });
    until(&console, waiting_pid, "waiting").await;
    let pools = show(&console, "SHOW POOLS").await;
    let pool = pools
        .iter()
        .find(|row| get(row, "cl_waiting") == "1")
        .unwrap();
    assert_eq!(get(pool, "sv_active"), "1");
    busy.query("COMMIT").await.unwrap();
    let (_waiting, messages) = waited.await.unwrap();
    assert_eq!(error_of(&messages).unwrap().code, "22012");
    let row = until(&console, waiting_pid, "idle").await;
    assert_eq!((get(&row, "sqlstate"), get(&row, "errors")), ("22012", "1"));
    assert_ne!(get(&row, "total_wait_us"), "0");
}

#[tokio::test]
async fn a_killed_session_ends_wherever_it_is() {
    let setup = setup(|config| config.pool_size = 1).await;
    let console = console(&setup).await;
    let mut idle = setup.raw_for(0).await;
    let mut busy = setup.raw_for(1).await;
    let busy_pid = pid_of(&busy);
    let mut messages = BytesMut::new();
    frontend::put_query(&mut messages, "SELECT pg_sleep(600)");
    busy.send_bytes(&messages).await.unwrap();
    until(&console, busy_pid, "active").await;
    for pid in [pid_of(&idle), busy_pid] {
        let row = client_row(&console, pid).await.unwrap();
        let id = get(&row, "id").to_owned();
        console
            .simple_query(&format!("KILL_CLIENT {id}"))
            .await
            .unwrap();
    }
    for client in [&mut idle, &mut busy] {
        let last = client.until_closed().await.unwrap();
        let error = error_of(&last).unwrap();
        assert_eq!(
            (error.code.as_str(), error.severity.name()),
            ("57P01", "FATAL")
        );
    }
    // The statement was cancelled: its connection is free long before it would have ended.
    let mut next = setup.raw_for(1).await;
    assert_eq!(error_of(&next.query("SELECT 1").await.unwrap()), None);
    let error = console.simple_query("KILL 999999").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42704");
}

#[tokio::test]
async fn a_pause_holds_clients_without_an_error() {
    // Longer than a client may wait: time in a pause does not count.
    let setup = setup(|config| config.timeouts.query_wait = Duration::from_millis(100)).await;
    let console = console(&setup).await;
    let mut open = setup.raw_for(0).await;
    open.query("BEGIN; SELECT count(*) FROM events")
        .await
        .unwrap();
    let pausing = {
        let console = setup.connect("ops", "tenantry").await.unwrap();
        tokio::spawn(async move { console.simple_query("PAUSE").await.map(drop) })
    };
    loop {
        let state = show(&console, "SHOW STATE").await;
        if state
            .iter()
            .any(|row| get(row, "key") == "paused" && get(row, "value") == "yes")
        {
            break;
        }
    }
    let mut held = setup.raw_for(1).await;
    let pid = pid_of(&held);
    let held =
        tokio::spawn(async move { held.query("SELECT count(*) FROM events").await.unwrap() });
    until(&console, pid, "waiting").await;
    // The open transaction goes on, and PAUSE waits for it.
    assert_eq!(error_of(&open.query("SELECT 1").await.unwrap()), None);
    assert!(!pausing.is_finished());
    assert_eq!(error_of(&open.query("COMMIT").await.unwrap()), None);
    pausing.await.unwrap().unwrap();
    assert!(show(&console, "SHOW SERVERS").await.is_empty());
    let paused = show(&console, "SHOW DATABASES").await;
    assert!(paused.iter().all(|row| get(row, "paused") == "1"));
    // Past the time that it may wait without a pause.
    loop {
        let row = client_row(&console, pid).await.unwrap();
        if get(&row, "wait_us").parse::<u64>().unwrap() > 300_000 {
            break;
        }
    }
    assert!(!held.is_finished());
    console.simple_query("RESUME").await.unwrap();
    assert_eq!(error_of(&held.await.unwrap()), None);
    let error = console.simple_query("RESUME").await.unwrap_err();
    assert_eq!(
        error.as_db_error().unwrap().message(),
        "the router is not paused"
    );
}

#[tokio::test]
async fn a_disabled_shard_refuses_and_an_enabled_one_serves() {
    let setup = setup(|_| ()).await;
    let console = console(&setup).await;
    let shard = setup.fleet.shard_of(setup.tenant(0)).await.unwrap();
    let name = shard.name().to_string();
    let mut client = setup.raw_for(0).await;
    console
        .simple_query(&format!("DISABLE {name}"))
        .await
        .unwrap();
    let messages = client.query("SELECT 1").await.unwrap();
    let error = error_of(&messages).unwrap();
    assert_eq!(
        (error.code.as_str(), error.detail.as_deref()),
        ("57P03", Some("an operator has disabled it"))
    );
    console
        .simple_query(&format!("ENABLE {name}"))
        .await
        .unwrap();
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);

    // RECONNECT: another backend serves, at the end of the transaction.
    let pid = |messages: &[tenantry_wire::frame::Message]| rows_of(messages)[0][0].clone();
    client.query("BEGIN; SELECT 1").await.unwrap();
    let before = show(&console, "SHOW SERVERS").await;
    console.simple_query("RECONNECT").await.unwrap();
    let messages = client.query("SELECT 1").await.unwrap();
    assert_eq!(pid(&messages), Some("1".to_owned()));
    let marked = show(&console, "SHOW SERVERS").await;
    assert!(marked.iter().all(|row| get(row, "close_needed") == "1"));
    client.query("COMMIT").await.unwrap();
    console.simple_query("WAIT_CLOSE").await.unwrap();
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
    let after = show(&console, "SHOW SERVERS").await;
    let ids = |rows: &[Row]| {
        rows.iter()
            .map(|row| get(row, "id").to_owned())
            .collect::<Vec<_>>()
    };
    assert!(ids(&before).iter().all(|id| !ids(&after).contains(id)));
}

#[tokio::test]
async fn shutdown_waits_for_clients_where_it_is_told_to() {
    let mut setup = setup(|_| ()).await;
    let client = setup.client(&format!("shop.{}", setup.id(0))).await;
    let console = console(&setup).await;
    console
        .simple_query("SHUTDOWN WAIT_FOR_CLIENTS")
        .await
        .unwrap();
    let router = setup.router.take().unwrap();
    let how = router.asked_to_stop().await;
    assert_eq!(how, Shutdown::WaitForClients);
    let refused = RawClient::login(setup.address, &setup.login("shop")).await;
    assert_eq!(refused.unwrap_err().refusal().unwrap().code, "57P03");
    let never = tokio_util::sync::CancellationToken::new();
    let stopping = tokio::spawn(async move { router.stop_as(how, &never).await });
    client
        .simple_query("SELECT count(*) FROM events")
        .await
        .unwrap();
    assert!(!stopping.is_finished());
    drop(client);
    stopping.await.unwrap();
    assert!(RawClient::connect(setup.address).await.is_err());
}

#[tokio::test]
async fn the_busiest_tenants_come_first() {
    let setup = setup(|_| ()).await;
    let console = console(&setup).await;
    let mut client = setup.raw().await;
    let mut other = setup.raw_for(1).await;
    assert_eq!(error_of(&other.query("SELECT 1").await.unwrap()), None);
    let busy = setup.id(2);
    for _ in 0..20 {
        let text =
            format!("BEGIN; SET LOCAL tenantry.tenant = '{busy}'; SELECT pg_sleep(0.002); COMMIT");
        assert_eq!(error_of(&client.query(&text).await.unwrap()), None);
    }
    let rows = loop {
        let rows = show(&console, "SHOW TOP_TENANTS LIMIT 1").await;
        // Counts arrive when connections are given up, which the last answer precedes.
        if get(&rows[0], "xact_count") == "20" && rows.len() == 2 {
            break rows;
        }
    };
    assert_eq!(get(&rows[0], "tenant"), busy);
    assert!(get(&rows[0], "busy_us").parse::<u64>().unwrap() >= 40_000);
    assert_eq!(get(&rows[1], "tenant"), "_other");
    assert_eq!(get(&rows[1], "xact_count"), "1");
}

/// psql as operators use it: simple protocol, a notice for help, an error that names the way on.
#[tokio::test]
async fn psql_works_on_the_console() {
    let setup = setup(|_| ()).await;
    let port = setup.address.port().to_string();
    let commands = [
        "SHOW VERSION",
        "SHOW HELP",
        "SHOW NONSENSE",
        "SHOW LISTS",
        "PAUSE",
        "RESUME",
    ];
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["-X", "-A", "-t", "-h", "127.0.0.1", "-p", &port])
        .args(["-U", "ops", "-d", "tenantry"])
        .args(commands.iter().flat_map(|command| ["-c", command]))
        .env("PGPASSWORD", PASSWORD);
    let output = psql.output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("Tenantry "), "{said}");
    assert!(lines.contains(&"databases|2"), "{said}");
    assert!(lines.ends_with(&["PAUSE", "RESUME"]), "{said}");
    let notes = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "NOTICE:  Console usage",
        "KILL_CLIENT id",
        "ERROR:  unknown command \"SHOW NONSENSE\"",
        "HINT:  SHOW HELP lists the commands",
    ] {
        assert!(notes.contains(expected), "{notes}");
    }
}

#[tokio::test]
async fn a_full_router_still_has_room_for_its_console() {
    let setup = setup(|config| config.clients_max = 1).await;
    let refusal = async |login: &Login| {
        let error = RawClient::login(setup.address, login).await.unwrap_err();
        let fields = error.refusal().unwrap();
        (fields.code.clone(), fields.routine.clone().unwrap())
    };
    let full = ("53300".to_owned(), "TOO_MANY_CLIENTS".to_owned());
    setup.nothing_leaked(0).await;
    let _one = setup.raw_for(0).await;
    let shop = setup.login(&format!("shop.{}", setup.id(0)));
    assert_eq!(refusal(&shop).await, full);
    let shard = setup.fleet.shard(0).name();
    let direct = Login::new("ops", PASSWORD, format!("shard/{shard}"));
    assert_eq!(refusal(&direct).await, full);
    let mut operators = Vec::new();
    for _ in 1..9 {
        let mut operator = raw_console(&setup).await;
        assert_eq!(
            error_of(&operator.query("SHOW CLIENTS").await.unwrap()),
            None
        );
        operators.push(operator);
    }
    // There too, room ends somewhere.
    assert_eq!(refusal(&console_login()).await, full);
}

#[tokio::test]
async fn what_is_disabled_by_name_stays_so_whatever_is_done_to_all() {
    let setup = setup(|_| ()).await;
    let console = console(&setup).await;
    let shard = setup.fleet.shard_of(setup.tenant(0)).await.unwrap();
    let name = shard.name().to_string();
    let mut client = setup.raw_for(0).await;
    client.query("SELECT 1").await.unwrap();
    // An operator's own connection to a shard is no pool's: nobody waits for its end.
    let mut direct = RawClient::login(
        setup.address,
        &Login::new("ops", PASSWORD, format!("shard/{name}")),
    )
    .await
    .unwrap();
    for command in [
        &*format!("DISABLE {name}"),
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "WAIT_CLOSE",
    ] {
        console.simple_query(command).await.unwrap();
    }
    let refused = error_of(&client.query("SELECT 1").await.unwrap()).unwrap();
    assert_eq!(refused.routine.as_deref(), Some("SHARD_DOWN"));
    assert_eq!(error_of(&direct.query("SELECT 1").await.unwrap()), None);
    let shown = show(&console, "SHOW DATABASES").await;
    let row = shown.iter().find(|row| get(row, "name") == name).unwrap();
    assert_eq!((get(row, "paused"), get(row, "disabled")), ("0", "1"));
    // Nor does RESUME enable it by its name; and ENABLE resumes nothing.
    for (command, paused) in [("PAUSE", "1"), ("RESUME", "0")] {
        console
            .simple_query(&format!("{command} {name}"))
            .await
            .unwrap();
        let shown = show(&console, "SHOW DATABASES").await;
        let row = shown.iter().find(|row| get(row, "name") == name).unwrap();
        assert_eq!((get(row, "paused"), get(row, "disabled")), (paused, "1"));
        let refused = error_of(&client.query("SELECT 1").await.unwrap()).unwrap();
        assert_eq!(refused.routine.as_deref(), Some("SHARD_DOWN"));
    }
    for command in ["PAUSE", "ENABLE"] {
        console
            .simple_query(&format!("{command} {name}"))
            .await
            .unwrap();
    }
    let shown = show(&console, "SHOW DATABASES").await;
    let row = shown.iter().find(|row| get(row, "name") == name).unwrap();
    assert_eq!((get(row, "paused"), get(row, "disabled")), ("1", "0"));
    console
        .simple_query(&format!("RESUME {name}"))
        .await
        .unwrap();
    assert_eq!(error_of(&client.query("SELECT 1").await.unwrap()), None);
}

/// Nobody resumes a router that has stopped: who waits is told, not cut off.
#[tokio::test]
async fn who_waits_in_a_pause_hears_that_the_router_ends() {
    let mut setup = setup(|config| config.timeouts.drain = Duration::from_millis(100)).await;
    let console = console(&setup).await;
    let mut client = setup.raw_for(0).await;
    console.simple_query("PAUSE").await.unwrap();
    let pid = pid_of(&client);
    client
        .send(|out| {
            // Answered already, and owed while the second statement waits.
            frontend::put_query(out, "SHOW tenantry.tenant");
            frontend::put_query(out, "SELECT 1");
        })
        .await
        .unwrap();
    until(&console, pid, "waiting").await;
    let first = client.until_ready().await.unwrap();
    assert_eq!(rows_of(&first)[0][0], Some(setup.id(0)));
    let router = setup.router.take().unwrap();
    let stopping = tokio::spawn(router.stop());
    let last = error_of(&client.until_closed().await.unwrap()).unwrap();
    assert_eq!(last.routine.as_deref(), Some("SHUTDOWN"));
    stopping.await.unwrap();
}
