//! The stores that earlier releases wrote, kept for every later one (`crates/store/tests/data`): each opens,
//! is brought up to date, and its runs fold to what was recorded beside it.
//!
//! `STEADFAST_KEEP=5 cargo test -p steadfast-runtime --test it kept` keeps one of this release, as
//! `store-5.sqlite`: what [`story`] tells, told by the runtime to a store in a file.

mod record;
mod story;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use steadfast_runtime::RunEvent;
use steadfast_store::{SqliteOptions, SqliteStore, Store};

use self::record::{differences, record};
use crate::crash_store::CrashStore;

/// Largest file that is kept, in bytes.
const KEPT_BYTES_MAX: u64 = 300 * 1024;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../store/tests/data")
}

fn open(path: &Path) -> Arc<dyn Store> {
    let store = SqliteStore::open(path, SqliteOptions::default()).expect("opens");
    CrashStore::threaded(Arc::new(store))
}

/// The kinds that none of these is.
fn unmet(kinds: &BTreeSet<String>) -> Vec<&'static str> {
    RunEvent::KINDS.into_iter().filter(|kind| !kinds.contains(*kind)).collect()
}

/// Plays the story into a new file, which is whole by itself then.
async fn play(path: &Path) {
    let store = open(path);
    story::play(&store).await;
    store.close().await.expect("closes");
}

#[tokio::test(start_paused = true)]
async fn c2_kept_stores_open_and_their_runs_fold_to_what_was_recorded() {
    let (mut kinds, mut stores) = (BTreeSet::new(), 0);
    for entry in std::fs::read_dir(folder()).expect("there") {
        let kept = entry.expect("reads").path();
        if kept.extension().is_none_or(|extension| extension != "sqlite") {
            continue;
        }
        let size_bytes = std::fs::metadata(&kept).expect("there").len();
        assert!(size_bytes <= KEPT_BYTES_MAX, "{} has {size_bytes} bytes", kept.display());
        let copies = tempfile::tempdir().expect("a temporary folder");
        let copy = copies.path().join("copy.db");
        std::fs::copy(&kept, &copy).expect("copied");
        let store = open(&copy);
        let found = record(store.as_ref(), &mut kinds).await;
        store.close().await.expect("closes");
        let beside = kept.with_extension("json");
        let recorded = std::fs::read_to_string(&beside).expect("a record beside each store");
        let recorded: Value = serde_json::from_str(&recorded).expect("JSON");
        let differences = differences(&recorded, &found);
        assert!(differences.is_empty(), "{}: {differences:#?}", kept.display());
        stores += 1;
    }
    assert!(stores >= 3, "only {stores} stores are kept");
    let unmet = unmet(&kinds);
    assert!(unmet.is_empty(), "no kept store has {unmet:?}: CONTRIBUTING.md says how to keep one");
}

#[expect(clippy::disallowed_methods, reason = "who keeps a store says so by a variable")]
#[tokio::test(start_paused = true)]
async fn c10_the_story_that_is_kept_has_every_kind_of_event_and_folds_the_same_once_reopened() {
    let folder_of_story = tempfile::tempdir().expect("a temporary folder");
    let path = folder_of_story.path().join("story.db");
    play(&path).await;
    let written = std::fs::read(&path).expect("whole by itself");
    let mut kinds = BTreeSet::new();
    let store = open(&path);
    let found = record(store.as_ref(), &mut kinds).await;
    store.close().await.expect("closes");
    assert!(unmet(&kinds).is_empty(), "the story has no {:?}: add it", unmet(&kinds));
    let states: BTreeSet<_> = record::states(&found);
    let all = steadfast_runtime::Status::ALL.into_iter().map(|status| status.as_str().to_owned());
    assert_eq!(states, all.collect(), "runs are left in every state");
    for kind in ["blob", "checkpoint", "fact", "letter", "letter_taken", "operation"] {
        assert!(found["records"][kind].as_u64() > Some(0), "no {kind}: {}", found["records"]);
    }
    if let Ok(name) = std::env::var("STEADFAST_KEEP") {
        let kept = folder().join(format!("store-{name}.sqlite"));
        std::fs::write(&kept, written).expect("kept");
        let text = serde_json::to_string_pretty(&found).expect("JSON");
        std::fs::write(kept.with_extension("json"), text + "\n").expect("recorded");
    }
}
