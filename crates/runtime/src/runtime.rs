//! The handle that everything else holds: submit, look, command, watch, shut down.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use steadfast_guard::Classify;
use steadfast_store::{Checkpoint, NodeId, RunFilter, RunId, Store, StoreError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::KeyRing;
use crate::catalog::Catalog;
use crate::commands::{
    self, AnswerCall, CancelRun, ForkRun, PauseRun, Pausing, ResumeRun, RetryRun, RollbackRun,
    RolledBackTo, SignalRun, SubmitRun, Submitted,
};
use crate::error::RuntimeError;
use crate::folding::fold;
use crate::ledger::{Cashier, Terms};
use crate::memory::{FactBook, FactScope};
use crate::operations::{self, Once, OnceError, Operation, Operations};
use crate::problems::Checks;
use crate::queue::{self, Waiting};
use crate::relay::Relay;
use crate::retention;
use crate::run::Run;
use crate::schedule::{self, Schedule, ScheduleView, Timetable};
use crate::scheduler::Scheduler;
use crate::shared::{RuntimeOptions, Shared};
use crate::stored;
use crate::view::{CheckpointView, EventView, RunList, RunView};
use crate::watch::{Notices, Watch};

/// Executes runs on a store. Cheap to clone; clones are the same runtime.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
    scheduler: Arc<Mutex<Option<SchedulerTask>>>,
}

type SchedulerTask = JoinHandle<Result<(), RuntimeError>>;

impl Runtime {
    /// Registers a node on the store and begins to execute runs: those of earlier, dead nodes first.
    ///
    /// # Errors
    /// The store failed, or an option cannot work.
    pub async fn start(
        store: Arc<dyn Store>,
        catalog: Catalog,
        options: RuntimeOptions,
    ) -> Result<Self, RuntimeError> {
        if options.concurrency == 0 {
            let problem = "`concurrency` is 0: nothing would ever run; use 1 or more".to_owned();
            return Err(RuntimeError::Misconfigured { place: None, problem });
        }
        let node = NodeId::generate();
        let operations = Arc::new(Operations::new(Arc::clone(&store), node.clone()));
        let (rules, hook) = (options.problems.clone(), options.on_problem.clone());
        let checks = Arc::new(Checks::new(rules, hook, &catalog));
        let terms = match &options.terms {
            Some(terms) => terms.clone(),
            None => Terms::built_in().map_err(|error| RuntimeError::Misconfigured {
                place: None,
                problem: error.to_string(),
            })?,
        };
        let cashier = Arc::new(Cashier::start(Arc::clone(&store), terms));
        let (halt, drain) = (CancellationToken::new(), CancellationToken::new());
        let catalog = Arc::new(catalog);
        let relay = Relay::new(&catalog, &cashier, &store, &drain);
        let shared = Arc::new(Shared {
            cashier,
            keys: KeyRing::new(Arc::clone(&store)),
            relay,
            store,
            operations,
            checks,
            catalog,
            options,
            notices: Notices::new(halt.clone()),
            timetable: Timetable::default(),
            doorbell: Notify::new(),
            driven: Mutex::new(BTreeMap::new()),
            drain,
            leased: AtomicBool::new(true),
            halt,
        });
        let scheduler = Scheduler::register(Arc::clone(&shared), node).await?;
        #[expect(clippy::disallowed_methods, reason = "owned here; `shutdown` waits for it")]
        let task = tokio::spawn({
            let retention = retention::run(Arc::clone(&shared));
            async move { tokio::join!(scheduler.run(), retention).0 }
        });
        Ok(Self { shared, scheduler: Arc::new(Mutex::new(Some(task))) })
    }

    /// Accepts a run. Once it has returned, the run is on disk.
    ///
    /// # Errors
    /// No such agent, an input that is too large, a node that drains, or the store failed.
    pub async fn submit(&self, command: SubmitRun) -> Result<Submitted, RuntimeError> {
        if self.shared.drain.is_cancelled() {
            return Err(RuntimeError::ShuttingDown);
        }
        commands::submit(&self.shared, command).await
    }

