//! What can be provoked only from inside: a medium that is full, a value that has rotted.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::contract::{append, new_run};
use crate::{Blob, Created};

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("steadfast.db")
}

#[tokio::test]
async fn a_full_disk_acknowledges_nobody_and_stops_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(&directory);
    let opened = open::open(&path, &SqliteOptions::default()).unwrap();
    let pages: i64 =
        opened.writer.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    opened.writer.pragma_update_and_check(None, "max_page_count", pages + 40, |_| Ok(())).unwrap();
    let store = SqliteStore::start(path.clone(), opened, SqliteOptions::default()).unwrap();
    let store = Arc::new(store);
    let run = new_run();
    let id = run.id;
    store.create(run).await.unwrap();
    let mut seq = 1;
    let problem = loop {
        let mut large = append(id, 0, seq);
        large.events[0].body = vec![7; 16 * 1024].into();
        match store.append(large).await {
            Ok(appended) => seq = appended.head_seq,
            Err(StoreError::Unavailable { problem, .. }) => break problem,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(problem.contains("full") && problem.contains("free some space"), "{problem}");
    let small = store.append(append(id, 0, seq)).await;
    assert!(matches!(small, Err(StoreError::Unavailable { .. })), "{small:?}");
    assert_eq!(Journal::read(&*store, id, 0, usize::MAX).await.unwrap().len() as u64, seq);
    assert!(matches!(store.close().await, Err(StoreError::Unavailable { .. })));
    drop(store);
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    assert_eq!(store.append(append(id, 0, seq)).await.unwrap().head_seq, seq + 1);
}

#[tokio::test]
async fn a_rotten_blob_is_told_from_a_missing_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(&directory);
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let blob = Blob::new(Bytes::from_static(b"as it was"));
    let mut run = new_run();
    run.blobs = vec![blob.clone()];
    store.create(run).await.unwrap();
    store.close().await.unwrap();
    let connection = Connection::open(&path).unwrap();
    assert_eq!(connection.execute("UPDATE blob SET body = x'00'", []).unwrap(), 1);
    drop(connection);
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let read = store.blob(blob.hash).await;
    assert!(matches!(read, Err(StoreError::Corrupt { hash }) if hash == blob.hash), "{read:?}");
}

#[tokio::test]
async fn a_value_outside_the_schema_costs_only_its_own_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(&directory);
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let (sick, sound) = (new_run(), new_run());
    let (sick_id, sound_id) = (sick.id, sound.id);
    store.create(sick).await.unwrap();
    store.create(sound).await.unwrap();
    store.close().await.unwrap();
    let connection = Connection::open(&path).unwrap();
    let spoil = "UPDATE run SET disposition = 9 WHERE id = ?1";
    assert_eq!(connection.execute(spoil, [sick_id.as_bytes()]).unwrap(), 1);
    drop(connection);
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let (head, refused) = (store.head(sick_id).await, store.append(append(sick_id, 0, 1)).await);
    assert!(matches!(head, Err(StoreError::Damaged { .. })), "{head:?}");
    assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{refused:?}");
    assert_eq!(store.append(append(sound_id, 0, 1)).await.unwrap().head_seq, 2);
}

