//! Removing runs that are over.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{MemoryStore, Run, Shelves};
use crate::{Disposition, Prune, Pruned, RunId, StoreError, Upkeep};

impl Shelves {
    /// Whether the runs that a run is of, and that are of it, have ended.
    fn family_is_over(&self, run: &Run) -> bool {
        let lives = |run: &Run| run.head.disposition != Disposition::Ended;
        let parent = run.head.parent.and_then(|parent| self.runs.get(&parent));
        let mut children =
            self.runs.values().filter(|other| other.head.parent == Some(run.head.id));
        !parent.is_some_and(lives) && !children.any(lives)
    }

    fn remove(&mut self, id: RunId, pruned: &mut Pruned) {
        let Some(run) = self.runs.remove(&id) else { return };
        self.keys.retain(|_, holder| *holder != id);
        let events = run.events.iter().map(|event| event.body.len());
        let checkpoints = run.checkpoints.values().map(|checkpoint| checkpoint.body.len());
        let letters = run.letters.iter().map(|letter| letter.body.len());
        let bytes: usize = events.chain(checkpoints).chain(letters).sum();
        pruned.runs += 1;
        pruned.events += run.events.len() as u64;
        pruned.bytes += bytes as u64;
        for hash in run.blobs {
            let is_held = self.kept.contains(&hash)
                || self.runs.values().any(|other| other.blobs.contains(&hash));
            if let Some(bytes) = self.blobs.get(&hash).filter(|_| !is_held) {
                pruned.blobs += 1;
                pruned.bytes += bytes.len() as u64;
                self.blobs.remove(&hash);
            }
        }
    }
}

#[async_trait]
impl Upkeep for MemoryStore {
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        let mut shelves = self.open()?;
        let chosen = shelves.runs.values().filter(|run| prune.wants(&run.head));
        let chosen = chosen.filter(|run| shelves.family_is_over(run)).take(prune.limit);
        let chosen: Vec<RunId> = chosen.map(|run| run.head.id).collect();
        let mut pruned = Pruned::default();
        for id in chosen {
            shelves.remove(id, &mut pruned);
        }
        Ok(pruned)
    }

    async fn examine(&self) -> Result<Vec<String>, StoreError> {
        let shelves = self.open()?;
        let held: BTreeSet<_> = shelves.runs.values().flat_map(|run| &run.blobs).collect();
        let missing = held.into_iter().filter(|hash| !shelves.blobs.contains_key(*hash));
        let missing = missing
            .map(|hash| format!("blob {} is referred to and missing", crate::BlobHash(*hash)));
        Ok(missing.chain(shelves.ledger.findings()).collect())
    }
}
