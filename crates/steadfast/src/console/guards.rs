//! The dependencies: what each is doing now, and the hand on its breaker.

use std::convert::Infallible;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::sse::Event;
use axum::response::{Html, Redirect, Response};
use futures_util::stream;
use steadfast_guard::BreakerState;

use super::detail::Fragment;
use super::render;
use crate::server::{GuardView, Problem, ServerState, find, live, operate};

/// How often a page that is looked at is rendered again. Guards tell nobody when they change.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Template)]
#[template(path = "guards.html")]
struct GuardsPage {
    simulated: bool,
    version: &'static str,
    content: String,
}

#[derive(Template)]
#[template(path = "guard_rows.html")]
struct GuardRows {
    problem: Option<String>,
    rows: Vec<Row>,
}

struct Row {
    guard: GuardView,
    forced: bool,
    /// Half, 95 % and 99 % of the answers took no longer.
    latency_ms: String,
}

pub(super) async fn page(State(state): State<ServerState>) -> Result<Html<String>, Problem> {
    let content = fragment(&state)?;
    Ok(Html(render(&GuardsPage { simulated: state.simulated, version: state.version, content })?))
}

fn fragment(state: &ServerState) -> Result<String, Problem> {
    let rows = state.runtime.catalog().guards().map(GuardView::of).map(row).collect();
    render(&GuardRows { problem: state.reload.text(), rows })
}

fn row(guard: GuardView) -> Row {
    let latency = guard.snapshot.latency;
    let ms = |micros: u64| micros as f64 / 1e3;
    let [p50, p95, p99] = [latency.p50_micros, latency.p95_micros, latency.p99_micros].map(ms);
    let latency_ms = match latency.count {
        0 => "-".to_owned(),
        _ => format!("{p50:.1} / {p95:.1} / {p99:.1}"),
    };
    let breaker = guard.snapshot.breaker;
    let forced = matches!(
        breaker,
        BreakerState::ForcedOpen | BreakerState::ForcedClosed | BreakerState::MetricsOnly
    );
    Row { guard, forced, latency_ms }
}

/// The table, whenever it looks different.
pub(super) async fn live_rows(State(state): State<ServerState>) -> Response {
    live(stream::unfold((state, String::new()), |(state, sent)| async move {
        loop {
            let html = fragment(&state).ok()?;
            if html != sent {
                let fragment =
                    Fragment { id: "guards".to_owned(), container: "", html: html.clone() };
                let data = serde_json::to_string(&[fragment]).ok()?;
                let event = Event::default().event("fragments").data(data);
                return Some((Ok::<_, Infallible>(event), (state, html)));
            }
            tokio::select! {
                () = state.runtime.draining() => return None,
                () = tokio::time::sleep(REFRESH) => {}
            }
        }
    }))
}

pub(super) async fn change(
    State(state): State<ServerState>,
    Path((name, action)): Path<(String, String)>,
) -> Result<Redirect, Problem> {
    operate(find(&state, &name)?, &action)?;
    Ok(Redirect::to("/console/guards"))
}
