//! Who calls or spends far more than usual (SCOPE R15).
//!
//! The calls and the cost of a dependency are watched apart, each by the same rules. The last minute is a
//! ring of 5 s slices and holds the last 55 to 60 s, so never more than a minute. The baseline learns from
//! whole minutes of the clock that began with the watch:
//!
//! - Only minutes with something in them count. A night in which nothing is called leaves the baseline as
//!   the evening did, so that the first calls of the morning are compared with yesterday and not with
//!   nothing; and a baseline falls far more slowly than it rises, so that a night in which little is called
//!   does about the same.
//! - The first minutes are averaged evenly and raise nothing. Ceilings hold from the first call on.
//! - A minute counts for at most the level that raises an alert: one outbreak does not become usual, and a
//!   new level that lasts does, after an hour or two. Then the episode is over as well.
//!
//! An episode begins with the first call above the level, and ends when the last minute has stayed below a
//! share of it for a while: two levels and a wait, so that nothing flaps between them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use watch::{Found, Watch};

use super::AnomalyPolicy;
use crate::PolicyError;
use crate::sync::Mutex;

mod watch;

type Hook = Box<dyn Fn(&Alert) + Send + Sync>;

/// Watches the call rate and the spend of one dependency. Its clones share the watch. Constant memory; it
/// lives in this process and learns anew with it.
///
/// The hook is called once when an episode begins and once when it is over, by the call that finds it out,
/// outside of every lock. It must be quick: hand the alert on with a `try_send` or count it, and leave the
/// sending to somebody else. A hook that blocks holds up that one call and no other. One that panics is
/// caught and counted ([`AnomalySnapshot::hook_panics`]). It may use the watch itself.
///
/// Nothing runs in the background: when all calls cease, the end of an episode is found at the next call or
/// by [`check`](Self::check), which any timer may call, such as the one that exports metrics.
///
/// ```
/// use std::sync::mpsc::sync_channel;
/// use steadfast_guard::{Anomaly, AnomalyPolicy};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (alerts, inbox) = sync_channel(16);
/// let policy = AnomalyPolicy { max_cost: Some(2_000_000), ..AnomalyPolicy::default() };
/// let watch = Anomaly::new("deep research", policy, move |alert| {
///     let _full = alerts.try_send(alert.to_string());
/// })?;
/// watch.record_call();
/// watch.record_cost(2_500_000);
/// watch.record_cost(2_500_000); // the same episode
/// assert_eq!(
///     inbox.try_iter().collect::<Vec<_>>(),
///     ["`deep research`: cost of the last minute is 2500000, above the ceiling of 2000000"]
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Anomaly {
    shared: Arc<Shared>,
}

struct Shared {
    dependency: Arc<str>,
    policy: AnomalyPolicy,
    hook: Hook,
    hook_panics: AtomicU64,
    watch: Mutex<Watch>,
}

impl fmt::Debug for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anomaly")
            .field("dependency", &self.shared.dependency)
            .field("policy", &self.shared.policy)
            .finish_non_exhaustive()
    }
}

