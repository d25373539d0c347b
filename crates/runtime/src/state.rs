//! What may happen to a run in which state: one match, and nothing is ignored. As a table:
//! `docs/states/run.md`.
//!
//! ```text
//!             claimed            parked
//!   queued ------------> running ---------> waiting
//!     ^  |                 |  ^   claimed      | |
//!     |  |                 |  +----------------+ |
//!     |  |   cancelled     |                     | resumed -> queued
//!     |  +---------------> cancelled <-----------+
//!     |                    |
//!     | resumed            +--> succeeded
//!     +------- failed <----+
//! ```
//!
//! Whatever is not over can be paused; a paused run is resumed (queued) or cancelled.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::RunEvent;

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted; a node will take it.
    Queued,
    /// A node executes it.
    Running,
    /// Put aside until a time or an answer.
    Waiting,
    /// Put aside by somebody until it is resumed.
    Paused,
    /// Reached its end. Final.
    Succeeded,
    /// Stopped without reaching its end. May be resumed.
    Failed,
    /// Ended by somebody. Final.
    Cancelled,
}

impl Status {
    /// All states, in the order of a run's life.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Waiting,
        Self::Paused,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The state as one stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether the run has stopped; a failed one may still be resumed.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// What somebody may do with a run in this state, by the names of the commands. A run that waits can be
    /// answered only if it asks.
    #[must_use]
    pub const fn commands(self) -> &'static [&'static str] {
        match self {
            Self::Queued | Self::Running => &["pause", "cancel", "rollback", "fork"],
            Self::Waiting => &["pause", "resume", "cancel", "rollback", "fork", "answer"],
            Self::Paused => &["resume", "cancel", "rollback", "fork"],
            Self::Failed => &["resume", "retry", "rollback", "fork"],
            Self::Succeeded | Self::Cancelled => &["fork"],
        }
    }

    /// The state after an event.
    ///
    /// # Errors
    /// The event is not possible in this state.
    pub fn next(self, event: &RunEvent) -> Result<Self, IllegalTransition> {
        use RunEvent as E;
        match (self, event) {
            // A claim of a running run is a takeover: its node died or lost its lease.
            (Self::Queued | Self::Running | Self::Waiting, E::Claimed { .. }) => Ok(Self::Running),
            (
                Self::Running,
                E::ModelAnswered { .. }
                | E::ToolStarted { .. }
                | E::ToolFinished { .. }
                | E::StepStarted { .. }
                | E::StepFinished { .. }
                | E::Progressed { .. }
                | E::Signalled { .. }
                | E::Heard { .. }
                | E::ChildEnded { .. }
                | E::StepsUnmet { .. }
                | E::Undone { .. }
                | E::CheckpointPassedOver { .. }
                | E::CallJudged { .. },
            ) => Ok(Self::Running),
            (Self::Running, E::Parked { .. }) => Ok(Self::Waiting),
            (Self::Running, E::Succeeded { .. }) => Ok(Self::Succeeded),
            (Self::Running, E::Failed { .. }) => Ok(Self::Failed),
            (Self::Queued | Self::Running | Self::Waiting, E::Paused { .. }) => Ok(Self::Paused),
            (Self::Queued | Self::Running | Self::Waiting | Self::Paused, E::Cancelled { .. }) => {
                Ok(Self::Cancelled)
            }
            // It is claimed once more, to end what it has begun.
            (Self::Queued | Self::Running | Self::Waiting | Self::Paused, E::Cancelling { .. }) => {
                Ok(Self::Queued)
            }
            // A failure is an end that a person may overrule; success and cancellation are final.
            (Self::Waiting | Self::Paused | Self::Failed, E::Resumed { .. }) => Ok(Self::Queued),
            // A fork takes another run's log over, however that stands.
            (_, E::Forked { .. })
            | (
                Self::Queued | Self::Running | Self::Waiting | Self::Paused | Self::Failed,
                E::RolledBack { .. },
            ) => Ok(Self::Queued),
            (status, event) => Err(IllegalTransition { status, event: event.kind() }),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event that is not possible in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` cannot happen to a run that is {status}")]
pub struct IllegalTransition {
    /// The state.
    pub status: Status,
    /// The event's kind.
    pub event: &'static str,
}

#[cfg(test)]
mod tests {
    use steadfast_providers::model::{FinishReason, Usage};
    use steadfast_providers::tool::Progress;

    use super::*;
    use crate::event::{Changes, StopReason, ToolOutcome, Verdict, WaitReason};
    use crate::run::Ending;

    fn every_event() -> Vec<RunEvent> {
        executed().into_iter().chain(commanded_and_ended()).collect()
    }

    fn executed() -> Vec<RunEvent> {
        let text = String::new;
        vec![
            RunEvent::Submitted {
                agent: text(),
                input: text(),
                call: None,
                parent: None,
                session: None,
                tags: vec![],
            },
            RunEvent::Claimed { node: text(), epoch: 1 },
            RunEvent::ModelAnswered {
                key: text(),
                model: text(),
                simulated: true,
                text: text(),
                tool_calls: vec![],
                finish: FinishReason::Stop,
                usage: Usage::default(),
                attempts: 1,
                took_ms: 0,
                degraded: None,
            },
            RunEvent::ToolStarted {
                call_id: text(),
                tool: text(),
                effect: steadfast_guard::Effect::Once,
                key: text(),
            },
            RunEvent::ToolFinished {
                call_id: text(),
                tool: text(),
                outcome: ToolOutcome::Done,
                content: text(),
                attempts: 1,
                recorded_at: None,
                took_ms: 0,
                degraded: None,
            },
            RunEvent::StepStarted {
                step: text(),
                effect: steadfast_guard::Effect::Once,
                undoes: false,
            },
            RunEvent::StepFinished { step: text(), output: None, failure: None, undoes: false },
            RunEvent::Progressed { progress: Progress { step: 1, total: 2, description: text() } },
            RunEvent::Parked { reason: WaitReason::Cooldown, wake_at: None, detail: text() },
            RunEvent::Signalled { name: text(), payload: serde_json::Value::Null, by: text() },
            RunEvent::Heard { step: text(), signal: text(), timed_out: false },
            RunEvent::ChildEnded {
                child: steadfast_store::RunId::generate(),
                ending: Ending::Succeeded { output: text() },
            },
        ]
    }

    fn commanded_and_ended() -> Vec<RunEvent> {
        let text = String::new;
        vec![
            RunEvent::Paused { by: text(), reason: None },
            RunEvent::Resumed { by: text(), again: vec![] },
            RunEvent::StepsUnmet { steps: vec![] },
            RunEvent::Cancelling { by: text(), reason: None },
            RunEvent::Forked {
                from: steadfast_store::RunId::generate(),
                last: 1,
                changes: Changes::default(),
                by: text(),
            },
            RunEvent::RolledBack { to: 1, by: text(), reason: None, undo: vec![], left: vec![] },
            RunEvent::Undone { again: vec![], left: vec![] },
            RunEvent::CheckpointPassedOver { checkpoint: 1, problem: text() },
            RunEvent::CallJudged {
                call_id: text(),
                verdict: Verdict::Happened,
                result: None,
                by: text(),
            },
            RunEvent::Cancelled { by: text(), reason: None },
            RunEvent::Succeeded { output: text() },
            RunEvent::Failed { stop: StopReason::Refused, message: text() },
        ]
    }

    /// The cells of the rows of the table below a heading, the row of names first.
    fn table<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
        let section = page.split(heading).nth(1).expect("the page has the heading");
        let rows = section.lines().skip_while(|line| !line.starts_with('|'));
        rows.take_while(|line| line.starts_with('|'))
            .filter(|line| !line.starts_with("|---"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect()
    }

    #[test]
    fn the_documented_table_and_the_code_agree_on_every_pair_of_state_and_event() {
        let table = table(include_str!("../../../docs/states/run.md"), "## Transitions");
        let (names, rows) = table.split_first().expect("a row of names");
        let states: Vec<_> = Status::ALL.into_iter().map(Status::as_str).collect();
        assert_eq!(names[1..], states);
        let kinds: Vec<_> = every_event().iter().map(RunEvent::kind).collect();
        assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), kinds);
        for (event, row) in every_event().iter().zip(rows) {
            let decided = Status::ALL.map(|status| status.next(event).map_or("-", Status::as_str));
            assert_eq!(row[1..], decided, "{}", event.kind());
        }
    }

    #[test]
    fn every_kind_of_event_is_among_those_tried() {
        let code = include_str!("event.rs").split("fn kind(").nth(1).expect("names the kinds");
        let body = code.split("\n    }\n").next().expect("ends");
        let named: Vec<_> = body.split('"').skip(1).step_by(2).collect();
        assert_eq!(named, every_event().iter().map(RunEvent::kind).collect::<Vec<_>>());
    }

    #[test]
    fn an_illegal_transition_names_the_state_and_the_event() {
        let refused =
            Status::Succeeded.next(&RunEvent::Resumed { by: "ada".into(), again: vec![] });
        assert_eq!(
            refused.expect_err("final").to_string(),
            "`resumed` cannot happen to a run that is succeeded"
        );
    }

    #[test]
    fn words_and_states_map_both_ways() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("sleeping"), None);
    }

    #[test]
    fn what_a_refusal_names_is_what_the_table_of_actions_allows() {
        let page = include_str!("../../../docs/recovery.md");
        let table = page.lines().skip_while(|line| !line.starts_with("| action"));
        let rows: Vec<Vec<&str>> = table
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let mut compared = 0;
        for (column, names) in rows[0].iter().enumerate().skip(1) {
            for status in names.split(", ").filter_map(Status::parse) {
                let allowed = rows[2..].iter().filter(|row| !row[column].starts_with("refused"));
                let mut allowed: Vec<&str> = allowed.map(|row| row[0].trim_matches('`')).collect();
                let mut told = status.commands().to_vec();
                allowed.sort_unstable();
                told.sort_unstable();
                assert_eq!(told, allowed, "{status}");
                compared += 1;
            }
        }
        assert_eq!(compared, Status::ALL.len());
    }
}
