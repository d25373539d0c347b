//! A disk that fails while a store is written to: the writers are told, and lose nothing acknowledged.

use std::collections::BTreeMap;

use crate::medium::{Medium, Trouble};
use crate::power::{acknowledge, check, process};

/// Writes after which it fails; the processes make some three thousand.
const AFTER: [usize; 5] = [1, 11, 101, 1009, 2003];

#[tokio::test]
async fn c10_a_disk_that_fails_at_any_write_loses_nothing_acknowledged() {
    let medium = Medium::new();
    let (mut seen, mut failed) = (0, BTreeMap::<_, usize>::new());
    for trouble in Trouble::ALL {
        for after in AFTER {
            let (folder, place) = (tempfile::tempdir().unwrap(), format!("{trouble:?} {after}"));
            medium.set(Some(trouble));
            let mut process = process(&medium, folder.path());
            let output = process.env("MEDIUM_AFTER", after.to_string()).output().unwrap();
            medium.set(None);
            let deeds = medium.deeds();
            let mut acknowledged = BTreeMap::new();
            deeds[seen..].iter().for_each(|deed| acknowledge(&mut acknowledged, deed));
            seen = deeds.len();
            if !output.status.success() {
                // The process gives up at the first error. SQLite may take a read that fails for damage.
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let is_damage = trouble == Trouble::ReadFails && said.contains("Damaged");
                assert!(is_damage || said.contains("Unavailable"), "{place}: {said}");
                *failed.entry(trouble.word()).or_default() += 1;
            }
            let found = check(folder.path()).await;
            let found = found.unwrap_or_else(|wrong| panic!("{place}: {wrong:?}"));
            let kept = |run: &u8| found.get(run).copied().unwrap_or(0);
            let lost: Vec<_> = acknowledged.iter().filter(|(run, seq)| kept(run) < **seq).collect();
            assert!(lost.is_empty(), "{place}: {lost:?} were acknowledged; there are {found:?}");
        }
    }
    println!("processes that a disk stopped, of {} each: {failed:?}", AFTER.len());
    assert!(failed.len() == Trouble::ALL.len(), "{failed:?}");
}
