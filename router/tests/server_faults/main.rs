//! Shards fail and clients leave at every moment of a session: what is said, what becomes of the work, and that
//! nothing stays behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

#[path = "../common/mod.rs"]
mod common;

mod backends;
mod cancels;
mod clients;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use common::probe::{assert_refused, until};
use common::{Setup, setup_with};
use tenantry_router::Config;
use tenantry_schema::shard::ShardAddress;
use tenantry_testkit::{
    Direction, FaultProxy, Fleet, RawClient, commands_of, error_of, rows_of, send_cancel, status_of,
};
use tenantry_wire::backend::TxStatus;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::tag::backend as tag;
use tokio_postgres::Client;

/// Long enough to see a row that is committed and to cut before the answer has passed.
const ANSWER_DELAY: Duration = Duration::from_secs(1);
const SLOW: &str = "SELECT pg_sleep(60)";

/// One shard with two tenants, and the superuser's session with it.
struct Stage {
    setup: Setup,
    admin: Client,
}

impl Stage {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let setup = setup_with(Fleet::builder().shards(1).tenants(2), change).await;
        setup.seed().await;
        let admin = setup.fleet.shard(0).admin().await.unwrap();
        Self { setup, admin }
    }

    /// Reaches the shard through a proxy from here on.
    async fn proxied(change: impl FnOnce(&mut Config)) -> (Self, FaultProxy) {
        let stage = Self::new(change).await;
        let fleet = &stage.setup.fleet;
        let shard = fleet.shard(0);
        let target = SocketAddr::from(([127, 0, 0, 1], shard.shard().address.port));
        let proxy = FaultProxy::start(target).await.unwrap();
        let address = ShardAddress {
            port: proxy.port(),
            ..shard.shard().address.clone()
        };
        fleet
            .catalog()
            .set_shard_address(shard.id(), &address)
            .await
            .unwrap();
        until("the router uses the proxy", async || {
            let mut client = stage.setup.raw_for(0).await;
            client.query("SELECT 1").await.unwrap();
            (proxy.accepted() > 0).then_some(())
        })
        .await;
        (stage, proxy)
    }

    /// Ends every server connection of the router and waits until they are gone.
    async fn terminate(&self) {
        self.admin
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tenantry_app'",
                &[],
            )
            .await
            .unwrap();
        until("the backends are gone", async || {
            (self.backends("true").await == 0).then_some(())
        })
        .await;
    }

    /// Server connections of the router for which a condition on pg_stat_activity holds.
    async fn backends(&self, condition: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tenantry_app' AND {condition}"
        );
        self.admin.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// Waits until a statement of the router runs that begins so.
    async fn running(&self, text: &str) {
        let condition = format!("state = 'active' AND starts_with(query, '{text}')");
        until("the statement runs", async || {
            (self.backends(&condition).await > 0).then_some(())
        })
        .await;
    }

    async fn count(&self, kind: &str) -> i64 {
        let sql = "SELECT count(*) FROM events WHERE kind = $1";
        self.admin.query_one(sql, &[&kind]).await.unwrap().get(0)
    }

    /// Sends what commits one more event of this kind, and cuts the connection to the shard once it
    /// is committed, while the answer is still on its way.
    async fn cut_once_done(
        &self,
        proxy: &FaultProxy,
        client: &mut RawClient,
        kind: &str,
        build: impl FnOnce(&mut BytesMut),
    ) {
        let before = self.count(kind).await;
        proxy.delay(ANSWER_DELAY);
        client.send(build).await.unwrap();
        until("committed", async || {
            (self.count(kind).await == before + 1).then_some(())
        })
        .await;
        proxy.cut();
        proxy.resume().await;
    }

    /// The session serves its tenant, outside a transaction.
    async fn usable(&self, client: &mut RawClient) {
        let messages = client
            .query("SELECT kind FROM events WHERE id = 1")
            .await
            .unwrap();
        let expected = vec![vec![Some(format!("tenant-{}", self.setup.id(0)))]];
        assert_eq!(rows_of(&messages), expected);
        assert_eq!(status_of(&messages), Some(TxStatus::Idle));
    }
}

fn put_extended(out: &mut BytesMut, text: &str) {
    frontend::put_parse(out, "", text, &[]);
    frontend::put_bind(out, "", "", &[], Format::Text);
    frontend::put_execute(out, "", 0);
    frontend::put_sync(out);
}
