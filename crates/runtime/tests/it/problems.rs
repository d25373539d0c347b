//! What is wrong with a run is found while it goes on, shown, told once, and told again when it is over.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::Model;
use steadfast_providers::tool::Tool;
use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::{
    AgentSpec, Catalog, CatalogBuilder, Problem, ProblemHook, ProblemNotice, RunView, Runtime,
    RuntimeOptions, SubmitRun,
};
use steadfast_store::{
    Disposition, HeadUpdate, Journal as _, MemoryStore, NewEvent, NewRun, RunFilter, RunId, Store,
    Timestamp,
};

use crate::crash_store::CrashStore;
use crate::world::{CountingTool, Says, ScriptedModel};

/// What was told, in order: the problem, and whether it is over.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<ProblemNotice>>>);

impl Told {
    fn of(&self, run: RunId) -> Vec<(Problem, bool)> {
        let notices = self.0.lock();
        let of_run = notices.iter().filter(|notice| notice.run == run);
        of_run.map(|notice| (notice.problem, notice.over)).collect()
    }

    fn options(&self) -> RuntimeOptions {
        let told = self.clone();
        let hook = ProblemHook::new(move |notice| told.0.lock().push(notice.clone()));
        RuntimeOptions { on_problem: Some(hook), ..RuntimeOptions::default() }
    }
}

async fn start(store: Arc<dyn Store>, builder: CatalogBuilder, told: &Told) -> Runtime {
    let catalog = builder.build().expect("fits together");
    Runtime::start(store, catalog, told.options()).await.expect("starts")
}

fn agent(script: Vec<Says>, tool: &Arc<CountingTool>, spec: AgentSpec) -> CatalogBuilder {
    let spec = AgentSpec { tools: vec!["count".to_owned()], ..spec };
    let model = ScriptedModel::new(script) as Arc<dyn Model>;
    let tool = Arc::clone(tool) as Arc<dyn Tool>;
    Catalog::builder().model("m", model, true).agent("worker", spec).tool(tool)
}

fn calls(times: usize, arguments: &'static str) -> impl Iterator<Item = Says> {
    std::iter::repeat_with(move || Says::Calls(vec![("count", arguments)])).take(times)
}

