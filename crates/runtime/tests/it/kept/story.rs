//! A story with every kind of event, told to a store by the runtime: agents and code that end in every way,
//! and some that have not ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::Model;
use steadfast_providers::tool::{Tool, ToolOutput};
use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::event::{Changes, Verdict};
use steadfast_runtime::{
    AgentSpec, AnswerCall, CancelRun, Catalog, CatalogBuilder, Compensation, FallbackRule, ForkRun,
    INLINE_BYTES_MAX, KeyRule, MemoryRule, MemoryScope, PauseRun, ResumeRun, RetryRun, RollbackRun,
    RunEvent, Runtime, RuntimeOptions, SignalRun, SubmitRun, UnknownRule,
};
use steadfast_store::{Caps, RunId, Store};

use crate::error_recovery::damage;
use crate::outside::{Outside, all};
use crate::world::{CountingTool, Says, ScriptedModel};

/// Who acts, over all processes of the story.
struct Cast {
    /// Agents, each with what its model says.
    agents: Vec<(&'static str, Arc<ScriptedModel>, &'static [&'static str])>,
    tools: Vec<Arc<CountingTool>>,
    outside: Outside,
    /// The code of `changed` is a newer one.
    is_changed: Arc<AtomicBool>,
}

const ADA: &str = "ada";

fn calls(calls: &[(&'static str, &'static str)]) -> Says {
    Says::Calls(calls.to_vec())
}

impl Cast {
    fn new() -> Self {
        let model = ScriptedModel::new;
        let count = || calls(&[("count", r#"{"n":2}"#)]);
        let agents: Vec<(_, _, &[&str])> = vec![
            ("clerk", model(clerk()), &["count", "look", "remember", "mail"]),
            ("judge", model((0..3).map(|_| calls(&[("pay", "{}")])).collect()), &["pay"]),
            ("undoer", model(undoer()), &["count"]),
            ("patient", model(patient()), &["look", "hold"]),
            ("buyer", model(vec![calls(&[("buy", "{}")]), Says::Text("ordered")]), &["buy"]),
            ("limited", model(vec![count()]), &["count"]),
            ("later", model(vec![]), &[]),
            ("busy", model(vec![calls(&[("hold", "{}")])]), &["hold"]),
            ("other", model(vec![Says::Text("in another way")]), &[]),
        ];
        let tools = vec![
            CountingTool::new("count", Effect::Idempotent),
            CountingTool::new("uncount", Effect::Idempotent),
            CountingTool::new("look", Effect::Read),
            CountingTool::new("mail", Effect::Once),
            CountingTool::new("buy", Effect::Idempotent),
            CountingTool::gated("pay", Effect::Once),
            CountingTool::gated("hold", Effect::Read),
        ];
        let outside = Outside::default();
        Self { agents, tools, outside, is_changed: Arc::default() }
    }

    fn tool(&self, name: &str) -> &CountingTool {
        let named = |tool: &&Arc<CountingTool>| tool.spec().definition.name == name;
        self.tools.iter().find(named).expect("of the cast")
    }

    /// What `count` did is undone by `uncount`, `pay` is judged by people, `buy` can wait.
    fn catalog(&self) -> CatalogBuilder {
        let mut builder = Catalog::builder();
        for (name, model, tools) in &self.agents {
            let mut spec = AgentSpec::new(*name);
            spec.tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
            spec.max_iterations = if *name == "limited" { 1 } else { 20 };
            let model = Arc::<ScriptedModel>::clone(model) as Arc<dyn Model>;
            builder = builder.model(*name, model, true).agent(*name, spec);
        }
        for tool in &self.tools {
            builder = builder.tool(Arc::<CountingTool>::clone(tool) as Arc<dyn Tool>);
        }
        let n = json!({ "n": "{n}" }).as_object().cloned().expect("an object");
        let queue = Some(Duration::from_secs(86_400));
        let key = KeyRule { arguments: vec!["n".to_owned()], keep: Duration::from_secs(86_400) };
        builder
            .memory(MemoryRule::default())
            .idempotent("count", key)
            .compensate("count", Compensation { tool: "uncount".to_owned(), arguments: n })
            .unknown("pay", UnknownRule::Ask)
            .fallback("tool:buy", FallbackRule { queue, ..FallbackRule::default() })
    }

    async fn enter(&self, store: &Arc<dyn Store>) -> Runtime {
        let catalog = code(self, self.catalog()).build().expect("fits together");
        // Nobody ever has a place for `later`.
        let agents = [("later".to_owned(), 0)].into_iter().collect();
        let options = RuntimeOptions {
            caps: Caps { agents, ..Caps::default() },
            ..RuntimeOptions::default()
        };
        Runtime::start(Arc::clone(store), catalog, options).await.expect("starts")
    }
}

/// Two runs and a fork: all that a call can end with, and a wait for quiet.
fn clerk() -> Vec<Says> {
    let first = [
        ("count", r#"{"n":1}"#),
        ("count", r#"{"x":1}"#),
        ("look", "{}"),
        ("mail", "{}"),
        ("remember", r#"{"key":"customer","value":"likes tea"}"#),
    ];
    vec![
        calls(&first),
        Says::Fails(ErrorClass::RateLimited, Some(Duration::from_secs(900))),
        Says::Text("done"),
        calls(&[("count", r#"{"n":1}"#)]),
        Says::Text("done before"),
    ]
}

fn undoer() -> Vec<Says> {
    let twice = [("count", r#"{"n":3}"#), ("count", r#"{"n":4}"#)];
    let refused = || Says::Fails(ErrorClass::Authentication, None);
    vec![calls(&twice), refused(), Says::Text("again"), refused(), refused()]
}

/// Enough checkpoints after the damaged one that it is not among those that are kept.
fn patient() -> Vec<Says> {
    let look = || calls(&[("look", "{}")]);
    let before = [look(), calls(&[("hold", "{}")])];
    before.into_iter().chain((0..3).map(|_| look())).chain([Says::Text("done")]).collect()
}

/// A saga that remembers, starts a child, sleeps and listens; and one that is changed on the way.
fn code(cast: &Cast, builder: CatalogBuilder) -> CatalogBuilder {
    let (outside, is_changed) = (cast.outside.clone(), Arc::clone(&cast.is_changed));
    let leaf = |run: RunContext| async move { Ok(2 * run.input::<u64>()?) };
    let saga = move |run: RunContext| {
        let outside = outside.clone();
        async move {
            run.progress(1, 3, "reserving").await;
            step(&run, &outside, "reserve").await?;
            run.facts(MemoryScope::Tenant).set("note", "orders", &1).await?;
            let child = run.child("price", "leaf", &21).await?;
            let price: u64 = child.result().await?;
            run.sleep("cool down", Duration::from_secs(60)).await?;
            let said = run.wait_for::<String>("go").within(Duration::from_secs(60)).await?;
            let said = match said {
                None => run.wait_for::<String>("go").named("second wait").await?,
                Some(said) => said,
            };
            run.progress(2, 3, "charging").await;
            step(&run, &outside, "charge").await?;
            Ok(format!("{said} for {price}"))
        }
    };
    let outside = cast.outside.clone();
    let changed = move |run: RunContext| {
        let (outside, is_new) = (outside.clone(), is_changed.load(Ordering::SeqCst));
        async move {
            step(&run, &outside, if is_new { "new" } else { "old" }).await?;
            run.wait_for::<String>("go").await
        }
    };
    builder.code("leaf", leaf).code("saga", saga).code("changed", changed)
}

async fn step(run: &RunContext, outside: &Outside, name: &'static str) -> Result<(), StepError> {
    let undoing = outside.clone();
    run.compensate(name).by(move |call| {
        let outside = undoing.clone();
        async move { outside.call(&format!("undo {name}"), call).await.map(drop) }
    });
    let step = run.step(name).idempotent();
    step.call(|call| async move { outside.call(name, call).await }).await.map(drop)
}

async fn submit(runtime: &Runtime, agent: &str) -> RunId {
    let order = SubmitRun {
        session: Some("session 1".to_owned()),
        tags: vec!["kept".to_owned()],
        ..SubmitRun::new(agent, "null")
    };
    runtime.submit(order).await.expect("accepted").run.id
}

async fn ends(runtime: &Runtime, run: RunId, state: &str) {
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(view.state, state, "{view:?}");
}

async fn say(runtime: &Runtime, run: RunId, payload: &str) {
    let (name, by, id) = ("go".to_owned(), ADA.to_owned(), Some(payload.to_owned()));
    let signal = SignalRun { run, name, payload: payload.into(), by, id };
    assert!(runtime.signal(signal).await.expect("hears"));
}

/// Waits until the log has an event of this kind; its place.
async fn tells(runtime: &Runtime, run: RunId, kind: &str) -> u64 {
    let mut watch = runtime.watch();
    loop {
        let events = runtime.events(run, 0, 500).await.expect("reads");
        if let Some(view) = events.iter().find(|view| view.event.kind() == kind) {
            return view.seq;
        }
        assert!(watch.changed(Some(run)).await, "the runtime lives");
    }
}

async fn reaches(runtime: &Runtime, run: RunId, state: &str) {
    let mut watch = runtime.watch();
    while runtime.run(run).await.expect("there").state != state {
        assert!(watch.changed(Some(run)).await, "the runtime lives");
    }
}

/// Tells the whole story.
pub(super) async fn play(store: &Arc<dyn Store>) {
    let cast = Cast::new();
    cast.tool("mail").breaks(ErrorClass::Timeout);
    *cast.tool("look").says.lock() =
        ToolOutput::text("a long text; ".repeat(INLINE_BYTES_MAX / 12));
    let first = cast.enter(store).await;
    agents(&first).await;
    commands(&first).await;
    queued(&first, &cast).await;
    sagas(&first).await;
    let interrupted = interrupted(&first, &cast).await;
    first.abandon();
    interrupted.damaged(store).await;
    cast.is_changed.store(true, Ordering::SeqCst);
    let second = cast.enter(store).await;
    interrupted.go_on(&second, &cast).await;
    left(&second).await;
    second.abandon();
}

/// Calls that end in all ways, a key that is used again, a wait for quiet, a fork, a limit.
async fn agents(runtime: &Runtime) {
    let run = submit(runtime, "clerk").await;
    ends(runtime, run, "succeeded").await;
    let again = submit(runtime, "clerk").await;
    ends(runtime, again, "succeeded").await;
    let changes = Changes {
        input: Some("do it otherwise".to_owned()),
        model: Some("other".to_owned()),
        instructions: Some("Be brief.".to_owned()),
    };
    let (at, by) = (tells(runtime, again, "tool_finished").await, ADA.to_owned());
    let fork = ForkRun { run: again, at: Some(at), changes, key: None, by };
    let fork = runtime.fork(fork).await.expect("forks").run.id;
    ends(runtime, fork, "succeeded").await;
    let limited = submit(runtime, "limited").await;
    ends(runtime, limited, "failed").await;
}

/// A run that is rolled back, and one that is retried.
async fn commands(runtime: &Runtime) {
    let run = submit(runtime, "undoer").await;
    ends(runtime, run, "failed").await;
    let (by, reason) = (ADA.to_owned(), Some("wrong customer".to_owned()));
    let back = RollbackRun { run, to: Some(1), by, reason, pause: false };
    runtime.rollback(back).await.expect("rolls back");
    ends(runtime, run, "succeeded").await;
    let run = submit(runtime, "undoer").await;
    ends(runtime, run, "failed").await;
    runtime.retry(RetryRun { run, by: ADA.to_owned() }).await.expect("retries");
    ends(runtime, run, "failed").await;
}

/// A call that a run of its own makes later.
async fn queued(runtime: &Runtime, cast: &Cast) {
    cast.tool("buy").breaks(ErrorClass::Unavailable);
    let run = submit(runtime, "buyer").await;
    ends(runtime, run, "succeeded").await;
    let later = all(runtime).await.into_iter().find(|view| view.input.contains(&run.to_string()));
    let later = later.expect("a run that makes the call").id;
    reaches(runtime, later, "waiting").await;
    cast.tool("buy").breaks(None);
    ends(runtime, later, "succeeded").await;
}

/// Code that hears nothing in time, and then something; that is rolled back; that is cancelled.
async fn sagas(runtime: &Runtime) {
    let run = submit(runtime, "saga").await;
    tells(runtime, run, "heard").await;
    say(runtime, run, "tea").await;
    ends(runtime, run, "succeeded").await;

    let run = submit(runtime, "saga").await;
    tells(runtime, run, "child_ended").await;
    let (to, by) = (tells(runtime, run, "claimed").await, ADA.to_owned());
    let back = RollbackRun { run, to: Some(to), by, reason: None, pause: false };
    runtime.rollback(back).await.expect("rolls back");
    tells(runtime, run, "undone").await;
    say(runtime, run, "coffee").await;
    ends(runtime, run, "succeeded").await;

    let run = submit(runtime, "saga").await;
    tells(runtime, run, "parked").await;
    let (by, reason) = (ADA.to_owned(), None);
    runtime.cancel(CancelRun { run, by, reason }).await.expect("cancels");
    ends(runtime, run, "cancelled").await;
}

/// Runs that a process leaves in the middle.
struct Interrupted {
    patient: RunId,
    judged: [RunId; 2],
    changed: RunId,
}

async fn interrupted(runtime: &Runtime, cast: &Cast) -> Interrupted {
    let changed = submit(runtime, "changed").await;
    reaches(runtime, changed, "waiting").await;
    let patient = submit(runtime, "patient").await;
    cast.tool("hold").entered.notified().await;
    let mut judged = Vec::new();
    for _ in 0..2 {
        judged.push(submit(runtime, "judge").await);
        cast.tool("pay").entered.notified().await;
    }
    Interrupted { patient, judged: [judged[0], judged[1]], changed }
}

impl Interrupted {
    async fn damaged(&self, store: &Arc<dyn Store>) {
        damage(store.as_ref(), self.patient).await;
    }

    async fn go_on(&self, runtime: &Runtime, cast: &Cast) {
        for run in self.judged {
            reaches(runtime, run, "waiting").await;
        }
        let [answered, _] = self.judged;
        let asked = runtime.fold(answered).await.expect("folds").asked().cloned().expect("asks");
        let answer = AnswerCall {
            run: answered,
            call_id: asked.call.id,
            verdict: Verdict::Fail,
            result: Some("nobody knows".to_owned()),
            by: ADA.to_owned(),
        };
        assert!(runtime.answer(answer).await.expect("answers"));
        ends(runtime, answered, "failed").await;
        cast.tool("hold").let_go.notify_one();
        let resume = ResumeRun { run: self.patient, by: ADA.to_owned() };
        runtime.resume(resume).await.expect("resumes");
        ends(runtime, self.patient, "succeeded").await;
        tells(runtime, self.patient, "checkpoint_passed_over").await;
        say(runtime, self.changed, "go").await;
        ends(runtime, self.changed, "succeeded").await;
        let events = runtime.events(self.changed, 0, 100).await.expect("reads");
        let unmet = |event: &RunEvent| matches!(event, RunEvent::StepsUnmet { .. });
        assert!(events.iter().any(|view| unmet(&view.event)), "{events:?}");
    }
}

/// Runs that are left as they are: paused with a letter that nobody has read, queued, executed.
async fn left(runtime: &Runtime) {
    let paused = submit(runtime, "saga").await;
    tells(runtime, paused, "parked").await;
    let (by, reason) = (ADA.to_owned(), Some("over the weekend".to_owned()));
    runtime.pause(PauseRun { run: paused, by, reason, now: true }).await.expect("pauses");
    reaches(runtime, paused, "paused").await;
    say(runtime, paused, "milk").await;
    submit(runtime, "later").await;
    let busy = submit(runtime, "busy").await;
    tells(runtime, busy, "model_answered").await;
}
