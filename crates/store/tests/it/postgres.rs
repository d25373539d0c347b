//! The store in a database passes the suite, and survives what happens to databases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use steadfast_store::{
    Append, Caps, Catalog as _, Created, Disposition, Fence, HeadUpdate, Journal as _, Leases as _,
    NewEvent, NewRun, NodeId, PostgresOptions, PostgresStore, RunHead, RunId, Store, StoreError,
};
use tokio::task::JoinSet;

use crate::postgres_server::{Server, fresh_schema, shared};

mod contract {
    use super::*;

    async fn open_store() -> Option<(Arc<dyn Store>, ())> {
        let store = open(shared()?, &fresh_schema()).await.unwrap();
        Some((Arc::new(store), ()))
    }

    steadfast_store::contract_tests!(open_store, #[tokio::test]);
}

const LONG: Duration = Duration::from_secs(600);
/// By when the slowest machine has done what a test waits for.
const DEADLINE: Duration = Duration::from_secs(60);

async fn open(server: &Server, schema: &str) -> Result<PostgresStore, StoreError> {
    connect(server, schema, Duration::from_secs(10)).await
}

async fn connect(
    server: &Server,
    schema: &str,
    patience: Duration,
) -> Result<PostgresStore, StoreError> {
    let schema = schema.to_owned();
    let options = PostgresOptions { schema, patience, ..PostgresOptions::default() };
    PostgresStore::connect(&server.url(), options).await
}

/// A connection past the store.
async fn administrator(server: &Server) -> tokio_postgres::Client {
    let connected = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await;
    let (client, connection) = connected.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the client")]
    tokio::spawn(connection);
    client
}

fn event(body: String) -> NewEvent {
    NewEvent { kind: "noted".into(), version: 1, body: body.into() }
}

fn new_run() -> NewRun {
    let head = HeadUpdate {
        state: "queued".to_owned(),
        disposition: Disposition::Ready,
        problem: None,
        summary: Bytes::new(),
    };
    NewRun::new("acme".to_owned(), "clerk".to_owned(), vec![event("created".to_owned())], head)
}

fn append(run: RunId, epoch: u64, expected_seq: u64) -> Append {
    Append {
        events: vec![event(format!("{expected_seq}"))],
        ..Append::new(run, Fence::Holding { epoch }, expected_seq)
    }
}

async fn create(store: &PostgresStore) -> RunId {
    match store.create(new_run()).await.unwrap() {
        Created::New(head) => head.id,
        Created::Existing(head) => panic!("{head:?} is not new"),
    }
}

/// How far the load is.
#[derive(Default)]
struct Load {
    acknowledged: AtomicU64,
    over: AtomicBool,
}

impl Load {
    /// Waits until the store has acknowledged so many appends more.
    async fn more(&self, appends: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + appends;
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while self.acknowledged.load(Ordering::Relaxed) < goal {
            assert!(tokio::time::Instant::now() < deadline, "the store does not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Appends to a run until the load is over; whatever the store answers is taken as it says. Gives the last
/// acknowledged event.
async fn grow(store: &PostgresStore, run: RunId, load: &Load) -> u64 {
    let (mut acknowledged, mut seq) = (1, 1);
    while !load.over.load(Ordering::Relaxed) {
        match store.append(append(run, 0, seq)).await {
            Ok(appended) => {
                (acknowledged, seq) = (appended.head_seq, appended.head_seq);
                load.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(StoreError::Unavailable { .. }) => {
                if let Ok(Some(head)) = store.head(run).await {
                    assert!(head.head_seq >= acknowledged, "an acknowledged event is gone");
                    seq = head.head_seq;
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

/// Lets 16 runs grow while `disturb` is at work, then looks whether everything acknowledged is there.
async fn nothing_is_lost(store: &Arc<PostgresStore>, disturb: impl AsyncFnOnce(&Load)) {
    let load = Arc::new(Load::default());
    let mut growing = JoinSet::new();
    for _ in 0..16 {
        let run = create(store).await;
        let (store, load) = (Arc::clone(store), Arc::clone(&load));
        growing.spawn(async move { (run, grow(&store, run, &load).await) });
    }
    load.more(200).await;
    disturb(&load).await;
    // It has come back by itself once the runs grow again.
    load.more(200).await;
    load.over.store(true, Ordering::Relaxed);
    while let Some(grown) = growing.join_next().await {
        let (run, acknowledged) = grown.unwrap();
        let events = store.read(run, 0, usize::MAX).await.unwrap();
        assert!(acknowledged > 1, "the run did not grow");
        assert!(events.len() as u64 >= acknowledged, "{} of {acknowledged}", events.len());
        assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64));
        for event in events.iter().skip(1) {
            assert_eq!(event.body, (event.seq - 1).to_string(), "an event of another append");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_crashes_and_restarts_under_load() {
    let Some(server) = Server::start() else { return };
    let store = Arc::new(open(&server, "steadfast").await.unwrap());
    let before = store.id();
    nothing_is_lost(&store, async |load| {
        for mode in ["immediate", "fast", "immediate"] {
            server.halt(mode);
            server.resume();
            load.more(200).await;
        }
    })
    .await;
    store.close().await.unwrap();
    assert_eq!(open(&server, "steadfast").await.unwrap().id(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_connections_are_terminated() {
    let Some(server) = shared() else { return };
    // Only its own connections have this name.
    let store = named_store(server, "terminated").await;
    let administrator = administrator(server).await;
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name = 'terminated'";
    nothing_is_lost(&store, async |load| {
        for _ in 0..10 {
            let row = administrator.query_one(terminate, &[]).await.unwrap();
            assert!(row.get::<_, i64>(0) > 0, "there was nothing to terminate");
            load.more(50).await;
        }
    })
    .await;
}

/// A store whose connections the server shows under this name.
async fn named_store(server: &Server, name: &str) -> Arc<PostgresStore> {
    let url = format!("{}?application_name={name}", server.url());
    let options = PostgresOptions { schema: fresh_schema(), ..PostgresOptions::default() };
    Arc::new(PostgresStore::connect(&url, options).await.unwrap())
}

#[tokio::test]
async fn a_call_waits_for_a_server_that_comes_back_and_not_for_ever_for_one_that_does_not() {
    let Some(server) = Server::start() else { return };
    let patient = connect(&server, "steadfast", DEADLINE).await.unwrap();
    let hasty = connect(&server, "steadfast", Duration::from_millis(300)).await.unwrap();
    let run = create(&patient).await;
    server.halt("fast");
    for error in [
        hasty.append(append(run, 0, 1)).await.map(drop).unwrap_err(),
        hasty.create(new_run()).await.map(drop).unwrap_err(),
        hasty.head(run).await.map(drop).unwrap_err(),
        hasty.renew(&NodeId::generate(), LONG).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert!(!error.to_string().contains("horse"), "{error}");
    }
    let (appended, head, ()) =
        tokio::join!(patient.append(append(run, 0, 1)), patient.head(run), async {
            server.resume();
        });
    assert_eq!(appended.unwrap().head_seq, 2);
    assert!(head.unwrap().is_some());
    // The hasty one has only to be asked again.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while hasty.append(append(run, 0, 2)).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the store does not come back");
    }
    assert_eq!(patient.read(run, 0, 9).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_each_run_is_claimed_by_one() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let stores = [open(server, &schema).await.unwrap(), open(server, &schema).await.unwrap()];
    let stores = stores.map(Arc::new);
    assert_eq!(stores[0].id(), stores[1].id());
    let mut runs = Vec::new();
    for _ in 0..60 {
        runs.push(create(&stores[0]).await);
    }
    let mut nodes = JoinSet::new();
    for store in &stores {
        for _ in 0..2 {
            let store = Arc::clone(store);
            nodes.spawn(async move {
                let node = NodeId::generate();
                store.renew(&node, LONG).await.unwrap();
                let mut all = Vec::<RunHead>::new();
                loop {
                    let heads = store.claim(&node, 4, &Caps::default()).await.unwrap();
                    if heads.is_empty() {
                        return all;
                    }
                    for head in &heads {
                        assert_eq!(head.owner.as_ref(), Some(&node));
                        store.append(append(head.id, head.epoch, 1)).await.unwrap();
                    }
                    all.extend(heads);
                }
            });
        }
    }
    let mut claimed = BTreeMap::<RunId, u32>::new();
    while let Some(heads) = nodes.join_next().await {
        for head in heads.unwrap() {
            *claimed.entry(head.id).or_default() += 1;
        }
    }
    runs.sort_unstable();
    assert_eq!(claimed.keys().copied().collect::<Vec<_>>(), runs);
    assert!(claimed.values().all(|times| *times == 1), "{claimed:?}");
}

#[tokio::test]
async fn a_node_that_was_taken_for_dead_writes_nothing() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let (zombie, heir) =
        (open(server, &schema).await.unwrap(), open(server, &schema).await.unwrap());
    let run = create(&zombie).await;
    let (old, young) = (NodeId::generate(), NodeId::generate());
    zombie.renew(&old, Duration::from_secs(2)).await.unwrap();
    assert_eq!(zombie.claim(&old, 1, &Caps::default()).await.unwrap()[0].epoch, 1);
    zombie.append(append(run, 1, 1)).await.unwrap();
    heir.renew(&young, LONG).await.unwrap();
    let taken = loop {
        // It waits until the database says so, whatever this machine's clocks say.
        let taken = heir.claim(&young, 1, &Caps::default()).await.unwrap();
        if let Some(head) = taken.into_iter().next() {
            break head;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((taken.id, taken.epoch, taken.head_seq), (run, 2, 2));
    let late = zombie.append(append(run, 1, 2)).await;
    assert!(matches!(late, Err(StoreError::Fenced { held: 1, current: 2, .. })), "{late:?}");
    zombie.release(run, 1).await.unwrap();
    let renewed = zombie.renew(&old, LONG).await;
    assert!(matches!(renewed, Err(StoreError::NodeLost { .. })), "{renewed:?}");
    heir.append(append(run, 2, 2)).await.unwrap();
    assert_eq!(zombie.read(run, 0, 9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_claim_whose_answer_was_not_heard_is_in_the_next_answer() {
    let Some(server) = shared() else { return };
    let store = open(server, &fresh_schema()).await.unwrap();
    let (first, second) = (create(&store).await, create(&store).await);
    let node = NodeId::generate();
    store.renew(&node, LONG).await.unwrap();
    let caps = Caps::default();
    let mut unheard = store.claim(&node, 1, &caps);
    std::future::poll_fn(|context| {
        assert!(unheard.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    drop(unheard);
    let heads = store.claim(&node, 2, &Caps::default()).await.unwrap();
    let claimed: Vec<_> = heads.iter().map(|head| (head.id, head.epoch)).collect();
    assert_eq!(claimed, [(first, 1), (second, 1)]);
    assert_eq!(store.claim(&node, 2, &Caps::default()).await.unwrap(), []);
}

#[tokio::test]
async fn a_node_hears_what_another_has_made_ready_and_what_has_grown() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let (here, there) =
        (open(server, &schema).await.unwrap(), open(server, &schema).await.unwrap());
    // A listener that has just connected says that it may have missed something.
    let began = tokio::time::timeout(DEADLINE, here.changed()).await.unwrap();
    assert!(began.ready && began.missed);
    let run = create(&there).await;
    let mut heard = began;
    while !(heard.ready && heard.grown.contains_key(&run)) {
        heard = tokio::time::timeout(DEADLINE, here.changed()).await.unwrap();
    }
    there.append(append(run, 0, 1)).await.unwrap();
    while heard.grown.get(&run) != Some(&2) {
        heard = tokio::time::timeout(DEADLINE, here.changed()).await.unwrap();
    }
    // Its own doings are no news to a node.
    create(&here).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    create(&there).await;
    loop {
        let heard = tokio::time::timeout_at(deadline, here.changed()).await.unwrap();
        assert!(heard.grown.len() <= 1, "{heard:?}");
        if heard.ready {
            break;
        }
    }
}

#[tokio::test]
async fn a_value_that_postgres_cannot_keep_costs_only_its_caller() {
    let Some(server) = shared() else { return };
    let store = Arc::new(open(server, &fresh_schema()).await.unwrap());
    let mut tasks = JoinSet::new();
    for number in 0..20 {
        let (store, mut run) = (Arc::clone(&store), new_run());
        if number % 5 == 0 {
            run.tenant = "nul \0 in it".to_owned();
        }
        tasks.spawn(async move { (number, store.create(run).await) });
    }
    while let Some(created) = tasks.join_next().await {
        let (number, created) = created.unwrap();
        if number % 5 == 0 {
            assert!(matches!(created, Err(StoreError::Misuse { .. })), "{created:?}");
        } else {
            assert!(matches!(created, Ok(Created::New(_))), "{created:?}");
        }
    }
}

#[tokio::test]
async fn many_nodes_may_make_the_tables_at_once() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let mut ids = Vec::new();
    let opening = (0..6).map(|_| open(server, &schema));
    for store in futures_util::future::join_all(opening).await {
        ids.push(store.unwrap().id());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    open(server, &schema).await.unwrap().close().await.unwrap();
    let administrator = administrator(server).await;
    let raise = format!("UPDATE {schema}.meta SET value = '99' WHERE name = 'schema_version'");
    administrator.batch_execute(&raise).await.unwrap();
    let Err(error) = open(server, &schema).await else { panic!("a newer store was opened") };
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1") && error.to_string().contains(&schema));
}

#[tokio::test]
async fn the_tables_of_another_program_are_refused() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let foreign = format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.customer (name text)");
    administrator(server).await.batch_execute(&foreign).await.unwrap();
    let Err(error) = open(server, &schema).await else { panic!("it was opened") };
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error:?}");
}

#[tokio::test]
async fn no_error_shows_the_password() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let store = open(server, &schema).await.unwrap();
    assert!(!store.describe().contains("horse"), "{}", store.describe());
    assert!(store.describe().contains("user clerk"), "{}", store.describe());
    for url in [
        server.url().replace("correct%20", "wrong-"),
        server.url().replace("/postgres", "/nowhere"),
        server.url().replace("clerk", "nobody"),
        format!("{}?sslmode=require", server.url()),
        format!("{}?password=correct horse", server.url()).replace(' ', "&"),
    ] {
        let Err(error) = PostgresStore::connect(&url, PostgresOptions::default()).await else {
            panic!("it was opened")
        };
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("horse"), "{text}");
        }
    }
}
