//! Pausing: whatever a run is doing, it stands still then, and nothing is lost once it is resumed.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use steadfast_guard::{Classify, Effect, ErrorClass};
use steadfast_runtime::code::RunContext;
use steadfast_runtime::event::ToolOutcome;
use steadfast_runtime::{
    AgentSpec, CancelRun, Catalog, PauseRun, Pausing, ResumeRun, RetryRun, RunEvent, Runtime,
    RuntimeError, RuntimeOptions, SignalRun, SubmitRun,
};
use steadfast_store::{MemoryStore, RunId, Store};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::outside::start_code;
use crate::world::{CountingTool, Says, ScriptedModel, start};

const DEFAULTS: fn(&mut AgentSpec) = |_| {};

async fn submit(runtime: &Runtime, agent: &str) -> RunId {
    runtime.submit(SubmitRun::new(agent, "null")).await.expect("accepted").run.id
}

async fn pause(runtime: &Runtime, run: RunId, now: bool) -> Result<Pausing, RuntimeError> {
    let (by, reason) = ("ada".to_owned(), Some("lunch".to_owned()));
    runtime.pause(PauseRun { run, by, reason, now }).await
}

async fn resume(runtime: &Runtime, run: RunId) {
    runtime.resume(ResumeRun { run, by: "ada".to_owned() }).await.expect("resumes");
}

async fn reaches(runtime: &Runtime, run: RunId, state: &str) {
    let mut watch = runtime.watch();
    while runtime.run(run).await.expect("there").state != state {
        assert!(watch.changed(Some(run)).await, "the runtime lives");
    }
}

/// It stays paused for an hour in which nothing is written.
async fn stands_still(runtime: &Runtime, run: RunId) {
    let before = runtime.run(run).await.expect("there");
    assert_eq!(before.state, "paused");
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(runtime.run(run).await.expect("there"), before);
}

#[derive(Debug, thiserror::Error)]
#[error("closed")]
struct Closed;

impl Classify for Closed {
    fn class(&self) -> ErrorClass {
        ErrorClass::Internal
    }
}

/// Code of two branches with two steps each; a step ends for each permit.
fn branches(gate: &Arc<Semaphore>, entered: &Arc<Semaphore>) -> Catalog {
    let (gate, entered) = (Arc::clone(gate), Arc::clone(entered));
    let builder = Catalog::builder().code("branches", move |run: RunContext| {
        let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
        let step = move |run: RunContext, name: &'static str| {
            let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
            async move {
                let done = run.step(name).call(move |_| {
                    let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
                    async move {
                        entered.add_permits(1);
                        gate.acquire().await.map_err(|_| Closed)?.forget();
                        Ok::<_, Closed>(name.to_owned())
                    }
                });
                done.await
            }
        };
        async move {
            let branch = |first, second| {
                let (run, step) = (run.clone(), step.clone());
                async move {
                    step(run.clone(), first).await?;
                    step(run, second).await
                }
            };
            let both = futures_util::future::try_join(branch("a1", "a2"), branch("b1", "b2"));
            both.await
        }
    });
    builder.build().expect("fits together")
}

