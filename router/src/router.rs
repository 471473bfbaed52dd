//! What the sessions of one router share, and how a session gets a connection to its tenant's
//! shard.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use tenantry_schema::catalog::HeatEvent;
use tenantry_schema::causes::one_line;
use tenantry_schema::fleet::{Fleet, Role};
use tenantry_schema::follow::FollowStatus;
use tenantry_schema::secrets::{Password, SecretsFile};
use tenantry_schema::shard::{Shard, ShardId, ShardState};
use tenantry_schema::tenant::{TenantId, TenantState};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::activity::{Activity, Logins};
use crate::admission::Weight;
use crate::arrivals::{Arrival, Arrivals};
use crate::cancel::{Cancels, router_number};
use crate::config::{Change, Changeable, Config, ConfigError};
use crate::console::Shutdown;
use crate::error::Refusal;
use crate::fleet::FleetWatch;
use crate::handover::Predecessor;
use crate::holds::Holds;
use crate::identify::check_tenant;
use crate::limits::{self, Limiters, TimeLimits};
use crate::metrics::Metrics;
use crate::peers::{Peers, Secret};
use crate::places::{Place, Places};
use crate::pool::{Applicant, Gate, Lease, LeftBehind, PoolLimits, Pools, clean};
use crate::reload::{self, ReadConfig, ReloadError};
use crate::reported::{self, ReportedError};
use crate::route::{Route, Versions};
use crate::session::{Session, Settings, Shared};
use crate::stop::Stop;
use crate::tls::{self, ClientSide, ShardSide, TlsError};

/// Startup settings remembered as valid, with what the server reported for them.
const STARTUPS_MAX: usize = 1024;

/// A router that has not heard of the catalog for so long may be cut off from the rebalancer as well.
const CONTACT_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(15);

/// Reported settings by name.
pub(crate) type Reported = Arc<BTreeMap<String, String>>;

/// One router.
pub(crate) struct Router {
    /// Exchanged as a whole by a reload.
    config: ArcSwap<Config>,
    pub(crate) fleet: Arc<FleetWatch>,
    pub(crate) pools: Pools,
    pub(crate) cancels: Arc<Cancels>,
    /// Operators' sessions on each shard.
    pub(crate) operators: Places<ShardId>,
    pub(crate) metrics: Metrics,
    pub(crate) activity: Arc<Activity>,
    pub(crate) logins: Logins,
    pub(crate) shared: Arc<Shared>,
    /// Cancelled when the router stops: sessions end at their next transaction boundary.
    pub(crate) drain: CancellationToken,
    /// Cancelled when the time for that is over: sessions end where they are.
    pub(crate) end: CancellationToken,
    pub(crate) peers: Peers,
    /// Its number in the catalog; 0 while it is not registered there.
    pub(crate) registered: AtomicU16,
    pub(crate) limiters: Limiters,
    /// Tenants that move.
    pub(crate) holds: Holds,
    /// The tenants that are hot, as the catalog had it last.
    pub(crate) hot: ArcSwap<Vec<HeatEvent>>,
    /// Sessions of each role.
    pub(crate) role_sessions: Places<String>,
    /// Cancelled when a successor serves in this router's place.
    pub(crate) replaced: CancellationToken,
    /// Whether statements that take long are logged.
    logs_slow: AtomicBool,
    /// It accepts clients, and is no successor in waiting.
    pub(crate) serves: AtomicBool,
    /// The router that this one replaced, until it ends.
    predecessor: OnceLock<Predecessor>,
    pub(crate) client_tls: tls::Clients,
    shard_tls: Arc<tls::Shards>,
    pub(crate) arrivals: Arc<Arrivals>,
    /// Makes the salts of roles that do not exist.
    mock_secret: ArcSwap<[u8; 32]>,
    /// What the rebalancer must show.
    control_token: ArcSwapOption<Password>,
    stop: Stop,
    follow: watch::Receiver<FollowStatus>,
    source: Option<ReadConfig>,
    startups: Mutex<BTreeMap<u64, Reported>>,
}

/// Without what it is made of: a router is large, and its configuration has a password.
impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = &self.config.load().name;
        f.debug_struct("Router")
            .field("name", name)
            .finish_non_exhaustive()
    }
}

