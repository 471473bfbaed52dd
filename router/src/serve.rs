//! Starts a router, accepts clients, keeps it registered with the catalog, and drains it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tenantry_schema::catalog::CatalogError;
use tenantry_schema::follow::{FollowConfig, FollowStatus, Follower};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activity::LoginGuard;
use crate::config::{Change, Config, ConfigError};
use crate::console::Shutdown;
use crate::fleet::FleetWatch;
use crate::handover::Estate;
use crate::http::{Http, Serves};
use crate::listeners::{ListenError, Sockets, local, take_the_place};
use crate::load;
use crate::login::{LoginEnd, login};
use crate::overtime;
use crate::registration::{Places, heartbeat, number};
use crate::reload::{ReadConfig, ReloadError};
use crate::router::{Router, TlsSides};
use crate::socket::prepare_socket;
use crate::threads::Threads;
use crate::tls::TlsError;

/// After the drain time, for sessions to give their server connections up.
const CLEANUP_TIME: Duration = Duration::from_secs(3);
/// How often idle connections are looked through and the secrets file is checked for a rotation.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(1);
/// How often it is looked whether the last login has ended.
const LOGIN_LOOK: Duration = Duration::from_millis(5);
/// After a failed accept (out of file descriptors), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a router does not start.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The configuration cannot be used; every reason.
    #[error("unusable router configuration: {}", join(.0))]
    Config(Vec<ConfigError>),
    /// There is nothing to listen at.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Files for TLS cannot be used.
    #[error("TLS cannot be used as configured")]
    Tls(#[source] TlsError),
    /// The system gives no more threads.
    #[error("cannot start the threads that serve sessions")]
    Threads(#[source] std::io::Error),
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
    /// Where the rebalancer connects.
    pub control_addr: SocketAddr,
    /// What the router knows of the catalog.
    pub follow: watch::Receiver<FollowStatus>,
    router: Arc<Router>,
    sessions: TaskTracker,
    /// Sessions end with their threads: they are kept until the drain is over.
    _threads: Arc<Threads>,
    tasks: TaskTracker,
    background: CancellationToken,
}

/// Runs a router until `shutdown` or until a successor serves in its place, then drains it.
///
/// # Errors
/// The router cannot start; see [`RouterError`].
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RouterError> {
    let running = start(config).await?;
    tracing::info!(pg = %running.pg_addr, http = %running.http_addr, "router is listening");
    tokio::select! {
        () = shutdown.cancelled() => running.stop().await,
        how = running.asked_to_stop() => running.stop_as(how, &shutdown).await,
        () = running.replaced() => running.stop_replaced(&shutdown).await,
    }
    Ok(())
}

/// Starts a router; it accepts clients when this returns, or, where it takes over from a running
/// one, as soon as it knows the fleet.
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
    let tls = TlsSides::read(&config).map_err(RouterError::Tls)?;
    let sockets = Sockets::open(&config).await?;
    let (pg_addr, http_addr) = (
        local(&sockets.pg, config.listen)?,
        local(&sockets.http, config.http_listen)?,
    );
    let control_addr = match (&sockets.control, config.control_listen) {
        (Some(listener), Some(address)) => local(listener, address)?,
        _ => http_addr,
    };
    let places = Places {
        pg: pg_addr,
        control: control_addr,
    };
    let threads = Arc::new(Threads::start(config.threads).map_err(RouterError::Threads)?);
    let background = CancellationToken::new();
    let (tasks, sessions) = (TaskTracker::new(), TaskTracker::new());

    let fleet = Arc::new(FleetWatch::unknown());
    let follow = follow(&config, &fleet, &tasks, &background)?;
    let number = match &sockets.inherited {
        Some((number, _, _)) => *number,
        None => number(&config, places).await,
    };
    let router = Arc::new(Router::new(
        config,
        number,
        fleet,
        tls,
        follow.clone(),
        source,
    ));
    tasks.spawn(maintain(Arc::clone(&router), background.clone()));
    tasks.spawn(overtime::watch(Arc::clone(&router), background.clone()));
    tasks.spawn(heartbeat(Arc::clone(&router), places, background.clone()));
    tasks.spawn(load::publish(Arc::clone(&router), background.clone()));
    let served = Http {
        router: Arc::clone(&router),
        follow: follow.clone(),
        serves: Serves::Pages,
    };
    tasks.spawn(serve(
        Arc::clone(&router),
        sockets,
        served,
        Arc::clone(&threads),
        sessions.clone(),
        background.clone(),
    ));
    Ok(Running {
        pg_addr,
        http_addr,
        control_addr,
        follow,
        router,
        sessions,
        _threads: threads,
        tasks,
        background,
    })
}

