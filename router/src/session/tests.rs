//! Sessions without sockets: what goes out for what comes in.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use tenantry_schema::fleet::{Role, RoleKind, RoleLimits};
use tenantry_schema::guard::GuardKey;
use tenantry_schema::tenant::TenantId;
use tenantry_wire::backend::{self, ErrorFields, TxStatus};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format, TargetKind};

use super::{Identity, Next, Session, Settings, Shared};
use crate::fleet::FleetWatch;
use crate::server::{BackendKey, Bound, Link, PreparedCache, Registry, ServerState};

fn tenant(number: i64) -> TenantId {
    TenantId::from_bigint(number).unwrap()
}

fn session(tenant: Option<TenantId>) -> Session {
    let shared = Shared {
        registry: Registry::default(),
        fleet: Arc::new(FleetWatch::unknown()),
        message_bytes_max: 1 << 20,
        lends_buffers: true,
    };
    let role = Role {
        name: "shop".to_owned(),
        verifier: String::new(),
        kind: RoleKind::Service,
        tenants: Vec::new(),
        limits: RoleLimits::default(),
        valid_until: None,
    };
    let identity = Identity {
        session: 1,
        role: Arc::new(role),
        bound: None,
    };
    Session::new(
        Arc::new(shared),
        identity,
        tenant,
        Settings::default(),
        Arc::new(BTreeMap::new()),
    )
}

fn link() -> Link {
    Link {
        input: BytesMut::new(),
        output: BytesMut::new(),
        state: ServerState {
            key: Arc::new(BackendKey {
                address: ([127, 0, 0, 1], 1).into(),
                tls: None,
                pid: 1,
                secret: vec![0; 4],
            }),
            identity: "one".to_owned(),
            guard: GuardKey::generate(1),
            bound: Bound::Known(None),
            fallback: Bound::Known(None),
            applied: Some(Settings::default()),
            bound_in_transaction: false,
            applied_in_transaction: false,
            applied_by_router: false,
            savepoints: Vec::new(),
            copy_role: false,
            read_only: false,
            prepared: PreparedCache::new(2),
            kept: super::Kept::default(),
            unnamed: None,
            parameters: BTreeMap::new(),
            status: TxStatus::Idle,
            dirty: false,
        },
    }
}

/// Feeds client bytes until the session waits; a connection is there when it asks for one.
fn feed(session: &mut Session, link: &mut Link, bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    drain(session, link, &mut input);
}

fn drain(session: &mut Session, link: &mut Link, input: &mut BytesMut) {
    for _ in 0..10_000 {
        match session.next(input, Some(link)) {
            Next::More => {}
            Next::Wait | Next::Close => return,
            Next::Acquire(_) => unreachable!("a connection is attached"),
        }
    }
    unreachable!("the session goes round in circles");
}

/// The types of the messages that are waiting in a buffer, which is emptied.
fn tags(buffer: &mut BytesMut) -> String {
    let mut tags = String::new();
    while let Some(message) = Message::take(buffer, usize::MAX >> 1).unwrap() {
        tags.push(char::from(message.tag));
    }
    assert!(buffer.is_empty(), "half a message is left");
    tags
}

fn frames(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut bytes = BytesMut::new();
    build(&mut bytes);
    bytes
}

fn query(text: &str) -> BytesMut {
    frames(|out| frontend::put_query(out, text))
}

fn reply(session: &mut Session, link: &mut Link, build: impl FnOnce(&mut BytesMut)) {
    build(&mut link.input);
    session.on_server(link).unwrap();
}

/// Answers to a bind: BindComplete, a row, CommandComplete.
fn put_bound(out: &mut BytesMut) {
    backend::put_bind_complete(out);
    backend::put_data_row(out, &[Some(b"7:1:mac")]);
    backend::put_command_complete(out, "SELECT 1");
}

fn put_done(out: &mut BytesMut, status: TxStatus) {
    backend::put_command_complete(out, "SELECT 0");
    backend::put_ready(out, status);
}