impl Anomaly {
    /// A watch that has learned nothing yet.
    ///
    /// # Errors
    /// The policy cannot be kept.
    pub fn new(
        dependency: impl Into<Arc<str>>,
        policy: AnomalyPolicy,
        hook: impl Fn(&Alert) + Send + Sync + 'static,
    ) -> Result<Self, PolicyError> {
        policy.validate()?;
        let shared = Shared {
            dependency: dependency.into(),
            policy,
            hook: Box::new(hook),
            hook_panics: AtomicU64::new(0),
            watch: Mutex::new(Watch::new(Instant::now())),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A call leaves.
    pub fn record_call(&self) {
        self.record(1, 0);
    }

    /// A call has cost this much, in the unit of the policy's costs.
    pub fn record_cost(&self, cost: u64) {
        self.record(0, cost);
    }

    /// Looks whether an episode is over, without a call.
    pub fn check(&self) {
        self.record(0, 0);
    }

    fn record(&self, calls: u64, cost: u64) {
        let Shared { dependency, policy, watch, .. } = &*self.shared;
        let found = watch.lock().record(calls, cost, policy, Instant::now());
        for (measure, found) in found.into_iter().flatten() {
            let Found { event, last_minute, baseline, limit } = found;
            let dependency = Arc::clone(dependency);
            self.tell(&Alert { dependency, measure, event, last_minute, baseline, limit });
        }
    }

    fn tell(&self, alert: &Alert) {
        // Nothing of ours is inside: what the hook left half done is its own.
        if catch_unwind(AssertUnwindSafe(|| (self.shared.hook)(alert))).is_err() {
            self.shared.hook_panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the watch sees now.
    #[must_use]
    pub fn snapshot(&self) -> AnomalySnapshot {
        let Shared { dependency, policy, hook_panics, watch, .. } = &*self.shared;
        let mut watch = watch.lock();
        watch.slide(policy, Instant::now());
        AnomalySnapshot {
            dependency: dependency.as_ref().to_owned(),
            calls: watch.calls.look(&watch.calls_rule(policy)),
            cost: watch.cost.look(&watch.cost_rule(policy)),
            hook_panics: hook_panics.load(Ordering::Relaxed),
        }
    }
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertMeasure {
    /// The number of calls.
    Calls,
    /// Their cost.
    Cost,
}

/// What raised an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertCause {
    /// The last minute is far above the baseline.
    Baseline,
    /// The last minute is above the ceiling.
    Ceiling,
}

/// What an alert says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertEvent {
    /// An episode begins.
    Raised {
        /// By what.
        cause: AlertCause,
    },
    /// It is over.
    Cleared {
        /// From the first call above the level to the moment at which this was found out.
        #[serde(with = "humantime_serde")]
        lasted: Duration,
        /// The most that one minute of it held.
        peak: u64,
    },
}

/// The beginning or the end of an episode, and the figures of that moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alert {
    /// The dependency.
    pub dependency: Arc<str>,
    /// Calls or cost.
    pub measure: AlertMeasure,
    /// Begin or end.
    pub event: AlertEvent,
    /// What the last minute holds.
    pub last_minute: u64,
    /// What a minute holds usually; `None` before enough is learned.
    pub baseline: Option<f64>,
    /// The level from which on a minute is an anomaly.
    pub limit: f64,
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dependency, last_minute, limit, .. } = self;
        let measure = match self.measure {
            AlertMeasure::Calls => "calls",
            AlertMeasure::Cost => "cost",
        };
        match self.event {
            AlertEvent::Raised { cause } => {
                write!(f, "`{dependency}`: {measure} of the last minute is {last_minute}, ")?;
                match (cause, self.baseline) {
                    (AlertCause::Baseline, Some(usual)) => {
                        write!(f, "above {limit:.0}; {usual:.1} is usual")
                    }
                    _ => write!(f, "above the ceiling of {limit:.0}"),
                }
            }
            AlertEvent::Cleared { lasted, peak } => write!(
                f,
                "`{dependency}`: {measure} of the last minute is {last_minute} again, after \
                 {lasted:?} and {peak} at most"
            ),
        }
    }
}

/// A watch at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AnomalySnapshot {
    /// The dependency's name.
    pub dependency: String,
    /// Its calls.
    pub calls: AnomalyLevel,
    /// Their cost.
    pub cost: AnomalyLevel,
    /// Times that the hook panicked.
    pub hook_panics: u64,
}

/// One measure at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AnomalyLevel {
    /// What the last minute holds.
    pub last_minute: u64,
    /// What a minute holds usually; `None` before enough is learned.
    pub baseline: Option<f64>,
    /// The level from which on a minute is an anomaly; `None` while nothing is.
    pub limit: Option<f64>,
    /// Whether an episode goes on.
    pub raised: bool,
}

#[cfg(test)]
mod tests;
