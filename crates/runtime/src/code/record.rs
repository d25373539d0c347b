//! What a run remembers of its steps: a fold over their events, as pure as the rest of the run.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_guard::{Effect, ErrorClass};
use steadfast_store::RunId;

use crate::run::Ending;

/// The steps of a run that is code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// Each step by its name.
    pub by_name: BTreeMap<String, StepRecord>,
    /// How often the run has started over, after all that it had done was undone: part of every key, so
    /// that what was undone can be done anew.
    pub round: u32,
    /// What became of children, by the step that starts them, when the run was resumed.
    #[serde(default)]
    pub tries: BTreeMap<String, ChildTries>,
    /// What was heard, in that order: the wait, and the signal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<(String, String)>,
}

/// How a resumed run comes to a child that did not succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildTries {
    /// How often it was cancelled and is to be started anew.
    pub anew: u32,
    /// It failed, and is to be resumed.
    pub again: bool,
}

/// The name of the step that starts a child.
pub(crate) fn child_step(name: &str) -> String {
    format!("child {name}")
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// How far it got.
    pub state: StepState,
    /// Whether it undoes another one.
    pub undoes: bool,
    /// Whether it was written ahead, as it changes something.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changes: bool,
    /// The event with which it ended; 0 before.
    #[serde(default)]
    pub ended_at: u64,
}

/// How far a step got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepState {
    /// It was written ahead and may be under way.
    Started {
        /// What it does outside.
        effect: Effect,
    },
    /// It was under way when the run was last left: whether it took effect is not known.
    Interrupted {
        /// What it does outside.
        effect: Effect,
    },
    /// It returned this.
    Done {
        /// As JSON.
        output: Value,
    },
    /// It failed for good.
    Failed {
        /// How.
        failure: StepFailure,
    },
}

/// How a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailure {
    /// What kind of error.
    pub class: ErrorClass,
    /// What happened, for people.
    pub message: String,
}

impl Steps {
    pub(crate) fn get(&self, name: &str) -> Option<&StepState> {
        self.by_name.get(name).map(|record| &record.state)
    }

    pub(crate) fn started(&mut self, name: String, effect: Effect, undoes: bool) {
        let state = StepState::Started { effect };
        self.by_name.insert(name, StepRecord { state, undoes, changes: true, ended_at: 0 });
    }

    pub(crate) fn finished(
        &mut self,
        seq: u64,
        name: String,
        result: Result<Value, StepFailure>,
        undoes: bool,
    ) {
        let state = match result {
            Ok(output) => StepState::Done { output },
            Err(failure) => StepState::Failed { failure },
        };
        let changes = self.by_name.get(&name).is_some_and(|record| record.changes);
        self.by_name.insert(name, StepRecord { state, undoes, changes, ended_at: seq });
    }

    /// A wait for a signal is over.
    pub(crate) fn heard(&mut self, seq: u64, name: String, signal: String, said: Option<Value>) {
        if said.is_some() {
            self.heard.push((name.clone(), signal));
        }
        // A list, so that nothing said and `null` said differ.
        self.finished(seq, name, Ok(said.into_iter().collect()), false);
    }

    /// The children that the run has started, each with the step that did.
    pub(crate) fn children(&self) -> impl Iterator<Item = (&str, RunId)> {
        self.by_name.iter().filter(|(name, _)| name.starts_with(&child_step(""))).filter_map(
            |(name, record)| match &record.state {
                StepState::Done { output } => Some((name.as_str(), output.as_str()?.parse().ok()?)),
                _ => None,
            },
        )
    }

    /// The run was left: what was under way is interrupted.
    pub(crate) fn interrupt(&mut self) {
        for record in self.by_name.values_mut() {
            if let StepState::Started { effect } = record.state {
                record.state = StepState::Interrupted { effect };
            }
        }
    }

