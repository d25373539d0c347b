//! A world outside that keeps its promise: under one key it does a thing once. It can refuse, and it can fall
//! silent after it has done something.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_guard::{Classify, ErrorClass};
use steadfast_runtime::code::StepCall;
use steadfast_runtime::{
    CatalogBuilder, RunView, Runtime, RuntimeError, RuntimeOptions, SignalRun, SubmitRun,
};
use steadfast_store::{MemoryStore, RunFilter, RunId, Store};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::crash_store::{CrashStore, Dies};

#[derive(Clone, Default)]
pub(crate) struct Outside(Arc<Inner>);

#[derive(Default)]
struct Inner {
    keys: Mutex<BTreeSet<String>>,
    applied: Mutex<Vec<String>>,
    calls: Mutex<usize>,
    refuses: Mutex<BTreeSet<String>>,
    silent_at: Mutex<Option<usize>>,
    silent: Notify,
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
pub(crate) struct Refused;

impl Classify for Refused {
    fn class(&self) -> ErrorClass {
        ErrorClass::InvalidRequest
    }
}

impl Outside {
    /// Does something, once under each key.
    pub(crate) async fn call(&self, name: &str, call: StepCall) -> Result<String, Refused> {
        let number = {
            let mut calls = self.0.calls.lock();
            *calls += 1;
            *calls - 1
        };
        if self.0.refuses.lock().contains(name) {
            return Err(Refused);
        }
        if self.0.keys.lock().insert(call.key) {
            self.0.applied.lock().push(name.to_owned());
        }
        if *self.0.silent_at.lock() == Some(number) {
            self.0.silent.notify_one();
            pending::<()>().await;
        }
        Ok(format!("{name} done"))
    }

    pub(crate) fn refuse(&self, name: &str) {
        self.0.refuses.lock().insert(name.to_owned());
    }

    pub(crate) fn refuse_nothing(&self) {
        self.0.refuses.lock().clear();
    }

    /// It does what the call of this number asks for, and never says so.
    pub(crate) fn fall_silent_at(&self, call: usize) {
        *self.0.silent_at.lock() = Some(call);
    }

    pub(crate) async fn silence(&self) {
        self.0.silent.notified().await;
    }

    /// What it has done, in order.
    pub(crate) fn applied(&self) -> Vec<String> {
        self.0.applied.lock().clone()
    }

    pub(crate) fn calls(&self) -> usize {
        *self.0.calls.lock()
    }
}

pub(crate) async fn start_code(store: Arc<dyn Store>, builder: CatalogBuilder) -> Runtime {
    let catalog = builder.build().expect("fits together");
    Runtime::start(store, catalog, RuntimeOptions::default()).await.expect("starts")
}

pub(crate) async fn submit(runtime: &Runtime, name: &str) -> RunId {
    let order = SubmitRun { key: Some("k".to_owned()), ..SubmitRun::new(name, "null") };
    runtime.submit(order).await.expect("accepted").run.id
}

/// Says something; a run that is over hears nothing any more.
pub(crate) async fn say(runtime: &Runtime, run: RunId, name: &str, id: &str) {
    let (name, id, by) = (name.to_owned(), Some(id.to_owned()), "test".to_owned());
    let said = runtime.signal(SignalRun { run, name, payload: "yes".into(), by, id }).await;
    assert!(matches!(said, Ok(_) | Err(RuntimeError::WrongState { .. })), "{said:?}");
}

/// Lets paused time pass until the run is in one of these states.
pub(crate) async fn reaches(runtime: &Runtime, run: RunId, states: &[&str]) -> RunView {
    loop {
        let view = runtime.run(run).await.expect("there");
        if states.contains(&view.state.as_str()) {
            return view;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn all(runtime: &Runtime) -> Vec<RunView> {
    runtime.list(RunFilter { limit: 500, ..RunFilter::default() }).await.expect("lists").runs
}

/// A process dies at every write, before and after it is on disk, and another one takes over; then `check`
/// looks. What is done from outside (`act`) is done by both. Gives the number of writes.
pub(crate) async fn at_every_write(
    builder: impl Fn(&Outside) -> CatalogBuilder,
    act: impl AsyncFn(&Runtime),
    check: impl AsyncFn(&Runtime, &Outside, &str),
) -> usize {
    for write in 0.. {
        for dies in [Dies::Before, Dies::After] {
            let (memory, outside) = (Arc::new(MemoryStore::new()), Outside::default());
            let store = CrashStore::new(&memory, write, dies);
            let first: Arc<dyn Store> = Arc::<CrashStore>::clone(&store);
            let runtime = start_code(first, builder(&outside)).await;
            tokio::select! {
                () = store.dead.notified() => {}
                () = act(&runtime) => {}
            }
            runtime.abandon();
            let is_dead = store.is_dead();
            let runtime = start_code(memory, builder(&outside)).await;
            act(&runtime).await;
            check(&runtime, &outside, &format!("died {dies:?} write {write}")).await;
            runtime.abandon();
            if !is_dead {
                return write;
            }
        }
    }
    0
}
