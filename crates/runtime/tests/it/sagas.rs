//! Every step of every saga broken: each node fails, each action and each compensation is repeated, and the
//! process dies between any two writes (SCOPE R12).

use std::sync::Arc;

use steadfast_guard::Effect;
use steadfast_runtime::code::{CodePolicy, RunContext, StepError};
use steadfast_runtime::{CancelRun, Catalog, CatalogBuilder, ResumeRun, Runtime, RuntimeError};
use steadfast_store::{MemoryStore, RunId, Store};

use crate::outside::{Outside, all, at_every_write, reaches, start_code, submit};

/// Steps `0`, `1`, ... each with what undoes it, then a wait for `go` if it is to wait.
fn saga(outside: &Outside, nodes: usize, waits: bool) -> CatalogBuilder {
    let outside = outside.clone();
    Catalog::builder().code("saga", move |run: RunContext| {
        let outside = outside.clone();
        async move {
            for node in 0..nodes {
                let undoing = outside.clone();
                run.compensate(node.to_string()).by(move |call| {
                    let outside = undoing.clone();
                    async move { outside.call(&format!("undo {node}"), call).await.map(drop) }
                });
                let step = run.step(node.to_string()).idempotent();
                step.call(|call| {
                    let outside = outside.clone();
                    async move { outside.call(&node.to_string(), call).await }
                })
                .await?;
            }
            if waits {
                run.wait_for::<String>("go").await?;
            }
            Ok::<_, StepError>("done")
        }
    })
}

/// What the world outside has done in the end, in order, if this node fails.
fn expected(nodes: usize, fails: Option<usize>) -> Vec<String> {
    let done = fails.unwrap_or(nodes);
    let undone = fails.map_or(0, |node| node + 1);
    let forward = (0..done).map(|node| node.to_string());
    forward.chain((0..undone).rev().map(|node| format!("undo {node}"))).collect()
}

fn every_saga() -> impl Iterator<Item = (usize, Option<usize>)> {
    (1..=3)
        .flat_map(|nodes| (0..=nodes).map(move |node| (nodes, Some(node).filter(|n| *n < nodes))))
}

fn refusing(fails: Option<usize>) -> Outside {
    let outside = Outside::default();
    if let Some(node) = fails {
        outside.refuse(&node.to_string());
    }
    outside
}

#[tokio::test(start_paused = true)]
async fn r12_each_node_fails_and_each_action_and_compensation_is_repeated() {
    let mut repeated = 0;
    for (nodes, fails) in every_saga() {
        let expected = expected(nodes, fails);
        let calls = expected.len() + usize::from(fails.is_some());
        for call in 0..calls {
            let (store, outside) = (Arc::new(MemoryStore::new()), refusing(fails));
            outside.fall_silent_at(call);
            let first: Arc<dyn Store> = Arc::<MemoryStore>::clone(&store);
            let runtime = start_code(first, saga(&outside, nodes, false)).await;
            let run = submit(&runtime, "saga").await;
            // a refusal is no action: nothing falls silent there
            tokio::select! {
                () = outside.silence() => repeated += 1,
                _ = runtime.wait(run) => {}
            }
            runtime.abandon();
            let runtime = start_code(store, saga(&outside, nodes, false)).await;
            let view = runtime.wait(run).await.expect("ends");
            let place = format!("{nodes} nodes, {fails:?} fails, call {call} is repeated");
            assert_eq!(outside.applied(), expected, "{place}");
            assert_eq!(view.state == "failed", fails.is_some(), "{place}: {view:?}");
            runtime.abandon();
        }
    }
    // all calls but the refused ones: 1+2+3 forward, and what each failing node leaves
    assert_eq!(repeated, 6 + (1) + (1 + 3) + (1 + 3 + 5));
}

