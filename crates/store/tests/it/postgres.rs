//! The store in a database passes the suite, and survives what happens to databases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use steadfast_store::{
    Append, Archive as _, Blob, BlobHash, Caps, Catalog as _, Created, Disposition, FactName,
    FactWrite, Fence, HeadUpdate, Journal as _, KeyClaim, KeyEnd, KeyName, KeySettlement,
    Leases as _, Mail, Mailbox as _, NewEvent, NewRun, NodeId, PostgresOptions, PostgresStore,
    Prune, Pruned, Record, RunHead, RunId, SqliteOptions, SqliteStore, Store, StoreError,
    Timestamp, Upkeep as _,
};
use tokio::sync::{Barrier, watch};
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

pub(crate) const LONG: Duration = Duration::from_secs(600);
/// By when the slowest machine has done what a test waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) async fn open(server: &Server, schema: &str) -> Result<PostgresStore, StoreError> {
    connect(server, schema, Duration::from_secs(10)).await
}

pub(crate) async fn connect(
    server: &Server,
    schema: &str,
    patience: Duration,
) -> Result<PostgresStore, StoreError> {
    let schema = schema.to_owned();
    let options = PostgresOptions { schema, patience, ..PostgresOptions::default() };
    PostgresStore::connect(&server.url(), options).await
}

/// A connection past the store.
pub(crate) async fn administrator(server: &Server) -> tokio_postgres::Client {
    let connected = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await;
    let (client, connection) = connected.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the client")]
    tokio::spawn(connection);
    client
}

fn event(body: String) -> NewEvent {
    NewEvent { kind: "noted".into(), version: 1, body: body.into() }
}

pub(crate) fn new_run() -> NewRun {
    let head = HeadUpdate {
        state: "queued".to_owned(),
        disposition: Disposition::Ready,
        problem: None,
        summary: Bytes::new(),
    };
    NewRun::new("acme".to_owned(), "clerk".to_owned(), vec![event("created".to_owned())], head)
}

pub(crate) fn append(run: RunId, epoch: u64, expected_seq: u64) -> Append {
    Append {
        events: vec![event(format!("{expected_seq}"))],
        ..Append::new(run, Fence::Holding { epoch }, expected_seq)
    }
}

pub(crate) async fn create(store: &PostgresStore) -> RunId {
    match store.create(new_run()).await.unwrap() {
        Created::New(head) => head.id,
        Created::Existing(head) => panic!("{head:?} is not new"),
    }
}

/// How far the load is.
#[derive(Default)]
pub(crate) struct Load {
    acknowledged: AtomicU64,
    over: AtomicBool,
}

