//! What the rebalancer says to routers: to all that live at once, each within its own time limit.
//!
//! A router that does not answer delays nobody beyond the limit, and changes nothing but the comfort of its own clients:
//! the fence on the shard decides. Connections are kept open between messages, because a message of a cutover is part of
//! its pause. Nothing here decides what to say.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tenantry_schema::catalog::{Catalog, CatalogError};
use tenantry_schema::control::{
    CONTROL_BYTES_MAX, ControlCall, ControlProblem, Forget, Hold, Prepare, Release,
};
use tenantry_schema::secrets::Password;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A router that has been silent for so long is not waited for.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A router with a control plane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ControlledRouter {
    /// Its name.
    pub name: String,
    /// `HOST:PORT` of its control plane.
    pub address: String,
}

/// The routers that live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveRouters {
    /// Those that can be asked to hold a tenant.
    pub controlled: Vec<ControlledRouter>,
    /// The names of those that cannot: their clients find a tenant by meeting its fence.
    pub uncontrolled: Vec<String>,
}

/// Why a router did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It was not reached.
    #[error("cannot connect to the router")]
    Connect(#[source] std::io::Error),
    /// The connection broke, or speaks no HTTP.
    #[error("the router did not answer in order")]
    Http(#[source] hyper::Error),
    /// The message cannot be written, or the answer cannot be read.
    #[error("unusable message")]
    Message(#[source] serde_json::Error),
    /// The request cannot be built.
    #[error("unusable address or token")]
    Request(#[source] hyper::http::Error),
    /// The answer is too long or broke off.
    #[error("the answer is too long or incomplete")]
    Body,
    /// It said no.
    #[error("the router refused with status {status}: {detail}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// Why.
        detail: String,
    },
    /// It did not answer within the limit.
    #[error("no answer in {} ms", .0.as_millis())]
    Silent(Duration),
}

/// What became of one message to several routers.
#[derive(Debug)]
pub struct Answers<A> {
    /// Those who did as they were asked.
    pub answered: Vec<(ControlledRouter, A)>,
    /// The others.
    pub failed: Vec<(ControlledRouter, CallError)>,
}

/// Speaks to routers. Cloning is cheap; connections are shared.
#[derive(Clone)]
pub struct Routers {
    inner: Arc<Inner>,
}

struct Inner {
    /// The header that shows the control token.
    token: HeaderValue,
    /// Connections that wait for the next message, by address.
    idle: Mutex<HashMap<String, Vec<Line>>>,
}

type Line = SendRequest<Full<Bytes>>;

/// Without the token.
impl fmt::Debug for Routers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routers").finish_non_exhaustive()
    }
}

impl Routers {
    /// With the token of the fleet's secrets file.
    ///
    /// # Errors
    /// The token holds characters that no header may.
    pub fn new(token: &Password) -> Result<Self, hyper::http::Error> {
        let mut token = HeaderValue::from_str(&format!("Bearer {}", token.expose()))?;
        token.set_sensitive(true);
        Ok(Self {
            inner: Arc::new(Inner {
                token,
                idle: Mutex::default(),
            }),
        })
    }

    /// The routers that live, as the catalog knows them. To be asked before a pause, not within.
    ///
    /// # Errors
    /// The catalog does not answer.
    pub async fn live(&self, catalog: &Catalog) -> Result<LiveRouters, CatalogError> {
        let mut live = LiveRouters::default();
        for router in catalog.live_routers(SILENCE_MAX).await? {
            match router.control_address {
                Some(address) => live.controlled.push(ControlledRouter {
                    name: router.name,
                    address,
                }),
                None => live.uncontrolled.push(router.name),
            }
        }
        let known: Vec<_> = live
            .controlled
            .iter()
            .map(|router| &router.address)
            .collect();
        let mut idle = self.inner.idle.lock();
        idle.retain(|address, _| known.contains(&address));
        Ok(live)
    }

