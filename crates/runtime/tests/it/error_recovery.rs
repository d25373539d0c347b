//! The four ways in which an error ends (SCOPE C4), and deaths in the middle of a rollback.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::{Message, Model};
use steadfast_providers::tool::Tool;
use steadfast_runtime::{
    AgentSpec, Catalog, Compensation, ResumeRun, RollbackRun, RunEvent, Runtime, RuntimeOptions,
    SubmitRun,
};
use steadfast_store::{
    Append, Disposition, Fence, HeadUpdate, MemoryStore, NewEvent, RunId, Store,
};

use crate::crash_store::{CrashStore, Dies};
use crate::world::{CountingTool, Says, ScriptedModel, start};

const DEFAULTS: fn(&mut AgentSpec) = |_| {};

async fn submit(runtime: &Runtime) -> RunId {
    runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id
}

#[tokio::test(start_paused = true)]
async fn c4_a_transient_error_is_backed_off_and_retried() {
    let store = Arc::new(MemoryStore::new());
    let fails = || Says::Fails(ErrorClass::Unavailable, None);
    let model = ScriptedModel::new(vec![fails(), fails(), Says::Text("done")]);
    let runtime = start(&store, &model, &[], DEFAULTS).await;
    let began = tokio::time::Instant::now();
    let run = submit(&runtime).await;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!((view.state.as_str(), model.requests.lock().len()), ("succeeded", 3));
    assert!(!began.elapsed().is_zero(), "it waited in between");
}

#[tokio::test(start_paused = true)]
async fn c4_a_fatal_error_is_reported_without_a_retry() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![Says::Fails(ErrorClass::Authentication, None)]);
    let runtime = start(&store, &model, &[], DEFAULTS).await;
    let run = submit(&runtime).await;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(view.stop.as_deref(), Some("authentication"));
    assert!(view.ending.expect("told").contains("scripted failure"));
    assert_eq!(model.requests.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn c4_exhausted_retries_end_in_an_error_that_names_the_attempts() {
    let store = Arc::new(MemoryStore::new());
    let script = (0..20).map(|_| Says::Fails(ErrorClass::Unavailable, None)).collect();
    let model = ScriptedModel::new(script);
    let runtime = start(&store, &model, &[], DEFAULTS).await;
    let run = submit(&runtime).await;
    let view = runtime.wait(run).await.expect("ends");
    let told = view.ending.expect("told");
    let asked = model.requests.lock().len();
    assert!(asked > 1, "it was retried");
    assert!(told.contains(&format!("after {asked} attempt")), "{asked} attempts: {told}");
    assert_eq!(view.stop.as_deref(), Some("unavailable"));
}

/// Appends a pause that carries a checkpoint which is none.
pub(crate) async fn damage(store: &dyn Store, run: RunId) -> u64 {
    let head = store.head(run).await.expect("reads").expect("there");
    let body = Bytes::from(json!({ "type": "paused", "by": "ada" }).to_string());
    let append = Append {
        events: vec![NewEvent { kind: "paused".into(), version: 1, body }],
        checkpoint: Some(Bytes::from_static(b"{ torn")),
        head: Some(HeadUpdate {
            state: "paused".to_owned(),
            disposition: Disposition::Paused,
            problem: None,
            summary: head.summary,
        }),
        ..Append::new(run, Fence::Seize, head.head_seq)
    };
    store.append(append).await.expect("appends").head_seq
}

#[tokio::test(start_paused = true)]
async fn c4_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_the_log_says_so_once() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![
        Says::Calls(vec![("count", "{}")]),
        Says::Calls(vec![("stuck", "{}")]),
        Says::Text("done"),
    ]);
    let tool = CountingTool::new("count", Effect::Once);
    let stuck = CountingTool::stuck("stuck", Effect::Read);
    let first = start(&store, &model, &[&tool, &stuck], DEFAULTS).await;
    let run = submit(&first).await;
    stuck.entered.notified().await;
    first.abandon();
    let damaged = damage(store.as_ref(), run).await;
    let whole = CountingTool::new("stuck", Effect::Read);
    let second = start(&store, &model, &[&tool, &whole], DEFAULTS).await;
    let kept = second.checkpoints(run).await.expect("lists");
    assert!(kept[0].seq == damaged && kept[0].problem.is_some() && kept[1].problem.is_none());
    for _ in 0..2 {
        // The second time finds a checkpoint that is whole.
        let by = "ada".to_owned();
        if second.resume(ResumeRun { run, by }).await.is_err() {
            break;
        }
        second.wait(run).await.expect("ends");
    }
    assert_eq!(second.run(run).await.expect("there").state, "succeeded");
    assert_eq!(tool.count(), 1);
    let events = second.events(run, 0, 100).await.expect("reads");
    let told: Vec<u64> = events
        .iter()
        .filter_map(|view| match &view.event {
            RunEvent::CheckpointPassedOver { checkpoint, problem } => {
                assert!(!problem.is_empty());
                Some(*checkpoint)
            }
            _ => None,
        })
        .collect();
    assert_eq!(told, [damaged]);
    let kept = second.checkpoints(run).await.expect("lists");
    assert!(kept[0].seq > damaged && kept[0].problem.is_none());
}

