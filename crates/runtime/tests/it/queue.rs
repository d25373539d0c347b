//! Why a run that is ready is not executed yet, as it is told when somebody asks.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use steadfast_runtime::code::RunContext;
use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun, Waiting, WaitsFor};
use steadfast_store::{Caps, MemoryStore, RunId};

/// A node with so many places, whose runs never end.
async fn node(concurrency: usize, caps: Caps) -> Runtime {
    let hold = |run: RunContext| async move {
        run.step("hold").read().call(|_| pending::<Result<(), Infallible>>()).await
    };
    let catalog = Catalog::builder().code("hold", hold).code("other", hold);
    let catalog = catalog.build().expect("fits together");
    let options = RuntimeOptions { concurrency, caps, ..RuntimeOptions::default() };
    Runtime::start(Arc::new(MemoryStore::new()), catalog, options).await.expect("starts")
}

async fn submit(runtime: &Runtime, tenant: &str, agent: &str, priority: i32) -> RunId {
    let mut order = SubmitRun::new(agent, "null");
    order.tenant = tenant.to_owned();
    order.priority = priority;
    runtime.submit(order).await.expect("accepted").run.id
}

/// Submits a run and waits until it is executed.
async fn occupy(runtime: &Runtime, tenant: &str, agent: &str) {
    let mut watch = runtime.watch();
    let run = submit(runtime, tenant, agent, 0).await;
    while runtime.run(run).await.expect("is there").state != "running" {
        assert!(watch.changed(Some(run)).await);
    }
}

async fn why(runtime: &Runtime, run: RunId) -> Waiting {
    runtime.waiting(run).await.expect("looks").expect("it waits")
}

fn capped(tenant: Option<usize>, agent: Option<usize>) -> Caps {
    let agents = agent.map(|cap| ("hold".to_owned(), cap)).into_iter().collect();
    Caps { per_tenant: tenant, agents, ..Caps::default() }
}

#[tokio::test(start_paused = true)]
async fn g12_a_run_that_its_tenants_cap_keeps_back_says_so() {
    let runtime = node(10, capped(Some(1), None)).await;
    occupy(&runtime, "acme", "hold").await;
    let run = submit(&runtime, "acme", "other", 0).await;
    let waiting = why(&runtime, run).await;
    assert_eq!((waiting.waits_for, waiting.before), (WaitsFor::TenantCap, 0));
    assert!(waiting.explain.contains("tenant `acme` has 1 of 1 runs"), "{}", waiting.explain);
    assert_eq!(waiting.since, runtime.run(run).await.expect("is there").created_at);
}

#[tokio::test(start_paused = true)]
async fn g12_a_run_that_its_agents_cap_keeps_back_says_so() {
    let runtime = node(10, capped(None, Some(1))).await;
    occupy(&runtime, "acme", "hold").await;
    let run = submit(&runtime, "other tenant", "hold", 0).await;
    let waiting = why(&runtime, run).await;
    assert_eq!(waiting.waits_for, WaitsFor::AgentCap);
    assert!(waiting.explain.contains("agent `hold` has 1 of 1 runs"), "{}", waiting.explain);
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_place_says_how_many_are_before_it_and_whether_tenants_take_turns() {
    let runtime = node(1, Caps::default()).await;
    occupy(&runtime, "acme", "hold").await;
    let low = submit(&runtime, "acme", "hold", -1).await;
    let middle = submit(&runtime, "acme", "hold", 0).await;
    let high = submit(&runtime, "acme", "hold", 1).await;
    let mut before = Vec::new();
    for run in [high, middle, low] {
        let waiting = why(&runtime, run).await;
        assert_eq!((waiting.waits_for, waiting.or_more), (WaitsFor::Place, false));
        before.push(waiting.before);
    }
    assert_eq!(before, [0, 1, 2]);
    let told = why(&runtime, low).await.explain;
    assert!(told.contains("1 of 1 are taken"), "{told}");
    assert!(told.contains("2 runs of its tenant are before it"), "{told}");
    assert!(!told.contains("take turns"), "{told}");
    submit(&runtime, "other tenant", "hold", 0).await;
    let told = why(&runtime, low).await.explain;
    assert!(told.ends_with("tenants take turns"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_executed_waits_for_nothing() {
    let runtime = node(1, Caps::default()).await;
    occupy(&runtime, "acme", "hold").await;
    let all = runtime.list(Default::default()).await.expect("lists").runs;
    assert_eq!(runtime.waiting(all[0].id).await.expect("looks"), None);
}