    /// Keeps these schedules from now on, instead of those before. One that the store has not seen yet
    /// starts from now; of one that it knows, times that were missed are dealt with as it says.
    ///
    /// # Errors
    /// A schedule names an agent that there is not, or something that no run can be submitted with.
    pub fn set_schedules(&self, schedules: Vec<Schedule>) -> Result<(), RuntimeError> {
        for Schedule { order, .. } in &schedules {
            if !self.shared.catalog.executes(&order.agent) {
                let (name, known) = (order.agent.clone(), self.shared.catalog.agent_names());
                return Err(RuntimeError::UnknownAgent { name, known });
            }
            order.check()?;
        }
        self.shared.timetable.replace(schedules);
        Ok(())
    }

    /// The schedules that this node keeps, by name.
    ///
    /// # Errors
    /// The store failed.
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, RuntimeError> {
        schedule::views(&self.shared).await
    }

    /// Submits the run of a schedule now, beside its times. Once it has returned, the run is on disk.
    ///
    /// # Errors
    /// No such schedule, a node that drains, or the store failed.
    pub async fn run_schedule(&self, name: &str) -> Result<Submitted, RuntimeError> {
        if self.shared.drain.is_cancelled() {
            return Err(RuntimeError::ShuttingDown);
        }
        schedule::run_now(&self.shared, name).await
    }

    /// Ends a run for good. Once it has returned, no step of it begins any more.
    ///
    /// # Errors
    /// No such run, it is over already, or the store failed.
    pub async fn cancel(&self, command: CancelRun) -> Result<(), RuntimeError> {
        commands::cancel(&self.shared, command).await
    }

    /// Puts a run aside until it is resumed. One that is being executed pauses once its step under way has
    /// ended, unless it is to pause `now`.
    ///
    /// # Errors
    /// No such run, it is over or paused already, or the store failed.
    pub async fn pause(&self, command: PauseRun) -> Result<Pausing, RuntimeError> {
        commands::pause(&self.shared, command).await
    }

    /// Says something to a run that is not over; it is kept until the run listens, over crashes and
    /// restarts. `false` if it was said before with the same id. Once it has returned, it is on disk.
    ///
    /// # Errors
    /// No such run, it is over, the payload is larger than 1 MiB, or the store failed.
    pub async fn signal(&self, command: SignalRun) -> Result<bool, RuntimeError> {
        commands::signal(&self.shared, command).await
    }

    /// Lets a run go on that had failed or was paused, or wakes one that waits.
    ///
    /// # Errors
    /// No such run, its state does not allow it, or the store failed.
    pub async fn resume(&self, command: ResumeRun) -> Result<(), RuntimeError> {
        commands::resume(&self.shared, command).await
    }

    /// Lets a failed run go on from what it failed on, which is done again; its limits count anew.
    ///
    /// # Errors
    /// No such run, it has not failed, or the store failed.
    pub async fn retry(&self, command: RetryRun) -> Result<(), RuntimeError> {
        commands::retry(&self.shared, command).await
    }

    /// Makes a new run that begins with another one's history and goes on in its own way; that one is not
    /// touched. Once it has returned, the new run is on disk.
    ///
    /// # Errors
    /// No such run, event or model, a run that cannot be forked, a node that drains, or the store failed.
    pub async fn fork(&self, command: ForkRun) -> Result<Submitted, RuntimeError> {
        if self.shared.drain.is_cancelled() {
            return Err(RuntimeError::ShuttingDown);
        }
        commands::fork(&self.shared, command).await
    }

    /// Lets a run go on from where it was at an earlier event, after what came since is undone as far as the
    /// catalog says how. Once it has returned, no step of the run as it was begins any more.
    ///
    /// # Errors
    /// No such run or event, its state does not allow it, or the store failed.
    pub async fn rollback(&self, command: RollbackRun) -> Result<RolledBackTo, RuntimeError> {
        commands::rollback(&self.shared, command).await
    }