fn follow(
    config: &Config,
    fleet: &Arc<FleetWatch>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<watch::Receiver<FollowStatus>, RouterError> {
    let (status, follow) = watch::channel(FollowStatus::default());
    let publish = {
        let fleet = Arc::clone(fleet);
        move |next| fleet.publish(next)
    };
    let mut follow_config = FollowConfig::new(config.catalog_url.clone());
    follow_config
        .snapshot_file
        .clone_from(&config.snapshot_file);
    let follower = Follower::new(follow_config, publish, status).map_err(RouterError::Catalog)?;
    tasks.spawn(follower.run(shutdown.clone()));
    Ok(follow)
}

impl Running {
    /// Reads the configuration anew and puts into force what can change without a restart; answers
    /// everything that differs.
    ///
    /// # Errors
    /// The router has no configuration to read again, or it has problems: nothing was changed.
    pub async fn reload(&self) -> Result<Vec<Change>, ReloadError> {
        self.router.reload_from_source("signal").await
    }

    /// Resolves when a successor serves in this router's place: time to [`Running::stop_replaced`].
    pub async fn replaced(&self) {
        self.router.replaced.cancelled().await;
    }

    /// Resolves when an operator has asked for an end: time to [`Running::stop_as`].
    pub async fn asked_to_stop(&self) -> Shutdown {
        let mut asked = self.router.asked_to_stop();
        loop {
            if let Some(how) = *asked.borrow_and_update() {
                return how;
            }
            if asked.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops as an operator asked; `shutdown` cuts what that takes to the usual drain time.
    pub async fn stop_as(self, how: Shutdown, shutdown: &CancellationToken) {
        let limit = self.router.config().timeouts.drain;
        let hurried = async {
            shutdown.cancelled().await;
            tokio::time::sleep(limit).await;
        };
        match how {
            Shutdown::Drain => self.stop().await,
            Shutdown::WaitForServers => self.drain(hurried).await,
            Shutdown::WaitForClients => {
                self.sessions.close();
                tokio::select! {
                    () = self.sessions.wait() => {}
                    () = shutdown.cancelled() => {}
                }
                self.stop().await;
            }
        }
    }

    /// Refuses new sessions, lets open transactions end within the drain time, and ends.
    pub async fn stop(self) {
        let limit = self.router.config().timeouts.drain;
        self.drain(tokio::time::sleep(limit)).await;
    }

    /// The same with more time, which `shutdown` cuts to the usual drain time.
    pub async fn stop_replaced(self, shutdown: &CancellationToken) {
        let limits = self.router.config().timeouts.clone();
        // Who has been accepted is not refused.
        let logins = async {
            while self.router.logins.open() > 0 {
                tokio::time::sleep(LOGIN_LOOK).await;
            }
        };
        if timeout(limits.login, logins).await.is_err() {
            tracing::warn!("logins outlast their time");
        }
        let limit = async {
            let hurried = timeout(limits.drain_replaced, shutdown.cancelled()).await;
            if hurried.is_ok() {
                tokio::time::sleep(limits.drain).await;
            }
        };
        self.drain(limit).await;
    }

    async fn drain(self, limit: impl Future<Output = ()>) {
        self.router.drain.cancel();
        self.sessions.close();
        tokio::select! {
            () = self.sessions.wait() => {}
            () = limit => {
                self.router.end.cancel();
                // Who waits for a connection hears this: `end` has one lock for all, which no session takes there.
                for client in self.router.activity.clients() {
                    client.kill();
                }
            }
        }
        // Cleaning up after sessions takes a little longer.
        if timeout(CLEANUP_TIME, self.sessions.wait()).await.is_err() {
            let left = self.sessions.len();
            tracing::warn!(left, "sessions did not end within the drain time");
        }
        self.background.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Accepts clients, once a router that took over knows the fleet, and hands over in its turn.
async fn serve(
    router: Arc<Router>,
    sockets: Sockets,
    http: Http,
    threads: Arc<Threads>,
    sessions: TaskTracker,
    background: CancellationToken,
) {
    if let Some((_, last_session, predecessor)) = sockets.inherited {
        router.cancels.resume_after(last_session);
        tokio::select! {
            () = background.cancelled() => return,
            () = take_the_place(&router, predecessor) => {}
        }
    }
    router.serves.store(true, Ordering::Release);
    let control = sockets.control.clone().map(|listener| {
        let control = Http {
            serves: Serves::Control,
            ..http.clone()
        };
        control.serve(listener, background.clone())
    });
    let control = async {
        if let Some(control) = control {
            control.await;
        }
    };
    let http = Http {
        // Without a place of its own the control plane is where the rest is.
        serves: if sockets.control.is_some() {
            Serves::Pages
        } else {
            Serves::All
        },
        ..http
    };
    let http = http.serve(Arc::clone(&sockets.http), background.clone());
    let estate = router.config().handover_socket.clone().map(|path| {
        let estate = Estate {
            router: Arc::clone(&router),
            pg: Arc::clone(&sockets.pg),
            http: Arc::clone(&sockets.http),
            control: sockets.control.clone(),
        };
        estate.await_successor(path, background)
    });
    let estate = async {
        if let Some(estate) = estate {
            estate.await;
        }
    };
    let accept = accept(router, sockets.pg, threads, sessions);
    tokio::join!(accept, http, control, estate);
}

async fn accept(
    router: Arc<Router>,
    listener: Arc<TcpListener>,
    threads: Arc<Threads>,
    sessions: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = router.replaced.cancelled() => return,
            () = router.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, from)) => match socket.into_std() {
                Ok(socket) => {
                    let logging_in = router.logins.begin();
                    let client = client(Arc::clone(&router), socket, from.ip(), logging_in);
                    threads.spawn(&sessions, client);
                }
                Err(error) => tracing::warn!(%error, "cannot hand a client to its thread"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One client, from accept to close.
async fn client(
    router: Arc<Router>,
    socket: std::net::TcpStream,
    from: IpAddr,
    logging_in: LoginGuard,
) {
    let Ok(socket) = TcpStream::from_std(socket) else {
        return;
    };
    if prepare_socket(&socket).is_err() {
        return;
    }
    let began = tokio::time::Instant::now();
    let limit = router.config().timeouts.login;
    // Boxed, so that a session does not carry its login's state along.
    let logged_in = match timeout(limit, Box::pin(login(Arc::clone(&router), socket, from))).await {
        Ok(Ok(logged_in)) => logged_in,
        Ok(Err(LoginEnd::Refused(name))) => return router.metrics.login_failed(name),
        Ok(Err(LoginEnd::Done)) => return,
        Err(_elapsed) => return router.metrics.login_failed("LOGIN_TIMEOUT"),
    };
    drop(logging_in);
    router.metrics.login_took(began.elapsed());
    router.metrics.logged_in();
    let counted = Arc::clone(&router);
    let ended = logged_in.serving.run().await;
    tracing::debug!(?ended, "session ended");
    counted.metrics.session_ended();
    drop(logged_in.listed);
    drop(logged_in.role_place);
    drop(logged_in.registration);
}

async fn maintain(router: Arc<Router>, shutdown: CancellationToken) {
    let mut tick = interval(MAINTENANCE_PERIOD);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        router.activity.tick();
        router.renew_from_files();
        router.tend_holds();
        for pool in router.pools.all() {
            pool.prune();
        }
    }
}
