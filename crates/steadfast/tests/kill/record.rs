//! What nodes have acknowledged: submissions that were answered, events that were shown, commands that
//! were confirmed. Whatever stands here must be true for ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// Events of a run by their numbers.
pub(crate) type Log = BTreeMap<u64, Value>;

/// What was acknowledged, and what was wrong already when it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged {
    /// The run of each submission's key.
    pub(crate) runs: BTreeMap<String, String>,
    /// The events that were shown, run by run.
    pub(crate) shown: BTreeMap<String, Log>,
    /// Commands that were confirmed: the run and the event that they are.
    pub(crate) commands: Vec<(String, &'static str)>,
    /// Model calls whose answers were shown, each with the length of the provider's journal then.
    pub(crate) answered: BTreeMap<String, u64>,
    /// What contradicted itself at once.
    pub(crate) contradictions: Vec<String>,
}

/// The record, shared by all who look at nodes.
pub(crate) struct Record {
    acknowledged: Mutex<Acknowledged>,
    /// The provider's journal.
    journal: PathBuf,
}

impl Record {
    pub(crate) fn new(journal: &Path) -> Self {
        Self { acknowledged: Mutex::default(), journal: journal.to_owned() }
    }

    fn locked(&self) -> MutexGuard<'_, Acknowledged> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it.
    pub(crate) fn all(&self) -> Acknowledged {
        self.locked().clone()
    }

    /// A submission was answered with a run.
    pub(crate) fn submitted(&self, key: &str, run: &str) {
        let mut all = self.locked();
        let before = all.runs.insert(key.to_owned(), run.to_owned());
        if let Some(before) = before.filter(|before| before != run) {
            all.contradictions.push(format!("submission {key} was run {before} and is now {run}"));
        }
    }

    /// A command was confirmed.
    pub(crate) fn confirmed(&self, run: &str, kind: &'static str) {
        self.locked().commands.push((run.to_owned(), kind));
    }

    /// An event was shown; `true` if for the first time.
    pub(crate) fn shown(&self, run: &str, event: &Value) -> bool {
        let seq = event["seq"].as_u64().unwrap_or_default();
        // Read before the lock is taken, so that what is asked from here on is behind it.
        let asked = std::fs::metadata(&self.journal).map_or(0, |found| found.len());
        let mut all = self.locked();
        if let (true, Some(key)) = (event["type"] == "model_answered", event["key"].as_str()) {
            all.answered.entry(key.to_owned()).or_insert(asked);
        }
        let log = all.shown.entry(run.to_owned()).or_default();
        match log.insert(seq, event.clone()) {
            None => true,
            Some(before) => {
                if before != *event {
                    let text = format!("event {seq} of {run} was {before} and is now {event}");
                    all.contradictions.push(text);
                }
                false
            }
        }
    }

    /// The last event of a run that was shown.
    pub(crate) fn last_shown(&self, run: &str) -> u64 {
        let all = self.locked();
        all.shown.get(run).and_then(|log| log.keys().next_back().copied()).unwrap_or_default()
    }
}
