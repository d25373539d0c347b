//! Power cuts: whatever a disk may lose and tear, what was acknowledged is there and the file is whole.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use steadfast_store::{
    Append, Blob, BlobHash, Caps, Catalog as _, Disposition, Fence, HeadUpdate, Journal as _,
    KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding, Keys as _, Leases as _, NewEvent,
    NewRun, NodeId, RunFilter, RunId, SqliteOptions, SqliteStore, Store as _, StoreError,
};

use crate::medium::Medium;
use crate::medium::disk::{self, Deed, Dice, Disk};
use crate::till;

/// Where the writing process has its store.
const FOLDER: &str = "STEADFAST_TEST_FOLDER";
/// One process after another, in one.
const SESSIONS: u64 = 3;
const RUNS: u8 = 4;
const APPENDS: u64 = 16;
/// Power cuts that are tried.
const IMAGES: usize = 320;

/// The log is moved into the file often.
fn open(folder: &Path) -> Result<SqliteStore, StoreError> {
    let options = SqliteOptions { checkpoint_wal_bytes: 96 * 1024, ..SqliteOptions::default() };
    SqliteStore::open(folder.join("steadfast.db"), options)
}

fn id(run: u8) -> RunId {
    RunId::from_bytes([run; 16])
}

/// What a run's event, checkpoint or blob of this number holds: nothing else may ever be read there.
fn body(what: &str, run: u8, seq: u64) -> Bytes {
    let mut dice = Dice::new(seq * 256 + u64::from(run));
    let filler = "x".repeat(dice.below(3000));
    format!("{what} {run} {seq} {filler}").into()
}

fn blob(run: u8, seq: u64) -> Option<Blob> {
    seq.is_multiple_of(5).then(|| Blob::new(body("blob", run, seq).repeat(8).into()))
}

fn key(run: u8, seq: u64) -> Option<KeyName> {
    seq.is_multiple_of(4).then(|| KeyName { scope: format!("{run}"), key: format!("{seq}") })
}

fn event(run: u8, seq: u64) -> NewEvent {
    NewEvent { kind: "noted".into(), version: 1, body: body("event", run, seq) }
}

/// Tells the outside that something was acknowledged.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").unwrap();
}

async fn create(store: &SqliteStore, run: u8) {
    let head = HeadUpdate {
        state: "queued".to_owned(),
        disposition: Disposition::Ready,
        problem: None,
        summary: Bytes::new(),
    };
    let new = NewRun::new("acme".to_owned(), "clerk".to_owned(), vec![event(run, 1)], head);
    let new = NewRun { id: id(run), ..new };
    store.create(new).await.unwrap();
    say(&format!("event {run} 1"));
}

async fn append(store: &SqliteStore, node: &NodeId, (run, epoch): (u8, u64), last: u64) {
    let seq = last + 1;
    let owner = format!("{run}");
    let mut keys = Vec::new();
    if let Some(name) = key(run, seq) {
        let claim = KeyClaim {
            name: name.clone(),
            digest: BlobHash::of(&body("digest", run, seq)),
            owner: owner.clone(),
            node: node.clone(),
            seize: None,
        };
        assert_eq!(store.claim_key(claim).await.unwrap(), KeyStanding::Claimed);
        let answer = body("answer", run, seq);
        let end = KeyEnd::Recorded { answer, keep: Duration::from_secs(3600) };
        keys.push(KeySettlement { name, owner, end });
    }
    let append = Append {
        events: vec![event(run, seq)],
        blobs: blob(run, seq).into_iter().collect(),
        checkpoint: seq.is_multiple_of(3).then(|| body("checkpoint", run, seq)),
        keys,
        ..Append::new(id(run), Fence::Holding { epoch }, last)
    };
    store.append(append).await.unwrap();
    say(&format!("event {run} {seq}"));
}

/// Nodes come and go; each writes to every run at once.
pub(crate) async fn write(folder: &Path) {
    for number in 0..SESSIONS {
        let store = session(folder, number).await;
        if number == 0 {
            store.close().await.unwrap();
        }
    }
}

