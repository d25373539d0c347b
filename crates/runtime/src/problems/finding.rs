//! What the fold itself shows to be wrong: pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use steadfast_guard::counted;

use super::{Problem, RepeatRule, repeats};
use crate::event::ToolOutcome;
use crate::run::Run;
use crate::state::Status;

/// What went wrong in a run and has not been made good: part of the fold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flaws {
    /// Calls and steps of which nobody knows whether they took effect.
    pub unknown: u32,
    /// Tools whose last call failed.
    pub failing: BTreeSet<String>,
    /// Steps of code that failed for good.
    pub failed_steps: BTreeSet<String>,
}

impl Flaws {
    /// A call has its result. One that was not run because it was asked for wrongly is no flaw: the model
    /// was told, and went on as it wanted.
    pub(crate) fn tool(&mut self, tool: &str, outcome: ToolOutcome) {
        match outcome {
            ToolOutcome::Done => drop(self.failing.remove(tool)),
            ToolOutcome::Failed | ToolOutcome::Unavailable => {
                self.failing.insert(tool.to_owned());
            }
            ToolOutcome::OutcomeUnknown => self.unknown += 1,
            // One that is queued counts as degraded.
            ToolOutcome::Invalid | ToolOutcome::Queued => {}
        }
    }

    /// A call that ended so is made once more.
    pub(crate) const fn made_again(&mut self, outcome: ToolOutcome) {
        if matches!(outcome, ToolOutcome::OutcomeUnknown) {
            self.unknown = self.unknown.saturating_sub(1);
        }
    }

    /// A rollback leaves so many calls behind that may have taken effect.
    pub(crate) fn left(&mut self, unknown: usize) {
        self.unknown = self.unknown.saturating_add(u32::try_from(unknown).unwrap_or(u32::MAX));
    }

    /// A step of code is done, or failed for good.
    pub(crate) fn step(&mut self, step: &str, failed: bool) {
        if failed {
            self.failed_steps.insert(step.to_owned());
        } else {
            self.failed_steps.remove(step);
        }
    }

    /// What the flaws are, for people; `None` without any.
    fn told(&self, degraded: u32) -> Option<String> {
        let mut told = Vec::new();
        if self.unknown > 0 {
            told.push(format!("{} of unknown outcome", counted(self.unknown.into(), "call")));
        }
        if !self.failing.is_empty() {
            told.push(format!("the last call of {} failed", listed(&self.failing)));
        }
        if !self.failed_steps.is_empty() {
            told.push(format!("these steps failed: {}", listed(&self.failed_steps)));
        }
        if degraded > 0 {
            let times = counted(degraded.into(), "time");
            told.push(format!("something else stood in for an answer or a result, {times}"));
        }
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// The first few names.
fn listed(names: &BTreeSet<String>) -> String {
    let first: Vec<_> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(first.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", first.join(", "))
}

/// How many tokens are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ceiling {
    /// The agent's definition says so.
    Expected(u64),
    /// A multiple of what its runs take.
    Usual(u64),
}

/// What is wrong with a run, and what was seen. Without a rule nothing is looked for that repeats.
pub(super) fn find(
    run: &Run,
    repeats: Option<&RepeatRule>,
    ceiling: Option<Ceiling>,
) -> Option<(Problem, String)> {
    // A run that has reached its end did not repeat itself for ever.
    if run.status != Status::Succeeded
        && let Some(repeats) = repeats
        && let Some(detail) = repeats::repeating(&run.messages, repeats)
    {
        return Some((Problem::Repeating, detail));
    }
    let tokens = run.usage.input_total() + run.usage.output.unwrap_or(0);
    match ceiling {
        Some(Ceiling::Expected(most)) if tokens > most => {
            let detail = format!("{tokens} tokens; its agent's `tokens_expected` is {most}");
            return Some((Problem::Costly, detail));
        }
        Some(Ceiling::Usual(most)) if tokens > most => {
            let detail = format!("{tokens} tokens; more than {most} is unusual for its agent");
            return Some((Problem::Costly, detail));
        }
        _ => {}
    }
    if run.status != Status::Succeeded {
        return None;
    }
    run.flaws.told(run.degraded).map(|detail| (Problem::Partial, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c12_a_failure_that_was_made_good_is_no_flaw_and_an_unknown_outcome_stays_one() {
        let mut flaws = Flaws::default();
        flaws.tool("pay", ToolOutcome::Failed);
        flaws.tool("ask", ToolOutcome::Invalid);
        assert_eq!(flaws.told(0).as_deref(), Some("the last call of `pay` failed"));
        flaws.tool("pay", ToolOutcome::Done);
        assert_eq!(flaws.told(0), None);
        flaws.tool("pay", ToolOutcome::OutcomeUnknown);
        flaws.tool("pay", ToolOutcome::Done);
        assert!(flaws.told(0).expect("a flaw").contains("unknown outcome"));
        assert!(Flaws::default().told(2).expect("a flaw").contains("stood in"));
    }

    #[test]
    fn c12_a_step_that_failed_and_was_done_later_is_no_flaw() {
        let mut flaws = Flaws::default();
        flaws.step("charge", true);
        assert_eq!(flaws.told(0).as_deref(), Some("these steps failed: `charge`"));
        flaws.step("charge", false);
        assert_eq!(flaws.told(0), None);
    }
}
