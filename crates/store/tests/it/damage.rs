//! Files that were damaged while nobody had them open: what is read is right, or refused with a reason.

use std::collections::BTreeMap;
use std::path::Path;

use crate::medium::disk::{self, Dice};
use crate::power::{Wrong, check, everything, integrity, session};

/// Bits that are flipped, in a database and in a log.
const FLIPS: usize = 240;
/// Lengths that a database is cut to.
const CUTS: usize = 60;

/// A database as a process leaves it that ends in order; and one with its log, as a killed process does.
struct Stores {
    closed: Vec<u8>,
    database: Vec<u8>,
    log: Vec<u8>,
}

impl Stores {
    async fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        drop(session(folder.path(), 0).await);
        let closed = read("steadfast.db");
        let store = session(folder.path(), 1).await;
        let (database, log) = (read("steadfast.db"), read("steadfast.db-wal"));
        drop(store);
        Self { closed, database, log }
    }
}

fn put(folder: &Path, database: &[u8], log: &[u8]) {
    std::fs::write(folder.join("steadfast.db"), database).unwrap();
    if !log.is_empty() {
        std::fs::write(folder.join("steadfast.db-wal"), log).unwrap();
    }
}

/// What became of a damaged store. It fails the test if that may not be.
async fn outcome(database: &[u8], log: &[u8], place: &str) -> &'static str {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), database, log);
    let before = integrity(folder.path());
    let sessions = if log.is_empty() { 1 } else { 2 };
    match check(folder.path()).await {
        Ok(found) if found == everything(sessions) => "right",
        // SQLite takes a damaged end of the log for what a power cut tears.
        Ok(_) if !log.is_empty() => "the end of the log cut off",
        // A run is found by an index alone: only SQLite's own check can tell that it is not.
        Ok(_) | Err(Wrong::Lost(_)) if before.is_err() => "lost by an index",
        Err(Wrong::Lost(_)) if !log.is_empty() => "the end of the log cut off",
        Err(Wrong::NotOpened(problem) | Wrong::NotRead(problem)) => {
            let remedies = ["restore it from a backup", "choose another path", "newer one"];
            assert!(remedies.iter().any(|it| problem.contains(it)), "{place}: {problem}");
            "refused"
        }
        Err(Wrong::Checkpoint(_)) => "a checkpoint passed over",
        // Everything was read and was right: an index or a page in nobody's use is damaged.
        Err(Wrong::Torn(_)) => "right, but not whole",
        wrong => panic!("{place}: {wrong:?}"),
    }
}

#[tokio::test]
async fn a_flipped_bit_gives_what_was_written_or_an_error_with_a_reason() {
    let (seed, stores) = (disk::seed(), Stores::make().await);
    let mut dice = Dice::new(seed);
    let mut outcomes = BTreeMap::<_, usize>::new();
    for flip in 0..FLIPS {
        let mut closed = stores.closed.clone();
        // The first hundred bytes are the header of the file: one flip in eight.
        let at = dice.below(if flip % 8 == 0 { 100 } else { closed.len() });
        closed[at] ^= 1 << dice.below(8);
        let what = outcome(&closed, &[], &format!("seed {seed}, byte {at}")).await;
        *outcomes.entry(what).or_default() += 1;
    }
    println!("seed {seed}, {} bytes of database: {outcomes:?}", stores.closed.len());
    let refused = outcomes.get("refused").copied().unwrap_or(0);
    assert!(refused > FLIPS / 4, "seed {seed}: {outcomes:?}");
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_gives_what_was_written_or_an_error_or_an_earlier_end() {
    let (seed, stores) = (disk::seed(), Stores::make().await);
    let mut dice = Dice::new(seed);
    let mut outcomes = BTreeMap::<_, usize>::new();
    for _ in 0..FLIPS {
        let mut log = stores.log.clone();
        let at = dice.below(log.len());
        log[at] ^= 1 << dice.below(8);
        let what = outcome(&stores.database, &log, &format!("seed {seed}, byte {at}")).await;
        *outcomes.entry(what).or_default() += 1;
    }
    println!("seed {seed}, {} bytes of log: {outcomes:?}", stores.log.len());
    assert!(outcomes.len() > 1, "seed {seed}: {outcomes:?}");
}

#[tokio::test]
async fn a_database_cut_at_any_page_or_in_it_is_refused_with_a_reason() {
    let (seed, stores) = (disk::seed(), Stores::make().await);
    let mut dice = Dice::new(seed);
    let pages = stores.closed.len() / 4096;
    for cut in 0..CUTS {
        let inside = if cut % 2 == 0 { 0 } else { dice.below(4096) };
        let length = 1 + (dice.below(pages) * 4096 + inside).min(stores.closed.len() - 2);
        let place = format!("seed {seed}, {length} of {} bytes", stores.closed.len());
        assert_eq!(outcome(&stores.closed[..length], &[], &place).await, "refused", "{place}");
    }
}
