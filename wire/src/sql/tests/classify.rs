//! What kind of statement a text is.

use super::kind;
use crate::sql::{
    Arg, DiscardTarget, Isolation, Kind, ParamType, SetValue, SettingCall, TransactionModes,
    classify, is_ordinary, is_read_only_hint, mentions_setting_function, quote_identifier,
    quote_literal, takes_session_lock,
};

fn set(local: bool, name: &str, values: &[&str]) -> (bool, String, SetValue) {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    (local, name.to_owned(), SetValue::Values(values))
}

#[track_caller]
fn set_of(text: &str) -> (bool, String, SetValue) {
    match kind(text) {
        Kind::Set {
            local, name, value, ..
        } => (local, name, value),
        other => panic!("{text}: {other:?}"),
    }
}

/// The short way and the long one, which a blank in front makes necessary.
#[test]
fn a_word_alone_is_what_it_is_among_others() {
    for word in [
        "begin", "END", "Commit", "rollback", "abort", "bogus", "ends", "commits",
    ] {
        for text in [word.to_owned(), format!("{word};")] {
            let (short, long) = (kind(&text), format!(" {text}"));
            assert_eq!(short, kind(&long), "{text}");
        }
    }
    assert_eq!(kind("begin"), Kind::Begin(TransactionModes::default()));
    assert_eq!(kind("END;"), Kind::Commit { chain: false });
}

#[test]
fn queries_are_plain_and_nothing_is_empty() {
    for text in ["", " \n", ";", "-- a", "/* a */ ;"] {
        assert_eq!(kind(text), Kind::Empty, "{text:?}");
    }
    for text in [
        "select 1",
        "SELECT * FROM t WHERE set_at > 1;",
        "insert into temp values ('set_config')",
        "with a as (select 1) update t set x = 1",
        "(select 1)",
        "explain select 1",
        "set",
        "'select",
        "select 1; set tenantry.tenant = 7",
        "begin; commit",
        "do $$ begin end $$",
        "fetch all from c",
    ] {
        assert_eq!(kind(text), Kind::Plain, "{text}");
    }
}

#[test]
fn transactions_are_told_with_their_modes() {
    let none = TransactionModes::default();
    for text in [
        "begin",
        "BEGIN WORK;",
        "begin transaction",
        "start transaction",
        "/* a */ bEgIn -- b",
    ] {
        assert_eq!(kind(text), Kind::Begin(none), "{text}");
    }
    let all = TransactionModes {
        isolation: Some(Isolation::RepeatableRead),
        read_only: Some(true),
        deferrable: Some(false),
    };
    for text in [
        "begin isolation level repeatable read, read only, not deferrable",
        "start transaction isolation level repeatable read read only not deferrable",
        "begin read write read only not deferrable isolation level serializable isolation level repeatable read",
    ] {
        assert_eq!(kind(text), Kind::Begin(all), "{text}");
    }
    assert_eq!(
        all.to_string(),
        " ISOLATION LEVEL REPEATABLE READ READ ONLY NOT DEFERRABLE"
    );
    assert_eq!(
        kind("set transaction read only"),
        Kind::SetTransaction(TransactionModes {
            read_only: Some(true),
            ..none
        })
    );
    assert_eq!(
        kind("set local transaction read only"),
        kind("set transaction read only")
    );
    let characteristics =
        kind("set session characteristics as transaction isolation level serializable, read only");
    let Kind::SetSessionCharacteristics(modes) = characteristics else {
        panic!()
    };
    let settings: Vec<_> = modes.default_settings().collect();
    assert_eq!(
        settings,
        [
            ("default_transaction_isolation", "serializable".to_owned()),
            ("default_transaction_read_only", "on".to_owned()),
        ]
    );
    for text in [
        "begin isolation level",
        "begin read",
        "begin read only,",
        "begin x",
        "start",
        "start transaction,",
        "set transaction",
        "set transaction snapshot '1'",
    ] {
        assert_eq!(kind(text), Kind::Plain, "{text}");
    }
}

