//! Why a run that is ready is not executed yet: looked up when somebody asks, kept nowhere.

use serde::{Deserialize, Serialize};
use steadfast_store::{AGEING, Disposition, RunFilter, RunHead, RunId, Store, Timestamp};

use crate::error::RuntimeError;
use crate::shared::Shared;
use crate::state::Status;

/// Cards on a page, and pages that are looked at: beyond them a count is told as "more than".
const PAGE: usize = 500;
const PAGES_MAX: usize = 4;

/// What keeps a run that is ready from being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// Its tenant has as many runs under way as it may have.
    TenantCap,
    /// Its agent has as many runs under way as it may have.
    AgentCap,
    /// Every place of this node is taken; so are those of the others, or they would have taken it.
    Place,
    /// Nothing: it is about to be taken.
    Nothing,
}

/// Why a run that is ready is not executed yet, as far as was known when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Since when it has been ready.
    pub since: Timestamp,
    /// What keeps it.
    #[serde(rename = "for")]
    pub waits_for: WaitsFor,
    /// Runs of its tenant that are before it in line.
    pub before: usize,
    /// Whether there may be more of them: only so many are looked at.
    pub or_more: bool,
    /// All of it for people.
    pub explain: String,
}

/// What the index cards say about those who wait and those who are served.
#[derive(Default)]
struct Line {
    of_tenant: usize,
    of_agent: usize,
    before: usize,
    or_more: bool,
    /// Other tenants with runs in line.
    others: bool,
}

/// Why the run waits for a node; `None` if it does not.
pub(crate) async fn why(shared: &Shared, run: RunId) -> Result<Option<Waiting>, RuntimeError> {
    let head = shared.store.head(run).await?.ok_or(RuntimeError::UnknownRun { run })?;
    if head.disposition != Disposition::Ready {
        return Ok(None);
    }
    let line = look(shared.store.as_ref(), &head).await?;
    let caps = &shared.options.caps;
    let places = shared.options.concurrency;
    let taken = shared.driven.lock().len();
    let reached = |cap: Option<usize>, held: usize| cap.filter(|cap| held >= *cap);
    let (waits_for, why) = if let Some(cap) = reached(caps.of_tenant(&head.tenant), line.of_tenant)
    {
        let held = line.of_tenant;
        let why = format!("its tenant `{}` has {held} of {cap} runs under way", head.tenant);
        (WaitsFor::TenantCap, why)
    } else if let Some(cap) = reached(caps.of_agent(&head.agent), line.of_agent) {
        let held = line.of_agent;
        let why = format!("its agent `{}` has {held} of {cap} runs under way", head.agent);
        (WaitsFor::AgentCap, why)
    } else if taken >= places {
        let why = format!("no node has a free place ({taken} of {places} are taken on this one)");
        (WaitsFor::Place, why)
    } else {
        (WaitsFor::Nothing, "it is about to be taken".to_owned())
    };
    let explain = format!("{why}{}", told(&line));
    let (since, before, or_more) = (head.updated_at, line.before, line.or_more);
    Ok(Some(Waiting { since, waits_for, before, or_more, explain }))
}

fn told(line: &Line) -> String {
    let more = if line.or_more { "more than " } else { "" };
    let before = match line.before {
        0 if line.or_more => "; there may be runs before it in line".to_owned(),
        0 => "; it is the first of its tenant in line".to_owned(),
        1 => format!("; {more}1 run of its tenant is before it"),
        before => format!("; {more}{before} runs of its tenant are before it"),
    };
    let others = if line.others { ", and tenants take turns" } else { "" };
    format!("{before}{others}")
}

/// Counts on the cards of runs that are executed or queued. Both have few runs compared with those
/// that are over, and an index of their own.
async fn look(store: &dyn Store, head: &RunHead) -> Result<Line, RuntimeError> {
    let mut line = Line::default();
    let states = [Status::Running, Status::Queued].map(|state| state.as_str().to_owned());
    let mut filter = RunFilter { states: states.into(), limit: PAGE, ..RunFilter::default() };
    for _ in 0..PAGES_MAX {
        let page = store.list(filter.clone()).await?;
        for other in page.runs.iter().filter(|other| other.id != head.id) {
            let is_same_tenant = other.tenant == head.tenant;
            match other.disposition {
                Disposition::Held => {
                    line.of_tenant += usize::from(is_same_tenant);
                    line.of_agent += usize::from(other.agent == head.agent);
                }
                Disposition::Ready if is_same_tenant => {
                    line.before += usize::from(place(other) < place(head));
                }
                Disposition::Ready => line.others = true,
                Disposition::Parked { .. } | Disposition::Paused | Disposition::Ended => {}
            }
        }
        if page.next.is_none() {
            return Ok(line);
        }
        filter.before = page.next;
    }
    line.or_more = true;
    Ok(line)
}

/// A run's place in the line of its tenant, as the store orders it.
fn place(head: &RunHead) -> (i128, RunId) {
    let ahead_ms = i128::from(head.priority) * i128::try_from(AGEING.as_millis()).unwrap_or(0);
    (i128::from(head.updated_at.0) - ahead_ms, head.id)
}
