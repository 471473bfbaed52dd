//! Followers stay equal to the catalog, whatever happens to it or between.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tenantry_cluster::StopMode;
use tenantry_schema::catalog::TrimPolicy;
use tenantry_schema::fleet::Fleet;
use tenantry_schema::follow::{FleetSource, FollowConfig, FollowStatus, FollowTiming, Follower};
use tenantry_schema::tenant::TenantKey;
use tenantry_schema::{catalog::Catalog, snapshot};
use tenantry_testkit::FaultProxy;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fixture::{DATABASE, Fixture, assert_same};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running follower and what it publishes.
struct Running {
    fleets: Arc<Mutex<Vec<Arc<Fleet>>>>,
    status: watch::Receiver<FollowStatus>,
    task: JoinHandle<()>,
    stop: CancellationToken,
    _stop_on_panic: DropGuard,
}

impl Running {
    fn start(config: FollowConfig) -> Self {
        let fleets = Arc::new(Mutex::new(Vec::new()));
        let (sender, status) = watch::channel(FollowStatus::default());
        let publish = {
            let fleets = Arc::clone(&fleets);
            move |fleet| fleets.lock().push(fleet)
        };
        let stop = CancellationToken::new();
        let follower = Follower::new(config, publish, sender).unwrap();
        let task = tokio::spawn(follower.run(stop.clone()));
        Self {
            fleets,
            status,
            task,
            _stop_on_panic: stop.clone().drop_guard(),
            stop,
        }
    }

    fn on(fixture: &Fixture) -> Self {
        Self::start(FollowConfig {
            timing: quick(),
            ..FollowConfig::new(fixture.url())
        })
    }

    async fn until(
        &mut self,
        what: &str,
        condition: impl FnMut(&FollowStatus) -> bool,
    ) -> FollowStatus {
        let waited = timeout(PATIENCE, self.status.wait_for(condition))
            .await
            .map(|status| status.unwrap().clone());
        match waited {
            Ok(status) => status,
            Err(_) => panic!("not {what}: {:?}", self.status.borrow()),
        }
    }

    /// Waits until the follower has what the catalog has, and compares.
    async fn assert_equals(&mut self, catalog: &Catalog) {
        let expected = catalog.load_fleet().await.unwrap();
        self.until("at the catalog's sequence", |status| {
            status.connected && status.sequence >= Some(expected.sequence)
        })
        .await;
        assert_same(&self.fleet(), &expected);
    }

