//! The process dies before and after every write of a run, and in the middle of its call, for every class of
//! effect; then the next one goes on, or dies in turn. Or it is stopped as it stands behind a write, for longer
//! than its lease, and goes on itself. What is left by each is what `docs/guarantees.md` promises; its cells one
//! by one are in `guarantees.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::{
    FinishReason, Message, Model, ModelAnswer, ModelDelta, ModelError, ModelRequest, ModelStream,
    TokenCount, ToolCall, Usage,
};
use steadfast_providers::tool::Tool;
use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::event::ToolOutcome;
use steadfast_runtime::{
    AgentSpec, Catalog, CatalogBuilder, KeyRule, RunEvent, Runtime, RuntimeOptions, SubmitRun,
};
use steadfast_store::{MemoryStore, RunId, Store};

use crate::crash_store::{CrashStore, Dies};
use crate::world::CountingTool;

/// Calls the tool, and says `done` once there is a result: whatever was lost, it asks for the right thing.
#[derive(Default)]
struct OneCall {
    asked: AtomicUsize,
}

impl OneCall {
    fn answer(&self, request: &ModelRequest) -> ModelAnswer {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let has_result = request.messages.iter().any(|m| matches!(m, Message::Tool { .. }));
        let call =
            ToolCall { id: "c".into(), name: "count".into(), arguments: r#"{"n":1}"#.into() };
        let tool_calls = if has_result { vec![] } else { vec![call] };
        let (text, finish) = match has_result {
            true => ("done", FinishReason::Stop),
            false => ("", FinishReason::ToolCalls),
        };
        let (text, model, usage) = (text.to_owned(), "one call".to_owned(), Usage::default());
        ModelAnswer { text, tool_calls, finish, usage, model }
    }
}

#[async_trait]
impl Model for OneCall {
    fn name(&self) -> &str {
        "test/one-call"
    }

