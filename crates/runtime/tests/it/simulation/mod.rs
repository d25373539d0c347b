//! A seeded simulation of scheduler and leases: several nodes on one store, in paused time, with tenants
//! that have long and short runs, and with nodes that die, lose their lease or are cut off.
//!
//! The store is in memory or in a file. What is checked is said in [`observer`]. Each check is shown to
//! fail: a defect is built into the store, and the simulation must notice.

mod node_store;
mod observer;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde::Deserialize;
use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
use steadfast_store::{Caps, Disposition, MemoryStore, RunId, SqliteOptions, SqliteStore, Store};
use tokio::time::{Instant, sleep, sleep_until};

use self::node_store::{Defect, NodeStore, Trouble};
use self::observer::Observer;
use crate::crash_store::CrashStore;

/// How many tenants there are.
const TENANTS: usize = 4;
const AGENTS: [&str; 2] = ["clerk", "smith"];
const LEASE: Duration = Duration::from_secs(3);
/// In simulated time. All work of a simulation takes a few minutes.
const ENDS_WITHIN: Duration = Duration::from_secs(1800);

/// What a run does.
#[derive(Clone, Copy, Deserialize)]
struct Work {
    steps: u64,
    step_ms: u64,
    /// How long it is put aside in the middle.
    nap_ms: u64,
}

/// Something that happens at a time.
enum Happens {
    Submit {
        order: SubmitRun,
    },
    /// The node's process dies; another one takes its place.
    Dies {
        node: usize,
    },
    Troubled {
        node: usize,
        trouble: Trouble,
        lasts: Duration,
    },
}

struct Plan {
    nodes: usize,
    concurrency: usize,
    caps: Caps,
    /// In order.
    happens: Vec<(Duration, Happens)>,
}