#[test]
fn the_first_query_brings_its_bind_and_the_second_needs_none() {
    let (mut session, mut link) = (session(Some(tenant(7))), link());
    feed(&mut session, &mut link, &query("SELECT 1"));
    // Bind and Execute of the bind, the Query, and the Sync that a failed bind would need.
    assert_eq!(tags(&mut link.output), "BEQS");
    reply(&mut session, &mut link, |out| {
        put_bound(out);
        put_done(out, TxStatus::Idle);
        backend::put_ready(out, TxStatus::Idle);
    });
    assert_eq!(tags(&mut session.output), "CZ");
    assert!(session.is_releasable());
    feed(&mut session, &mut link, &query("SELECT 1"));
    assert_eq!(tags(&mut link.output), "Q");
}

#[test]
fn a_failed_bind_is_the_querys_error_and_leaves_the_tenant_unknown() {
    let (mut session, mut link) = (session(Some(tenant(7))), link());
    feed(&mut session, &mut link, &query("SELECT 1"));
    link.output.clear();
    reply(&mut session, &mut link, |out| {
        backend::put_error(out, &ErrorFields::error("57014", "canceling statement"));
        backend::put_ready(out, TxStatus::Idle);
    });
    assert_eq!(tags(&mut session.output), "EZ");
    assert_eq!(link.state.bound, Bound::Unknown);
    assert!(session.is_releasable());
}

#[test]
fn a_transaction_whose_first_bind_was_cancelled_ends() {
    let (mut session, mut link) = (session(Some(tenant(7))), link());
    link.state.bound = Bound::Known(Some(tenant(8)));
    link.state.fallback = Bound::Known(Some(tenant(8)));
    feed(&mut session, &mut link, &query("BEGIN"));
    tags(&mut session.output);
    feed(&mut session, &mut link, &query("SELECT 1"));
    // The bind by itself; BEGIN, the bind again, the Query.
    assert_eq!(tags(&mut link.output), "BESPBEBEQS");
    reply(&mut session, &mut link, |out| {
        backend::put_error(out, &ErrorFields::error("57014", "canceling statement"));
        backend::put_ready(out, TxStatus::Idle);
        backend::put_parse_complete(out);
        backend::put_bind_complete(out);
        backend::put_command_complete(out, "BEGIN");
        put_bound(out);
        put_done(out, TxStatus::InTransaction);
        backend::put_ready(out, TxStatus::InTransaction);
    });
    assert_eq!(tags(&mut session.output), "CZ");
    // A rollback that the router does not see would lead to tenant 8 now.
    feed(&mut session, &mut link, &query("SELECT 2"));
    assert_eq!(tags(&mut link.output), "");
    assert_eq!(tags(&mut session.output), "EZ");
    feed(&mut session, &mut link, &query("ROLLBACK"));
    assert!(tags(&mut link.output).contains('E'));
}

/// A transaction is open; a Query comes that the router runs statement by statement, and must have parsed before.
fn session_in_check() -> (Session, Link) {
    let (mut session, mut link) = (session(None), link());
    feed(&mut session, &mut link, &query("BEGIN; SELECT 1"));
    reply(&mut session, &mut link, |out| {
        backend::put_command_complete(out, "BEGIN");
        put_done(out, TxStatus::InTransaction);
    });
    assert_eq!(tags(&mut session.output), "CCZ");
    link.output.clear();
    let text = "SELECT 1; SHOW tenantry.tenant; SELECT 2";
    feed(&mut session, &mut link, &query(text));
    assert_eq!(tags(&mut link.output), "QPS");
    (session, link)
}

fn put_cancelled(out: &mut BytesMut) {
    backend::put_error(out, &ErrorFields::error("57014", "canceling statement"));
    backend::put_ready(out, TxStatus::Failed);
}

