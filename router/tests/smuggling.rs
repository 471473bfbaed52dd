//! What a tenant's statements leave behind where the router cannot follow them: never another tenant's rows, never a
//! setting for the next client.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Setup, setup_with};
use tenantry_testkit::{Fleet, RawClient, error_of, rows_of};
use tenantry_wire::frontend::{self, Format};

/// One connection, so that whoever comes next gets what was left.
async fn one_connection() -> Setup {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 1;
    })
    .await;
    setup.seed().await;
    setup
}

/// The SQLSTATE of the error, or nothing.
async fn code(client: &mut RawClient, text: &str) -> String {
    let messages = client.query(text).await.unwrap();
    error_of(&messages).map_or_else(String::new, |error| error.code)
}

/// The one value of the last row.
async fn value(client: &mut RawClient, text: &str) -> Option<String> {
    let messages = client.query(text).await.unwrap();
    assert_eq!(error_of(&messages), None, "{text}");
    rows_of(&messages)
        .pop()
        .and_then(|row| row.into_iter().next().flatten())
}

/// Parse, Bind and Execute of the unnamed statement, and Sync.
async fn extended(client: &mut RawClient, text: &str, parameters: &[&str]) -> String {
    client
        .send(|out| {
            frontend::put_parse(out, "", text, &[]);
            let values: Vec<Option<&[u8]>> = parameters
                .iter()
                .map(|text| Some(text.as_bytes()))
                .collect();
            frontend::put_bind(out, "", "", &values, Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    let messages = client.until_ready().await.unwrap();
    error_of(&messages).map_or_else(String::new, |error| error.code)
}

#[tokio::test]
async fn a_transaction_that_failed_before_it_began_falls_back_to_its_own_tenant() {
    let setup = one_connection().await;
    let mut a = setup.raw_for(0).await;
    let mut b = setup.raw_for(1).await;
    let foreign = Some(format!("tenant-{}", setup.id(0)));
    a.query("SELECT kind FROM events").await.unwrap();
    for text in ["BEGIN", "SAVEPOINT s"] {
        assert_eq!(code(&mut b, text).await, "");
    }
    assert_eq!(code(&mut b, "LOCK TABLE events").await, "42501");
    assert_eq!(code(&mut b, "SELECT 1").await, "25P02");
    assert_eq!(code(&mut b, "ROLLBACK TO s").await, "");
    assert_eq!(code(&mut b, "SELECT 1").await, "");
    // Both in one write, so that the router reads the second as it was before the first.
    b.send(|out| {
        frontend::put_query(out, "SET LOCAL standard_conforming_strings = off");
        frontend::put_query(out, r"SELECT '\''; ROLLBACK; SELECT kind FROM events --'");
    })
    .await
    .unwrap();
    let mut messages = b.until_ready().await.unwrap();
    messages.extend(b.until_ready().await.unwrap());
    let rows = rows_of(&messages);
    assert!(rows.len() > 1, "the rollback was not hidden: {rows:?}");
    assert!(!rows.iter().flatten().any(|value| *value == foreign));
}

#[tokio::test]
async fn no_way_of_setting_an_unsafe_encoding_or_a_role_is_open() {
    let setup = one_connection().await;
    for (name, wanted, refusal) in [
        ("client_encoding", "SJIS", "0A000"),
        ("Client_Encoding", "gbk", "0A000"),
        ("role", "tenantry_copy", "42501"),
        ("session_authorization", "tenantry_copy", "42501"),
    ] {
        for local in ["true", "false"] {
            let mut client = setup.raw_for(0).await;
            let by_parameters = format!("SELECT set_config($1, $2, {local})");
            let found = extended(&mut client, &by_parameters, &[name, wanted]).await;
            assert_eq!(found, refusal, "{name} {by_parameters}");
            let by_value = format!("SELECT 1, set_config('{name}', $1, {local})");
            let found = extended(&mut client, &by_value, &[wanted]).await;
            assert_eq!(found, refusal, "{name} {by_value}");
            let by_name = format!("SELECT 1, set_config($1, '{wanted}', {local})");
            let found = extended(&mut client, &by_name, &[name]).await;
            assert_eq!(found, refusal, "{name} {by_name}");
            let whole = format!("PREPARE p AS SELECT set_config('{name}', '{wanted}', {local})");
            assert_eq!(code(&mut client, &whole).await, refusal, "{whole}");
            let (other, call) = (
                format!("PREPARE q(text) AS SELECT set_config('{name}', $1, {local})"),
                format!("EXECUTE q('{wanted}')"),
            );
            let prepared = code(&mut client, &other).await;
            let executed = code(&mut client, &call).await;
            assert!(
                [&prepared, &executed].contains(&&refusal.to_owned()),
                "{other}: {prepared} {executed}"
            );
            assert_eq!(
                value(&mut client, "SHOW client_encoding").await.as_deref(),
                Some("UTF8")
            );
            assert_eq!(
                value(&mut client, "SELECT current_user").await.as_deref(),
                Some("tenantry_app")
            );
        }
    }
    // Those that hide nothing go on.
    let mut client = setup.raw_for(0).await;
    let set = "SELECT set_config($1, $2, false)";
    assert_eq!(
        extended(&mut client, set, &["client_encoding", "LATIN1"]).await,
        ""
    );
    assert_eq!(
        value(&mut client, "SHOW client_encoding").await.as_deref(),
        Some("LATIN1")
    );
}

#[tokio::test]
async fn an_encoding_that_was_set_unseen_costs_the_connection() {
    let setup = one_connection().await;
    let mut client = setup.raw_for(0).await;
    let computed = "SELECT set_config('client_' || 'encoding', 'SJIS', false)";
    client.query(computed).await.unwrap();
    assert_eq!(
        value(&mut client, "SHOW client_encoding").await.as_deref(),
        Some("UTF8")
    );
}

/// What the next client of the connection would see of a setting.
async fn reaches_the_next(setup: &Setup, statements: &[&str]) -> Vec<Option<String>> {
    let shown = ["SHOW search_path", "SHOW application_name"];
    let mut next = setup.raw_for(1).await;
    let mut before = Vec::new();
    for text in shown {
        before.push(value(&mut next, text).await);
    }
    let mut client = setup.raw_for(0).await;
    for text in statements {
        assert_eq!(code(&mut client, text).await, "", "{text}");
    }
    drop(client);
    let mut after = Vec::new();
    for text in shown {
        after.push(value(&mut next, text).await);
    }
    if before == after { Vec::new() } else { after }
}

#[tokio::test]
async fn what_prepared_statements_set_stays_with_their_client() {
    let setup = one_connection().await;
    let tricks: &[&[&str]] = &[
        &[
            "PREPARE p(int /*AS select set_config('application_name','x',false), ' */ []) \
             AS SELECT set_config('search_path','evil',false)",
            "EXECUTE p(NULL)",
        ],
        &[
            "SET standard_conforming_strings = off",
            r"PREPARE p AS SELECT set_config('application_name','x',false), 'a\'', set_config('search_path','evil',false) -- '",
            "EXECUTE p",
        ],
        &[
            "PREPARE p AS SELECT set_config('application_name','x',false), (SELECT set_config('search_path','evil',false))",
            "EXECUTE p",
        ],
        &[
            "PREPARE p(text) AS SELECT set_config($1,'evil',false)",
            "EXECUTE p('search_path')",
        ],
    ];
    for statements in tricks {
        let found = reaches_the_next(&setup, statements).await;
        assert!(found.is_empty(), "{statements:?}: {found:?}");
    }
}

#[tokio::test]
async fn what_a_statement_sets_under_other_rules_for_strings_stays_with_its_client() {
    let setup = one_connection().await;
    let text = r"SELECT set_config('application_name','x',false), 'a\'', set_config('search_path','evil',false) -- '";
    for (at_parse, at_bind) in [("off", "on"), ("on", "off")] {
        let mut next = setup.raw_for(1).await;
        let before = value(&mut next, "SHOW search_path").await;
        let mut client = setup.raw_for(0).await;
        code(
            &mut client,
            &format!("SET standard_conforming_strings = {at_parse}"),
        )
        .await;
        client
            .send(|out| {
                frontend::put_parse(out, "p", text, &[]);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        client.until_ready().await.unwrap();
        code(
            &mut client,
            &format!("SET standard_conforming_strings = {at_bind}"),
        )
        .await;
        client
            .send(|out| {
                frontend::put_bind(out, "", "p", &[], Format::Text);
                frontend::put_execute(out, "", 0);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        client.until_ready().await.unwrap();
        drop(client);
        assert_eq!(
            value(&mut next, "SHOW search_path").await,
            before,
            "{at_parse} {at_bind}"
        );
    }
}

#[tokio::test]
async fn what_a_prepared_statement_holds_is_given_up_with_its_client() {
    let setup = one_connection().await;
    let mut client = setup.raw_for(0).await;
    // Parsed where it is a cursor, bound where it reads like nothing at all.
    code(&mut client, "SET standard_conforming_strings = off").await;
    client
        .send(|out| {
            let text = r"DECLARE c CURSOR WITH HOLD FOR SELECT '\''";
            frontend::put_parse(out, "p", text, &[]);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    assert_eq!(error_of(&client.until_ready().await.unwrap()), None);
    code(&mut client, "SET standard_conforming_strings = on").await;
    client
        .send(|out| {
            frontend::put_bind(out, "", "p", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    assert_eq!(error_of(&client.until_ready().await.unwrap()), None);
    drop(client);
    let mut next = setup.raw_for(1).await;
    assert_eq!(code(&mut next, "FETCH c").await, "34000");
}

#[tokio::test]
async fn a_set_behind_other_rules_for_strings_stays_with_its_client() {
    let setup = one_connection().await;
    let mut next = setup.raw_for(1).await;
    let before = value(&mut next, "SHOW search_path").await;
    for first in [
        "SET standard_conforming_strings = off",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
    ] {
        let mut client = setup.raw_for(0).await;
        // In one write: the second is read by the rules that were in force before the first.
        client
            .send(|out| {
                frontend::put_query(out, first);
                frontend::put_query(out, r"SELECT '\''; SET search_path = evil; --'");
            })
            .await
            .unwrap();
        client.until_ready().await.unwrap();
        client.until_ready().await.unwrap();
        drop(client);
        assert_eq!(
            value(&mut next, "SHOW search_path").await,
            before,
            "{first}"
        );
    }
}

#[tokio::test]
async fn modes_of_a_transaction_end_with_it() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 2;
    })
    .await;
    setup.seed().await;
    let modes = [
        ("transaction_isolation", "serializable", "read committed"),
        ("transaction_read_only", "on", "off"),
        ("transaction_deferrable", "on", "off"),
    ];
    for (name, set, otherwise) in modes {
        for (begin, how) in [
            ("", format!("SET {name} = '{set}'")),
            ("BEGIN", format!("SET {name} = '{set}'")),
            ("BEGIN", format!("SET LOCAL {name} TO '{set}'")),
            ("BEGIN", format!("SET SESSION {name} TO '{set}'")),
            (
                "BEGIN; SELECT 1",
                "SELECT set_config('transaction_read_only', 'on', false)".to_owned(),
            ),
        ] {
            let mut client = setup.raw_for(0).await;
            code(&mut client, begin).await;
            assert_eq!(code(&mut client, &how).await, "", "{begin} {how}");
            if begin == "BEGIN" {
                let now = value(&mut client, &format!("SHOW {name}")).await;
                assert_eq!(now.as_deref(), Some(set), "{how}");
                assert_eq!(code(&mut client, "SELECT kind FROM events").await, "");
            }
            code(&mut client, "COMMIT").await;
            // The other connection of the pool and this one.
            let mut other = setup.raw_for(1).await;
            for text in ["BEGIN", "SELECT 1"] {
                assert_eq!(code(&mut other, text).await, "");
            }
            assert_eq!(
                code(&mut client, "SELECT kind FROM events").await,
                "",
                "{begin} {how}"
            );
            let now = value(&mut client, &format!("SHOW {name}")).await;
            assert_eq!(now.as_deref(), Some(otherwise), "{begin} {how}");
            code(&mut other, "ROLLBACK").await;
            let now = value(&mut client, &format!("SHOW {name}")).await;
            assert_eq!(now.as_deref(), Some(otherwise), "{begin} {how}");
        }
    }
}

#[tokio::test]
async fn a_transaction_never_goes_on_for_another_tenant() {
    let setup = setup_with(Fleet::builder().shards(2).tenants(6), |config| {
        config.pool_size = 1;
    })
    .await;
    setup.seed().await;
    let [a, b] = setup.two_tenants().await;
    let login = |tenant: &str| setup.login(&format!("shop.{tenant}"));
    let shown = "SELECT kind FROM events";
    let ways: [(&[&str], &[&str]); 4] = [
        (&["BEGIN", "SAVEPOINT s"], &["ROLLBACK TO s"]),
        (&["BEGIN", "SELECT 1", "SAVEPOINT s"], &["ROLLBACK TO s"]),
        (&["BEGIN"], &["COMMIT AND CHAIN"]),
        (&["BEGIN"], &["ROLLBACK AND CHAIN"]),
    ];
    for (start, back) in ways {
        for reads in [false, true] {
            let mut client = RawClient::login(setup.address, &login(&a)).await.unwrap();
            for text in start {
                assert_eq!(code(&mut client, text).await, "", "{text}");
            }
            let switched = code(&mut client, &format!("SET LOCAL tenantry.tenant = '{b}'")).await;
            if reads {
                code(&mut client, shown).await;
            }
            let mut said = Vec::new();
            for text in back {
                said.push(code(&mut client, text).await);
            }
            let messages = client.query(shown).await.unwrap();
            // Rows of the tenant that the session has gone back to, or a refusal.
            match error_of(&messages) {
                None => assert_eq!(
                    rows_of(&messages),
                    vec![vec![Some(format!("tenant-{a}"))]],
                    "{start:?} {switched} {back:?} {reads} {said:?}"
                ),
                Some(error) => {
                    println!(
                        "{start:?} {switched} {back:?} {reads} {said:?} {}",
                        error.code
                    );
                    assert!(
                        ["25P02", "25001"].contains(&error.code.as_str()),
                        "{error:?}"
                    );
                }
            }
            code(&mut client, "ROLLBACK").await;
            assert_eq!(value(&mut client, shown).await, Some(format!("tenant-{a}")));
        }
    }
}

/// What a client finds that starts with `search_path=app`.
async fn found_by_app(setup: &Setup) -> Option<String> {
    let login = setup
        .login(&format!("shop.{}", setup.id(1)))
        .parameter("options", "-c search_path=app");
    let mut next = RawClient::login(setup.address, &login).await.unwrap();
    value(&mut next, "SHOW search_path").await
}

#[tokio::test]
async fn a_call_that_did_not_run_is_not_taken_for_one_that_did() {
    let setup = one_connection().await;
    let mut client = setup.raw_for(0).await;
    for text in [
        "SET search_path = evil",
        "SELECT set_config('search_path', 'app', false) WHERE false",
    ] {
        assert_eq!(code(&mut client, text).await, "");
    }
    drop(client);
    assert_eq!(found_by_app(&setup).await.as_deref(), Some("app"));

    // A portal that has run does not run again.
    let mut client = setup.raw_for(0).await;
    assert_eq!(code(&mut client, "BEGIN").await, "");
    client
        .send(|out| {
            let text = "SELECT set_config('search_path', 'app', false)";
            frontend::put_parse(out, "", text, &[]);
            frontend::put_bind(out, "again", "", &[], Format::Text);
            frontend::put_execute(out, "again", 0);
            frontend::put_parse(
                out,
                "",
                "SELECT set_config('search_path', 'evil', false)",
                &[],
            );
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_execute(out, "again", 0);
            frontend::put_sync(out);
        })
        .await
        .unwrap();
    assert_eq!(error_of(&client.until_ready().await.unwrap()), None);
    assert_eq!(code(&mut client, "COMMIT").await, "");
    drop(client);
    assert_eq!(found_by_app(&setup).await.as_deref(), Some("app"));
}