impl Load {
    /// Waits until the store has acknowledged so many appends more.
    pub(crate) async fn more(&self, appends: u64) {
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
pub(crate) async fn nothing_is_lost(store: &Arc<PostgresStore>, disturb: impl AsyncFnOnce(&Load)) {
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
    let store = fresh_store(server, "terminated").await;
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
pub(crate) async fn fresh_store(server: &Server, name: &str) -> Arc<PostgresStore> {
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

async fn dump(store: &dyn Store) -> Vec<Record> {
    let mut dump = store.dump().await.unwrap();
    let mut all = Vec::new();
    loop {
        let page = dump.next().await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

async fn restore(store: &dyn Store, records: &[Record]) {
    let mut restore = store.restore().await.unwrap();
    for page in records.chunks(100) {
        restore.write(page.to_vec()).await.unwrap();
    }
    restore.finish().await.unwrap();
}

/// A store with more of everything than one page holds.
async fn fill(store: &dyn Store) {
    for number in 0..600_u32 {
        let state = if number.is_multiple_of(3) { Disposition::Ended } else { Disposition::Ready };
        let head = HeadUpdate { disposition: state, ..new_run().head };
        let run = NewRun {
            head,
            key: Some(format!("key {number}")),
            tags: vec![format!("tag {number}"), "all".to_owned()],
            text: format!("words of {number}"),
            blobs: vec![
                Blob::new(Bytes::from(format!("blob {}", number / 2))),
                Blob::new(vec![b'x'; 100_000 + number as usize].into()),
            ],
            events: (0..number % 5 + 1).map(|n| event(format!("{n}"))).collect(),
            ..new_run()
        };
        let Created::New(head) = store.create(run).await.unwrap() else { panic!("not new") };
        if state == Disposition::Ready {
            let body = Bytes::from_static(b"\xff");
            let mail = Mail { to: head.id, id: "one".to_owned(), kind: "said".to_owned(), body };
            store.send(mail).await.unwrap();
            let checkpoint = Some(Bytes::from(format!("folded {number}")));
            let letters = store.letters(head.id, 9).await.unwrap();
            let taken = letters.iter().map(|l| l.number).take(number as usize % 2).collect();
            let more = Append { checkpoint, taken, ..append(head.id, 0, head.head_seq) };
            store.append(more).await.unwrap();
        }
        let name = FactName { scope: format!("{}", number % 7), key: format!("{number}") };
        let value = Some(Bytes::from(format!("{number}")));
        store.write_facts(vec![FactWrite { name, value, keep: None }]).await.unwrap();
        let name = KeyName { scope: "acme".to_owned(), key: format!("{number}") };
        let (digest, owner) = (BlobHash::of(b"request"), "me".to_owned());
        let node = NodeId::from("node".to_owned());
        let claim =
            KeyClaim { name: name.clone(), digest, owner: owner.clone(), node, seize: None };
        store.claim_key(claim).await.unwrap();
        if number.is_multiple_of(2) {
            let end = KeyEnd::Recorded { answer: Bytes::from_static(b"done"), keep: LONG };
            store.settle_key(KeySettlement { name, owner, end }).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_is_the_same_after_a_way_through_both_databases() {
    let Some(server) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file =
        |name: &str| SqliteStore::open(folder.path().join(name), SqliteOptions::default()).unwrap();
    let (first, last) = (file("first.db"), file("last.db"));
    fill(&first).await;
    let original = dump(&first).await;
    let between = open(server, &fresh_schema()).await.unwrap();
    restore(&between, &original).await;
    assert_eq!(between.examine().await.unwrap(), Vec::<String>::new());
    let passed = dump(&between).await;
    restore(&last, &passed).await;
    let sorted = |records: &[Record]| {
        let mut shown: Vec<_> = records.iter().map(|record| format!("{record:?}")).collect();
        shown.sort_unstable();
        shown
    };
    let original = sorted(&original);
    for kind in ["Run(", "Event ", "Checkpoint ", "Blob ", "BlobUse ", "Letter ", "LetterTaken "] {
        assert!(original.iter().any(|record| record.starts_with(kind)), "no {kind}");
    }
    assert!(original == sorted(&passed), "the database has changed something");
    assert!(original == sorted(&dump(&last).await), "the way back has changed something");
    // What is written now comes behind what was taken in.
    let run = create(&between).await;
    assert_eq!(between.append(append(run, 0, 1)).await.unwrap().head_seq, 2);
    let (id, kind) = ("later".to_owned(), "said".to_owned());
    between.send(Mail { to: run, id, kind, body: Bytes::new() }).await.unwrap();
    assert_eq!(between.letters(run, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_is_taken_into_a_store_that_a_node_works_with_or_another_process_fills() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let (here, there) =
        (open(server, &schema).await.unwrap(), open(server, &schema).await.unwrap());
    let node = NodeId::generate();
    there.renew(&node, LONG).await.unwrap();
    let Err(refused) = here.restore().await else { panic!("a node is at work") };
    assert!(refused.to_string().contains("a node is at work"), "{refused}");
    there.retire(&node).await.unwrap();
    let filling = here.restore().await.unwrap();
    // The other one waits, and comes once the first has given up.
    let mut second = there.restore();
    std::future::poll_fn(|context| {
        assert!(second.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    drop(filling);
    second.await.unwrap().finish().await.unwrap();
    create(&there).await;
    let Err(occupied) = here.restore().await else { panic!("it holds a run") };
    assert!(matches!(occupied, StoreError::Occupied { .. }), "{occupied:?}");
}

/// How often all who refer let go, and how much each of them refers in between.
const SPELLS: usize = 15;
const SPELL: usize = 10;

/// A blob that is always one of the same few.
fn shared_blob(number: usize) -> Blob {
    Blob::new(Bytes::from(format!("shared {}", number % 3)))
}

/// Creates runs that are over at once, and others that go on and refer to the same blobs; a few of these
/// are still alive at the end.
///
/// After each spell but the last, all who refer wait for each other. Nobody then holds a blob, so that
/// those who prune are bound to take at least one that was there in this spell; the next begins as soon as
/// they say so, while they are still at it.
async fn refer(
    store: &PostgresStore,
    together: &Barrier,
    mut gone: watch::Receiver<u64>,
) -> Vec<RunId> {
    let mut living = Vec::new();
    for spell in 1..=SPELLS {
        let before = *gone.borrow();
        for number in 0..SPELL {
            let run = refer_once(store, number).await;
            if spell == SPELLS && number % 5 == 4 {
                living.push(run);
                continue;
            }
            let head = Some(HeadUpdate { disposition: Disposition::Ended, ..new_run().head });
            store.append(Append { head, ..append(run, 0, 2) }).await.unwrap();
        }
        if spell < SPELLS {
            together.wait().await;
            let taken = tokio::time::timeout(DEADLINE, gone.wait_for(|gone| *gone > before)).await;
            let taken = taken.unwrap_or_else(|_| panic!("nobody took a blob after spell {spell}"));
            assert!(*taken.unwrap() > before);
        }
    }
    living
}

/// Refers to two blobs, from a run that is over and from one that goes on.
async fn refer_once(store: &PostgresStore, number: usize) -> RunId {
    let blobs = vec![shared_blob(number), shared_blob(number + 1)];
    let head = HeadUpdate { disposition: Disposition::Ended, ..new_run().head };
    let over = NewRun { head, blobs: blobs.clone(), ..new_run() };
    store.create(over).await.unwrap();
    let run = create(store).await;
    store.append(Append { blobs: blobs.clone(), ..append(run, 0, 1) }).await.unwrap();
    // What it wrote is there, whatever is pruned meanwhile.
    for blob in blobs {
        let found = store.blob(blob.hash).await.unwrap();
        assert_eq!(found, Some(blob.bytes), "a blob is gone that has just been referred to");
    }
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_prune_never_take_a_blob_that_another_is_referring_to() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(Arc::new(open(server, &schema).await.unwrap()));
    }
    let (gone, seen) = watch::channel(0);
    let (gone, over) = (Arc::new(gone), Arc::new(AtomicBool::new(false)));
    let mut pruning = JoinSet::new();
    for store in &stores[..2] {
        let (store, over, gone) = (Arc::clone(store), Arc::clone(&over), Arc::clone(&gone));
        pruning.spawn(async move {
            let mut all = Pruned::default();
            while !over.load(Ordering::Relaxed) {
                let pruned = prune_all(&store).await;
                gone.send_modify(|gone| *gone += pruned.blobs);
                all = all.plus(pruned);
            }
            all
        });
    }
    let (mut referring, together) = (JoinSet::new(), Arc::new(Barrier::new(4)));
    for store in [&stores[2], &stores[2], &stores[3], &stores[3]] {
        let (store, together) = (Arc::clone(store), Arc::clone(&together));
        let seen = seen.clone();
        referring.spawn(async move { refer(&store, &together, seen).await });
    }
    let mut living = Vec::new();
    while let Some(referred) = referring.join_next().await {
        living.extend(referred.unwrap());
    }
    over.store(true, Ordering::Relaxed);
    let mut pruned = Pruned::default();
    while let Some(one) = pruning.join_next().await {
        pruned = pruned.plus(one.unwrap());
    }
    pruned = pruned.plus(prune_all(&stores[0]).await);
    let made = 4 * SPELLS * SPELL * 2 - living.len();
    assert_eq!(pruned.runs, made as u64, "each run once: {pruned:?}");
    assert!(pruned.blobs >= SPELLS as u64 - 1, "{pruned:?}");
    assert_eq!(stores[0].examine().await.unwrap(), Vec::<String>::new());
    nothing_is_left_but(server, &schema, living.len() as i64).await;
    for run in living {
        let last = Append {
            head: Some(HeadUpdate { disposition: Disposition::Ended, ..new_run().head }),
            ..append(run, 0, 2)
        };
        stores[0].append(last).await.unwrap();
    }
    prune_all(&stores[0]).await;
    nothing_is_left_but(server, &schema, 0).await;
}

/// Nothing is in the tables but so many runs of two events, and what these hold.
async fn nothing_is_left_but(server: &Server, schema: &str, living: i64) {
    let administrator = administrator(server).await;
    for (what, left) in [
        ("blob WHERE NOT EXISTS (SELECT 1 FROM {}.blob_ref WHERE blob_ref.hash = blob.hash)", 0),
        ("meta WHERE name LIKE 'pruning/%'", 0),
        ("run", living),
        ("event", living * 2),
        ("blob_ref", living * 2),
    ] {
        let count = format!("SELECT count(*) FROM {{}}.{what}").replace("{}", schema);
        let row = administrator.query_one(&count, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), left, "{what}");
    }
}

/// Removes what has ended by now.
async fn prune_all(store: &PostgresStore) -> Pruned {
    let ended_before = Timestamp(store.now().0 + 60_000);
    let prune = Prune { states: Vec::new(), ended_before, limit: usize::MAX };
    store.prune(&prune).await.unwrap()
}

#[tokio::test]
async fn what_belongs_to_nothing_and_what_is_missing_is_found() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let store = open(server, &schema).await.unwrap();
    let blob = Blob::new(Bytes::from_static(b"long"));
    let run = NewRun { blobs: vec![blob.clone()], ..new_run() };
    store.create(run).await.unwrap();
    assert_eq!(store.examine().await.unwrap(), Vec::<String>::new());
    let damage = format!(
        "SET search_path TO {schema}; DELETE FROM blob; INSERT INTO event \
         VALUES (77, 1, 0, 'noted', 1, ''), (77, 2, 0, 'noted', 1, '')"
    );
    administrator(server).await.batch_execute(&damage).await.unwrap();
    let found = store.examine().await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("run number 77 has no card, and events (2)"), "{found:?}");
    assert!(found[1].contains(&blob.hash.to_string()), "{found:?}");
}
