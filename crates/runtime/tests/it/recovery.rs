//! What people do with runs: retry, fork, roll back, say how an interrupted call ended.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::Message;
use steadfast_runtime::event::{Changes, ToolOutcome, Verdict};
use steadfast_runtime::{
    AgentSpec, AnswerCall, CatalogBuilder, Compensation, EventView, ForkRun, ResumeRun, RetryRun,
    RollbackRun, RunEvent, RunView, Runtime, RuntimeError, SubmitRun, UnknownRule, audit,
};
use steadfast_store::{Catalog as _, MemoryStore, RunId, Timestamp};

use crate::world::{CountingTool, Says, ScriptedModel, start, start_with};

const DEFAULTS: fn(&mut AgentSpec) = |_| {};

async fn submit(runtime: &Runtime) -> RunId {
    runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id
}

async fn ended(runtime: &Runtime, run: RunId) -> RunView {
    runtime.wait(run).await.expect("ends")
}

async fn retry(runtime: &Runtime, run: RunId) -> RunView {
    runtime.retry(RetryRun { run, by: "ada".to_owned() }).await.expect("retries");
    ended(runtime, run).await
}

async fn reaches(runtime: &Runtime, run: RunId, state: &str) {
    let mut watch = runtime.watch();
    while runtime.run(run).await.expect("there").state != state {
        assert!(watch.changed(Some(run)).await, "the runtime lives");
    }
}

fn fork_of(run: RunId) -> ForkRun {
    ForkRun { run, at: None, changes: Changes::default(), key: None, by: "ada".to_owned() }
}

fn back(run: RunId, to: Option<u64>) -> RollbackRun {
    RollbackRun { run, to, by: "ada".to_owned(), reason: None, pause: false }
}

async fn events(runtime: &Runtime, run: RunId) -> Vec<RunEvent> {
    let events = runtime.events(run, 0, 500).await.expect("reads");
    events.into_iter().map(|view| view.event).collect()
}

async fn seq_of(runtime: &Runtime, run: RunId, is: impl Fn(&RunEvent) -> bool) -> u64 {
    let events = runtime.events(run, 0, 500).await.expect("reads");
    events.iter().find(|view| is(&view.event)).expect("it is there").seq
}

