//! Nodes, their leases, and what they take.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;

use super::{MemoryStore, Shelves};
use crate::clock::millis;
use crate::turns::{Caps, Line, Place, Turns};
use crate::{Disposition, Leases, NodeId, RunHead, RunId, StoreError, Timestamp};

impl Shelves {
    /// Runs whose wake-up time has come, or whose owner's lease has expired, become ready.
    fn make_ready(&mut self, now: Timestamp) {
        let nodes = &self.nodes;
        for run in self.runs.values_mut() {
            let head = &mut run.head;
            let lives = |owner: &NodeId| nodes.get(owner).is_some_and(|expires| *expires > now);
            match head.disposition {
                Disposition::Parked { wake_at: Some(wake_at) } if wake_at <= now => {
                    run.wake(wake_at, now);
                }
                Disposition::Held if !head.owner.as_ref().is_some_and(lives) => {
                    run.give_back(now);
                }
                _ => {}
            }
        }
    }

    /// The runs to serve.
    fn choose(&mut self, limit: usize, caps: &Caps) -> Vec<RunId> {
        let mut turns = Turns::default();
        let mut waiting = BTreeMap::<(String, String), BTreeMap<Place, RunId>>::new();
        for run in self.runs.values() {
            let RunHead { tenant, agent, disposition, id, .. } = &run.head;
            let place = (run.rank, i64::try_from(run.number).unwrap_or(i64::MAX));
            match disposition {
                Disposition::Held => turns.held(tenant, agent, 1),
                Disposition::Ready => {
                    let line = waiting.entry((tenant.clone(), agent.clone())).or_default();
                    line.insert(place, *id);
                }
                _ => {}
            }
        }
        for (tenant, turn) in &self.turns {
            turns.served(tenant.clone(), *turn);
        }
        let lines = waiting.iter().map(|((tenant, agent), runs)| Line {
            tenant: tenant.clone(),
            agent: agent.clone(),
            first: runs.keys().next().copied(),
        });
        let next = |line: &Line, place: Place| {
            let runs = waiting.get(&(line.tenant.clone(), line.agent.clone()));
            let behind = (Bound::Excluded(place), Bound::Unbounded);
            Ok::<_, Infallible>(runs.and_then(|runs| runs.range(behind).next()).map(|run| *run.0))
        };
        let Ok((chosen, served)) = turns.choose(lines.collect(), limit, caps, next);
        self.turns.extend(served);
        let places = waiting.values().flatten().map(|((_, number), run)| (*number, *run));
        let by_number: BTreeMap<i64, RunId> = places.collect();
        chosen.iter().filter_map(|number| by_number.get(number).copied()).collect()
    }
}

#[async_trait]
impl Leases for MemoryStore {
    async fn renew(&self, node: &NodeId, ttl: Duration) -> Result<(), StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        if shelves.nodes.contains_key(node) && !shelves.lives(node, now) {
            return Err(StoreError::NodeLost { node: node.clone() });
        }
        let expires_at = Timestamp(now.0.saturating_add(millis(Some(ttl))));
        shelves.nodes.insert(node.clone(), expires_at);
        Ok(())
    }

    async fn retire(&self, node: &NodeId) -> Result<(), StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        shelves.nodes.remove(node);
        let held = shelves.runs.values_mut().filter(|run| run.head.owner.as_ref() == Some(node));
        for run in held {
            run.give_back(now);
        }
        Ok(())
    }

    async fn release(&self, run: RunId, epoch: u64) -> Result<(), StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        if let Some(run) = shelves.runs.get_mut(&run)
            && run.head.epoch == epoch
            && run.head.disposition == Disposition::Held
        {
            run.give_back(now);
        }
        Ok(())
    }

    async fn claim(
        &self,
        node: &NodeId,
        limit: usize,
        caps: &Caps,
    ) -> Result<Vec<RunHead>, StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        if !shelves.lives(node, now) {
            return Err(StoreError::NodeLost { node: node.clone() });
        }
        shelves.make_ready(now);
        let mut claimed = Vec::new();
        for id in shelves.choose(limit, caps) {
            if let Some(run) = shelves.runs.get_mut(&id) {
                run.head.disposition = Disposition::Held;
                run.head.owner = Some(node.clone());
                run.head.epoch += 1;
                run.head.updated_at = now;
                claimed.push(run.head.clone());
            }
        }
        Ok(claimed)
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        let shelves = self.open()?;
        let heads = || shelves.runs.values().map(|run| &run.head);
        let parked = heads().filter_map(|head| match head.disposition {
            Disposition::Parked { wake_at } => wake_at,
            Disposition::Ready | Disposition::Held | Disposition::Paused | Disposition::Ended => {
                None
            }
        });
        let owners: BTreeSet<_> = heads().filter_map(|head| head.owner.as_ref()).collect();
        let expiring = owners.into_iter().filter_map(|owner| shelves.nodes.get(owner).copied());
        Ok(parked.chain(expiring).min())
    }
}