/// Where a tenant lives, and its weight among those that live there.
#[derive(Debug)]
struct Home {
    shard: Arc<Shard>,
    weight: Weight,
}

/// What was read for TLS; nothing of it is in force yet.
#[derive(Debug)]
pub(crate) struct TlsSides {
    pub(crate) clients: ClientSide,
    pub(crate) shards: ShardSide,
}

impl TlsSides {
    pub(crate) fn read(config: &Config) -> Result<Self, TlsError> {
        Ok(Self {
            clients: ClientSide::read(&config.client_tls)?,
            shards: ShardSide::read(&config.server_tls)?,
        })
    }
}

impl Router {
    pub(crate) fn new(
        config: Config,
        number: u16,
        fleet: Arc<FleetWatch>,
        tls: TlsSides,
        follow: watch::Receiver<FollowStatus>,
        source: Option<ReadConfig>,
    ) -> Self {
        let activity = Arc::new(Activity::new());
        let shard_tls = Arc::new(tls::Shards::new(tls.shards));
        let secrets = SecretsFile::load(&config.secrets_file);
        let router = Self {
            pools: Pools::new(
                config.secrets_file.clone(),
                PoolLimits::of(&config),
                config.statements_per_server_max,
                Arc::clone(&activity),
                Arc::clone(&shard_tls),
            ),
            cancels: Arc::new(Cancels::new(number)),
            operators: Places::default(),
            metrics: Metrics::new(&activity),
            activity,
            logins: Logins::default(),
            stop: Stop::default(),
            follow,
            source,
            shared: Arc::new(Shared {
                registry: crate::server::Registry::default(),
                fleet: Arc::clone(&fleet),
                message_bytes_max: config.message_bytes_max,
                lends_buffers: !config.left_out.buffer_release,
            }),
            fleet,
            drain: CancellationToken::new(),
            end: CancellationToken::new(),
            peers: Peers::default(),
            registered: AtomicU16::new(0),
            limiters: Limiters::default(),
            holds: Holds::default(),
            hot: ArcSwap::default(),
            role_sessions: Places::default(),
            replaced: CancellationToken::new(),
            logs_slow: AtomicBool::new(!config.log_min_duration_statement.is_zero()),
            serves: AtomicBool::new(false),
            predecessor: OnceLock::new(),
            client_tls: tls::Clients::new(tls.clients),
            shard_tls,
            arrivals: Arc::new(Arrivals::default()),
            // Until the secrets file can be read.
            mock_secret: ArcSwap::from_pointee(rand::random()),
            control_token: ArcSwapOption::empty(),
            startups: Mutex::new(BTreeMap::new()),
            config: ArcSwap::from_pointee(config),
        };
        router
            .metrics
            .certificate_expires(router.client_tls.current().not_after());
        router.holds.set_warned(false);
        match secrets {
            Ok(secrets) => router.adopt_secrets(&secrets),
            Err(error) => {
                tracing::warn!(error = one_line(&error), "the secrets file cannot be read")
            }
        }
        router
    }

    /// What makes the salts of roles that do not exist: the same on every router of the fleet, so that asking two of
    /// them, or one before and after its restart, tells nothing.
    pub(crate) fn mock_secret(&self) -> Guard<Arc<[u8; 32]>> {
        self.mock_secret.load()
    }

    fn adopt_secrets(&self, secrets: &SecretsFile) {
        if let Some(secret) = secrets.mock_secret() {
            self.mock_secret.store(Arc::new(secret));
        }
        let token = secrets.control_token.clone();
        self.control_token.store(token.map(Arc::new));
    }

    /// What the rebalancer must show; without one there is no control plane.
    pub(crate) fn control_token(&self) -> Option<Arc<Password>> {
        self.control_token.load_full()
    }

    /// Looks after the tenants that move: forgets what is over, and whether a rebalancer would find this router.
    pub(crate) fn tend_holds(&self) {
        if self.replaced.is_cancelled() {
            self.holds.end_all();
        }
        self.holds.prune(Instant::now());
        let contact = self.follow.borrow().contact;
        let in_contact = contact.is_some_and(|contact| contact.elapsed() < CONTACT_AGE_MAX);
        let registered = self.registered.load(Ordering::Relaxed) != 0;
        let warned = in_contact
            && registered
            && self.control_token.load().is_some()
            && !self.replaced.is_cancelled();
        self.holds.set_warned(warned);
    }