    /// Says whether an interrupted call took effect that a run asks about; `false` if that had been said
    /// before. Once it has returned, it is on disk.
    ///
    /// # Errors
    /// No such run, it does not ask about this call, or the store failed.
    pub async fn answer(&self, command: AnswerCall) -> Result<bool, RuntimeError> {
        commands::answer(&self.shared, command).await
    }

    /// The checkpoints that are kept of a run, newest first.
    ///
    /// # Errors
    /// No such run, or the store failed.
    pub async fn checkpoints(&self, run: RunId) -> Result<Vec<CheckpointView>, RuntimeError> {
        let store = self.shared.store.as_ref();
        let mut views = Vec::new();
        for checkpoint in store.checkpoints(run).await? {
            let Checkpoint { seq, at, body } = checkpoint;
            let read = stored::unpack::<Run>(store, "a checkpoint", &body).await;
            let problem = read.as_ref().err().map(ToString::to_string);
            let run = read.ok();
            let progress = run.as_ref().and_then(|run| run.progress.clone());
            let iterations = run.map(|run| run.iterations);
            views.push(CheckpointView { seq, at, progress, iterations, problem });
        }
        Ok(views)
    }

    /// A run as lists show it.
    ///
    /// # Errors
    /// No such run, or the store failed.
    pub async fn run(&self, run: RunId) -> Result<RunView, RuntimeError> {
        let head = self.shared.store.head(run).await?;
        let head = head.ok_or(RuntimeError::UnknownRun { run })?;
        Ok(RunView::from_head(&head))
    }

    /// A run, folded from its log: conversation, open calls, ending.
    ///
    /// # Errors
    /// No such run, its log is damaged, or the store failed.
    pub async fn fold(&self, run: RunId) -> Result<Run, RuntimeError> {
        Ok(fold(self.shared.store.as_ref(), run).await?.run)
    }

    /// Why a run that is ready is not executed yet; `None` if it is not ready. Looks at the index cards
    /// of runs that are queued or executed, at most 2000.
    ///
    /// # Errors
    /// No such run, or the store failed.
    pub async fn waiting(&self, run: RunId) -> Result<Option<Waiting>, RuntimeError> {
        queue::why(&self.shared, run).await
    }

