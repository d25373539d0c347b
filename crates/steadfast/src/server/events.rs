//! A run's log over HTTP: page by page, or live as server-sent events.
//!
//! The stream is pulled by its reader: it subscribes, reads what there is, and waits for a notice only
//! when it has handed out everything. A reader that is slow therefore holds one page and nobody up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use steadfast_runtime::{EventView, Runtime, RuntimeError, Status, Watch};
use steadfast_store::RunId;

use super::extract::{QueryOf, RunIdPath};
use super::filter::check_limit;
use super::{Problem, ServerState};

/// Events on a page when the client does not say.
const LIMIT_DEFAULT: usize = 100;

/// Events that a stream holds in memory at most.
const STREAM_PAGE: usize = 64;

/// How often a quiet stream shows that it lives; below the usual 30 s and 60 s limits of proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where to begin and how much.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

/// One page of events.
#[derive(Serialize)]
struct EventPage {
    events: Vec<EventView>,
    /// Give it as `after` to get what follows; absent when there was nothing more.
    next: Option<u64>,
}

/// A page; the stream instead, if the client asks for `text/event-stream`.
pub(super) async fn page_or_stream(
    state: State<ServerState>,
    run: RunIdPath,
    query: QueryOf<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if wants_stream(&headers) {
        return stream(state, run, query, headers).await;
    }
    let limit = match check_limit(query.0.limit)? {
        0 => LIMIT_DEFAULT,
        limit => limit,
    };
    let after = query.0.after.unwrap_or(0);
    let events = state.0.runtime.events(run.0, after, limit).await?;
    let next = events.last().filter(|_| events.len() == limit).map(|event| event.seq);
    Ok(Json(EventPage { events, next }).into_response())
}

/// The log as it grows, until the run is over or the node drains.
pub(super) async fn stream(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    QueryOf(query): QueryOf<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = match headers.get("last-event-id") {
        None => query.after.unwrap_or(0),
        Some(value) => {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.parse().map_err(|_| Problem::bad_last_event_id(&text))?
        }
    };
    // Subscribed before the run is looked up: what happens from here on is seen or told.
    let watch = state.runtime.watch();
    state.runtime.run(run).await?;
    let tail = Tail { runtime: state.runtime, run, watch, after, page: VecDeque::new() };
    Ok(live(tail.into_stream()))
}

/// Server-sent events that show a sign of life when nothing happens.
pub(crate) fn live(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    Sse::new(events).keep_alive(keep_alive).into_response()
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// A reader that follows a run's log.
struct Tail {
    runtime: Runtime,
    run: RunId,
    watch: Watch,
    /// The last event handed out.
    after: u64,
    /// Read and not yet handed out.
    page: VecDeque<EventView>,
}

impl Tail {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        stream::unfold(self, |mut tail| async move {
            let event = match tail.next().await {
                Ok(event) => event?,
                Err(error) => {
                    // The head of the answer has gone out: all that is left is to end it. A client
                    // comes back with `Last-Event-ID` and is told then what is wrong.
                    tracing::warn!(run = %tail.run, code = error.code(), "an event stream broke off");
                    return None;
                }
            };
            Some((Ok(encode(&event)?), tail))
        })
    }

    /// The next event; `None` after the last one of a run that is over, or when the node drains.
    async fn next(&mut self) -> Result<Option<EventView>, RuntimeError> {
        loop {
            if let Some(event) = self.page.pop_front() {
                self.after = event.seq;
                return Ok(Some(event));
            }
            self.page = self.runtime.events(self.run, self.after, STREAM_PAGE).await?.into();
            if !self.page.is_empty() {
                continue;
            }
            let head = self.runtime.run(self.run).await?;
            let over = Status::parse(&head.state).is_some_and(Status::is_over);
            if over && head.events <= self.after {
                return Ok(None);
            }
            if !grown(&self.runtime, &mut self.watch, Some(self.run)).await {
                return Ok(None);
            }
        }
    }
}

/// Waits until a log has grown; `false` when the node drains.
pub(crate) async fn grown(runtime: &Runtime, watch: &mut Watch, run: Option<RunId>) -> bool {
    tokio::select! {
        biased;
        () = runtime.draining() => false,
        grown = watch.changed(run) => grown,
    }
}

fn encode(event: &EventView) -> Option<Event> {
    let data = serde_json::to_string(event).ok()?;
    Some(Event::default().id(event.seq.to_string()).event(event.event.kind()).data(data))
}
