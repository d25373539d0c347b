//! A durable step: one event of 300 bytes, appended and acknowledged, next to what the disk and bare
//! SQLite do in the same minute; and on a PostgreSQL server, if one is named.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use steadfast_store::{
    Append, Caps, Created, Disposition, Fence, HeadUpdate, NewEvent, NewRun, NodeId,
    PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store,
};

use crate::machine::{now, written};

/// How long each case runs.
const CASE: Duration = Duration::from_secs(3);
/// What a bare file is extended by before each sync: a page, the least that a disk takes.
const PAGE: [u8; 4096] = [b'x'; 4096];
/// An event's body.
const BODY: [u8; 300] = [b'x'; 300];

/// Prints the table; with a PostgreSQL server's URL, its lines too. It is left with a new schema for each.
pub(crate) async fn run(postgres: Option<&str>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(".")?;
    println!("| durable write of 300 bytes | per s | p50 ms | p99 ms | bytes written each |");
    println!("|---|---:|---:|---:|---:|");
    let before = written();
    let times = fdatasync(&folder.path().join("raw"))?;
    print("fdatasync of a file growing by 4 KiB", times, before);
    let before = written();
    let times = bare_sqlite(&folder.path().join("bare.db"))?;
    print("SQLite, FULL, one row a commit", times, before);
    for runs in [1, 16, 128] {
        let path = folder.path().join(format!("store-{runs}.db"));
        let before = written();
        let store = SqliteStore::open(&path, SqliteOptions::default())?;
        let times = appends(Arc::new(store), runs).await?;
        print(&format!("`append`, {runs} run(s) at once"), times, before);
    }
    let Some(url) = postgres else { return Ok(()) };
    for runs in [1, 16, 128, 512] {
        let schema = format!("bench_{}_{runs}", std::process::id());
        let options = PostgresOptions { schema, ..PostgresOptions::default() };
        let store = PostgresStore::connect(url, options).await?;
        let times = appends(Arc::new(store), runs).await?;
        print(&format!("`append` on PostgreSQL, {runs} run(s) at once"), times, None);
    }
    Ok(())
}

fn print(what: &str, mut times: Vec<Duration>, before: Option<u64>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    let per_s = times.len() as f64 / CASE.as_secs_f64();
    let each = match (before, written()) {
        (Some(before), Some(after)) => ((after - before) / times.len() as u64).to_string(),
        (_, _) => "-".to_owned(),
    };
    println!("| {what} | {per_s:.0} | {:.3} | {:.3} | {each} |", at(50), at(99));
}

fn fdatasync(path: &Path) -> anyhow::Result<Vec<Duration>> {
    let mut file: File = OpenOptions::new().create(true).append(true).open(path)?;
    let (end, mut times) = (now() + CASE, Vec::new());
    while now() < end {
        let began = now();
        file.write_all(&PAGE)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    Ok(times)
}

fn bare_sqlite(path: &Path) -> anyhow::Result<Vec<Duration>> {
    let store = rusqlite::Connection::open(path)?;
    store.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE e(id INTEGER PRIMARY KEY, b)",
    )?;
    let mut insert = store.prepare("INSERT INTO e(b) VALUES (?1)")?;
    let (end, mut times) = (now() + CASE, Vec::new());
    while now() < end {
        let began = now();
        insert.execute([&BODY[..]])?;
        times.push(began.elapsed());
    }
    Ok(times)
}

fn event() -> NewEvent {
    NewEvent { kind: "step".into(), version: 1, body: bytes::Bytes::from_static(&BODY) }
}

async fn appends(store: Arc<dyn Store>, runs: usize) -> anyhow::Result<Vec<Duration>> {
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(60)).await?;
    for _ in 0..runs {
        let created = store
            .create(NewRun::new(
                "bench".to_owned(),
                "bench".to_owned(),
                vec![event()],
                HeadUpdate {
                    state: "queued".to_owned(),
                    disposition: Disposition::Ready,
                    problem: None,
                    summary: bytes::Bytes::new(),
                },
            ))
            .await?;
        anyhow::ensure!(matches!(created, Created::New(_)), "a fresh id is new");
    }
    let claimed = store.claim(&node, runs, &Caps::default()).await?;
    let end = now() + CASE;
    let mut tasks = tokio::task::JoinSet::new();
    for head in claimed {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let (mut seq, mut times) = (head.head_seq, Vec::new());
            while now() < end {
                let began = now();
                let fence = Fence::Holding { epoch: head.epoch };
                let append = Append { events: vec![event()], ..Append::new(head.id, fence, seq) };
                seq = store.append(append).await?.head_seq;
                times.push(began.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    store.close().await?;
    Ok(all)
}
