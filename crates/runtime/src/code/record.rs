//! What a run remembers of its steps: a fold over their events, as pure as the rest of the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_guard::{Effect, ErrorClass};

/// The steps of a run that is code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// Each step by its name.
    pub by_name: BTreeMap<String, StepRecord>,
    /// How often the run has started over, after all that it had done was undone: part of every key, so
    /// that what was undone can be done anew.
    pub round: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// How far it got.
    pub state: StepState,
    /// Whether it undoes another one.
    pub undoes: bool,
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
        self.by_name.insert(name, StepRecord { state, undoes });
    }

    pub(crate) fn finished(
        &mut self,
        name: String,
        result: Result<Value, StepFailure>,
        undoes: bool,
    ) {
        let state = match result {
            Ok(output) => StepState::Done { output },
            Err(failure) => StepState::Failed { failure },
        };
        self.by_name.insert(name, StepRecord { state, undoes });
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
    /// undoing failed goes on undoing.
    pub(crate) fn reopen(&mut self) {
        let failed = |record: &StepRecord| matches!(record.state, StepState::Failed { .. });
        let undoing = self.by_name.values().any(|record| record.undoes && failed(record));
        if undoing {
            self.by_name.retain(|_, record| !(record.undoes && failed(record)));
        } else if self.by_name.values().any(|record| record.undoes) {
            *self = Self { by_name: BTreeMap::new(), round: self.round + 1 };
        } else {
            self.by_name.retain(|_, record| !failed(record));
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
            steps.finished((*name).to_owned(), result, *undoes);
        }
        steps
    }

    #[test]
    fn r12_a_resumed_run_tries_again_what_failed() {
        let mut steps = after(&[("a", true, false), ("b", false, false)]);
        steps.reopen();
        assert_eq!((names(&steps), steps.round), (vec!["a"], 0));
    }

    #[test]
    fn r12_a_run_that_was_undone_starts_over_with_other_keys() {
        let mut steps = after(&[("a", true, false), ("b", false, false), ("undo a", true, true)]);
        steps.reopen();
        assert_eq!((names(&steps), steps.round), (vec![], 1));
    }

    #[test]
    fn r12_a_run_whose_undoing_failed_goes_on_undoing() {
        let mut steps = after(&[
            ("a", true, false),
            ("b", false, false),
            ("undo a", false, true),
            ("undo c", true, true),
        ]);
        steps.reopen();
        assert_eq!((names(&steps), steps.round), (vec!["a", "b", "undo c"], 0));
    }
}