    fn fleet(&self) -> Arc<Fleet> {
        self.fleets.lock().last().unwrap().clone()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn quick() -> FollowTiming {
    FollowTiming {
        answer_max: Duration::from_millis(500),
        retry_max: Duration::from_millis(200),
        snapshot_min: Duration::from_millis(10),
        ..FollowTiming::default()
    }
}

fn through(fixture: &Fixture, proxy: &FaultProxy) -> FollowConfig {
    let url = fixture.url().replace(
        &format!(":{}/", fixture.server.port()),
        &format!(":{}/", proxy.port()),
    );
    FollowConfig {
        timing: quick(),
        ..FollowConfig::new(url)
    }
}

#[tokio::test]
async fn a_tenant_inserted_by_hand_is_known_at_once() {
    for key in [TenantKey::Bigint, TenantKey::Uuid] {
        let fixture = Fixture::new(key).await;
        fixture.add_shard("s1").await;
        // No poll falls into the time of the test: the notification alone does it.
        let timing = FollowTiming {
            poll: PATIENCE,
            ..FollowTiming::default()
        };
        let mut follower = Running::start(FollowConfig {
            timing,
            ..FollowConfig::new(fixture.url())
        });
        follower.until("connected", |status| status.connected).await;
        let psql = fixture.psql().await;
        let insert = "INSERT INTO tenantry.tenant (slug) VALUES ('by-hand'); \
                      INSERT INTO tenantry.hostname (name, tenant) SELECT 'by.hand.example', id FROM tenantry.tenant";
        let started = Instant::now();
        psql.batch_execute(insert).await.unwrap();
        let sequence = fixture.catalog.load_fleet().await.unwrap().sequence;
        follower
            .until("told", |status| status.sequence == Some(sequence))
            .await;
        let took = started.elapsed();
        println!("known after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        let fleet = follower.fleet();
        let tenant = fleet.resolve("by.hand.example").unwrap();
        assert_eq!(tenant.slug, "by-hand");
        assert!(fleet.place(&tenant).is_some());
        follower.stop().await;
    }
}

#[tokio::test]
async fn a_lost_notification_costs_a_poll() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let mut follower = Running::on(&fixture);
    follower.until("connected", |status| status.connected).await;
    let silence = "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('tenantry.number_changes'::regproc), \
                   'PERFORM pg_notify', 'PERFORM concat'); END $$";
    fixture.psql().await.batch_execute(silence).await.unwrap();
    fixture.create("unheard").await;
    follower.assert_equals(&fixture.catalog).await;
    follower.stop().await;
}

/// Writers with savepoints and rollbacks, at random; then every number was seen once, in order, without a reload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_with_rollbacks_lose_nothing() {
    let seed: u64 = std::env::var("TENANTRY_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("TENANTRY_TEST_SEED={seed}");
    let fixture = Fixture::new(TenantKey::Bigint).await;
    for name in ["s1", "s2", "s3"] {
        fixture.add_shard(name).await;
    }
    let mut follower = Running::on(&fixture);
    follower.until("connected", |status| status.connected).await;
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let client = fixture.server.config(DATABASE);
            tokio::spawn(async move {
                let (client, connection) = client.connect(tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                let mut random = StdRng::seed_from_u64(seed ^ (writer << 32));
                for round in 0..60 {
                    let script = transaction(&mut random, writer, round);
                    if let Err(error) = client.batch_execute(&script).await {
                        // Writers meet: a deadlock or a taken name rolls back, as in life.
                        assert!(error.as_db_error().is_some(), "{error}");
                        client.batch_execute("ROLLBACK").await.unwrap();
                    }
                }
            })
        })
        .collect();
    let catalog = fixture.catalog.clone();
    let adding =
        tokio::spawn(async move { catalog.add_shard(crate::fixture::new_shard("s4")).await });
    for writer in writers {
        writer.await.unwrap();
    }
    adding.await.unwrap().unwrap();
    follower.assert_equals(&fixture.catalog).await;
    assert_eq!(follower.status.borrow().loads, 1, "the log alone must do");
    let sequences: Vec<_> = follower
        .fleets
        .lock()
        .iter()
        .map(|fleet| fleet.sequence)
        .collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    let psql = fixture.psql().await;
    let gaps = "SELECT count(*), max(seq), (SELECT last_seq FROM tenantry.change_counter) FROM tenantry.change";
    let row = psql.query_one(gaps, &[]).await.unwrap();
    let (count, max, counter): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert!(
        counter > 100,
        "the writers did too little: {counter} changes"
    );
    assert_eq!((count, max), (counter, counter));
    follower.stop().await;
}

fn transaction(random: &mut StdRng, writer: u64, round: u64) -> String {
    let mut script = String::from("BEGIN;");
    for step in 0..random.random_range(1..5) {
        let slug = format!("t{writer}-{round}-{step}");
        let any = format!(
            "(SELECT id FROM tenantry.tenant OFFSET {} LIMIT 1)",
            random.random_range(0..60)
        );
        let shard = random.random_range(1..4);
        let statement = match random.random_range(0..9) {
            0..3 => format!("INSERT INTO tenantry.tenant (slug) VALUES ('{slug}')"),
            3 => format!(
                "INSERT INTO tenantry.tenant (slug) SELECT '{slug}-' || g FROM generate_series(1, 5) g"
            ),
            4 => format!(
                "INSERT INTO tenantry.hostname (name, tenant) SELECT '{slug}.example.com', id FROM tenantry.tenant WHERE id = {any}"
            ),
            5 => format!(
                "UPDATE tenantry.tenant SET state = 'suspended', epoch = epoch + 1 WHERE id = {any}"
            ),
            6 => format!(
                "INSERT INTO tenantry.pin (tenant, shard) SELECT id, {shard} FROM tenantry.tenant WHERE id = {any} \
                          ON CONFLICT (tenant) DO UPDATE SET shard = excluded.shard"
            ),
            7 => format!("DELETE FROM tenantry.tenant WHERE id = {any}"),
            _ => format!(
                "UPDATE tenantry.hostname SET tenant = {any} WHERE tenant = {any} AND {any} IS NOT NULL"
            ),
        };
        let undone = ["", "SAVEPOINT a;"]
            .choose(random)
            .is_some_and(|text| !text.is_empty());
        if undone {
            script.push_str(&format!("SAVEPOINT a; {statement}; ROLLBACK TO a;"));
        } else {
            script.push_str(&format!("{statement};"));
        }
    }
    script.push_str(["COMMIT", "COMMIT", "ROLLBACK"].choose(random).unwrap());
    script
}

#[tokio::test]
async fn a_stale_follower_reloads_when_its_changes_were_trimmed() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let proxy = FaultProxy::start(fixture.server.address()).await.unwrap();
    let mut follower = Running::start(through(&fixture, &proxy));
    follower.until("connected", |status| status.connected).await;
    proxy.refuse().await;
    proxy.cut();
    follower
        .until("cut off", |status| {
            !status.connected && status.last_error.is_some()
        })
        .await;
    fixture.create("meanwhile").await;
    let trimmed = fixture
        .catalog
        .trim_changes(TrimPolicy {
            keep: Duration::ZERO,
            ..TrimPolicy::default()
        })
        .await
        .unwrap();
    assert!(trimmed > 0);
    fixture.create("later").await;
    proxy.resume().await;
    follower.assert_equals(&fixture.catalog).await;
    assert_eq!(follower.status.borrow().loads, 2);
    // Changes that are still there need no reload.
    proxy.cut();
    fixture.create("last").await;
    follower.assert_equals(&fixture.catalog).await;
    let status = follower.until("connected", |status| status.connected).await;
    assert_eq!((status.loads, status.last_error), (2, None));
    follower.stop().await;
}

