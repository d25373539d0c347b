//! What the branches of one run share while its code runs: the journal, and who is doing what.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use parking_lot::Mutex;
use steadfast_store::{Store, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::journal::RunJournal;
use crate::problems::Pulse;

/// Shared by every branch of one run's code.
pub(crate) struct Board {
    /// Held for an append, never while something outside is awaited.
    pub(crate) journal: tokio::sync::Mutex<RunJournal>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    pub(crate) drain: CancellationToken,
    pub(crate) store: Arc<dyn Store>,
    /// Whose run it is, and what it belongs to.
    pub(crate) tenant: String,
    pub(crate) agent: String,
    pub(crate) session: Option<String>,
    /// When something must have happened.
    pub(crate) pulse: Arc<Pulse>,
    activity: Mutex<Activity>,
    /// Steps that this execution has come to.
    met: Mutex<BTreeSet<String>>,
    /// Why something could not be written down: the code goes no further.
    problem: Mutex<Option<RuntimeError>>,
}

/// Who is doing what.
#[derive(Debug, Default)]
struct Activity {
    /// Branches that append or do something outside.
    busy: usize,
    /// Branches that wait for a time, each with when it goes on.
    waits: Vec<Timestamp>,
    /// Branches that stand still because the node drains.
    held: usize,
}

/// Why nothing more happens until something from outside happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Every branch waits for a time; the first of them.
    Until(Timestamp),
    /// The node drains.
    Drained,
    /// Something could not be written down: the run is no longer this node's to execute.
    Unwritten,
}

/// A branch does something; dropping it ends that.
pub(crate) struct Busy<'b>(&'b Board);

/// A branch waits; dropping it ends that.
pub(crate) struct Waits<'b>(&'b Board, Timestamp);

/// A branch stands still because the node drains.
pub(crate) struct Held<'b>(&'b Board);

impl Board {
    pub(crate) fn new(
        journal: RunJournal,
        catalog: Arc<Catalog>,
        now: Box<dyn Fn() -> Timestamp + Send + Sync>,
        drain: CancellationToken,
    ) -> Self {
        let (pulse, store) = (Arc::clone(journal.pulse()), Arc::clone(journal.shared_store()));
        let (tenant, agent) = (journal.tenant().to_owned(), journal.run().agent.clone());
        let session = journal.session().map(str::to_owned);
        let (journal, activity) = (tokio::sync::Mutex::new(journal), Mutex::default());
        Self {
            journal,
            catalog,
            now,
            drain,
            store,
            tenant,
            agent,
            session,
            pulse,
            activity,
            met: Mutex::default(),
            problem: Mutex::new(None),
        }
    }

    /// Appends an event. If that cannot be, this never returns: the code must not go on as if it had been
    /// done, nor as if it had failed.
    pub(crate) async fn append(&self, journal: &mut RunJournal, event: RunEvent) {
        if let Err(error) = journal.append(vec![event]).await {
            self.problem.lock().get_or_insert(error);
            pending::<()>().await;
        }
    }

    /// Why the code went no further.
    pub(crate) fn take_problem(&self) -> Option<RuntimeError> {
        self.problem.lock().take()
    }

    /// Whether this execution comes to a step of this name for the first time.
    pub(crate) fn meet(&self, step: &str) -> bool {
        self.met.lock().insert(step.to_owned())
    }

    pub(crate) fn busy(&self) -> Busy<'_> {
        self.activity.lock().busy += 1;
        Busy(self)
    }

    pub(crate) fn wait(&self, until: Timestamp) -> Waits<'_> {
        self.activity.lock().waits.push(until);
        Waits(self, until)
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
        if activity.held > 0 {
            return Some(Blocked::Drained);
        }
        activity.waits.iter().min().copied().map(Blocked::Until)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.activity.lock().busy -= 1;
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let waits = &mut self.0.activity.lock().waits;
        if let Some(place) = waits.iter().position(|until| *until == self.1) {
            waits.swap_remove(place);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.activity.lock().held -= 1;
    }
}