    fn simulated(&self) -> bool {
        true
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelAnswer, ModelError> {
        Ok(self.answer(request))
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let done = ModelDelta::Done(Box::new(self.answer(request)));
        Ok(stream::iter([Ok(done)]).boxed())
    }

    fn count_tokens(&self, _: &ModelRequest) -> TokenCount {
        TokenCount { tokens: 1, exact: false }
    }
}

pub(crate) const EFFECTS: [Effect; 3] = [Effect::Read, Effect::Idempotent, Effect::Once];

pub(crate) fn agent(tool: &Arc<CountingTool>, is_keyed: bool) -> CatalogBuilder {
    agent_with(&Arc::default(), tool, is_keyed)
}

fn agent_with(model: &Arc<OneCall>, tool: &Arc<CountingTool>, is_keyed: bool) -> CatalogBuilder {
    let mut spec = AgentSpec::new("m");
    spec.tools = vec!["count".to_owned()];
    let tool = Arc::clone(tool) as Arc<dyn Tool>;
    let model = Arc::clone(model) as Arc<dyn Model>;
    let builder = Catalog::builder().model("m", model, true).agent("worker", spec);
    let rule = KeyRule { arguments: vec!["n".to_owned()], keep: Duration::from_secs(3_600) };
    let builder = builder.tool(tool);
    if is_keyed { builder.idempotent("count", rule) } else { builder }
}

pub(crate) fn code(tool: &Arc<CountingTool>, effect: Effect) -> CatalogBuilder {
    let tool = Arc::clone(tool);
    Catalog::builder().code("worker", move |run: RunContext| {
        let tool = Arc::clone(&tool);
        async move {
            let step = run.step("count");
            let step = match effect {
                Effect::Read => step.read(),
                Effect::Idempotent => step.idempotent(),
                Effect::Once => step,
            };
            let call = |call: steadfast_runtime::code::StepCall| {
                let invocation = steadfast_providers::tool::ToolInvocation {
                    arguments: serde_json::json!({ "n": 1 }),
                    idempotency_key: call.key,
                    deadline: call.deadline,
                };
                let tool = Arc::clone(&tool);
                async move { tool.call(invocation).await.map(|output| output.content) }
            };
            match step.call(call).await {
                Err(StepError { class: ErrorClass::OutcomeUnknown, .. }) => {
                    Ok("unknown".to_owned())
                }
                other => other,
            }
        }
    })
}

pub(crate) async fn start(store: Arc<dyn Store>, builder: CatalogBuilder) -> Runtime {
    let catalog = builder.build().expect("fits together");
    Runtime::start(store, catalog, RuntimeOptions::default()).await.expect("starts")
}

/// Whether the run's end says that the outcome is unknown.
pub(crate) async fn is_unknown(runtime: &Runtime, run: RunId) -> bool {
    let events = runtime.events(run, 0, 100).await.expect("reads");
    let unknown = |event: &RunEvent| match event {
        RunEvent::ToolFinished { outcome, .. } => *outcome == ToolOutcome::OutcomeUnknown,
        RunEvent::StepFinished { failure: Some(failure), .. } => {
            failure.class == ErrorClass::OutcomeUnknown
        }
        _ => false,
    };
    events.iter().any(|view| unknown(&view.event))
}

/// When a process dies: at which of its writes, and whether that is on disk by then.
type Death = (usize, Dies);

/// One process after the other dies; the last one finishes the run. Gives how often the tool took effect and
/// whether the run says that it does not know; `None` if a process ended the run before it died.
async fn die(
    deaths: &[Death],
    builder: impl Fn(&Arc<CountingTool>) -> CatalogBuilder,
    effect: Effect,
) -> Option<(usize, bool)> {
    let memory = Arc::new(MemoryStore::new());
    let tool = CountingTool::new("count", effect);
    let order = SubmitRun { key: Some("k".to_owned()), ..SubmitRun::new("worker", "go") };
    for (write, dies) in deaths {
        let store = CrashStore::new(&memory, *write, *dies);
        let runtime = start(Arc::clone(&store) as Arc<dyn Store>, builder(&tool)).await;
        let ended = async {
            let submitted = runtime.submit(order.clone()).await.expect("accepted");
            runtime.wait(submitted.run.id).await.expect("ends")
        };
        tokio::select! {
            () = store.dead.notified() => {}
            _ = ended => {}
        }
        runtime.abandon();
        if !store.is_dead() {
            return None;
        }
    }
    let runtime = start(memory, builder(&tool)).await;
    let run = runtime.submit(order).await.expect("accepted").run.id;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(view.state, "succeeded", "{deaths:?}: {view:?}");
    let all = runtime.list(steadfast_store::RunFilter::default()).await.expect("lists");
    assert_eq!(all.runs.len(), 1, "{deaths:?}: one key, one run");
    let keys = tool.keys.lock().clone();
    assert!(keys.iter().all(|key| *key == keys[0]), "one key: {keys:?}");
    Some((tool.count(), is_unknown(&runtime, run).await))
}

/// Whether this may be left, by the class of effect: how often it took place, and whether the run says that
/// it does not know.
fn is_allowed(effect: Effect, deaths: usize, (count, unknown): (usize, bool)) -> bool {
    match effect {
        Effect::Read | Effect::Idempotent => !unknown && (1..=1 + deaths).contains(&count),
        // done and known, or not known; never twice
        Effect::Once => count == 1 || (count == 0 && unknown),
    }
}

/// Tries each death at every write; gives what was left by each, and the number of writes.
async fn at_every_write(
    builder: impl Fn(&Arc<CountingTool>) -> CatalogBuilder,
    effect: Effect,
    before: &[Death],
) -> (BTreeMap<(usize, bool), usize>, usize) {
    let (mut seen, mut writes) = (BTreeMap::new(), 0);
    for write in 0.. {
        for dies in [Dies::Before, Dies::After] {
            let deaths = [before, &[(write, dies)]].concat();
            let Some(left) = die(&deaths, &builder, effect).await else { return (seen, writes) };
            assert!(is_allowed(effect, deaths.len(), left), "{effect:?}: {left:?} by {deaths:?}");
            *seen.entry(left).or_default() += 1;
        }
        writes = write + 1;
    }
    (seen, writes)
}

async fn check(builder: impl Fn(&Arc<CountingTool>, Effect) -> CatalogBuilder, effects: &[Effect]) {
    for effect in effects.iter().copied() {
        let build = |tool: &Arc<CountingTool>| builder(tool, effect);
        let (seen, writes) = at_every_write(build, effect, &[]).await;
        assert!(writes >= 4, "{effect:?}: only {writes} writes");
        // the figures would be the same for a test that never hit the middle of anything
        let repeated = seen.keys().any(|(count, _)| *count == 2);
        assert_eq!(repeated, effect != Effect::Once, "{effect:?}: {seen:?}");
        let unknown = seen.keys().any(|(_, unknown)| *unknown);
        assert_eq!(unknown, effect == Effect::Once, "{effect:?}: {seen:?}");
        // and the process that recovers dies, too
        for write in 0..writes {
            for dies in [Dies::Before, Dies::After] {
                at_every_write(build, effect, &[(write, dies)]).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c1_deaths_at_any_writes_of_an_agents_run_leave_what_the_effect_promises() {
    check(|tool, _| agent(tool, false), &EFFECTS).await;
}

#[tokio::test(start_paused = true)]
async fn c1_deaths_at_any_writes_of_a_run_that_is_code_leave_what_the_effect_promises() {
    check(code, &EFFECTS).await;
}

#[tokio::test(start_paused = true)]
async fn r11_deaths_at_any_writes_of_an_operation_with_a_key_leave_what_the_effect_promises() {
    check(|tool, _| agent(tool, true), &[Effect::Idempotent, Effect::Once]).await;
}

/// What a run has come to whose process was stopped behind one of its writes, for longer than its lease: how
/// often the model was asked and the tool took effect, and whether the run says that it does not know. `None` if
/// there were not so many writes.
async fn wake_behind(
    write: usize,
    builder: impl Fn(&Arc<OneCall>, &Arc<CountingTool>) -> CatalogBuilder,
    effect: Effect,
) -> Option<(usize, usize, bool)> {
    let (model, tool) = (Arc::default(), CountingTool::new("count", effect));
    let store = CrashStore::new(&Arc::new(MemoryStore::new()), write, Dies::Sleeps);
    let runtime = start(Arc::clone(&store) as Arc<dyn Store>, builder(&model, &tool)).await;
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(view.state, "succeeded", "write {write}: {view:?}");
    let left = (model.asked.load(Ordering::SeqCst), tool.count(), is_unknown(&runtime, run).await);
    runtime.abandon();
    store.has_slept().then_some(left)
}

/// Nothing leaves after a sleep but what is claimed anew: all is done once, as if nobody had slept. Only of a
/// `once` call that was written ahead nobody knows that it has not left.
async fn check_waking(
    builder: impl Fn(&Arc<OneCall>, &Arc<CountingTool>, Effect) -> CatalogBuilder,
    asks: usize,
) {
    for effect in EFFECTS {
        let (mut writes, mut unknown) = (0, 0);
        let build = |model: &_, tool: &_| builder(model, tool, effect);
        while let Some(left) = wake_behind(writes, build, effect).await {
            let unsent = effect == Effect::Once && left == (asks, 0, true);
            assert!(unsent || left == (asks, 1, false), "{effect:?}, write {writes}: {left:?}");
            unknown += usize::from(unsent);
            writes += 1;
        }
        assert!(writes >= 4, "{effect:?}: only {writes} writes");
        assert_eq!(unknown, usize::from(effect == Effect::Once), "{effect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c11_an_agents_process_that_sleeps_past_its_lease_behind_any_write_wakes_and_sends_nothing()
{
    check_waking(|model, tool, _| agent_with(model, tool, false), 2).await;
}

#[tokio::test(start_paused = true)]
async fn c11_a_process_of_code_that_sleeps_past_its_lease_behind_any_write_wakes_and_sends_nothing()
{
    check_waking(|_, tool, effect| code(tool, effect), 0).await;
}