#[test]
fn a_cancel_before_the_check_of_a_query_ends_the_query() {
    let (mut session, mut link) = session_in_check();
    reply(&mut session, &mut link, put_cancelled);
    reply(&mut session, &mut link, |out| {
        let aborted = ErrorFields::error("25P02", "current transaction is aborted");
        backend::put_error(out, &aborted);
        backend::put_ready(out, TxStatus::Failed);
    });
    assert_eq!(tags(&mut session.output), "EZ");
    assert_eq!(tags(&mut link.output), "");
    feed(&mut session, &mut link, &query("ROLLBACK"));
    assert_eq!(tags(&mut link.output), "Q");
}

#[test]
fn a_cancel_behind_the_check_of_a_query_ends_the_query() {
    let (mut session, mut link) = session_in_check();
    reply(&mut session, &mut link, |out| {
        put_done(out, TxStatus::InTransaction);
        let mut several = ErrorFields::error("42601", "cannot insert multiple commands");
        several.routine = Some("exec_parse_message".to_owned());
        backend::put_error(out, &several);
        backend::put_ready(out, TxStatus::Failed);
    });
    // Back to where it was before the check.
    assert_eq!(tags(&mut link.output), "Q");
    reply(&mut session, &mut link, put_cancelled);
    assert_eq!(tags(&mut session.output), "EZ");
    feed(&mut session, &mut link, &query("ROLLBACK"));
    assert_eq!(tags(&mut link.output), "Q");
}

#[test]
fn begin_waits_for_the_first_statement_and_goes_ahead_of_the_bind() {
    let (mut session, mut link) = (session(Some(tenant(7))), link());
    feed(&mut session, &mut link, &query("BEGIN"));
    assert_eq!(tags(&mut link.output), "");
    assert_eq!(tags(&mut session.output), "CZ");
    feed(&mut session, &mut link, &query("SELECT 1"));
    // Parse, Bind, Execute of BEGIN; Bind, Execute of the bind; the Query with its Sync.
    assert_eq!(tags(&mut link.output), "PBEBEQS");
}

#[test]
fn a_named_statement_is_prepared_once_per_connection_and_evicted_in_turn() {
    let (mut session, mut link) = (session(None), link());
    for name in ["a", "b", "c"] {
        feed(
            &mut session,
            &mut link,
            &frames(|out| {
                frontend::put_parse(out, name, format!("SELECT '{name}'"), &[]);
                frontend::put_sync(out);
            }),
        );
        reply(&mut session, &mut link, |out| {
            backend::put_parse_complete(out);
            if name == "c" {
                backend::put_close_complete(out);
            }
            backend::put_ready(out, TxStatus::Idle);
        });
        assert_eq!(tags(&mut session.output), "1Z");
        let sent = tags(&mut link.output);
        // The third one does not fit: the least recently used is closed.
        assert_eq!(sent, if name == "c" { "PCS" } else { "PS" });
    }
    let bind = |name: &'static str| {
        frames(move |out| {
            frontend::put_bind(out, "", name, &[], Format::Text);
            frontend::put_sync(out);
        })
    };
    feed(&mut session, &mut link, &bind("c"));
    assert_eq!(tags(&mut link.output), "BS");
    reply(&mut session, &mut link, |out| {
        backend::put_bind_complete(out);
        backend::put_ready(out, TxStatus::Idle);
    });
    // The evicted one is prepared anew, at the cost of another.
    feed(&mut session, &mut link, &bind("a"));
    assert_eq!(tags(&mut link.output), "PCBS");
}

#[test]
fn a_row_larger_than_the_buffer_is_passed_on_as_it_comes() {
    let (mut session, mut link) = (session(None), link());
    feed(&mut session, &mut link, &query("SELECT big"));
    link.output.clear();
    let row = frames(|out| backend::put_data_row(out, &[Some(&[b'x'; 50_000])]));
    for piece in row.chunks(7_000) {
        link.input.extend_from_slice(piece);
        session.on_server(&mut link).unwrap();
        assert!(link.input.is_empty(), "nothing is held back");
    }
    assert_eq!(session.output, row);
}

