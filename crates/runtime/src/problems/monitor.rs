//! Looks at runs from outside: those that this node drives and of which nothing is heard, and those that
//! nobody drives and somebody should. What it finds it flags, and tells once an episode.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use steadfast_store::{Disposition, RunFilter, RunHead, RunId, StoreError, Timestamp};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::{Problem, ProblemNotice};
use crate::call::chain;
use crate::journal::Summary;
use crate::shared::Shared;
use crate::state::Status;

/// Looks after which what is usual, and which agents there are, is read anew.
const SLOW_EVERY: u32 = 20;

/// Runs of an agent that tell what is usual.
const USUAL_RUNS: usize = 50;

/// Pages of runs that are looked through at once, of [`PAGE`] each.
const PAGES_MAX: usize = 20;
const PAGE: usize = 500;

/// Problems that only somebody outside of the run can find.
const FROM_OUTSIDE: [Problem; 4] =
    [Problem::Stuck, Problem::Unclaimed, Problem::Overdue, Problem::UnknownAgent];

/// What was seen of a run from outside.
#[derive(Clone, Debug)]
struct Seen {
    agent: String,
    tenant: String,
    problem: Problem,
    detail: String,
}

pub(crate) struct Monitor {
    shared: Arc<Shared>,
    looks: u32,
    /// What lasts.
    episodes: BTreeMap<RunId, Seen>,
    /// Runs of agents that are not configured, as they were last looked for.
    homeless: BTreeMap<RunId, Seen>,
}

