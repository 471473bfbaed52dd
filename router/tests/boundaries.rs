//! Where one transaction ends and a statement for another tenant follows, however little time is between them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use bytes::BytesMut;
use common::setup_with;
use tenantry_testkit::{Fleet, RawClient, error_of, rows_of};
use tenantry_wire::frontend::{self, Format};

/// If a statement fails, the bind that travelled with it is undone. What the client has sent behind it must not run
/// as the connection's earlier tenant.
#[tokio::test]
async fn a_failed_statement_does_not_hand_the_next_one_to_another_tenant() {
    let builder = Fleet::builder().shards(1).tenants(2);
    let setup = setup_with(builder, |config| config.pool_size = 1).await;
    setup.seed().await;
    let (mut first, mut second) = (setup.raw_for(0).await, setup.raw_for(1).await);
    let own = |index: usize| vec![vec![Some(format!("tenant-{}", setup.id(index)))]];
    let failing: [fn(&mut BytesMut); 3] = [
        |out| frontend::put_query(out, "SELECT 1 / (count(*) - count(*)) FROM events"),
        |out| {
            frontend::put_parse(out, "", "SELECT 1 / (count(*) - count(*)) FROM events", &[]);
            frontend::put_bind(out, "", "", &[], Format::Text);
            frontend::put_execute(out, "", 0);
            frontend::put_sync(out);
        },
        |out| {
            frontend::put_query(
                out,
                "SELECT 1; SELECT 1 / (count(*) - count(*)) FROM events",
            )
        },
    ];
    for fail in failing {
        let bound = second.query("SELECT kind FROM events").await.unwrap();
        assert_eq!(rows_of(&bound), own(1));
        first
            .send(|out| {
                fail(out);
                frontend::put_query(out, "SELECT kind FROM events");
                frontend::put_parse(out, "", "SELECT kind FROM events", &[]);
                frontend::put_bind(out, "", "", &[], Format::Text);
                frontend::put_execute(out, "", 0);
                frontend::put_sync(out);
            })
            .await
            .unwrap();
        let failed = first.until_ready().await.unwrap();
        assert_eq!(error_of(&failed).unwrap().code, "22012");
        for _ in 0..2 {
            assert_eq!(rows_of(&first.until_ready().await.unwrap()), own(0));
        }
    }
}

/// A transaction's own tenant ends with it, also for what is sent before its end was answered.
#[tokio::test]
async fn what_is_sent_behind_a_commit_is_not_its_transactions_tenants() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 1;
    })
    .await;
    setup.seed().await;
    let mut session = setup.raw_for(1).await;
    for end in ["COMMIT", "ROLLBACK"] {
        let texts = [
            "BEGIN".to_owned(),
            format!("SET LOCAL tenantry.tenant = '{}'", setup.id(0)),
            "SELECT kind FROM events".to_owned(),
            end.to_owned(),
            "SELECT kind FROM events".to_owned(),
        ];
        session
            .send(|out| texts.iter().for_each(|text| frontend::put_query(out, text)))
            .await
            .unwrap();
        let mut rows = Vec::new();
        for _ in &texts {
            let messages = session.until_ready().await.unwrap();
            assert_eq!(error_of(&messages), None);
            rows.extend(rows_of(&messages));
        }
        let expected: Vec<_> = [0, 1]
            .map(|index| vec![Some(format!("tenant-{}", setup.id(index)))])
            .into();
        assert_eq!(rows, expected, "{end}");
    }
}

