//! Starts a router, accepts clients, keeps it registered with the catalog, and drains it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::catalog::{Catalog, CatalogError};
use tenantry_schema::follow::{FollowConfig, FollowStatus, Follower};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Change, Config, ConfigError, ROUTER_NUMBER_MAX};
use crate::fleet::FleetWatch;
use crate::http::Http;
use crate::login::{LoginEnd, login};
use crate::reload::{self, ReadConfig, ReloadError};
use crate::router::Router;
use crate::socket::prepare_socket;

/// How long a start waits for the catalog to give the router its number.
const REGISTRATION_TIME: Duration = Duration::from_secs(2);
/// After the drain time, for sessions to give their server connections up.
const CLEANUP_TIME: Duration = Duration::from_secs(3);
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(5);
/// How often idle connections are looked through and the secrets file is checked for a rotation.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(1);
/// After a failed accept (out of file descriptors), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a router does not start.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The configuration cannot be used; every reason.
    #[error("unusable router configuration: {}", join(.0))]
    Config(Vec<ConfigError>),
    /// A listening address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The catalog's URI is malformed.
    #[error("unusable catalog URI")]
    Catalog(#[source] CatalogError),
}

fn join(problems: &[ConfigError]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// A router that is accepting clients.
pub struct Running {
    /// Where PostgreSQL clients connect.
    pub pg_addr: SocketAddr,
    /// Where HTTP clients connect.
    pub http_addr: SocketAddr,
    /// What the router knows of the catalog.
    pub follow: watch::Receiver<FollowStatus>,
    router: Arc<Router>,
    source: Option<ReadConfig>,
    stop: CancellationToken,
    sessions: TaskTracker,
    tasks: TaskTracker,
    background: CancellationToken,
}

/// Runs a router until `shutdown`, then drains it.
///
/// # Errors
/// The router cannot start; see [`RouterError`].
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RouterError> {
    let running = start(config).await?;
    tracing::info!(pg = %running.pg_addr, http = %running.http_addr, "router is listening");
    shutdown.cancelled().await;
    running.stop().await;
    Ok(())
}

/// Starts a router; it accepts clients when this returns.
///
/// # Errors
/// The configuration is unusable or an address cannot be listened on. A catalog that is away is
/// no error: the router waits for it, or serves from its snapshot.
pub async fn start(config: Config) -> Result<Running, RouterError> {
    start_from(config, None).await
}

/// Starts a router as [`start`] does, with a configuration that can be read again.
///
/// # Errors
/// As [`start`].
pub async fn start_from(
    config: Config,
    source: Option<ReadConfig>,
) -> Result<Running, RouterError> {
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(RouterError::Config(problems));
    }
    let pg = listen(config.listen).await?;
    let http = listen(config.http_listen).await?;
    let (pg_addr, http_addr) = (
        local(&pg, config.listen)?,
        local(&http, config.http_listen)?,
    );
    let background = CancellationToken::new();
    let stop = CancellationToken::new();
    let (tasks, sessions) = (TaskTracker::new(), TaskTracker::new());

    let fleet = Arc::new(FleetWatch::unknown());
    let (status, follow) = watch::channel(FollowStatus::default());
    let publish = {
        let fleet = Arc::clone(&fleet);
        move |next| fleet.publish(next)
    };
    let mut follow_config = FollowConfig::new(config.catalog_url.clone());
    follow_config
        .snapshot_file
        .clone_from(&config.snapshot_file);
    let follower = Follower::new(follow_config, publish, status).map_err(RouterError::Catalog)?;
    tasks.spawn(follower.run(background.clone()));

    let number = number(&config).await;
    let router = Arc::new(Router::new(config, number, fleet, stop.clone()));
    tasks.spawn(accept(
        Arc::clone(&router),
        pg,
        sessions.clone(),
        stop.clone(),
    ));
    let served = Http {
        router: Arc::clone(&router),
        follow: follow.clone(),
    };
    tasks.spawn(served.serve(http, background.clone()));
    tasks.spawn(maintain(Arc::clone(&router), background.clone()));
    tasks.spawn(heartbeat(Arc::clone(&router), background.clone()));
    Ok(Running {
        pg_addr,
        http_addr,
        follow,
        router,
        source,
        stop,
        sessions,
        tasks,
        background,
    })
}

impl Running {
    /// Reads the configuration anew and puts into force what can change without a restart; answers
    /// everything that differs.
    ///
    /// # Errors
    /// The router has no configuration to read again, or it has problems: nothing was changed.
    pub async fn reload(&self) -> Result<Vec<Change>, ReloadError> {
        reload::reload(&self.router, self.source.clone(), "signal").await
    }

