//! What counts as a problem, as data.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_store::RunId;

use super::Problem;
use crate::agent::names;

/// When calls that come again and again are a problem. 0 turns a check off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepeatRule {
    /// Equal calls with equal results in a row. Default 3.
    pub in_a_row: usize,
    /// Equal calls with equal results among the last 30 calls. Default 10.
    pub among_last: usize,
    /// Rounds of a cycle of 2 to 5 calls with equal results. Default 3.
    pub rounds: usize,
    /// Results of one tool in a row that are the same error, whatever the arguments. Default 3.
    pub errors: usize,
    /// Tools that are asked again and again by nature, by name; `server__*` means every tool of an MCP
    /// server. Default: none.
    pub ignore: Vec<String>,
}

impl Default for RepeatRule {
    fn default() -> Self {
        Self { in_a_row: 3, among_last: 10, rounds: 3, errors: 3, ignore: Vec::new() }
    }
}

impl RepeatRule {
    pub(super) fn ignores(&self, tool: &str) -> bool {
        names(&self.ignore, tool)
    }
}

/// When a run has a problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProblemRules {
    /// How often runs are looked at from outside. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub check_every: Duration,
    /// What a step may take beyond its limit before its run is stuck. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub stuck_grace: Duration,
    /// The limit between two steps, and of a step that says none. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub step_limit: Duration,
    /// How long a run may be queued while places are free. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub queued_for: Duration,
    /// How long after its wake-up time a run may still wait. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub overdue_by: Duration,
    /// How many times the tokens of the agent's usual run (the median of its last 50 that succeeded) are
    /// too many, unless the agent says what is to be expected; 0 turns the check off. Default 5.
    pub costly_factor: u32,
    /// Fewer tokens than this are never too many by that rule. Default 20 000.
    pub costly_from: u64,
    /// Runs that must have succeeded before anything is usual. Default 10.
    pub costly_runs: usize,
    /// When calls repeat, unless the agent says it itself.
    pub repeating: RepeatRule,
}

impl Default for ProblemRules {
    fn default() -> Self {
        Self {
            check_every: Duration::from_secs(15),
            stuck_grace: Duration::from_secs(30),
            step_limit: Duration::from_secs(5 * 60),
            queued_for: Duration::from_secs(60),
            overdue_by: Duration::from_secs(60),
            costly_factor: 5,
            costly_from: 20_000,
            costly_runs: 10,
            repeating: RepeatRule::default(),
        }
    }
}

/// A problem of a run that begins, or is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProblemNotice {
    /// The run.
    pub run: RunId,
    /// What executes it.
    pub agent: String,
    /// Whose run it is.
    pub tenant: String,
    /// The problem.
    pub problem: Problem,
    /// What was seen, for people.
    pub detail: String,
    /// Whether it is over.
    pub over: bool,
}

/// Who is told when a run gets a problem and when that is over, once each an episode.
#[derive(Clone)]
pub struct ProblemHook(Arc<dyn Fn(&ProblemNotice) + Send + Sync>);

impl ProblemHook {
    /// Called where the problem is found, between two steps of the run: to be quick.
    #[must_use]
    pub fn new(hook: impl Fn(&ProblemNotice) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(super) fn call(&self, notice: &ProblemNotice) {
        (self.0)(notice);
    }
}

impl fmt::Debug for ProblemHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProblemHook")
    }
}
