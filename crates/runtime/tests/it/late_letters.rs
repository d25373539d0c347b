//! A wish that comes while the last step of a run is being written: it is too late for that execution, and nothing
//! is damaged by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use steadfast_guard::ErrorClass;
use steadfast_providers::model::Model;
use steadfast_runtime::{
    AgentSpec, Catalog, PauseRun, Pausing, RunView, Runtime, RuntimeOptions, SubmitRun,
};
use steadfast_store::{MemoryStore, Store};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::crash_store::{CrashStore, Dies};
use crate::world::{Says, ScriptedModel};

/// Counts what is logged as an error.
struct Errors(Arc<AtomicUsize>);

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A run is asked to pause while an event of this kind is being written. What it has come to, and how many
/// errors were logged.
async fn paused_amid(kind: &'static str, says: Says, state: &str) -> (RunView, usize) {
    let errors = Arc::new(AtomicUsize::new(0));
    let _logged = tracing::subscriber::set_default(Errors(Arc::clone(&errors)));
    let store = CrashStore::at_event(&Arc::new(MemoryStore::new()), kind, Dies::Waits);
    let model = ScriptedModel::new(vec![says]) as Arc<dyn Model>;
    let builder = Catalog::builder().model("m", model, true).agent("worker", AgentSpec::new("m"));
    let catalog = builder.build().expect("fits together");
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    let options = RuntimeOptions::default();
    let runtime = Runtime::start(shared, catalog, options).await.expect("starts");
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    store.dead.notified().await;
    let wish = PauseRun { run, by: "ada".to_owned(), reason: None, now: false };
    assert_eq!(runtime.pause(wish).await.expect("is asked"), Pausing::Asked);
    store.go_on.notify_one();
    let mut watch = runtime.watch();
    while runtime.run(run).await.expect("there").state != state {
        assert!(watch.changed(Some(run)).await, "the runtime lives");
    }
    let view = runtime.run(run).await.expect("there");
    // Whoever executed it has come to an end by then.
    runtime.shutdown().await.expect("drains");
    (view, errors.load(Ordering::SeqCst))
}

#[tokio::test(start_paused = true)]
async fn c11_a_pause_that_comes_with_the_end_of_a_run_is_too_late_and_no_damage() {
    let (view, errors) = paused_amid("succeeded", Says::Text("done"), "succeeded").await;
    assert_eq!((view.state.as_str(), errors), ("succeeded", 0), "{view:?}");
    let refused = Says::Fails(ErrorClass::Authentication, None);
    let (view, errors) = paused_amid("failed", refused, "failed").await;
    assert_eq!((view.state.as_str(), errors), ("failed", 0), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn c11_a_pause_that_comes_as_a_run_is_put_aside_pauses_it() {
    let quiet = Says::Fails(ErrorClass::RateLimited, Some(Duration::from_secs(3_600)));
    let (view, errors) = paused_amid("parked", quiet, "paused").await;
    assert_eq!((view.state.as_str(), errors), ("paused", 0), "{view:?}");
}
