//! Durable steps through the whole runtime: decide, guard, call, append, fold.
//!
//! The model and the tool answer at once, in process, so that only Steadfast's own cost is left. A
//! step is one outside call whose result is on disk before the next call of the same run begins: a
//! model answer, or a tool's result. Its duration is the time from the arrival of its call to the
//! arrival of the next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;
use steadfast_guard::Effect;
use steadfast_providers::model::{
    FinishReason, Model, ModelAnswer, ModelError, ModelRequest, ModelStream, TokenCount, ToolCall,
    ToolDefinition, Usage,
};
use steadfast_providers::tool::{Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};
use steadfast_runtime::{AgentSpec, Catalog, Runtime, RuntimeOptions, SubmitRun};
use steadfast_store::{
    PostgresOptions, PostgresStore, RunFilter, SqliteOptions, SqliteStore, Store,
};

use crate::machine::{now, written};

/// Model answers of one run before its closing one; each is followed by a tool's result.
const ANSWERS: usize = 20;
/// How long each case submits new runs.
const CASE: Duration = Duration::from_secs(5);

/// When the last call of each run arrived, and the steps between.
#[derive(Default)]
struct Arrivals(Mutex<(HashMap<String, Instant>, Vec<Duration>)>);

impl Arrivals {
    /// A call of a run has arrived. Keys of calls begin with the run's id.
    fn note(&self, key: &str) {
        let at = now();
        let mut inner = self.0.lock();
        let (last, steps) = &mut *inner;
        if let Some(before) = last.insert(key.chars().take(36).collect(), at) {
            steps.push(at - before);
        }
    }

    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.0.lock().1)
    }
}

struct Answering(Arc<Arrivals>);

struct Noop {
    arrivals: Arc<Arrivals>,
    spec: ToolSpec,
}

#[async_trait]
impl Model for Answering {
    fn name(&self) -> &str {
        "bench"
    }

    fn simulated(&self) -> bool {
        true
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelAnswer, ModelError> {
        self.0.note(request.idempotency_key.as_deref().unwrap_or_default());
        let is_last = request.messages.len() > 2 * ANSWERS;
        let call = ToolCall { id: "call".into(), name: "noop".into(), arguments: "{}".into() };
        Ok(ModelAnswer {
            text: if is_last { "done".to_owned() } else { String::new() },
            tool_calls: if is_last { vec![] } else { vec![call] },
            finish: if is_last { FinishReason::Stop } else { FinishReason::ToolCalls },
            usage: Usage::default(),
            model: "bench".to_owned(),
        })
    }

    async fn stream(&self, _: &ModelRequest) -> Result<ModelStream, ModelError> {
        Ok(Box::pin(futures_util::stream::empty()))
    }

    fn count_tokens(&self, _: &ModelRequest) -> TokenCount {
        TokenCount { tokens: 0, exact: false }
    }
}

#[async_trait]
impl Tool for Noop {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, invocation: ToolInvocation) -> Result<ToolOutput, ToolError> {
        self.arrivals.note(&invocation.idempotency_key);
        Ok(ToolOutput::text("ok".to_owned()))
    }
}

/// Prints the table.
pub(crate) async fn run(postgres: Option<&str>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(".")?;
    println!(
        "\n| durable steps through the runtime | per s | p50 ms | p99 ms | bytes written each |"
    );
    println!("|---|---:|---:|---:|---:|");
    for (runs, queries) in [(1, false), (16, false), (128, false), (128, true)] {
        let path = folder.path().join(format!("runs-{runs}-{queries}.db"));
        let store = SqliteStore::open(&path, SqliteOptions::default())?;
        case("SQLite", Arc::new(store), runs, queries).await?;
    }
    let Some(url) = postgres else { return Ok(()) };
    for runs in [1, 128] {
        let schema = format!("bench_steps_{}_{runs}", std::process::id());
        let options = PostgresOptions { schema, ..PostgresOptions::default() };
        let store = PostgresStore::connect(url, options).await?;
        case("PostgreSQL", Arc::new(store), runs, false).await?;
    }
    Ok(())
}

async fn case(on: &str, store: Arc<dyn Store>, runs: usize, queries: bool) -> anyhow::Result<()> {
    let arrivals = Arc::new(Arrivals::default());
    let options = RuntimeOptions { concurrency: runs, ..RuntimeOptions::default() };
    let runtime = Runtime::start(store, catalog(&arrivals, runs)?, options).await?;
    let (began, end, before) = (now(), now() + CASE, written());
    let mut clients = tokio::task::JoinSet::new();
    if queries {
        let runtime = runtime.clone();
        clients.spawn(async move { look(&runtime, end).await });
    }
    for _ in 0..runs {
        let runtime = runtime.clone();
        clients.spawn(async move {
            while now() < end {
                let submitted = runtime.submit(SubmitRun::new("agent", "go")).await?;
                let view = runtime.wait(submitted.run.id).await?;
                anyhow::ensure!(view.state == "succeeded", "{view:?}");
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let elapsed = began.elapsed().as_secs_f64();
    runtime.shutdown().await?;
    let mut steps = arrivals.take();
    steps.sort_unstable();
    let at = |share: usize| steps[(steps.len() - 1) * share / 100].as_secs_f64() * 1e3;
    let per_s = steps.len() as f64 / elapsed;
    let each = match (before, written()) {
        (Some(before), Some(after)) => ((after - before) / steps.len() as u64).to_string(),
        (_, _) => "-".to_owned(),
    };
    let also = if queries { ", console pages asked for without a pause" } else { "" };
    println!(
        "| {on}, {runs} run(s) at once{also} | {per_s:.0} | {:.3} | {:.3} | {each} |",
        at(50),
        at(99)
    );
    Ok(())
}

/// Asks for what the console's list shows, again and again.
async fn look(runtime: &Runtime, end: Instant) -> anyhow::Result<()> {
    while now() < end {
        runtime.list(RunFilter { limit: 100, ..RunFilter::default() }).await?;
        runtime.count_by_state(1000).await?;
    }
    Ok(())
}

fn catalog(arrivals: &Arc<Arrivals>, runs: usize) -> anyhow::Result<Catalog> {
    let definition = ToolDefinition {
        name: "noop".to_owned(),
        description: "Does nothing".to_owned(),
        schema: json!({ "type": "object" }),
    };
    let spec = ToolSpec {
        definition,
        effect: Effect::Read,
        timeout: Duration::from_secs(30),
        dependency: "tool:noop".to_owned(),
    };
    let tool = Noop { arrivals: Arc::clone(arrivals), spec };
    let mut agent = AgentSpec::new("bench");
    agent.tools = vec!["noop".to_owned()];
    let catalog = Catalog::builder()
        .model("bench", Arc::new(Answering(Arc::clone(arrivals))), false)
        .tool(Arc::new(tool))
        .policies(serde_json::from_value(json!({ "default": { "concurrency": runs } }))?)
        .agent("agent", agent)
        .build()?;
    Ok(catalog)
}
