//! Runtimes on PostgreSQL: nodes that share a store, and a server that restarts under them.

use std::sync::Arc;
use std::time::Duration;

use steadfast_guard::Effect;
use steadfast_providers::model::Model;
use steadfast_providers::tool::Tool;
use steadfast_runtime::{AgentSpec, CancelRun, Catalog, Runtime, RuntimeOptions, SubmitRun};
use steadfast_store::{PostgresOptions, PostgresStore, RunFilter, Store};

use crate::postgres_server::{Server, fresh_schema, shared};
use crate::world::{CountingTool, Says, ScriptedModel};

/// By when the slowest machine has done what a test waits for.
const DEADLINE: Duration = Duration::from_secs(90);

async fn open(server: &Server, schema: &str) -> Arc<dyn Store> {
    let options = PostgresOptions { schema: schema.to_owned(), ..PostgresOptions::default() };
    Arc::new(PostgresStore::connect(&server.url(), options).await.expect("opens"))
}

async fn start(
    store: Arc<dyn Store>,
    concurrency: usize,
    script: Vec<Says>,
    tool: &Arc<CountingTool>,
) -> Runtime {
    let mut agent = AgentSpec::new("m");
    agent.tools = vec!["count".to_owned()];
    agent.max_iterations = 1000;
    let catalog = Catalog::builder()
        .model("m", ScriptedModel::new(script) as Arc<dyn Model>, true)
        .agent("worker", agent)
        .tool(Arc::clone(tool) as Arc<dyn Tool>)
        .build()
        .expect("fits together");
    let options = RuntimeOptions {
        concurrency,
        lease_ttl: Duration::from_secs(6),
        ..RuntimeOptions::default()
    };
    Runtime::start(store, catalog, options).await.expect("starts")
}

fn steps(count: usize) -> Vec<Says> {
    (0..count).map(|_| Says::Calls(vec![("count", "{}")])).collect()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it takes too long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_a_node_follows_and_cancels_a_run_that_another_executes() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let (mine, theirs) =
        (CountingTool::stuck("count", Effect::Read), CountingTool::stuck("count", Effect::Read));
    let here = start(open(server, &schema).await, 1, steps(1), &mine).await;
    let submit =
        || async { here.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id };
    // The one place of this node is taken: what comes next is the other one's.
    submit().await;
    within(mine.entered.notified()).await;
    let there = start(open(server, &schema).await, 1, steps(2), &theirs).await;
    let mut watch = here.watch();
    let run = submit().await;
    within(theirs.entered.notified()).await;
    within(async {
        while here.run(run).await.expect("is there").state != "running"
            || here.events(run, 0, 99).await.expect("reads").len() < 3
        {
            assert!(watch.changed(Some(run)).await);
        }
    })
    .await;
    here.cancel(CancelRun { run, by: "test".to_owned(), reason: None }).await.expect("cancelled");
    // It has one place, too: only if it has dropped the call can it take another run.
    submit().await;
    within(theirs.entered.notified()).await;
    assert_eq!((mine.count(), theirs.count()), (1, 2));
    assert_eq!(there.run(run).await.expect("is there").state, "cancelled");
    here.abandon();
    there.abandon();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_no_run_fails_because_the_database_restarts() {
    let Some(server) = Server::start() else { return };
    let tool = CountingTool::new("count", Effect::Idempotent);
    let mut script = steps(60);
    script.extend((0..60).map(|_| Says::Text("done")));
    let runtime = start(open(&server, "steadfast").await, 4, script, &tool).await;
    for number in 0..12 {
        let order = SubmitRun::new("worker", format!("go {number}"));
        runtime.submit(order).await.expect("accepted");
    }
    for mode in ["immediate", "fast"] {
        server.halt(mode);
        server.resume();
    }
    let all = within(async {
        loop {
            let runs = runtime.list(RunFilter::default()).await.map(|list| list.runs);
            if let Ok(runs) = runs
                && runs.iter().all(|run| run.state == "succeeded" || run.state == "failed")
            {
                return runs;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let all = all.await;
    assert_eq!(all.len(), 12);
    for run in all {
        assert_eq!(run.state, "succeeded", "{run:?}");
    }
    assert!(runtime.shutdown().await.expect("closes"));
}
