//! The store in a file passes the suite, and survives what happens to files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use steadfast_store::{
    Append, Caps, Catalog, Disposition, Fence, HeadUpdate, Journal, Keys as _, Leases, NewEvent,
    NewRun, NodeId, RunFilter, RunId, SqliteOptions, SqliteStore, Store, StoreError,
};
use tempfile::TempDir;

mod contract {
    use super::*;

    #[expect(clippy::unused_async, reason = "the suite opens every backend alike")]
    async fn open_store() -> (Arc<dyn Store>, TempDir) {
        let (directory, path) = place();
        (Arc::new(open(&path).unwrap()), directory)
    }

    steadfast_store::contract_tests!(open_store);
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("steadfast.db");
    (directory, path)
}

fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, SqliteOptions::default())
}

fn refusal(path: &Path) -> StoreError {
    match open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
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
    let events = vec![event("created".to_owned())];
    let new = NewRun::new("acme".to_owned(), "clerk".to_owned(), events, head);
    NewRun { key: Some("order-7".to_owned()), ..new }
}

fn append(run: RunId, epoch: u64, expected_seq: u64) -> Append {
    Append {
        events: vec![event(format!("{expected_seq}"))],
        checkpoint: Some(Bytes::from_static(b"folded")),
        ..Append::new(run, Fence::Holding { epoch }, expected_seq)
    }
}

#[tokio::test]
async fn a_store_opened_again_has_everything() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let run = new_run();
    let id = run.id;
    store.create(run).await.unwrap();
    for seq in 1..=20 {
        store.append(append(id, 0, seq)).await.unwrap();
    }
    let before = (
        store.id(),
        store.head(id).await.unwrap(),
        store.read(id, 0, 99).await.unwrap(),
        store.checkpoints(id).await.unwrap(),
    );
    store.close().await.unwrap();
    let store = open(&path).unwrap();
    let after = (
        store.id(),
        store.head(id).await.unwrap(),
        store.read(id, 0, 99).await.unwrap(),
        store.checkpoints(id).await.unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(after.2.len(), 21);
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_files_while_the_store_is_open() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let run = new_run();
    let id = run.id;
    store.create(run).await.unwrap();
    for seq in 1..=50 {
        let acknowledged = store.append(append(id, 0, seq)).await.unwrap().head_seq;
        if seq % 10 != 0 {
            continue;
        }
        // What a power cut would leave: the files as they are now, and no orderly end.
        let (_other, copy) = place();
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(path.with_extension("db-wal"), copy.with_extension("db-wal")).unwrap();
        let survivor = open(&copy).unwrap();
        let events = survivor.read(id, 0, 99).await.unwrap();
        assert_eq!(events.len() as u64, acknowledged);
        survivor.append(append(id, 0, acknowledged)).await.unwrap();
    }
}

#[tokio::test]
async fn runs_held_before_a_crash_can_be_claimed_at_once() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let run = new_run();
    let id = run.id;
    store.create(run).await.unwrap();
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(store.claim(&node, 1, &Caps::default()).await.unwrap().len(), 1);
    drop(store);
    let store = open(&path).unwrap();
    assert!(store.next_wake().await.unwrap().is_some_and(|at| at <= store.now()));
    let heir = NodeId::generate();
    store.renew(&heir, Duration::from_secs(3600)).await.unwrap();
    let claimed = store.claim(&heir, 9, &Caps::default()).await.unwrap();
    assert_eq!((claimed[0].id, claimed[0].epoch), (id, 2));
    let zombie = store.append(append(id, 1, 1)).await;
    assert!(matches!(zombie, Err(StoreError::Fenced { held: 1, current: 2, .. })), "{zombie:?}");
}

#[test]
fn what_is_not_a_database_is_refused_and_left_alone() {
    for garbage in [b"x".to_vec(), b"hello, this is text\n".repeat(400), vec![0; 8192]] {
        let (_directory, path) = place();
        std::fs::write(&path, &garbage).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, StoreError::NotAStore { .. }), "{error:?}");
        assert!(error.to_string().contains("steadfast.db"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), garbage);
    }
}