fn catalog(model: &Arc<ScriptedModel>, tools: [&Arc<CountingTool>; 2]) -> Catalog {
    let mut spec = AgentSpec::new("m");
    spec.tools = vec!["count".to_owned()];
    let arguments = json!({ "n": "{n}" }).as_object().cloned().expect("an object");
    let rule = Compensation { tool: "uncount".to_owned(), arguments };
    let builder = Catalog::builder()
        .model("m", Arc::<ScriptedModel>::clone(model) as Arc<dyn Model>, true)
        .agent("worker", spec)
        .compensate("count", rule);
    let builder = tools.into_iter().fold(builder, |builder, tool| {
        builder.tool(Arc::<CountingTool>::clone(tool) as Arc<dyn Tool>)
    });
    builder.build().expect("fits together")
}

async fn run_on(store: Arc<dyn Store>, catalog: Catalog) -> Runtime {
    Runtime::start(store, catalog, RuntimeOptions::default()).await.expect("starts")
}

async fn is_rolled_back(runtime: &Runtime, run: RunId) -> bool {
    let events = runtime.events(run, 0, 200).await.expect("reads");
    events.iter().any(|view| matches!(view.event, RunEvent::RolledBack { .. }))
}

/// Two calls are made, the run fails, and is rolled back to its beginning while a process dies; the next one
/// finishes. Gives whether the process died at all.
async fn die_rolling_back(effect: Effect, write: usize, dies: Dies) -> bool {
    let memory = Arc::new(MemoryStore::new());
    let calls = Says::Calls(vec![("count", r#"{"n":1}"#), ("count", r#"{"n":2}"#)]);
    let model = ScriptedModel::new(vec![calls, Says::Fails(ErrorClass::Authentication, None)]);
    let tool = CountingTool::new("count", Effect::Once);
    let undo = CountingTool::new("uncount", effect);
    let plain = Arc::clone(&memory) as Arc<dyn Store>;
    let first = run_on(plain, catalog(&model, [&tool, &undo])).await;
    let run = submit(&first).await;
    assert_eq!(first.wait(run).await.expect("ends").state, "failed");
    first.abandon();

    let order =
        || RollbackRun { run, to: Some(1), by: "ada".to_owned(), reason: None, pause: false };
    // It may be asked twice: a process can die once the answer is there and not on disk.
    let again = || ScriptedModel::new(vec![Says::Text("again"), Says::Text("again")]);
    let model = again();
    let store = CrashStore::new(&memory, write, dies);
    let crashing = Arc::clone(&store) as Arc<dyn Store>;
    let starting = run_on(crashing, catalog(&model, [&tool, &undo]));
    let started = tokio::select! {
        () = store.dead.notified() => None,
        runtime = starting => Some(runtime),
    };
    if let Some(runtime) = started {
        let ended = async {
            runtime.rollback(order()).await.expect("rolls back");
            runtime.wait(run).await.expect("ends");
        };
        tokio::select! {
            () = store.dead.notified() => {}
            () = ended => {}
        }
        runtime.abandon();
    }
    let died = store.is_dead();

    let last = run_on(memory, catalog(&model, [&tool, &undo])).await;
    if !is_rolled_back(&last, run).await {
        last.rollback(order()).await.expect("rolls back");
    }
    let view = last.wait(run).await.expect("ends");
    assert_eq!(view.state, "succeeded", "{effect:?} {write} {dies:?}: {view:?}");
    assert_eq!(tool.count(), 2, "nothing was made again");
    let keys = undo.keys.lock().clone();
    let mut distinct = keys.clone();
    distinct.sort();
    distinct.dedup();
    let folded = last.fold(run).await.expect("folds");
    let told = folded.messages.iter().filter_map(|message| match message {
        Message::User { text } => Some(text.as_str()),
        Message::Assistant { .. } | Message::Tool { .. } => None,
    });
    let told = told.collect::<Vec<_>>().join("\n");
    if effect == Effect::Idempotent {
        assert_eq!(distinct.len(), 2, "each is undone, under a key of its own: {keys:?}");
        assert_eq!(told.matches("was undone by").count(), 2, "{told}");
    } else {
        assert_eq!(distinct.len(), keys.len(), "never twice: {keys:?}");
        let unknown = told.matches("may or may not have been undone").count();
        assert_eq!(told.matches("was undone by").count() + unknown, 2, "{told}");
    }
    last.abandon();
    died
}

#[tokio::test(start_paused = true)]
async fn c11_a_rollback_is_finished_after_a_death_at_any_of_its_writes() {
    for effect in [Effect::Idempotent, Effect::Once] {
        let mut writes = 0;
        while die_rolling_back(effect, writes, Dies::Before).await {
            die_rolling_back(effect, writes, Dies::After).await;
            writes += 1;
        }
        assert!(writes >= 6, "{effect:?}: only {writes} writes");
    }
}
