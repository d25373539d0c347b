//! Live pages: fragments, rendered again when a log has grown, sent as server-sent events.
//!
//! A reader that comes back gets whole fragments again, so it needs no cursor; what has not changed
//! is not sent.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use futures_util::stream;
use serde::Deserialize;
use steadfast_runtime::{Status, Watch};
use steadfast_store::RunId;

use super::detail::{self, EVENTS_SHOWN, Fragment};
use super::list as runs;
use super::timeline::Timeline;
use crate::server::{ListQuery, Problem, QueryOf, RunIdPath, ServerState, grown, live};

/// Shortest time between two renderings: a burst of events is one update.
const COALESCE: Duration = Duration::from_millis(300);

/// Where the page's own rendering ended.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LiveQuery {
    /// The last event on the page.
    after: Option<u64>,
    /// Events left out at the log's beginning.
    from: Option<u64>,
}

/// The list, again whenever it has changed.
pub(super) async fn list(
    State(state): State<ServerState>,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Response, Problem> {
    query.filter(state.runtime.store().now())?;
    let watch = state.runtime.watch();
    let reader = ListReader { state, query, watch, sent: String::new() };
    Ok(live(stream::unfold(reader, |mut reader| async move {
        let html = reader.next().await?;
        let fragment = Fragment { id: "runs".to_owned(), container: "", html };
        Some((Ok::<_, Infallible>(encode(&[fragment])?), reader))
    })))
}

struct ListReader {
    state: ServerState,
    query: ListQuery,
    watch: Watch,
    sent: String,
}

impl ListReader {
    async fn next(&mut self) -> Option<String> {
        loop {
            // Also after something was sent: where runs never rest, pages are still sent with pauses.
            if !self.sent.is_empty() {
                wait(&self.state, &mut self.watch, None).await?;
            }
            let html = logged(runs::fragment(&self.state, &self.query).await)?;
            if html != self.sent {
                html.clone_into(&mut self.sent);
                return Some(html);
            }
        }
    }
}

/// One run: its head and the steps that changed.
pub(super) async fn run(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    QueryOf(query): QueryOf<LiveQuery>,
) -> Result<Response, Problem> {
    let watch = state.runtime.watch();
    let view = state.runtime.run(run).await?;
    // The page's steps are built again, so that a result finds the step of its call. A page that has
    // been open for long enough sees more than a new one would: that costs this reader, nobody else.
    let from = query.from.unwrap_or(0).max(view.events.saturating_sub(2 * EVENTS_SHOWN));
    let reader = RunReader {
        state,
        run,
        watch,
        timeline: Timeline::after(from),
        seen: query.after.unwrap_or(from),
        head: String::new(),
        over: false,
    };
    Ok(live(stream::unfold(reader, |mut reader| async move {
        let fragments = reader.next().await?;
        Some((Ok::<_, Infallible>(encode(&fragments)?), reader))
    })))
}

struct RunReader {
    state: ServerState,
    run: RunId,
    watch: Watch,
    timeline: Timeline,
    /// The last event that the page shows.
    seen: u64,
    head: String,
    /// The run was over when it was last looked at.
    over: bool,
}

impl RunReader {
    async fn next(&mut self) -> Option<Vec<Fragment>> {
        loop {
            // A run that is over changes only if it is resumed; its page is loaded again then.
            if self.over {
                return None;
            }
            if !self.head.is_empty() {
                wait(&self.state, &mut self.watch, Some(self.run)).await?;
            }
            let fragments = logged(self.changes().await)?;
            if !fragments.is_empty() {
                return Some(fragments);
            }
        }
    }

    async fn changes(&mut self) -> Result<Vec<Fragment>, Problem> {
        let grew_from = self.timeline.seq();
        detail::catch_up(&self.state, self.run, &mut self.timeline).await?;
        let view = self.state.runtime.run(self.run).await?;
        self.over = Status::parse(&view.state).is_some_and(Status::is_over)
            && view.events <= self.timeline.seq();
        let mut fragments = Vec::new();
        let head = detail::head_html(&self.state, view).await?;
        if head != self.head {
            head.clone_into(&mut self.head);
            fragments.push(Fragment { id: "head".to_owned(), container: "", html: head });
        }
        let first = grew_from < self.seen;
        // What the page was rendered with need not be sent again, unless something was added since.
        if first && self.timeline.seq() <= self.seen {
            self.timeline.take_changed();
            return Ok(fragments);
        }
        for step in self.timeline.take_changed() {
            let html = detail::step_html(self.run, step)?;
            fragments.push(Fragment { id: step.id.clone(), container: "steps", html });
        }
        Ok(fragments)
    }
}

async fn wait(state: &ServerState, watch: &mut Watch, run: Option<RunId>) -> Option<()> {
    if !grown(&state.runtime, watch, run).await {
        return None;
    }
    tokio::time::sleep(COALESCE).await;
    // The notices of the burst are dropped: what they tell of is in the store, and is read next.
    *watch = state.runtime.watch();
    Some(())
}

/// The head of the answer has gone out: what fails now is logged, and ends the stream.
fn logged<T>(result: Result<T, Problem>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(problem) => {
            tracing::warn!(code = problem.code, "a live page broke off");
            None
        }
    }
}

fn encode(fragments: &[Fragment]) -> Option<Event> {
    // As JSON: markup has line breaks, and those would be fields of the stream.
    Some(Event::default().event("fragments").data(serde_json::to_string(fragments).ok()?))
}
