//! Runs of code that are rolled back: what came after the place is undone once, the last first, and done again
//! (SCOPE C11).

use std::sync::Arc;
use std::time::Duration;

use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::{
    CancelRun, Catalog, CatalogBuilder, ResumeRun, RollbackRun, RunEvent, Runtime, RuntimeError,
    audit,
};
use steadfast_store::{Catalog as _, MemoryStore, RunId};
use tokio::time::sleep;

use crate::outside::{Outside, all, at_every_write, reaches, say, start_code, submit};

async fn step(run: &RunContext, outside: &Outside, name: &'static str) -> Result<(), StepError> {
    let step = run.step(name).idempotent();
    let done = step.call(|call| async move { outside.call(name, call).await });
    done.await.map(drop)
}

fn undo(run: &RunContext, outside: &Outside, name: &'static str) {
    let outside = outside.clone();
    run.compensate(name).by(move |call| {
        let outside = outside.clone();
        async move { outside.call(&format!("undo {name}"), call).await.map(drop) }
    });
}

/// Says before `a` and `c` how they are undone, by their names, and behind `b`, by another one; then it waits
/// for `go`.
fn saga(outside: &Outside) -> CatalogBuilder {
    let outside = outside.clone();
    Catalog::builder().code("saga", move |run: RunContext| {
        let outside = outside.clone();
        async move {
            undo(&run, &outside, "a");
            step(&run, &outside, "a").await?;
            step(&run, &outside, "b").await?;
            undo(&run, &outside, "it");
            undo(&run, &outside, "c");
            step(&run, &outside, "c").await?;
            run.wait_for::<String>("go").await
        }
    })
}

fn back(run: RunId, to: u64) -> RollbackRun {
    RollbackRun { run, to: Some(to), by: "ada".to_owned(), reason: None, pause: false }
}

async fn resume(runtime: &Runtime, run: RunId) {
    runtime.resume(ResumeRun { run, by: "ada".to_owned() }).await.expect("resumes");
}

async fn events(runtime: &Runtime, run: RunId) -> Vec<RunEvent> {
    let events = runtime.events(run, 0, 500).await.expect("reads");
    events.into_iter().map(|view| view.event).collect()
}

/// The event with which a step ended for the first time.
async fn end_of(runtime: &Runtime, run: RunId, name: &str) -> u64 {
    let events = runtime.events(run, 0, 500).await.expect("reads");
    let ended =
        |event: &RunEvent| matches!(event, RunEvent::StepFinished { step, .. } if step == name);
    events.iter().find(|view| ended(&view.event)).expect("it has ended").seq
}

/// What the rollbacks ended with: what is done again, and what stays.
async fn undone(runtime: &Runtime, run: RunId) -> Vec<(Vec<String>, Vec<String>)> {
    let events = events(runtime, run).await.into_iter();
    events
        .filter_map(|event| match event {
            RunEvent::Undone { again, left } => Some((again, left)),
            _ => None,
        })
        .collect()
}

