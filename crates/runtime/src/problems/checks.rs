//! What a runtime knows of the runs that it drives, and the check that each of them carries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use steadfast_store::{RunHead, RunId, Timestamp};
use tokio::time::Instant;
use tracing::{info, warn};

use super::finding::{Ceiling, find};
use super::{Problem, ProblemHook, ProblemNotice, ProblemRules, RepeatRule};
use crate::catalog::Catalog;
use crate::journal::Summary;
use crate::run::Run;
use crate::state::Status;

/// A run that this node drives, as seen from outside. Written by its driver without a lock.
pub(crate) struct Pulse {
    pub(super) run: RunId,
    pub(super) agent: String,
    pub(super) tenant: String,
    /// Branches of code overlap: a new step does not bring forward when the last one is due.
    overlaps: bool,
    base: Instant,
    /// Milliseconds after `base` at which something must have happened.
    due_ms: AtomicU64,
    /// The monitor has flagged the run since its card was last written.
    pub(super) flagged: AtomicBool,
    /// What the fold shows.
    pub(super) found: Mutex<Option<Problem>>,
}

impl Pulse {
    /// A step begins that may take so long.
    pub(crate) fn begins(&self, limit: Duration) {
        let due = self.base.elapsed().saturating_add(limit);
        let due_ms = u64::try_from(due.as_millis()).unwrap_or(u64::MAX);
        if self.overlaps {
            self.due_ms.fetch_max(due_ms, Ordering::Relaxed);
        } else {
            self.due_ms.store(due_ms, Ordering::Relaxed);
        }
    }

    /// By how much something is late.
    pub(super) fn late(&self) -> Duration {
        let due = Duration::from_millis(self.due_ms.load(Ordering::Relaxed));
        self.base.elapsed().saturating_sub(due)
    }
}

/// What the checks of a runtime share.
pub(crate) struct Checks {
    pub(super) rules: ProblemRules,
    hook: Option<ProblemHook>,
    base: Instant,
    /// How many tokens are unusual, by agent; `u64::MAX` while nothing is usual yet.
    unusual: BTreeMap<String, AtomicU64>,
    driven: Mutex<BTreeMap<(RunId, u64), Arc<Pulse>>>,
}

impl Checks {
    pub(crate) fn new(rules: ProblemRules, hook: Option<ProblemHook>, catalog: &Catalog) -> Self {
        let usual = catalog.agents().filter(|(_, spec)| spec.tokens_expected.is_none());
        let unusual = usual.map(|(name, _)| (name.to_owned(), AtomicU64::new(u64::MAX))).collect();
        Self { rules, hook, base: Instant::now(), unusual, driven: Mutex::default() }
    }

    /// The check of a run that this node has claimed; dropped with its journal.
    pub(crate) fn enter(self: &Arc<Self>, head: &RunHead, catalog: &Catalog) -> RunCheck {
        let spec = catalog.agent(&head.agent);
        let pulse = Arc::new(Pulse {
            run: head.id,
            agent: head.agent.clone(),
            tenant: head.tenant.clone(),
            overlaps: catalog.code(&head.agent).is_some(),
            base: self.base,
            due_ms: AtomicU64::new(0),
            flagged: AtomicBool::new(false),
            found: Mutex::new(None),
        });
        pulse.begins(self.rules.step_limit);
        let place = (head.id, head.epoch);
        self.driven.lock().insert(place, Arc::clone(&pulse));
        let repeating = spec.as_ref().and_then(|spec| spec.repeating.clone());
        let expected = spec.and_then(|spec| spec.tokens_expected);
        RunCheck {
            checks: Arc::clone(self),
            pulse,
            place,
            repeating: repeating.unwrap_or_else(|| self.rules.repeating.clone()),
            expected,
            known: Note::of(head),
        }
    }

    pub(super) fn driven(&self) -> Vec<Arc<Pulse>> {
        self.driven.lock().values().cloned().collect()
    }

    /// The agents of which is learned what is usual.
    pub(super) fn agents(&self) -> impl Iterator<Item = &str> {
        self.unusual.keys().map(String::as_str)
    }