#[test]
fn ends_and_savepoints_are_told() {
    for text in [
        "commit",
        "end",
        "commit work",
        "end transaction;",
        "commit and no chain",
    ] {
        assert_eq!(kind(text), Kind::Commit { chain: false }, "{text}");
    }
    assert_eq!(
        kind("commit transaction and chain"),
        Kind::Commit { chain: true }
    );
    for text in ["rollback", "abort", "rollback work and no chain"] {
        assert_eq!(kind(text), Kind::Rollback { chain: false }, "{text}");
    }
    assert_eq!(kind("abort and chain"), Kind::Rollback { chain: true });
    assert_eq!(kind("savepoint A"), Kind::Savepoint("a".to_owned()));
    assert_eq!(kind("savepoint \"A\""), Kind::Savepoint("A".to_owned()));
    assert_eq!(kind("rollback to a"), Kind::RollbackTo("a".to_owned()));
    assert_eq!(
        kind("rollback work to savepoint a"),
        Kind::RollbackTo("a".to_owned())
    );
    assert_eq!(
        kind("rollback to savepoint"),
        Kind::RollbackTo("savepoint".to_owned())
    );
    assert_eq!(kind("release savepoint a"), Kind::Release("a".to_owned()));
    assert_eq!(
        kind("release savepoint"),
        Kind::Release("savepoint".to_owned())
    );
    assert_eq!(kind("prepare transaction 'a'"), Kind::PrepareTransaction);
    assert_eq!(kind("commit prepared 'a'"), Kind::NoTransaction);
    assert_eq!(kind("rollback prepared 'a'"), Kind::NoTransaction);
    for text in [
        "commit and",
        "commit x",
        "savepoint",
        "savepoint select",
        "savepoint a b",
        "abort to a",
        "rollback to",
        "end prepared 'a'",
    ] {
        assert_eq!(kind(text), Kind::Plain, "{text}");
    }
}

