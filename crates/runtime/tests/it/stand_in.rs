//! What stands in for a model or a tool that gives no answer, and what protects expensive ones.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_guard::{AnomalyPolicy, BudgetPolicy, Effect, ErrorClass};
use steadfast_providers::model::{Message, Model};
use steadfast_providers::tool::ToolOutput;
use steadfast_runtime::event::{Degraded, ToolOutcome};
use steadfast_runtime::{
    AnswerChecks, CatalogBuilder, Ending, ExpenseRule, FallbackRule, PreparedAnswer, ResumeRun,
    Run, RunEvent, RunView, Runtime, SubmitRun,
};
use steadfast_store::{MemoryStore, RunFilter};
use tokio::time::advance;

use crate::world::{CountingTool, Says, ScriptedModel, start_with};

/// Ends one run of the worker.
async fn run_once(runtime: &Runtime) -> (RunView, Run, Vec<RunEvent>) {
    let submitted = runtime.submit(SubmitRun::new("worker", "Can I have a refund?")).await;
    let view = runtime.wait(submitted.expect("accepted").run.id).await.expect("ends");
    let run = runtime.fold(view.id).await.expect("folds");
    let events = runtime.events(view.id, 0, 500).await.expect("reads");
    (view, run, events.into_iter().map(|view| view.event).collect())
}

/// What stood in, in the order in which it did.
fn stood_in(events: &[RunEvent]) -> Vec<Degraded> {
    let each = events.iter().filter_map(|event| match event {
        RunEvent::ModelAnswered { degraded, .. } | RunEvent::ToolFinished { degraded, .. } => {
            degraded.clone()
        }
        _ => None,
    });
    each.collect()
}

/// The results of tool calls: how each ended, and what the model was told.
fn results(events: &[RunEvent]) -> Vec<(ToolOutcome, String)> {
    let each = events.iter().filter_map(|event| match event {
        RunEvent::ToolFinished { outcome, content, .. } => Some((*outcome, content.clone())),
        _ => None,
    });
    each.collect()
}

fn to(names: &[&str]) -> FallbackRule {
    FallbackRule { to: names.iter().map(ToString::to_string).collect(), ..FallbackRule::default() }
}

fn ready(words: &[&str], answer: &str) -> PreparedAnswer {
    let words = words.iter().map(ToString::to_string).collect();
    PreparedAnswer { words, answer: answer.to_owned() }
}

/// A runtime with a model `m` and a model `backup`.
async fn two_models(
    first: Vec<Says>,
    backup: Vec<Says>,
    rule: FallbackRule,
) -> (Runtime, Arc<ScriptedModel>, Arc<ScriptedModel>) {
    let store = Arc::new(MemoryStore::new());
    let (first, backup) = (ScriptedModel::new(first), ScriptedModel::new(backup));
    let other = Arc::clone(&backup) as Arc<dyn Model>;
    let extend =
        |builder: CatalogBuilder| builder.model("backup", other, true).fallback("model:m", rule);
    let runtime = start_with(&store, &first, &[], |_| {}, extend).await;
    (runtime, first, backup)
}

#[tokio::test(start_paused = true)]
async fn r13_a_backup_answers_for_a_model_that_cannot_and_the_answer_says_so() {
    let wrong_key = Says::Fails(ErrorClass::Authentication, None);
    let (runtime, ..) = two_models(vec![wrong_key], vec![Says::Text("yes")], to(&["backup"])).await;
    let (view, run, events) = run_once(&runtime).await;
    assert_eq!((view.state.as_str(), view.degraded), ("succeeded", 1));
    assert_eq!(run.ending, Some(Ending::Succeeded { output: "yes".to_owned() }));
    let [degraded] = stood_in(&events).try_into().expect("one");
    assert_eq!(degraded.way, "model:backup");
    assert!(degraded.reason.contains("model:m: `model:m` failed after 1"), "{}", degraded.reason);
    let snapshots = runtime.catalog().guards().map(steadfast_guard::Guard::snapshot);
    assert!(snapshots.into_iter().all(|snapshot| snapshot.retrying == 0), "places are given back");
}