    /// A failed run is to go on. What failed is tried again; a run that was undone starts over; one whose
    /// undoing failed goes on undoing. Children that failed are resumed, and those that were cancelled
    /// started anew.
    pub(crate) fn reopen(&mut self, children: &mut BTreeMap<RunId, Ending>) {
        let failed = |record: &StepRecord| matches!(record.state, StepState::Failed { .. });
        let undoing = self.by_name.values().any(|record| record.undoes && failed(record));
        if undoing {
            self.undo_again();
        } else if self.by_name.values().any(|record| record.undoes) {
            *self = Self { round: self.round + 1, ..Self::default() };
        } else {
            self.by_name.retain(|_, record| !failed(record));
            self.reopen_children(children);
        }
    }

    /// What is left of these steps for a run that goes back to when they were all it had: those that are still
    /// the same now. What had failed last is tried again, and a child that did not succeed since is started
    /// anew.
    pub(crate) fn kept(&self, now: &Self, lost: impl Fn(RunId) -> bool) -> Self {
        let forward = || self.by_name.iter().filter(|(_, record)| !record.undoes);
        let is_done = |record: &StepRecord| matches!(record.state, StepState::Done { .. });
        let done = forward().filter(|(_, record)| is_done(record));
        let last = done.map(|(_, record)| record.ended_at).max().unwrap_or(0);
        // The code had gone on from a failure before that.
        let is_met = |record: &StepRecord| {
            matches!(record.state, StepState::Failed { .. }) && record.ended_at < last
        };
        let is_same = |name: &str, record: &StepRecord| {
            (is_done(record) || is_met(record)) && now.by_name.get(name) == Some(record)
        };
        let lost: BTreeSet<&str> =
            self.children().filter(|(_, child)| lost(*child)).map(|(name, _)| name).collect();
        let kept = forward()
            .filter(|(name, record)| is_same(name, record) && !lost.contains(name.as_str()));
        let by_name = kept.map(|(name, record)| (name.clone(), record.clone())).collect();
        Self { by_name, ..Self::default() }
    }

    /// What could not be undone is tried again.
    pub(crate) fn undo_again(&mut self) {
        let failed = |record: &StepRecord| matches!(record.state, StepState::Failed { .. });
        self.by_name.retain(|_, record| !(record.undoes && failed(record)));
    }

    /// The run goes on with these steps alone; what it does again has keys of its own. Gives what the others
    /// had heard, the last first: the signal, and what was said.
    pub(crate) fn go_back(&mut self, mut kept: Self) -> Vec<(String, Value)> {
        let Self { by_name, round, heard, .. } = std::mem::take(self);
        let (still, not): (Vec<_>, Vec<_>) =
            heard.into_iter().partition(|(step, _)| kept.by_name.contains_key(step));
        (kept.round, kept.heard) = (round + 1, still);
        *self = kept;
        let said = not.into_iter().rev().filter_map(|(step, signal)| {
            let StepState::Done { output } = &by_name.get(&step)?.state else { return None };
            Some((signal, output.as_array()?.first()?.clone()))
        });
        said.collect()
    }

    /// The run goes on as another one. What was undone is done anew, with keys of its own; children that are not
    /// over tell their end to the run that they were started by, so this one starts others.
    pub(crate) fn forked(&mut self, is_over: bool, children: &mut BTreeMap<RunId, Ending>) {
        if self.by_name.values().any(|record| record.undoes) {
            *self = Self { round: self.round + 1, ..Self::default() };
        } else if is_over {
            self.reopen(children);
        }
        let open = self.children().filter(|(_, child)| !children.contains_key(child));
        for name in open.map(|(name, _)| name.to_owned()).collect::<Vec<_>>() {
            self.by_name.remove(&name);
        }
    }

