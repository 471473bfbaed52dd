//! A tenant on its way from the first shard to the second, as far as rows are concerned.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::sync::Arc;

use tenantry_rebalancer::clean::{self, CleanError, Standing, Warrant};
use tenantry_rebalancer::copy::{Copier, CopyError, CopyJob, CopyOptions, CopyReport};
use tenantry_rebalancer::shard::Snapshot;
use tenantry_rebalancer::tables::{self, TenantTables};
use tenantry_rebalancer::throttle::Throttle;
use tenantry_rebalancer::verify::{Comparison, Side, VerifyReport};
use tenantry_testkit::Fleet;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::common::{COLUMN, endpoint, session};

/// The tenant that moves.
pub const TENANT: &str = "42";
/// Another that has rows on both shards.
pub const OTHER: &str = "7";

pub struct Moving {
    pub fleet: Fleet,
    pub source: Client,
    pub destination: Client,
    pub tables: TenantTables,
    pub move_id: Uuid,
    pub options: CopyOptions,
    pub throttle: Arc<Throttle>,
}

impl Moving {
    /// Both tenants live on the first shard; the second imports the one that moves.
    pub async fn start(fleet: Fleet) -> Self {
        let (source, destination) = (session(fleet.shard(0)).await, session(fleet.shard(1)).await);
        let move_id = Uuid::now_v7();
        source
            .batch_execute(&format!(
                "INSERT INTO tenantry.owner (tenant_id, state, epoch) VALUES ('{TENANT}', 'active', 1), ('{OTHER}', 'active', 1)"
            ))
            .await
            .unwrap();
        let tables = tables::read(&source, COLUMN).await.unwrap();
        let moving = Self {
            fleet,
            source,
            destination,
            tables,
            move_id,
            options: CopyOptions::default(),
            throttle: Arc::new(Throttle::off()),
        };
        moving.begin_import().await;
        moving
    }

    pub async fn begin_import(&self) {
        self.destination
            .execute(
                "SELECT tenantry.begin_import($1::text::bigint, $2, 1)",
                &[&TENANT, &self.move_id],
            )
            .await
            .unwrap();
    }

    /// New sessions, after a server was killed and started again.
    pub async fn reconnect(&mut self) {
        self.source = session(self.fleet.shard(0)).await;
        self.destination = session(self.fleet.shard(1)).await;
    }

    pub async fn open(&self) -> Result<Copier, CopyError> {
        let source = endpoint(self.fleet.shard(0));
        let snapshot = Snapshot::export(&source).await.unwrap();
        let lsn = self
            .source
            .query_one("SELECT pg_current_wal_lsn()", &[])
            .await
            .unwrap();
        let job = CopyJob {
            source,
            destination: endpoint(self.fleet.shard(1)),
            tables: self.tables.clone(),
            tenant: TENANT.to_owned(),
            move_id: self.move_id,
            snapshot: snapshot.id().to_owned(),
            snapshot_lsn: lsn.get(0),
            throttle: Arc::clone(&self.throttle),
            options: self.options,
        };
        Copier::open(job).await
    }

    pub async fn copy(&self) -> Result<CopyReport, CopyError> {
        self.open().await?.run(&CancellationToken::new()).await
    }

    pub async fn compare(&self) -> VerifyReport {
        let (one, two) = (endpoint(self.fleet.shard(0)), endpoint(self.fleet.shard(1)));
        let (ours, theirs) = (
            Snapshot::export(&one).await.unwrap(),
            Snapshot::export(&two).await.unwrap(),
        );
        let side = |endpoint, snapshot: &Snapshot| Side {
            endpoint,
            snapshot: snapshot.id().to_owned(),
        };
        let comparison = Comparison::open(
            &side(one, &ours),
            &side(two, &theirs),
            self.tables.clone(),
            TENANT,
            Arc::new(Throttle::off()),
        )
        .await
        .unwrap();
        comparison.run(&CancellationToken::new()).await.unwrap()
    }

    pub async fn clean(&self, shard: usize, standing: Standing) -> Result<u64, CleanError> {
        let warrant = Warrant {
            tenant: TENANT.to_owned(),
            move_id: self.move_id,
            standing,
        };
        let (progress, _) = watch::channel(0);
        clean::delete_tenant(
            &endpoint(self.fleet.shard(shard)),
            &self.tables,
            &warrant,
            &Throttle::off(),
            &progress,
        )
        .await
    }

    /// Rows of a tenant in all tables of a shard.
    pub async fn rows(&self, client: &Client, tenant: &str) -> i64 {
        let mut total = 0;
        for table in &self.tables.tables {
            let count = format!(
                "SELECT count(*) FROM {} WHERE {}",
                table.relation(),
                table.tenant_is(tenant)
            );
            total += client
                .query_one(&count, &[])
                .await
                .unwrap()
                .get::<_, i64>(0);
        }
        total
    }
}
