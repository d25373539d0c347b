//! How many calls, and how much cost, in any window of a length (SCOPE R15).
//!
//! What is spent lies in a ring of slices, a sixtieth of the window each, and a slice leaves as a whole when
//! the last of it is older than the window: a call counts for at least the window's length, and for at most
//! a sixtieth of it longer. So no window of that length ever holds more than the limit, and what is refused
//! without need is refused for a sixtieth of the window at most.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::BudgetPolicy;
use crate::sync::Mutex;
use crate::{Classify, ErrorClass, PolicyError};

/// Slices of the window.
const SLICES: u32 = 60;
/// The same, and the one that is being filled.
const RING: usize = SLICES as usize + 1;

/// A budget of calls, cost or both in a sliding window, for one dependency, tenant or run. Its clones share
/// it. Constant memory, whatever passes through; it lives in this process and begins anew with it.
///
/// Between [`reserve`](Self::reserve) and the end of the reservation the whole asked cost counts as spent,
/// so that calls which race for what is left can never pass the limit together.
#[derive(Clone, Debug)]
pub struct CallBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    policy: BudgetPolicy,
    ledger: Mutex<Ledger>,
}

impl CallBudget {
    /// A budget of which nothing is spent.
    ///
    /// # Errors
    /// The policy cannot be kept.
    pub fn new(name: impl Into<Arc<str>>, policy: BudgetPolicy) -> Result<Self, PolicyError> {
        policy.validate()?;
        let ledger = Mutex::new(Ledger::new(&policy, Instant::now()));
        Ok(Self { shared: Arc::new(Shared { name: name.into(), policy, ledger }) })
    }

    /// Takes one call and its `cost`, as far as it can be foreseen, out of the budget. Never waits.
    ///
    /// # Errors
    /// [`OverBudget`]: they do not fit, and nothing was taken.
    pub fn reserve(&self, cost: u64) -> Result<Reservation, OverBudget> {
        let shared = &self.shared;
        let taken = shared.ledger.lock().take(cost, Instant::now());
        match taken {
            Ok(slice) => Ok(Reservation { budget: self.clone(), slice, cost }),
            Err(Over { limit, spent, wait }) => {
                let (allowed, asked) = match limit {
                    BudgetLimit::Calls => (shared.policy.calls, 1),
                    BudgetLimit::Cost => (shared.policy.cost, cost),
                };
                Err(OverBudget {
                    budget: Arc::clone(&shared.name),
                    limit,
                    allowed: allowed.unwrap_or(u64::MAX),
                    spent,
                    asked,
                    window: shared.policy.window,
                    retry_after: wait,
                })
            }
        }
    }

    /// What is spent now.
    #[must_use]
    pub fn snapshot(&self) -> BudgetSnapshot {
        let mut ledger = self.shared.ledger.lock();
        ledger.slide(Instant::now());
        let BudgetPolicy { calls: calls_limit, cost: cost_limit, window } = self.shared.policy;
        BudgetSnapshot {
            name: self.shared.name.as_ref().to_owned(),
            calls: ledger.sum.calls,
            calls_limit,
            cost: shown(ledger.sum.cost),
            cost_limit,
            window,
        }
    }
}

/// A budget at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BudgetSnapshot {
    /// The budget's name.
    pub name: String,
    /// Calls in the window, reserved ones included.
    pub calls: u64,
    /// Calls that the window may hold.
    pub calls_limit: Option<u64>,
    /// Cost in the window, reserved cost included. More than the limit once a call has cost more than was
    /// reserved for it.
    pub cost: u64,
    /// Cost that the window may hold.
    pub cost_limit: Option<u64>,
    /// The window's length.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

/// One call's share of a [`CallBudget`].
///
/// Dropped without a word (a panic, a future that nobody polls any more) it stays spent in full: the call
/// may have left. Only [`cancel`](Self::cancel) gives it back.
#[must_use = "what is reserved stays spent unless it is settled or cancelled"]
#[derive(Debug)]
pub struct Reservation {
    budget: CallBudget,
    /// The slice in which it counts.
    slice: u64,
    cost: u64,
}

impl Reservation {
    /// The cost that was reserved.
    #[must_use]
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// The call is over and cost this much. What was reserved beyond it is given back; what it cost beyond
    /// the reservation is spent now, even past the limit: nothing more is then admitted until enough of it
    /// has left the window.
    pub fn settle(self, actual_cost: u64) {
        let mut ledger = self.budget.shared.ledger.lock();
        ledger.settle(self.slice, self.cost, actual_cost, Instant::now());
    }

    /// The call never left: gives back the call and its cost.
    pub fn cancel(self) {
        let mut ledger = self.budget.shared.ledger.lock();
        ledger.cancel(self.slice, self.cost, Instant::now());
    }
}

/// Which limit of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetLimit {
    /// The number of calls.
    Calls,
    /// Their cost.
    Cost,
}

impl std::fmt::Display for BudgetLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Calls => "calls",
            Self::Cost => "cost units",
        })
    }
}

/// A call does not fit into what is left of a budget. Its class is [`ErrorClass::QuotaExhausted`]: it is not
/// retried, and a [`Fallback`](crate::Fallback) goes on to the next way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the budget `{budget}` holds {allowed} {limit} in {window:?}; {spent} are spent and {asked} more do \
     not fit, {when}",
    when = when(*retry_after)
)]
#[non_exhaustive]
pub struct OverBudget {
    /// The budget's name.
    pub budget: Arc<str>,
    /// The limit that is in the way; of two, the one that is in the way for longer.
    pub limit: BudgetLimit,
    /// How much it allows in a window.
    pub allowed: u64,
    /// How much of it is spent.
    pub spent: u64,
    /// How much was asked.
    pub asked: u64,
    /// The window's length.
    pub window: Duration,
    /// When the same call fits, unless another one is faster or calls in flight cost less than was
    /// reserved for them. `None`: never, it asks for more than a whole window may hold.
    pub retry_after: Option<Duration>,
}

