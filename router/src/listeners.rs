//! The listening sockets of a router: new ones, or those of the router whose place it takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixStream};

use crate::config::Config;
use crate::handover::{self, HandoverError, Inherited, Predecessor};
use crate::router::Router;

/// Before a router that does not answer is asked again for its sockets.
const HANDOVER_PAUSE: Duration = Duration::from_secs(1);

/// Why a router has nothing to listen at.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A listening address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A running router is there and does not hand its sockets over.
    #[error("cannot take over from the running router")]
    Handover(#[source] HandoverError),
}

/// The listening sockets, and what else comes with those of a running router.
pub(crate) struct Sockets {
    pub(crate) pg: Arc<TcpListener>,
    pub(crate) http: Arc<TcpListener>,
    /// If the control plane has a place of its own.
    pub(crate) control: Option<Arc<TcpListener>>,
    /// Number, last session, and the way back.
    pub(crate) inherited: Option<(u16, u32, UnixStream)>,
}

impl Sockets {
    /// A running router's, or else new ones.
    pub(crate) async fn open(config: &Config) -> Result<Self, ListenError> {
        let inherited = match &config.handover_socket {
            Some(path) => handover::inherit(path)
                .await
                .map_err(ListenError::Handover)?,
            None => None,
        };
        let mut sockets = match inherited {
            Some(Inherited {
                pg,
                http,
                control,
                number,
                last_session,
                predecessor,
            }) => Self {
                pg: Arc::new(pg),
                http: Arc::new(http),
                control: control.map(Arc::new),
                inherited: Some((number, last_session, predecessor)),
            },
            None => Self {
                pg: Arc::new(listen(config.listen).await?),
                http: Arc::new(listen(config.http_listen).await?),
                control: None,
                inherited: None,
            },
        };
        match config.control_listen {
            // The running router may have had none.
            Some(address) if sockets.control.is_none() => {
                sockets.control = Some(Arc::new(listen(address).await?));
            }
            Some(_) => {}
            None => sockets.control = None,
        }
        Ok(sockets)
    }
}

/// Ends the rule of the running router, as soon as this one knows the fleet. If that takes so long
/// that it is not waited for any more, it is asked again; if it has ended meanwhile, the sockets are
/// this router's alone.
pub(crate) async fn take_the_place(router: &Router, mut predecessor: UnixStream) {
    router.fleet.known().await;
    loop {
        match Predecessor::retire(predecessor).await {
            Ok(predecessor) => return router.succeed(predecessor),
            Err(error) => {
                tracing::warn!(%error, "the running router does not retire: asking again")
            }
        }
        let path = router.config().handover_socket.clone();
        let Some(path) = path else { return };
        predecessor = loop {
            match handover::inherit(&path).await {
                Ok(Some(again)) => break again.predecessor,
                Ok(None) => return,
                Err(error) => tracing::warn!(%error, "cannot ask the running router"),
            }
            tokio::time::sleep(HANDOVER_PAUSE).await;
        };
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Listen { address, source })
}

pub(crate) fn local(
    listener: &TcpListener,
    address: SocketAddr,
) -> Result<SocketAddr, ListenError> {
    listener
        .local_addr()
        .map_err(|source| ListenError::Listen { address, source })
}