#[tokio::test]
async fn a_silent_catalog_is_given_up_and_found_again() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let proxy = FaultProxy::start(fixture.server.address()).await.unwrap();
    let mut follower = Running::start(through(&fixture, &proxy));
    follower.until("connected", |status| status.connected).await;
    proxy.half_open();
    let status = follower.until("given up", |status| !status.connected).await;
    assert!(status.last_error.unwrap().contains("did not answer"));
    assert!(follower.fleet().directory.is_empty());
    fixture.create("meanwhile").await;
    proxy.resume().await;
    follower.assert_equals(&fixture.catalog).await;
    follower.stop().await;
}

#[tokio::test]
async fn a_catalog_that_is_killed_and_restarted_is_followed_on() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let mut follower = Running::on(&fixture);
    fixture.create("before").await;
    follower.assert_equals(&fixture.catalog).await;
    fixture.server.stop(StopMode::Immediate).await.unwrap();
    follower.until("alone", |status| !status.connected).await;
    assert!(
        fixture
            .catalog
            .tenant("before")
            .await
            .unwrap_err()
            .is_transient()
    );
    assert!(follower.fleet().resolve("before").is_some());
    fixture.server.restart().await.unwrap();
    fixture.create("after").await;
    follower.assert_equals(&fixture.catalog).await;
    assert_eq!(follower.status.borrow().loads, 1);
    follower.stop().await;
}

/// Followers must not have seen what a crash takes back: its numbers would be given out again.
#[tokio::test]
async fn what_was_followed_survives_a_crash() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let mut follower = Running::on(&fixture);
    follower.until("connected", |status| status.connected).await;
    for round in 0..5 {
        let hasty = fixture.psql().await;
        hasty
            .batch_execute("SET synchronous_commit = off")
            .await
            .unwrap();
        let before = follower.status.borrow().sequence.unwrap();
        let insert = format!("INSERT INTO tenantry.tenant (slug) VALUES ('hasty{round}')");
        hasty.batch_execute(&insert).await.unwrap();
        follower
            .until("told", |status| status.sequence > Some(before))
            .await;
        fixture.server.kill9().await.unwrap();
        fixture.server.restart().await.unwrap();
        follower.assert_equals(&fixture.catalog).await;
        assert!(
            fixture
                .catalog
                .tenant(&format!("hasty{round}"))
                .await
                .is_ok()
        );
    }
    assert_eq!(follower.status.borrow().loads, 1);
    follower.stop().await;
}

