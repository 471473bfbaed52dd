//! A tenant that is being copied to another shard by an applier alone.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::time::Duration;

use tenantry_rebalancer::apply::{self, ApplierConfig, ApplierHandle, Direction};
use tenantry_rebalancer::replication::{
    Lsn, SlotKind, SnapshotAction, Walsender, publication, slot,
};
use tenantry_rebalancer::shard::Snapshot;
use tenantry_rebalancer::tables::TenantTables;
use tenantry_schema::tenant::TenantKey;
use tenantry_testkit::Fleet;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::common::{endpoint, read, text};

/// Bound of every wait for a condition.
pub const LIMIT: Duration = Duration::from_secs(20);
pub const MOVE: Uuid = Uuid::from_u128(0x0192_f0c1_7b6a_7c3e_8a51_0000_0000_0001);
pub const NONCE: Uuid = Uuid::from_u128(0x0192_f0c1_7b6a_7c3e_8a51_0000_0000_0002);
pub const PROOF: Uuid = Uuid::from_u128(0x0192_f0c1_7b6a_7c3e_8a51_0000_0000_0003);
/// Slot and publication of the two streams.
const FORWARD: &str = "moving_f";
const REVERSE: &str = "moving_r";

/// Two shards with tables of a test's own, and one tenant on its way from the first to the second.
pub struct Moving {
    pub fleet: Fleet,
    /// A superuser's session with the source, which writes rows of any tenant.
    pub from: Client,
    /// The same with the destination.
    pub to: Client,
    tenant: String,
    tables: TenantTables,
    start: Lsn,
}

/// A client that writes.
pub struct Background {
    stop: CancellationToken,
    task: JoinHandle<u32>,
}

impl Background {
    /// Ends it and returns how many transactions it committed.
    pub async fn finish(self) -> u32 {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

/// The source at one position.
pub struct SourceSnapshot {
    pub position: Lsn,
    pub session: Client,
    _walsender: Walsender,
}

impl Moving {
    /// The tables exist on both shards, publication and slot on the source, nothing is applied.
    pub async fn start(tables: &str) -> Self {
        let define = format!("SET ROLE tenantry_owner; SET search_path = public; {tables}");
        Self::start_with(TenantKey::Bigint, "1", |admin| {
            let define = define.clone();
            async move { admin.batch_execute(&define).await.unwrap() }
        })
        .await
    }

    /// The same with another key type, and with whatever makes the tables on a shard.
    pub async fn start_with<F: Future<Output = ()>>(
        key: TenantKey,
        tenant: &str,
        define: impl Fn(Client) -> F,
    ) -> Self {
        let fleet = Fleet::builder()
            .agent(false)
            .key(key)
            .start()
            .await
            .unwrap();
        for shard in fleet.shards() {
            define(shard.admin().await.unwrap()).await;
        }
        let (from, to) = (
            fleet.shard(0).admin().await.unwrap(),
            fleet.shard(1).admin().await.unwrap(),
        );
        let owner = format!(
            "INSERT INTO tenantry.owner (tenant_id, state, epoch) VALUES ('{tenant}', 'active', 1)"
        );
        from.batch_execute(&owner).await.unwrap();
        to.batch_execute(&format!(
            "SELECT tenantry.begin_import('{tenant}', '{MOVE}', 1)"
        ))
        .await
        .unwrap();
        let found = read(fleet.shard(1)).await;
        let mut moving = Self {
            fleet,
            from,
            to,
            tenant: tenant.to_owned(),
            tables: found,
            start: Lsn::INVALID,
        };
        moving.start = moving.slot(0, FORWARD).await;
        moving
    }

    async fn slot(&self, shard: usize, name: &str) -> Lsn {
        let at = endpoint(self.fleet.shard(shard));
        let agent = tenantry_rebalancer::shard::connect(&at).await.unwrap();
        publication::create(&agent, name, &self.tables.tables, &self.tenant)
            .await
            .unwrap();
        let mut walsender = Walsender::connect(&at).await.unwrap();
        let created = walsender
            .create_slot(name, SlotKind::Permanent, SnapshotAction::Nothing)
            .await
            .unwrap();
        created.consistent_point
    }

    /// The forward slot made anew, as if what is there by now had been copied.
    pub async fn slot_again(&self) -> Lsn {
        let at = endpoint(self.fleet.shard(0));
        let agent = tenantry_rebalancer::shard::connect(&at).await.unwrap();
        slot::drop(&agent, FORWARD).await.unwrap();
        self.slot(0, FORWARD).await
    }

    pub async fn forward(&self) -> ApplierHandle {
        self.forward_with(|_| {}).await
    }

    pub async fn forward_with(&self, change: impl FnOnce(&mut ApplierConfig)) -> ApplierHandle {
        self.applier(Direction::Forward, change).await
    }

    /// The reverse stream, with a slot that is made now.
    pub async fn reverse(&self) -> ApplierHandle {
        self.slot(1, REVERSE).await;
        self.applier(Direction::Reverse, |_| {}).await
    }

    pub async fn applier(
        &self,
        direction: Direction,
        change: impl FnOnce(&mut ApplierConfig),
    ) -> ApplierHandle {
        let (source, destination, name, from) = match direction {
            Direction::Forward => (0, 1, FORWARD, self.start),
            Direction::Reverse => (1, 0, REVERSE, Lsn::INVALID),
        };
        let mut config = ApplierConfig {
            move_id: MOVE,
            direction,
            tenant: self.tenant.clone(),
            source: endpoint(self.fleet.shard(source)),
            destination: endpoint(self.fleet.shard(destination)),
            slot: name.to_owned(),
            publication: name.to_owned(),
            tables: read(self.fleet.shard(destination)).await.tables,
            from,
            is_partial: false,
            spill_dir: self.fleet.dir().to_owned(),
            memory_bytes: 1 << 20,
        };
        change(&mut config);
        apply::start(config).unwrap()
    }

    /// A further session with the source.
    pub async fn writer(&self) -> Client {
        self.fleet.shard(0).admin().await.unwrap()
    }

    /// Runs statements on the source, each a transaction unless they say otherwise.
    pub async fn write(&self, sql: &str) {
        for part in parts(sql) {
            let written = self.from.batch_execute(&part).await;
            written.unwrap_or_else(|error| panic!("{part}: {error:?}"));
        }
    }

    /// Transactions of all kinds by a task of its own, until told to stop.
    pub fn writes_in_background(&self) -> Background {
        let config = self.fleet.shard(0).admin_config().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let mut n = 0;
            while !stopped.is_cancelled() {
                n += 1;
                client.batch_execute(&transaction(n)).await.unwrap();
            }
            n
        });
        Background { stop, task }
    }