    /// Refuses new sessions, lets open transactions end within the drain time, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        self.sessions.close();
        let drain = self.router.config().timeouts.drain;
        // Sessions end themselves at the drain time; cleaning up after them takes a little longer.
        if timeout(drain + CLEANUP_TIME, self.sessions.wait())
            .await
            .is_err()
        {
            let left = self.sessions.len();
            tracing::warn!(left, "sessions did not end within the drain time");
        }
        self.background.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RouterError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RouterError::Listen { address, source })
}

fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, RouterError> {
    listener
        .local_addr()
        .map_err(|source| RouterError::Listen { address, source })
}

/// The router's number: configured, the catalog's, or, while the catalog is away, one that the
/// name decides. Two routers with one number confuse nobody's data, only their cancels.
async fn number(config: &Config) -> u16 {
    if config.number != 0 {
        return config.number;
    }
    let registered = timeout(REGISTRATION_TIME, async {
        let catalog = Catalog::connect(&config.catalog_url).await?;
        catalog.register_router(&config.name, None).await
    });
    match registered.await {
        Ok(Ok(number)) => number,
        other => {
            let error = match other {
                Ok(Err(error)) => error.to_string(),
                _ => "timed out".to_owned(),
            };
            tracing::warn!(error, "the catalog did not give the router its number");
            let mut hasher = DefaultHasher::new();
            config.name.hash(&mut hasher);
            let hash = hasher.finish() % u64::from(ROUTER_NUMBER_MAX);
            u16::try_from(hash).unwrap_or_default() + 1
        }
    }
}

async fn accept(
    router: Arc<Router>,
    listener: TcpListener,
    sessions: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                sessions.spawn(client(Arc::clone(&router), socket));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One client, from accept to close.
async fn client(router: Arc<Router>, socket: TcpStream) {
    if prepare_socket(&socket).is_err() {
        return;
    }
    let limit = router.config().timeouts.login;
    let logged_in = match timeout(limit, login(Arc::clone(&router), socket)).await {
        Ok(Ok(logged_in)) => logged_in,
        Ok(Err(LoginEnd::Refused(name))) => return router.metrics.login_failed(name),
        Ok(Err(LoginEnd::Done)) => return,
        Err(_elapsed) => return router.metrics.login_failed("LOGIN_TIMEOUT"),
    };
    router.metrics.logged_in();
    let counted = Arc::clone(&router);
    let ended = Box::pin(logged_in.connection.run()).await;
    tracing::debug!(?ended, "session ended");
    counted.metrics.session_ended();
    drop(logged_in.registration);
}

async fn maintain(router: Arc<Router>, shutdown: CancellationToken) {
    let mut tick = interval(MAINTENANCE_PERIOD);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        router.pools.renew_if_rotated();
        for pool in router.pools.all() {
            pool.prune();
        }
    }
}

/// Tells the catalog that the router lives and how far it has followed. A catalog that is away
/// costs nothing but the next attempt.
async fn heartbeat(router: Arc<Router>, shutdown: CancellationToken) {
    let mut tick = interval(HEARTBEAT_PERIOD);
    let mut registered: Option<(Catalog, u16)> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = tick.tick() => {}
        }
        let beat = timeout(HEARTBEAT_PERIOD, beat(&router, registered.take()));
        match beat.await {
            Ok(Ok(now)) => registered = now,
            Ok(Err(error)) => tracing::debug!(%error, "heartbeat did not reach the catalog"),
            Err(_elapsed) => tracing::debug!("heartbeat timed out"),
        }
    }
    if let Some((catalog, id)) = registered
        && let Err(error) = catalog.unregister_router(id).await
    {
        tracing::debug!(%error, "the catalog was not told that the router ends");
    }
}

async fn beat(
    router: &Router,
    registered: Option<(Catalog, u16)>,
) -> Result<Option<(Catalog, u16)>, CatalogError> {
    let (catalog, id) = match registered {
        Some(registered) => registered,
        None => {
            let catalog = Catalog::connect(&router.config().catalog_url).await?;
            let id = catalog.register_router(&router.config().name, None).await?;
            (catalog, id)
        }
    };
    let sequence = router.fleet.current().sequence;
    let known = catalog.heartbeat_router(id, sequence).await?;
    Ok(known.then_some((catalog, id)))
}
