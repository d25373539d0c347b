//! How long a run waits for its first call on a node that has nothing to do: from the moment at which
//! `submit` has returned, so that the run is on disk, to the arrival of the call at the model.
//!
//! Between the two lie the doorbell, a claim and an append, both with full durability, and the decision.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use steadfast_providers::model::{
    FinishReason, Model, ModelAnswer, ModelError, ModelRequest, ModelStream, TokenCount, Usage,
};
use steadfast_runtime::{AgentSpec, Catalog, Runtime, RuntimeOptions, SubmitRun};
use steadfast_store::{SqliteOptions, SqliteStore, Store};

const RUNS: usize = 2000;

/// Answers at once, and notes when it was asked.
#[derive(Default)]
struct Asked(Mutex<Option<Instant>>);

#[async_trait]
impl Model for Asked {
    fn name(&self) -> &str {
        "bench"
    }

    fn simulated(&self) -> bool {
        true
    }

    async fn complete(&self, _: &ModelRequest) -> Result<ModelAnswer, ModelError> {
        *self.0.lock() = Some(now());
        Ok(ModelAnswer {
            text: "done".to_owned(),
            tool_calls: vec![],
            finish: FinishReason::Stop,
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

/// Prints the table.
pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(".")?;
    let path = folder.path().join("start.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, SqliteOptions::default())?);
    let asked = Arc::new(Asked::default());
    let model = Arc::clone(&asked) as Arc<dyn Model>;
    let catalog = Catalog::builder().model("bench", model, false);
    let catalog = catalog.agent("agent", AgentSpec::new("bench")).build()?;
    let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    let (mut submits, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let began = now();
        let submitted = runtime.submit(SubmitRun::new("agent", "go")).await?;
        let returned = now();
        let view = runtime.wait(submitted.run.id).await?;
        anyhow::ensure!(view.state == "succeeded", "{view:?}");
        let asked = asked.0.lock().take();
        let asked = asked.ok_or_else(|| anyhow::anyhow!("the model was not asked"))?;
        submits.push(returned - began);
        starts.push(asked.saturating_duration_since(returned));
    }
    runtime.shutdown().await?;
    println!("\n| an idle node takes a run up | p50 ms | p99 ms | longest ms |");
    println!("|---|---:|---:|---:|");
    row("`submit`: until the run is on disk", submits);
    row("start delay: from then to the first call", starts);
    Ok(())
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!("| {name} | {:.3} | {:.3} | {:.3} |", at(50), at(99), at(100));
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]
fn now() -> Instant {
    Instant::now()
}
