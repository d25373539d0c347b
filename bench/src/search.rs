//! A page of each filter over 100 000 finished runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use steadfast_store::{
    Catalog as _, Disposition, HeadUpdate, Journal as _, NewEvent, NewRun, RunFilter, RunId,
    SqliteOptions, SqliteStore, Store as _, Timestamp,
};

/// Runs in the store.
const RUNS: usize = 100_000;
/// Runs created at once: they share transactions.
const AT_ONCE: usize = 512;
/// How often each page is read.
const READS: usize = 50;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]
fn now() -> Instant {
    Instant::now()
}

/// Prints the table.
pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(".")?;
    let path = folder.path().join("search.db");
    let store = Arc::new(SqliteStore::open(path, SqliteOptions::default())?);
    fill(&store).await?;
    println!("| page of 50 among {RUNS} runs | rows | p50 ms | p99 ms |");
    println!("|---|---:|---:|---:|");
    for (what, filter) in cases(&store).await? {
        let (mut times, mut rows) = (Vec::new(), 0);
        for _ in 0..READS {
            let began = now();
            rows = store.list(filter.clone()).await?.runs.len();
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let at = |share: usize| millis(times[(times.len() - 1) * share / 100]);
        println!("| {what} | {rows} | {:.3} | {:.3} |", at(50), at(99));
    }
    store.close().await?;
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn fill(store: &Arc<SqliteStore>) -> anyhow::Result<()> {
    for first in (0..RUNS).step_by(AT_ONCE) {
        let mut tasks = tokio::task::JoinSet::new();
        for number in first..(first + AT_ONCE).min(RUNS) {
            let store = Arc::clone(store);
            tasks.spawn(async move { store.create(new_run(number)).await });
        }
        while let Some(created) = tasks.join_next().await {
            created??;
        }
    }
    Ok(())
}

/// Ten tenants, five agents, a session for every ten runs, one run in a hundred with a problem.
fn new_run(number: usize) -> NewRun {
    let head = HeadUpdate {
        state: if number.is_multiple_of(50) { "failed" } else { "succeeded" }.to_owned(),
        disposition: Disposition::Ended,
        problem: number.is_multiple_of(100).then(|| "partial".to_owned()),
        summary: bytes::Bytes::from(vec![b'x'; 300]),
    };
    let event = NewEvent { kind: "submitted".into(), version: 1, body: "{}".into() };
    let (tenant, agent) = (format!("tenant {}", number % 10), format!("agent {}", number % 5));
    NewRun {
        session: Some(format!("session {}", number / 10)),
        tags: vec![format!("tag {}", number % 1000), "every".to_owned()],
        text: format!("Please look into invoice {number} of customer {}", number % 997),
        ..NewRun::new(tenant, agent, vec![event], head)
    }
}

async fn cases(store: &SqliteStore) -> anyhow::Result<Vec<(&'static str, RunFilter)>> {
    let all = RunFilter::default;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let some = |text: &str| Some(text.to_owned());
    let middle = store.list(RunFilter { session: some("session 5000"), ..all() }).await?;
    let before: Option<RunId> = middle.runs.first().map(|head| head.id);
    let hour_ago = Timestamp(store.now().0 - 3_600_000);
    Ok(vec![
        ("all", all()),
        ("all, from the middle on", RunFilter { before, ..all() }),
        ("tenant", RunFilter { tenant: some("tenant 3"), ..all() }),
        (
            "agent and state",
            RunFilter { agent: some("agent 0"), states: words(&["failed"]), ..all() },
        ),
        ("session", RunFilter { session: some("session 77"), ..all() }),
        ("tag of 100 runs", RunFilter { tag: some("tag 7"), ..all() }),
        ("tag of every run", RunFilter { tag: some("every"), ..all() }),
        ("any problem", RunFilter { any_problem: true, ..all() }),
        (
            "one problem of one tenant",
            RunFilter { problems: words(&["partial"]), tenant: some("tenant 0"), ..all() },
        ),
        ("since an hour ago", RunFilter { since: Some(hour_ago), ..all() }),
        ("text of one run", RunFilter { text: words(&["invoice", "99321"]), ..all() }),
        ("text of 100 runs", RunFilter { text: words(&["customer", "996"]), ..all() }),
        ("text of every run", RunFilter { text: words(&["invoice"]), ..all() }),
    ])
}