/// The same where the end of the transaction and what follows it are one Query.
#[tokio::test]
async fn what_follows_a_commit_in_its_query_is_not_its_transactions_tenants() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |config| {
        config.pool_size = 1;
    })
    .await;
    setup.seed().await;
    let mut session = setup.raw_for(1).await;
    let own = |index: usize| vec![Some(format!("tenant-{}", setup.id(index)))];
    for end in ["COMMIT", "ROLLBACK"] {
        let begin = format!("BEGIN; SET LOCAL tenantry.tenant = '{}'", setup.id(0));
        let select = "SELECT kind FROM events";
        let together = format!("{begin}; {select}; {end}; {select}");
        let messages = session.query(&together).await.unwrap();
        assert_eq!(rows_of(&messages), [own(0), own(1)], "{together}");

        session.query(&format!("{begin}; {select}")).await.unwrap();
        let messages = session.query(&format!("{end}; {select}")).await.unwrap();
        assert_eq!(rows_of(&messages), [own(1)], "{end}");

        // Inside of a savepoint's life as well.
        session
            .query(&format!("BEGIN; SAVEPOINT a; {select}"))
            .await
            .unwrap();
        let messages = session
            .query(&format!(
                "ROLLBACK TO a; {select}; RELEASE a; {end}; {select}"
            ))
            .await
            .unwrap();
        assert_eq!(rows_of(&messages), [own(1), own(1)], "{end}");
    }
    drop(session);
    setup.nothing_leaked(0).await;
}

/// SET LOCAL ends at COMMIT AND CHAIN, although a transaction goes on: it would be another tenant's, which no transaction
/// changes within. Nothing of it is kept, and without a change of tenant it chains.
#[tokio::test]
async fn a_chained_transaction_is_not_its_predecessors_tenants() {
    let setup = setup_with(Fleet::builder().shards(1).tenants(2), |_| ()).await;
    setup.seed().await;
    let mut session = setup.raw_for(1).await;
    let own = |index: usize| vec![vec![Some(format!("tenant-{}", setup.id(index)))]];
    let select = "SELECT kind FROM events";
    for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
        for (index, refused) in [(0, Some("25001")), (1, None)] {
            let local = format!("SET LOCAL tenantry.tenant = '{}'", setup.id(index));
            for text in ["BEGIN", &local] {
                assert_eq!(error_of(&session.query(text).await.unwrap()), None);
            }
            assert_eq!(rows_of(&session.query(select).await.unwrap()), own(index));
            let error = error_of(&session.query(end).await.unwrap());
            assert_eq!(
                error.as_ref().map(|error| error.code.as_str()),
                refused,
                "{end}"
            );
            let rows = rows_of(&session.query(select).await.unwrap());
            assert_eq!(
                rows,
                if refused.is_some() {
                    Vec::new()
                } else {
                    own(1)
                }
            );
            assert_eq!(error_of(&session.query("ROLLBACK").await.unwrap()), None);
            assert_eq!(rows_of(&session.query(select).await.unwrap()), own(1));
        }
    }
}

/// Where the two tenants live on different shards, what follows the end of the transaction cannot run on the connection
/// at hand: it is refused, or run where it belongs, and never run for another.
#[tokio::test]
async fn what_follows_a_commit_is_never_anothers_on_another_shard() {
    let setup = setup_with(Fleet::builder().shards(2).tenants(8), |_| ()).await;
    setup.seed().await;
    let mut of_shard = Vec::new();
    for shard in setup.fleet.shards() {
        let tenants = setup.fleet.tenants_of(shard).await.unwrap();
        of_shard.push(
            setup
                .fleet
                .id_text(tenants.first().expect("a tenant on each shard").id),
        );
    }
    let own = |id: &str| vec![vec![Some(format!("tenant-{id}"))]];
    let user = setup.login(&format!("shop.{}", of_shard[1]));
    let mut session = RawClient::login(setup.address, &user).await.unwrap();
    let select = "SELECT kind FROM events";
    for end in ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN"] {
        let local = format!(
            "BEGIN; SET LOCAL tenantry.tenant = '{}'; {select}",
            of_shard[0]
        );
        assert_eq!(
            rows_of(&session.query(&local).await.unwrap()),
            own(&of_shard[0])
        );
        let messages = session.query(&format!("{end}; {select}")).await.unwrap();
        match error_of(&messages) {
            None => assert_eq!(rows_of(&messages), own(&of_shard[1]), "{end}"),
            Some(error) => {
                println!("{end}: {} {}", error.code, error.message);
                assert!(rows_of(&messages).is_empty(), "{end}");
            }
        }
        session.query("ROLLBACK").await.unwrap();
        // Outside of that Query it is served.
        assert_eq!(
            rows_of(&session.query(select).await.unwrap()),
            own(&of_shard[1]),
            "{end}"
        );
    }
    drop(session);
    setup.nothing_leaked(0).await;
}