    /// A cutover is near.
    pub async fn prepare(
        &self,
        to: &[ControlledRouter],
        message: &Prepare,
        limit: Duration,
    ) -> Answers<<Prepare as ControlCall>::Answer> {
        self.say(to, message, limit).await
    }

    /// No transaction of the tenant begins from now on. `limit` should exceed the message's own `drain_ms`.
    pub async fn hold(
        &self,
        to: &[ControlledRouter],
        message: &Hold,
        limit: Duration,
    ) -> Answers<<Hold as ControlCall>::Answer> {
        self.say(to, message, limit).await
    }

    /// The tenant is served at this shard.
    pub async fn release(
        &self,
        to: &[ControlledRouter],
        message: &Release,
        limit: Duration,
    ) -> Answers<<Release as ControlCall>::Answer> {
        self.say(to, message, limit).await
    }

    /// The move is over.
    pub async fn forget(
        &self,
        to: &[ControlledRouter],
        message: &Forget,
        limit: Duration,
    ) -> Answers<<Forget as ControlCall>::Answer> {
        self.say(to, message, limit).await
    }

    async fn say<C: ControlCall + Sync>(
        &self,
        to: &[ControlledRouter],
        message: &C,
        limit: Duration,
    ) -> Answers<C::Answer> {
        let calls = to.iter().map(|router| async move {
            let said = timeout(limit, self.call(router, message)).await;
            (router, said.unwrap_or(Err(CallError::Silent(limit))))
        });
        let mut answers = Answers {
            answered: Vec::new(),
            failed: Vec::new(),
        };
        for (router, said) in join_all(calls).await {
            match said {
                Ok(answer) => answers.answered.push((router.clone(), answer)),
                Err(error) => answers.failed.push((router.clone(), error)),
            }
        }
        answers
    }

    async fn call<C: ControlCall>(
        &self,
        router: &ControlledRouter,
        message: &C,
    ) -> Result<C::Answer, CallError> {
        let body = Bytes::from(serde_json::to_vec(message).map_err(CallError::Message)?);
        let request = || self.request::<C>(router, body.clone());
        // Every message may be said twice; a connection that waited may have been closed meanwhile.
        if let Some(line) = self.idle_line(router)
            && let Ok(answer) = self.ask::<C>(router, line, request()?).await
        {
            return answer;
        }
        let line = open(&router.address).await?;
        self.ask::<C>(router, line, request()?).await?
    }

    fn request<C: ControlCall>(
        &self,
        router: &ControlledRouter,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, CallError> {
        Request::builder()
            .method(Method::POST)
            .uri(C::PATH)
            .header(HOST, &router.address)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, self.inner.token.clone())
            .body(Full::new(body))
            .map_err(CallError::Request)
    }

    /// One exchange; the outer error is the connection's.
    async fn ask<C: ControlCall>(
        &self,
        router: &ControlledRouter,
        mut line: Line,
        request: Request<Full<Bytes>>,
    ) -> Result<Result<C::Answer, CallError>, CallError> {
        line.ready().await.map_err(CallError::Http)?;
        let response = line.send_request(request).await.map_err(CallError::Http)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), CONTROL_BYTES_MAX).collect();
        let body = body.await.map_err(|_| CallError::Body)?.to_bytes();
        self.keep(router, line);
        if status != StatusCode::OK {
            let problem = serde_json::from_slice::<ControlProblem>(&body);
            let detail = problem.map_or_else(|_| "no reason given".to_owned(), |it| it.detail);
            return Ok(Err(CallError::Refused {
                status: status.as_u16(),
                detail,
            }));
        }
        Ok(serde_json::from_slice(&body).map_err(CallError::Message))
    }

    fn idle_line(&self, router: &ControlledRouter) -> Option<Line> {
        let mut idle = self.inner.idle.lock();
        let lines = idle.get_mut(&router.address)?;
        while let Some(line) = lines.pop() {
            if !line.is_closed() {
                return Some(line);
            }
        }
        None
    }

    fn keep(&self, router: &ControlledRouter, line: Line) {
        let mut idle = self.inner.idle.lock();
        let lines = idle.entry(router.address.clone()).or_default();
        lines.retain(|line| !line.is_closed());
        lines.push(line);
    }
}