fn order(rng: &mut Rng) -> SubmitRun {
    let is_long = rng.u8(..8) == 0;
    let step_ms = if is_long { rng.u64(500..4_000) } else { rng.u64(1..400) };
    let nap_ms = if rng.u8(..4) == 0 { rng.u64(1..6_000) } else { 0 };
    let steps = rng.u64(1..6);
    let input = format!(r#"{{"steps":{steps},"step_ms":{step_ms},"nap_ms":{nap_ms}}}"#);
    let mut order = SubmitRun::new(AGENTS[rng.usize(..AGENTS.len())], input);
    order.priority = rng.i32(-2..4);
    order
}

impl Plan {
    fn of(rng: &mut Rng, runs: usize) -> Self {
        let mut happens = Vec::new();
        let at = |rng: &mut Rng| Duration::from_millis(rng.u64(..90_000));
        // The first tenant comes with a crowd, the others now and then.
        let rush = at(rng) / 4;
        for number in 0..runs {
            let tenant = if number % 2 == 0 { 0 } else { rng.usize(1..TENANTS) };
            let mut order = order(rng);
            order.tenant = format!("tenant {tenant}");
            let when = if tenant == 0 { rush } else { at(rng) };
            happens.push((when, Happens::Submit { order }));
        }
        let nodes = rng.usize(2..5);
        for _ in 0..rng.usize(2..7) {
            // The first node stays well: somebody has to take the orders.
            let node = rng.usize(1..nodes);
            let lasts = Duration::from_millis(rng.u64(500..12_000));
            let event = match rng.u8(..3) {
                0 => Happens::Dies { node },
                1 => Happens::Troubled { node, trouble: Trouble::NotRenewed, lasts },
                _ => Happens::Troubled { node, trouble: Trouble::CutOff, lasts },
            };
            happens.push((at(rng), event));
        }
        happens.sort_by_key(|(at, _)| *at);
        let mut cap = |range: std::ops::Range<usize>| rng.bool().then(|| rng.usize(range));
        let agents = cap(1..4).map(|cap| (AGENTS[1].to_owned(), cap)).into_iter().collect();
        let tenants = cap(1..3).map(|cap| ("tenant 1".to_owned(), cap)).into_iter().collect();
        let caps = Caps { per_tenant: cap(2..6), tenants, agents };
        Self { nodes, concurrency: rng.usize(1..5), caps, happens }
    }
}

/// One node.
struct Member {
    runtime: Runtime,
    store: Arc<NodeStore>,
}

async fn work(run: RunContext, observer: Arc<Observer>, node: usize) -> Result<(), StepError> {
    let Work { steps, step_ms, nap_ms } = run.input()?;
    for step in 0..steps {
        let name = format!("step {step}");
        let id = run.id();
        let call = run.step(name).idempotent().call(|_| {
            let observer = Arc::clone(&observer);
            async move {
                let _outside = observer.leaves(id, node);
                sleep(Duration::from_millis(step_ms)).await;
                Ok::<_, Infallible>(())
            }
        });
        call.await?;
        if nap_ms > 0 && step == 0 {
            run.sleep("nap", Duration::from_millis(nap_ms)).await?;
        }
    }
    Ok(())
}

async fn join(observer: &Arc<Observer>, plan: &Plan, node: usize, defect: Defect) -> Member {
    let mut builder = Catalog::builder();
    for agent in AGENTS {
        let observer = Arc::clone(observer);
        builder = builder.code(agent, move |run| work(run, Arc::clone(&observer), node));
    }
    let catalog = builder.build().expect("fits together");
    let options = RuntimeOptions {
        concurrency: plan.concurrency,
        lease_ttl: LEASE,
        caps: plan.caps.clone(),
        ..RuntimeOptions::default()
    };
    let store = NodeStore::new(observer, defect);
    let own = Arc::clone(&store) as Arc<dyn Store>;
    let runtime = Runtime::start(own, catalog, options).await.expect("starts");
    Member { runtime, store }
}

/// What came of one simulation.
struct Outcome {
    broken: Vec<String>,
    claims: usize,
    refused: usize,
}

async fn simulate(inner: Arc<dyn Store>, seed: u64, runs: usize, defect: Defect) -> Outcome {
    let rng = &mut Rng::with_seed(seed);
    let mut plan = Plan::of(rng, runs);
    let observer = Observer::new(inner, plan.caps.clone());
    let mut members = Vec::new();
    for node in 0..plan.nodes {
        members.push(join(&observer, &plan, node, defect).await);
    }
    let (begins, mut submitted) = (Instant::now(), Vec::new());
    for (at, event) in std::mem::take(&mut plan.happens) {
        sleep_until(begins + at).await;
        match event {
            Happens::Submit { order } => {
                let well = members.iter().filter(|member| member.store.is_well());
                let well: Vec<_> = well.collect();
                let at = well[rng.usize(..well.len())].runtime.clone();
                submitted.push(at.submit(order).await.expect("accepted").run.id);
            }
            Happens::Dies { node } => {
                members[node].runtime.abandon();
                members[node] = join(&observer, &plan, node, defect).await;
            }
            Happens::Troubled { node, trouble, lasts } => {
                members[node].store.trouble(trouble, lasts);
            }
        }
    }
    end(&observer, &submitted).await;
    for member in members {
        // Before the next simulation begins, and in any order: nothing of it matters any more.
        member.runtime.abandon();
    }
    let (broken, claims, refused) = observer.verdict();
    Outcome { broken, claims, refused }
}

/// Waits until every run is over.
async fn end(observer: &Observer, submitted: &[RunId]) {
    let deadline = Instant::now() + ENDS_WITHIN;
    for run in submitted {
        loop {
            let head = observer.store.head(*run).await.expect("works").expect("is there");
            if head.disposition == Disposition::Ended {
                break;
            }
            if Instant::now() > deadline {
                observer.never_ended(&head);
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

fn in_memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

const SEEDS: u64 = 120;

/// Fewer: a file is synced at each write.
const SEEDS_ON_FILE: u64 = 8;

/// Seeds with which a defect must be noticed by at least one.
const SEEDS_WITH_DEFECT: u64 = 20;

/// A store with this defect breaks a rule that says so.
async fn is_noticed(defect: Defect, rule: &str) {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS_WITH_DEFECT {
        seen.extend(simulate(in_memory(), seed, 60, defect).await.broken);
        if seen.iter().any(|broken| broken.contains(rule)) {
            return;
        }
    }
    panic!("{defect:?} went unnoticed; seen was: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn c5_nodes_share_their_work_as_said_whatever_happens_to_them() {
    let (mut claims, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let outcome = simulate(in_memory(), seed, 60, Defect::None).await;
        assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}", outcome.broken);
        claims += outcome.claims;
        refused += outcome.refused;
    }
    println!("{SEEDS} seeds, {claims} claims, {refused} appends of former owners refused");
    // A simulation in which nothing goes wrong shows nothing.
    assert!(refused > 10, "only {refused} appends of former owners were refused");
    assert!(claims > 60 * usize::try_from(SEEDS).expect("few"), "no run ever changed hands");
}

/// The same rules, with the statements and the writer of a file.
#[tokio::test(start_paused = true)]
async fn c5_nodes_share_their_work_as_said_on_a_store_in_a_file() {
    let mut refused = 0;
    for seed in 0..SEEDS_ON_FILE {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("simulation.db");
        let store = SqliteStore::open(path, SqliteOptions::default()).expect("opens");
        let store: Arc<dyn Store> = CrashStore::threaded(Arc::new(store));
        let outcome = simulate(Arc::clone(&store), seed, 60, Defect::None).await;
        store.close().await.expect("closes");
        assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}", outcome.broken);
        assert!(outcome.claims >= 60, "seed {seed}: only {} claims", outcome.claims);
        refused += outcome.refused;
    }
    println!("{SEEDS_ON_FILE} seeds, {refused} appends of former owners refused");
    assert!(refused > 0, "no append of a former owner was refused");
}

#[tokio::test(start_paused = true)]
async fn an_append_of_a_former_owner_that_counts_would_be_noticed() {
    is_noticed(Defect::Epochs, "former owner").await;
}

#[tokio::test(start_paused = true)]
async fn c5_a_claim_that_ignores_turns_would_be_noticed() {
    is_noticed(Defect::Turns, "has less under way").await;
    is_noticed(Defect::Turns, "again and again").await;
}

#[tokio::test(start_paused = true)]
async fn c5_a_claim_that_ignores_priorities_would_be_noticed() {
    is_noticed(Defect::Priorities, "overtaken").await;
}

#[tokio::test(start_paused = true)]
async fn g12_a_claim_that_ignores_caps_would_be_noticed() {
    is_noticed(Defect::Caps, "a cap is exceeded").await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_handed_out_before_its_owners_lease_is_over_would_be_noticed() {
    is_noticed(Defect::Expiry, "while its owner lives").await;
    is_noticed(Defect::Expiry, "two nodes execute").await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_not_one_would_be_noticed() {
    is_noticed(Defect::Renewals, "two nodes execute").await;
}
