//! The router's end of the control plane: the rebalancer says which tenant is about to move, and until when nobody may
//! begin a transaction of it.
//!
//! The messages are those of [`tenantry_schema::control`], each with the fleet's control token. What they do is
//! [`crate::holds`]' and the fleet's; here they are read, checked and answered. A router that has been replaced leaves
//! them to its successor.

mod warm;

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use subtle::ConstantTimeEq as _;
use tenantry_schema::control::{
    CONTROL_BYTES_MAX, ControlCall, ControlProblem, Forget, Forgotten, Held, Hold, Prepare,
    Prepared, Release, Released,
};
use tokio::time::{Instant, timeout};

use crate::http::json_response;
use crate::router::Router;

/// Longest time for a message to arrive.
const BODY_TIME: Duration = Duration::from_secs(5);
/// No hold outlasts this, and no wait for transactions in flight.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// Nothing that was prepared counts for longer unless it is said again.
const PREPARED_MAX: Duration = Duration::from_secs(24 * 3600);

type Answer = Response<Full<Bytes>>;

/// Answers a request whose path is of the control plane.
pub(crate) async fn answer(router: &Arc<Router>, request: Request<Incoming>) -> Answer {
    if let Some(answer) = refused(router, &request) {
        return answer;
    }
    match request.uri().path() {
        Prepare::PATH => call(request, |message| prepare(router, message)).await,
        Hold::PATH => call(request, |message| hold(router, message)).await,
        Release::PATH => call(request, |message| release(router, message)).await,
        Forget::PATH => call(request, |message| forget(router, message)).await,
        _ => problem(
            StatusCode::NOT_FOUND,
            "no such message; served here: prepare, hold, release, forget of version 1",
        ),
    }
}

/// Who shows the token may speak, while this router is the one to speak to; the answer for others.
fn refused(router: &Router, request: &Request<Incoming>) -> Option<Answer> {
    let Some(token) = router.control_token() else {
        return Some(problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "no control plane: the secrets file has no control_token",
        ));
    };
    let shown = request.headers().get(AUTHORIZATION);
    let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if !shown.is_some_and(|shown| bool::from(shown.ct_eq(token.expose().as_bytes()))) {
        let mut answer = problem(
            StatusCode::UNAUTHORIZED,
            "the control token is missing or wrong",
        );
        let scheme = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        return Some(answer);
    }
    if request.method() != Method::POST {
        let mut answer = problem(
            StatusCode::METHOD_NOT_ALLOWED,
            "messages of the control plane are posted",
        );
        let allowed = HeaderValue::from_static("POST");
        answer.headers_mut().insert(ALLOW, allowed);
        return Some(answer);
    }
    if router.replaced.is_cancelled() {
        return Some(problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "this router has been replaced: ask its successor",
        ));
    }
    None
}

/// Reads a message, has it acted on, and writes the answer.
async fn call<C, F>(request: Request<Incoming>, act: impl FnOnce(C) -> F) -> Answer
where
    C: ControlCall,
    F: Future<Output = C::Answer>,
{
    let body = Limited::new(request.into_body(), CONTROL_BYTES_MAX).collect();
    let body = match timeout(BODY_TIME, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return problem(
                StatusCode::BAD_REQUEST,
                "the message is too long or incomplete",
            );
        }
        Err(_elapsed) => {
            return problem(StatusCode::REQUEST_TIMEOUT, "the message did not arrive");
        }
    };
    match serde_json::from_slice(&body) {
        Ok(message) => json_response(StatusCode::OK, &act(message).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn prepare(router: &Arc<Router>, message: Prepare) -> Prepared {
    let Prepare { notice, lasts_ms } = message;
    let lasts = Duration::from_millis(lasts_ms).min(PREPARED_MAX);
    router.holds.prepare(&notice, lasts, Instant::now());
    warm::warm(router, &notice).await
}

async fn hold(router: &Arc<Router>, message: Hold) -> Held {
    let bounded = |ms| Duration::from_millis(ms).min(HOLD_MAX);
    let lasts = bounded(message.deadline_ms);
    let held = router.holds.hold(&message.notice, lasts, Instant::now());
    held.drained(bounded(message.drain_ms)).await
}

async fn release(router: &Arc<Router>, message: Release) -> Released {
    let Release {
        tenant,
        move_id,
        shard,
        epoch,
    } = message;
    // First, so that whoever is woken goes to the right place.
    router.fleet.place(tenant, shard, epoch);
    router.holds.release(tenant, move_id, Instant::now())
}

async fn forget(router: &Arc<Router>, message: Forget) -> Forgotten {
    let Forget { tenant, move_id } = message;
    Forgotten {
        known: router.holds.forget(tenant, move_id),
    }
}

fn problem(status: StatusCode, detail: &str) -> Answer {
    let problem = ControlProblem {
        detail: detail.to_owned(),
    };
    json_response(status, &problem)
}