#[test]
fn the_tenant_setting_is_recognised_however_it_is_written() {
    for text in [
        "set tenantry.tenant = '7'",
        "SET Tenantry.TENANT TO 7",
        "set session tenantry.tenant='7';",
        "set \"tenantry\".\"tenant\" = '7'",
        "set \"tenantry.tenant\" = '7'",
        "set \"TENANTRY\".\"Tenant\" = '7'",
        "set tenantry . tenant = $$7$$",
        "set tenantry/**/.--\ntenant = E'\\x37'",
        r#"set U&"ten\0061ntry"."TENANT" = U&'\0037'"#,
        r#"set U&"ten!0061ntry.tenant" UESCAPE '!' to U&'!0037' uescape '!'"#,
        "set tenantry.tenant = ''\n'7'",
    ] {
        assert_eq!(
            set_of(text),
            set(false, "tenantry.tenant", &["7"]),
            "{text}"
        );
    }
    assert_eq!(
        set_of("set local tenantry.tenant = acme"),
        set(true, "tenantry.tenant", &["acme"])
    );
    assert_eq!(set_of("set tenantry.tenant = DEFAULT").2, SetValue::Default);
    assert_eq!(
        set_of("set tenantry.tenant from current").2,
        SetValue::FromCurrent
    );
    assert_eq!(
        kind("reset \"tenantry\".TENANT"),
        Kind::Reset("tenantry.tenant".to_owned())
    );
    assert_eq!(
        kind(r#"show U&"\+000074enantry.tenant""#),
        Kind::Show("tenantry.tenant".to_owned())
    );
    assert_eq!(kind("set tenantry.tenant = a-b"), Kind::Plain);
    assert_eq!(kind("set tenantry.tenant ="), Kind::Plain);
}

#[test]
fn values_are_what_postgresql_makes_of_them() {
    for (text, values) in [
        ("set a = Foo", &["foo"][..]),
        ("set a = \"Foo\"", &["Foo"]),
        ("set a to on", &["on"]),
        ("set a = TRUE", &["true"]),
        ("set a=-1", &["-1"]),
        ("set a = + 007", &["7"]),
        ("set a = -1.50", &["-1.50"]),
        ("set a = 5000000000", &["5000000000"]),
        ("set a = 0x1F", &["31"]),
        ("set a = x, \"Y\", 'z z'", &["x", "Y", "z z"]),
        ("set a = verbose", &["verbose"]),
        (r"set a = E'\t\x41\101\u0041\U00000041\q'''", &["\tAAAAq'"]),
        (r"set a = E'\ud83d\ude00'", &["😀"]),
        (r"set a = U&'d\0061t\\ \d83d\de00'", &[r"dat\ 😀"]),
    ] {
        assert_eq!(set_of(text), set(false, "a", values), "{text}");
    }
    for text in [
        "set a = select",
        "set a = null",
        "set a = x'1'",
        "set a = $1",
        "set a b",
        "set a = b c",
        "set a = b,",
        "set a := b",
        "set select = b",
        "set \"\" = b",
        "set a = -'1'",
        r"set a = E'\ud83d'",
        r"set a = E'\u00'",
        r"set a = E'\0'",
        r"set a = U&'\00g1'",
        "set a = U&'!0041' uescape 'a'",
        "set a = 'b",
    ] {
        assert_eq!(kind(text), Kind::Plain, "{text}");
    }
}

#[test]
fn names_are_cut_at_63_bytes() {
    let long = "é".repeat(40);
    assert_eq!(
        kind(&format!("listen {long}")),
        Kind::Listen("é".repeat(31))
    );
}

#[test]
fn special_forms_map_to_their_settings() {
    for (text, name, values) in [
        (
            "set time zone 'Europe/Vienna'",
            "timezone",
            &["Europe/Vienna"][..],
        ),
        ("set time zone utc", "timezone", &["utc"]),
        ("set local time zone -7.5", "timezone", &["-7.5"]),
        ("set names 'LATIN1'", "client_encoding", &["LATIN1"]),
        ("set schema 'a'", "search_path", &["a"]),
        ("set xml option document", "xmloption", &["document"]),
        ("set time = 1", "time", &["1"]),
        ("set names.x to 1", "names.x", &["1"]),
        ("set local = 1", "local", &["1"]),
        ("set session.a = 1", "session.a", &["1"]),
        ("set transaction.a = 1", "transaction.a", &["1"]),
        ("set constraints.a = 1", "constraints.a", &["1"]),
        ("set session local = 1", "local", &["1"]),
        ("set session characteristics = 1", "characteristics", &["1"]),
        ("set session time zone 'UTC'", "timezone", &["UTC"]),
    ] {
        let (_, found, value) = set_of(text);
        assert_eq!(
            (found.as_str(), value),
            (name, set(false, "", values).2),
            "{text}"
        );
    }
    for text in [
        "set time zone local",
        "set time zone default",
        "set names",
        "set names default",
    ] {
        assert_eq!(set_of(text).2, SetValue::Default, "{text}");
    }
    assert_eq!(
        set_of("set time zone interval '-8' hour to minute").2,
        SetValue::Interval
    );
    assert_eq!(
        set_of("set time zone interval(3) '-8'").2,
        SetValue::Interval
    );
    let role = |local, value: &str| Kind::SetRole {
        local,
        value: SetValue::Values(vec![value.to_owned()]),
    };
    assert_eq!(kind("set role none"), role(false, "none"));
    assert_eq!(kind("set local role \"A\""), role(true, "A"));
    assert_eq!(kind("set role = 'a'"), role(false, "a"));
    let authorization = |value| Kind::SetSessionAuthorization {
        local: false,
        value,
    };
    assert_eq!(
        kind("set session authorization default"),
        authorization(SetValue::Default)
    );
    let named = SetValue::Values(vec!["a".to_owned()]);
    assert_eq!(
        kind("set session session authorization 'a'"),
        authorization(named.clone())
    );
    assert_eq!(kind("set session_authorization to a"), authorization(named));
    assert_eq!(kind("set constraints all deferred"), Kind::Plain);
    assert_eq!(kind("set time zone"), Kind::Plain);
    for (text, name) in [
        ("time zone", "timezone"),
        ("transaction isolation level", "transaction_isolation"),
        ("session authorization", "session_authorization"),
        ("A.b", "a.b"),
    ] {
        assert_eq!(kind(&format!("reset {text}")), Kind::Reset(name.to_owned()));
        assert_eq!(kind(&format!("show {text}")), Kind::Show(name.to_owned()));
    }
    assert_eq!(kind("reset all"), Kind::ResetAll);
    assert_eq!(kind("show all;"), Kind::ShowAll);
    assert_eq!(kind("show a b"), Kind::Plain);
}

#[test]
fn the_tail_and_the_text_of_a_value_are_kept() {
    let Kind::Set {
        tail, value, name, ..
    } = kind("set local search_path = A, \"B c\", 'd' ; ")
    else {
        panic!()
    };
    assert_eq!(tail, b"search_path = A, \"B c\", 'd'");
    assert_eq!(value.to_text(&name).as_deref(), Some("a, \"B c\", d"));
    assert_eq!(value.to_text("datestyle").as_deref(), Some("a, B c, d"));
    assert_eq!(SetValue::Default.to_text("a"), None);
}

fn literal(text: &str) -> Arg {
    Arg::Literal(text.to_owned())
}

fn set_call(name: Arg, value: Arg, local: Arg) -> SettingCall {
    SettingCall::Set {
        name,
        value,
        local,
        alias: None,
    }
}

#[track_caller]
fn calls(text: &str, expected_whole: bool) -> Vec<SettingCall> {
    match kind(text) {
        Kind::SetConfig { calls, whole } if whole == expected_whole => calls,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn set_config_alone_is_read_with_its_arguments() {
    let tenant = || literal("tenantry.tenant");
    for (text, expected) in [
        (
            "select set_config('tenantry.tenant', '7', true)",
            set_call(tenant(), literal("7"), Arg::Bool(true)),
        ),
        (
            "SELECT pg_catalog.set_config('Tenantry.TENANT', $1, false);",
            set_call(tenant(), Arg::Param(1), Arg::Bool(false)),
        ),
        (
            "select \"set_config\" ($1::text, $2::varchar, $3::bool)",
            set_call(Arg::Param(1), Arg::Param(2), Arg::Param(3)),
        ),
        (
            "select U&\"set\\005fconfig\"('tenantry.tenant', '7', 't')",
            set_call(tenant(), literal("7"), literal("t")),
        ),
        (
            "select set_config('tenantry.tenant'::text, $1::bigint::text, 'yes'::bool)",
            set_call(
                tenant(),
                Arg::TypedParam(1, ParamType::Bigint),
                Arg::Bool(true),
            ),
        ),
        (
            "select set_config('tenantry.tenant', CAST($2 AS text), true)",
            set_call(tenant(), Arg::Param(2), Arg::Bool(true)),
        ),
        (
            "select set_config('tenantry.tenant', CAST($2::uuid AS text), true)",
            set_call(
                tenant(),
                Arg::TypedParam(2, ParamType::Uuid),
                Arg::Bool(true),
            ),
        ),
        (
            "select set_config('tenantry.tenant', 7::text, true)",
            set_call(tenant(), literal("7"), Arg::Bool(true)),
        ),
        // As PostgreSQL's JDBC driver writes parameters into the text.
        (
            "select set_config(('tenantry.tenant'), (('7')::text), ('t')::bool)",
            set_call(tenant(), literal("7"), Arg::Bool(true)),
        ),
        (
            "select set_config('tenantry.tenant', ('7'::int8)::text, (true))",
            set_call(tenant(), literal("7"), Arg::Bool(true)),
        ),
        (
            "select set_config('tenantry.tenant', ('x'::int8)::text, true)",
            set_call(tenant(), Arg::Other, Arg::Bool(true)),
        ),
        (
            "select set_config('tenantry.tenant', ('7', '8'), true)",
            set_call(tenant(), Arg::Other, Arg::Bool(true)),
        ),
        (
            "select set_config('tenantry.tenant', null, true)",
            set_call(tenant(), Arg::Null, Arg::Bool(true)),
        ),
        (
            "select set_config('tenantry.tenant', a || f(b, 'c'), true)",
            set_call(tenant(), Arg::Other, Arg::Bool(true)),
        ),
        (
            "select set_config('tenantry.tenant', 7, true)",
            set_call(tenant(), Arg::Other, Arg::Bool(true)),
        ),
    ] {
        assert_eq!(calls(text, true), [expected], "{text}");
    }
    assert_eq!(literal("Y").as_bool(), Some(true));
    assert_eq!(literal(" off ").as_bool(), Some(false));
    assert_eq!(literal("o").as_bool(), None);
    assert_eq!(Arg::Param(1).as_bool(), None);
}

#[test]
fn several_calls_and_aliases_are_read() {
    let found = calls(
        "select set_config('a', 'b', false) AS \"X\", current_setting('tenantry.tenant', true) y, current_setting('c')",
        true,
    );
    let columns: Vec<_> = found.iter().map(SettingCall::column).collect();
    assert_eq!(columns, ["X", "y", "current_setting"]);
    assert_eq!(found[1].name(), &literal("tenantry.tenant"));
    assert!(matches!(
        &found[1],
        SettingCall::Current {
            missing_ok: Some(Arg::Bool(true)),
            ..
        }
    ));
}

#[test]
fn calls_inside_other_statements_are_listed() {
    let one = set_call(literal("a"), literal("b"), Arg::Bool(true));
    for text in [
        "select set_config('a', 'b', true), 1",
        "select set_config('a', 'b', true) from t",
        "select set_config('a', 'b', true)::text",
        "with x as (select set_config('a', 'b', true)) select * from x",
        "insert into t values (set_config('a', 'b', true))",
        "explain analyze select pg_catalog . set_config('a', 'b', true)",
        "call p(set_config('a', 'b', true))",
        "create table t as select set_config('a', 'b', true)",
        "select 1 where set_config('a', 'b', true) = $$;$$",
    ] {
        assert_eq!(
            calls(text, false).as_slice(),
            std::slice::from_ref(&one),
            "{text}"
        );
    }
    let nested = calls("select set_config('a', current_setting('b'), true)", true);
    assert_eq!(
        nested,
        [set_call(literal("a"), Arg::Other, Arg::Bool(true))]
    );
    assert_eq!(
        calls(
            "select 1, set_config('a', current_setting('b'), true)",
            false
        )
        .len(),
        2
    );
    for text in [
        "select 'set_config'",
        "select set_config from t",
        "select other.set_config('a', 'b', true)",
        "select set_config('a')",
        "select set_config_x(1)",
    ] {
        assert_eq!(kind(text), Kind::Plain, "{text}");
    }
}

#[test]
fn prepared_statements_of_sql_are_read() {
    let text = "prepare A (int, numeric(10, 2), text[]) as select $1; ";
    let Kind::PrepareStatement { name, types, text } = kind(text) else {
        panic!()
    };
    assert_eq!((name.as_str(), text), ("a", &b"select $1"[..]));
    assert_eq!(types, [&b"int"[..], b"numeric(10, 2)", b"text[]"]);
    assert!(matches!(
        kind("prepare transaction as select 1"),
        Kind::PrepareStatement { .. }
    ));
    assert_eq!(
        kind("execute a"),
        Kind::ExecuteStatement {
            name: "a".to_owned(),
            args: b""
        }
    );
    assert_eq!(
        kind("execute a (1, f(2), ')')"),
        Kind::ExecuteStatement {
            name: "a".to_owned(),
            args: b"1, f(2), ')'"
        }
    );
    assert_eq!(kind("deallocate a"), Kind::Deallocate("a".to_owned()));
    assert_eq!(
        kind("deallocate prepare \"A\""),
        Kind::Deallocate("A".to_owned())
    );
    assert_eq!(
        kind("deallocate prepare"),
        Kind::Deallocate("prepare".to_owned())
    );
    assert_eq!(kind("deallocate prepare all"), Kind::DeallocateAll);
    assert_eq!(
        kind("deallocate \"all\""),
        Kind::Deallocate("all".to_owned())
    );
    for text in [
        "prepare a",
        "prepare a as",
        "prepare a as set b = 1",
        "prepare a () as select 1",
        "prepare a (int,) as select 1",
        "prepare a as select 1; select 2",
        "prepare a as select (1",
        "execute a ()",
        "execute a (1",
        "execute a 1",
        "deallocate",
    ] {
        assert_eq!(kind(text), Kind::Plain, "{text}");
    }
}

#[test]
fn the_rest_of_the_list_is_told() {
    let channel = || "a".to_owned();
    assert_eq!(kind("discard all"), Kind::Discard(DiscardTarget::All));
    assert_eq!(
        kind("discard temporary"),
        Kind::Discard(DiscardTarget::Temp)
    );
    assert_eq!(kind("listen A"), Kind::Listen(channel()));
    assert_eq!(kind("unlisten *"), Kind::Unlisten(None));
    assert_eq!(kind("unlisten a"), Kind::Unlisten(Some(channel())));
    assert_eq!(
        kind("notify a"),
        Kind::Notify {
            channel: channel(),
            payload: None
        }
    );
    assert_eq!(
        kind("notify a, 'b'"),
        Kind::Notify {
            channel: channel(),
            payload: Some("b".to_owned())
        }
    );
    for (text, table) in [
        ("copy t from stdin", &b"t"[..]),
        (
            "COPY public.\"T\" (a, b) FROM STDIN WITH (FORMAT csv)",
            b"public.\"T\"",
        ),
        ("copy binary t from stdin", b"t"),
        ("copy t from stdout", b"t"),
        ("copy t from stdin csv header;", b"t"),
    ] {
        assert_eq!(kind(text), Kind::CopyFromStdin { table }, "{text}");
    }
    for text in [
        "copy t to stdout",
        "copy (select ';)') to stdout with csv",
        "copy t (a) to stdin",
    ] {
        assert_eq!(kind(text), Kind::CopyToStdout, "{text}");
    }
    for text in [
        "copy t from 'file'",
        "copy t to program 'x'",
        "copy (select 1) from stdin",
        "discard",
        "discard x",
        "listen",
        "notify a b",
        "notify a,",
        "copy",
    ] {
        assert_eq!(kind(text), Kind::Plain, "{text}");
    }
    assert_eq!(kind("lock table t"), Kind::LockTable);
    for text in [
        "alter role a set b = c",
        "alter user a",
        "alter group a add user b",
    ] {
        assert_eq!(kind(text), Kind::AlterRole, "{text}");
    }
    assert_eq!(kind("alter user mapping for a server b"), Kind::Plain);
    let cursor = |hold, query: Option<&'static str>| Kind::DeclareCursor {
        name: "c".to_owned(),
        hold,
        query: query.map(str::as_bytes),
    };
    assert_eq!(
        kind("declare c cursor for select 1"),
        cursor(false, Some("select 1"))
    );
    assert_eq!(
        kind("declare c binary no scroll cursor without hold for select 1"),
        cursor(false, None)
    );
    assert_eq!(
        kind("declare c scroll cursor with hold for select 1"),
        cursor(true, None)
    );
    let close = |name: Option<&str>| Kind::CloseCursor(name.map(str::to_owned));
    assert_eq!(kind("close all"), close(None));
    assert_eq!(kind("CLOSE \"All\";"), close(Some("All")));
    assert_eq!(kind("close C"), close(Some("c")));
    for text in [
        "create temp table t (a int)",
        "create local temporary table t ()",
        "create or replace temp view v as select 1",
        "create function pg_temp.f() returns int as ''",
        "select 1 into temp t",
        "select 1 into local temporary table t",
        "with a as (select 1) select * into temp t from a",
    ] {
        assert_eq!(kind(text), Kind::CreateTemp, "{text}");
    }
    for text in [
        "vacuum",
        "create database d",
        "create unique index concurrently i on t (a)",
        "drop index concurrently i",
        "reindex table concurrently t",
        "reindex database d",
        "cluster",
        "alter system set a = b",
        "alter table t detach partition p concurrently",
        "drop subscription s",
    ] {
        assert_eq!(kind(text), Kind::NoTransaction, "{text}");
    }
    for text in [
        "create index i on t (a)",
        "reindex table t",
        "cluster t",
        "alter table t add a int",
        "drop table t",
        "create table t (a int)",
    ] {
        assert_eq!(kind(text), Kind::Plain, "{text}");
    }
    assert_eq!(kind("truncate t"), Kind::Truncate);
}

#[test]
fn what_is_not_utf8_is_said_so() {
    assert_eq!(
        classify(b"set a = 'caf\xe9'".as_slice(), true),
        Kind::NotUtf8
    );
    assert_eq!(classify(b"listen caf\xe9".as_slice(), true), Kind::NotUtf8);
    assert_eq!(classify(b"select 'caf\xe9'".as_slice(), true), Kind::Plain);
}

#[test]
fn strings_that_do_not_conform_are_read_with_escapes() {
    let Kind::Set { value, .. } = classify(r"set a = 'b\'c'", false) else {
        panic!()
    };
    assert_eq!(value, SetValue::Values(vec!["b'c".to_owned()]));
    assert_eq!(classify(r"set a = U&'b'", false), Kind::Plain);
}

#[test]
fn hints_err_to_the_safe_side() {
    for text in [
        "select 1",
        "(select 1) union (select 2);",
        "values (1)",
        "table t",
        "show a",
        "explain select 1",
        "with a as (select 1) select * from a",
    ] {
        assert!(is_read_only_hint(text, true), "{text}");
    }
    for text in [
        "select 1 into t",
        "select 1 for update",
        "select 1 for no key update",
        "with a as (delete from t returning 1) select 1",
        "explain analyze select 1",
        "explain (analyze) delete from t",
        "insert into t values (1)",
        "select 1; select 2",
        "select 'a",
        "call p()",
    ] {
        assert!(!is_read_only_hint(text, true), "{text}");
    }
    assert!(takes_session_lock(b"select PG_ADVISORY_LOCK(1)"));
    assert!(takes_session_lock(b"select pg_try_advisory_lock_shared(1)"));
    assert!(!takes_session_lock(
        b"select pg_advisory_xact_lock(1), pg_advisory_unlock(1)"
    ));
    for ordinary in [
        "select 1",
        "\n Select order_line_count, t.product_shop from pg_settlement where a_b = $1 ;\n",
        "with a as (select 1) select * from a",
        "insert into temperature values ('x & y')",
        "UPDATE t SET c_s = 'ü'",
        "delete from t",
    ] {
        assert!(is_ordinary(ordinary.as_bytes()), "{ordinary}");
    }
    for other in [
        "",
        "-- a\nselect 1",
        "selec 1",
        "table t",
        "begin",
        "select 1; select 2",
        "select 'a\\'",
        "select SET_CONFIG('a', 'b', true)",
        "select current_setting('a')",
        "select u&\"a\"",
        "select query_to_xml('a')",
        "select ts_stat('a')",
        "select ts_rewrite(a, 'b')",
        "update pg_settings set setting = 1",
        "select pg_advisory_lock(1)",
        "select pg_backend_pid()",
        "select 1 into temp t",
    ] {
        assert!(!is_ordinary(other.as_bytes()), "{other}");
    }
    assert!(mentions_setting_function(b"SELECT Set_Config("));
    assert!(mentions_setting_function(b"select u&\"x\""));
    assert!(!mentions_setting_function(
        b"_ & set_ _config current_settin a&\"b\" set_confi"
    ));
}

#[test]
fn quoting_says_what_was_meant() {
    assert_eq!(quote_identifier("a_1"), "a_1");
    assert_eq!(quote_identifier("A"), "\"A\"");
    assert_eq!(quote_identifier("1a"), "\"1a\"");
    assert_eq!(quote_identifier("select"), "\"select\"");
    assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
    assert_eq!(quote_literal("it's"), "'it''s'");
    assert_eq!(quote_literal(r"a\b"), r"E'a\\b'");
}