    /// One page of runs.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(&self, filter: RunFilter) -> Result<RunList, RuntimeError> {
        let page = self.shared.store.list(filter).await?;
        let runs = page.runs.iter().map(RunView::from_head).collect();
        Ok(RunList { runs, next: page.next })
    }

    /// How many runs are in each state, counted up to `cap` each.
    ///
    /// # Errors
    /// The store failed.
    pub async fn count_by_state(&self, cap: u64) -> Result<Vec<(String, u64)>, RuntimeError> {
        Ok(self.shared.store.count_by_state(cap).await?)
    }

    /// Events of a run after `after`, at most `limit`.
    ///
    /// # Errors
    /// No such run, or the store failed.
    pub async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<EventView>, RuntimeError> {
        let store = self.shared.store.as_ref();
        let mut events = Vec::new();
        for stored in store.read(run, after, limit).await? {
            let event = stored::unpack_event(store, &stored).await?;
            events.push(EventView { seq: stored.seq, at: stored.at, event });
        }
        Ok(events)
    }

    /// Tells when logs grow. Subscribe first, then read: nothing falls between.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.shared.notices.subscribe()
    }

    /// Waits until a run is over, and returns it. Cancel-safe.
    ///
    /// # Errors
    /// No such run, the store failed, or the runtime shut down first.
    pub async fn wait(&self, run: RunId) -> Result<RunView, RuntimeError> {
        let mut watch = self.watch();
        loop {
            let view = self.run(run).await?;
            if crate::state::Status::parse(&view.state).is_some_and(crate::state::Status::is_over) {
                return Ok(view);
            }
            if self.shared.halt.is_cancelled() || !watch.changed(Some(run)).await {
                self.shared.store.writable()?;
                return Err(RuntimeError::ShuttingDown);
            }
        }
    }

    /// Does an operation once, whoever asks for it and however often: later callers get the recorded
    /// answer, also while the first is under way and after a restart (SCOPE R11).
    ///
    /// Failures are recorded only if the same request is sure to fail again; after any other one the
    /// key is free. If the future is dropped, or the process ends, while an [`Effect::Once`](steadfast_guard::Effect::Once) operation
    /// is under way, its outcome is unknown and it is never done again under this key; an
    /// [`Effect::Idempotent`](steadfast_guard::Effect::Idempotent) one is.
    ///
    /// # Errors
    /// See [`OnceError`].
    pub async fn once<F, E>(
        &self,
        operation: Operation,
        call: impl FnOnce() -> F + Send,
    ) -> Result<Once, OnceError<E>>
    where
        F: Future<Output = Result<Bytes, E>> + Send,
        E: Classify + std::error::Error,
    {
        operations::once(&self.shared.operations, operation, call).await
    }

    /// The facts of a scope, read and written at once, beside any run (SCOPE C13).
    #[must_use]
    pub fn facts(&self, scope: FactScope) -> FactBook {
        FactBook::new(Arc::clone(&self.shared.store), scope)
    }

    /// Where calls of models are paid for.
    #[must_use]
    pub fn cashier(&self) -> &Arc<Cashier> {
        &self.shared.cashier
    }

    /// The access keys: who is let in, and how they are managed.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.shared.keys
    }

    /// Hands calls of models on as bytes, under the same guards and into the same books.
    #[must_use]
    pub fn relay(&self) -> &Relay {
        &self.shared.relay
    }

    /// What the runtime can run and use.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Whether the runtime accepts runs.
    ///
    /// # Errors
    /// It drains, its store takes no writes until it is opened again, or its store has been away for so
    /// long that the node's lease is gone; then it is ready again by itself once the store is back.
    pub fn ready(&self) -> Result<(), RuntimeError> {
        if self.shared.drain.is_cancelled() {
            return Err(RuntimeError::ShuttingDown);
        }
        self.shared.store.writable()?;
        if self.shared.leased.load(Ordering::Relaxed) {
            return Ok(());
        }
        let problem =
            "this node could not renew its lease and executes nothing until it can".to_owned();
        Err(StoreError::Unavailable { place: self.shared.store.describe(), problem }.into())
    }

    /// Waits until the runtime begins to drain. Cancel-safe.
    pub async fn draining(&self) {
        self.shared.drain.cancelled().await;
    }

    /// Begins to drain: nothing new is accepted or begun.
    pub fn drain(&self) {
        self.shared.drain.cancel();
        self.shared.doorbell.notify_one();
    }

    /// Drains, waits for steps under way up to the limit, drops what is left, gives the runs back and
    /// closes the store. Nothing acknowledged is lost; the next node goes on. `true` if every step
    /// ended by itself.
    ///
    /// # Errors
    /// The store failed while runs were given back or while it was closed.
    pub async fn shutdown(&self) -> Result<bool, RuntimeError> {
        self.drain();
        let task = self.scheduler.lock().take();
        let Some(mut task) = task else { return Ok(true) };
        let limit = self.shared.options.drain_timeout;
        let end = Instant::now() + limit;
        let graceful = tokio::time::timeout(limit, &mut task).await;
        let (joined, graceful) = match graceful {
            Ok(joined) => (joined, true),
            Err(_) => {
                self.shared.halt.cancel();
                (task.await, false)
            }
        };
        self.shared.halt.cancel();
        if let Ok(result) = joined {
            result?;
        }
        let graceful = self.shared.relay.close(end).await && graceful;
        self.shared.cashier.close().await;
        self.shared.store.close().await?;
        Ok(graceful)
    }

    /// Drops everything at once, as a crash of the process would: nothing is given back and nothing is
    /// written. For programs that embed the runtime and must leave now; the next node goes on once
    /// this one's lease has expired.
    pub fn abandon(&self) {
        self.shared.halt.cancel();
        self.shared.cashier.abandon();
        self.shared.relay.abandon();
        if let Some(task) = self.scheduler.lock().take() {
            task.abort();
        }
    }
}
