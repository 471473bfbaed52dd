//! The router's HTTP: is it alive, can it serve, what does it count, where does a host live.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tenantry_schema::control::CONTROL_PREFIX;
use tenantry_schema::follow::{FleetSource, FollowStatus};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control;
use crate::metrics::tenants;
use crate::router::Router;

/// A client that does not finish its request head in this time is cut off.
const HEAD_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) router: Arc<Router>,
    pub(crate) follow: watch::Receiver<FollowStatus>,
    pub(crate) serves: Serves,
}

/// What is served at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    Pages,
    Control,
    All,
}

impl Http {
    /// Serves until `shutdown`, then lets running requests finish. Once `replaced`, new ones are
    /// the successor's.
    pub(crate) async fn serve(self, listener: Arc<TcpListener>, shutdown: CancellationToken) {
        let replaced = self.router.replaced.clone();
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = replaced.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((socket, _)) = accepted else { continue };
            let http = self.clone();
            let (shutdown, replaced) = (shutdown.clone(), replaced.clone());
            tasks.spawn(async move {
                let service = service_fn(move |request| {
                    let http = http.clone();
                    async move { Ok::<_, Infallible>(http.serve_one(request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME)
                    .serve_connection(TokioIo::new(socket), service);
                let mut connection = std::pin::pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = async { tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = replaced.cancelled() => {}
                    } } => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, "HTTP connection ended");
                }
            });
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }

    async fn serve_one(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let is_control = request.uri().path().starts_with(CONTROL_PREFIX);
        match self.serves {
            Serves::Control | Serves::All if is_control => {
                control::answer(&self.router, request).await
            }
            Serves::Control => problem(StatusCode::NOT_FOUND, "served here: the control plane"),
            Serves::Pages | Serves::All => self.answer(&request),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            "/metrics/tenants" => self.tenants(),
            "/resolve" => self.resolve(request.uri().query().unwrap_or_default()),
            _ => problem(
                StatusCode::NOT_FOUND,
                "served here: /livez, /readyz, /metrics, /metrics/tenants, /resolve?host=NAME",
            ),
        }
    }

    /// Ready as soon as a fleet is known and the router is not stopping. A fleet from the
    /// snapshot, or a catalog that is away, is said but does not make the router unready.
    fn readiness(&self) -> Response<Full<Bytes>> {
        let follow = self.follow.borrow().clone();
        let draining = self.router.refuses_sessions();
        let ready = self.router.fleet.is_known() && !draining;
        let fleet = self.router.fleet.current();
        let body = json!({
            "ready": ready,
            "draining": draining,
            "catalog": {
                "connected": follow.connected,
                "error": follow.last_error,
            },
            "fleet": {
                "source": follow.source.map(FleetSource::as_str),
                "sequence": follow.sequence,
                "tenants": fleet.directory.len(),
                "shards": fleet.shards.len(),
                "snapshot_error": follow.snapshot_error,
            },
        });
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json_response(status, &body)
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let follow = self.follow.borrow().clone();
        let fleet = self.router.fleet.current();
        let metrics = &self.router.metrics;
        metrics.unauthenticated(self.router.arrivals.len());
        metrics.fleet(
            fleet.directory.len(),
            fleet.sequence,
            follow.connected,
            follow.source == Some(FleetSource::Snapshot),
        );
        let contact_age = follow.contact.map(|contact| contact.elapsed());
        metrics.stopping(self.router.refuses_sessions(), contact_age);
        metrics.moving(self.router.holds.len());
        for pool in self.router.pools.all() {
            metrics.pool(&pool.shard_name(), pool.stats());
        }
        open_metrics(metrics.encode())
    }

    fn tenants(&self) -> Response<Full<Bytes>> {
        let fleet = self.router.fleet.current();
        open_metrics(tenants::encode(&self.router.activity.tenants, &fleet))
    }

    /// Which tenant a host belongs to, and where it lives.
    fn resolve(&self, query: &str) -> Response<Full<Bytes>> {
        let host = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("host="))
            .unwrap_or_default();
        if host.is_empty() {
            return problem(StatusCode::BAD_REQUEST, "give ?host=NAME");
        }
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let fleet = self.router.fleet.current();
        let Some(record) = fleet.directory.by_hostname(&name) else {
            return problem(StatusCode::NOT_FOUND, "no tenant has this hostname");
        };
        let Some(placement) = fleet.place(&record) else {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "the ring is empty");
        };
        let shard = fleet
            .shard(placement.shard)
            .map(|shard| shard.name.to_string());
        let body = json!({
            "host": name,
            "tenant": record.id.display(fleet.settings.tenant_key).to_string(),
            "slug": record.slug,
            "state": record.state.as_str(),
            "shard": shard,
            "epoch": placement.epoch.0,
            "pinned": placement.pinned,
        });
        json_response(StatusCode::OK, &body)
    }
}

fn open_metrics(body: String) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// A body of plain data, which has a form in JSON.
pub(crate) fn json_response(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, body) = match serde_json::to_string(body) {
        Ok(body) => (status, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "{}".to_owned()),
    };
    let mut response = text(status, format!("{body}\n"));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An error as RFC 9457 has it.
fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let body = json!({
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = json_response(status, &body);
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}
