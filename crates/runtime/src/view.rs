//! What is shown of runs, the same for API, command line and console.

use serde::{Deserialize, Serialize};
use steadfast_providers::tool::Progress;
use steadfast_store::{Disposition, RunHead, RunId, Timestamp};

use crate::event::RunEvent;
use crate::journal::Summary;

/// A run as lists show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// The run.
    pub id: RunId,
    /// What executes it.
    pub agent: String,
    /// Whose run it is.
    pub tenant: String,
    /// The conversation or the like that it belongs to.
    #[serde(default)]
    pub session: Option<String>,
    /// Words that people find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The run that started it.
    #[serde(default)]
    pub parent: Option<RunId>,
    /// What is wrong with it, as one word, while it goes on or after it has ended.
    #[serde(default)]
    pub problem: Option<String>,
    /// Since when.
    #[serde(default)]
    pub problem_since: Option<Timestamp>,
    /// What was seen, for people, if its own log shows it.
    #[serde(default)]
    pub problem_detail: Option<String>,
    /// Its state, as one word.
    pub state: String,
    /// Higher goes first.
    pub priority: i32,
    /// The beginning of its input.
    pub input: String,
    /// Where it stands, if a tool reported it.
    pub progress: Option<Progress>,
    /// The beginning of its answer, or what went wrong.
    pub ending: Option<String>,
    /// Why it stopped, as one word, if it failed.
    pub stop: Option<String>,
    /// The run that it is a fork of.
    #[serde(default)]
    pub forked_from: Option<RunId>,
    /// Model answers so far.
    pub iterations: u32,
    /// Input tokens so far.
    pub input_tokens: u64,
    /// Output tokens so far.
    pub output_tokens: u64,
    /// The last model that answered.
    pub model: Option<String>,
    /// Whether any answer was scripted by the simulated provider.
    pub simulated: bool,
    /// Answers and results that something else stood in for: another model or tool, a cached or prepared
    /// answer, a call that is queued for later.
    pub degraded: u32,
    /// Events in its log.
    pub events: u64,
    /// How often it changed hands: 1 for a run that was never interrupted.
    pub epoch: u64,
    /// When it was submitted, in milliseconds since 1970 UTC.
    pub created_at: Timestamp,
    /// When its log last grew.
    pub updated_at: Timestamp,
}

impl RunView {
    /// A run from its index card.
    #[must_use]
    pub fn from_head(head: &RunHead) -> Self {
        // A card of an older release may lack what this one shows; that is no reason to hide the run.
        let summary: Summary = serde_json::from_slice(&head.summary).unwrap_or_default();
        let note = summary.problem.filter(|note| Some(&note.problem) == head.problem.as_ref());
        // Seen from outside: nothing has happened to it since.
        let quiet = match head.disposition {
            Disposition::Parked { wake_at: Some(at) } if at < head.updated_at => head.updated_at,
            Disposition::Parked { wake_at: Some(at) } => at,
            _ => head.updated_at,
        };
        let since = note.as_ref().map_or(quiet, |note| note.since);
        Self {
            id: head.id,
            agent: head.agent.clone(),
            tenant: head.tenant.clone(),
            session: head.session.clone(),
            tags: head.tags.clone(),
            parent: head.parent,
            problem: head.problem.clone(),
            problem_since: head.problem.is_some().then_some(since),
            problem_detail: note.map(|note| note.detail),
            state: head.state.clone(),
            priority: head.priority,
            input: summary.input,
            progress: summary.progress,
            ending: summary.ending,
            stop: summary.stop,
            forked_from: summary.forked_from,
            iterations: summary.iterations,
            input_tokens: summary.input_tokens,
            output_tokens: summary.output_tokens,
            model: summary.model,
            simulated: summary.simulated,
            degraded: summary.degraded,
            events: head.head_seq,
            epoch: head.epoch,
            created_at: head.created_at,
            updated_at: head.updated_at,
        }
    }
}

/// One page of runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunList {
    /// The rows, newest first.
    pub runs: Vec<RunView>,
    /// Give it as `before` to get the next page; absent on the last.
    pub next: Option<RunId>,
}

/// One event of a run's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Its place in the log.
    pub seq: u64,
    /// When it was committed, in milliseconds since 1970 UTC.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: RunEvent,
}

/// A checkpoint that is kept of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// The last event that it holds.
    pub seq: u64,
    /// When it was taken.
    pub at: Timestamp,
    /// Where the run stood, if a tool had reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Model answers by then, unless it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u32>,
    /// Why it cannot be read, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