#[tokio::test]
async fn c5_what_an_earlier_release_had_claimed_finds_its_place_in_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(&directory);
    let ttl = Duration::from_secs(600);
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let (dead, heir) = (NodeId::generate(), NodeId::generate());
    store.renew(&dead, ttl).await.unwrap();
    let held = new_run();
    let id = held.id;
    store.create(held).await.unwrap();
    store.claim(&dead, 9, &Caps::default()).await.unwrap();
    store.close().await.unwrap();
    let connection = Connection::open(&path).unwrap();
    // It kept no place of a run that is held.
    assert_eq!(connection.execute("UPDATE run SET rank = NULL", []).unwrap(), 1);
    drop(connection);
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    store.renew(&heir, ttl).await.unwrap();
    store.create(new_run()).await.unwrap();
    let claimed = store.claim(&heir, 1, &Caps::default()).await.unwrap();
    assert_eq!(claimed.iter().map(|head| head.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn the_log_is_moved_into_the_file_while_writing() {
    let directory = tempfile::tempdir().unwrap();
    let path = path(&directory);
    let options = SqliteOptions { checkpoint_wal_bytes: 256 * 1024, ..SqliteOptions::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let Created::New(head) = store.create(new_run()).await.unwrap() else { panic!("it is new") };
    for seq in 1..=200 {
        let mut large = append(head.id, 0, seq);
        large.events[0].body = vec![7; 16 * 1024].into();
        store.append(large).await.unwrap();
    }
    let log = directory.path().join("steadfast.db-wal").metadata().unwrap().len();
    assert!(log < 1024 * 1024, "3 MiB were written through a log of {log} bytes");
    store.close().await.unwrap();
    assert!(!directory.path().join("steadfast.db-wal").exists());
}

/// How SQLite finds a page.
fn plan(connection: &Connection, filter: RunFilter) -> String {
    let (sql, values) = read::list_statement(filter);
    let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let steps = explain.query_map(rusqlite::params_from_iter(values), |row| row.get(3)).unwrap();
    steps.map(|step| step.unwrap()).collect::<Vec<String>>().join("; ")
}

#[tokio::test]
async fn every_filter_finds_its_page_by_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(path(&directory), SqliteOptions::default()).unwrap();
    let page = store.read(|connection| {
        let all = RunFilter::default;
        let one = || Some("x".to_owned());
        let at = Some(Timestamp(1_700_000_000_000));
        let cases = [
            (RunFilter { tenant: one(), ..all() }, "run_tenant (tenant=?"),
            (RunFilter { agent: one(), ..all() }, "run_agent (agent=?"),
            (RunFilter { session: one(), ..all() }, "run_session (session=?"),
            (RunFilter { parent: Some(RunId::generate()), ..all() }, "run_parent (parent=?"),
            (RunFilter { states: vec!["failed".to_owned()], ..all() }, "run_state (state=?"),
            (RunFilter { problems: vec!["stuck".to_owned()], ..all() }, "run_problem"),
            (RunFilter { any_problem: true, ..all() }, "run_problem"),
            (RunFilter { tag: one(), ..all() }, "tag USING PRIMARY KEY (tag=?"),
            (RunFilter { since: at, ..all() }, "(id>?"),
            (RunFilter { until: at, ..all() }, "(id<?"),
            (RunFilter { text: vec!["invoice".to_owned()], ..all() }, "VIRTUAL TABLE INDEX"),
            (RunFilter { before: Some(RunId::generate()), ..all() }, "(id<?"),
        ];
        Ok(cases.map(|(filter, wanted)| (plan(connection, filter), wanted)))
    });
    for (plan, wanted) in page.await.unwrap() {
        assert!(plan.contains(wanted), "`{wanted}` is not in: {plan}");
        // What holds a word is sorted, everything else comes in the order of the page.
        let is_search = plan.contains("VIRTUAL TABLE");
        assert_eq!(plan.contains("USE TEMP B-TREE"), is_search, "it sorts: {plan}");
    }
}

#[tokio::test]
async fn a_tag_and_a_word_are_not_looked_for_each_in_each() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(path(&directory), SqliteOptions::default()).unwrap();
    let word = || vec!["invoice".to_owned()];
    let tag = || Some("x".to_owned());
    let plans = store.read(move |connection| {
        let both = RunFilter { tag: tag(), text: word(), ..RunFilter::default() };
        let all = RunFilter { tenant: tag(), ..both.clone() };
        Ok([plan(connection, both), plan(connection, all)])
    });
    for plan in plans.await.unwrap() {
        assert!(plan.contains("tag USING PRIMARY KEY (tag=?"), "{plan}");
        assert!(!plan.contains("rowid=?"), "the runs of the tag times those with the word: {plan}");
    }
}

#[tokio::test]
async fn what_removes_a_run_looks_at_no_other_runs_tags() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(path(&directory), SqliteOptions::default()).unwrap();
    let steps = store.read(|connection| {
        let sql = format!("EXPLAIN QUERY PLAN {}", prune::DELETE_TAG);
        let mut explain = connection.prepare(&sql).unwrap();
        let id = RunId::generate();
        let steps = explain.query_map(rusqlite::params!["x", id.as_bytes()], |row| row.get(3));
        Ok(steps.unwrap().map(|step| step.unwrap()).collect::<Vec<String>>().join("; "))
    });
    let steps = steps.await.unwrap();
    assert!(steps.contains("PRIMARY KEY (tag=? AND id=?)"), "{steps}");
}
