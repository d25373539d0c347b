//! Runs of old code that go on with new code, and what the code is remembered to have asked for (SCOPE C3).

use std::sync::Arc;

use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::{CancelRun, Catalog, CatalogBuilder, RunEvent, Runtime};
use steadfast_store::{Journal as _, MemoryStore, RunId, Timestamp};

use crate::outside::{Outside, reaches, say, start_code, submit};

/// Steps of these names, each with what undoes it, then a wait.
fn code(outside: &Outside, names: &'static [&'static str], fails: bool) -> CatalogBuilder {
    let outside = outside.clone();
    Catalog::builder().code("changed", move |run: RunContext| {
        let outside = outside.clone();
        async move {
            for name in names {
                let undoing = outside.clone();
                run.compensate(*name).by(move |call| {
                    let outside = undoing.clone();
                    async move { outside.call(&format!("undo {name}"), call).await.map(drop) }
                });
                let step = run.step(*name).idempotent();
                step.call(|call| {
                    let outside = outside.clone();
                    async move { outside.call(name, call).await }
                })
                .await?;
            }
            let said: String = run.wait_for("go").await?;
            if fails { Err(StepError::failed("no luck")) } else { Ok(said) }
        }
    })
}

async fn parked(store: &Arc<MemoryStore>, outside: &Outside) -> RunId {
    let builder = code(outside, &["reserve", "charge"], false);
    let runtime = start_code(Arc::<MemoryStore>::clone(store), builder).await;
    let run = submit(&runtime, "changed").await;
    reaches(&runtime, run, &["waiting"]).await;
    runtime.abandon();
    run
}

async fn unmet(runtime: &Runtime, run: RunId) -> Vec<String> {
    let events = runtime.events(run, 0, 100).await.expect("reads");
    let unmet = events.into_iter().filter_map(|view| match view.event {
        RunEvent::StepsUnmet { steps } => Some(steps),
        _ => None,
    });
    unmet.flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn c3_steps_that_new_code_never_comes_to_are_told_and_do_not_stop_it() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    let run = parked(&store, &outside).await;
    let builder = code(&outside, &["check", "reserve"], false);
    let runtime = start_code(store, builder).await;
    say(&runtime, run, "go", "1").await;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(view.ending.as_deref(), Some("\"yes\""));
    assert_eq!(unmet(&runtime, run).await, ["charge"]);
    assert_eq!(outside.applied(), ["reserve", "charge", "check"]);
}

#[tokio::test(start_paused = true)]
async fn c3_code_that_has_not_changed_has_nothing_to_tell() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    let run = parked(&store, &outside).await;
    let builder = code(&outside, &["reserve", "charge"], true);
    let runtime = start_code(store, builder).await;
    say(&runtime, run, "go", "1").await;
    let told = runtime.wait(run).await.expect("ends").ending;
    assert_eq!(told.as_deref(), Some("no luck; undo charge: done; undo reserve: done"));
    assert!(unmet(&runtime, run).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn c3_what_new_code_cannot_undo_because_it_never_comes_to_it_is_told() {
    for is_cancelled in [false, true] {
        let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
        let run = parked(&store, &outside).await;
        let builder = code(&outside, &["reserve"], true);
        let runtime = start_code(store, builder).await;
        if is_cancelled {
            let (by, reason) = ("ada".to_owned(), None);
            runtime.cancel(CancelRun { run, by, reason }).await.expect("cancels");
        } else {
            say(&runtime, run, "go", "1").await;
        }
        let told = runtime.wait(run).await.expect("ends").ending.expect("told");
        let expected = "undo reserve: done; the code never came to these steps of the log, and what \
                        undoes them was not said: charge";
        assert!(told.ends_with(expected), "{told}");
        assert_eq!(outside.applied(), ["reserve", "charge", "undo reserve"]);
    }
}

#[tokio::test(start_paused = true)]
async fn c3_a_result_that_does_not_fit_tells_what_is_stored_and_what_is_expected() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    let run = parked(&store, &outside).await;
    let builder = Catalog::builder().code("changed", |run: RunContext| async move {
        run.remember::<Vec<u32>>("reserve", Vec::new).await
    });
    let runtime = start_code(store, builder).await;
    say(&runtime, run, "go", "1").await;
    let told = runtime.wait(run).await.expect("ends").ending.expect("told");
    assert!(
        told.starts_with("step `reserve`: its result does not fit the code: stored is a string")
    );
    assert!(told.contains("expects a `alloc::vec::Vec<u32>`"), "{told}");
    assert!(!told.contains("reserve done"), "what is stored is not for everybody: {told}");
}

#[tokio::test(start_paused = true)]
async fn c3_times_numbers_and_ids_are_the_same_after_a_restart_and_a_checkpoint_is_taken_when_asked()
 {
    type Asked = (Timestamp, u64, String);
    let seen: Arc<parking_lot::Mutex<Vec<Asked>>> = Arc::default();
    let builder = || {
        let seen = Arc::clone(&seen);
        Catalog::builder().code("asks", move |run: RunContext| {
            let seen = Arc::clone(&seen);
            async move {
                let asked = (run.now("at").await?, run.random("n").await?, run.uuid("id").await?);
                seen.lock().push(asked);
                run.checkpoint().await;
                run.wait_for::<String>("go").await
            }
        })
    };
    let store = Arc::new(MemoryStore::new());
    let runtime = start_code(Arc::<MemoryStore>::clone(&store), builder()).await;
    let run = submit(&runtime, "asks").await;
    reaches(&runtime, run, &["waiting"]).await;
    let taken = store.checkpoints(run).await.expect("reads").len();
    assert_eq!(taken, 1, "asked for, and nothing else was due");
    runtime.abandon();
    let runtime = start_code(store, builder()).await;
    say(&runtime, run, "go", "1").await;
    runtime.wait(run).await.expect("ends");
    let seen = seen.lock();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].2.len(), 36);
}