/// Opens a store and writes to every run and to the ledger at once, after so many sessions before.
pub(crate) async fn session(folder: &Path, before: u64) -> Arc<SqliteStore> {
    let store = Arc::new(open(folder).unwrap());
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(60)).await.unwrap();
    if before == 0 {
        for run in 1..=RUNS {
            create(&store, run).await;
        }
    }
    let claimed = store.claim(&node, 99, &Caps::default()).await.unwrap();
    assert_eq!(claimed.len(), usize::from(RUNS));
    let mut writers = tokio::task::JoinSet::new();
    till::write(&store, before, &mut writers);
    for head in claimed {
        let (store, node, run) = (Arc::clone(&store), node.clone(), head.id.as_bytes()[0]);
        writers.spawn(async move {
            for last in head.head_seq..head.head_seq + APPENDS {
                append(&store, &node, (run, head.epoch), last).await;
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    store
}

/// What is wrong with a store.
#[derive(Debug, PartialEq)]
pub(crate) enum Wrong {
    /// It is refused.
    NotOpened(String),
    /// A read is refused.
    NotRead(String),
    /// Something else is read than what was written, or nothing where something was.
    Another(String),
    /// What was written is not found any more.
    Lost(String),
    /// A checkpoint is handed out as damaged: a run is folded from the one before.
    Checkpoint(u64),
    /// SQLite finds the file not whole.
    Torn(String),
}

/// What is true of a store, however it came about: how many events each run has, and how far each teller is.
pub(crate) async fn check(folder: &Path) -> Result<BTreeMap<u8, u64>, Wrong> {
    let store = open(folder).map_err(|error| Wrong::NotOpened(error.to_string()))?;
    let text = |error: StoreError| match error {
        StoreError::NotFound { run } => Wrong::Lost(format!("run {run}")),
        error => Wrong::NotRead(error.to_string()),
    };
    let mut found = BTreeMap::new();
    for head in store.list(RunFilter::default()).await.map_err(text)?.runs {
        let run = head.id.as_bytes()[0];
        let events = store.read(head.id, 0, usize::MAX).await.map_err(text)?;
        let bodies: Vec<&Bytes> = events.iter().map(|event| &event.body).collect();
        let right: Vec<Bytes> = (1..=head.head_seq).map(|seq| body("event", run, seq)).collect();
        if bodies != right.iter().collect::<Vec<_>>() {
            return Err(Wrong::Another(format!(
                "run {run}: {} events of {}",
                events.len(),
                head.head_seq
            )));
        }
        let checkpoints = store.checkpoints(head.id).await.map_err(text)?;
        let newest = checkpoints.first().map_or(0, |newest| newest.seq);
        if let Some(damaged) = checkpoints.iter().find(|it| it.body.is_empty()) {
            return Err(Wrong::Checkpoint(damaged.seq));
        }
        if newest != head.head_seq / 3 * 3 {
            return Err(Wrong::Lost(format!("run {run}: its newest checkpoint is {newest}")));
        }
        if checkpoints.iter().any(|it| it.body != body("checkpoint", run, it.seq)) {
            return Err(Wrong::Another(format!("run {run}: a checkpoint is another")));
        }
        for blob in (1..=head.head_seq).filter_map(|seq| blob(run, seq)) {
            match store.blob(blob.hash).await.map_err(text)? {
                Some(bytes) if bytes == blob.bytes => {}
                Some(_) => return Err(Wrong::Another(format!("run {run}: blob {}", blob.hash))),
                None => return Err(Wrong::Lost(format!("run {run}: blob {}", blob.hash))),
            }
        }
        for (seq, name) in (1..=head.head_seq).filter_map(|seq| Some((seq, key(run, seq)?))) {
            let (digest, owner) = (BlobHash::of(&body("digest", run, seq)), "late".to_owned());
            let claim = KeyClaim { name, digest, owner, node: NodeId::generate(), seize: None };
            match store.claim_key(claim).await.map_err(text)? {
                KeyStanding::Settled { answer, .. } if answer == body("answer", run, seq) => {}
                KeyStanding::Claimed => {
                    return Err(Wrong::Lost(format!("run {run}: the key of event {seq}")));
                }
                other => {
                    let problem = format!("run {run}: the key of event {seq} is {other:?}");
                    return Err(Wrong::Another(problem));
                }
            }
        }
        found.insert(run, head.head_seq);
    }
    found.extend(till::check(&store).await?);
    store.close().await.map_err(text)?;
    match integrity(folder) {
        Ok(()) => Ok(found),
        Err(problem) => Err(Wrong::Torn(problem)),
    }
}

/// What SQLite finds out about the file by itself.
pub(crate) fn integrity(folder: &Path) -> Result<(), String> {
    let connection = rusqlite::Connection::open(folder.join("steadfast.db")).unwrap();
    let found = connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(found),
        Err(error) => Err(error.to_string()),
    }
}

/// How many events of each run there are after so many sessions, and how far each teller is.
pub(crate) fn everything(sessions: u64) -> BTreeMap<u8, u64> {
    let runs = (1..=RUNS).map(|run| (run, 1 + sessions * APPENDS));
    runs.chain(till::everything(sessions)).collect()
}

/// The process that the others watch; on its own, it shows that the check finds what was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_nodes_wrote_one_after_the_other_is_read_back() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        write(Path::new(&folder)).await;
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path()).await;
    assert_eq!(check(folder.path()).await, Ok(everything(SESSIONS)));
}