/// A restored catalog counts on from an older state: its numbers mean something else.
#[tokio::test]
async fn another_history_is_not_continued() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    fixture.add_shard("s1").await;
    fixture.create("old").await;
    let proxy = FaultProxy::start(fixture.server.address()).await.unwrap();
    let mut follower = Running::start(through(&fixture, &proxy));
    follower.assert_equals(&fixture.catalog).await;
    proxy.refuse().await;
    proxy.cut();
    follower.until("cut off", |status| !status.connected).await;
    // As many changes, with other content.
    let other = Fixture::new(TenantKey::Bigint).await;
    other.add_shard("s1").await;
    other.create("new").await;
    let sequences = [&fixture, &other].map(|fixture| fixture.catalog.clone());
    let (here, there) = (
        sequences[0].load_fleet().await.unwrap(),
        sequences[1].load_fleet().await.unwrap(),
    );
    assert_eq!(here.sequence, there.sequence);
    let admin = fixture.server.connect("postgres").await.unwrap();
    let dump = tenants_of(&other).await;
    drop(sequences);
    admin
        .batch_execute(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{DATABASE}'"
        ))
        .await
        .unwrap();
    admin
        .batch_execute(&format!("ALTER DATABASE {DATABASE} RENAME TO lost"))
        .await
        .unwrap();
    fixture.server.create_database(DATABASE).await.unwrap();
    let restored = Catalog::connect(&fixture.url()).await.unwrap();
    restored.init(here.settings.clone()).await.unwrap();
    restored
        .add_shard(crate::fixture::new_shard("s1"))
        .await
        .unwrap();
    fixture.psql().await.batch_execute(&dump).await.unwrap();
    assert_eq!(restored.load_fleet().await.unwrap().sequence, here.sequence);
    proxy.resume().await;
    follower.until("reloaded", |status| status.loads == 2).await;
    assert!(follower.fleet().resolve("new").is_some() && follower.fleet().resolve("old").is_none());
    follower.stop().await;
}

async fn tenants_of(fixture: &Fixture) -> String {
    let row = fixture
        .psql()
        .await
        .query_one("SELECT id, slug FROM tenantry.tenant", &[])
        .await
        .unwrap();
    format!(
        "INSERT INTO tenantry.tenant (id, slug) VALUES ({}, '{}')",
        row.get::<_, i64>(0),
        row.get::<_, &str>(1)
    )
}

#[tokio::test]
async fn a_start_without_the_catalog_uses_the_snapshot() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.snapshot");
    let config = FollowConfig {
        snapshot_file: Some(file.clone()),
        timing: quick(),
        ..FollowConfig::new(fixture.url())
    };
    fixture.add_shard("s1").await;
    let mut first = Running::start(config.clone());
    fixture.create("known").await;
    first.assert_equals(&fixture.catalog).await;
    first.stop().await;
    let expected = fixture.catalog.load_fleet().await.unwrap();
    // Stopping wrote the last state.
    assert_same(&snapshot::load(&file).unwrap(), &expected);

    fixture.server.stop(StopMode::Immediate).await.unwrap();
    let mut second = Running::start(config.clone());
    let status = second
        .until("started", |status| status.source.is_some())
        .await;
    assert_eq!(
        (status.source, status.connected),
        (Some(FleetSource::Snapshot), false)
    );
    assert_same(&second.fleet(), &expected);
    fixture.server.restart().await.unwrap();
    fixture.create("news").await;
    second
        .until("from the catalog", |status| {
            status.source == Some(FleetSource::Catalog)
        })
        .await;
    second.assert_equals(&fixture.catalog).await;
    second.stop().await;

    flip_a_bit(&file);
    fixture.server.stop(StopMode::Immediate).await.unwrap();
    let mut third = Running::start(config);
    let status = third
        .until("refused", |status| status.snapshot_error.is_some())
        .await;
    assert_eq!((status.source, status.sequence), (None, None));
    assert!(third.fleets.lock().is_empty());
    fixture.server.restart().await.unwrap();
    third.assert_equals(&fixture.catalog).await;
    assert_eq!(third.status.borrow().snapshot_error, None);
    third.stop().await;
    assert_same(
        &snapshot::load(&file).unwrap(),
        &fixture.catalog.load_fleet().await.unwrap(),
    );
}