#[test]
fn the_database_of_another_program_is_refused() {
    let (_directory, path) = place();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE customer (name TEXT)").unwrap();
    drop(connection);
    let error = refusal(&path);
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error:?}");
}

#[tokio::test]
async fn a_truncated_store_is_refused_with_a_reason() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let run = new_run();
    let id = run.id;
    store.create(run).await.unwrap();
    for seq in 1..=200 {
        store.append(append(id, 0, seq)).await.unwrap();
    }
    store.close().await.unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [1, 50, 100, 512, 4096, 4097, whole.len() / 2, whole.len() - 4096] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = refusal(&path);
        assert!(
            matches!(error, StoreError::NotAStore { .. } | StoreError::Damaged { .. }),
            "{length} bytes: {error:?}"
        );
    }
    std::fs::write(&path, whole).unwrap();
    assert_eq!(open(&path).unwrap().read(id, 0, 999).await.unwrap().len(), 201);
}

/// SQLite has no checksums of its own: a flip may stay unseen, be an error, or be another value. It is
/// never a panic, and never an error without a reason.
#[tokio::test]
async fn a_flipped_bit_is_never_a_panic() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let run = new_run();
    let id = run.id;
    store.create(run).await.unwrap();
    for seq in 1..=50 {
        store.append(append(id, 0, seq)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let (mut refused, mut failed) = (0, 0);
    // Every byte of the file's head, then one in 499 (a prime, so that every place in a page is met).
    for at in (0..100).chain((100..whole.len()).step_by(499)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, flipped).unwrap();
        match open(&path) {
            Ok(store) => failed += usize::from(!use_everything(&store, id).await),
            Err(error) => {
                assert!(error.to_string().contains("steadfast.db"), "byte {at}: {error}");
                refused += 1;
            }
        }
        for log in ["steadfast.db-wal", "steadfast.db-shm"] {
            std::fs::remove_file(path.with_file_name(log)).ok();
        }
    }
    assert!(refused > 16, "{refused} flips were found at opening, {failed} later");
}

/// Calls every read and a write; whether all of them succeeded.
async fn use_everything(store: &SqliteStore, run: RunId) -> bool {
    let node = NodeId::generate();
    [
        store.read(run, 0, usize::MAX).await.is_ok(),
        store.checkpoints(run).await.is_ok(),
        store.head(run).await.is_ok(),
        store.list(RunFilter::default()).await.is_ok(),
        store.count_by_state(9).await.is_ok(),
        store.next_wake().await.is_ok(),
        store.append(append(run, 0, 51)).await.is_ok(),
        store.renew(&node, Duration::from_secs(9)).await.is_ok(),
        store.claim(&node, 9, &Caps::default()).await.is_ok(),
        store.close().await.is_ok(),
    ]
    .iter()
    .all(|succeeded| *succeeded)
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_a_new_store() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, path) = place();
    let store = open(&path).unwrap();
    store.create(new_run()).await.unwrap();
    for name in ["steadfast.db", "steadfast.db-wal", "steadfast.db-shm"] {
        let mode = directory.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let (_directory, path) = place();
    std::fs::write(&path, "").unwrap();
    let store = open(&path).unwrap();
    let id = store.id();
    store.close().await.unwrap();
    drop(store);
    let version: i64 = rusqlite::Connection::open(&path)
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 5);
    assert_eq!(open(&path).unwrap().id(), id);
}

#[tokio::test]
async fn a_log_without_its_database_is_not_dropped() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    store.create(new_run()).await.unwrap();
    let (_other, copy) = place();
    let log = copy.with_extension("db-wal");
    std::fs::copy(path.with_extension("db-wal"), &log).unwrap();
    let error = refusal(&copy);
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert!(log.metadata().unwrap().len() > 0);
}