    /// A place among the sessions of a role.
    pub(crate) fn place_of(&self, role: &Role) -> Result<Place<String>, Refusal> {
        let limit = role.limits.max_connections.unwrap_or(u32::MAX);
        let places = usize::try_from(limit).unwrap_or(usize::MAX);
        self.role_sessions
            .take(&role.name, places)
            .map_err(|observed| Refusal::TooManyRoleConnections {
                role: role.name.clone(),
                limit,
                observed,
            })
    }

    /// Counts a session that starts among its tenant's connections; answers its time limits.
    pub(crate) fn admit_session(
        &self,
        gate: &mut limits::Gate,
        tenant: Option<TenantId>,
    ) -> Result<TimeLimits, Refusal> {
        let version = self.fleet.limits_version();
        let fleet = self.fleet.current();
        let time_limits = gate.look(version, &fleet, &self.limiters, tenant);
        gate.connect(&fleet)?;
        Ok(time_limits)
    }

    /// Counts a connection that has to log in yet.
    pub(crate) fn arrive(&self) -> Arrival {
        let max = self.config().clients_unauthenticated_max;
        self.arrivals.enter(max)
    }

    /// Why a client at this address has to wait.
    pub(crate) fn throttled(&self, from: IpAddr) -> Option<Refusal> {
        let config = self.config();
        let limit = config.connection_rate_max;
        if let Err(retry) = self.arrivals.connected(from, limit) {
            return Some(Refusal::ConnectionRate { limit, retry });
        }
        self.throttled_login(from)
    }

    /// Why a client at this address may not try a password now.
    pub(crate) fn throttled_login(&self, from: IpAddr) -> Option<Refusal> {
        let limit = self.config().login_failure_rate_max;
        match self.arrivals.may_log_in(from, limit) {
            Ok(()) => None,
            Err(retry) => Some(Refusal::LoginFailureRate { limit, retry }),
        }
    }

    /// Looks for changes of the files that are watched: secrets, certificates, keys, authorities.
    pub(crate) fn renew_from_files(&self) {
        if let Some(secrets) = self.pools.renew_if_rotated() {
            self.adopt_secrets(&secrets);
        }
        for (what, renewed) in [
            ("client_tls", self.client_tls.reload_if_changed()),
            ("server_tls", self.shard_tls.reload_if_changed()),
        ] {
            match renewed {
                Ok(false) => {}
                Ok(true) => {
                    self.metrics
                        .certificate_expires(self.client_tls.current().not_after());
                    tracing::info!(what, "certificates were reloaded");
                }
                Err(error) => {
                    self.metrics.tls_reload_failed();
                    let error = one_line(&error);
                    tracing::error!(
                        what,
                        error,
                        "changed files cannot serve for TLS: going on with the old ones"
                    );
                }
            }
        }
    }

    /// Whether statements that take long are logged.
    pub(crate) fn logs_slow(&self) -> bool {
        self.logs_slow.load(Ordering::Relaxed)
    }

    /// What is known of the catalog.
    pub(crate) fn follow(&self) -> &watch::Receiver<FollowStatus> {
        &self.follow
    }

    /// Whether no session may begin any longer.
    pub(crate) fn refuses_sessions(&self) -> bool {
        self.drain.is_cancelled() || self.stop.is_asked()
    }

    /// An operator wants the router to stop.
    pub(crate) fn ask_to_stop(&self, how: Shutdown) {
        self.stop.ask(how);
    }

    pub(crate) fn asked_to_stop(&self) -> watch::Receiver<Option<Shutdown>> {
        self.stop.asked()
    }

    /// Reads the configuration anew and puts into force what can change now.
    pub(crate) async fn reload_from_source(
        self: &Arc<Self>,
        asked_by: &str,
    ) -> Result<Vec<Change>, ReloadError> {
        reload::reload(self, self.source.clone(), asked_by).await
    }