#[test]
fn a_length_alone_reserves_no_memory() {
    let (mut session, mut link) = (session(None), link());
    let mut input = BytesMut::from(&b"Q\0\x0f\0\0SELECT"[..]);
    assert_eq!(session.next(&mut input, Some(&mut link)), Next::Wait);
    assert!(input.capacity() < 200_000, "{}", input.capacity());
}

#[test]
fn a_server_lost_inside_a_small_row_is_told() {
    let (mut session, mut link) = (session(None), link());
    feed(&mut session, &mut link, &query("SELECT small"));
    let row = frames(|out| backend::put_data_row(out, &[Some(&[b'x'; 5000])]));
    link.input.extend_from_slice(&row[..700]);
    session.on_server(&mut link).unwrap();
    assert!(session.output.is_empty(), "half a row was passed on");
    assert!(session.server_lost("s1"));
    assert_eq!(session.output.first(), Some(&b'E'));
}

/// The answer to the router's own Sync is all that is missing: nobody waits for anything, and yet the transaction is
/// lost.
#[test]
fn a_transaction_lost_before_the_routers_own_sync_is_told_by_the_next_statement() {
    let (mut session, mut link) = (session(Some(tenant(7))), link());
    feed(&mut session, &mut link, &query("BEGIN; SELECT 1"));
    link.output.clear();
    reply(&mut session, &mut link, |out| {
        put_bound(out);
        backend::put_command_complete(out, "BEGIN");
        put_done(out, TxStatus::InTransaction);
    });
    session.output.clear();
    assert!(session.server_lost("s1"));
    assert!(session.output.is_empty(), "nobody has asked");
    let told = answer(&mut session, "COMMIT");
    assert_eq!(told.code, "40001", "{told:?}");
}

/// The answer to the router's own Sync says nothing of the COMMIT behind it.
#[test]
fn a_commit_lost_behind_the_routers_own_sync_may_have_happened() {
    let (mut session, mut link) = (session(Some(tenant(7))), link());
    feed(&mut session, &mut link, &query("BEGIN; SELECT 1"));
    reply(&mut session, &mut link, |out| {
        put_bound(out);
        backend::put_command_complete(out, "BEGIN");
        put_done(out, TxStatus::InTransaction);
    });
    feed(&mut session, &mut link, &query("COMMIT"));
    reply(&mut session, &mut link, |out| {
        backend::put_ready(out, TxStatus::InTransaction);
    });
    session.output.clear();
    assert!(session.server_lost("s1"));
    let message = Message::take(&mut session.output, usize::MAX >> 1).unwrap();
    let told = ErrorFields::decode(message.unwrap().body()).unwrap();
    assert_eq!(told.code, "08007", "{told:?}");
}

/// PostgreSQL commits a batch at its Sync: what was answered before is lost with the server.
#[test]
fn a_batch_lost_between_its_answers_and_its_sync_is_told() {
    let (mut session, mut link) = (session(None), link());
    let batch = frames(|out| {
        frontend::put_parse(out, "", "INSERT INTO t VALUES (1)", &[]);
        frontend::put_bind(out, "", "", &[], Format::Text);
        frontend::put_execute(out, "", 0);
        frontend::put_flush(out);
    });
    feed(&mut session, &mut link, &batch);
    reply(&mut session, &mut link, |out| {
        backend::put_parse_complete(out);
        backend::put_bind_complete(out);
        backend::put_command_complete(out, "INSERT 0 1");
    });
    assert_eq!(tags(&mut session.output), "12C");
    assert!(session.server_lost("s1"));
    let sync = frames(frontend::put_sync);
    assert_eq!(session.next(&mut sync.clone(), None), Next::More);
    assert_eq!(tags(&mut session.output), "EZ");
}

/// What a session without a server connection answers to a Query.
fn answer(session: &mut Session, text: &str) -> ErrorFields {
    let mut input = query(text);
    while session.next(&mut input, None) == Next::More {}
    let message = Message::take(&mut session.output, usize::MAX >> 1).unwrap();
    ErrorFields::decode(message.unwrap().body()).unwrap()
}

