//! A store that is away for a while, as a database is that restarts: no run fails because of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use steadfast_guard::Effect;
use steadfast_providers::model::{Model, ToolDefinition};
use steadfast_providers::tool::{Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};
use steadfast_runtime::{AgentSpec, Catalog, Runtime, RuntimeOptions, SubmitRun};
use steadfast_store::{MemoryStore, Store};
use tokio::sync::Notify;

use crate::crash_store::CrashStore;
use crate::world::{Says, ScriptedModel};

/// A tool while which the store goes away, the first time it is called.
struct Cutting {
    spec: ToolSpec,
    store: Arc<CrashStore>,
    cut: Notify,
    calls: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl Tool for Cutting {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, _: ToolInvocation) -> Result<ToolOutput, ToolError> {
        if self.calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            self.store.set_away(true);
            self.cut.notify_one();
        }
        Ok(ToolOutput::text("done".to_owned()))
    }
}

/// One run, while which the store is away for this long; its end, and how often the tool was called.
async fn cut_off_for(away: Duration) -> (String, usize, Vec<&'static str>) {
    let memory = Arc::new(MemoryStore::new());
    let store = CrashStore::steady(&memory);
    let schema = json!({ "type": "object", "properties": {} });
    let definition =
        ToolDefinition { name: "cut".to_owned(), description: "cuts".to_owned(), schema };
    let spec = ToolSpec {
        definition,
        effect: Effect::Idempotent,
        timeout: Duration::from_secs(30),
        dependency: "tool:cut".to_owned(),
    };
    let tool =
        Arc::new(Cutting { spec, store: Arc::clone(&store), cut: Notify::new(), calls: 0.into() });
    let model = ScriptedModel::new(vec![Says::Calls(vec![("cut", "{}")]), Says::Text("whole")]);
    let mut agent = AgentSpec::new("m");
    agent.tools = vec!["cut".to_owned()];
    let catalog = Catalog::builder()
        .model("m", model as Arc<dyn Model>, true)
        .agent("worker", agent)
        .tool(Arc::clone(&tool) as Arc<dyn Tool>)
        .build()
        .expect("fits together");
    let shared: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
    let runtime = Runtime::start(shared, catalog, RuntimeOptions::default()).await.expect("starts");
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    tool.cut.notified().await;
    tokio::time::sleep(away).await;
    let lease_ttl = RuntimeOptions::default().lease_ttl;
    assert_eq!(runtime.ready().is_ok(), away < lease_ttl, "away for {away:?}");
    store.set_away(false);
    let view = runtime.wait(run).await.expect("ends");
    runtime.ready().expect("the store is back");
    let events = runtime.events(run, 0, 99).await.expect("reads");
    let kinds = events.iter().map(|view| view.event.kind()).collect();
    assert!(runtime.shutdown().await.expect("closes"));
    (view.state, tool.calls.load(std::sync::atomic::Ordering::SeqCst), kinds)
}

#[tokio::test(start_paused = true)]
async fn c10_a_run_is_given_back_when_the_store_was_away_and_goes_on_once_it_is_back() {
    // within the lease, and far beyond it
    for seconds in [0, 3, 60, 600] {
        let (state, calls, events) = cut_off_for(Duration::from_secs(seconds)).await;
        assert_eq!(state, "succeeded", "away for {seconds} s: {events:?}");
        let claims = events.iter().filter(|kind| **kind == "claimed").count();
        assert_eq!((calls, claims), (2, 2), "away for {seconds} s: {events:?}");
    }
}
