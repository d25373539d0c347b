//! What the branches of one run share while its code runs: the journal, and who is doing what.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_store::{RunId, Store, Timestamp};

use super::CodePolicy;
use super::record::child_step;
use crate::error::RuntimeError;
use crate::event::{RunEvent, WaitReason};
use crate::journal::RunJournal;
use crate::lease::Lease;
use crate::problems::Pulse;
use crate::run::Run;
use crate::shared::{Mailbell, Shared};

/// Shared by every branch of one run's code.
pub(crate) struct Board {
    /// Held for an append, never while something outside is awaited.
    pub(crate) journal: tokio::sync::Mutex<RunJournal>,
    pub(crate) shared: Arc<Shared>,
    /// What the run was claimed by: without it no step is done.
    pub(crate) lease: Arc<Lease>,
    pub(crate) policy: CodePolicy,
    /// Rung when letters may wait for the run.
    mail: Arc<Mailbell>,
    /// Somebody wants the run to be put aside: no further step begins.
    pausing: AtomicBool,
    /// The run is to be cancelled, or to go back: its code only comes to where it was.
    replaying: AtomicBool,
    pub(crate) store: Arc<dyn Store>,
    /// Whose run it is, and what it belongs to.
    pub(crate) tenant: String,
    pub(crate) agent: String,
    pub(crate) session: Option<String>,
    /// When something must have happened.
    pub(crate) pulse: Arc<Pulse>,
    activity: Mutex<Activity>,
    /// Steps that this execution has come to.
    met: Mutex<Met>,
    /// How often this execution has said that it waits for a signal.
    asked: Mutex<BTreeMap<String, u32>>,
    /// Why something could not be written down: the code goes no further.
    problem: Mutex<Option<RuntimeError>>,
}

/// What an execution has come to.
#[derive(Debug, Default)]
struct Met {
    steps: BTreeSet<String>,
    first: Option<String>,
    /// The steps since it was last said how something is undone.
    since: Vec<String>,
    /// The steps that this belongs to.
    last: Vec<String>,
}

/// Who is doing what.
#[derive(Debug, Default)]
struct Activity {
    /// Branches that append or do something outside.
    busy: usize,
    /// What branches wait for, each under a number of its own.
    waits: BTreeMap<u64, Awaited>,
    next_wait: u64,
    /// Branches that stand still because the node drains, or the run is to pause or to end.
    held: usize,
}

/// What a branch waits for, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) what: What,
    pub(crate) until: Option<Timestamp>,
}

/// What a branch waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The time alone.
    Time,
    /// The end of the quiet that a dependency asked for; what happened, for people.
    Quiet(String),
    /// That something is said under this name.
    Signal(String),
    /// The end of a run that this one has started.
    Child(RunId),
}

impl What {
    fn has_come(&self, run: &Run) -> bool {
        match self {
            Self::Time | Self::Quiet(_) => false,
            Self::Signal(name) => run.signals.contains_key(name),
            Self::Child(child) => run.children.contains_key(child),
        }
    }

    const fn reason(&self) -> WaitReason {
        match self {
            Self::Time => WaitReason::Timer,
            Self::Quiet(_) => WaitReason::Cooldown,
            Self::Signal(_) => WaitReason::Signal,
            Self::Child(_) => WaitReason::Child,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Time => "the code waits for a time".to_owned(),
            Self::Quiet(told) => told.clone(),
            Self::Signal(name) => format!("the code waits for signal `{name}`"),
            Self::Child(child) => format!("the code waits for run {child}"),
        }
    }
}

/// Why nothing more happens until something from outside happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Every branch waits.
    Waiting(Vec<Awaited>),
    /// The node drains.
    Drained,
    /// The run is to be put aside.
    Pausing,
    /// The run is to be cancelled, or to go back, and the code has come to what it has not begun.
    Replayed,
    /// Something could not be written down: the run is no longer this node's to execute.
    Unwritten,
}

/// A branch does something; dropping it ends that.
pub(crate) struct Busy<'b>(&'b Board);

/// A branch waits; dropping it ends that.
pub(crate) struct Waits<'b>(&'b Board, u64);

/// A branch stands still; dropping it ends that.
pub(crate) struct Held<'b>(&'b Board);