    /// The configuration in force. To be read anew where it is needed, and not held across a wait.
    pub(crate) fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// Takes over what a reload may change; answers everything that differs. A configuration with a
    /// problem changes nothing.
    pub(crate) fn reload(&self, wanted: &Config) -> Result<Vec<Change>, Vec<ConfigError>> {
        let problems = wanted.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let (config, changes) = self.config.load().reloaded(wanted);
        // Read even if no setting has changed: a reload is also asked for because files have.
        let tls =
            TlsSides::read(&config).map_err(|error| vec![ConfigError::Tls(one_line(&error))])?;
        if changes
            .iter()
            .any(|change| change.changeable == Changeable::Live)
        {
            self.pools.set_limits(PoolLimits::of(&config));
            let logs_slow = !config.log_min_duration_statement.is_zero();
            self.logs_slow.store(logs_slow, Ordering::Relaxed);
            self.config.store(Arc::new(config));
        }
        self.metrics.certificate_expires(tls.clients.not_after());
        self.client_tls.adopt(tls.clients);
        self.shard_tls.adopt(tls.shards);
        Ok(changes)
    }

    /// This router serves in the place of another.
    pub(crate) fn succeed(&self, predecessor: Predecessor) {
        // A router starts once, so there is none yet.
        let _ = self.predecessor.set(predecessor);
    }

    /// Acts on a cancel request, wherever the session is that it is meant for. A wrong key is
    /// ignored without a word, as PostgreSQL does.
    pub(crate) async fn cancel(&self, pid: i32, key: &[u8]) {
        let secret = Secret::read(key);
        self.metrics.cancel_requested();
        if self.cancel_here(pid, secret.bytes).await {
            return;
        }
        if let Some(predecessor) = self.predecessor.get() {
            predecessor.cancel(pid, secret.bytes);
        }
        let owner = router_number(pid);
        if !secret.forwarded && owner != Some(self.cancels.number()) {
            self.peers.forward(owner, pid, secret.bytes).await;
        }
    }

    /// Acts on a request for a session of this process; answers whether there is one.
    pub(crate) async fn cancel_here(&self, pid: i32, secret: &[u8]) -> bool {
        self.cancels.cancel(pid, secret).await
    }

    /// A connection that is idle right now, if the tenant can be served at once. `known` is the session's own, for
    /// the next time.
    pub(crate) fn idle_connection(
        &self,
        session: &Session,
        tenant: Option<TenantId>,
        known: &mut Route,
    ) -> Result<Option<Lease>, Refusal> {
        let Some(tenant) = tenant else {
            return Ok(None);
        };
        let now = self.versions();
        if let Some((pool, applicant)) = known.pool(tenant, now) {
            return Ok(pool.take_idle(applicant));
        }
        let Some(home) = self.home_of(&self.fleet.current(), session, tenant)? else {
            return Ok(None);
        };
        let pool = self.pools.pool(&home.shard)?;
        known.learn(tenant, now, Some((&pool, home.weight)));
        let known = known.pool(tenant, now);
        Ok(known.and_then(|(pool, applicant)| pool.take_idle(applicant)))
    }

    fn versions(&self) -> Versions {
        Versions {
            fleet: self.fleet.version(),
            pools: self.pools.version(),
        }
    }

    /// A connection to the tenant's shard, or to any shard.
    pub(crate) async fn connection(
        &self,
        session: &Session,
        tenant: Option<TenantId>,
    ) -> Result<Lease, Refusal> {
        let Some(tenant) = tenant else {
            // Rare, and large: it would make every session's state larger.
            return Box::pin(self.any_connection(session.home())).await;
        };
        loop {
            let home = self.await_home(session, tenant).await?;
            let applicant = Applicant {
                tenant: Some(tenant),
                weight: home.weight,
            };
            let pool = self.pools.pool(&home.shard)?;
            let started = Instant::now();
            let lease = pool.acquire(applicant).await;
            self.metrics.waited(started.elapsed());
            // A pool that was replaced meanwhile refuses for that alone.
            if lease.is_ok() || !pool.is_retired() {
                return lease;
            }
        }
    }

    /// Whether a session that has kept its connection may use it for another transaction: as if it asked for one.
    pub(crate) fn check_kept(&self, session: &Session, known: &mut Route) -> Result<(), Refusal> {
        let Some(tenant) = session.tenant() else {
            return Ok(());
        };
        let now = self.versions();
        if !known.admits(tenant, now)
            && self
                .home_of(&self.fleet.current(), session, tenant)?
                .is_some()
        {
            known.learn(tenant, now, None);
        }
        Ok(())
    }

