//! Runs that are code: remembered steps, waits, branches, and what undoes them.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use steadfast_guard::{Classify, ErrorClass};
use steadfast_runtime::code::{RunContext, StepCall, StepError};
use steadfast_runtime::{
    Catalog, CatalogBuilder, ResumeRun, RunEvent, RunView, Runtime, RuntimeOptions, SubmitRun,
};
use steadfast_store::{MemoryStore, RunId, Store};
use tokio::time::{Instant, sleep};

/// What the world outside has seen: each call with its key.
#[derive(Clone, Default)]
struct World {
    calls: Arc<Mutex<Vec<(String, String)>>>,
    /// Calls of this name fail, or never end.
    fails: Arc<Mutex<Option<String>>>,
    hangs: Arc<Mutex<Option<String>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

impl Classify for Refused {
    fn class(&self) -> ErrorClass {
        ErrorClass::InvalidRequest
    }
}

impl World {
    async fn call(&self, name: &str, call: StepCall) -> Result<String, Refused> {
        self.calls.lock().push((name.to_owned(), call.key));
        let is = |which: &Mutex<Option<String>>| which.lock().as_deref() == Some(name);
        if is(&self.hangs) {
            pending::<()>().await;
        }
        if is(&self.fails) {
            return Err(Refused);
        }
        Ok(format!("{name} done"))
    }

    fn set(which: &Mutex<Option<String>>, name: &str) {
        *which.lock() = Some(name.to_owned());
    }

    fn clear(&self) {
        *self.fails.lock() = None;
        *self.hangs.lock() = None;
    }

    fn names(&self) -> Vec<String> {
        self.calls.lock().iter().map(|(name, _)| name.clone()).collect()
    }

