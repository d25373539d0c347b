//! Facts that outlive runs: written with the event that tells of them, or not at all.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde_json::json;
use steadfast_providers::model::{
    FinishReason, Message, Model, ModelAnswer, ModelDelta, ModelError, ModelRequest, ModelStream,
    TokenCount, ToolCall, Usage,
};
use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::{
    AgentSpec, Catalog, CatalogBuilder, FactQuery, FactScope, MemoryRule, MemoryScope, ResumeRun,
    RollbackRun, Runtime, RuntimeOptions, SubmitRun,
};
use steadfast_store::{MemoryStore, RunId, Store};

use crate::crash_store::{CrashStore, Dies};
use crate::outside::{reaches, say, submit};

/// Remembers `n`, and then `n` once more with another value, recalls it, and says what it was told: whatever
/// was lost, it asks for what has no result yet.
struct Remembers;

const STEPS: [(&str, &str); 4] = [
    ("remember", r#"{"key":"n","value":"1"}"#),
    ("recall", r#"{"key":"n"}"#),
    ("remember", r#"{"key":"n","value":"2"}"#),
    ("forget", r#"{"key":"old"}"#),
];

impl Remembers {
    fn answer(request: &ModelRequest) -> ModelAnswer {
        let results = request.messages.iter().filter_map(|message| match message {
            Message::Tool { content, .. } => Some(content.as_str()),
            _ => None,
        });
        let results: Vec<_> = results.collect();
        let call = STEPS.get(results.len()).map(|(name, arguments)| ToolCall {
            id: format!("c{}", results.len()),
            name: (*name).to_owned(),
            arguments: (*arguments).to_owned(),
        });
        let finish = if call.is_some() { FinishReason::ToolCalls } else { FinishReason::Stop };
        let text = if call.is_some() { String::new() } else { results.join("; ") };
        let (tool_calls, model) = (call.into_iter().collect(), "remembers".to_owned());
        ModelAnswer { text, tool_calls, finish, usage: Usage::default(), model }
    }
}

#[async_trait]
impl Model for Remembers {
    fn name(&self) -> &str {
        "test/remembers"
    }

    fn simulated(&self) -> bool {
        true
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelAnswer, ModelError> {
        Ok(Self::answer(request))
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let done = ModelDelta::Done(Box::new(Self::answer(request)));
        Ok(stream::iter([Ok(done)]).boxed())
    }

    fn count_tokens(&self, _: &ModelRequest) -> TokenCount {
        TokenCount { tokens: 1, exact: false }
    }
}

fn agent(rule: MemoryRule) -> CatalogBuilder {
    let mut spec = AgentSpec::new("m");
    spec.tools = ["remember", "recall", "forget", "list_facts"].map(str::to_owned).to_vec();
    Catalog::builder().model("m", Arc::new(Remembers), true).agent("worker", spec).memory(rule)
}

/// Code that does the same.
fn code() -> CatalogBuilder {
    Catalog::builder().code("worker", |run: RunContext| async move {
        let facts = run.facts(MemoryScope::Agent);
        facts.set("first", "n", &"1").await?;
        let read: Option<String> = facts.get("read", "n").await?;
        facts.set("second", "n", &"2").await?;
        facts.forget("forget", "old").await?;
        Ok::<_, StepError>(read)
    })
}

async fn start(store: Arc<dyn Store>, builder: CatalogBuilder) -> Runtime {
    let catalog = builder.build().expect("fits together");
    Runtime::start(store, catalog, RuntimeOptions::default()).await.expect("starts")
}

fn worker_of(tenant: &str) -> FactScope {
    FactScope::Agent { tenant: tenant.to_owned(), agent: "worker".to_owned() }
}

/// Writes of the run's log that go with what it has remembered: the fact's version tells how often it was
/// written, the log how often the run says so.
async fn is_consistent(runtime: &Runtime, run: RunId) -> (u64, u64) {
    let fact = runtime.facts(worker_of("default")).get("n").await.expect("reads");
    let events = runtime.events(run, 0, 100).await.expect("reads");
    let told = events.iter().filter(|view| {
        let event = serde_json::to_value(&view.event).expect("JSON");
        let of_tool = event["type"] == "tool_finished" && event["tool"] == "remember";
        let of_step = event["type"] == "step_finished"
            && ["first", "second"].iter().any(|step| event["step"] == *step);
        of_tool || of_step
    });
    (fact.map_or(0, |fact| fact.version), told.count() as u64)
}

async fn dies_everywhere(builder: impl Fn() -> CatalogBuilder, ending: &str) {
    let mut deaths = 0;
    for write in 0.. {
        for dies in [Dies::Before, Dies::After] {
            let memory = Arc::new(MemoryStore::new());
            let order = SubmitRun { key: Some("k".into()), ..SubmitRun::new("worker", "null") };
            let store = CrashStore::new(&memory, write, dies);
            let runtime = start(Arc::clone(&store) as Arc<dyn Store>, builder()).await;
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
                assert!(deaths > 8, "only {deaths} deaths");
                return;
            }
            deaths += 1;
            let runtime = start(memory, builder()).await;
            let run = runtime.submit(order).await.expect("accepted").run.id;
            // what stands now is what the log tells, in the middle and at the end
            let (version, told) = is_consistent(&runtime, run).await;
            assert_eq!(version, told, "{write} {dies:?}");
            let view = runtime.wait(run).await.expect("ends");
            assert_eq!(view.ending.as_deref(), Some(ending), "{write} {dies:?}");
            let (version, told) = is_consistent(&runtime, run).await;
            assert_eq!((version, told), (2, 2), "{write} {dies:?}: each write once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c13_a_death_at_any_write_of_an_agents_run_leaves_a_fact_with_its_event_or_neither() {
    let ending = "remembered `n`; 1; remembered `n`; forgotten `old`";
    dies_everywhere(|| agent(MemoryRule::default()), ending).await;
}

#[tokio::test(start_paused = true)]
async fn c13_a_death_at_any_write_of_a_run_that_is_code_leaves_a_fact_with_its_step_or_neither() {
    dies_everywhere(code, r#""1""#).await;
}

#[tokio::test(start_paused = true)]
async fn c13_no_tenant_sees_the_facts_of_another_one() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = start(store, agent(MemoryRule::default())).await;
    for tenant in ["acme", "ac/me"] {
        let order = SubmitRun { tenant: tenant.into(), ..SubmitRun::new("worker", "go") };
        let run = runtime.submit(order).await.expect("accepted").run.id;
        assert_eq!(runtime.wait(run).await.expect("ends").state, "succeeded");
    }
    runtime.facts(worker_of("acme")).set("n", &json!("mine"), None).await.expect("written");
    let of = async |tenant: &str| {
        let fact = runtime.facts(worker_of(tenant)).get("n").await.expect("reads");
        fact.map(|fact| fact.value)
    };
    assert_eq!(of("acme").await, Some(json!("mine")));
    assert_eq!(of("ac/me").await, Some(json!("2")));
    assert_eq!(of("default").await, None);
    let wide = FactScope::Tenant { tenant: "acme".to_owned() };
    let all = runtime.facts(wide).list(FactQuery::default()).await.expect("lists");
    assert_eq!(all, [], "an agent's facts are not the tenant's");
}

#[tokio::test(start_paused = true)]
async fn c13_a_session_remembers_for_its_runs_and_a_run_without_one_is_told_so() {
    let rule = MemoryRule { scope: MemoryScope::Session, ..MemoryRule::default() };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = start(store, agent(rule)).await;
    let order = SubmitRun { session: Some("s/1".into()), ..SubmitRun::new("worker", "go") };
    let run = runtime.submit(order).await.expect("accepted").run.id;
    assert!(runtime.wait(run).await.expect("ends").ending.expect("an end").contains("; 1; "));
    let (tenant, session) = ("default".to_owned(), "s/1".to_owned());
    let facts = runtime.facts(FactScope::Session { tenant, session });
    assert_eq!(facts.get("n").await.expect("reads").expect("known").value, json!("2"));
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    let told = runtime.wait(run).await.expect("ends").ending.expect("an end");
    assert!(told.contains("no session"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn c13_a_fact_ends_to_hold_and_what_is_too_large_is_refused_without_a_trace() {
    let keep = Some(Duration::from_secs(60));
    let rule = MemoryRule { keep, value_bytes_max: 1, ..MemoryRule::default() };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runtime = start(store, agent(rule)).await;
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    runtime.wait(run).await.expect("ends");
    let facts = runtime.facts(worker_of("default"));
    assert!(facts.get("n").await.expect("reads").expect("known").expires_at.is_some());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(facts.get("n").await.expect("reads"), None);
    let rule = MemoryRule { value_bytes_max: 0, ..MemoryRule::default() };
    let runtime = start(Arc::new(MemoryStore::new()), agent(rule)).await;
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    let told = runtime.wait(run).await.expect("ends").ending.expect("an end");
    assert!(told.contains("not remembered: the value is 1 bytes, and the limit is 0"), "{told}");
    assert_eq!(runtime.facts(worker_of("default")).get("n").await.expect("reads"), None);
}

#[tokio::test(start_paused = true)]
async fn c13_a_rollback_leaves_facts_as_they_are_and_what_is_done_again_writes_them_again() {
    let builder = Catalog::builder().code("notes", |run: RunContext| async move {
        let facts = run.facts(MemoryScope::Tenant);
        facts.set("write", "n", &1).await?;
        run.wait_for::<String>("go").await
    });
    let runtime = start(Arc::new(MemoryStore::new()), builder).await;
    let run = submit(&runtime, "notes").await;
    reaches(&runtime, run, &["waiting"]).await;
    let facts = runtime.facts(FactScope::Tenant { tenant: "default".to_owned() });
    let version = async || facts.get("n").await.expect("reads").map(|fact| fact.version);
    assert_eq!(version().await, Some(1));
    let by = "ada".to_owned();
    let back = RollbackRun { run, to: Some(1), by: by.clone(), reason: None, pause: true };
    runtime.rollback(back).await.expect("rolls back");
    assert_eq!(version().await, Some(1), "it is not taken back");
    runtime.resume(ResumeRun { run, by }).await.expect("resumes");
    say(&runtime, run, "go", "1").await;
    assert_eq!(runtime.wait(run).await.expect("ends").state, "succeeded");
    assert_eq!(version().await, Some(2), "it is written again");
}

#[test]
fn two_memories_of_the_same_names_are_refused_and_a_prefix_tells_them_apart() {
    let with = |prefix: &str| {
        let team = MemoryRule { scope: MemoryScope::Tenant, ..MemoryRule::default() };
        let team = MemoryRule { prefix: prefix.to_owned(), ..team };
        agent(MemoryRule::default()).memory(team).build()
    };
    let refused = with("").err().expect("two tools of a name").to_string();
    assert!(refused.contains("`prefix`"), "{refused}");
    assert!(with("team_").is_ok());
}
