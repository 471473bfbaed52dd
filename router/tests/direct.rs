//! Database `shard/NAME`: an operator's session through the router against the same session without
//! it, message by message, and what only the router can refuse.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod common;

use std::net::SocketAddr;
use std::process::Stdio;

use bytes::BytesMut;
use common::compare::show;
use common::probe::{assert_fields, refused_login, until};
use common::{PASSWORD, Setup, setup, setup_with};
use tenantry_schema::guard::role;
use tenantry_schema::shard::{ShardAddress, ShardState};
use tenantry_testkit::{Fleet, FleetShard, Login, RawClient, RawError, error_of, rows_of, tags_of};
use tenantry_wire::backend::{self, ErrorFields};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::startup::ProtocolVersion;
use tenantry_wire::tag::backend as tag;
use tokio::process::Command;

/// The operator's login through the router and without it.
struct Both {
    shard: FleetShardLogin,
    router: SocketAddr,
    through: Login,
}

struct FleetShardLogin {
    address: SocketAddr,
    login: Login,
}

impl Both {
    fn of(setup: &Setup, shard: &FleetShard) -> Self {
        let address = &shard.shard().address;
        let password = shard.secrets().passwords.operator.expose();
        Self {
            shard: FleetShardLogin {
                address: format!("{}:{}", address.host, address.port)
                    .parse()
                    .unwrap(),
                login: Login::new(role::OPERATOR, password, &address.database),
            },
            router: setup.address,
            through: Login::new("ops", PASSWORD, format!("shard/{}", shard.name())),
        }
    }

    fn parameter(mut self, name: &str, value: &str) -> Self {
        self.through = self.through.parameter(name, value);
        self.shard.login = self.shard.login.parameter(name, value);
        self
    }

    /// Both sessions, and what each was told at its start.
    async fn start(&self) -> [(RawClient, Vec<Message>); 2] {
        let mut sessions = Vec::new();
        for (address, login) in [
            (self.router, &self.through),
            (self.shard.address, &self.shard.login),
        ] {
            let mut client = RawClient::connect(address).await.unwrap();
            let greeting = client
                .start_session(ProtocolVersion::V3_0, login)
                .await
                .unwrap();
            sessions.push((client, greeting));
        }
        sessions.try_into().unwrap()
    }

    async fn refused(&self) -> [ErrorFields; 2] {
        let mut errors = Vec::new();
        for (address, login) in [
            (self.router, &self.through),
            (self.shard.address, &self.shard.login),
        ] {
            match RawClient::login(address, login).await {
                Err(RawError::Refused(fields)) => errors.push(*fields),
                other => panic!("{other:?}"),
            }
        }
        errors.try_into().unwrap()
    }
}

async fn operator(setup: &Setup, shard: &FleetShard) -> RawClient {
    let both = Both::of(setup, shard);
    RawClient::login(both.router, &both.through).await.unwrap()
}

/// The greeting without what must differ: the key.
fn greeting(messages: &[Message]) -> Vec<String> {
    let differs = |message: &&Message| message.tag != tag::BACKEND_KEY_DATA;
    show(&messages.iter().filter(differs).cloned().collect::<Vec<_>>())
}

fn run(out: &mut BytesMut, text: &str, parameters: &[Option<&[u8]>], rows: i32) {
    frontend::put_parse(out, "", text, &[]);
    frontend::put_bind(out, "", "", parameters, Format::Text);
    frontend::put_describe(out, TargetKind::Portal, "");
    frontend::put_execute(out, "", rows);
}