    fn keys(&self, name: &str) -> Vec<String> {
        let calls = self.calls.lock();
        calls.iter().filter(|(called, _)| called == name).map(|(_, key)| key.clone()).collect()
    }
}

async fn start(store: &Arc<MemoryStore>, builder: CatalogBuilder) -> Runtime {
    let catalog = builder.build().expect("fits together");
    let store = Arc::clone(store) as Arc<dyn Store>;
    Runtime::start(store, catalog, RuntimeOptions::default()).await.expect("starts")
}

async fn submit(runtime: &Runtime, name: &str) -> RunId {
    runtime.submit(SubmitRun::new(name, "null")).await.expect("accepted").run.id
}

async fn ended(runtime: &Runtime, run: RunId) -> RunView {
    runtime.wait(run).await.expect("ends")
}

async fn resume(runtime: &Runtime, run: RunId) -> RunView {
    let by = "ada".to_owned();
    runtime.resume(ResumeRun { run, by }).await.expect("resumes");
    ended(runtime, run).await
}

/// Lets paused time pass until something holds.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Three steps, each named after what it does outside.
fn three(world: &World) -> CatalogBuilder {
    let world = world.clone();
    Catalog::builder().code("three", move |run: RunContext| {
        let world = world.clone();
        async move {
            let look = run.step("look").read().call(|call| world.call("look", call)).await?;
            let set = run.step("set").idempotent().call(|call| world.call("set", call)).await?;
            let send = run.step("send").call(|call| world.call("send", call)).await?;
            Ok(vec![look, set, send])
        }
    })
}

#[tokio::test(start_paused = true)]
async fn c1_after_a_crash_what_is_done_is_remembered_and_what_was_under_way_goes_by_its_effect() {
    for (hangs, expected) in [
        ("look", vec!["look", "look", "set", "send"]),
        ("set", vec!["look", "set", "set", "send"]),
        ("send", vec!["look", "set", "send"]),
    ] {
        let (world, store) = (World::default(), Arc::new(MemoryStore::new()));
        World::set(&world.hangs, hangs);
        let runtime = start(&store, three(&world)).await;
        let run = submit(&runtime, "three").await;
        until(|| world.names().iter().any(|name| name == hangs)).await;
        runtime.abandon();
        world.clear();
        let runtime = start(&store, three(&world)).await;
        let view = ended(&runtime, run).await;
        assert_eq!(world.names(), expected, "interrupted in `{hangs}`");
        let keys = world.keys(hangs);
        assert!(keys.iter().all(|key| *key == keys[0]), "one key: {keys:?}");
        if hangs == "send" {
            assert_eq!(view.stop.as_deref(), Some("outcome_unknown"));
            assert!(view.ending.expect("told").contains("step `send`"));
            let view = resume(&runtime, run).await;
            assert_eq!((view.state.as_str(), world.keys("send").len()), ("succeeded", 2));
        } else {
            let told = r#"["look done","set done","send done"]"#;
            assert_eq!(view.ending.as_deref(), Some(told));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c2_a_step_that_failed_is_tried_again_when_the_run_is_resumed_and_no_other() {
    let (world, store) = (World::default(), Arc::new(MemoryStore::new()));
    World::set(&world.fails, "send");
    let runtime = start(&store, three(&world)).await;
    let run = submit(&runtime, "three").await;
    let view = ended(&runtime, run).await;
    assert_eq!(view.stop.as_deref(), Some("invalid_request"));
    assert_eq!(view.ending.as_deref(), Some("step `send`: refused"));
    world.clear();
    let view = resume(&runtime, run).await;
    assert_eq!(view.state, "succeeded");
    assert_eq!(world.names(), ["look", "set", "send", "send"]);
}

#[tokio::test(start_paused = true)]
async fn c6_a_wait_of_days_holds_nothing_and_ends_at_its_time_over_restarts() {
    let store = Arc::new(MemoryStore::new());
    let days = Duration::from_secs(3 * 24 * 3600);
    let waiting = || {
        Catalog::builder().code("waiting", move |run: RunContext| async move {
            run.sleep("cool off", days).await?;
            run.sleep("and again", Duration::from_secs(60)).await?;
            Ok("rested")
        })
    };
    let runtime = start(&store, waiting()).await;
    let (run, began) = (submit(&runtime, "waiting").await, Instant::now());
    let state = async |runtime: &Runtime| runtime.run(run).await.expect("there").state;
    while state(&runtime).await != "waiting" {
        tokio::task::yield_now().await;
    }
    runtime.abandon();
    let runtime = start(&store, waiting()).await;
    let view = ended(&runtime, run).await;
    assert_eq!(view.ending.as_deref(), Some("\"rested\""));
    assert!(began.elapsed() >= days + Duration::from_secs(60));
    assert_eq!(view.epoch, 3, "put aside twice");
}

#[tokio::test(start_paused = true)]
async fn c5_branches_run_side_by_side_up_to_the_limit_and_are_remembered_each() {
    let (store, most) = (Arc::new(MemoryStore::new()), Arc::new(AtomicUsize::new(0)));
    let (world, out) = (World::default(), Arc::new(AtomicUsize::new(0)));
    let code = |world: &World, most: &Arc<AtomicUsize>, out: &Arc<AtomicUsize>| {
        let (world, most, out) = (world.clone(), Arc::clone(most), Arc::clone(out));
        Catalog::builder().code("many", move |run: RunContext| {
            let (world, most, out) = (world.clone(), Arc::clone(&most), Arc::clone(&out));
            async move {
                let (world, most, out) = (&world, &most, &out);
                let square = |n: u64, call: StepCall| async move {
                    most.fetch_max(out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    sleep(Duration::from_secs(100 - n)).await;
                    out.fetch_sub(1, Ordering::SeqCst);
                    world.call(&format!("square {n}"), call).await.map(|_| n * n)
                };
                let step = run.step("square").idempotent().within(Duration::from_secs(1000));
                step.each(0..20, 4, square).await
            }
        })
    };
    World::set(&world.hangs, "square 13");
    let runtime = start(&store, code(&world, &most, &out)).await;
    let run = submit(&runtime, "many").await;
    until(|| world.names().len() >= 14).await;
    runtime.abandon();
    world.clear();
    out.store(0, Ordering::SeqCst);
    let done = world.names().len();
    let runtime = start(&store, code(&world, &most, &out)).await;
    let view = ended(&runtime, run).await;
    let squares: Vec<u64> = (0..20).map(|n| n * n).collect();
    assert_eq!(view.ending, Some(serde_json::to_string(&squares).expect("JSON")));
    assert_eq!(most.load(Ordering::SeqCst), 4);
    assert!(world.names().len() - done <= 20 - done + 4, "only what was under way is repeated");
}

/// An order of which every step can be undone.
fn order(world: &World) -> CatalogBuilder {
    let world = world.clone();
    Catalog::builder().code("order", move |run: RunContext| {
        let world = world.clone();
        async move {
            for name in ["reserve", "charge", "ship"] {
                let undoing = world.clone();
                run.compensate(name).by(move |call| {
                    let world = undoing.clone();
                    async move { world.call(&format!("undo {name}"), call).await.map(drop) }
                });
                run.step(name).idempotent().call(|call| world.call(name, call)).await?;
            }
            Ok("ordered")
        }
    })
}

/// Which of the things that an order does are done in the end.
fn left(world: &World) -> Vec<&'static str> {
    let names = world.names();
    let last = |name: &str| names.iter().rposition(|called| called == name);
    let is_done = |name: &&str| last(name).is_some() && last(name) > last(&format!("undo {name}"));
    ["reserve", "charge", "ship"].into_iter().filter(is_done).collect()
}

#[tokio::test(start_paused = true)]
async fn r12_whichever_step_fails_everything_is_undone_backwards_and_a_resumed_order_starts_over() {
    for (fails, undone) in [
        ("reserve", vec!["undo reserve"]),
        ("charge", vec!["undo charge", "undo reserve"]),
        ("ship", vec!["undo ship", "undo charge", "undo reserve"]),
    ] {
        let (world, store) = (World::default(), Arc::new(MemoryStore::new()));
        World::set(&world.fails, fails);
        let runtime = start(&store, order(&world)).await;
        let run = submit(&runtime, "order").await;
        let view = ended(&runtime, run).await;
        assert_eq!(view.state, "failed");
        let names = world.names();
        assert_eq!(names[names.len() - undone.len()..], undone);
        let told = view.ending.expect("told");
        assert!(told.starts_with(&format!("step `{fails}`: refused; undo")), "{told}");
        world.clear();
        let view = resume(&runtime, run).await;
        assert_eq!(view.state, "succeeded");
        assert_eq!(left(&world), ["reserve", "charge", "ship"]);
        assert_ne!(
            world.keys("reserve")[0],
            world.keys("reserve")[1],
            "another round, another key"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn r12_a_crash_in_any_step_or_undoing_leaves_all_or_nothing() {
    let places = ["reserve", "charge", "ship", "undo ship", "undo charge", "undo reserve"];
    for hangs in places {
        for fails in ["", "ship"] {
            let (world, store) = (World::default(), Arc::new(MemoryStore::new()));
            World::set(&world.fails, fails);
            World::set(&world.hangs, hangs);
            let runtime = start(&store, order(&world)).await;
            let run = submit(&runtime, "order").await;
            let is_reached = fails == "ship" || !hangs.starts_with("undo");
            if is_reached {
                until(|| world.names().iter().any(|name| name == hangs)).await;
                runtime.abandon();
            } else {
                ended(&runtime, run).await;
            }
            *world.hangs.lock() = None;
            let runtime = start(&store, order(&world)).await;
            let view = ended(&runtime, run).await;
            let expected: &[&str] =
                if fails == "ship" { &[] } else { &["reserve", "charge", "ship"] };
            assert_eq!(left(&world), expected, "crash in `{hangs}`, `{fails}` fails");
            assert_eq!(view.state, if fails.is_empty() { "succeeded" } else { "failed" });
            for name in places {
                let keys = world.keys(name);
                assert!(keys.iter().all(|key| *key == keys[0]), "one key for `{name}`: {keys:?}");
                assert!(keys.len() <= 1 + usize::from(name == hangs), "`{name}`: {keys:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r12_an_undoing_that_fails_does_not_stop_the_others_and_is_what_a_resumed_run_does() {
    let (world, store) = (World::default(), Arc::new(MemoryStore::new()));
    let builder = {
        let world = world.clone();
        Catalog::builder().code("order", move |run: RunContext| {
            let world = world.clone();
            async move {
                for name in ["a", "b"] {
                    let undoing = world.clone();
                    run.step(name).idempotent().call(|call| world.call(name, call)).await?;
                    run.compensate(name).by(move |call| {
                        let world = undoing.clone();
                        async move { world.call(&format!("undo {name}"), call).await.map(drop) }
                    });
                }
                Err::<(), _>(StepError::failed("no luck"))
            }
        })
    };
    World::set(&world.fails, "undo b");
    let runtime = start(&store, builder).await;
    let run = submit(&runtime, "order").await;
    let told = ended(&runtime, run).await.ending.expect("told");
    assert_eq!(told, "no luck; undo b: FAILED: refused; undo a: done");
    world.clear();
    let view = resume(&runtime, run).await;
    assert_eq!(view.ending.as_deref(), Some("no luck; undo b: done; undo a: done"));
    assert_eq!(world.names(), ["a", "b", "undo b", "undo a", "undo b"]);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    number: u64,
}

#[tokio::test(start_paused = true)]
async fn c3_changed_code_goes_on_with_a_run_of_the_old_or_says_which_step_no_longer_fits() {
    let (world, store) = (World::default(), Arc::new(MemoryStore::new()));
    World::set(&world.fails, "send");
    let runtime = start(&store, three(&world)).await;
    let run = submit(&runtime, "three").await;
    ended(&runtime, run).await;
    runtime.abandon();
    world.clear();
    // a new step first, `look` gone, and `set` read as something else
    let changed = |world: &World, is_typed: bool| {
        let world = world.clone();
        Catalog::builder().code("three", move |run: RunContext| {
            let world = world.clone();
            async move {
                run.step("check").read().call(|call| world.call("check", call)).await?;
                if is_typed {
                    let new = |_| async { Ok::<_, Refused>(Receipt { number: 1 }) };
                    run.step("set").idempotent().call(new).await?;
                }
                run.step("send").call(|call| world.call("send", call)).await
            }
        })
    };
    let runtime = start(&store, changed(&world, true)).await;
    let told = resume(&runtime, run).await.ending.expect("told");
    assert!(told.contains("step `set`") && told.contains("does not fit the code"), "{told}");
    runtime.abandon();
    let runtime = start(&store, changed(&world, false)).await;
    let view = resume(&runtime, run).await;
    assert_eq!(view.ending.as_deref(), Some("\"send done\""));
    assert_eq!(world.names(), ["look", "set", "send", "check", "send"]);
}

#[tokio::test(start_paused = true)]
async fn c3_two_steps_of_one_name_are_refused() {
    let (world, store) = (World::default(), Arc::new(MemoryStore::new()));
    let builder = {
        let world = world.clone();
        Catalog::builder().code("twice", move |run: RunContext| {
            let world = world.clone();
            async move {
                for _ in 0..2 {
                    run.step("send").call(|call| world.call("send", call)).await?;
                }
                Ok(())
            }
        })
    };
    let runtime = start(&store, builder).await;
    let run = submit(&runtime, "twice").await;
    let told = ended(&runtime, run).await.ending.expect("told");
    assert!(told.contains("step `send`: another step of this run has the same name"), "{told}");
    assert_eq!(world.names(), ["send"]);
}

#[tokio::test(start_paused = true)]
async fn c10_a_draining_node_stops_between_steps_and_the_next_goes_on() {
    let (world, store) = (World::default(), Arc::new(MemoryStore::new()));
    let builder = || {
        let world = world.clone();
        Catalog::builder().code("long", move |run: RunContext| {
            let world = world.clone();
            async move {
                for n in 0..100 {
                    run.progress(n, 100, "on the way").await;
                    let name = format!("step {n}");
                    run.step(name.as_str())
                        .call(|call| {
                            let (world, name) = (world.clone(), name.clone());
                            async move {
                                sleep(Duration::from_millis(100)).await;
                                world.call(&name, call).await
                            }
                        })
                        .await?;
                }
                Ok(())
            }
        })
    };
    let runtime = start(&store, builder()).await;
    let run = submit(&runtime, "long").await;
    until(|| world.names().len() >= 10).await;
    runtime.drain();
    sleep(Duration::from_secs(1)).await;
    assert!(world.names().len() < 15, "it stopped: {}", world.names().len());
    runtime.abandon();
    let runtime = start(&store, builder()).await;
    let view = ended(&runtime, run).await;
    assert_eq!((view.state.as_str(), world.names().len()), ("succeeded", 100), "each once");
    assert_eq!(view.progress.expect("told").step, 99);
    let events = runtime.events(run, 0, 1000).await.expect("reads");
    let told = events.iter().filter(|e| matches!(e.event, RunEvent::Progressed { .. }));
    assert_eq!(told.count(), 100, "each once");
}

#[tokio::test(start_paused = true)]
async fn c1_a_guarded_step_is_retried_by_its_dependencys_policy() {
    #[derive(Debug, thiserror::Error)]
    #[error("busy")]
    struct Busy;
    impl Classify for Busy {
        fn class(&self) -> ErrorClass {
            ErrorClass::Unavailable
        }
    }
    let store = Arc::new(MemoryStore::new());
    let builder =
        Catalog::builder().dependency("tool:payments").code("pay", |run: RunContext| async move {
            let attempts = |call: StepCall| async move {
                if call.attempt < 3 { Err(Busy) } else { Ok(call.attempt) }
            };
            let long = Duration::from_secs(600);
            let pay = run.step("pay").idempotent().guarded("tool:payments").within(long);
            let attempts = pay.call(attempts).await?;
            let lost = run.step("lost").guarded("tool:nowhere");
            let error = lost.call(|_| async { Ok::<(), Busy>(()) }).await.unwrap_err();
            Ok((attempts, error.class, error.message))
        });
    let runtime = start(&store, builder).await;
    let run = submit(&runtime, "pay").await;
    let told = ended(&runtime, run).await.ending.expect("told");
    assert!(told.starts_with("[3,\"not_found\",") && told.contains("tool:nowhere"), "{told}");
}