impl Monitor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (episodes, homeless) = (BTreeMap::new(), BTreeMap::new());
        Self { shared, looks: 0, episodes, homeless }
    }

    /// Looks until the node drains.
    pub(crate) async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.shared.checks.rules.check_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (drain, halt) = (self.shared.drain.clone(), self.shared.halt.clone());
        let looking = async {
            loop {
                ticks.tick().await;
                // A store that cannot be read ends no episode.
                if let Err(error) = self.look().await {
                    warn!(error = chain(&error), "cannot look for runs with problems");
                }
            }
        };
        tokio::select! {
            () = drain.cancelled() => {}
            () = halt.cancelled() => {}
            () = looking => {}
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        if self.looks == 0 {
            self.adopt().await?;
        }
        if self.looks.is_multiple_of(SLOW_EVERY) {
            self.learn().await?;
            self.homeless = self.homeless().await?;
        }
        self.looks = self.looks.wrapping_add(1);
        // The first of a run counts: the most urgent one.
        let mut seen = self.stuck();
        for (run, found) in [self.unclaimed().await?, self.overdue().await?].into_iter().flatten() {
            seen.entry(run).or_insert(found);
        }
        for (run, found) in self.homeless.clone() {
            seen.entry(run).or_insert(found);
        }
        self.settle(seen).await
    }

    /// Takes over what a node that is gone had flagged, so that it is looked at again and ended.
    async fn adopt(&mut self) -> Result<(), StoreError> {
        let problems = FROM_OUTSIDE.map(|problem| problem.as_str().to_owned()).to_vec();
        let filter = RunFilter { problems, limit: PAGE, ..RunFilter::default() };
        for head in self.shared.store.list(filter).await?.runs {
            let problem = head.problem.as_deref().and_then(Problem::parse);
            let Some(problem) = problem.filter(|_| head.disposition != Disposition::Held) else {
                continue;
            };
            self.episodes.insert(head.id, seen(&head, problem, String::new()));
        }
        Ok(())
    }

    /// Runs of this node of which nothing has been heard for longer than their step may take.
    fn stuck(&self) -> BTreeMap<RunId, Seen> {
        let checks = &self.shared.checks;
        let late = checks.driven().into_iter().filter(|p| p.late() > checks.rules.stuck_grace);
        let stuck = late.map(|pulse| {
            let detail = format!("its step is over its limit by {} s", pulse.late().as_secs());
            let (agent, tenant) = (pulse.agent.clone(), pulse.tenant.clone());
            (pulse.run, Seen { agent, tenant, problem: Problem::Stuck, detail })
        });
        stuck.collect()
    }

    /// Runs that are queued although this node has places. What a cap holds back waits rightly.
    async fn unclaimed(&self) -> Result<BTreeMap<RunId, Seen>, StoreError> {
        let options = &self.shared.options;
        if self.shared.driven.lock().len() >= options.concurrency {
            return Ok(BTreeMap::new());
        }
        let caps = &options.caps;
        let is_capped = |head: &RunHead| {
            caps.per_tenant.is_some()
                || caps.tenants.contains_key(&head.tenant)
                || caps.agents.contains_key(&head.agent)
        };
        let before = self.ago(self.shared.checks.rules.queued_for);
        let filter = RunFilter {
            states: vec![Status::Queued.as_str().to_owned()],
            until: Some(before),
            limit: PAGE,
            ..RunFilter::default()
        };
        let page = self.shared.store.list(filter).await?;
        let late = page.runs.iter().filter(|head| {
            head.disposition == Disposition::Ready && head.updated_at < before && !is_capped(head)
        });
        let detail = || "no node has taken it, and this one has places".to_owned();
        Ok(late.map(|head| (head.id, seen(head, Problem::Unclaimed, detail()))).collect())
    }

    /// Runs whose wake-up time is long past.
    async fn overdue(&self) -> Result<BTreeMap<RunId, Seen>, StoreError> {
        let before = self.ago(self.shared.checks.rules.overdue_by);
        let full = self.shared.driven.lock().len() >= self.shared.options.concurrency;
        // The first of all tells whether any is late; the rest are looked through only then.
        let first = self.shared.store.next_wake().await?;
        if full || first.is_none_or(|first| first >= before) {
            return Ok(BTreeMap::new());
        }
        let is_late = |head: &RunHead| matches!(head.disposition, Disposition::Parked { wake_at: Some(at) } if at < before);
        let waiting = self.pages(&[Status::Waiting]).await?;
        let late = waiting.iter().filter(|head| is_late(head));
        let detail = || "it should have gone on by itself".to_owned();
        Ok(late.map(|head| (head.id, seen(head, Problem::Overdue, detail()))).collect())
    }

    /// Runs that fail as soon as somebody takes them.
    async fn homeless(&self) -> Result<BTreeMap<RunId, Seen>, StoreError> {
        let catalog = &self.shared.catalog;
        let waiting = self.pages(&[Status::Queued, Status::Waiting]).await?;
        let unknown = waiting.iter().filter(|head| !catalog.executes(&head.agent));
        let homeless = unknown.map(|head| {
            let detail = format!("there is no agent `{}`: it fails when it goes on", head.agent);
            (head.id, seen(head, Problem::UnknownAgent, detail))
        });
        Ok(homeless.collect())
    }

    async fn pages(&self, states: &[Status]) -> Result<Vec<RunHead>, StoreError> {
        let (mut heads, mut before) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let states = states.iter().map(|state| state.as_str().to_owned()).collect();
            let filter = RunFilter { states, before, limit: PAGE, ..RunFilter::default() };
            let page = self.shared.store.list(filter).await?;
            heads.extend(page.runs);
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        Ok(heads)
    }

    /// Learns what runs of each agent take.
    async fn learn(&self) -> Result<(), StoreError> {
        let checks = &self.shared.checks;
        for agent in checks.agents() {
            let filter = RunFilter {
                agent: Some(agent.to_owned()),
                states: vec![Status::Succeeded.as_str().to_owned()],
                limit: USUAL_RUNS,
                ..RunFilter::default()
            };
            let page = self.shared.store.list(filter).await?;
            let summaries = page.runs.iter().filter_map(|head| {
                let summary: Summary = serde_json::from_slice(&head.summary).ok()?;
                Some(summary.input_tokens + summary.output_tokens)
            });
            checks.learn(agent, summaries.collect());
        }
        Ok(())
    }

    fn ago(&self, time: std::time::Duration) -> Timestamp {
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.shared.store.now().0.saturating_sub(ms))
    }

    /// Flags what is new, and ends what is over.
    async fn settle(&mut self, seen: BTreeMap<RunId, Seen>) -> Result<(), StoreError> {
        for (run, found) in &seen {
            if self.episodes.get(run).is_some_and(|known| known.problem == found.problem) {
                continue;
            }
            if let Some(pulse) = self.pulse(*run) {
                pulse.flagged.store(true, Ordering::Release);
            }
            let word = Some(found.problem.as_str().to_owned());
            match self.shared.store.flag(*run, word).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            self.tell(*run, found, false);
            self.episodes.insert(*run, found.clone());
        }
        let over: BTreeSet<RunId> =
            self.episodes.keys().filter(|run| !seen.contains_key(run)).copied().collect();
        for run in over {
            if let Some(known) = self.episodes.get(&run).cloned() {
                self.clear(run, &known).await?;
                self.tell(run, &known, true);
                self.episodes.remove(&run);
            }
        }
        Ok(())
    }

    /// Takes a flag back, if nobody has written over it; what the fold shows comes to light again.
    async fn clear(&self, run: RunId, known: &Seen) -> Result<(), StoreError> {
        let head = self.shared.store.head(run).await?;
        if head.is_none_or(|head| head.problem.as_deref() != Some(known.problem.as_str())) {
            return Ok(());
        }
        loop {
            let found = || self.pulse(run).and_then(|pulse| *pulse.found.lock());
            let before = found();
            let word = before.map(|problem| problem.as_str().to_owned());
            match self.shared.store.flag(run, word).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            // The driver may have written its own in between.
            if found() == before {
                return Ok(());
            }
        }
    }

    fn pulse(&self, run: RunId) -> Option<Arc<super::Pulse>> {
        self.shared.checks.driven().into_iter().find(|pulse| pulse.run == run)
    }

    fn tell(&self, run: RunId, seen: &Seen, over: bool) {
        let Seen { agent, tenant, problem, detail } = seen.clone();
        self.shared.checks.tell(&ProblemNotice { run, agent, tenant, problem, detail, over });
    }
}

fn seen(head: &RunHead, problem: Problem, detail: String) -> Seen {
    Seen { agent: head.agent.clone(), tenant: head.tenant.clone(), problem, detail }
}