/// What is sent in one write, and how many ReadyForQuery come back.
fn script() -> Vec<(&'static str, usize, BytesMut)> {
    fn put(ready: usize, build: impl FnOnce(&mut BytesMut)) -> (usize, BytesMut) {
        let mut out = BytesMut::new();
        build(&mut out);
        (ready, out)
    }
    let query = |text: &'static str| put(1, move |out| frontend::put_query(out, text));
    let steps = [
        (
            "rows of all tenants",
            query("SELECT count(*), current_user FROM events"),
        ),
        (
            "a setting that a pooled session may not have",
            query("SET client_encoding = 'SJIS'"),
        ),
        (
            "rows in it",
            query("SELECT convert_from('\\xe382a2', 'UTF8')"),
        ),
        ("and back", query("RESET client_encoding")),
        (
            "parameter changes",
            query("SET timezone = 'Asia/Tokyo'; SET application_name = 'x'; SHOW timezone"),
        ),
        ("a notice", query("ROLLBACK")),
        (
            "an error in a script",
            query("SELECT 1; SELECT 1/0; SELECT 2"),
        ),
        (
            "transactions",
            query("BEGIN; SAVEPOINT a; SELECT nothing; SELECT 1"),
        ),
        ("in a failed one", query("SELECT 1")),
        (
            "its end",
            query("ROLLBACK TO a; SELECT 3; COMMIT; SET search_path = public"),
        ),
        ("nothing", query("")),
        (
            "SQL's PREPARE",
            query("PREPARE p AS SELECT $1::int; EXECUTE p(7); DEALLOCATE p"),
        ),
        (
            "the protocol's function call",
            put(1, |out| {
                // int4abs(-5), text in and out.
                out.extend_from_slice(b"F\0\0\0\x14\0\0\x05\x75\0\0\0\x01\0\0\0\x02-5\0\0");
            }),
        ),
        (
            "several Syncs in flight",
            put(3, |out| {
                run(out, "SELECT $1::int + 1", &[Some(b"41")], 0);
                frontend::put_sync(out);
                run(out, "SELECT 1/$1::int", &[Some(b"0")], 0);
                run(out, "SELECT 'skipped'", &[], 0);
                frontend::put_flush(out);
                frontend::put_sync(out);
                run(out, "SELECT generate_series(1, 5)", &[], 2);
                frontend::put_execute(out, "", 2);
                frontend::put_sync(out);
            }),
        ),
        (
            "COPY out",
            query("COPY (SELECT generate_series(1, 3)) TO STDOUT"),
        ),
        (
            "COPY in that fails",
            put(1, |out| {
                frontend::put_query(out, "COPY events (kind) FROM STDIN");
                frontend::put_copy_data(out, b"one\ttoo many\n");
                frontend::put_copy_done(out);
            }),
        ),
        (
            "COPY in given up",
            put(1, |out| {
                frontend::put_query(out, "COPY events (tenant_id, kind, subject) FROM STDIN");
                frontend::put_copy_data(out, b"1\ta\tb");
                frontend::put_copy_fail(out, "changed my mind");
            }),
        ),
        (
            "more than any buffer",
            query("SELECT repeat('x', 3000000), repeat('y', 70000)"),
        ),
        (
            "what no server takes",
            put(1, |out| out.extend_from_slice(b"z\0\0\0\x04")),
        ),
    ];
    steps
        .into_iter()
        .map(|(name, (ready, bytes))| (name, ready, bytes))
        .collect()
}

/// Everything up to the `ready`-th ReadyForQuery, or the end of the connection.
async fn answers(client: &mut RawClient, ready: usize) -> Vec<Message> {
    let mut seen = Vec::new();
    for _ in 0..ready {
        seen.extend(client.until_ready().await.unwrap());
    }
    seen
}