/// Such a process, to be started.
pub(crate) fn process(medium: &Medium, folder: &Path) -> Command {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("power::what_several_nodes_wrote_one_after_the_other_is_read_back")
        .env(FOLDER, folder);
    medium.under(&mut process, folder);
    process
}

/// What such a process does to its files and says, in order.
fn recorded(prepare: impl FnOnce(&mut Command)) -> Vec<Deed> {
    let (medium, folder) = (Medium::new(), tempfile::tempdir().unwrap());
    let mut process = process(&medium, folder.path());
    prepare(&mut process);
    let output = process.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    medium.deeds()
}

/// What was acknowledged by a deed: the last event of each run that it names.
pub(crate) fn acknowledge(acknowledged: &mut BTreeMap<u8, u64>, deed: &Deed) {
    let Deed::Say { text } = deed else { return };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("event") {
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap();
            let run = u8::try_from(number()).unwrap();
            acknowledged.insert(run, number());
        }
    }
}

/// Cuts the power at many places; what is wrong with what is left, by the place.
async fn cut_everywhere(deeds: &[Deed], seed: u64) -> Vec<String> {
    let mut dice = Dice::new(seed);
    let (mut disk, mut acknowledged, mut wrong) = (Disk::default(), BTreeMap::new(), Vec::new());
    let mut cuts = disk::places(deeds, IMAGES, &mut dice).into_iter().peekable();
    for at in 0..=deeds.len() {
        while cuts.next_if_eq(&at).is_some() {
            let folder = tempfile::tempdir().unwrap();
            disk.cut_power(&mut dice, folder.path());
            let problem = match check(folder.path()).await {
                Ok(found) => {
                    let kept = |run: &u8| found.get(run).copied().unwrap_or(0);
                    let lost = acknowledged.iter().find(|(run, seq)| kept(run) < **seq);
                    lost.map(|(run, seq)| format!("{} of {seq} events of run {run}", kept(run)))
                }
                Err(problem) => Some(format!("{problem:?}")),
            };
            wrong.extend(problem.map(|problem| format!("deed {at}: {problem}")));
        }
        if let Some(deed) = deeds.get(at) {
            disk.perform(deed);
            acknowledge(&mut acknowledged, deed);
        }
    }
    wrong
}

#[tokio::test]
async fn c1_after_a_power_cut_everything_acknowledged_is_there_and_the_file_is_whole() {
    let (deeds, seed) = (recorded(|_| {}), disk::seed());
    let syncs = deeds.iter().filter(|deed| matches!(deed, Deed::Sync { .. })).count();
    println!("seed {seed}: {} deeds, {syncs} of them syncs, {IMAGES} power cuts", deeds.len());
    assert!(syncs > 100, "only {syncs} syncs: nothing was watched");
    let wrong = cut_everywhere(&deeds, seed).await;
    assert!(wrong.is_empty(), "seed {seed}: {} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What the test above would not notice would be worth nothing: the syncs of every file, of the log alone,
/// of the database alone are left out.
#[tokio::test]
async fn a_disk_that_does_not_sync_is_found_out_by_the_power_cuts() {
    for (unsynced, at_least) in [("", IMAGES / 2), ("-wal", IMAGES / 4), (".db", IMAGES / 16)] {
        let deeds = recorded(|process| {
            process.env("MEDIUM_NO_SYNC", unsynced);
        });
        let seed = disk::seed();
        let wrong = cut_everywhere(&deeds, seed).await;
        println!(
            "`{unsynced}`, seed {seed}: {} of {IMAGES} power cuts lost something",
            wrong.len()
        );
        assert!(wrong.len() >= at_least, "`{unsynced}`: {}:\n{}", wrong.len(), wrong.join("\n"));
    }
}