#[tokio::test(start_paused = true)]
async fn r13_an_answer_that_does_not_pass_the_checks_is_paid_for_and_does_not_count() {
    let check = AnswerChecks { min_chars: 3, refusals: vec!["I cannot".to_owned()] };
    let rule = FallbackRule { check, ..to(&["backup"]) };
    let refusal = vec![Says::Text("i cannot help with that")];
    let (runtime, ..) = two_models(refusal, vec![Says::Text("30 days")], rule).await;
    let (view, run, events) = run_once(&runtime).await;
    assert_eq!(view.ending.as_deref(), Some("30 days"));
    assert!(stood_in(&events)[0].reason.contains("refusal"), "{events:?}");
    assert_eq!((run.usage.input_total(), run.usage.output), (20, Some(10)), "both answers");
}

#[tokio::test(start_paused = true)]
async fn r14_a_prepared_answer_is_the_last_way_and_without_one_the_run_says_what_was_tried() {
    let down = || Says::Fails(ErrorClass::Authentication, None);
    let prepared = vec![ready(&["refund"], "Within 30 days."), ready(&[], "Later, please.")];
    let rule = FallbackRule { prepared, ..to(&["backup"]) };
    let (runtime, ..) = two_models(vec![down()], vec![down()], rule).await;
    let (view, _, events) = run_once(&runtime).await;
    assert_eq!(
        (view.state.as_str(), view.ending.as_deref()),
        ("succeeded", Some("Within 30 days."))
    );
    assert_eq!(stood_in(&events)[0].way, "prepared answer");
    assert_eq!(view.model.as_deref(), Some("prepared answer"));

    let (runtime, ..) = two_models(vec![down()], vec![down()], to(&["backup"])).await;
    let (view, ..) = run_once(&runtime).await;
    assert_eq!((view.state.as_str(), view.stop.as_deref()), ("failed", Some("authentication")));
    let told = view.ending.expect("told");
    assert!(told.contains("model:m:") && told.contains("model:backup:"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn r14_a_run_waits_only_if_every_way_is_to_be_left_alone_and_only_for_the_first_of_them() {
    let limited =
        |seconds| Says::Fails(ErrorClass::RateLimited, Some(Duration::from_secs(seconds)));
    let first = vec![limited(3_600), Says::Text("never asked")];
    let backup = vec![limited(600), Says::Text("after ten minutes")];
    let (runtime, first, _) = two_models(first, backup, to(&["backup"])).await;
    let (view, _, events) = run_once(&runtime).await;
    assert_eq!(view.ending.as_deref(), Some("after ten minutes"));
    assert!(events.iter().any(|event| matches!(event, RunEvent::Parked { .. })), "{events:?}");
    assert_eq!(first.requests.lock().len(), 1, "its cooldown still holds");
}

#[tokio::test(start_paused = true)]
async fn r14_a_conversation_that_is_too_long_is_shortened_and_asked_again_once() {
    let store = Arc::new(MemoryStore::new());
    let mut script: Vec<_> = (0..8).map(|_| Says::Calls(vec![("look", "{}")])).collect();
    script.extend([Says::Fails(ErrorClass::ContextTooLong, None), Says::Text("done")]);
    let model = ScriptedModel::new(script);
    let tool = CountingTool::new("look", Effect::Read);
    *tool.says.lock() = ToolOutput::text("x".repeat(20_000));
    let rule = FallbackRule { compact: true, ..FallbackRule::default() };
    let extend = |builder: CatalogBuilder| builder.fallback("model:m", rule);
    let runtime = start_with(&store, &model, &[&tool], |_| {}, extend).await;
    let (view, run, events) = run_once(&runtime).await;
    assert_eq!((view.state.as_str(), view.degraded), ("succeeded", 1));
    assert!(stood_in(&events)[0].reason.contains("too long for the model"), "{events:?}");
    let requests = model.requests.lock();
    let size = |messages: &[Message]| format!("{messages:?}").len();
    let [long, short] = [8, 9].map(|place| size(&requests[place].messages));
    assert!(short * 2 <= long + 500, "{long} became {short}");
    let whole = run
        .messages
        .iter()
        .filter(|m| matches!(m, Message::Tool { content, .. } if content.len() == 20_000));
    assert_eq!(whole.count(), 8, "the run keeps the whole conversation");
}

/// A runtime with tools and a model that calls `calls` one after the other and then says `done`.
async fn with_tools(
    calls: &[(&'static str, &'static str)],
    tools: &[&Arc<CountingTool>],
    extend: impl FnOnce(CatalogBuilder) -> CatalogBuilder,
) -> Runtime {
    let script = calls.iter().map(|call| Says::Calls(vec![*call])).chain([Says::Text("done")]);
    let model = ScriptedModel::new(script.collect());
    start_with(&Arc::new(MemoryStore::new()), &model, tools, |_| {}, extend).await
}

#[tokio::test(start_paused = true)]
async fn r14_the_last_good_result_stands_in_for_a_search_while_it_is_young() {
    let tool = CountingTool::new("look", Effect::Read);
    let cached = Some(Duration::from_secs(600));
    let rule = FallbackRule { cached, ..FallbackRule::default() };
    let script =
        (0..4).flat_map(|_| [Says::Calls(vec![("look", r#"{"n":1}"#)]), Says::Text("done")]);
    let model = ScriptedModel::new(script.collect());
    let extend = |builder: CatalogBuilder| builder.fallback("tool:look", rule);
    let store = Arc::new(MemoryStore::new());
    let runtime = start_with(&store, &model, &[&tool], |_| {}, extend).await;
    let (view, ..) = run_once(&runtime).await;
    assert_eq!((view.degraded, tool.count()), (0, 1));
    tool.breaks(ErrorClass::Permission);
    advance(Duration::from_secs(125)).await;
    let (view, _, events) = run_once(&runtime).await;
    assert_eq!(view.degraded, 1);
    let (outcome, told) = results(&events).remove(0);
    assert_eq!(outcome, ToolOutcome::Done);
    assert!(told.starts_with("[degraded: cached result, 2m old, because look: "), "{told}");
    assert!(told.ends_with("]\ncounted"), "{told}");
    advance(Duration::from_secs(600)).await;
    let (.., events) = run_once(&runtime).await;
    assert_eq!(results(&events)[0].0, ToolOutcome::Failed, "too old by now");
}

#[tokio::test(start_paused = true)]
async fn r14_a_substitute_is_called_with_the_same_arguments_and_marked() {
    let look = CountingTool::new("look", Effect::Read);
    let local = CountingTool::new("local", Effect::Read);
    look.breaks(ErrorClass::Server);
    let rule = to(&["local"]);
    let calls = [("look", r#"{"n":1}"#)];
    let extend = |builder: CatalogBuilder| builder.fallback("tool:look", rule);
    let runtime = with_tools(&calls, &[&look, &local], extend).await;
    let (view, _, events) = run_once(&runtime).await;
    assert_eq!((view.degraded, look.count(), local.count()), (1, 0, 1));
    assert_eq!(stood_in(&events)[0].way, "local");
    assert_eq!(results(&events)[0].0, ToolOutcome::Done);
}

/// Waits until another run than the given one is over.
async fn queued_run(runtime: &Runtime, beside: &RunView) -> RunView {
    let list = runtime.list(RunFilter::default()).await.expect("lists");
    let other = list.runs.iter().find(|run| run.id != beside.id).expect("there is another run");
    runtime.wait(other.id).await.expect("ends")
}

fn queue(seconds: u64) -> FallbackRule {
    FallbackRule { queue: Some(Duration::from_secs(seconds)), ..FallbackRule::default() }
}

#[tokio::test(start_paused = true)]
async fn r14_a_payment_that_cannot_be_made_is_queued_the_user_is_told_and_it_is_made_once() {
    let pay = CountingTool::new("pay", Effect::Idempotent);
    pay.breaks(ErrorClass::Timeout);
    let calls = [("pay", r#"{"n":5}"#)];
    let extend = |builder: CatalogBuilder| builder.fallback("tool:pay", queue(86_400));
    let runtime = with_tools(&calls, &[&pay], extend).await;
    let (view, run, events) = run_once(&runtime).await;
    assert_eq!((view.state.as_str(), view.degraded, pay.count()), ("succeeded", 1, 0));
    let (outcome, told) = results(&events).remove(0);
    assert_eq!(outcome, ToolOutcome::Queued);
    assert!(told.contains("NOT done yet") && told.contains("tell the user"), "{told}");
    assert!(matches!(&run.messages[2], Message::Tool { is_error: false, .. }));

    let list = runtime.list(RunFilter::default()).await.expect("lists");
    let other = list.runs.iter().find(|run| run.id != view.id).expect("the queued run");
    assert!(told.contains(&other.id.to_string()) && other.input.contains(&view.id.to_string()));
    while runtime.run(other.id).await.expect("there").state != "waiting" {
        tokio::task::yield_now().await;
    }
    pay.breaks(None);
    let done = queued_run(&runtime, &view).await;
    assert_eq!((done.state.as_str(), done.ending.as_deref()), ("succeeded", Some("counted")));
    assert_eq!(pay.count(), 1);
    let key = run.messages.len();
    assert_eq!(key, 4, "task, call, result, answer");
    let started = events.iter().find_map(|event| match event {
        RunEvent::ToolStarted { key, .. } => Some(key.clone()),
        _ => None,
    });
    assert_eq!(Some(&pay.keys.lock()[0]), started.as_ref(), "one key for all tries");
}

#[tokio::test(start_paused = true)]
async fn r14_a_change_whose_outcome_is_unknown_is_never_queued() {
    let pay = CountingTool::new("pay", Effect::Once);
    pay.breaks(ErrorClass::Timeout);
    let backup = CountingTool::new("backup", Effect::Once);
    let rule = FallbackRule { ..queue(60) };
    let rule = FallbackRule { to: vec!["backup".to_owned()], ..rule };
    let extend = |builder: CatalogBuilder| builder.fallback("tool:pay", rule);
    let runtime = with_tools(&[("pay", "{}")], &[&pay, &backup], extend).await;
    let (_, _, events) = run_once(&runtime).await;
    assert_eq!(results(&events)[0].0, ToolOutcome::OutcomeUnknown);
    assert_eq!(backup.count(), 0, "it could be done twice");
    let list = runtime.list(RunFilter::default()).await.expect("lists");
    assert_eq!(list.runs.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn r14_a_queued_call_is_given_up_when_its_time_is_over_and_a_person_may_resume_it() {
    let pay = CountingTool::new("pay", Effect::Once);
    pay.breaks(ErrorClass::Unavailable);
    let extend = |builder: CatalogBuilder| builder.fallback("tool:pay", queue(300));
    let runtime = with_tools(&[("pay", "{}")], &[&pay], extend).await;
    let (view, ..) = run_once(&runtime).await;
    let failed = queued_run(&runtime, &view).await;
    assert_eq!((failed.state.as_str(), failed.stop.as_deref()), ("failed", Some("timeout")));
    let told = failed.ending.expect("told");
    assert!(told.contains("pay") && told.contains("Resume this run"), "{told}");
    assert_eq!(pay.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn r14_a_queued_call_that_the_tool_refuses_fails_and_can_be_resumed() {
    let pay = CountingTool::new("pay", Effect::Once);
    pay.breaks(ErrorClass::Unavailable);
    let extend = |builder: CatalogBuilder| builder.fallback("tool:pay", queue(3_600));
    let runtime = with_tools(&[("pay", "{}")], &[&pay], extend).await;
    let (view, ..) = run_once(&runtime).await;
    *pay.says.lock() = ToolOutput { is_error: true, ..ToolOutput::text("card expired".to_owned()) };
    pay.breaks(None);
    let failed = queued_run(&runtime, &view).await;
    assert_eq!(failed.state, "failed");
    assert!(failed.ending.expect("told").contains("card expired"));
    *pay.says.lock() = ToolOutput::text("paid".to_owned());
    let by = "ada".to_owned();
    runtime.resume(ResumeRun { run: failed.id, by }).await.expect("resumes");
    let done = runtime.wait(failed.id).await.expect("ends");
    assert_eq!((done.state.as_str(), done.ending.as_deref()), ("succeeded", Some("paid")));
}

#[tokio::test(start_paused = true)]
async fn r14_whoever_is_to_be_told_is_told_how_a_queued_call_ended_and_once() {
    for (mended, state, words) in [
        (Some(None), "succeeded", "is done: counted"),
        (Some(Some(ErrorClass::InvalidRequest)), "failed", "was NOT done"),
        (None, "failed", "was NOT done: it could not be made in time"),
    ] {
        let pay = CountingTool::new("pay", Effect::Once);
        let mail = CountingTool::new("mail", Effect::Once);
        pay.breaks(ErrorClass::Unavailable);
        let rule = FallbackRule { notify: Some("mail".to_owned()), ..queue(3_600) };
        let (other, model) =
            (Arc::clone(&mail), vec![Says::Calls(vec![("pay", "{}")]), Says::Text("ok")]);
        let extend = |builder: CatalogBuilder| builder.fallback("tool:pay", rule).tool(other);
        let (store, model) = (Arc::new(MemoryStore::new()), ScriptedModel::new(model));
        // the agent itself may not call `mail`
        let runtime = start_with(&store, &model, &[&pay], |_| {}, extend).await;
        let (view, ..) = run_once(&runtime).await;
        assert_eq!(mail.count(), 0, "nothing has ended yet");
        if let Some(class) = mended {
            pay.breaks(class);
        }
        let ended = queued_run(&runtime, &view).await;
        assert_eq!((ended.state.as_str(), mail.count()), (state, 1), "{words}");
        let told = mail.arguments.lock()[0]["message"].as_str().expect("a text").to_owned();
        assert!(told.contains(words) && told.contains(&view.id.to_string()), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn r14_a_model_cannot_reach_a_tool_by_calling_its_call_a_notice() {
    let (store, mail) = (Arc::new(MemoryStore::new()), CountingTool::new("mail", Effect::Once));
    let model = ScriptedModel::new(vec![Says::Named("notice", "mail"), Says::Text("ok")]);
    let other = Arc::clone(&mail);
    let extend = |builder: CatalogBuilder| builder.tool(other);
    let runtime = start_with(&store, &model, &[], |_| {}, extend).await;
    let (.., events) = run_once(&runtime).await;
    assert_eq!((results(&events)[0].0, mail.count()), (ToolOutcome::Invalid, 0));
}

fn expensive(rule: ExpenseRule) -> impl FnOnce(CatalogBuilder) -> CatalogBuilder {
    |builder: CatalogBuilder| builder.expensive("research", rule)
}

#[tokio::test(start_paused = true)]
async fn r15_a_run_makes_no_more_calls_than_its_budget_and_a_cheaper_tool_takes_over() {
    let research = CountingTool::new("research", Effect::Read);
    let search = CountingTool::new("search", Effect::Read);
    let rule = ExpenseRule { calls_per_run: Some(2), ..ExpenseRule::default() };
    let both = vec![("research", r#"{"n":1}"#), ("research", r#"{"n":2}"#)];
    let script = vec![Says::Calls(both.clone()), Says::Calls(both), Says::Text("done")];
    let model = ScriptedModel::new(script);
    let extend = |builder: CatalogBuilder| {
        expensive(rule)(builder).fallback("tool:research", to(&["search"]))
    };
    let store = Arc::new(MemoryStore::new());
    let runtime = start_with(&store, &model, &[&research, &search], |_| {}, extend).await;
    let (view, run, events) = run_once(&runtime).await;
    assert_eq!((research.count(), search.count(), view.degraded), (2, 2, 2));
    assert_eq!(run.calls.get("research"), Some(&2));
    assert!(stood_in(&events)[0].reason.contains("calls_per_run"), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn r15_a_pre_check_refuses_a_call_before_it_costs() {
    let research = CountingTool::new("research", Effect::Read);
    let check = CountingTool::new("check", Effect::Read);
    *check.says.lock() = ToolOutput { is_error: true, ..ToolOutput::text("too vague".to_owned()) };
    let pre_check_tool = Some("check".to_owned());
    let rule = ExpenseRule { pre_check_tool, ..ExpenseRule::default() };
    let calls = [("research", "{}"), ("research", "{}")];
    let runtime = with_tools(&calls, &[&research, &check], expensive(rule)).await;
    let (.., events) = run_once(&runtime).await;
    let (outcome, told) = results(&events).remove(0);
    assert_eq!((outcome, research.count(), check.count()), (ToolOutcome::Failed, 0, 2));
    assert!(told.contains("too vague") && told.contains("pre-check"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn r15_the_budget_of_all_runs_refuses_and_frees_itself_and_an_alert_is_told_once() {
    let research = CountingTool::new("research", Effect::Read);
    let window = Duration::from_secs(3_600);
    let budget = Some(BudgetPolicy { calls: None, cost: Some(100), window });
    let anomaly = Some(AnomalyPolicy { max_calls: Some(1), ..AnomalyPolicy::default() });
    let rule = ExpenseRule { cost_per_call: 40, budget, anomaly, ..ExpenseRule::default() };
    let alerts = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&alerts);
    let calls = [("research", "{}"); 3];
    let extend = |builder: CatalogBuilder| {
        expensive(rule)(builder).on_alert(move |alert| told.lock().push(alert.to_string()))
    };
    let runtime = with_tools(&calls, &[&research], extend).await;
    let (.., events) = run_once(&runtime).await;
    let results = results(&events);
    assert_eq!(research.count(), 2, "the third would pass 100");
    assert!(results[2].1.contains("budget `research` holds 100 cost units"), "{results:?}");
    assert_eq!(alerts.lock().len(), 1, "{:?}", alerts.lock());
}

#[tokio::test(start_paused = true)]
async fn r15_a_call_that_never_left_costs_nothing() {
    let research = CountingTool::new("research", Effect::Read);
    let budget = BudgetPolicy { calls: Some(1), ..BudgetPolicy::default() };
    let rule = ExpenseRule { budget: Some(budget), ..ExpenseRule::default() };
    let call = || Says::Calls(vec![("research", "{}")]);
    let script = vec![call(), Says::Text("refused"), call(), call(), Says::Text("done")];
    let model = ScriptedModel::new(script);
    let store = Arc::new(MemoryStore::new());
    let runtime = start_with(&store, &model, &[&research], |_| {}, expensive(rule)).await;
    let guard = runtime.catalog().guard("tool:research").expect("there");
    guard.force_open();
    let (.., events) = run_once(&runtime).await;
    assert_eq!(results(&events)[0].0, ToolOutcome::Unavailable);
    guard.auto();
    let (.., events) = run_once(&runtime).await;
    let outcomes: Vec<_> = results(&events).into_iter().map(|(outcome, _)| outcome).collect();
    assert_eq!(outcomes, [ToolOutcome::Done, ToolOutcome::Failed]);
    assert_eq!(research.count(), 1, "what was refused took nothing of the budget");
}

#[tokio::test(start_paused = true)]
async fn r8_models_of_one_quota_share_a_cooldown() {
    let store = Arc::new(MemoryStore::new());
    let limited = Says::Fails(ErrorClass::RateLimited, Some(Duration::from_secs(900)));
    let (first, second) = (ScriptedModel::new(vec![limited]), ScriptedModel::new(vec![]));
    let other = Arc::clone(&second) as Arc<dyn Model>;
    let extend = |builder: CatalogBuilder| {
        builder.model("second", other, true).quota("m", "org").quota("second", "org")
    };
    let runtime = start_with(&store, &first, &[], |_| {}, extend).await;
    let submitted = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted");
    while runtime.run(submitted.run.id).await.expect("there").state != "waiting" {
        tokio::task::yield_now().await;
    }
    let cooling = |name: &str| runtime.catalog().guard(name).expect("there").snapshot().cooldown_ms;
    assert!(cooling("model:second").is_some_and(|left| left > 800_000));
    assert_eq!(cooling("model:m"), cooling("model:second"));
}