#[tokio::test]
async fn an_operator_notices_no_router() {
    let setup = setup().await;
    setup.seed().await;
    for shard in setup.fleet.shards() {
        let both = Both::of(&setup, shard)
            .parameter("client_encoding", "LATIN1")
            .parameter("application_name", "a tool")
            .parameter("options", "-c DateStyle=German -c statement_timeout=70s")
            .parameter("IntervalStyle", "iso_8601");
        let [(mut through, told), (mut without, told_directly)] = both.start().await;
        assert_eq!(greeting(&told), greeting(&told_directly));
        assert_eq!(through.parameter("client_encoding"), Some("LATIN1"));
        for (name, ready, bytes) in script() {
            let mut seen = Vec::new();
            for client in [&mut through, &mut without] {
                client.send_bytes(&bytes).await.unwrap();
                seen.push(show(&answers(client, ready).await));
            }
            assert_eq!(seen[0], seen[1], "{name}");
        }
    }
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn process_ids_are_the_servers() {
    let setup = setup().await;
    let shard = setup.fleet.shard(0);
    let mut one = operator(&setup, shard).await;
    let mut other = operator(&setup, shard).await;
    let (pid, _) = one.cancel_key().unwrap();
    let own = rows_of(&one.query("SELECT pg_backend_pid()").await.unwrap());
    assert_eq!(own[0][0], Some(pid.to_string()));

    one.query("LISTEN \"Mixed case\"").await.unwrap();
    let (sender, _) = other.cancel_key().unwrap();
    let (sender, text) = (sender, "NOTIFY \"Mixed case\", 'hello'");
    other.query(text).await.unwrap();
    let heard = one.until(tag::NOTIFICATION).await.unwrap();
    let heard = backend::notification(heard.last().unwrap().body()).unwrap();
    assert_eq!(
        (heard.pid, heard.channel, heard.payload),
        (sender, &b"Mixed case"[..], &b"hello"[..])
    );

    // What one operator finds out about another's session is true.
    other
        .query(&format!("SELECT pg_terminate_backend({pid})"))
        .await
        .unwrap();
    let last = error_of(&one.until_closed().await.unwrap()).unwrap();
    assert_eq!(
        (last.code.as_str(), last.severity.name()),
        ("57P01", "FATAL")
    );
    assert_eq!(last.routine.as_deref(), Some("ProcessInterrupts"));
}

#[tokio::test]
async fn a_cancel_needs_the_secret_and_hits_its_session_only() {
    let setup = setup().await;
    let shard = setup.fleet.shard(0);
    let mut one = operator(&setup, shard).await;
    let mut other = operator(&setup, shard).await;
    let (pid, secret) = one.cancel_key().unwrap();
    let (secret, wrong) = (secret.to_vec(), other.cancel_key().unwrap().1.to_vec());
    for client in [&mut one, &mut other] {
        let sleep = |out: &mut BytesMut| frontend::put_query(out, "SELECT pg_sleep(1000)");
        client.send(sleep).await.unwrap();
    }
    let admin = shard.admin().await.unwrap();
    let sleeping = async || {
        let text = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        admin.query_one(text, &[]).await.unwrap().get::<_, i64>(0)
    };
    until("both sleep", async || (sleeping().await == 2).then_some(())).await;
    tenantry_testkit::send_cancel(setup.address, pid, &wrong)
        .await
        .unwrap();
    assert_eq!(sleeping().await, 2);
    tenantry_testkit::send_cancel(setup.address, pid, &secret)
        .await
        .unwrap();
    let error = error_of(&one.until_ready().await.unwrap()).unwrap();
    assert_eq!(error.code, "57014");
    assert_eq!(sleeping().await, 1);
    // Without a router the statement of a client that has left goes on as well. Its place is taken until it ends.
    drop(other);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    admin.execute(end, &[]).await.unwrap();
    setup.nothing_leaked(1).await;
    assert_eq!(error_of(&one.query("SELECT 1").await.unwrap()), None);
}

#[tokio::test]
async fn what_the_server_refuses_at_startup_is_told_as_it_said_it() {
    let setup = setup().await;
    let shard = setup.fleet.shard(0);
    for (name, value) in [
        ("DateStyle", "sideways"),
        ("client_encoding", "klingon"),
        ("options", "-c shared_buffers=1"),
        ("options", "-c no.such=1 -c work_mem=lots"),
        ("options", "--nonsense"),
        ("nonsense", "1"),
        ("role", "tenantry_owner"),
    ] {
        let [through, without] = Both::of(&setup, shard)
            .parameter(name, value)
            .refused()
            .await;
        assert_eq!(through, without, "{name}={value}");
    }
    setup.nothing_leaked(0).await;
}

#[tokio::test]
async fn operators_only_and_on_shards_that_exist() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(1), |config| {
        config.operator_connections_max = 2;
    })
    .await;
    let shard = setup.fleet.shard(0);
    let database = format!("shard/{}", shard.name());
    for (user, database, code, name) in [
        ("shop", database.as_str(), "28000", "OPERATORS_ONLY"),
        ("store1", database.as_str(), "28000", "OPERATORS_ONLY"),
        ("ops", "shard/nowhere", "28000", "SHARD_UNKNOWN"),
        ("ops", "shard/", "28000", "SHARD_UNKNOWN"),
        ("ops", "shard", "28000", "DATABASE_UNKNOWN"),
        ("ops", "tenantry/x", "28000", "DATABASE_UNKNOWN"),
    ] {
        let error = refused_login(&setup, &Login::new(user, PASSWORD, database)).await;
        assert_fields(&error, code, name);
    }
    let named = Login::new(format!("ops.{}", setup.id(0)), PASSWORD, &database);
    assert_fields(
        &refused_login(&setup, &named).await,
        "28000",
        "TENANT_UNWANTED",
    );
    let login = Login::new("ops", "wrong", "shard/nowhere");
    let error = refused_login(&setup, &login).await;
    assert_fields(&error, "28P01", "AUTHENTICATION_FAILED");
    let replication = Login::new("ops", PASSWORD, &database).parameter("replication", "database");
    assert_fields(
        &refused_login(&setup, &replication).await,
        "0A000",
        "UNSUPPORTED",
    );

    // A bounded number, given back when a session ends.
    let held = [operator(&setup, shard).await, operator(&setup, shard).await];
    let login = Login::new("ops", PASSWORD, &database);
    let error = refused_login(&setup, &login).await;
    assert_fields(&error, "53300", "TOO_MANY_OPERATORS");
    assert_eq!(
        error.detail.as_deref(),
        Some("operator_connections_max is 2")
    );
    drop(held);
    setup.nothing_leaked(0).await;
    operator(&setup, shard).await;
}