    pub async fn fence(&self, epoch: u64) {
        let fence = format!(
            "SELECT tenantry.fence('{}', '{MOVE}', '{NONCE}', '{PROOF}', {epoch}, '1 min')",
            self.tenant
        );
        self.from.batch_execute(&fence).await.unwrap();
    }

    /// Waits until everything that has committed on the source by now is applied.
    pub async fn caught_up(&self, applier: &ApplierHandle) {
        let now = text(&self.from, "pg_current_wal_insert_lsn()")
            .await
            .parse()
            .unwrap();
        let reached = async {
            loop {
                // Without work the source's log does not grow to where a page begins: a probe moves it.
                applier.probe(&self.from).await.map_err(|_| ())?;
                if applier.status().borrow().applied >= now {
                    return Ok::<(), ()>(());
                }
            }
        };
        let reached = timeout(LIMIT, reached).await;
        assert!(
            matches!(reached, Ok(Ok(()))),
            "not at {now}: {:?}",
            applier.status().borrow()
        );
    }

    /// The source as it is now, and where that is.
    pub async fn snapshot(&self) -> SourceSnapshot {
        let at = endpoint(self.fleet.shard(0));
        let mut walsender = Walsender::connect(&at).await.unwrap();
        let created = walsender
            .create_slot("snapshot", SlotKind::Temporary, SnapshotAction::Export)
            .await
            .unwrap();
        let session = Snapshot::session(&at, created.snapshot.as_deref().unwrap())
            .await
            .unwrap();
        SourceSnapshot {
            position: created.consistent_point,
            session,
            _walsender: walsender,
        }
    }

    /// Every row of the tenant, table by table.
    pub async fn digest(&self, client: &Client) -> Vec<String> {
        let mut rows = Vec::new();
        for table in &self.tables.tables {
            let relation = table.relation();
            let sql = format!(
                "SELECT '{}' || ' ' || t::text FROM {relation} t WHERE tenant_id = '{}' ORDER BY 1",
                table.name, self.tenant
            );
            let found = client.query(&sql, &[]).await.unwrap();
            rows.extend(found.iter().map(|row| row.get::<_, String>(0)));
        }
        rows
    }

    /// The tenant's rows are the same on both shards.
    pub async fn same_rows(&self) {
        let (there, here) = (self.digest(&self.from).await, self.digest(&self.to).await);
        let missing: Vec<_> = there
            .iter()
            .filter(|row| !here.contains(row))
            .take(5)
            .collect();
        let extra: Vec<_> = here
            .iter()
            .filter(|row| !there.contains(row))
            .take(5)
            .collect();
        assert!(
            there == here,
            "missing {missing:?}, not on the source {extra:?}"
        );
    }
}

/// Waits until a condition on a server holds.
pub async fn until_true(client: &Client, sql: &str) {
    let wait = async {
        while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, wait).await.unwrap();
}

/// The n-th transaction of a client that writes: it deletes about as much as it inserts.
fn transaction(n: u32) -> String {
    match n % 5 {
        0 => format!(
            "DELETE FROM plain WHERE tenant_id = 1 AND id IN ({n} - 52, {n} - 51, 10000000 + {n} - 51)"
        ),
        1 => format!(
            "UPDATE plain SET note = 'at {n}', amount = amount + 1 WHERE tenant_id = 1 AND id BETWEEN {n} - 20 AND {n}"
        ),
        2 => format!("INSERT INTO plain VALUES (2, {n}, 'another tenant', 0)"),
        3 => format!(
            "BEGIN; INSERT INTO plain VALUES (1, {n}, 'x', 0); INSERT INTO wide VALUES (1, {n}, 'x', 'y', {n}); COMMIT"
        ),
        _ => format!("INSERT INTO plain VALUES (1, {n}, 'x', 1), (1, 10000000 + {n}, 'y', 2)"),
    }
}

/// Statements between semicolons, whole transaction blocks together.
fn parts(sql: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut block = false;
    for statement in sql
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
    {
        if block {
            let part = parts.last_mut().unwrap();
            part.push_str("; ");
            part.push_str(statement);
        } else {
            parts.push(statement.to_owned());
        }
        block = match statement {
            "BEGIN" => true,
            "COMMIT" | "ROLLBACK" => false,
            _ => block,
        };
    }
    parts
}