/// A piece of what a client may send, valid or not.
fn client_piece() -> impl Strategy<Value = BytesMut> {
    let text = prop_oneof![
        Just("SELECT 1"),
        Just("BEGIN"),
        Just("COMMIT"),
        Just("ROLLBACK"),
        Just("SAVEPOINT s"),
        Just("ROLLBACK TO s"),
        Just("SET tenantry.tenant = 'x'"),
        Just("RESET tenantry.tenant"),
        Just("SHOW tenantry.tenant; SELECT 2"),
        Just("BEGIN; SHOW tenantry.tenant; SELECT 1; COMMIT"),
        Just("SET timezone TO 'UTC'"),
        Just("COPY t FROM STDIN"),
        Just("DISCARD ALL"),
        Just("PREPARE p AS SELECT 1"),
        Just("EXECUTE p"),
        Just("LISTEN x"),
        Just(""),
    ];
    let name = prop_oneof![Just(""), Just("a"), Just("b")];
    prop_oneof![
        text.clone().prop_map(query),
        (name.clone(), text)
            .prop_map(|(name, text)| { frames(|out| frontend::put_parse(out, name, text, &[])) }),
        name.clone().prop_map(|name| {
            frames(|out| frontend::put_bind(out, "", name, &[], Format::Text))
        }),
        name.prop_map(|name| {
            frames(|out| frontend::put_describe(out, TargetKind::Statement, name))
        }),
        Just(frames(|out| frontend::put_describe(
            out,
            TargetKind::Portal,
            ""
        ))),
        Just(frames(|out| frontend::put_execute(out, "", 0))),
        Just(frames(|out| frontend::put_close(
            out,
            TargetKind::Statement,
            "a"
        ))),
        Just(frames(frontend::put_sync)),
        Just(frames(frontend::put_flush)),
        Just(frames(|out| frontend::put_copy_data(out, b"row"))),
        Just(frames(frontend::put_copy_done)),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| BytesMut::from(&bytes[..])),
    ]
}

/// A piece of what a server may send, whether it was asked for or not.
fn server_piece() -> impl Strategy<Value = BytesMut> {
    let status = prop_oneof![
        Just(TxStatus::Idle),
        Just(TxStatus::InTransaction),
        Just(TxStatus::Failed)
    ];
    prop_oneof![
        Just(frames(backend::put_parse_complete)),
        Just(frames(backend::put_bind_complete)),
        Just(frames(backend::put_close_complete)),
        Just(frames(backend::put_no_data)),
        Just(frames(|out| backend::put_data_row(out, &[Some(b"x")]))),
        Just(frames(|out| backend::put_command_complete(out, "COMMIT"))),
        Just(frames(|out| backend::put_command_complete(out, "SELECT 1"))),
        Just(frames(|out| backend::put_error(
            out,
            &ErrorFields::error("22012", "no")
        ))),
        Just(frames(|out| backend::put_copy_in(out, Format::Text, &[]))),
        status.prop_map(|status| frames(|out| backend::put_ready(out, status))),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| BytesMut::from(&bytes[..])),
    ]
}

proptest! {
    /// Whatever either side says, the session neither panics nor spins; it may give a side up.
    #[test]
    fn nothing_either_side_says_breaks_a_session(
        steps in proptest::collection::vec(
            prop_oneof![client_piece().prop_map(Ok), server_piece().prop_map(Err)], 1..60)
    ) {
        let (mut session, mut link) = (session(Some(tenant(7))), link());
        let mut input = BytesMut::new();
        for step in steps {
            match step {
                Ok(bytes) => input.extend_from_slice(&bytes),
                Err(bytes) => {
                    link.input.extend_from_slice(&bytes);
                    if session.on_server(&mut link).is_err() && !session.server_lost("s1") {
                        break;
                    }
                }
            }
            drain(&mut session, &mut link, &mut input);
        }
    }
}
