//! The HTTP face of a runtime: the API under `/api/v1`, health, the OpenAPI document and the console.
//!
//! It translates and decides nothing: what a command does and whether it is possible is the runtime's
//! business. There is no login yet, so everything passes [`gate`] first, which lets in only what a
//! program on this machine, or this server's own pages, can have sent.

mod actions;
mod catalog;
mod events;
mod extract;
mod facts;
mod filter;
mod gate;
mod guards;
mod health;
mod keys;
mod openapi;
mod problem;
mod runs;
mod schedules;
mod signals;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{MethodRouter, get, post};
use steadfast_runtime::{INPUT_BYTES_MAX, Runtime};

pub(crate) use actions::Said;
pub(crate) use events::{grown, live};
pub(crate) use extract::{FormOf, QueryOf, RunIdPath};
pub(crate) use facts::{FactPage, FactsOf};
pub(crate) use filter::ListQuery;
pub(crate) use guards::{GuardView, find, operate};
pub(crate) use keys::{KeyPage, KeyWithSecret, KeysOf};
pub(crate) use problem::Problem;

use crate::config::GatewaySection;
use crate::reload::ReloadProblem;
use crate::{console, gateway};

/// Longest request body, in bytes (17 MiB): the longest input with every byte escaped once by JSON, and
/// the other fields.
pub(crate) const BODY_BYTES_MAX: usize = 2 * INPUT_BYTES_MAX + 1024 * 1024;

/// What every handler needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ServerState {
    /// The runtime that is served.
    pub(crate) runtime: Runtime,
    /// Whether any model is simulated; the console says so on every page.
    pub(crate) simulated: bool,
    /// What is wrong with the configuration file as it stands.
    pub(crate) reload: ReloadProblem,
    /// How the gateway serves.
    pub(crate) gateway: GatewaySection,
    /// The version that pages and the OpenAPI document name.
    pub(crate) version: &'static str,
}

impl ServerState {
    /// The state of a server in front of a runtime; `simulated` if any of its models is scripted.
    pub(crate) const fn new(
        runtime: Runtime,
        simulated: bool,
        reload: ReloadProblem,
        gateway: GatewaySection,
    ) -> Self {
        Self { runtime, simulated, reload, gateway, version: env!("CARGO_PKG_VERSION") }
    }
}

/// Everything that is served. The listener is the caller's.
pub(crate) fn router(state: ServerState) -> Router {
    let gateway = if state.gateway.enabled { gateway::router() } else { Router::new() };
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .merge(gateway)
        .merge(console::router())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(gate::guard))
        .with_state(state)
}

/// The routes for programs; each stands in the OpenAPI document, which a test checks.
fn routes() -> Vec<(&'static str, MethodRouter<ServerState>)> {
    vec![
        ("/api/v1/runs", get(runs::list).post(runs::submit)),
        ("/api/v1/runs/{id}", get(runs::show)),
        ("/api/v1/runs/{id}/events", get(events::page_or_stream)),
        ("/api/v1/runs/{id}/events/stream", get(events::stream)),
        ("/api/v1/runs/{id}/cancel", post(runs::cancel)),
        ("/api/v1/runs/{id}/resume", post(runs::resume)),
        ("/api/v1/runs/{id}/signals", post(signals::signal)),
        ("/api/v1/runs/{id}/pause", post(actions::pause)),
        ("/api/v1/runs/{id}/retry", post(actions::retry)),
        ("/api/v1/runs/{id}/fork", post(actions::fork)),
        ("/api/v1/runs/{id}/checkpoints", get(actions::checkpoints)),
        ("/api/v1/runs/{id}/rollback", post(actions::rollback)),
        ("/api/v1/runs/{id}/answer", post(actions::answer)),
        ("/api/v1/facts", get(facts::list)),
        ("/api/v1/facts/{key}", get(facts::show).put(facts::set).delete(facts::forget)),
        ("/api/v1/keys", get(keys::list).post(keys::create)),
        ("/api/v1/keys/{key_id}", get(keys::show).patch(keys::edit)),
        ("/api/v1/keys/{key_id}/rotate", post(keys::rotate)),
        ("/api/v1/keys/{key_id}/revoke", post(keys::revoke)),
        ("/api/v1/agents", get(catalog::agents)),
        ("/api/v1/schedules", get(schedules::list)),
        ("/api/v1/schedules/{name}/run", post(schedules::run)),
        ("/api/v1/guards", get(guards::list)),
        ("/api/v1/guards/{name}", get(guards::show)),
        ("/api/v1/guards/{name}/{action}", post(guards::change)),
        ("/openapi.json", get(openapi::serve)),
        ("/healthz", get(health::alive)),
        ("/readyz", get(health::ready)),
    ]
}

async fn unknown_route(uri: Uri) -> Problem {
    Problem::unknown_route(uri.path())
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::wrong_method(&method, uri.path())
}

/// Whether a person, not a program, is likely to look at the answer.
fn is_page(path: &str) -> bool {
    path == "/"
        || ["/console", "/errors"].iter().any(|root| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}