    /// Says what the last runs of an agent took.
    pub(super) fn learn(&self, agent: &str, mut tokens: Vec<u64>) {
        let Some(unusual) = self.unusual.get(agent) else { return };
        let ProblemRules { costly_factor, costly_from, costly_runs, .. } = self.rules;
        tokens.sort_unstable();
        let most = match tokens.get(tokens.len() / 2) {
            Some(median) if costly_factor > 0 && tokens.len() >= costly_runs.max(1) => {
                median.saturating_mul(costly_factor.into()).max(costly_from)
            }
            _ => u64::MAX,
        };
        unusual.store(most, Ordering::Relaxed);
    }

    /// Says that a problem begins or is over: in the log, and to who wants to know.
    pub(super) fn tell(&self, notice: &ProblemNotice) {
        let ProblemNotice { run, agent, tenant, problem, detail, over } = notice;
        let problem = problem.as_str();
        if *over {
            info!(%run, agent, tenant, problem, "the problem of a run is over");
        } else {
            warn!(%run, agent, tenant, problem, detail, "a run has a problem");
        }
        if let Some(hook) = &self.hook {
            hook.call(notice);
        }
    }
}

/// What was found wrong with a run, as its card keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The problem, as one word.
    pub problem: String,
    /// Since when.
    pub since: Timestamp,
    /// What was seen, for people.
    pub detail: String,
}

impl Note {
    fn of(head: &RunHead) -> Option<Self> {
        let summary: Summary = serde_json::from_slice(&head.summary).unwrap_or_default();
        summary.problem.filter(|note| Some(&note.problem) == head.problem.as_ref())
    }
}

/// The check of one run.
pub(crate) struct RunCheck {
    checks: Arc<Checks>,
    pulse: Arc<Pulse>,
    place: (RunId, u64),
    repeating: RepeatRule,
    expected: Option<u64>,
    /// What its card says.
    known: Option<Note>,
}

impl RunCheck {
    pub(crate) const fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// What is wrong with the run as it is now. Calls repeat, or do so no more, only with a new result.
    pub(crate) fn look(&self, run: &Run, now: Timestamp, has_result: bool) -> Option<Note> {
        let repeats = |note: &&Note| note.problem == Problem::Repeating.as_str();
        let lasting = self.known.as_ref().filter(repeats).filter(|_| !has_result);
        if let Some(note) = lasting.filter(|_| run.status != Status::Succeeded) {
            return Some(note.clone());
        }
        let usual = || {
            let most = self.checks.unusual.get(&run.agent)?.load(Ordering::Relaxed);
            Some(Ceiling::Usual(most))
        };
        let ceiling = self.expected.map(Ceiling::Expected).or_else(usual);
        let (problem, detail) = find(run, has_result.then_some(&self.repeating), ceiling)?;
        let same = self.known.as_ref().filter(|note| note.problem == problem.as_str());
        let since = same.map_or(now, |note| note.since);
        Some(Note { problem: problem.as_str().to_owned(), since, detail })
    }

    /// Whether the card has to be written for this: the word has changed, or the monitor has put another.
    pub(crate) fn is_news(&self, found: Option<&Note>) -> bool {
        let word = |note: &Note| note.problem.clone();
        self.pulse.flagged.load(Ordering::Acquire)
            || self.known.as_ref().map(word) != found.map(word)
    }

    /// Events have been appended; with the card, if `found` is given.
    pub(crate) fn appended(&mut self, found: Option<Option<Note>>) {
        self.pulse.begins(self.checks.rules.step_limit);
        let Some(found) = found else { return };
        self.pulse.flagged.store(false, Ordering::Release);
        let before = std::mem::replace(&mut self.known, found);
        let parse = |note: &Option<Note>| note.as_ref().and_then(|n| Problem::parse(&n.problem));
        let (was, is) = (parse(&before), parse(&self.known));
        *self.pulse.found.lock() = is;
        if was == is {
            return;
        }
        let ended = was.zip(before).map(|(problem, note)| (problem, note, true));
        let began = is.zip(self.known.clone()).map(|(problem, note)| (problem, note, false));
        for (problem, note, over) in ended.into_iter().chain(began) {
            self.checks.tell(&ProblemNotice {
                run: self.pulse.run,
                agent: self.pulse.agent.clone(),
                tenant: self.pulse.tenant.clone(),
                problem,
                detail: note.detail,
                over,
            });
        }
    }
}

impl Drop for RunCheck {
    fn drop(&mut self) {
        self.checks.driven.lock().remove(&self.place);
    }
}
