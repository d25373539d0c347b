//! Power cuts under the real program: whatever a disk may lose and tear, what was shown is there, a run folds
//! from its checkpoint as it does from its whole log, and it goes on to its end.

use std::path::Path;
use std::sync::Arc;

use steadfast_runtime::{Catalog, Run, Runtime, RuntimeOptions};
use steadfast_store::{RunFilter, SqliteOptions, SqliteStore};

use crate::medium::Medium;
use crate::medium::disk::{self, Deed, Dice, Disk};
use crate::program::{Row, events, example, run, steadfast, text};

/// Power cuts that are tried, and how many of them are gone on from.
const IMAGES: usize = 160;
const GONE_ON: usize = 8;

/// What the program does to the files of its store, and shows, in order.
fn recorded(folder: &Path) -> Vec<Deed> {
    let medium = Medium::new();
    let mut program = steadfast(folder);
    program.args(["run", "report", "--key", "mine"]);
    medium.under(&mut program, folder);
    let done = program.output().expect("starts");
    assert!(done.status.success(), "{}", text(&done.stderr));
    medium.deeds()
}

/// The number of the last event that a deed shows; 0 if it shows none.
fn shown(deed: &Deed) -> u64 {
    let Deed::Say { text } = deed else { return 0 };
    let numbers = text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// The only run of a store, folded by a node that executes nothing; `None` if there is none.
async fn folded(folder: &Path) -> Option<Run> {
    let store = SqliteStore::open(folder.join("steadfast.db"), SqliteOptions::default());
    let catalog = Catalog::builder().build().expect("nothing fits together");
    let store = Arc::new(store.expect("opens"));
    let started = Runtime::start(store, catalog, RuntimeOptions::default()).await;
    let runtime = started.expect("starts");
    // Before its first task can begin: this is the only thread.
    runtime.drain();
    let runs = runtime.list(RunFilter::default()).await.expect("lists").runs;
    let run = match runs.first() {
        Some(run) => Some(runtime.fold(run.id).await.expect("folds")),
        None => None,
    };
    runtime.shutdown().await.expect("closes");
    run
}

/// How many checkpoints there were; from now on, there are none.
fn drop_checkpoints(folder: &Path) -> usize {
    let store = rusqlite::Connection::open(folder.join("steadfast.db")).expect("opens");
    store.execute("DELETE FROM checkpoint", []).expect("deletes")
}

#[tokio::test]
async fn c1_after_a_power_cut_a_run_folds_alike_from_its_checkpoint_and_from_its_whole_log() {
    let (_temporary, folder) = example("report");
    let (deeds, seed) = (recorded(&folder), disk::seed());
    println!("seed {seed}: {} deeds, {IMAGES} power cuts", deeds.len());
    let last = deeds.iter().map(shown).max().expect("deeds");
    assert!(last > 20, "only {last} events were shown");
    let mut dice = Dice::new(seed);
    let (mut disk, mut told, mut checkpoints) = (Disk::default(), 0, 0);
    let mut cuts = disk::places(&deeds, IMAGES, &mut dice).into_iter().enumerate().peekable();
    for at in 0..=deeds.len() {
        while let Some((number, _)) = cuts.next_if(|(_, place)| *place == at) {
            let place = format!("seed {seed}, deed {at}");
            let image = tempfile::tempdir().expect("a folder");
            disk.cut_power(&mut dice, image.path());
            let run = folded(image.path()).await;
            let kept = run.as_ref().map_or(0, |run| run.seq);
            assert!(kept >= told, "{place}: {told} events were shown, {kept} are there");
            let rows = events(image.path());
            let seqs: Vec<u64> = rows.iter().map(|row| row.seq).collect();
            assert_eq!(seqs, (1..=kept).collect::<Vec<_>>(), "{place}: no holes");
            if number % (IMAGES / GONE_ON) == 0 {
                go_on(&folder, image.path(), &rows);
            }
            checkpoints += drop_checkpoints(image.path());
            if number % (IMAGES / GONE_ON) != 0 {
                assert_eq!(folded(image.path()).await, run, "{place}");
            }
        }
        if let Some(deed) = deeds.get(at) {
            disk.perform(deed);
            told = told.max(shown(deed));
        }
    }
    assert!(checkpoints > IMAGES, "only {checkpoints} checkpoints: nothing was compared");
}

/// The run that was left is brought to its end by the program.
fn go_on(example: &Path, image: &Path, before: &[Row]) {
    copy(example, image);
    let done = run(image, &["run", "report", "--key", "mine"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let after = events(image);
    assert_eq!(after[..before.len()], before[..], "what was written before is unchanged");
    assert_eq!(after.last().map(|row| row.kind.as_str()), Some("succeeded"));
}

/// Everything but the store.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            std::fs::create_dir(&target).expect("made");
            copy(&source, &target);
        } else if !entry.file_name().to_string_lossy().starts_with("steadfast.db") {
            std::fs::copy(source, target).expect("copied");
        }
    }
}