/// The last rollback is over, and the run is in this state.
async fn settles(runtime: &Runtime, run: RunId, state: &str) {
    loop {
        let is_back = runtime.fold(run).await.expect("folds").rollback.is_none();
        if is_back && runtime.run(run).await.expect("there").state == state {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Each checkpoint is what the log folds to.
async fn whole(store: &MemoryStore, run: RunId) {
    let head = store.head(run).await.expect("reads").expect("there");
    let flaws = audit(store, &head).await.expect("reads");
    assert!(flaws.is_empty(), "{flaws:?}");
}

/// A saga that waits for `go`.
async fn waiting() -> (Arc<MemoryStore>, Outside, Runtime, RunId) {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    let runtime = start_code(Arc::clone(&store) as _, saga(&outside)).await;
    let run = submit(&runtime, "saga").await;
    reaches(&runtime, run, &["waiting"]).await;
    (store, outside, runtime, run)
}

#[tokio::test(start_paused = true)]
async fn c11_a_saga_that_waits_goes_back_to_any_event_and_undoes_exactly_what_came_after() {
    let steps = [("a", "undo a"), ("b", "undo it"), ("c", "undo c")];
    let mut to = 1;
    loop {
        let (store, outside, runtime, run) = waiting().await;
        if to == runtime.fold(run).await.expect("folds").seq {
            break;
        }
        let mut after = Vec::new();
        for (name, undo) in steps {
            if end_of(&runtime, run, name).await > to {
                after.push((name, undo));
            }
        }
        runtime.rollback(back(run, to)).await.expect("rolls back");
        settles(&runtime, run, "waiting").await;
        let mut expected = vec!["a", "b", "c"];
        expected.extend(after.iter().rev().map(|(_, undo)| *undo));
        expected.extend(after.iter().map(|(name, _)| *name));
        assert_eq!(outside.applied(), expected, "to {to}");
        assert_eq!(outside.calls(), expected.len(), "to {to}: nothing is done twice");
        assert_eq!(undone(&runtime, run).await, [(vec![], vec![])], "to {to}");
        say(&runtime, run, "go", "1").await;
        assert_eq!(runtime.wait(run).await.expect("ends").state, "succeeded");
        whole(&store, run).await;
        runtime.abandon();
        to += 1;
    }
    assert!(to > 8, "only {to} events");
}

#[tokio::test(start_paused = true)]
async fn c11_a_saga_that_failed_and_was_undone_does_again_also_what_came_before() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    outside.refuse("c");
    let runtime = start_code(Arc::clone(&store) as _, saga(&outside)).await;
    let run = submit(&runtime, "saga").await;
    assert_eq!(runtime.wait(run).await.expect("ends").state, "failed");
    let before = ["a", "b", "undo c", "undo it", "undo a"];
    assert_eq!(outside.applied(), before);
    outside.refuse_nothing();
    let to = end_of(&runtime, run, "a").await;
    runtime.rollback(back(run, to)).await.expect("rolls back");
    settles(&runtime, run, "waiting").await;
    assert_eq!(outside.applied()[before.len()..], ["a", "b", "c"], "undone once");
    assert_eq!(undone(&runtime, run).await, [(vec!["a".to_owned()], vec![])]);
    whole(&store, run).await;
}

#[tokio::test(start_paused = true)]
async fn c11_a_saga_in_the_middle_of_a_step_is_stopped_and_goes_back() {
    for (silent, expected, left) in [
        (2, vec!["a", "b", "c", "undo c", "undo it", "b", "c"], vec![]),
        // Nothing says how it is undone before it has ended: that is told.
        (1, vec!["a", "b", "b", "c"], vec!["b".to_owned()]),
    ] {
        let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
        outside.fall_silent_at(silent);
        let runtime = start_code(Arc::clone(&store) as _, saga(&outside)).await;
        let run = submit(&runtime, "saga").await;
        outside.silence().await;
        let to = end_of(&runtime, run, "a").await;
        runtime.rollback(back(run, to)).await.expect("rolls back");
        settles(&runtime, run, "waiting").await;
        assert_eq!(outside.applied(), expected);
        assert_eq!(undone(&runtime, run).await, [(vec![], left)]);
        whole(&store, run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c11_a_saga_goes_back_whenever_the_process_dies() {
    let act = async |runtime: &Runtime| {
        let run = submit(runtime, "saga").await;
        if reaches(runtime, run, &["waiting", "succeeded"]).await.state == "waiting" {
            let events = events(runtime, run).await;
            if !events.iter().any(|event| matches!(event, RunEvent::RolledBack { .. })) {
                let to = end_of(runtime, run, "a").await;
                runtime.rollback(back(run, to)).await.expect("rolls back");
            }
            settles(runtime, run, "waiting").await;
            say(runtime, run, "go", "1").await;
        }
        runtime.wait(run).await.expect("ends");
    };
    let check = async |runtime: &Runtime, outside: &Outside, place: &str| {
        let expected = ["a", "b", "c", "undo c", "undo it", "b", "c"];
        assert_eq!(outside.applied(), expected, "{place}");
        let view = all(runtime).await.remove(0);
        assert_eq!(view.state, "succeeded", "{place}: {view:?}");
        let ends = undone(runtime, view.id).await;
        assert_eq!(ends, [(vec![], vec![])], "{place}: ended once");
    };
    let writes = at_every_write(saga, act, check).await;
    assert!(writes >= 24, "only {writes} writes");
}

#[tokio::test(start_paused = true)]
async fn c11_what_cannot_be_undone_fails_the_run_and_resuming_tries_it_again() {
    let (store, outside, runtime, run) = waiting().await;
    outside.refuse("undo c");
    let to = end_of(&runtime, run, "a").await;
    runtime.rollback(back(run, to)).await.expect("rolls back");
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(view.state, "failed");
    let told = format!(
        "rolled back to event {to} by ada, and not everything could be undone; undo c: FAILED: refused; \
         undo it: done; resume the run to try again what failed"
    );
    assert_eq!(view.ending.as_deref(), Some(told.as_str()));
    // Once more in vain, then in earnest.
    resume(&runtime, run).await;
    assert_eq!(runtime.wait(run).await.expect("ends").state, "failed");
    outside.refuse_nothing();
    resume(&runtime, run).await;
    settles(&runtime, run, "waiting").await;
    assert_eq!(outside.applied(), ["a", "b", "c", "undo it", "undo c", "b", "c"]);
    assert_eq!(outside.calls(), 7 + 2, "only what failed is tried again");
    whole(&store, run).await;
}

#[tokio::test(start_paused = true)]
async fn c11_a_saga_rolled_back_with_pause_undoes_nothing_until_it_is_resumed() {
    let (store, outside, runtime, run) = waiting().await;
    let to = end_of(&runtime, run, "b").await;
    let order = RollbackRun { pause: true, ..back(run, to) };
    runtime.rollback(order).await.expect("rolls back");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(runtime.run(run).await.expect("there").state, "paused");
    assert_eq!(outside.applied(), ["a", "b", "c"]);
    // Somebody thinks further back is better, before anything is undone.
    let to = end_of(&runtime, run, "a").await;
    let order = RollbackRun { pause: true, ..back(run, to) };
    runtime.rollback(order).await.expect("rolls back");
    resume(&runtime, run).await;
    settles(&runtime, run, "waiting").await;
    let expected = ["a", "b", "c", "undo c", "undo it", "b", "c"];
    assert_eq!(outside.applied(), expected);
    whole(&store, run).await;
    // What was taken back is no place to go back to.
    let to = end_of(&runtime, run, "c").await;
    let refused = runtime.rollback(back(run, to)).await;
    assert!(matches!(refused, Err(RuntimeError::InvalidInput { .. })), "{refused:?}");
    assert_eq!(outside.applied(), expected);
    whole(&store, run).await;
}

#[tokio::test(start_paused = true)]
async fn c11_a_saga_cancelled_while_it_goes_back_is_undone_as_a_whole() {
    let (store, outside, runtime, run) = waiting().await;
    // Calls 0 to 2 were the steps, 3 undoes `c`, and this undoes `b`.
    outside.fall_silent_at(4);
    let to = end_of(&runtime, run, "a").await;
    runtime.rollback(back(run, to)).await.expect("rolls back");
    outside.silence().await;
    let (by, reason) = ("ada".to_owned(), None);
    runtime.cancel(CancelRun { run, by, reason }).await.expect("cancels");
    assert_eq!(runtime.wait(run).await.expect("ends").state, "cancelled");
    assert_eq!(outside.applied(), ["a", "b", "c", "undo c", "undo it", "undo a"]);
    whole(&store, run).await;
}

/// A child, a step, a wait for `news`, and another child; then it waits for both.
fn family(outside: &Outside) -> CatalogBuilder {
    let outside = outside.clone();
    let waits = |run: RunContext| async move { run.wait_for::<String>("end").await };
    Catalog::builder().code("waits", waits).code("family", move |run: RunContext| {
        let outside = outside.clone();
        async move {
            let first = run.child("first", "waits", &1).await?;
            step(&run, &outside, "a").await?;
            let heard = run.wait_for::<String>("news").await?;
            let second = run.child("second", "waits", &2).await?;
            undo(&run, &outside, "second");
            let ends = (first.result::<String>().await?, second.result::<String>().await?);
            Ok::<_, StepError>((heard, ends))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn c11_children_started_since_are_cancelled_and_what_was_heard_since_is_heard_again() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    let runtime = start_code(Arc::clone(&store) as _, family(&outside)).await;
    let run = submit(&runtime, "family").await;
    let children = async |count: usize| loop {
        let mut runs = all(&runtime).await;
        runs.retain(|view| view.id != run);
        runs.sort_by_key(|view| view.id);
        if runs.len() == count {
            return runs;
        }
        sleep(Duration::from_millis(1)).await;
    };
    reaches(&runtime, run, &["waiting"]).await;
    say(&runtime, run, "news", "1").await;
    children(2).await;
    reaches(&runtime, run, &["waiting"]).await;
    let to = end_of(&runtime, run, "a").await;
    runtime.rollback(back(run, to)).await.expect("rolls back");
    settles(&runtime, run, "waiting").await;
    let after = children(3).await;
    let over: Vec<_> = after.iter().map(|view| view.state == "cancelled").collect();
    assert_eq!(over, [false, true, false], "{after:?}");
    assert_eq!(outside.applied(), ["a", "undo second"]);
    for view in [&after[0], &after[2]] {
        say(&runtime, view.id, "end", "1").await;
    }
    let ended = runtime.wait(run).await.expect("ends");
    assert_eq!(ended.ending.as_deref(), Some(r#"["yes",["yes","yes"]]"#), "{ended:?}");
    whole(&store, run).await;
}