/// Waits until a run's card shows this problem, or none.
async fn shows(runtime: &Runtime, run: RunId, problem: Option<Problem>) -> RunView {
    let word = problem.map(Problem::as_str);
    let looking = async {
        loop {
            let view = runtime.run(run).await.expect("is there");
            if view.problem.as_deref() == word {
                return view;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let limit = Duration::from_secs(3600);
    tokio::time::timeout(limit, looking).await.expect("shows it within an hour")
}

#[tokio::test(start_paused = true)]
async fn c12_a_run_that_repeats_itself_is_flagged_while_it_runs_and_told_once() {
    let tool = CountingTool::stuck("wait", Effect::Read);
    let count = CountingTool::new("count", Effect::Read);
    *count.says.lock() = steadfast_providers::tool::ToolOutput::text("same".to_owned());
    let mut script: Vec<_> = calls(4, "{}").collect();
    script.push(Says::Calls(vec![("wait", "{}")]));
    let spec = AgentSpec::new("m");
    let builder = agent(script, &count, spec.clone());
    let spec = AgentSpec { tools: vec!["count".into(), "wait".into()], ..spec };
    let builder = builder.tool(Arc::clone(&tool) as Arc<dyn Tool>).agent("worker", spec);
    let told = Told::default();
    let runtime = start(Arc::new(MemoryStore::new()), builder, &told).await;
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    tool.entered.notified().await;
    let view = runtime.run(run).await.expect("is there");
    assert_eq!((view.state.as_str(), view.problem.as_deref()), ("running", Some("repeating")));
    let detail = view.problem_detail.expect("what was seen");
    assert!(detail.contains("`count`") && detail.contains("in a row"), "{detail}");
    assert!(view.problem_since.expect("since then") >= view.created_at);
    assert_eq!(told.of(run), [(Problem::Repeating, false)]);
    let any_problem = RunFilter { any_problem: true, ..RunFilter::default() };
    assert_eq!(runtime.list(any_problem).await.expect("lists").runs.len(), 1);
    // a person has seen to it
    let cancel = steadfast_runtime::CancelRun { run, by: "ada".to_owned(), reason: None };
    runtime.cancel(cancel).await.expect("cancelled");
    shows(&runtime, run, None).await;
}

#[tokio::test(start_paused = true)]
async fn c12_repeating_is_over_when_something_else_happens() {
    let count = CountingTool::new("count", Effect::Read);
    let script = calls(3, "{}").chain(calls(1, r#"{"n":1}"#)).chain([Says::Text("done")]);
    let told = Told::default();
    let builder = agent(script.collect(), &count, AgentSpec::new("m"));
    let runtime = start(Arc::new(MemoryStore::new()), builder, &told).await;
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!((view.state.as_str(), view.problem), ("succeeded", None));
    assert_eq!(told.of(run), [(Problem::Repeating, false), (Problem::Repeating, true)]);
}

#[tokio::test(start_paused = true)]
async fn c12_an_agent_may_say_itself_what_repeats() {
    let count = CountingTool::new("count", Effect::Read);
    let script = calls(5, "{}").chain([Says::Text("done")]).collect();
    let ignore = vec!["count".to_owned()];
    let repeating = Some(steadfast_runtime::RepeatRule { ignore, ..Default::default() });
    let told = Told::default();
    let builder = agent(script, &count, AgentSpec { repeating, ..AgentSpec::new("m") });
    let runtime = start(Arc::new(MemoryStore::new()), builder, &told).await;
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    runtime.wait(run).await.expect("ends");
    assert_eq!(told.of(run), []);
}

#[tokio::test(start_paused = true)]
async fn c12_a_run_that_succeeded_without_all_that_it_asked_for_is_partial() {
    let count = CountingTool::new("count", Effect::Read);
    count.breaks(ErrorClass::InvalidRequest);
    let script = calls(1, "{}").chain([Says::Text("done, I think")]).collect();
    let told = Told::default();
    let builder = agent(script, &count, AgentSpec::new("m"));
    let runtime = start(Arc::new(MemoryStore::new()), builder, &told).await;
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!((view.state.as_str(), view.problem.as_deref()), ("succeeded", Some("partial")));
    assert!(view.problem_detail.expect("what was seen").contains("`count`"));
    assert_eq!(told.of(run), [(Problem::Partial, false)]);
}

#[tokio::test(start_paused = true)]
async fn c12_a_run_beyond_its_agents_expectation_is_costly() {
    let count = CountingTool::new("count", Effect::Read);
    // 15 tokens an answer
    let script = calls(1, "{}").chain([Says::Text("done")]).chain([Says::Text("done")]).collect();
    let told = Told::default();
    let spec = AgentSpec { tokens_expected: Some(20), ..AgentSpec::new("m") };
    let runtime = start(Arc::new(MemoryStore::new()), agent(script, &count, spec), &told).await;
    let submit = async || {
        let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
        runtime.wait(run).await.expect("ends").problem
    };
    assert_eq!(submit().await.as_deref(), Some("costly"));
    assert_eq!(submit().await, None);
}

#[tokio::test(start_paused = true)]
async fn c12_what_is_costly_is_learned_from_the_runs_before() {
    let count = CountingTool::new("count", Effect::Read);
    let usual = (0..10).map(|_| Says::Text("done"));
    let script = usual.chain(calls(5, r#"{"n":1}"#)).chain([Says::Text("done")]).collect();
    let mut options = Told::default().options();
    options.problems.costly_from = 0;
    options.problems.repeating.in_a_row = 0;
    let catalog = agent(script, &count, AgentSpec::new("m")).build().expect("fits together");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = Runtime::start(store, catalog, options).await.expect("starts");
    let submit = async || {
        let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
        runtime.wait(run).await.expect("ends").problem
    };
    for _ in 0..10 {
        assert_eq!(submit().await, None);
    }
    // what is usual is read again every few minutes
    tokio::time::sleep(Duration::from_secs(600)).await;
    // six answers of 15 tokens, where five times 15 are the limit
    assert_eq!(submit().await.as_deref(), Some("costly"));
}

/// Code that waits for what never comes, until it is told to go on.
fn forgetful(go_on: &Arc<tokio::sync::Notify>) -> CatalogBuilder {
    let go_on = Arc::clone(go_on);
    Catalog::builder().code("worker", move |run: RunContext| {
        let go_on = Arc::clone(&go_on);
        async move {
            go_on.notified().await;
            let step = run.step("late").read();
            step.call(|_| async { Ok::<_, StepError>(7) }).await
        }
    })
}

#[tokio::test(start_paused = true)]
async fn c12_a_run_of_which_nothing_is_heard_is_stuck_until_something_is() {
    let (told, go_on) = (Told::default(), Arc::new(tokio::sync::Notify::new()));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = start(Arc::clone(&store), forgetful(&go_on), &told).await;
    let run = runtime.submit(SubmitRun::new("worker", "1")).await.expect("accepted").run.id;
    let began = store.now();
    let view = shows(&runtime, run, Some(Problem::Stuck)).await;
    let waited_s = (store.now().0 - began.0) / 1000;
    assert!((330..=350).contains(&waited_s), "after its limit and the grace: {waited_s} s");
    assert_eq!(view.state, "running");
    assert!(view.problem_since.expect("since its last event").0 < began.0 + 1000);
    go_on.notify_one();
    assert_eq!(runtime.wait(run).await.expect("ends").problem, None);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(told.of(run), [(Problem::Stuck, false), (Problem::Stuck, true)]);
}

#[tokio::test(start_paused = true)]
async fn c12_a_run_that_nobody_takes_although_there_are_places_is_unclaimed() {
    let (told, memory) = (Told::default(), Arc::new(MemoryStore::new()));
    let go_on = Arc::new(tokio::sync::Notify::new());
    go_on.notify_one();
    let runtime = start(CrashStore::miser(&memory), forgetful(&go_on), &told).await;
    let run = runtime.submit(SubmitRun::new("worker", "1")).await.expect("accepted").run.id;
    shows(&runtime, run, Some(Problem::Unclaimed)).await;
    assert_eq!(told.of(run), [(Problem::Unclaimed, false)]);
    runtime.abandon();
    // the next node takes it, and takes the flag down
    let memory: Arc<dyn Store> = memory;
    let runtime = start(memory, forgetful(&go_on), &told).await;
    assert_eq!(runtime.wait(run).await.expect("ends").problem, None);
}

/// Puts a run on disk that waits until then, for an agent of this name.
async fn parked(store: &MemoryStore, agent: &str, wake_at: Option<Timestamp>) -> RunId {
    let body = format!(r#"{{"type":"submitted","agent":"{agent}","input":"1"}}"#);
    let event = |kind: &'static str, body: String| NewEvent {
        kind: kind.into(),
        version: 1,
        body: body.into(),
    };
    let head = |state: &str, disposition| HeadUpdate {
        state: state.to_owned(),
        disposition,
        problem: None,
        summary: "{}".into(),
    };
    let new = NewRun::new(
        "default".to_owned(),
        agent.to_owned(),
        vec![event("submitted", body)],
        head("waiting", Disposition::Parked { wake_at }),
    );
    let run = new.id;
    store.create(new).await.expect("created");
    run
}

#[tokio::test(start_paused = true)]
async fn c12_a_run_that_should_have_woken_is_overdue() {
    let (told, memory) = (Told::default(), Arc::new(MemoryStore::new()));
    let wake_at = Some(Timestamp(memory.now().0 + 1_000));
    let run = parked(&memory, "worker", wake_at).await;
    let go_on = Arc::new(tokio::sync::Notify::new());
    let runtime = start(CrashStore::miser(&memory), forgetful(&go_on), &told).await;
    let view = shows(&runtime, run, Some(Problem::Overdue)).await;
    assert_eq!(view.problem_since, wake_at);
    assert_eq!(told.of(run), [(Problem::Overdue, false)]);
}

#[tokio::test(start_paused = true)]
async fn c12_a_waiting_run_of_an_agent_that_is_gone_is_told_before_it_wakes() {
    let (told, memory) = (Told::default(), Arc::new(MemoryStore::new()));
    let run = parked(&memory, "gone", None).await;
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&memory);
    let go_on = Arc::new(tokio::sync::Notify::new());
    let runtime = start(store, forgetful(&go_on), &told).await;
    shows(&runtime, run, Some(Problem::UnknownAgent)).await;
    runtime.abandon();
    // configured again, the next node takes the flag down
    let memory: Arc<dyn Store> = memory;
    let runtime = start(memory, forgetful(&go_on).code("gone", async |_| Ok(1)), &told).await;
    shows(&runtime, run, None).await;
    assert_eq!(told.of(run), [(Problem::UnknownAgent, false), (Problem::UnknownAgent, true)]);
}