#[test]
fn a_second_open_names_the_process_that_has_it() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let error = refusal(&path);
    let own = std::process::id();
    assert!(matches!(error, StoreError::InUse { pid: Some(pid), .. } if pid == own), "{error:?}");
    drop(store);
    open(&path).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_in_use_is_also_in_use_by_the_name_of_a_link() {
    let (_folder, path) = place();
    let store = open(&path).expect("opens");
    let link = path.with_file_name("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    assert!(matches!(refusal(&link), StoreError::InUse { .. }));
    store.close().await.expect("closes");
    drop(open(&link).expect("nobody has it"));
}

#[test]
fn a_newer_store_is_refused_and_left_alone() {
    let (_directory, path) = place();
    drop(open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 6).unwrap();
    drop(connection);
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Newer { found: 6, known: 5, .. }), "{error:?}");
}

/// A store that a release with schema version 2 wrote: one run of the report example, finished. Kept for
/// every later release.
const VERSION_2: &[u8] = include_bytes!("../data/store-2.sqlite");

/// The same of a release with schema version 3.
const VERSION_3: &[u8] = include_bytes!("../data/store-3.sqlite");

#[tokio::test]
async fn a_store_of_an_older_release_is_brought_up_to_date() {
    for version in [1, 2, 3] {
        let (_directory, path) = place();
        std::fs::write(&path, if version == 3 { VERSION_3 } else { VERSION_2 }).unwrap();
        if version == 1 {
            // The tables that version 2 added are taken away.
            let connection = rusqlite::Connection::open(&path).unwrap();
            connection.execute_batch("DROP TABLE operation; PRAGMA user_version = 1").unwrap();
        }
        let store = open(&path).unwrap();
        let runs = store.list(RunFilter::default()).await.unwrap().runs;
        let [run] = &runs[..] else { panic!("{runs:?}") };
        assert_eq!(
            (run.agent.as_str(), run.state.as_str(), run.head_seq),
            ("report", "succeeded", 27)
        );
        assert_eq!((&run.session, run.tags.len(), &run.problem), (&None, 0, &None));
        assert_eq!(store.read(run.id, 0, 99).await.unwrap().len(), 27);
        assert_eq!(store.checkpoints(run.id).await.unwrap().len(), 4);
        assert_eq!(store.purge_keys(1).await.unwrap(), 0);
        let new = new_run();
        let id = new.id;
        store.create(new).await.unwrap();
        store.append(append(id, 0, 1)).await.unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_removed_or_replaced_under_the_store_acknowledges_nobody() {
    for replaced in [false, true] {
        let (_directory, path) = place();
        let store = open(&path).unwrap();
        let run = new_run();
        let id = run.id;
        store.create(run).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        if replaced {
            std::fs::write(&path, "something else").unwrap();
        }
        let error = store.append(append(id, 0, 1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("removed or replaced"), "{error}");
        let after = store.append(append(id, 0, 1)).await;
        assert!(matches!(after, Err(StoreError::Unavailable { .. })), "{after:?}");
    }
}

#[test]
fn a_missing_directory_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = refusal(&missing.join("steadfast.db")).to_string();
    assert!(error.contains(&missing.display().to_string()), "{error}");
    assert!(error.contains("create it"), "{error}");
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = refusal(&file.join("steadfast.db"));
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let error = refusal(directory.path());
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error:?}");
}

#[tokio::test]
async fn what_was_accepted_before_close_is_finished() {
    let (_directory, path) = place();
    let store = Arc::new(open(&path).unwrap());
    let run = new_run();
    let id = run.id;
    store.create(run).await.unwrap();
    let mut pending = store.append(append(id, 0, 1));
    std::future::poll_fn(|context| {
        assert!(pending.as_mut().poll(context).is_pending(), "a commit takes another thread");
        std::task::Poll::Ready(())
    })
    .await;
    store.close().await.unwrap();
    assert_eq!(pending.await.unwrap().head_seq, 2);
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!(store.read(id, 0, 9).await.unwrap().len(), 2);
    assert_eq!(store.list(RunFilter::default()).await.unwrap().runs.len(), 1);
}