#[tokio::test(start_paused = true)]
async fn c11_a_queued_run_is_paused_at_once_and_stays_so_over_a_restart() {
    let store = Arc::new(MemoryStore::new());
    let stuck = CountingTool::stuck("count", Effect::Read);
    let call = || Says::Calls(vec![("count", "{}")]);
    let model = ScriptedModel::new(vec![call()]);
    let full = RuntimeOptions { concurrency: 1, ..RuntimeOptions::default() };
    let mut spec = AgentSpec::new("m");
    spec.tools = vec!["count".to_owned()];
    let catalog = Catalog::builder()
        .model("m", model, true)
        .tool(Arc::clone(&stuck) as Arc<dyn steadfast_providers::tool::Tool>)
        .agent("worker", spec)
        .build()
        .expect("fits together");
    let first = Runtime::start(Arc::clone(&store) as Arc<dyn Store>, catalog, full);
    let first = first.await.expect("starts");
    let busy = submit(&first, "worker").await;
    stuck.entered.notified().await;
    let run = submit(&first, "worker").await;
    assert_eq!(first.run(run).await.expect("there").state, "queued");
    assert_eq!(pause(&first, run, false).await.expect("pauses"), Pausing::Done);
    first.cancel(CancelRun { run: busy, by: "ada".into(), reason: None }).await.expect("cancels");
    stands_still(&first, run).await;
    first.abandon();
    let model = ScriptedModel::new(vec![Says::Text("done")]);
    let second = start(&store, &model, &[], DEFAULTS).await;
    stands_still(&second, run).await;
    let again = pause(&second, run, false).await;
    assert!(matches!(again, Err(RuntimeError::WrongState { .. })), "{again:?}");
    resume(&second, run).await;
    assert_eq!(second.wait(run).await.expect("ends").state, "succeeded");
}

#[tokio::test(start_paused = true)]
async fn c11_a_waiting_run_is_paused_at_once_and_its_time_does_not_wake_it() {
    let store = Arc::new(MemoryStore::new());
    let quiet = Some(Duration::from_secs(600));
    let model =
        ScriptedModel::new(vec![Says::Fails(ErrorClass::RateLimited, quiet), Says::Text("done")]);
    let runtime = start(&store, &model, &[], DEFAULTS).await;
    let run = submit(&runtime, "worker").await;
    reaches(&runtime, run, "waiting").await;
    assert_eq!(pause(&runtime, run, false).await.expect("pauses"), Pausing::Done);
    stands_still(&runtime, run).await;
    resume(&runtime, run).await;
    assert_eq!(runtime.wait(run).await.expect("ends").state, "succeeded");
}

#[tokio::test(start_paused = true)]
async fn c11_a_running_run_pauses_behind_its_step_whose_result_is_kept() {
    for effect in [Effect::Read, Effect::Idempotent, Effect::Once] {
        let store = Arc::new(MemoryStore::new());
        let model =
            ScriptedModel::new(vec![Says::Calls(vec![("count", "{}")]), Says::Text("done")]);
        let tool = CountingTool::gated("count", effect);
        let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
        let run = submit(&runtime, "worker").await;
        tool.entered.notified().await;
        assert_eq!(pause(&runtime, run, false).await.expect("asks"), Pausing::Asked);
        assert_eq!(runtime.run(run).await.expect("there").state, "running", "the step goes on");
        tool.let_go.notify_one();
        reaches(&runtime, run, "paused").await;
        stands_still(&runtime, run).await;
        assert_eq!(model.requests.lock().len(), 1, "nothing began after the step");
        resume(&runtime, run).await;
        assert_eq!(runtime.wait(run).await.expect("ends").state, "succeeded");
        assert_eq!(tool.count(), 1, "{effect:?}: kept, and not made again");
    }
}

#[tokio::test(start_paused = true)]
async fn c11_pausing_now_interrupts_the_step_and_a_once_call_is_then_unknown() {
    for (effect, made) in [(Effect::Read, 2), (Effect::Idempotent, 2), (Effect::Once, 1)] {
        let store = Arc::new(MemoryStore::new());
        let model =
            ScriptedModel::new(vec![Says::Calls(vec![("count", "{}")]), Says::Text("done")]);
        let tool = CountingTool::gated("count", effect);
        let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
        let run = submit(&runtime, "worker").await;
        tool.entered.notified().await;
        assert_eq!(pause(&runtime, run, true).await.expect("pauses"), Pausing::Done);
        stands_still(&runtime, run).await;
        tool.let_go.notify_one();
        resume(&runtime, run).await;
        assert_eq!(runtime.wait(run).await.expect("ends").state, "succeeded");
        assert_eq!(tool.count(), made, "{effect:?}");
        let events = runtime.events(run, 0, 100).await.expect("reads");
        let unknown = events.iter().any(|view| {
            matches!(
                view.event,
                RunEvent::ToolFinished { outcome: ToolOutcome::OutcomeUnknown, .. }
            )
        });
        assert_eq!(unknown, effect == Effect::Once);
    }
}

