//! The pages for people: what runs there are, and what happened in one.
//!
//! Everything is rendered on the server; one small script replaces fragments as they change, and the
//! pages work without it. Pages show, and their buttons call the runtime's commands; nothing is
//! decided here.

mod actions;
mod assets;
mod commanded;
mod detail;
mod errors;
mod facts;
mod guards;
mod keys;
mod list;
mod live;
mod schedules;
mod time;
mod timeline;

use askama::Template;
use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use steadfast_guard::Guard;

use crate::server::{Problem, ServerState};

/// The routes for people.
pub(crate) fn router() -> Router<ServerState> {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/console") }))
        .route("/console", get(list::page))
        .route("/console/live", get(live::list))
        .route("/console/console.js", get(assets::script))
        .route("/console/console.css", get(assets::style))
        .route("/console/icon.svg", get(assets::icon))
        .route("/errors/{code}", get(errors::page))
        .route("/console/facts", get(facts::page))
        .route("/console/facts/{key}/forget", post(facts::forget))
        .route("/console/keys", get(keys::page))
        .route("/console/keys/{id}/rotate", post(keys::rotate))
        .route("/console/keys/{id}/revoke", post(keys::revoke))
        .route("/console/guards", get(guards::page))
        .route("/console/guards/live", get(guards::live_rows))
        .route("/console/guards/{name}/{action}", post(guards::change))
        .route("/console/schedules", get(schedules::page))
        .route("/console/schedules/{name}/run", post(schedules::run))
        .route("/console/runs/{id}", get(detail::page))
        .route("/console/runs/{id}/live", get(live::run))
        .route("/console/runs/{id}/cancel", post(detail::cancel))
        .route("/console/runs/{id}/resume", post(detail::resume))
        .route("/console/runs/{id}/pause", post(actions::pause))
        .route("/console/runs/{id}/retry", post(actions::retry))
        .route("/console/runs/{id}/fork", get(actions::fork_page).post(actions::fork))
        .route("/console/runs/{id}/checkpoints", get(actions::checkpoints))
        .route("/console/runs/{id}/rollback", post(actions::rollback))
        .route("/console/runs/{id}/answer", post(actions::answer))
}

/// What stands around every page.
struct Frame {
    /// A configured model is scripted.
    simulated: bool,
    /// The dependencies into whose calls faults are injected.
    drills: String,
    version: &'static str,
}

impl Frame {
    fn of(state: &ServerState) -> Self {
        let guards = state.runtime.catalog().guards();
        let drills = guards.filter(|guard| guard.policy().chaos.is_on()).map(Guard::name);
        let drills = drills.collect::<Vec<_>>().join(", ");
        Self { simulated: state.simulated, drills, version: state.version }
    }
}

/// A page that says why there is no page.
#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    problem: &'a Problem,
    frame: Frame,
}

/// A problem as a page.
pub(crate) fn problem_page(problem: &Problem) -> Response {
    let frame =
        Frame { simulated: false, drills: String::new(), version: env!("CARGO_PKG_VERSION") };
    let page = ProblemPage { problem, frame };
    let mut response = match page.render() {
        Ok(html) => Html(html).into_response(),
        Err(_) => problem.detail.clone().into_response(),
    };
    *response.status_mut() = problem.status;
    if problem.status == axum::http::StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

/// Renders a template; a failure is logged, and shown as a problem without its details.
fn render(template: &impl Template) -> Result<String, Problem> {
    template.render().map_err(|error| {
        tracing::error!(%error, "a page could not be rendered");
        Problem::page_failed()
    })
}
