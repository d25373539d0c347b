//! The dependencies: what each is doing now, and the hand on its breaker.

use std::convert::Infallible;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::response::sse::Event;
use axum::response::{Html, Redirect, Response};
use futures_util::stream;
use serde::Deserialize;
use steadfast_guard::{BreakerState, Counters, GuardSnapshot, Priority, counted};

use super::detail::Fragment;
use super::{Frame, render};
use crate::server::{GuardView, Problem, QueryOf, ServerState, find, live, operate};

/// How often a page that is looked at is rendered again. Guards tell nobody when they change.
const REFRESH: Duration = Duration::from_secs(1);

/// Which guards are shown.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct GuardQuery {
    /// Part of the name.
    name: String,
    /// `only`: those in trouble.
    trouble: String,
}

#[derive(Template)]
#[template(path = "guards.html")]
struct GuardsPage {
    frame: Frame,
    live: String,
    query: GuardQuery,
    content: String,
}

#[derive(Template)]
#[template(path = "guard_rows.html")]
struct GuardRows {
    problem: Option<String>,
    rows: Vec<Row>,
    /// How many there are, shown or not, and how many of them are in trouble.
    all: usize,
    troubled: usize,
}

struct Row {
    guard: GuardView,
    forced: bool,
    trouble: Trouble,
    /// Half, 95 % and 99 % of the answers took no longer.
    latency_ms: String,
    /// What else there is to know: label and value.
    facts: Vec<(&'static str, String)>,
}

/// How bad it is; the worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Refuses,
    Strained,
    None,
}

impl Trouble {
    fn of(guard: &GuardSnapshot) -> Self {
        let GuardSnapshot { in_flight, concurrency, queued, queue, .. } = guard;
        let is_full = in_flight >= concurrency && queued >= queue;
        match guard.breaker {
            BreakerState::ForcedOpen | BreakerState::Open => Self::Refuses,
            _ if guard.cooldown_ms.is_some() || is_full => Self::Refuses,
            BreakerState::HalfOpen | BreakerState::ForcedClosed => Self::Strained,
            BreakerState::MetricsOnly if guard.would_refuse => Self::Strained,
            _ if *queued > 0 || guard.retrying > 0 || guard.consecutive_failures > 0 => {
                Self::Strained
            }
            _ => Self::None,
        }
    }
}

pub(super) async fn page(
    State(state): State<ServerState>,
    QueryOf(query): QueryOf<GuardQuery>,
    RawQuery(raw): RawQuery,
) -> Result<Html<String>, Problem> {
    let content = fragment(&state, &query)?;
    let raw = raw.map(|raw| format!("?{raw}")).unwrap_or_default();
    let live = format!("/console/guards/live{raw}");
    Ok(Html(render(&GuardsPage { frame: Frame::of(&state), live, query, content })?))
}

fn fragment(state: &ServerState, query: &GuardQuery) -> Result<String, Problem> {
    let mut rows: Vec<Row> = state.runtime.catalog().guards().map(GuardView::of).map(row).collect();
    let all = rows.len();
    let troubled = rows.iter().filter(|row| row.trouble != Trouble::None).count();
    rows.retain(|row| {
        let wanted = query.trouble != "only" || row.trouble != Trouble::None;
        wanted && row.guard.snapshot.name.contains(&query.name)
    });
    // The guards come by name, and a stable sort keeps that among equals.
    rows.sort_by_key(|row| row.trouble);
    render(&GuardRows { problem: state.reload.text(), rows, all, troubled })
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
    let (trouble, facts) = (Trouble::of(&guard.snapshot), facts(&guard.snapshot));
    Row { guard, forced, trouble, latency_ms, facts }
}