impl Board {
    pub(crate) fn new(
        journal: RunJournal,
        shared: Arc<Shared>,
        lease: Arc<Lease>,
        policy: CodePolicy,
        mail: Arc<Mailbell>,
    ) -> Self {
        let run = journal.run();
        let replaying = run.cancelling.is_some() || run.goes_back_to().is_some();
        let (pulse, store) = (Arc::clone(journal.pulse()), Arc::clone(journal.shared_store()));
        let (tenant, agent) = (journal.tenant().to_owned(), journal.run().agent.clone());
        let session = journal.session().map(str::to_owned);
        Self {
            journal: tokio::sync::Mutex::new(journal),
            shared,
            lease,
            policy,
            mail,
            pausing: AtomicBool::new(false),
            replaying: AtomicBool::new(replaying),
            store,
            tenant,
            agent,
            session,
            pulse,
            activity: Mutex::default(),
            met: Mutex::default(),
            asked: Mutex::default(),
            problem: Mutex::new(None),
        }
    }

    /// The time by the store's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.shared.store.now()
    }

    /// Appends an event. If that cannot be, this never returns: the code must not go on as if it had been
    /// done, nor as if it had failed.
    pub(crate) async fn append(&self, journal: &mut RunJournal, event: RunEvent) {
        self.must(journal.append(vec![event]).await).await;
    }

    /// What the store gave. If it gave nothing, this never returns, for the same reason.
    pub(crate) async fn must<T>(&self, result: Result<T, RuntimeError>) -> T {
        match result {
            Ok(value) => value,
            Err(error) => {
                self.problem.lock().get_or_insert(error);
                pending().await
            }
        }
    }

    /// Why the code went no further.
    pub(crate) fn take_problem(&self) -> Option<RuntimeError> {
        self.problem.lock().take()
    }

    /// Whether this execution comes to a step of this name for the first time.
    pub(crate) fn meet(&self, step: &str) -> bool {
        let mut met = self.met.lock();
        let is_new = met.steps.insert(step.to_owned());
        if is_new {
            met.first.get_or_insert_with(|| step.to_owned());
            met.since.push(step.to_owned());
        }
        is_new
    }

    /// The steps that the code has come to since it last said how something is undone, or before that, if
    /// there are none since.
    pub(crate) fn met_since(&self) -> Vec<String> {
        let mut met = self.met.lock();
        let since = std::mem::take(&mut met.since);
        if !since.is_empty() {
            met.last = since;
        }
        met.last.clone()
    }

    /// The steps of this name, or of a list of this name, that this execution has come to or the log holds.
    pub(crate) fn steps_named(&self, run: &Run, name: &str) -> Vec<String> {
        let met = self.met.lock();
        let is_named = |step: &&String| {
            let step = step.strip_prefix(&child_step("")).unwrap_or(step);
            step.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        };
        run.steps.by_name.keys().chain(&met.steps).filter(is_named).cloned().collect()
    }

    /// The step that this execution has come to first.
    pub(crate) fn first_met(&self) -> Option<String> {
        self.met.lock().first.clone()
    }

    /// The code is executed once more from its beginning, as it goes on now.
    pub(crate) fn start_over(&self) {
        *self.met.lock() = Met::default();
        self.asked.lock().clear();
        self.replaying.store(false, Ordering::Relaxed);
    }

    /// The steps that the log holds and this execution has not come to; what undoes is not among them.
    pub(crate) fn unmet(&self, run: &Run) -> Vec<String> {
        let met = self.met.lock();
        let steps = run
            .steps
            .by_name
            .iter()
            .filter(|(name, record)| !record.undoes && !met.steps.contains(name.as_str()));
        steps.map(|(name, _)| name.clone()).collect()
    }

    /// How often this execution has asked for a signal of this name, this time included.
    pub(crate) fn ask(&self, signal: &str) -> u32 {
        let mut asked = self.asked.lock();
        let count = asked.entry(signal.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// What is said to the run is written down.
    async fn read_mail(&self) {
        if !self.mail.take() {
            return;
        }
        let mut journal = self.journal.lock().await;
        let before = journal.run().seq;
        let pausing = self.must(journal.take_letters(false).await).await;
        self.pausing.store(pausing, Ordering::Relaxed);
        if journal.run().seq != before {
            // other branches may wait for it
            self.mail.wake();
        }
    }

    /// Whether no further step may begin, because the node drains or the run is to pause or to end.
    pub(crate) async fn stands_still(&self) -> bool {
        self.read_mail().await;
        self.shared.drain.is_cancelled()
            || self.pausing.load(Ordering::Relaxed)
            || self.begins_nothing()
    }

    /// Whether the run is to be cancelled, or to go back, and its code is only to come to where it was.
    pub(crate) fn begins_nothing(&self) -> bool {
        self.replaying.load(Ordering::Relaxed)
    }

    /// The code has been left; from here on steps undo.
    pub(crate) fn begin_undoing(&self) {
        self.replaying.store(false, Ordering::Relaxed);
    }

    /// Waits for something, or until its time; `true` if it has come. While every branch waits, the run is
    /// put aside and this never returns.
    pub(crate) async fn has_come(&self, awaited: &Awaited) -> bool {
        loop {
            // Before looking: what comes between the look and the wait is not missed.
            let ring = self.mail.next();
            {
                let _busy = self.busy();
                self.read_mail().await;
                // Hearing something now would take it from those who listen afterwards.
                let is_unheard = matches!(awaited.what, What::Signal(_)) && self.begins_nothing();
                if !is_unheard && awaited.what.has_come(self.journal.lock().await.run()) {
                    return true;
                }
            }
            if self.begins_nothing() {
                let _held = self.hold();
                pending::<()>().await;
            }
            let left = awaited.until.map(|until| until.0.saturating_sub(self.now().0));
            if left.is_some_and(|left| left <= 0) {
                return false;
            }
            let _waits = self.wait(awaited.clone());
            tokio::select! {
                () = ring => {}
                // Runs out only while another branch is busy; otherwise the run is put aside.
                () = sleep(left) => {}
            }
        }
    }

    pub(crate) fn busy(&self) -> Busy<'_> {
        self.activity.lock().busy += 1;
        Busy(self)
    }

    fn wait(&self, awaited: Awaited) -> Waits<'_> {
        let mut activity = self.activity.lock();
        let number = activity.next_wait;
        activity.next_wait += 1;
        activity.waits.insert(number, awaited);
        Waits(self, number)
    }

    pub(crate) fn hold(&self) -> Held<'_> {
        self.activity.lock().held += 1;
        Held(self)
    }

    /// Whether every branch stands still, and why.
    pub(crate) fn blocked(&self) -> Option<Blocked> {
        if self.problem.lock().is_some() {
            return Some(Blocked::Unwritten);
        }
        let activity = self.activity.lock();
        if activity.busy > 0 {
            return None;
        }
        if self.begins_nothing() && (activity.held > 0 || !activity.waits.is_empty()) {
            return Some(Blocked::Replayed);
        }
        if activity.held > 0 {
            let pausing = self.pausing.load(Ordering::Relaxed);
            return Some(if pausing { Blocked::Pausing } else { Blocked::Drained });
        }
        if activity.waits.is_empty() {
            return None;
        }
        // A branch that was woken and has not looked yet: put aside now, nothing would wake the run.
        let journal = self.journal.try_lock().ok()?;
        if activity.waits.values().any(|awaited| awaited.what.has_come(journal.run())) {
            return None;
        }
        Some(Blocked::Waiting(activity.waits.values().cloned().collect()))
    }
}

/// For a time in milliseconds; without one, for ever.
async fn sleep(left_ms: Option<i64>) {
    match left_ms.map(|left| u64::try_from(left).unwrap_or(0)) {
        Some(left) => tokio::time::sleep(Duration::from_millis(left)).await,
        None => pending().await,
    }
}

/// The event that puts a run aside whose branches all wait.
pub(crate) fn parked(waits: &[Awaited]) -> RunEvent {
    let wake_at = waits.iter().filter_map(|awaited| awaited.until).min();
    // What somebody has to do is told before what happens by itself.
    let told = waits.iter().max_by_key(|awaited| match awaited.what {
        What::Signal(_) => 3,
        What::Child(_) => 2,
        What::Quiet(_) => 1,
        What::Time => 0,
    });
    let reason = told.map_or(WaitReason::Timer, |awaited| awaited.what.reason());
    let mut detail = told.map_or_else(String::new, |awaited| awaited.what.detail());
    if waits.len() > 1 {
        detail.push_str(&format!(", and {} more", waits.len() - 1));
    }
    RunEvent::Parked { reason, wake_at, detail }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.activity.lock().busy -= 1;
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.activity.lock().waits.remove(&self.1);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.activity.lock().held -= 1;
    }
}