fn calls() -> Says {
    Says::Calls(vec![("count", r#"{"n":1}"#)])
}

#[tokio::test(start_paused = true)]
async fn c11_a_retried_run_has_its_limits_anew_and_does_not_fail_on_them_at_once() {
    // model answers
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![calls(), calls(), Says::Text("done")]);
    let tool = CountingTool::new("count", Effect::Read);
    let runtime = start(&store, &model, &[&tool], |spec| spec.max_iterations = 2).await;
    let run = submit(&runtime).await;
    assert_eq!(ended(&runtime, run).await.stop.as_deref(), Some("iteration_limit"));
    let view = retry(&runtime, run).await;
    assert_eq!((view.state.as_str(), view.iterations), ("succeeded", 3));
    // the time in which it is executed, and the time since it was submitted
    for total in [false, true] {
        let store = Arc::new(MemoryStore::new());
        let model = ScriptedModel::new(vec![calls(), Says::Text("done")]);
        let stuck = CountingTool::stuck("count", Effect::Read);
        let limit = Duration::from_secs(20);
        let adjust = |spec: &mut AgentSpec| match total {
            true => spec.total_timeout = limit,
            false => spec.turn_timeout = limit,
        };
        let runtime = start(&store, &model, &[&stuck], adjust).await;
        let run = submit(&runtime).await;
        let view = ended(&runtime, run).await;
        let expected = if total { "total_timeout" } else { "turn_timeout" };
        assert_eq!(view.stop.as_deref(), Some(expected), "{view:?}");
        let view = retry(&runtime, run).await;
        assert_eq!(view.state, "succeeded", "{view:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c11_a_retry_makes_the_call_again_that_the_run_failed_on_and_a_resume_goes_on_without_it() {
    for again in [true, false] {
        let store = Arc::new(MemoryStore::new());
        let model = ScriptedModel::new(vec![
            Says::Calls(vec![("count", "{}"), ("other", "{}")]),
            Says::Text("done"),
        ]);
        let tool = CountingTool::new("count", Effect::Once);
        let other = CountingTool::new("other", Effect::Once);
        tool.breaks(ErrorClass::Unavailable);
        let critical = |spec: &mut AgentSpec| spec.critical_tools = vec!["count".to_owned()];
        let runtime = start(&store, &model, &[&tool, &other], critical).await;
        let run = submit(&runtime).await;
        assert_eq!(ended(&runtime, run).await.state, "failed");
        tool.breaks(None);
        // Until the breaker lets calls through again.
        tokio::time::sleep(Duration::from_secs(300)).await;
        let by = "ada".to_owned();
        let view = if again {
            retry(&runtime, run).await
        } else {
            runtime.resume(ResumeRun { run, by }).await.expect("resumes");
            ended(&runtime, run).await
        };
        assert_eq!(view.state, "succeeded");
        assert_eq!((tool.count(), other.count()), (usize::from(again), 1));
        let asked = model.requests.lock().last().expect("asked").messages.clone();
        let results = asked.iter().filter(|message| matches!(message, Message::Tool { .. }));
        assert_eq!(results.count(), 2, "each call has one result: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c11_a_retry_is_for_failed_runs_only() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![Says::Text("done")]);
    let runtime = start(&store, &model, &[], DEFAULTS).await;
    let run = submit(&runtime).await;
    ended(&runtime, run).await;
    let refused = runtime.retry(RetryRun { run, by: "ada".to_owned() }).await;
    assert!(matches!(refused, Err(RuntimeError::WrongState { command: "retry", .. })));
}

#[tokio::test(start_paused = true)]
async fn c11_a_fork_goes_on_from_any_event_and_leaves_its_source_alone() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![calls(), calls(), Says::Text("two")]);
    let tool = CountingTool::new("count", Effect::Idempotent);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let source = submit(&runtime).await;
    ended(&runtime, source).await;
    let before = events(&runtime, source).await;
    runtime.abandon();
    for at in 1..=before.len() as u64 {
        // It asks for nothing more: what is open is made, and the model is asked once.
        let model = ScriptedModel::new(vec![Says::Text("fork")]);
        let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
        let order = ForkRun { at: Some(at), ..fork_of(source) };
        let fork = runtime.fork(order).await.expect("forks").run;
        assert_eq!(fork.forked_from, Some(source));
        let view = ended(&runtime, fork.id).await;
        assert_eq!((view.state.as_str(), view.ending.as_deref()), ("succeeded", Some("fork")));
        let log = events(&runtime, fork.id).await;
        let (same, rest) = log.split_at(usize::try_from(at).expect("small"));
        assert_eq!(same, &before[..same.len()]);
        assert!(matches!(&rest[0], RunEvent::Forked { from, last, .. }
            if *from == source && *last == at));
        assert_eq!(events(&runtime, source).await, before, "the source is as it was");
        let keys = rest.iter().filter_map(|event| match event {
            RunEvent::ToolStarted { key, .. } => Some(key),
            _ => None,
        });
        assert!(keys.into_iter().all(|key| key.starts_with(&fork.id.to_string())), "own keys");
        runtime.abandon();
    }
}

#[tokio::test(start_paused = true)]
async fn c11_a_fork_uses_the_input_model_and_prompt_it_was_given() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![Says::Text("one")]);
    let other = ScriptedModel::new(vec![Says::Text("another")]);
    let second = Arc::clone(&other) as Arc<dyn steadfast_providers::model::Model>;
    let extend = |builder: CatalogBuilder| builder.model("other", second, true);
    let runtime = start_with(&store, &model, &[], DEFAULTS, extend).await;
    let source = submit(&runtime).await;
    ended(&runtime, source).await;
    let long = "x".repeat(10_000);
    let changes = Changes {
        input: Some(long.clone()),
        model: Some("other".to_owned()),
        instructions: Some("Be brief.".to_owned()),
    };
    let order = || ForkRun { changes: changes.clone(), key: Some("k".into()), ..fork_of(source) };
    let fork = runtime.fork(order()).await.expect("forks");
    let view = ended(&runtime, fork.run.id).await;
    assert_eq!(view.ending.as_deref(), Some("another"));
    let asked = other.requests.lock()[0].clone();
    assert_eq!(asked.system.as_deref(), Some("Be brief."));
    assert_eq!(asked.messages, [Message::User { text: long }]);
    // The same key: the same fork, and no other.
    let again = runtime.fork(order()).await.expect("known");
    assert!(fork.new && !again.new && again.run.id == fork.run.id);
    let else_ = ForkRun { key: Some("k".into()), ..fork_of(source) };
    assert!(matches!(runtime.fork(else_).await, Err(RuntimeError::KeyConflict { .. })));
    let wrong = Changes { model: Some("none".to_owned()), ..Changes::default() };
    for refused in [
        ForkRun { changes: wrong, ..fork_of(source) },
        ForkRun { at: Some(0), ..fork_of(source) },
        ForkRun { at: Some(99), ..fork_of(source) },
    ] {
        let refused = runtime.fork(refused).await.expect_err("refused");
        assert!(matches!(refused, RuntimeError::InvalidInput { .. }), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn c11_a_once_call_under_way_where_a_fork_begins_has_an_unknown_outcome_there() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![calls(), Says::Text("fork")]);
    let stuck = CountingTool::stuck("count", Effect::Once);
    let runtime = start(&store, &model, &[&stuck], DEFAULTS).await;
    let source = submit(&runtime).await;
    stuck.entered.notified().await;
    // The source runs, and goes on running.
    let fork = runtime.fork(fork_of(source)).await.expect("forks").run.id;
    assert_eq!(ended(&runtime, fork).await.state, "succeeded");
    assert_eq!(runtime.run(source).await.expect("there").state, "running");
    assert_eq!(stuck.count(), 1, "the fork has not called it");
    let unknown = events(&runtime, fork).await.into_iter().any(|event| {
        matches!(event, RunEvent::ToolFinished { outcome: ToolOutcome::OutcomeUnknown, .. })
    });
    assert!(unknown);
}

fn undo_rule(tool: &str) -> Compensation {
    let arguments = json!({ "n": "{n}" }).as_object().cloned().expect("an object");
    Compensation { tool: tool.to_owned(), arguments }
}

#[tokio::test(start_paused = true)]
async fn c11_a_rollback_undoes_what_it_can_the_last_first_and_tells_the_model_what_it_cannot() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![
        Says::Calls(vec![("count", r#"{"n":1}"#)]),
        Says::Calls(vec![("count", r#"{"n":2}"#), ("count", r#"{"n":3}"#), ("other", "{}")]),
        Says::Fails(ErrorClass::Authentication, None),
        Says::Text("again"),
    ]);
    let tool = CountingTool::new("count", Effect::Once);
    let other = CountingTool::new("other", Effect::Once);
    let undo = CountingTool::new("uncount", Effect::Idempotent);
    let extend = |builder: CatalogBuilder| builder.compensate("count", undo_rule("uncount"));
    let runtime = start_with(&store, &model, &[&tool, &other, &undo], DEFAULTS, extend).await;
    let run = submit(&runtime).await;
    assert_eq!(ended(&runtime, run).await.state, "failed");
    let kept = runtime.checkpoints(run).await.expect("lists");
    let first = seq_of(&runtime, run, |event| matches!(event, RunEvent::Progressed { .. })).await;
    assert!(kept.iter().any(|checkpoint| checkpoint.seq == first && checkpoint.problem.is_none()));
    let told = runtime.rollback(back(run, Some(first))).await.expect("rolls back");
    assert_eq!((told.undo.len(), told.left.len()), (2, 1));
    let view = ended(&runtime, run).await;
    assert_eq!((view.state.as_str(), view.ending.as_deref()), ("succeeded", Some("again")));
    let undone: Vec<_> = undo.arguments.lock().iter().map(|sent| sent["n"].clone()).collect();
    assert_eq!(undone, [json!(3), json!(2)]);
    let keys = tool.keys.lock().clone();
    let undo_keys = [format!("{}-undo", keys[2]), format!("{}-undo", keys[1])];
    assert_eq!(*undo.keys.lock(), undo_keys);
    let asked = model.requests.lock().last().expect("asked").messages.clone();
    assert_eq!(asked.len(), 4, "input, call, result, and what was taken back: {asked:?}");
    let Some(Message::User { text }) = asked.last() else { panic!("told last: {asked:?}") };
    assert!(text.contains("`other` was NOT undone"), "{text}");
    assert!(text.contains("`count` was undone by `uncount`"), "{text}");
    let folded = runtime.fold(run).await.expect("folds");
    assert_eq!(folded.iterations, 3, "what was spent stays spent");
    // The same again from the log alone, without checkpoints; each of them is what it folds to.
    let head = store.head(run).await.expect("reads").expect("there");
    let flaws = audit(store.as_ref(), &head).await.expect("reads");
    assert!(flaws.is_empty(), "{flaws:?}");
}

#[tokio::test(start_paused = true)]
async fn c11_a_rollback_into_the_middle_of_an_answer_makes_again_what_was_undone_with_another_key()
{
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![
        Says::Calls(vec![("count", r#"{"n":1}"#), ("other", "{}")]),
        Says::Fails(ErrorClass::Authentication, None),
        Says::Text("again"),
    ]);
    let tool = CountingTool::new("count", Effect::Once);
    let other = CountingTool::new("other", Effect::Once);
    let undo = CountingTool::new("uncount", Effect::Idempotent);
    let extend = |builder: CatalogBuilder| builder.compensate("count", undo_rule("uncount"));
    let runtime = start_with(&store, &model, &[&tool, &other, &undo], DEFAULTS, extend).await;
    let run = submit(&runtime).await;
    ended(&runtime, run).await;
    let asked =
        seq_of(&runtime, run, |event| matches!(event, RunEvent::ModelAnswered { .. })).await;
    runtime.rollback(back(run, Some(asked))).await.expect("rolls back");
    assert_eq!(ended(&runtime, run).await.state, "succeeded");
    let keys = tool.keys.lock().clone();
    assert!(keys.len() == 2 && keys[0] != keys[1], "undone, and made again: {keys:?}");
    assert_eq!((undo.count(), other.count()), (1, 1), "what stays done is not done twice");
    let asked = model.requests.lock().last().expect("asked").messages.clone();
    let results = asked.iter().filter(|message| matches!(message, Message::Tool { .. }));
    assert_eq!(results.count(), 2, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn c11_a_rollback_stops_what_is_under_way_and_can_leave_the_run_paused() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![calls(), Says::Text("again")]);
    let stuck = CountingTool::stuck("count", Effect::Once);
    let undo = CountingTool::new("uncount", Effect::Idempotent);
    let extend = |builder: CatalogBuilder| builder.compensate("count", undo_rule("uncount"));
    let runtime = start_with(&store, &model, &[&stuck, &undo], DEFAULTS, extend).await;
    let run = submit(&runtime).await;
    stuck.entered.notified().await;
    let order = RollbackRun { pause: true, ..back(run, Some(1)) };
    let told = runtime.rollback(order).await.expect("rolls back");
    assert_eq!(told.undo.len(), 1, "it may have taken effect");
    assert_eq!(runtime.run(run).await.expect("there").state, "paused");
    assert_eq!(undo.count(), 0);
    runtime.resume(ResumeRun { run, by: "ada".to_owned() }).await.expect("resumes");
    assert_eq!(ended(&runtime, run).await.state, "succeeded");
    assert_eq!((undo.count(), stuck.count()), (1, 1));
    // Going back to the same place once more undoes nothing twice, whatever it says.
    let refused = runtime.rollback(back(run, Some(1))).await;
    assert!(matches!(refused, Err(RuntimeError::WrongState { .. })));
}

#[tokio::test(start_paused = true)]
async fn c11_a_rollback_to_what_an_earlier_one_took_back_is_refused_and_makes_no_call_twice() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![
        calls(),
        Says::Fails(ErrorClass::Authentication, None),
        Says::Fails(ErrorClass::Authentication, None),
        Says::Text("again"),
    ]);
    let tool = CountingTool::new("count", Effect::Once);
    let runtime = start(&store, &model, &[&tool], DEFAULTS).await;
    let run = submit(&runtime).await;
    assert_eq!(ended(&runtime, run).await.state, "failed");
    let asked =
        seq_of(&runtime, run, |event| matches!(event, RunEvent::ModelAnswered { .. })).await;
    let told = runtime.rollback(back(run, Some(1))).await.expect("rolls back");
    assert_eq!(told.left.len(), 1, "nothing undoes it");
    assert_eq!(ended(&runtime, run).await.state, "failed");
    let refused = runtime.rollback(back(run, Some(asked))).await;
    let Err(RuntimeError::InvalidInput { problem }) = refused else { panic!("{refused:?}") };
    assert!(problem.contains("was taken back"), "{problem}");
    let told = runtime.rollback(back(run, None)).await.expect("finds a place that counts");
    assert!(told.to == 1 || told.to > asked + 2, "{told:?}");
    assert_eq!(ended(&runtime, run).await.state, "succeeded");
    assert_eq!(tool.count(), 1, "it was left in effect, and is not made again");
}

#[tokio::test(start_paused = true)]
async fn c11_what_was_under_way_and_has_been_undone_is_not_undone_by_the_next_rollback() {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(vec![
        calls(),
        Says::Fails(ErrorClass::Authentication, None),
        Says::Text("again"),
    ]);
    let stuck = CountingTool::stuck("count", Effect::Once);
    let undo = CountingTool::new("uncount", Effect::Once);
    let extend = |builder: CatalogBuilder| builder.compensate("count", undo_rule("uncount"));
    let runtime = start_with(&store, &model, &[&stuck, &undo], DEFAULTS, extend).await;
    let run = submit(&runtime).await;
    stuck.entered.notified().await;
    runtime.rollback(back(run, Some(1))).await.expect("rolls back");
    assert_eq!(ended(&runtime, run).await.state, "failed");
    let amid = seq_of(&runtime, run, |event| matches!(event, RunEvent::RolledBack { .. })).await;
    let refused = runtime.rollback(back(run, Some(amid))).await;
    assert!(matches!(refused, Err(RuntimeError::InvalidInput { .. })), "{refused:?}");
    let told = runtime.rollback(back(run, Some(1))).await.expect("rolls back again");
    assert!(told.undo.is_empty() && told.left.is_empty(), "{told:?}");
    assert_eq!(ended(&runtime, run).await.state, "succeeded");
    assert_eq!((stuck.count(), undo.count()), (1, 1));
}

#[test]
fn an_event_keeps_its_time_in_json_when_it_tells_of_a_fork() {
    let event = RunEvent::Forked {
        from: RunId::from_bytes([7; 16]),
        last: 3,
        changes: Changes::default(),
        by: "ada".to_owned(),
    };
    let view = EventView { seq: 4, at: Timestamp(1_700_000_000_000), event };
    let text = serde_json::to_string(&view).expect("writes");
    assert_eq!(text.matches("\"at\"").count(), 1, "{text}");
    assert_eq!(serde_json::from_str::<EventView>(&text).expect("reads"), view);
}

/// A run whose `once` call is interrupted, with a rule for that; the tool is whole again then.
async fn interrupted(
    rule: UnknownRule,
    script: Vec<Says>,
    says: &str,
) -> (Runtime, RunId, Arc<CountingTool>) {
    let store = Arc::new(MemoryStore::new());
    let model = ScriptedModel::new(script);
    let stuck = CountingTool::stuck("count", Effect::Once);
    let check = CountingTool::new("check", Effect::Read);
    check.says.lock().content = says.to_owned();
    let with = rule.clone();
    let extend = move |builder: CatalogBuilder| builder.unknown("count", with);
    let first = start_with(&store, &model, &[&stuck, &check], DEFAULTS, extend).await;
    let run = submit(&first).await;
    stuck.entered.notified().await;
    first.abandon();
    let tool = CountingTool::new("count", Effect::Once);
    tool.keys.lock().extend(stuck.keys.lock().iter().cloned());
    let extend = move |builder: CatalogBuilder| builder.unknown("count", rule);
    let second = start_with(&store, &model, &[&tool, &check], DEFAULTS, extend).await;
    (second, run, tool)
}

fn verify(otherwise: &str) -> UnknownRule {
    let arguments = json!({ "n": "{n}" });
    let rule =
        json!({ "then": "verify", "with": "check", "arguments": arguments, "else": otherwise });
    serde_json::from_value(rule).expect("a rule")
}

fn two() -> Vec<Says> {
    vec![calls(), Says::Text("done")]
}

async fn content(runtime: &Runtime, run: RunId) -> Vec<String> {
    let folded = runtime.fold(run).await.expect("folds");
    let contents = folded.messages.into_iter().filter_map(|message| match message {
        Message::Tool { content, .. } => Some(content),
        Message::User { .. } | Message::Assistant { .. } => None,
    });
    contents.collect()
}

#[tokio::test(start_paused = true)]
async fn r11_a_verifying_tool_decides_what_an_interrupted_call_counts_as() {
    let (runtime, run, tool) = interrupted(verify("tell"), two(), r#"{"happened":true}"#).await;
    assert_eq!(ended(&runtime, run).await.state, "succeeded");
    assert_eq!(
        (tool.count(), content(&runtime, run).await),
        (0, vec![r#"{"happened":true}"#.to_owned()])
    );

    let (runtime, run, tool) = interrupted(verify("tell"), two(), r#"{"happened":false}"#).await;
    assert_eq!(ended(&runtime, run).await.state, "succeeded");
    assert_eq!((tool.count(), content(&runtime, run).await), (1, vec!["counted".to_owned()]));
    let keys = tool.keys.lock().clone();
    assert_eq!(keys[0], keys[1], "made again with the same key");

    let (runtime, run, tool) = interrupted(verify("fail"), two(), "no idea").await;
    let view = ended(&runtime, run).await;
    assert_eq!((view.stop.as_deref(), tool.count()), (Some("outcome_unknown"), 0));
}

#[tokio::test(start_paused = true)]
async fn r11_a_run_that_fails_on_an_unknown_outcome_makes_the_call_again_when_it_is_retried() {
    let (runtime, run, tool) = interrupted(UnknownRule::Fail, two(), "").await;
    assert_eq!(ended(&runtime, run).await.stop.as_deref(), Some("outcome_unknown"));
    assert_eq!(retry(&runtime, run).await.state, "succeeded");
    let keys = tool.keys.lock().clone();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn r11_a_person_who_is_asked_decides_once_and_the_answer_outlives_the_node() {
    for (verdict, again, state) in [
        (Verdict::Happened, 0, "succeeded"),
        (Verdict::DidNot, 1, "succeeded"),
        (Verdict::Fail, 0, "failed"),
    ] {
        let (runtime, run, tool) = interrupted(UnknownRule::Ask, two(), "").await;
        reaches(&runtime, run, "waiting").await;
        let asked = runtime.fold(run).await.expect("folds").asked().cloned().expect("asks");
        let answer = |call_id: &str, verdict| AnswerCall {
            run,
            call_id: call_id.to_owned(),
            verdict,
            result: Some("it is there".to_owned()),
            by: "ada".to_owned(),
        };
        let wrong = runtime.answer(answer("c9", verdict)).await.expect_err("another call");
        assert!(wrong.to_string().contains(&asked.call.id), "{wrong}");
        // Waking it changes nothing: it asks the same again.
        runtime.resume(ResumeRun { run, by: "ada".to_owned() }).await.expect("resumes");
        reaches(&runtime, run, "waiting").await;
        assert!(runtime.answer(answer(&asked.call.id, verdict)).await.expect("answers"));
        assert_eq!(ended(&runtime, run).await.state, state, "{verdict:?}");
        assert_eq!(tool.count(), again);
        if verdict == Verdict::Happened {
            assert_eq!(content(&runtime, run).await, ["it is there"]);
        }
        let late = runtime.answer(answer(&asked.call.id, Verdict::DidNot)).await;
        assert!(late.is_err(), "answered once: {late:?}");
    }
}