    fn reopen_children(&mut self, children: &mut BTreeMap<RunId, Ending>) {
        let lost = |(name, child): (&str, RunId)| match children.get(&child) {
            Some(Ending::Failed { .. }) => Some((name.to_owned(), child, true)),
            Some(Ending::Cancelled { .. }) => Some((name.to_owned(), child, false)),
            Some(Ending::Succeeded { .. }) | None => None,
        };
        for (name, child, is_failed) in self.children().filter_map(lost).collect::<Vec<_>>() {
            let tries = self.tries.entry(name.clone()).or_default();
            tries.again = is_failed;
            tries.anew += u32::from(!is_failed);
            children.remove(&child);
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> StepFailure {
        StepFailure { class: ErrorClass::Unavailable, message: "down".to_owned() }
    }

    fn names(steps: &Steps) -> Vec<&str> {
        steps.by_name.keys().map(String::as_str).collect()
    }

    fn after(events: &[(&str, bool, bool)]) -> Steps {
        let mut steps = Steps::default();
        for (name, is_good, undoes) in events {
            let result = if *is_good { Ok(Value::Null) } else { Err(failure()) };
            steps.finished(1, (*name).to_owned(), result, *undoes);
        }
        steps
    }

    #[test]
    fn r12_a_resumed_run_tries_again_what_failed() {
        let mut steps = after(&[("a", true, false), ("b", false, false)]);
        steps.reopen(&mut BTreeMap::new());
        assert_eq!((names(&steps), steps.round), (vec!["a"], 0));
    }

    #[test]
    fn r12_a_run_that_was_undone_starts_over_with_other_keys() {
        let mut steps = after(&[("a", true, false), ("b", false, false), ("undo a", true, true)]);
        steps.reopen(&mut BTreeMap::new());
        assert_eq!((names(&steps), steps.round), (vec![], 1));
    }

    #[test]
    fn c5_a_resumed_run_resumes_children_that_failed_and_starts_cancelled_ones_anew() {
        let ids = [RunId::generate(), RunId::generate(), RunId::generate()];
        let stop = crate::event::StopReason::Refused;
        let endings = [
            Ending::Succeeded { output: String::new() },
            Ending::Failed { stop, message: String::new() },
            Ending::Cancelled { by: String::new(), reason: None },
        ];
        let mut children: BTreeMap<_, _> = ids.into_iter().zip(endings).collect();
        let mut steps = after(&[("a", false, false)]);
        for (name, id) in ["good", "failed", "cancelled"].into_iter().zip(ids) {
            steps.finished(1, child_step(name), Ok(Value::String(id.to_string())), false);
        }
        steps.reopen(&mut children);
        assert_eq!(names(&steps), ["child good"]);
        assert_eq!(children.into_keys().collect::<Vec<_>>(), [ids[0]]);
        let tries = |name: &str| steps.tries[&child_step(name)];
        assert_eq!(tries("failed"), ChildTries { anew: 0, again: true });
        assert_eq!(tries("cancelled"), ChildTries { anew: 1, again: false });
    }

    #[test]
    fn r12_a_run_whose_undoing_failed_goes_on_undoing() {
        let mut steps = after(&[
            ("a", true, false),
            ("b", false, false),
            ("undo a", false, true),
            ("undo c", true, true),
        ]);
        steps.reopen(&mut BTreeMap::new());
        assert_eq!((names(&steps), steps.round), (vec!["a", "b", "undo c"], 0));
    }

    #[test]
    fn c11_what_is_kept_is_the_same_now_and_a_failure_is_kept_if_the_code_had_gone_on_from_it() {
        let mut then = Steps::default();
        for (seq, name, is_good) in [(1, "met", false), (2, "a", true), (3, "b", true)] {
            then.finished(
                seq,
                name.to_owned(),
                if is_good { Ok(Value::Null) } else { Err(failure()) },
                false,
            );
        }
        then.finished(4, "last".to_owned(), Err(failure()), false);
        then.finished(5, "undo a".to_owned(), Ok(Value::Null), true);
        let mut now = then.clone();
        // Taken back and done again since.
        now.finished(9, "b".to_owned(), Ok(Value::Null), false);
        let kept = then.kept(&now, |_| false);
        assert_eq!(names(&kept), ["a", "met"]);
        for (seq, step) in [(10, "first"), (11, "second")] {
            now.heard(seq, step.to_owned(), "news".to_owned(), Some(Value::from(seq)));
        }
        let unheard = now.go_back(kept);
        let said = |seq: u64| ("news".to_owned(), Value::from(seq));
        assert_eq!(
            (unheard, now.round, names(&now)),
            (vec![said(11), said(10)], 1, vec!["a", "met"])
        );
    }
}