fn when(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(
        || "now or later: ask for less, or raise the limit".to_owned(),
        |wait| format!("for another {wait:?}"),
    )
}

impl Classify for OverBudget {
    fn class(&self) -> ErrorClass {
        ErrorClass::QuotaExhausted
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Costs are summed in a width that no number of settlements overflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    calls: u64,
    cost: u128,
}

impl Amount {
    const fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.cost += other.cost;
    }

    const fn remove(&mut self, other: Self) {
        self.calls = self.calls.saturating_sub(other.calls);
        self.cost = self.cost.saturating_sub(other.cost);
    }
}

fn shown(cost: u128) -> u64 {
    u64::try_from(cost).unwrap_or(u64::MAX)
}

/// Why something does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Over {
    limit: BudgetLimit,
    spent: u64,
    wait: Option<Duration>,
}

/// What is spent, slice by slice. Pure; time comes in as an argument.
#[derive(Clone, Debug)]
struct Ledger {
    calls_limit: Option<u64>,
    cost_limit: Option<u64>,
    anchor: Instant,
    slice: Duration,
    /// The slice that is being filled, counted from the anchor.
    newest: u64,
    ring: [Amount; RING],
    sum: Amount,
}

impl Ledger {
    fn new(policy: &BudgetPolicy, now: Instant) -> Self {
        // Rounded up: the slices together are never shorter than the window.
        let slice = policy.window.as_nanos().div_ceil(u128::from(SLICES));
        Self {
            calls_limit: policy.calls,
            cost_limit: policy.cost,
            anchor: now,
            slice: Duration::from_nanos(u64::try_from(slice).unwrap_or(u64::MAX).max(1)),
            newest: 0,
            ring: [Amount::default(); RING],
            sum: Amount::default(),
        }
    }

    fn place(slice: u64) -> usize {
        usize::try_from(slice % RING as u64).unwrap_or_default()
    }

    /// Lets go of what is older than the window. A clock that seems to go back changes nothing.
    fn slide(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.anchor).as_nanos() / self.slice.as_nanos();
        let newest = u64::try_from(passed).unwrap_or(u64::MAX);
        if newest <= self.newest {
            return;
        }
        let fresh = (newest - self.newest).min(RING as u64);
        for slice in newest - fresh + 1..=newest {
            let left = std::mem::take(&mut self.ring[Self::place(slice)]);
            self.sum.remove(left);
        }
        self.newest = newest;
    }

    /// Takes a call and its cost, and says in which slice they count.
    fn take(&mut self, cost: u64, now: Instant) -> Result<u64, Over> {
        self.slide(now);
        match self.over(cost, now) {
            Some(over) => Err(over),
            None => {
                self.add(Amount { calls: 1, cost: u128::from(cost) });
                Ok(self.newest)
            }
        }
    }

    /// A call that was reserved in a slice has cost this much.
    fn settle(&mut self, slice: u64, reserved: u64, actual: u64, now: Instant) {
        self.slide(now);
        if actual > reserved {
            self.add(Amount { calls: 0, cost: u128::from(actual - reserved) });
        } else {
            let rest = Amount { calls: 0, cost: u128::from(reserved - actual) };
            self.give_back(slice, rest);
        }
    }

    /// A call that was reserved in a slice never left.
    fn cancel(&mut self, slice: u64, reserved: u64, now: Instant) {
        self.slide(now);
        self.give_back(slice, Amount { calls: 1, cost: u128::from(reserved) });
    }

    fn add(&mut self, amount: Amount) {
        self.ring[Self::place(self.newest)].add(amount);
        self.sum.add(amount);
    }

    /// Takes out of a slice what counts there, unless it has left the window already.
    fn give_back(&mut self, slice: u64, amount: Amount) {
        if self.newest - slice < RING as u64 {
            self.ring[Self::place(slice)].remove(amount);
            self.sum.remove(amount);
        }
    }

    /// The limit that is in the way of a call, if one is.
    fn over(&self, cost: u64, now: Instant) -> Option<Over> {
        let spent = self.sum.calls;
        let by_calls = self.calls_limit.filter(|limit| spent >= *limit).map(|limit| Over {
            limit: BudgetLimit::Calls,
            spent,
            wait: self.wait(now, |sum| sum.calls < limit),
        });
        let (spent, cost) = (self.sum.cost, u128::from(cost));
        let fits = |sum: Amount, limit: u64| sum.cost + cost <= u128::from(limit);
        let by_cost = self.cost_limit.filter(|limit| !fits(self.sum, *limit)).map(|limit| Over {
            limit: BudgetLimit::Cost,
            spent: shown(spent),
            wait: self.wait(now, |sum| fits(sum, limit)),
        });
        let length = |over: &Over| over.wait.unwrap_or(Duration::MAX);
        by_calls.into_iter().chain(by_cost).max_by_key(length)
    }

    /// Time until enough slices have left; `None` if an empty window would not do either.
    fn wait(&self, now: Instant, fits: impl Fn(Amount) -> bool) -> Option<Duration> {
        let mut sum = self.sum;
        for age in (0..RING as u64).rev() {
            let Some(slice) = self.newest.checked_sub(age) else { continue };
            sum.remove(self.ring[Self::place(slice)]);
            if fits(sum) {
                let leaves = (u128::from(slice) + RING as u128) * self.slice.as_nanos();
                let passed = now.saturating_duration_since(self.anchor).as_nanos();
                let wait = u64::try_from(leaves.saturating_sub(passed)).unwrap_or(u64::MAX);
                return Some(Duration::from_nanos(wait));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
