//! What time does to a store: long runs, many finished ones, many that wait.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
use steadfast_store::{SqliteOptions, SqliteStore, Store};
use tokio::sync::Notify;

use crate::machine::{memory_bytes, now, written};

/// Steps of the long run, and of the window that is compared at its beginning and its end.
const LONG: usize = 10_000;
const WINDOW: usize = 500;
/// Runs that are over already, and runs in flight, when the node starts again.
const FINISHED: usize = 100_000;
const IN_FLIGHT: usize = 200;
/// Runs that wait for a day.
const PARKED: usize = 100_000;

/// Prints the table.
pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(".")?;
    println!("\n| what time does | measured | bar |");
    println!("|---|---:|---:|");
    long(&folder.path().join("long.db")).await?;
    restart(&folder.path().join("restart.db")).await?;
    parked(&folder.path().join("parked.db")).await?;
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<Arc<dyn Store>> {
    Ok(Arc::new(SqliteStore::open(path, SqliteOptions::default())?))
}

fn options(concurrency: usize) -> RuntimeOptions {
    RuntimeOptions { concurrency, ..RuntimeOptions::default() }
}

/// One run of many steps: what a step costs at its beginning and at its end.
async fn long(path: &Path) -> anyhow::Result<()> {
    let times = Arc::new(Mutex::new(Vec::with_capacity(LONG)));
    let noted = Arc::clone(&times);
    let code = move |run: RunContext| {
        let times = Arc::clone(&noted);
        async move {
            for step in 0..LONG {
                let began = now();
                run.step(format!("step {step}")).read().call(|_| answer(step)).await?;
                times.lock().push(began.elapsed());
            }
            Ok::<_, StepError>(())
        }
    };
    let catalog = Catalog::builder().code("long", code).build()?;
    let runtime = Runtime::start(open(path)?, catalog, options(1)).await?;
    let before = written();
    let submitted = runtime.submit(SubmitRun::new("long", "null")).await?;
    let view = runtime.wait(submitted.run.id).await?;
    anyhow::ensure!(view.state == "succeeded", "{view:?}");
    runtime.shutdown().await?;
    let times = std::mem::take(&mut *times.lock());
    let (first, last) = (&times[10..10 + WINDOW], &times[LONG - WINDOW..]);
    let (first, last) = (median_us(first), median_us(last));
    println!(
        "| a step at step 10 / at step {LONG} of one run | {first:.0} / {last:.0} µs = {:.2} | 1.10 |",
        last / first
    );
    if let (Some(before), Some(after)) = (before, written()) {
        println!("| bytes written per step of it | {} | - |", (after - before) / LONG as u64);
    }
    Ok(())
}

fn answer(step: usize) -> std::future::Ready<Result<usize, StepError>> {
    std::future::ready(Ok(step))
}

fn median_us(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// The last of the runs in flight goes on so long after the node has started again.
async fn restart(path: &Path) -> anyhow::Result<()> {
    let before = written();
    finish(path, FINISHED).await?;
    let log = std::fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len());
    let kept = (std::fs::metadata(path)?.len() + log) / FINISHED as u64;
    let wrote = match (before, written()) {
        (Some(before), Some(after)) => format!("{} written, ", (after - before) / FINISHED as u64),
        (_, _) => String::new(),
    };
    println!("| bytes of a finished run of two steps | {wrote}{kept} kept | - |");

    let (begun, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let code = {
        let (begun, all) = (Arc::clone(&begun), Arc::clone(&all));
        move |run: RunContext| {
            let (begun, all) = (Arc::clone(&begun), Arc::clone(&all));
            async move {
                run.step("first").read().call(|_| answer(1)).await?;
                if begun.fetch_add(1, Ordering::SeqCst) + 1 == IN_FLIGHT {
                    all.notify_one();
                }
                let wait = || std::future::pending::<Result<(), StepError>>();
                run.step("second").read().within(DAY).call(|_| wait()).await
            }
        }
    };
    let catalog = Catalog::builder().code("flight", code.clone()).build()?;
    let runtime = Runtime::start(open(path)?, catalog, options(IN_FLIGHT)).await?;
    for _ in 0..IN_FLIGHT {
        runtime.submit(SubmitRun::new("flight", "null")).await?;
    }
    all.notified().await;
    runtime.abandon();
    drop(runtime);
    begun.store(0, Ordering::SeqCst);
    let store = loop {
        // The tasks of the node that is gone let go of the store.
        if let Ok(store) = SqliteStore::open(path, SqliteOptions::default()) {
            break store;
        }
        tokio::task::yield_now().await;
    };
    drop(store);
    let began = now();
    let catalog = Catalog::builder().code("flight", code).build()?;
    let runtime = Runtime::start(open(path)?, catalog, options(IN_FLIGHT)).await?;
    all.notified().await;
    let took_ms = began.elapsed().as_secs_f64() * 1e3;
    runtime.abandon();
    println!(
        "| last of {IN_FLIGHT} runs goes on after a restart, {FINISHED} finished in the store | \
         {took_ms:.0} ms | 500 ms |"
    );
    Ok(())
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Fills a store with finished runs of two steps.
async fn finish(path: &Path, count: usize) -> anyhow::Result<()> {
    let code = |run: RunContext| async move {
        run.step("first").read().call(|_| answer(1)).await?;
        run.step("second").read().call(|_| answer(2)).await
    };
    let catalog = Catalog::builder().code("short", code).build()?;
    let runtime = Runtime::start(open(path)?, catalog, options(256)).await?;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..256 {
        let runtime = runtime.clone();
        clients.spawn(async move {
            for _ in 0..count / 256 + usize::from(client < count % 256) {
                let submitted = runtime.submit(SubmitRun::new("short", "null")).await?;
                runtime.wait(submitted.run.id).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    runtime.shutdown().await?;
    Ok(())
}

/// What runs that wait cost in memory.
async fn parked(path: &Path) -> anyhow::Result<()> {
    let code = |run: RunContext| async move {
        run.step("first").read().call(|_| answer(1)).await?;
        run.sleep("a day", DAY).await
    };
    let catalog = Catalog::builder().code("sleeper", code).build()?;
    let before = memory_bytes();
    let runtime = Runtime::start(open(path)?, catalog, options(256)).await?;
    let mut clients = tokio::task::JoinSet::new();
    let began = now();
    for client in 0..64 {
        let runtime = runtime.clone();
        clients.spawn(async move {
            for _ in 0..PARKED / 64 + usize::from(client < PARKED % 64) {
                runtime.submit(SubmitRun::new("sleeper", json!(null).to_string())).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let mut watch = runtime.watch();
    while waiting(&runtime).await? < PARKED as u64 {
        watch.changed(None).await;
    }
    let took_s = began.elapsed().as_secs_f64();
    if let (Some(before), Some(after)) = (before, memory_bytes()) {
        let grown = after.saturating_sub(before);
        println!(
            "| memory of {PARKED} parked runs (submitted and parked in {took_s:.0} s) | {} MiB, \
             {} bytes each | 1024 MiB |",
            grown / 1024 / 1024,
            grown / PARKED as u64
        );
    }
    runtime.shutdown().await?;
    Ok(())
}

async fn waiting(runtime: &Runtime) -> anyhow::Result<u64> {
    let counts = runtime.count_by_state(PARKED as u64).await?;
    Ok(counts.iter().find(|(state, _)| state == "waiting").map_or(0, |(_, count)| *count))
}
