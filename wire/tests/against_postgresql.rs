//! The crate against the real thing: what PostgreSQL accepts, divides and understands is what this crate says it does.
//!
//! The generated texts come from a seed that is printed; `TENANTRY_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use bytes::BytesMut;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tenantry_cluster::{Server, ServerOptions};
use tenantry_wire::{
    backend::{self, Authentication, ErrorFields},
    encoding,
    frame::Message,
    frontend,
    scram::{ChannelBinding, ClientExchange, ClientKeys, SCRAM_SHA_256, Step, Verifier},
    sql::{self, Kind, SetValue},
    startup::ProtocolVersion,
    tag::backend as tag,
};

/// A session of the simple kind: blocking, one message exchange at a time.
struct Session {
    stream: TcpStream,
    buffer: BytesMut,
    keys: Option<ClientKeys>,
}

impl Session {
    fn connect(
        address: SocketAddr,
        user: &str,
        password: &str,
        keys: Option<ClientKeys>,
    ) -> Result<Self, Box<ErrorFields>> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut session = Self {
            stream,
            buffer: BytesMut::new(),
            keys: None,
        };
        let parameters = [
            ("user", user),
            ("database", "postgres"),
            ("client_encoding", "UTF8"),
        ];
        session.send(|out| frontend::put_startup(out, ProtocolVersion::V3_0, parameters));
        let mut exchange =
            ClientExchange::new(password, ChannelBinding::Unavailable).with_known_keys(keys);
        loop {
            let message = session.receive();
            match message.tag {
                tag::ERROR => return Err(Box::new(ErrorFields::decode(message.body()).unwrap())),
                tag::READY_FOR_QUERY => break,
                tag::AUTHENTICATION => {
                    session.authenticate(&mut exchange, message.body());
                }
                _ => {}
            }
        }
        session.keys = exchange.into_keys();
        Ok(session)
    }

    fn authenticate(&mut self, exchange: &mut ClientExchange, request: &[u8]) {
        match Authentication::decode(request).unwrap() {
            Authentication::Ok => {}
            Authentication::Sasl(mechanisms) => {
                assert!(mechanisms.contains(&SCRAM_SHA_256.as_bytes()));
                let first = exchange.start();
                self.send(|out| frontend::put_sasl_initial(out, SCRAM_SHA_256, Some(&first)));
            }
            Authentication::SaslContinue(data) => {
                let Step::Continue(response) = exchange.step(data) else {
                    panic!()
                };
                self.send(|out| frontend::put_sasl_response(out, &response));
            }
            Authentication::SaslFinal(data) => {
                assert!(matches!(exchange.step(data), Step::Success(_)));
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        put(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn receive(&mut self) -> Message {
        loop {
            if let Some(message) = Message::take(&mut self.buffer, 1 << 20).unwrap() {
                return message;
            }
            let mut piece = [0; 4096];
            let len = self.stream.read(&mut piece).unwrap();
            assert!(len > 0, "the server closed the connection");
            self.buffer.extend_from_slice(&piece[..len]);
        }
    }

    fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.receive();
            if message.tag == tag::READY_FOR_QUERY {
                backend::ready_for_query(message.body()).unwrap();
                return messages;
            }
            messages.push(message);
        }
    }

    fn query(&mut self, text: &str) -> Vec<Message> {
        self.send(|out| frontend::put_query(out, text));
        self.until_ready()
    }

    /// The first value of the last row, as text.
    fn value(&mut self, text: &str) -> Option<String> {
        let messages = self.query(text);
        let row = messages
            .iter()
            .rfind(|message| message.tag == tag::DATA_ROW)?;
        let values = backend::data_row(row.body()).unwrap();
        values[0].map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// Has PostgreSQL parse a statement without running it, and says whether its syntax is right.
    fn accepts(&mut self, text: &str) -> bool {
        self.send(|out| {
            frontend::put_parse(out, "", text, &[]);
            frontend::put_sync(out);
        });
        let code = error_code(&self.until_ready());
        // Invalid escapes and unknown characters are told by other codes than wrong grammar.
        !code.is_some_and(|code| code == "42601" || code.starts_with("22") || code == "42622")
    }
}

fn error_code(messages: &[Message]) -> Option<String> {
    let error = messages.iter().find(|message| message.tag == tag::ERROR)?;
    let code = backend::error_code(error.body()).unwrap();
    Some(String::from_utf8(code.to_vec()).unwrap())
}

/// A server, and a session of its superuser.
async fn server() -> (Server, Session) {
    let server = Server::start(ServerOptions::throwaway()).await.unwrap();
    let password = server.superuser_password().to_owned();
    let session = Session::connect(server.address(), "postgres", &password, None).unwrap();
    (server, session)
}

fn seeded() -> StdRng {
    let given = std::env::var("TENANTRY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().next_u64());
    println!("TENANTRY_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

#[tokio::test]
async fn postgresql_accepts_our_verifiers_and_our_proofs() {
    let (server, mut session) = server().await;
    let verifier = Verifier::from_password("pässwörd");
    let create = format!(
        "create role r login password {}",
        sql::quote_literal(&verifier.to_string())
    );
    assert_eq!(error_code(&session.query(&create)), None);
    let stored = session.value("select rolpassword from pg_authid where rolname = 'r'");
    assert_eq!(Verifier::parse(&stored.unwrap()), Ok(verifier));

    let first = Session::connect(server.address(), "r", "pässwörd", None).unwrap();
    let again = Session::connect(server.address(), "r", "not looked at", first.keys.clone());
    assert!(again.is_ok(), "known keys serve instead of the password");
    let wrong = Session::connect(server.address(), "r", "wrong", None)
        .err()
        .unwrap();
    assert_eq!(wrong.code, "28P01");

    // And the other way round: a verifier that PostgreSQL made.
    session.query("create role s login password 'its own'");
    assert!(Session::connect(server.address(), "s", "its own", None).is_ok());
}

#[tokio::test]
async fn keywords_are_names_where_postgresql_takes_them() {
    let (_server, mut session) = server().await;
    let words = session
        .value("select string_agg(word, ' ') from pg_get_keywords()")
        .unwrap();
    for word in words.split(' ') {
        let text = format!("savepoint {word}");
        let is_name = matches!(sql::classify(&text, true), Kind::Savepoint(_));
        assert_eq!(is_name, session.accepts(&text), "{text}");
        let quoted = session
            .value(&format!("select quote_ident('{word}')"))
            .unwrap();
        assert!(quoted == word || quoted == format!("\"{word}\""));
        let text = format!("set a.b = {word}");
        let is_value = matches!(sql::classify(&text, true), Kind::Set { .. });
        assert_eq!(is_value, session.accepts(&text), "{text}");
    }
}

/// Words from which statements of the router's list are made, right and wrong ones.
const STATEMENTS: &[(&str, &[&str])] = &[
    ("begin", MODES),
    ("start", MODES),
    ("commit", ENDS),
    ("end", ENDS),
    ("rollback", ENDS),
    ("abort", ENDS),
    ("savepoint", NAMES),
    ("release", &["savepoint", "a", "\"A\"", "select"]),
    ("set", SETTINGS),
    ("set", SETTINGS),
    ("set session", SETTINGS),
    ("set local", SETTINGS),
    ("set time zone", SETTINGS),
    ("set transaction", MODES),
    ("set session characteristics as transaction", MODES),
    ("reset", SETTINGS),
    ("show", SETTINGS),
    (
        "discard",
        &["all", "plans", "temp", "temporary", "sequences", "a"],
    ),
    ("deallocate", &["prepare", "all", "a", "\"all\""]),
    ("execute", &["a", "(", ")", "1", ",", "'x'"]),
    ("listen", NAMES),
    (
        "unlisten",
        &["*", "a", "all", "U&\"\\0041\"", "uescape", "'!'"],
    ),
    ("notify", &["a", ",", "'b'", "E'\\x41'", "$$c$$", "b"]),
    (
        "prepare a",
        &[
            "(",
            ")",
            "int",
            ",",
            "as",
            "select 1",
            "text[]",
            "numeric(1,2)",
        ],
    ),
    ("prepare transaction", &["'a'", "as", "select 1"]),
    (
        "declare c",
        &[
            "binary", "scroll", "no", "cursor", "with", "without", "hold", "for", "select 1",
        ],
    ),
    (
        "copy",
        &[
            "t",
            "binary",
            "(a)",
            "from",
            "to",
            "stdin",
            "stdout",
            ".",
            "(select 1)",
            "public",
            "'f'",
        ],
    ),
    ("declare c cursor", &["with", "hold", "for", "select 1"]),
];
const MODES: &[&str] = &[
    "work",
    "transaction",
    "isolation level",
    "read",
    "committed",
    "serializable",
    "repeatable",
    "only",
    "write",
    "deferrable",
    "not",
    ",",
    "read only",
    "uncommitted",
];
const ENDS: &[&str] = &[
    "work",
    "transaction",
    "and",
    "no",
    "chain",
    "to",
    "savepoint",
    "a",
    "prepared",
    "'x'",
];
const NAMES: &[&str] = &[
    "a",
    "\"A\"",
    "U&\"\\0041\"",
    "uescape",
    "'!'",
    "select",
    "é",
    "binary",
    "int",
];
const SETTINGS: &[&str] = &[
    "tenantry",
    ".",
    "tenant",
    "=",
    "to",
    "'7'",
    "7",
    "-",
    "+",
    "1.5",
    "on",
    "true",
    "default",
    ",",
    "\"A\"",
    "a",
    "local",
    "session",
    "time",
    "zone",
    "names",
    "schema",
    "role",
    "none",
    "all",
    "authorization",
    "xml",
    "option",
    "document",
    "transaction",
    "isolation",
    "level",
    "interval",
    "U&'\\0041'",
    "E'\\t'",
    "$$x$$",
    "from current",
    "select",
    "binary",
    "characteristics",
    "on",
];
/// What stands between two words.
const GAPS: &[&str] = &[" ", " ", " ", "\n", "/* ' */", " --;\n"];

#[tokio::test]
async fn the_list_is_read_where_postgresql_accepts_it() {
    let (_server, mut session) = server().await;
    let mut rng = seeded();
    let mut accepted = 0;
    for _ in 0..6_000 {
        let (first, words) = STATEMENTS.choose(&mut rng).unwrap();
        let mut text = (*first).to_owned();
        for _ in 0..rng.random_range(0..6) {
            text.push_str(GAPS.choose(&mut rng).unwrap());
            text.push_str(words.choose(&mut rng).unwrap());
        }
        let kind = sql::classify(&text, true);
        let is_valid = session.accepts(&text);
        accepted += u32::from(is_valid);
        match (&kind, is_valid) {
            (Kind::Plain, false) => {}
            // Valid, and not the router's: COPY with files.
            (Kind::Plain, true) => assert!(first.starts_with("copy"), "{text:?}"),
            (_, true) => {}
            // A keyword as time zone: no time zone has such a name, which error says so matters little.
            (Kind::Set { name, .. }, false) if name == "timezone" => {}
            // Fields of an interval, options of COPY and of cursors, and types are PostgreSQL's to check.
            (
                Kind::Set {
                    value: SetValue::Interval,
                    ..
                },
                false,
            )
            | (Kind::CopyFromStdin { .. } | Kind::CopyToStdout, false)
            | (Kind::DeclareCursor { .. } | Kind::PrepareStatement { .. }, false)
            | (Kind::ExecuteStatement { .. }, false) => {}
            (kind, false) => panic!("PostgreSQL refuses {text:?}, this is {kind:?}"),
        }
    }
    println!("{accepted} accepted");
    assert!(accepted > 250, "the words make too few valid statements");
}

/// Literals, right ones only, with what is hard to divide in them.
const LITERALS: &[&str] = &[
    "';'",
    "'a''b;'",
    "E'\\';'",
    "e'\\\\'",
    "U&'\\003b;'",
    "U&'!003b' uescape '!'",
    "$$;'$$",
    "$a$;$$;$a$",
    "'a'\n ';b'",
    "'a' -- ;\n 'b'",
    "'\\'",
    "B'01'",
    "x'1f'",
    "1.5e-3",
    "-1",
    ".5",
    "'é;'::text",
    "1 /* ; ' */",
    "2 -- ; '\n",
    "(select ';')",
    "\"length\"(';')",
    "case when true then 1 else 2 end",
    "3 as end",
    "array[1,2]",
    "$é$;$é$",
    "'' || ';'",
    "1*-1",
    "1/*/*;*/'*/",
    "n'x;'",
];

#[tokio::test]
async fn texts_divide_where_postgresql_divides_them() {
    let (_server, mut session) = server().await;
    let mut rng = seeded();
    let routine = "create or replace function f() returns int begin atomic select 1; \
        select case when true then 2 end as end; end";
    session.query("create table t (a int); create table u (a int)");
    let rule = "create or replace rule r as on insert to t do also (insert into u values (1); delete from u)";
    let mut run = 0;
    for _ in 0..3_000 {
        let mut text = String::new();
        for _ in 0..rng.random_range(0..6) {
            match rng.random_range(0..12) {
                0 => text.push_str(routine),
                1 => text.push_str(rule),
                2 => {}
                _ => {
                    text.push_str("select ");
                    text.push_str(LITERALS.choose(&mut rng).unwrap());
                }
            }
            text.push_str(
                [";", " ; ", ";--;\n", ";/*;*/", "\n;\n", ";;"]
                    .choose(&mut rng)
                    .unwrap(),
            );
        }
        if rng.random_bool(0.3) {
            text.push_str("select 1");
        }
        let messages = session.query(&text);
        if let Some(code) = error_code(&messages) {
            panic!("{code}: {text}");
        }
        let is = |wanted: u8| {
            messages
                .iter()
                .filter(|message| message.tag == wanted)
                .count()
        };
        run += is(tag::COMMAND_COMPLETE);
        assert_eq!(
            sql::split(&text, true).count(),
            is(tag::COMMAND_COMPLETE),
            "{text}"
        );
        assert_eq!(
            sql::classify(&text, true) == Kind::Empty,
            is(tag::EMPTY_QUERY) == 1,
            "{text}"
        );
        for statement in sql::split(&text, true) {
            assert!(
                session.accepts(&text[statement.clone()]),
                "{}",
                &text[statement]
            );
        }
    }
    println!("{run} statements run");
}

/// Values as one can write them. PostgreSQL must come to the same value.
const VALUES: &[&str] = &[
    "Foo",
    "\"Foo\"",
    "on",
    "TRUE",
    "-1",
    "+007",
    "- 1.50",
    "5000000000",
    "1e3",
    ".5",
    "'a''b'",
    "E'\\t\\x41\\101\\u0041\\q'",
    "E'\\ud83d\\ude00'",
    "U&'d\\0061t\\\\ \\d83d\\de00'",
    "U&'d!0061' uescape '!'",
    "$$a$$",
    "$x$'$$'$x$",
    "'a'\n'b'",
    "E'a\\n' --c\n '\\tb'",
    "é",
    "\"a\"\"b\"",
    "verbose",
    "U&\"\\0041b\"",
    "'\\n'",
    "0",
    "-0",
    "00",
    "1.",
    "''",
];

#[tokio::test]
async fn settings_get_the_values_that_postgresql_gives_them() {
    let (_server, mut session) = server().await;
    let names = [
        "a.b",
        "\"A\".B",
        "\"a.b\"",
        "U&\"\\0061.b\"",
        "A . /* x */ b",
    ];
    for name in names {
        for scope in ["", "session "] {
            for value in VALUES {
                for sign in [" = ", "=", " to "] {
                    let text = format!("set {scope}{name}{sign}{value}");
                    let Kind::Set {
                        local: false,
                        name,
                        value,
                        ..
                    } = sql::classify(&text, true)
                    else {
                        panic!("{text}")
                    };
                    assert_eq!(name, "a.b");
                    session.query("reset a.b");
                    assert_eq!(error_code(&session.query(&text)), None, "{text}");
                    assert_eq!(session.value("show a.b"), value.to_text(&name), "{text}");
                }
            }
        }
    }
    for text in [
        "set search_path = A, \"B c\", 'd', \"select\", x1",
        "set datestyle to german, dmy",
        "set schema 'a B'",
        "set time zone 'Europe/Vienna'",
        "set time zone utc",
        "set time zone -7",
        "set time zone 5.5",
        "set timezone to -3",
        "set names 'latin1'",
        "set xml option document",
        "set session application_name = 'x'",
        "set work_mem = 8192",
    ] {
        let Kind::Set { name, value, .. } = sql::classify(text, true) else {
            panic!("{text}")
        };
        assert_eq!(error_code(&session.query(text)), None, "{text}");
        let meant = session.value(&format!("select current_setting('{name}')"));
        session.query("reset all");
        let value = sql::quote_literal(&value.to_text(&name).unwrap());
        let set = session.query(&format!("select set_config('{name}', {value}, false)"));
        assert_eq!(error_code(&set), None, "{text}");
        assert_eq!(
            session.value(&format!("select current_setting('{name}')")),
            meant,
            "{text}"
        );
        session.query("reset all");
    }
}

#[tokio::test]
async fn names_are_quoted_as_postgresql_quotes_them() {
    let (_server, mut session) = server().await;
    for name in [
        "a", "A", "a b", "1a", "_a1", "a\"b", "é", "select", "int", "a$", "binary", "", "set",
        "name",
    ] {
        let literal = sql::quote_literal(name);
        let theirs = session
            .value(&format!("select quote_ident({literal})"))
            .unwrap();
        let ours = sql::quote_identifier(name);
        assert_eq!(
            session.value(&format!("select {literal}")).as_deref(),
            Some(name)
        );
        // PostgreSQL also quotes some keywords that may be names.
        assert!(
            ours == theirs || theirs == format!("\"{ours}\""),
            "{ours} {theirs}"
        );
    }
}

/// The encodings that PostgreSQL takes from clients only are those behind KOI8U, and in all of them ASCII bytes can be
/// parts of other characters.
#[tokio::test]
async fn unsafe_encodings_are_those_that_no_database_may_have() {
    let (_server, mut session) = server().await;
    let mut names: Vec<_> = [
        "big5",
        "gb18030",
        "gbk",
        "johab",
        "mskanji",
        "shift_jis",
        "shift_jis_2004",
        "sjis",
        "uhc",
        "win932",
        "win936",
        "win949",
        "win950",
        "windows-932",
        "Windows936",
        "WINDOWS_949",
        "windows950",
        "utf-8",
        "unicode",
        "win1252",
        "latin-1",
        "iso88591",
        "koi8",
        "abc",
        "alt",
        "tcvn",
        "vscii",
        "eucjis2004",
        "'gbk'",
    ]
    .map(str::to_owned)
    .into();
    for number in 0..64 {
        names.extend(session.value(&format!("select pg_encoding_to_char({number})")));
    }
    names.retain(|name| !name.is_empty());
    for name in names {
        let name_literal = sql::quote_literal(&name);
        let query =
            format!("select pg_char_to_encoding({name_literal}) <= pg_char_to_encoding('KOI8U')");
        let is_safe = session.value(&query).as_deref() == Some("t");
        assert_eq!(encoding::is_ascii_safe(&name), is_safe, "{name}");
        let query =
            format!("select pg_encoding_to_char(pg_char_to_encoding({name_literal})) = 'UTF8'");
        assert_eq!(
            encoding::is_utf8(&name),
            session.value(&query).as_deref() == Some("t"),
            "{name}"
        );
    }
}