/// The catalog accepts and answers, but the load hangs behind a lock.
#[tokio::test]
async fn a_load_that_takes_long_does_not_keep_the_snapshot_back() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    fixture.create("known").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.snapshot");
    snapshot::save(&fixture.catalog.load_fleet().await.unwrap(), &file).unwrap();
    let locker = fixture.psql().await;
    let lock = "BEGIN; LOCK TABLE tenantry.tenant IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).await.unwrap();
    let config = FollowConfig {
        snapshot_file: Some(file),
        timing: quick(),
        ..FollowConfig::new(fixture.url())
    };
    let mut follower = Running::start(config);
    follower
        .until("started", |status| {
            status.source == Some(FleetSource::Snapshot)
        })
        .await;
    assert!(follower.fleet().resolve("known").is_some());
    locker.batch_execute("COMMIT").await.unwrap();
    follower.assert_equals(&fixture.catalog).await;
    assert_eq!(follower.status.borrow().source, Some(FleetSource::Catalog));
    follower.stop().await;
}

#[tokio::test]
async fn whoever_follows_trims_the_log() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let psql = fixture.psql().await;
    // Two reads' worth, and older than what is kept.
    let insert =
        "INSERT INTO tenantry.tenant (slug) SELECT 't' || g FROM generate_series(1, 9000) g";
    psql.batch_execute(insert).await.unwrap();
    psql.batch_execute("UPDATE tenantry.tenant SET plan = 'large'")
        .await
        .unwrap();
    psql.batch_execute("UPDATE tenantry.change SET at = at - interval '1 hour'")
        .await
        .unwrap();
    fixture.create("recent").await;
    let timing = FollowTiming {
        trim: Duration::from_millis(20),
        poll: Duration::from_millis(20),
        ..quick()
    };
    let mut follower = Running::start(FollowConfig {
        timing,
        ..FollowConfig::new(fixture.url())
    });
    follower.until("connected", |status| status.connected).await;
    let left = "SELECT count(*) FROM tenantry.change";
    let started = Instant::now();
    while psql.query_one(left, &[]).await.unwrap().get::<_, i64>(0) > 1 {
        assert!(started.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    follower.assert_equals(&fixture.catalog).await;
    assert_eq!(follower.status.borrow().loads, 1);
    follower.stop().await;
}

fn flip_a_bit(file: &PathBuf) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_catalog_that_is_initialised_late_is_awaited() {
    let fixture = Fixture::uninitialised().await;
    let mut follower = Running::on(&fixture);
    let status = follower
        .until("refused", |status| status.last_error.is_some())
        .await;
    assert_eq!(
        status.last_error.as_deref(),
        Some("the database holds no initialised catalog")
    );
    fixture
        .catalog
        .init(tenantry_schema::fleet::FleetSettings::new(TenantKey::Uuid))
        .await
        .unwrap();
    follower.assert_equals(&fixture.catalog).await;
    follower.stop().await;
}

#[tokio::test]
async fn a_bulk_load_is_followed_by_loading() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let mut follower = Running::on(&fixture);
    follower.until("connected", |status| status.connected).await;
    let insert = "INSERT INTO tenantry.tenant (slug, state) SELECT 't' || g, 'active' FROM generate_series(1, 20000) g";
    fixture.psql().await.batch_execute(insert).await.unwrap();
    follower.assert_equals(&fixture.catalog).await;
    assert_eq!(follower.status.borrow().loads, 2);
    follower.stop().await;
}