    /// Where the tenant lives; `None` while it is being provisioned.
    fn home_of(
        &self,
        fleet: &Fleet,
        session: &Session,
        tenant: TenantId,
    ) -> Result<Option<Home>, Refusal> {
        let text = || tenant.display(fleet.settings.tenant_key).to_string();
        let record = fleet
            .directory
            .by_id(tenant)
            .ok_or_else(|| Refusal::UnknownTenant { name: text() })?;
        check_tenant(fleet, &session.identity().role, &record, false)?;
        if record.state == TenantState::Provisioning {
            return Ok(None);
        }
        let placement = fleet
            .place(&record)
            .ok_or_else(|| Refusal::EmptyRing { tenant: text() })?;
        let shard = fleet.shard(placement.shard).ok_or(Refusal::NoShard)?;
        if shard.state == ShardState::Down {
            return Err(Refusal::ShardDown {
                shard: shard.name.to_string(),
                reason: "the catalog says it is down".to_owned(),
            });
        }
        Ok(Some(Home {
            shard: Arc::clone(shard),
            weight: Weight::of_percent(fleet.limits_of(&record).weight().saturating_mul(100)),
        }))
    }

    async fn await_home(&self, session: &Session, tenant: TenantId) -> Result<Home, Refusal> {
        let limit = self.config().timeouts.provisioning_wait;
        let deadline = Instant::now() + limit;
        let mut published = self.fleet.subscribe();
        loop {
            let fleet = self.fleet.current();
            if let Some(home) = self.home_of(&fleet, session, tenant)? {
                return Ok(home);
            }
            let changed = timeout_at(deadline, published.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                let text = tenant.display(fleet.settings.tenant_key).to_string();
                let record = fleet.directory.by_id(tenant);
                return Err(match record.and_then(|record| fleet.place(&record)) {
                    None => Refusal::EmptyRing { tenant: text },
                    Some(_) => Refusal::Provisioning {
                        tenant: text,
                        waited: limit,
                    },
                });
            }
        }
    }

    /// A connection for a session without a tenant: the first shard that gives one, starting with
    /// the one that served it before, or else anywhere.
    async fn any_connection(&self, home: Option<ShardId>) -> Result<Lease, Refusal> {
        let fleet = self.fleet.current();
        let mut shards: Vec<_> = fleet
            .shards
            .values()
            .filter(|shard| shard.state != ShardState::Down && shard.takes_new_tenants())
            .collect();
        shards.shuffle(&mut rand::rng());
        shards.sort_by_key(|shard| {
            let closed = self.pools.gate(shard.id) != Gate::Open;
            (Some(shard.id) != home, closed)
        });
        let mut refusal = Refusal::NoShard;
        let wait = self.config().timeouts.query_wait;
        let (started, mut behind) = (Instant::now(), shards.len());
        for shard in shards {
            behind -= 1;
            // All of them together take no longer than one would; half of what is left stays for those behind.
            let left = wait.saturating_sub(started.elapsed());
            let limit = if behind == 0 { left } else { left / 2 };
            match self.pools.pool(shard) {
                Ok(pool) => match pool.acquire_within(Applicant::default(), Some(limit)).await {
                    Ok(lease) => return Ok(lease),
                    Err(error) => refusal = error,
                },
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// The reported settings of a session that starts with these settings. The first time they
    /// are tried on a server, which also proves them valid.
    pub(crate) async fn reported(&self, settings: &Settings) -> Result<Reported, ReportedError> {
        if let Some(reported) = self.startups.lock().get(&settings.hash()) {
            return Ok(Arc::clone(reported));
        }
        let mut lease = self
            .any_connection(None)
            .await
            .map_err(ReportedError::Refused)?;
        let tried = match lease.server() {
            Some(server) => reported::try_on(server, settings).await,
            None => Err(ReportedError::Refused(Refusal::NoShard)),
        };
        let unfinished = matches!(tried, Err(ReportedError::Broken));
        let left = LeftBehind {
            unfinished,
            cancelled: false,
        };
        clean(lease, left).await;
        let reported = Arc::new(tried?);
        let mut startups = self.startups.lock();
        if startups.len() >= STARTUPS_MAX {
            startups.clear();
        }
        startups.insert(settings.hash(), Arc::clone(&reported));
        Ok(reported)
    }
}
