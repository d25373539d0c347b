//! The management API, under `/api/v1`: JSON in, JSON out, server-sent events where things go on.

mod events;
mod problem;
mod runs;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use steadfast_runtime::{INPUT_BYTES_MAX, Runtime};

use problem::Problem;

/// A JSON string of the longest input may need two bytes for one, and has neighbours.
const BODY_BYTES_MAX: usize = 2 * INPUT_BYTES_MAX + 64 * 1024;

/// What every request may use.
#[derive(Clone)]
pub(crate) struct ServerState {
    runtime: Runtime,
    simulated: bool,
}

impl ServerState {
    /// The state of a server in front of a runtime; `simulated` if any of its models is scripted.
    pub(crate) const fn new(runtime: Runtime, simulated: bool) -> Self {
        Self { runtime, simulated }
    }
}

/// Every route. The listener is opened elsewhere.
pub(crate) fn router(state: ServerState) -> Router {
    let api = Router::new()
        .route("/runs", get(runs::list).post(runs::submit))
        .route("/runs/{run}", get(runs::show))
        .route("/runs/{run}/events", get(events::events))
        .route("/runs/{run}/cancel", post(runs::cancel))
        .route("/runs/{run}/resume", post(runs::resume))
        .route("/agents", get(runs::agents))
        .route("/guards", get(runs::guards))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method);
    Router::new()
        .nest("/api/v1", api)
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(unknown_route)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(only_local))
        .with_state(state)
}

async fn unknown_route(request: Request) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_route",
        format!("there is nothing at `{}`", request.uri().path()),
    )
}

async fn wrong_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let detail = format!("`{path}` does not take {method}");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", detail)
}

async fn ready(State(state): State<ServerState>) -> Response {
    if state.runtime.ready() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
}

/// There is no login yet, so a page of somebody else's must not be able to drive this server through
/// the user's browser: neither under another name for this address (DNS rebinding), nor across sites.
async fn only_local(request: Request, next: Next) -> Response {
    match foreign(request.method(), request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn foreign(method: &Method, headers: &HeaderMap) -> Option<Problem> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).map(without_port);
    if !host.is_none_or(is_local) {
        let detail = "the `Host` header must name this machine".to_owned();
        return Some(Problem::new(StatusCode::FORBIDDEN, "foreign_host", detail));
    }
    let writes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let origin = text(header::ORIGIN).map(|o| o.split("://").nth(1).unwrap_or(o));
    if writes && !origin.map(without_port).is_none_or(is_local) {
        let detail = "pages of other sites may not change anything here".to_owned();
        return Some(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail));
    }
    None
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}