async fn open(address: &str) -> Result<Line, CallError> {
    let socket = TcpStream::connect(address)
        .await
        .map_err(CallError::Connect)?;
    socket.set_nodelay(true).map_err(CallError::Connect)?;
    let (line, connection) = handshake(TokioIo::new(socket))
        .await
        .map_err(CallError::Http)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a router ended");
        }
    });
    Ok(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tenantry_schema::control::Forgotten;
    use tenantry_schema::tenant::TenantId;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    fn forget() -> Forget {
        serde_json::from_str(r#"{"tenant":"1","move":"00000000-0000-0000-0000-000000000001"}"#)
            .unwrap()
    }

    fn routers() -> Routers {
        Routers::new(&Password::from("s3cret".to_owned())).unwrap()
    }

    async fn listener() -> (TcpListener, ControlledRouter) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let router = ControlledRouter {
            name: "r".to_owned(),
            address: listener.local_addr().unwrap().to_string(),
        };
        (listener, router)
    }

    /// Answers so many requests on each connection, then closes it; answers what it was sent.
    async fn serve(listener: TcpListener, per_connection: usize, answer: &'static str) -> String {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut seen = String::new();
        for _ in 0..per_connection {
            let mut input = vec![0; 4096];
            let read = socket.read(&mut input).await.unwrap();
            seen.push_str(std::str::from_utf8(&input[..read]).unwrap());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        seen
    }

    const KNOWN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"known\":true}";
    const NO: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 15\r\n\r\n{\"detail\":\"no\"}";

    #[tokio::test]
    async fn a_silent_router_delays_nobody_beyond_the_limit() {
        let (silent, first) = listener().await;
        let (speaks, second) = listener().await;
        let serving = tokio::spawn(serve(speaks, 2, KNOWN));
        let routers = routers();
        let to = [first.clone(), second.clone()];
        let answers = routers.forget(&to, &forget(), LIMIT).await;
        assert_eq!(
            answers.answered,
            [(second.clone(), Forgotten { known: true })]
        );
        assert!(
            matches!(&answers.failed[..], [(router, CallError::Silent(_))] if *router == first)
        );
        drop(silent);

        // The connection that answered is used again.
        let again = routers.forget(&[second], &forget(), LIMIT).await;
        assert_eq!(again.answered.len(), 1);
        let seen = serving.await.unwrap();
        assert_eq!(seen.matches("authorization: Bearer s3cret").count(), 2);
        assert!(seen.contains(r#""tenant":"1""#), "{seen}");
        assert_eq!(forget().tenant, TenantId::from_bigint(1).unwrap());
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_is_opened_again() {
        let (listens, router) = listener().await;
        let serving = tokio::spawn(async move {
            for _ in 0..2 {
                let (mut socket, _) = listens.accept().await.unwrap();
                let mut input = vec![0; 4096];
                let _ = socket.read(&mut input).await.unwrap();
                socket.write_all(KNOWN.as_bytes()).await.unwrap();
            }
        });
        let routers = routers();
        for _ in 0..2 {
            let to = [router.clone()];
            let answers = routers.forget(&to, &forget(), LIMIT).await;
            assert!(answers.failed.is_empty(), "{:?}", answers.failed);
        }
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_the_token_is_not() {
        let (listens, router) = listener().await;
        let serving = tokio::spawn(serve(listens, 1, NO));
        let routers = routers();
        let answers = routers.forget(&[router], &forget(), LIMIT).await;
        let (_, error) = &answers.failed[0];
        assert!(matches!(error, CallError::Refused { status: 401, detail } if detail == "no"));
        assert!(!format!("{routers:?} {error}").contains("s3cret"));
        serving.await.unwrap();
    }
}
