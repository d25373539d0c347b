//! What becomes of runs: to the end, against limits, through failures, over the death of a node.

use std::sync::Arc;
use std::time::Duration;

use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::Message;
use steadfast_providers::tool::ToolOutput;
use steadfast_runtime::{
    AgentSpec, CancelRun, Ending, ResumeRun, Run, RunEvent, RunView, Runtime, RuntimeError,
    SubmitRun,
};
use steadfast_store::MemoryStore;

use crate::world::{CountingTool, Says, ScriptedModel, start};

const DEFAULTS: fn(&mut AgentSpec) = |_| {};

async fn finished(runtime: &Runtime) -> (RunView, Run) {
    let submitted = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted");
    let view = runtime.wait(submitted.run.id).await.expect("ends");
    let run = runtime.fold(view.id).await.expect("folds");
    (view, run)
}

fn tool_contents(run: &Run) -> Vec<&str> {
    let contents = run.messages.iter().filter_map(|message| match message {
        Message::Tool { content, .. } => Some(content.as_str()),
        Message::User { .. } | Message::Assistant { .. } => None,
    });
    contents.collect()
}

#[tokio::test(start_paused = true)]
async fn a_run_calls_its_tools_and_ends_with_the_models_answer() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![
        Says::Calls(vec![("count", r#"{"n":1}"#)]),
        Says::Calls(vec![("count", r#"{"n":2}"#)]),
        Says::Text("two"),
    ]);
    let tool = CountingTool::new("count", Effect::Once);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let (view, run) = finished(&runtime).await;
    assert_eq!(view.state, "succeeded");
    assert_eq!(run.ending, Some(Ending::Succeeded { output: "two".to_owned() }));
    assert_eq!(tool.count(), 2);
    assert_eq!((run.iterations, run.usage.input_total()), (3, 30));
    assert_eq!(view.progress.expect("reported").step, 1);
    assert!(runtime.shutdown().await.expect("closes"));
}

#[tokio::test(start_paused = true)]
async fn what_is_larger_than_the_store_keeps_ends_the_run_with_its_name_and_the_limit() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![Says::Calls(vec![("count", r#"{"n":1}"#)])]);
    let tool = CountingTool::new("count", Effect::Once);
    let large = "x".repeat(steadfast_store::VALUE_BYTES_MAX + 1);
    *tool.says.lock() = ToolOutput::text(large);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let (view, run) = finished(&runtime).await;
    assert_eq!((view.state.as_str(), tool.count()), ("failed", 1), "it is not tried again");
    let Some(Ending::Failed { message, .. }) = run.ending else { panic!("{:?}", run.ending) };
    let limit = steadfast_store::VALUE_BYTES_MAX.to_string();
    for part in ["the result of tool `count`", &run.id.to_string(), &limit, "resume the run"] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn r9_a_schema_violation_goes_back_to_the_model_and_the_tool_is_not_run() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![
        Says::Calls(vec![("count", r#"{"n":"one"}"#), ("nothing", "{}")]),
        Says::Text("sorry"),
    ]);
    let tool = CountingTool::new("count", Effect::Once);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let (view, run) = finished(&runtime).await;
    assert_eq!(view.state, "succeeded");
    assert_eq!(tool.count(), 0);
    let contents = tool_contents(&run);
    assert!(contents[0].contains("/n"), "names the path: {}", contents[0]);
    assert!(contents[1].contains("no tool `nothing`"), "{}", contents[1]);
}

#[tokio::test(start_paused = true)]
async fn r4_without_a_critical_tool_the_run_fails_and_without_an_optional_one_it_goes_on() {
    for effect in [Effect::Read, Effect::Idempotent, Effect::Once] {
        for critical in [true, false] {
            let store = Arc::new(MemoryStore::new());
            let call = Says::Calls(vec![("count", "{}"), ("other", "{}")]);
            let model = ScriptedModel::new(vec![call, Says::Text("went on")]);
            let (tool, other) =
                (CountingTool::new("count", effect), CountingTool::new("other", effect));
            tool.breaks(ErrorClass::Timeout);
            let adjust = |spec: &mut AgentSpec| {
                spec.critical_tools = if critical { vec!["cou*".to_owned()] } else { vec![] };
            };
            let runtime = start(&store, &model, &[&tool, &other], adjust).await;
            let (view, _) = finished(&runtime).await;
            if critical {
                assert_eq!(view.state, "failed", "{effect:?}");
                let told = view.ending.expect("told");
                assert!(told.contains("critical tool `count`"), "{told}");
                let by = "ada".to_owned();
                runtime.resume(ResumeRun { run: view.id, by }).await.expect("resumes");
            }
            let view = runtime.wait(view.id).await.expect("ends");
            assert_eq!((view.state.as_str(), other.count()), ("succeeded", 1), "{effect:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g2_a_run_stops_at_the_iteration_limit_exactly() {
    let store = Arc::new(MemoryStore::new());
    let call = || Says::Calls(vec![("count", "{}")]);
    let model = ScriptedModel::new(vec![call(), call(), call()]);
    let tool = CountingTool::new("count", Effect::Read);
    let runtime = start(&store, &model, &[&tool], |spec| spec.max_iterations = 3).await;
    let (view, run) = finished(&runtime).await;
    assert_eq!((view.state.as_str(), view.stop.as_deref()), ("failed", Some("iteration_limit")));
    assert_eq!((run.iterations, tool.count()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn calls_of_an_answer_that_was_cut_are_not_run() {
    let store = Arc::new(MemoryStore::new());
    let model =
        ScriptedModel::new(vec![Says::CutCalls(vec![("count", "{}")]), Says::Text("again")]);
    let tool = CountingTool::new("count", Effect::Read);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let (view, run) = finished(&runtime).await;
    assert_eq!((view.state.as_str(), tool.count()), ("succeeded", 0));
    assert!(tool_contents(&run)[0].contains("cut at the output limit"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_resumed_where_it_stopped() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![
        Says::Calls(vec![("count", "{}")]),
        Says::Fails(ErrorClass::Authentication, None),
        Says::Text("done"),
    ]);
    let tool = CountingTool::new("count", Effect::Once);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let (view, _) = finished(&runtime).await;
    assert_eq!((view.state.as_str(), view.stop.as_deref()), ("failed", Some("authentication")));
    runtime.resume(ResumeRun { run: view.id, by: "ada".to_owned() }).await.expect("resumes");
    let view = runtime.wait(view.id).await.expect("ends");
    assert_eq!((view.state.as_str(), tool.count()), ("succeeded", 1));
    let again = runtime.resume(ResumeRun { run: view.id, by: "ada".to_owned() }).await;
    assert!(matches!(again, Err(RuntimeError::WrongState { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_parks_the_run_instead_of_sleeping() {
    let store = Arc::new(MemoryStore::new());
    let wait = Some(Duration::from_secs(3600));
    let model =
        ScriptedModel::new(vec![Says::Fails(ErrorClass::RateLimited, wait), Says::Text("later")]);
    let runtime = start(&store, &model, &[], DEFAULTS).await;
    let submitted = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted");
    let mut watch = runtime.watch();
    while runtime.run(submitted.run.id).await.expect("there").state != "waiting" {
        assert!(watch.changed(Some(submitted.run.id)).await);
    }
    let events = runtime.events(submitted.run.id, 0, 100).await.expect("reads");
    let parked = events.iter().any(|view| matches!(view.event, RunEvent::Parked { .. }));
    assert!(parked, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_stops_at_once_and_stays_stopped() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![Says::Calls(vec![("count", "{}")])]);
    let tool = CountingTool::stuck("count", Effect::Once);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let submitted = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted");
    tool.entered.notified().await;
    let id = submitted.run.id;
    let cancel = || CancelRun { run: id, by: "ada".to_owned(), reason: None };
    runtime.cancel(cancel()).await.expect("cancels");
    assert_eq!(runtime.wait(id).await.expect("is over").state, "cancelled");
    assert!(matches!(runtime.cancel(cancel()).await, Err(RuntimeError::WrongState { .. })));
}

/// Runs until the tool has taken effect, lets the node die there, and gives the run to a second node.
async fn die_in_tool(effect: Effect) -> (Run, usize, Vec<String>, usize) {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![Says::Calls(vec![("count", "{}")]), Says::Text("end")]);
    let stuck = CountingTool::stuck("count", effect);
    let first = start(&store, &model, &[&stuck], DEFAULTS).await;
    let submitted = first.submit(SubmitRun::new("worker", "go")).await.expect("accepted");
    stuck.entered.notified().await;
    // No shutdown: the drivers are dropped where they are, as a crash would.
    first.abandon();
    let tool = CountingTool::new("count", effect);
    let second = start(&store, &model, &[&tool], DEFAULTS).await;
    let view = second.wait(submitted.run.id).await.expect("ends");
    assert_eq!(view.state, "succeeded");
    let run = second.fold(view.id).await.expect("folds");
    let keys = stuck.keys.lock().iter().chain(tool.keys.lock().iter()).cloned().collect();
    let asked = model.requests.lock().len();
    (run, tool.count(), keys, asked)
}

#[tokio::test(start_paused = true)]
async fn r11_an_interrupted_once_call_is_not_run_again_and_the_model_is_told() {
    let (run, again, _, asked) = die_in_tool(Effect::Once).await;
    assert_eq!((again, asked), (0, 2), "neither the effect nor the answer is paid twice");
    assert!(tool_contents(&run)[0].contains("outcome unknown"));
}

#[tokio::test(start_paused = true)]
async fn r11_an_interrupted_idempotent_call_is_run_again_with_the_same_key() {
    let (run, again, keys, asked) = die_in_tool(Effect::Idempotent).await;
    assert_eq!((again, asked), (1, 2));
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
    assert_eq!(tool_contents(&run), ["counted"]);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_read_is_simply_run_again() {
    let (run, again, _, asked) = die_in_tool(Effect::Read).await;
    assert_eq!((again, asked, tool_contents(&run)), (1, 2, vec!["counted"]));
}

#[tokio::test(start_paused = true)]
async fn submitting_twice_with_a_key_gives_one_run() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![Says::Text("once")]);
    let runtime = start(&store, &model, &[], DEFAULTS).await;
    let order = || SubmitRun { key: Some("k".to_owned()), ..SubmitRun::new("worker", "go") };
    let first = runtime.submit(order()).await.expect("accepted");
    let second = runtime.submit(order()).await.expect("accepted");
    assert!(first.new && !second.new);
    assert_eq!(first.run.id, second.run.id);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_agent_is_refused_and_the_known_ones_are_named() {
    let store = Arc::new(MemoryStore::new());
    let runtime = start(&store, &ScriptedModel::new(vec![]), &[], DEFAULTS).await;
    let refused = runtime.submit(SubmitRun::new("wroker", "go")).await.expect_err("unknown");
    assert_eq!(refused.to_string(), "there is no agent `wroker`; there are: worker");
}
