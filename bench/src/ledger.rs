//! A hold and its settlement, for as many callers at once, gathered as a node gathers them: while one
//! transaction of holds is on its way, the next gathers; the same for settlements.

use std::sync::Arc;
use std::time::Duration;

use steadfast_store::{
    Account, Amounts, EntryId, Held, Hold, Limits, PostgresOptions, PostgresStore, Settled,
    Settlement, SqliteOptions, SqliteStore, Store,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::machine::{cpu, now, written};

/// How long each case runs.
const CASE: Duration = Duration::from_secs(5);
/// Most holds or settlements in one transaction.
const BATCH: usize = 256;
/// What an entry says about a call: about as long as its model, tokens, prices and trace.
const BODY: [u8; 240] = [b'x'; 240];
/// Tenants among which the callers are divided.
const TENANTS: usize = 8;
/// Models that all of them use.
const MODELS: usize = 3;
const AMOUNTS: Amounts = Amounts { tokens: 700, money: 4200 };

/// Prints the table; with a PostgreSQL server's URL, its lines too. It is left with a new schema for each.
pub(crate) async fn run(postgres: Option<&str>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(".")?;
    println!("| hold and settlement | per s | hold p50 ms | p99 ms | CPU us each | written each |");
    println!("|---|---:|---:|---:|---:|---:|");
    for callers in [64, 256] {
        let path = folder.path().join(format!("ledger-{callers}.db"));
        let store = SqliteStore::open(&path, SqliteOptions::default())?;
        measure(&format!("SQLite, {callers} callers"), Arc::new(store), callers).await?;
    }
    let Some(url) = postgres else { return Ok(()) };
    for callers in [64, 256] {
        let schema = format!("bench_ledger_{}_{callers}", std::process::id());
        let options = PostgresOptions { schema, ..PostgresOptions::default() };
        let store = PostgresStore::connect(url, options).await?;
        let what = format!("PostgreSQL (CPU without the server's), {callers} callers");
        measure(&what, Arc::new(store), callers).await?;
    }
    Ok(())
}

async fn measure(what: &str, store: Arc<dyn Store>, callers: usize) -> anyhow::Result<()> {
    let (before, cpu_before) = (written(), cpu());
    let mut times = calls(&store, callers).await?;
    let count = u32::try_from(times.len())?;
    let each = match (cpu_before, cpu()) {
        (Some(before), Some(after)) => {
            format!("{:.1}", ((after - before) / count).as_secs_f64() * 1e6)
        }
        (_, _) => "-".to_owned(),
    };
    let bytes = match (before, written()) {
        (Some(before), Some(after)) => ((after - before) / u64::from(count)).to_string(),
        (_, _) => "-".to_owned(),
    };
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    let per_s = times.len() as f64 / CASE.as_secs_f64();
    println!("| {what} | {per_s:.0} | {:.2} | {:.2} | {each} | {bytes} |", at(50), at(99));
    store.close().await?;
    Ok(())
}

fn account(name: String) -> Account {
    Account { name, since: 1_767_225_600_000 }
}

/// A call as a gateway holds for it: the limits of its tenant and agent, and what its use is counted by.
fn hold(caller: usize) -> Hold {
    let (tenant, model) = (caller % TENANTS, caller % MODELS);
    let limits = Limits { tokens: Some(1 << 50), money: Some(1 << 50) };
    let tallies = [
        format!("use/day/tenant/tenant-{tenant}"),
        format!("use/month/tenant/tenant-{tenant}"),
        format!("use/day/model/model-{model}"),
        format!("use/month/model/model-{model}"),
        format!("use/day/agent/tenant-{tenant}/clerk"),
        format!("use/day/key/tenant-{tenant}/key-1"),
    ];
    Hold {
        id: EntryId::generate(),
        amounts: AMOUNTS,
        limited: vec![
            (account(format!("limit/month/tenant/tenant-{tenant}")), limits),
            (account(format!("limit/day/agent/tenant-{tenant}/clerk")), limits),
        ],
        tallies: tallies.map(account).to_vec(),
        keep: Duration::from_secs(600),
        subject: Some(format!("tenant-{tenant}")),
        body: bytes::Bytes::from_static(&BODY),
    }
}

type Wish<A, B> = (A, oneshot::Sender<B>);

/// One after the other, everything that waits.
fn gather<A: Send + 'static, B: Send + 'static, F>(
    write: impl Fn(Vec<A>) -> F + Send + 'static,
) -> (mpsc::Sender<Wish<A, B>>, JoinHandle<anyhow::Result<()>>)
where
    F: Future<Output = anyhow::Result<Vec<B>>> + Send,
{
    let (queue, mut wishes) = mpsc::channel::<Wish<A, B>>(4 * BATCH);
    let gathering = async move {
        let mut batch = Vec::with_capacity(BATCH);
        while wishes.recv_many(&mut batch, BATCH).await > 0 {
            let (asked, replies): (Vec<A>, Vec<_>) = batch.drain(..).unzip();
            for (reply, answer) in replies.into_iter().zip(write(asked).await?) {
                // A caller whose time is over does not wait any more.
                drop(reply.send(answer));
            }
        }
        Ok(())
    };
    #[expect(clippy::disallowed_methods, reason = "the caller waits for it")]
    let task = tokio::spawn(gathering);
    (queue, task)
}

async fn calls(store: &Arc<dyn Store>, callers: usize) -> anyhow::Result<Vec<Duration>> {
    let (holding, settling) = (Arc::clone(store), Arc::clone(store));
    let (holds, held) = gather(move |wishes| {
        let store = Arc::clone(&holding);
        async move { Ok(store.hold(wishes).await?) }
    });
    let (settlements, settled) = gather(move |wishes| {
        let store = Arc::clone(&settling);
        async move { Ok(store.settle(wishes).await?) }
    });
    let end = now() + CASE;
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let (holds, settlements) = (holds.clone(), settlements.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            while now() < end {
                let (hold, began) = (hold(caller), now());
                let (id, (reply, answer)) = (hold.id, oneshot::channel());
                holds.send((hold, reply)).await?;
                let granted = answer.await?;
                times.push(began.elapsed());
                anyhow::ensure!(matches!(granted, Held::Granted(_)), "there is room for all");
                let body = bytes::Bytes::from_static(&BODY);
                let used = Settlement {
                    id,
                    amounts: AMOUNTS,
                    tallies: None,
                    body: Some(body),
                    unheld: None,
                };
                let (reply, answer) = oneshot::channel();
                settlements.send((used, reply)).await?;
                anyhow::ensure!(answer.await? == Settled::Charged, "it was held");
            }
            anyhow::Ok(times)
        });
    }
    drop((holds, settlements));
    let mut all = Vec::new();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    held.await??;
    settled.await??;
    Ok(all)
}