/// The figures that the row has no room for, as far as they say something.
fn facts(guard: &GuardSnapshot) -> Vec<(&'static str, String)> {
    let counters = &guard.counters;
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1e3);
    let share = |ratio: Option<f64>| {
        ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.1} %", r * 100.0))
    };
    let mut facts = vec![
        ("answered", share(counters.success_ratio())),
        ("timed out", share(counters.timeout_ratio())),
        ("retries a call", share(counters.retry_ratio())),
        ("attempt limit", seconds(guard.attempt_timeout_ms)),
        (
            "window",
            format!(
                "{}, {} failed, {} slow",
                counted(guard.window_calls.into(), "call"),
                guard.window_failures,
                guard.window_slow
            ),
        ),
        (
            "failures in a row",
            format!("{} of {}", guard.consecutive_failures, guard.failures_to_open),
        ),
        ("trips", guard.trips.to_string()),
    ];
    let mut some = |label, count: u64| {
        if count > 0 {
            facts.push((label, count.to_string()));
        }
    };
    some("retrying now", guard.retrying as u64);
    some("answers from before a trip", guard.stale);
    some("hedged", counters.hedge);
    some("not retried: budget used up", counters.no_budget);
    facts.extend(guard.next_probe_in_ms.map(|ms| ("next probe in", seconds(ms))));
    facts.extend(guard.cooldown_ms.map(|ms| ("cooling down for", seconds(ms))));
    facts.extend(guard.requests_left.map(|left| ("requests left this minute", left.to_string())));
    facts.extend(guard.tokens_left.map(|left| ("tokens left this minute", left.to_string())));
    if guard.queued > 0 {
        facts.push(("queued by priority", queued(guard)));
    }
    facts.extend(refused(counters).map(|refused| ("refused", refused)));
    facts
}

fn queued(guard: &GuardSnapshot) -> String {
    let counts = Priority::ALL.iter().zip(guard.queued_by_priority).rev();
    let counts = counts.filter(|(_, count)| *count > 0);
    counts
        .map(|(priority, count)| format!("{count} {}", priority.as_str()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Refusals by reason, if there were any.
fn refused(counters: &Counters) -> Option<String> {
    let by = &counters.refusals;
    let each = [
        (by.breaker, "breaker open"),
        (by.cooldown, "cooling down"),
        (by.queue_full, "queue full"),
        (by.shed, "shed for others"),
        (by.rate, "minute used up"),
        (by.queue_timeout, "waited too long"),
        (by.deadline, "too late"),
    ];
    let told = each.iter().filter(|(count, _)| *count > 0);
    let told: Vec<_> = told.map(|(count, why)| format!("{count} {why}")).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// The table, whenever it looks different.
pub(super) async fn live_rows(
    State(state): State<ServerState>,
    QueryOf(query): QueryOf<GuardQuery>,
) -> Response {
    live(stream::unfold((state, query, String::new()), |(state, query, sent)| async move {
        loop {
            let html = fragment(&state, &query).ok()?;
            if html != sent {
                let fragment =
                    Fragment { id: "guards".to_owned(), container: "", html: html.clone() };
                let data = serde_json::to_string(&[fragment]).ok()?;
                let event = Event::default().event("fragments").data(data);
                return Some((Ok::<_, Infallible>(event), (state, query, html)));
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

#[cfg(test)]
mod tests {
    use steadfast_guard::{Guard, Policy};

    use super::*;

    fn trouble(prepare: impl FnOnce(&Guard)) -> Trouble {
        let guard = Guard::new("g", Policy::default()).expect("the default is good");
        prepare(&guard);
        Trouble::of(&guard.snapshot())
    }

    #[tokio::test]
    async fn what_refuses_comes_before_what_is_strained_and_that_before_what_is_well() {
        let states = [
            trouble(|_| {}),
            trouble(Guard::force_closed),
            trouble(Guard::metrics_only),
            trouble(Guard::force_open),
        ];
        let expected = [Trouble::None, Trouble::Strained, Trouble::None, Trouble::Refuses];
        assert_eq!(states, expected);
        assert!(Trouble::Refuses < Trouble::Strained && Trouble::Strained < Trouble::None);
    }
}