#[tokio::test(start_paused = true)]
async fn c11_a_run_that_was_asked_to_pause_and_then_made_to_pauses_once() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![Says::Calls(vec![("count", "{}")]), Says::Text("done")]);
    let tool = CountingTool::gated("count", Effect::Idempotent);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let run = submit(&runtime, "worker").await;
    tool.entered.notified().await;
    assert_eq!(pause(&runtime, run, false).await.expect("asks"), Pausing::Asked);
    assert_eq!(pause(&runtime, run, true).await.expect("pauses"), Pausing::Done);
    stands_still(&runtime, run).await;
    tool.let_go.notify_one();
    resume(&runtime, run).await;
    let ended = tokio::time::timeout(Duration::from_secs(3600), runtime.wait(run)).await;
    assert_eq!(ended.expect("it goes on").expect("ends").state, "succeeded");
}

#[tokio::test(start_paused = true)]
async fn c11_code_pauses_behind_the_steps_under_way_in_all_its_branches() {
    for now in [false, true] {
        let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let store = Arc::new(MemoryStore::new()) as Arc<dyn Store>;
        let options = RuntimeOptions::default;
        let catalog = branches(&gate, &entered);
        let runtime = Runtime::start(Arc::clone(&store), catalog, options()).await.expect("starts");
        let run = submit(&runtime, "branches").await;
        entered.acquire_many(2).await.expect("open").forget();
        let expected = if now { Pausing::Done } else { Pausing::Asked };
        assert_eq!(pause(&runtime, run, now).await.expect("asks"), expected);
        if !now {
            gate.add_permits(2);
        }
        reaches(&runtime, run, "paused").await;
        stands_still(&runtime, run).await;
        assert_eq!(entered.available_permits(), 0, "no further step began");
        runtime.abandon();
        gate.add_permits(4);
        let catalog = branches(&gate, &entered);
        let runtime = Runtime::start(store, catalog, options()).await.expect("starts");
        stands_still(&runtime, run).await;
        resume(&runtime, run).await;
        let view = runtime.wait(run).await.expect("ends");
        if now {
            // What was interrupted is not known; a person who retries decides that it is done again.
            assert_eq!(view.stop.as_deref(), Some("outcome_unknown"), "{view:?}");
            runtime.retry(RetryRun { run, by: "ada".into() }).await.expect("retries");
            // The other branch's step is unknown in its turn.
            let view = runtime.wait(run).await.expect("ends");
            if view.state == "failed" {
                runtime.retry(RetryRun { run, by: "ada".into() }).await.expect("retries");
            }
        }
        let view = runtime.wait(run).await.expect("ends");
        assert_eq!(view.ending.as_deref(), Some(r#"["a2","b2"]"#));
    }
}

#[tokio::test(start_paused = true)]
async fn c11_letters_wait_while_a_run_is_paused() {
    let store = Arc::new(MemoryStore::new());
    let listens = || {
        let code = |run: RunContext| async move { run.wait_for::<u64>("news").await };
        Catalog::builder().code("listens", code)
    };
    let first = start_code(Arc::clone(&store) as _, listens()).await;
    let run = submit(&first, "listens").await;
    reaches(&first, run, "waiting").await;
    pause(&first, run, false).await.expect("pauses");
    let (name, by) = ("news".to_owned(), "ada".to_owned());
    let said = SignalRun { run, name, payload: Value::from(7), by, id: None };
    assert!(first.signal(said).await.expect("kept"));
    stands_still(&first, run).await;
    first.abandon();
    let second = start_code(store, listens()).await;
    stands_still(&second, run).await;
    resume(&second, run).await;
    assert_eq!(second.wait(run).await.expect("ends").ending.as_deref(), Some("7"));
    let events = second.events(run, 0, 100).await.expect("reads");
    let heard = events.iter().filter(|view| matches!(view.event, RunEvent::Signalled { .. }));
    assert_eq!(heard.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn c11_a_run_whose_node_is_dead_pauses_when_the_next_node_takes_it() {
    for now in [false, true] {
        let store = Arc::new(MemoryStore::new());
        let model =
            ScriptedModel::new(vec![Says::Calls(vec![("count", "{}")]), Says::Text("done")]);
        let stuck = CountingTool::stuck("count", Effect::Idempotent);
        let first = start(&store, &model, &[&stuck], DEFAULTS).await;
        let run = submit(&first, "worker").await;
        stuck.entered.notified().await;
        first.abandon();
        let tool = CountingTool::new("count", Effect::Idempotent);
        let second = start(&store, &model, &[&tool], DEFAULTS).await;
        let expected = if now { Pausing::Done } else { Pausing::Asked };
        assert_eq!(pause(&second, run, now).await.expect("asks"), expected);
        reaches(&second, run, "paused").await;
        stands_still(&second, run).await;
        assert_eq!(tool.count(), 0);
        resume(&second, run).await;
        assert_eq!(second.wait(run).await.expect("ends").state, "succeeded");
        assert_eq!(tool.count(), 1);
    }
}

/// What somebody does to a run, or time that passes.
#[derive(Clone, Copy, Debug)]
enum Act {
    Pause,
    PauseNow,
    Resume,
    Retry,
    Passes(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        Just(Act::Pause),
        Just(Act::PauseNow),
        Just(Act::Resume),
        Just(Act::Retry),
        (0_u16..400).prop_map(Act::Passes),
    ]
}

/// A tool that takes a tenth of a second, called four times; then the run ends.
async fn play(acts: Vec<Act>) {
    let store = Arc::new(MemoryStore::new());
    let call = || Says::Calls(vec![("slow", "{}")]);
    let script: Vec<Says> = (0..4).map(|_| call()).chain([Says::Text("done")]).collect();
    let (model, tool) =
        (ScriptedModel::new(script), CountingTool::slow("slow", Effect::Idempotent));
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let run = submit(&runtime, "worker").await;
    for act in acts {
        let by = "ada".to_owned();
        let result = match act {
            Act::Pause => pause(&runtime, run, false).await.map(drop),
            Act::PauseNow => pause(&runtime, run, true).await.map(drop),
            Act::Resume => runtime.resume(ResumeRun { run, by }).await,
            Act::Retry => runtime.retry(RetryRun { run, by }).await,
            Act::Passes(ms) => {
                sleep(Duration::from_millis(ms.into())).await;
                Ok(())
            }
        };
        assert!(matches!(result, Ok(()) | Err(RuntimeError::WrongState { .. })), "{result:?}");
        let view = runtime.run(run).await.expect("there");
        if view.state == "paused" {
            let made = tool.count();
            sleep(Duration::from_millis(500)).await;
            let later = runtime.run(run).await.expect("there");
            assert_eq!((later, tool.count()), (view, made), "nothing runs while it is paused");
        }
    }
    // Wishes to pause that were still under way count, too: it is resumed as often as it takes.
    loop {
        let view = runtime.run(run).await.expect("there");
        match view.state.as_str() {
            "paused" => resume(&runtime, run).await,
            "succeeded" => break,
            state => assert!(["queued", "running"].contains(&state), "{state}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
    let folded = runtime.fold(run).await.expect("folds");
    assert_eq!(folded.iterations, 5, "each answer once");
    let results = folded.messages.iter().filter(|message| {
        matches!(message, steadfast_providers::model::Message::Tool { is_error: false, .. })
    });
    assert_eq!(results.count(), 4, "each call has its result");
    runtime.abandon();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn c11_whatever_commands_come_nothing_runs_while_paused_and_the_run_ends_once_resumed(
        acts in proptest::collection::vec(act(), 0..14)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("starts");
        runtime.block_on(play(acts));
    }
}