#[tokio::test]
async fn a_shard_that_the_catalog_calls_down_is_reached_and_one_that_is_gone_is_not() {
    let setup = setup().await;
    let shard = setup.fleet.shard(0);
    let catalog = setup.fleet.catalog();
    catalog
        .set_shard_state(shard.id(), ShardState::Down)
        .await
        .unwrap();
    let mut client = operator(&setup, shard).await;
    assert_eq!(tags_of(&client.query("SELECT 1").await.unwrap()), "TDCZ");

    // Nobody listens there any longer.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let database = shard.shard().address.database.clone();
    let address = ShardAddress {
        host: "127.0.0.1".to_owned(),
        port,
        database,
    };
    catalog
        .set_shard_address(shard.id(), &address)
        .await
        .unwrap();
    let login = Both::of(&setup, shard).through;
    let error = until("the router follows", async || {
        match RawClient::login(setup.address, &login).await {
            Err(RawError::Refused(fields)) => Some(*fields),
            _ => None,
        }
    })
    .await;
    assert_fields(&error, "57P03", "SHARD_DOWN");
}

#[tokio::test]
async fn a_stopping_router_waits_for_the_boundary() {
    let mut setup = setup().await;
    let shard = setup.fleet.shard(0);
    let mut idle = operator(&setup, shard).await;
    let mut busy = operator(&setup, shard).await;
    busy.query("BEGIN; SELECT 1").await.unwrap();
    let router = setup.router.take().unwrap();
    let stopping = tokio::spawn(router.stop());
    let last = error_of(&idle.until_closed().await.unwrap()).unwrap();
    assert_fields(&last, "57P01", "SHUTDOWN");
    assert_eq!(error_of(&busy.query("SELECT 2").await.unwrap()), None);
    assert_eq!(tags_of(&busy.query("COMMIT").await.unwrap()), "CZ");
    let last = error_of(&busy.until_closed().await.unwrap()).unwrap();
    assert_fields(&last, "57P01", "SHUTDOWN");
    stopping.await.unwrap();
}

/// Output of a PostgreSQL tool, and whether it succeeded.
async fn tool(program: &str, arguments: &[&str], address: SocketAddr, login: &Login) -> String {
    let output = Command::new(program)
        .args([
            "-h",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
        ])
        .args(["-U", &login.user, "-d", &login.database])
        .args(arguments)
        .env("PGPASSWORD", &login.password)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ended = output.status.code();
    format!("{}{}{ended:?}", text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_tools_of_a_database_administrator() {
    let setup = setup().await;
    setup.seed().await;
    let both = Both::of(&setup, setup.fleet.shard(0));
    // Each with its S and + where there is one: everything psql knows to ask.
    let backslash = "\\l+ \\dt+ *.* \\d+ events \\di+ \\dv \\ds+ \\dp \\df+ tenantry.* \\dn+ \\du+ \\dT+ \\do \\dC \\dx+ \\dd \\dconfig \\dew \\dL \\dO \\dP+ \\dRp+ \\dX \\dy \\sf tenantry.tenant \\encoding \\conninfo";
    let commands: Vec<String> = backslash
        .split(" \\")
        .map(|command| format!("\\{}", command.trim_start_matches('\\')))
        .filter(|command| command != "\\conninfo")
        .collect();
    let mut arguments = vec!["-X"];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    // The guard's own schema holds secrets that no operator reads.
    let dump = ["--exclude-schema=tenantry", "--no-sync"];
    let data = [
        "--exclude-schema=tenantry",
        "--no-sync",
        "--data-only",
        "--inserts",
    ];
    for (program, arguments) in [
        ("psql", arguments.as_slice()),
        ("pg_dump", &dump),
        ("pg_dump", &data),
    ] {
        let through = tool(program, arguments, both.router, &both.through).await;
        let without = tool(program, arguments, both.shard.address, &both.shard.login).await;
        assert!(through.len() > 500, "{program}: {through}");
        assert!(
            !through.contains("permission denied"),
            "{program}: {through}"
        );
        assert_eq!(
            without_tokens(&through),
            without_tokens(&without),
            "{program}"
        );
    }
    setup.nothing_leaked(0).await;
}

/// pg_dump's \restrict lines carry a random word.
fn without_tokens(text: &str) -> Vec<&str> {
    let random = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    text.lines().filter(random).collect()
}
