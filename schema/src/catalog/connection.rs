//! One connection to the catalog, with the timeouts that tell a dead server from a slow one.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::config::Host;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Socket};

use super::CatalogError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes unacknowledged for this long end the connection, so that a half-open one is noticed.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Reads a libpq URI or keyword string and fills in what it leaves open.
pub fn parse_url(url: &str) -> Result<Config, CatalogError> {
    let mut config: Config = url.parse().map_err(CatalogError::Url)?;
    if config.get_application_name().is_none() {
        config.application_name("tenantry");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
    config.keepalives_idle(UNACKNOWLEDGED_MAX);
    config.keepalives_interval(UNACKNOWLEDGED_MAX / 3);
    config.keepalives_retries(3);
    Ok(config)
}

/// Opens a connection; `wake` is notified at each notification, and once when the connection ends.
pub(crate) async fn open(
    config: &Config,
    wake: Option<Arc<Notify>>,
) -> Result<Client, CatalogError> {
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| CatalogError::Connect {
        address: address(config),
        source,
    };
    let timeout = config
        .get_connect_timeout()
        .copied()
        .unwrap_or(CONNECT_TIMEOUT);
    // The driver's own timeout covers the TCP handshake only, not a server that accepts and stays silent.
    let connecting = tokio::time::timeout(timeout, config.connect(NoTls));
    let (client, connection) = match connecting.await {
        Ok(connected) => connected.map_err(|error| refused(error.into()))?,
        Err(elapsed) => return Err(refused(elapsed.into())),
    };
    tokio::spawn(drive(connection, wake));
    Ok(client)
}

async fn drive(
    mut connection: tokio_postgres::Connection<Socket, tokio_postgres::tls::NoTlsStream>,
    wake: Option<Arc<Notify>>,
) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(_))) => {
                if let Some(wake) = &wake {
                    wake.notify_one();
                }
            }
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(message = notice.message(), "catalog notice")
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "catalog connection ended");
                break;
            }
            None => break,
        }
    }
    if let Some(wake) = &wake {
        wake.notify_one();
    }
}

/// Host and port for error texts; never the user or the password.
fn address(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("{host}:{port}")
}