#[tokio::test(start_paused = true)]
async fn r12_a_saga_dies_between_any_two_writes_and_is_done_or_undone() {
    for (nodes, fails) in every_saga() {
        let build = |outside: &Outside| {
            if let Some(node) = fails {
                outside.refuse(&node.to_string());
            }
            saga(outside, nodes, false)
        };
        let act = async |runtime: &Runtime| {
            let run = submit(runtime, "saga").await;
            runtime.wait(run).await.expect("ends");
        };
        let check = async |runtime: &Runtime, outside: &Outside, place: &str| {
            assert_eq!(outside.applied(), expected(nodes, fails), "{nodes} {fails:?} {place}");
            assert_eq!(all(runtime).await.len(), 1, "{place}");
        };
        let writes = at_every_write(build, act, check).await;
        assert!(
            writes >= 2 + 2 * nodes.min(fails.map_or(nodes, |n| n + 1)),
            "only {writes} writes"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn r12_each_compensation_fails_the_others_are_done_and_resuming_tries_it_again() {
    for nodes in 1..=3 {
        for fails in 0..nodes {
            let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
            let runtime = start_code(store, saga(&outside, nodes, true)).await;
            let run = submit(&runtime, "saga").await;
            reaches(&runtime, run, &["waiting"]).await;
            let lost = format!("undo {fails}");
            outside.refuse(&lost);
            cancel(&runtime, run).await.expect("cancels");
            let view = runtime.wait(run).await.expect("ends");
            assert_eq!(view.state, "failed");
            let told = view.ending.expect("told");
            assert!(told.contains(&format!("{lost}: FAILED: refused")), "{told}");
            let undone = |but: Option<&str>| {
                let names = (0..nodes).rev().map(|node| format!("undo {node}"));
                names.filter(|name| Some(name.as_str()) != but).collect::<Vec<_>>()
            };
            assert_eq!(outside.applied()[nodes..], undone(Some(&lost)));
            outside.refuse_nothing();
            runtime.resume(ResumeRun { run, by: "ada".to_owned() }).await.expect("resumes");
            let view = runtime.wait(run).await.expect("ends");
            assert_eq!(view.state, "cancelled", "{view:?}");
            let calls = outside.calls();
            assert_eq!(calls, nodes + nodes + 1, "only what failed is tried again");
            assert_eq!(outside.applied().last(), Some(&lost));
        }
    }
}

async fn cancel(runtime: &Runtime, run: RunId) -> Result<(), RuntimeError> {
    let (by, reason) = ("ada".to_owned(), Some("not wanted".to_owned()));
    runtime.cancel(CancelRun { run, by, reason }).await
}

#[tokio::test(start_paused = true)]
async fn r12_a_cancelled_saga_is_undone_whenever_the_process_dies() {
    let build = |outside: &Outside| saga(outside, 2, true);
    let act = async |runtime: &Runtime| {
        let run = submit(runtime, "saga").await;
        let view = reaches(runtime, run, &["waiting", "cancelled"]).await;
        if view.state == "waiting" {
            cancel(runtime, run).await.expect("cancels");
        }
        runtime.wait(run).await.expect("ends");
    };
    let check = async |runtime: &Runtime, outside: &Outside, place: &str| {
        assert_eq!(outside.applied(), ["0", "1", "undo 1", "undo 0"], "{place}");
        let view = all(runtime).await.remove(0);
        assert_eq!(view.state, "cancelled", "{place}: {view:?}");
        let told = view.ending.expect("told");
        assert_eq!(told, "cancelled by ada: not wanted; undo 1: done; undo 0: done", "{place}");
    };
    let writes = at_every_write(build, act, check).await;
    assert!(writes >= 14, "only {writes} writes");
}

#[tokio::test(start_paused = true)]
async fn r12_a_saga_cancelled_in_the_middle_of_a_step_begins_no_other_and_undoes_that_one_too() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    outside.fall_silent_at(1);
    let runtime = start_code(store, saga(&outside, 3, false)).await;
    let run = submit(&runtime, "saga").await;
    outside.silence().await;
    cancel(&runtime, run).await.expect("cancels");
    cancel(&runtime, run).await.expect("is cancelled already");
    assert_eq!(runtime.wait(run).await.expect("ends").state, "cancelled");
    assert_eq!(outside.applied(), ["0", "1", "undo 1", "undo 0"]);
    assert!(matches!(cancel(&runtime, run).await, Err(RuntimeError::WrongState { .. })));
}

#[tokio::test(start_paused = true)]
async fn r12_by_policy_a_cancelled_saga_is_left_as_it_is() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    let policy = CodePolicy { compensate_on_cancel: false, ..CodePolicy::default() };
    let runtime = start_code(store, saga(&outside, 2, true).code_policy("saga", policy)).await;
    let run = submit(&runtime, "saga").await;
    reaches(&runtime, run, &["waiting"]).await;
    cancel(&runtime, run).await.expect("cancels");
    assert_eq!(runtime.wait(run).await.expect("ends").state, "cancelled");
    assert_eq!(outside.applied(), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn r12_a_guarded_compensation_is_retried_by_its_dependencys_policy() {
    #[derive(Debug, thiserror::Error)]
    #[error("busy")]
    struct Busy;
    impl steadfast_guard::Classify for Busy {
        fn class(&self) -> steadfast_guard::ErrorClass {
            steadfast_guard::ErrorClass::Unavailable
        }
    }
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    let world = outside.clone();
    let builder =
        Catalog::builder().dependency("tool:payments").code("pay", move |run: RunContext| {
            let outside = world.clone();
            async move {
                run.compensate("pay").guarded("tool:payments").by(move |call| {
                    let outside = outside.clone();
                    async move {
                        if call.attempt < 3 {
                            return Err(Busy);
                        }
                        outside.call("undo pay", call).await.map(drop).map_err(|_| Busy)
                    }
                });
                Err::<(), _>(StepError::failed("no luck"))
            }
        });
    let runtime = start_code(store, builder).await;
    let run = submit(&runtime, "pay").await;
    let told = runtime.wait(run).await.expect("ends").ending;
    assert_eq!(told.as_deref(), Some("no luck; undo pay: done"));
    assert_eq!(outside.applied(), ["undo pay"]);
    let fold = runtime.fold(run).await.expect("folds");
    assert!(fold.steps.by_name["undo pay"].undoes);
    let events = runtime.events(run, 0, 100).await.expect("reads");
    let ahead = events.iter().any(|view| {
        matches!(&view.event, steadfast_runtime::RunEvent::StepStarted { effect, .. }
            if *effect == Effect::Idempotent)
    });
    assert!(ahead, "written ahead, with a key");
}
