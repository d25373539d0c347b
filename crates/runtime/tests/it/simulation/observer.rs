//! What is looked at while nodes work, and the rules that it is held against. They are said in terms of
//! what people asked for, not of how the store keeps its lines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use steadfast_store::{AGEING, Caps, Disposition, NodeId, RunFilter, RunHead, RunId, Store};

/// A run as it was asked for.
#[derive(Clone)]
struct Asked {
    /// The how-manieth it is.
    number: usize,
    at_ms: i64,
    priority: i32,
}

/// Sees every claim, every append and every step, of all nodes.
pub(super) struct Observer {
    pub(super) store: Arc<dyn Store>,
    pub(super) caps: Caps,
    /// Claims and appends come one after the other, so that what is seen is what was.
    pub(super) turn: tokio::sync::Mutex<()>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    asked: BTreeMap<RunId, Asked>,
    /// The newest epoch that was handed out of each run.
    epochs: BTreeMap<RunId, u64>,
    /// Steps under way outside: run, and the node that executes it.
    outside: BTreeMap<RunId, usize>,
    /// Places that went to others while a tenant with nothing under way was in line.
    passed_over: BTreeMap<String, usize>,
    broken: BTreeSet<String>,
    claims: usize,
    refused: usize,
}

/// How the runs of the store stand.
pub(super) struct Standing {
    ready: Vec<RunHead>,
    held: Vec<RunHead>,
}

impl Standing {
    fn of_tenant(&self, tenant: &str) -> usize {
        self.held.iter().filter(|head| head.tenant == tenant).count()
    }

    fn of_agent(&self, agent: &str) -> usize {
        self.held.iter().filter(|head| head.agent == agent).count()
    }

    /// Whether no cap keeps the run back.
    fn may_go(&self, head: &RunHead, caps: &Caps) -> bool {
        let below = |cap: Option<usize>, held: usize| cap.is_none_or(|cap| held < cap);
        below(caps.of_tenant(&head.tenant), self.of_tenant(&head.tenant))
            && below(caps.of_agent(&head.agent), self.of_agent(&head.agent))
    }
}

impl Observer {
    pub(super) fn new(store: Arc<dyn Store>, caps: Caps) -> Arc<Self> {
        let (turn, seen) = (tokio::sync::Mutex::new(()), Mutex::new(Seen::default()));
        Arc::new(Self { store, caps, turn, seen })
    }

    fn breaks(&self, rule: String) {
        self.seen.lock().broken.insert(rule);
    }

    /// The rules that were broken, and how many claims were looked at and appends refused.
    pub(super) fn verdict(&self) -> (Vec<String>, usize, usize) {
        let seen = self.seen.lock();
        (seen.broken.iter().cloned().collect(), seen.claims, seen.refused)
    }

    pub(super) fn never_ended(&self, run: &RunHead) {
        self.breaks(format!("a run never ended: {} {:?}", run.state, run.disposition));
    }

    pub(super) fn asked(&self, head: &RunHead, priority: i32) {
        let mut seen = self.seen.lock();
        let asked = Asked { number: seen.asked.len(), at_ms: head.created_at.0, priority };
        seen.asked.insert(head.id, asked);
    }

    pub(super) async fn standing(&self) -> Standing {
        let mut standing = Standing { ready: Vec::new(), held: Vec::new() };
        let mut filter = RunFilter { limit: 500, ..RunFilter::default() };
        loop {
            let page = self.store.list(filter.clone()).await.expect("the store itself works");
            for head in page.runs {
                match head.disposition {
                    Disposition::Ready => standing.ready.push(head),
                    Disposition::Held => standing.held.push(head),
                    Disposition::Parked { .. } | Disposition::Paused | Disposition::Ended => {}
                }
            }
            filter.before = page.next;
            if page.next.is_none() {
                return standing;
            }
        }
    }

    /// Runs were handed out, up to `limit`; `before` is how they stood when it was decided.
    pub(super) async fn claimed(
        &self,
        before: &Standing,
        claimed: &[RunHead],
        limit: usize,
        node: &NodeId,
    ) {
        let after = self.standing().await;
        for head in claimed {
            let held = before.held.iter().find(|held| held.id == head.id);
            if let Some(owner) = held.and_then(|held| held.owner.as_ref()) {
                self.breaks(format!(
                    "handed out while its owner lives (itself: {})",
                    owner == node
                ));
            }
            let epoch = self.seen.lock().epochs.insert(head.id, head.epoch);
            if epoch.is_some_and(|epoch| epoch >= head.epoch) {
                self.breaks("handed out again without a new epoch".to_owned());
            }
        }
        self.seen.lock().claims += claimed.len();
        self.check_caps(&after);
        self.check_priorities(&after, claimed);
        self.check_turns(&after, claimed);
        if claimed.len() < limit && after.ready.iter().any(|head| after.may_go(head, &self.caps)) {
            self.breaks("a place stays free while a run waits that no cap keeps back".to_owned());
        }
    }

