//! Steps whose dependency asks to be left alone for longer than its policy waits (SCOPE C6, R8).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_guard::{Classify, Effect, ErrorClass};
use steadfast_runtime::code::{RunContext, StepCall};
use steadfast_runtime::event::WaitReason;
use steadfast_runtime::{Catalog, CatalogBuilder, RunEvent};
use steadfast_store::{Catalog as _, MemoryStore};
use tokio::time::Instant;

use crate::outside::{reaches, start_code, submit};

/// Refused, and told to come back in an hour.
#[derive(Debug, thiserror::Error)]
#[error("too many requests")]
struct ComeBack;

impl Classify for ComeBack {
    fn class(&self) -> ErrorClass {
        ErrorClass::RateLimited
    }

    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(3600))
    }
}

/// A step whose dependency asks twice for an hour of quiet before it does what it is asked.
fn asks_for_quiet(keys: &Arc<Mutex<Vec<String>>>, effect: Effect) -> CatalogBuilder {
    let keys = Arc::clone(keys);
    Catalog::builder().dependency("tool:payments").code("pay", move |run: RunContext| {
        let keys = Arc::clone(&keys);
        async move {
            let step = run.step("pay").guarded("tool:payments");
            let step = if effect == Effect::Once { step } else { step.idempotent() };
            step.call(|call: StepCall| {
                keys.lock().push(call.key);
                let tries = keys.lock().len();
                async move { if tries <= 2 { Err(ComeBack) } else { Ok(tries) } }
            })
            .await
        }
    })
}

#[tokio::test(start_paused = true)]
async fn c6_a_step_whose_dependency_asks_for_quiet_parks_the_run_and_is_tried_again_after_it() {
    let (store, keys) = (Arc::new(MemoryStore::new()), Arc::default());
    let began = Instant::now();
    let runtime =
        start_code(Arc::clone(&store) as _, asks_for_quiet(&keys, Effect::Idempotent)).await;
    let run = submit(&runtime, "pay").await;
    reaches(&runtime, run, &["waiting"]).await;
    let head = store.head(run).await.expect("reads").expect("there");
    assert!(head.owner.is_none(), "nobody holds it: {head:?}");
    let events = runtime.events(run, 0, 100).await.expect("reads");
    let parked = |event: &RunEvent| match event {
        RunEvent::Parked { reason: WaitReason::Cooldown, detail, .. } => {
            detail.contains("step `pay`") && detail.contains("too many requests")
        }
        _ => false,
    };
    assert!(events.iter().any(|view| parked(&view.event)), "{events:?}");
    // Another process, whose guard knows nothing of the quiet: the run itself does.
    runtime.abandon();
    let runtime =
        start_code(Arc::clone(&store) as _, asks_for_quiet(&keys, Effect::Idempotent)).await;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!((view.state.as_str(), view.ending.as_deref()), ("succeeded", Some("3")));
    assert!(began.elapsed() >= Duration::from_secs(7200), "{:?}", began.elapsed());
    let keys = keys.lock().clone();
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn c6_a_step_that_is_done_once_fails_when_its_dependency_asks_for_quiet() {
    let (store, keys) = (Arc::new(MemoryStore::new()), Arc::default());
    let runtime = start_code(store, asks_for_quiet(&keys, Effect::Once)).await;
    let run = submit(&runtime, "pay").await;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!((view.state.as_str(), view.stop.as_deref()), ("failed", Some("rate_limited")));
    assert_eq!(keys.lock().len(), 1);
}
