//! A run's events: a page of them, or all from a place on until the run is over.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::Deserialize;
use steadfast_runtime::{EventView, Runtime, Status, Watch};
use steadfast_store::RunId;

use super::ServerState;
use super::problem::Problem;
use super::runs::run_id;

/// Events read at once, and the largest page.
const PAGE: usize = 256;

/// Comments are sent this often while nothing happens, so that no proxy ends the stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// From where on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

/// With `Accept: text/event-stream` a stream, which goes on from `Last-Event-ID`; otherwise a page.
pub(super) async fn events(
    State(state): State<ServerState>,
    Path(run): Path<String>,
    from: Result<Query<From>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(From { after, limit }) = from?;
    let run = run_id(&run)?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let streams = text(header::ACCEPT.as_str()).is_some_and(|a| a.contains("text/event-stream"));
    if !streams {
        let limit = limit.unwrap_or(PAGE).clamp(1, PAGE);
        let page = state.runtime.events(run, after, limit).await?;
        return Ok(Json(page).into_response());
    }
    // Watch first, then read: what is appended in between is read, or announced, or both.
    let watch = state.runtime.watch();
    state.runtime.run(run).await?;
    let last = text("last-event-id").and_then(|id| id.parse().ok()).unwrap_or(after);
    let tail =
        Tail { runtime: state.runtime, watch, run, seq: last, ready: Vec::new().into_iter() };
    let stream = futures_util::stream::unfold(tail, Tail::next);
    Ok(Sse::new(sse(stream)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn sse(events: impl Stream<Item = EventView>) -> impl Stream<Item = Result<Event, Infallible>> {
    use futures_util::StreamExt as _;
    events.map(|view| {
        let event = Event::default().id(view.seq.to_string()).event(view.event.kind());
        Ok(event.json_data(&view).unwrap_or_else(|_| Event::default().comment("unreadable")))
    })
}

/// A reader that follows a log. It reads at its client's pace and holds one page at most.
struct Tail {
    runtime: Runtime,
    watch: Watch,
    run: RunId,
    seq: u64,
    ready: std::vec::IntoIter<EventView>,
}

impl Tail {
    /// The next event; `None` when the run is over and everything was read, or the runtime ends.
    async fn next(mut self) -> Option<(EventView, Self)> {
        loop {
            if let Some(view) = self.ready.next() {
                self.seq = view.seq;
                return Some((view, self));
            }
            let page = self.runtime.events(self.run, self.seq, PAGE).await.ok()?;
            if !page.is_empty() {
                self.ready = page.into_iter();
                continue;
            }
            let view = self.runtime.run(self.run).await.ok()?;
            let over = Status::parse(&view.state).is_some_and(Status::is_over);
            if over && view.events <= self.seq {
                return None;
            }
            let changed = over || self.watch.changed(Some(self.run)).await;
            if !changed || !self.runtime.ready() {
                return None;
            }
        }
    }
}