    fn check_caps(&self, after: &Standing) {
        for head in &after.held {
            let (tenant, agent) = (after.of_tenant(&head.tenant), after.of_agent(&head.agent));
            if self.caps.of_tenant(&head.tenant).is_some_and(|cap| tenant > cap)
                || self.caps.of_agent(&head.agent).is_some_and(|cap| agent > cap)
            {
                self.breaks("a cap is exceeded".to_owned());
            }
        }
    }

    /// Within a tenant, a run that has not been started before may be overtaken only by one that came no
    /// later than a minute for each step of priority that it is more urgent: what bounds its waiting.
    fn check_priorities(&self, after: &Standing, claimed: &[RunHead]) {
        let minute_ms = i64::try_from(AGEING.as_millis()).expect("short");
        let seen = self.seen.lock();
        let goes_before = |first: &RunHead, second: &RunHead| {
            let (first, second) = (&seen.asked[&first.id], &seen.asked[&second.id]);
            let lead_ms = i64::from(first.priority - second.priority) * minute_ms;
            (first.at_ms - lead_ms, first.number) < (second.at_ms, second.number)
        };
        let fresh = claimed.iter().filter(|head| head.epoch == 1);
        let overtaken = fresh.flat_map(|taken| {
            let others = after.ready.iter().filter(|left| left.epoch == 0);
            others.map(move |left| (taken, left))
        });
        let is_wrong = overtaken.clone().any(|(taken, left)| {
            left.tenant == taken.tenant
                && after.may_go(left, &self.caps)
                && !goes_before(taken, left)
        });
        drop(seen);
        if is_wrong {
            self.breaks("overtaken within its tenant by one that is not due before it".to_owned());
        }
    }

    /// Between tenants: nobody is served while another one waits who has less under way; and whoever has
    /// nothing under way is served before anybody else is served twice.
    fn check_turns(&self, after: &Standing, claimed: &[RunHead]) {
        let waits = after.ready.iter().filter(|head| after.may_go(head, &self.caps));
        let waits: BTreeSet<&str> = waits.map(|head| head.tenant.as_str()).collect();
        for head in claimed {
            let before_last = after.of_tenant(&head.tenant).saturating_sub(1);
            if waits.iter().any(|tenant| after.of_tenant(tenant) < before_last) {
                self.breaks("served while a tenant waits that has less under way".to_owned());
            }
        }
        let mut seen = self.seen.lock();
        let starved = waits.iter().copied().filter(|tenant| after.of_tenant(tenant) == 0);
        let starved: BTreeSet<&str> = starved.collect();
        seen.passed_over.retain(|tenant, _| starved.contains(tenant.as_str()));
        for tenant in &starved {
            *seen.passed_over.entry((*tenant).to_owned()).or_default() += claimed.len();
        }
        let most = seen.passed_over.values().max().copied().unwrap_or(0);
        drop(seen);
        if most >= super::TENANTS {
            self.breaks(
                "a tenant with nothing under way is passed over again and again".to_owned(),
            );
        }
    }

    /// An append under this epoch was admitted, or not.
    pub(super) fn appended(&self, run: RunId, epoch: u64, is_admitted: bool) {
        let mut seen = self.seen.lock();
        let newest = seen.epochs.get(&run).copied().unwrap_or(0);
        if !is_admitted {
            seen.refused += 1;
        } else if epoch < newest {
            seen.broken.insert("an append of a former owner was admitted".to_owned());
        }
    }

    /// A step of a run leaves for the world outside; it is there until the guard is dropped.
    pub(super) fn leaves(self: &Arc<Self>, run: RunId, node: usize) -> Outside {
        let other = self.seen.lock().outside.insert(run, node);
        if other.is_some() {
            self.breaks("two nodes execute a step of one run at the same time".to_owned());
        }
        Outside { observer: Arc::clone(self), run }
    }
}

/// A step that is under way outside.
pub(super) struct Outside {
    observer: Arc<Observer>,
    run: RunId,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.observer.seen.lock().outside.remove(&self.run);
    }
}
