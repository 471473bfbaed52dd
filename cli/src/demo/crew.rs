//! The roles of the demo, each a task of this process: what production runs as one process per role.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fleet::{CATALOG_DATABASE, SHARD_DATABASE, Servers};
use super::place::Place;
use super::ports::{PortPlan, local};
use crate::exit::{Exit, Failure};

/// How long the roles may take to end once told to.
const STOP_MAX: Duration = Duration::from_secs(20);

/// How long the router may take to become ready.
const READY_MAX: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(10);

/// The running roles. Dropping them aborts them.
pub(super) struct Crew {
    tasks: JoinSet<Ended>,
    stop: CancellationToken,
    http: SocketAddr,
}

/// A role that ended, and why if not because it was told to.
struct Ended {
    role: &'static str,
    error: Option<anyhow::Error>,
}

impl Crew {
    /// Starts every role.
    pub(super) fn start(
        place: &Place,
        servers: &Servers,
        ports: PortPlan,
    ) -> Result<Self, Failure> {
        let catalog_url = servers.catalog.url(CATALOG_DATABASE);
        let mut crew = Self {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            http: local(ports.http()),
        };
        let rebalancer = tenantry_rebalancer::Config {
            catalog_url: catalog_url.clone(),
            secrets_file: place.secrets(),
            ..tenantry_rebalancer::Config::default()
        };
        crew.spawn(
            "rebalancer",
            tenantry_rebalancer::run(rebalancer, crew.stop.clone()),
        );
        let console = tenantry_console::Config {
            catalog_url: catalog_url.clone(),
            listen: local(ports.console()),
        };
        let router = tenantry_router::Config {
            listen: local(ports.router()),
            http_listen: local(ports.http()),
            catalog_url: catalog_url.clone(),
            secrets_file: place.secrets(),
            snapshot_file: Some(place.snapshot()),
            name: "demo".to_owned(),
            database: SHARD_DATABASE.to_owned(),
            ..tenantry_router::Config::default()
        };
        crew.spawn("router", tenantry_router::run(router, crew.stop.clone()));
        let agent = tenantry_shard_agent::Config {
            catalog_url: catalog_url.clone(),
            secrets_file: place.secrets(),
            // Every server of the demo has the same superuser.
            admin_url: Some(servers.catalog.url("postgres")),
        };
        crew.spawn("agent", tenantry_shard_agent::run(agent, crew.stop.clone()));
        crew.spawn("console", tenantry_console::run(console, crew.stop.clone()));
        Ok(crew)
    }

    fn spawn<E: Into<anyhow::Error>>(
        &mut self,
        role: &'static str,
        run: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            let error = run.await.err().map(Into::into);
            Ended { role, error }
        });
    }

    /// Waits until the router says that it serves.
    pub(super) async fn wait_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_MAX;
        while !is_ready(self.http).await {
            if Instant::now() > deadline {
                return Err(Failure::new(
                    Exit::TimedOut,
                    "the router does not become ready",
                ));
            }
            tokio::select! {
                failure = self.failed() => return Err(failure),
                () = tokio::time::sleep(POLL) => {}
            }
        }
        Ok(())
    }

    /// Ends when a role does, which none should before it is told to.
    pub(super) async fn failed(&mut self) -> Failure {
        match self.tasks.join_next().await {
            Some(Ok(Ended {
                role,
                error: Some(error),
            })) => Failure::new(Exit::Failed, format!("the {role} stopped")).because(error),
            Some(Ok(Ended { role, error: None })) => {
                Failure::new(Exit::Failed, format!("the {role} stopped"))
            }
            Some(Err(error)) => Failure::new(Exit::Failed, "a role crashed").because(error),
            None => std::future::pending().await,
        }
    }

    /// Tells every role to end and waits for it, for a bounded time.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok(Ended {
                    role,
                    error: Some(error),
                }) = ended
                {
                    tracing::warn!(role, error = format!("{error:#}"), "ended badly");
                }
            }
        };
        if tokio::time::timeout(STOP_MAX, all).await.is_err() {
            tracing::warn!("some roles did not end in time and are aborted");
        }
    }
}

/// Whether `GET /readyz` answers 200.
async fn is_ready(http: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(http).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        Ok::<bool, std::io::Error>(status.ends_with(b" 200"))
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(1), ask).await,
        Ok(Ok(true))
    )
}
