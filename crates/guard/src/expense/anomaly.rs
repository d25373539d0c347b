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

use super::AnomalyPolicy;
use crate::PolicyError;
use crate::sync::Mutex;

/// Slices of the last minute.
const SLICES: usize = 12;
const SLICE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

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

/// Both measures over one ring of slices. Pure; time comes in as an argument.
#[derive(Debug)]
struct Watch {
    anchor: Instant,
    /// The slice that is being filled, counted from the anchor.
    newest: u64,
    /// When something was recorded last.
    recorded_at: Instant,
    calls: Gauge,
    cost: Gauge,
}

/// One measure.
#[derive(Debug, Default)]
struct Gauge {
    slices: [u64; SLICES],
    /// What the minute holds that is being filled.
    minute: u64,
    /// The average, and of how many minutes.
    baseline: f64,
    learned: u32,
    episode: Option<Episode>,
}

#[derive(Clone, Copy, Debug)]
struct Episode {
    since: Instant,
    peak: u64,
    /// Since when the last minute is below the level at which it ends.
    below_since: Option<Instant>,
}

/// What a measure is held to at one moment.
struct Rule<'a> {
    policy: &'a AnomalyPolicy,
    /// The least that the last minute must hold to be compared with the baseline.
    floor: u64,
    ceiling: Option<u64>,
    /// Whether the last minute holds enough calls to be compared at all.
    comparable: bool,
}

/// An episode's begin or end.
#[derive(Clone, Copy, Debug)]
struct Found {
    event: AlertEvent,
    last_minute: u64,
    baseline: Option<f64>,
    limit: f64,
}

type Finds = [Option<(AlertMeasure, Found)>; 4];

impl Watch {
    fn new(now: Instant) -> Self {
        let (calls, cost) = (Gauge::default(), Gauge::default());
        Self { anchor: now, newest: 0, recorded_at: now, calls, cost }
    }

    fn calls_rule<'a>(&self, policy: &'a AnomalyPolicy) -> Rule<'a> {
        let (floor, ceiling) = (policy.min_calls, policy.max_calls);
        Rule { policy, floor, ceiling, comparable: true }
    }

    fn cost_rule<'a>(&self, policy: &'a AnomalyPolicy) -> Rule<'a> {
        let (floor, ceiling) = (policy.min_cost.unwrap_or_default(), policy.max_cost);
        let comparable = policy.min_cost.is_some() || self.calls.last_minute() >= policy.min_calls;
        Rule { policy, floor, ceiling, comparable }
    }

    /// Lets go of what is older than a minute, and learns from minutes that are over. A clock that seems to
    /// go back changes nothing.
    fn slide(&mut self, policy: &AnomalyPolicy, now: Instant) {
        let passed = now.saturating_duration_since(self.anchor).as_nanos() / SLICE.as_nanos();
        let newest = u64::try_from(passed).unwrap_or(u64::MAX);
        if newest <= self.newest {
            return;
        }
        let minute = |slice: u64| slice / SLICES as u64;
        if minute(newest) > minute(self.newest) {
            // The other minutes between hold nothing, and so teach nothing.
            self.calls.learn(policy, policy.min_calls);
            self.cost.learn(policy, policy.min_cost.unwrap_or_default());
        }
        let fresh = (newest - self.newest).min(SLICES as u64);
        for slice in newest - fresh + 1..=newest {
            let place = place(slice);
            self.calls.slices[place] = 0;
            self.cost.slices[place] = 0;
        }
        self.newest = newest;
    }

    /// Counts what is new; the ends and begins of episodes that come to light, in their order.
    fn record(&mut self, calls: u64, cost: u64, policy: &AnomalyPolicy, now: Instant) -> Finds {
        self.slide(policy, now);
        // Before anything is added: what a long quiet has ended ended before this call.
        let empty_at = now.min(self.recorded_at + MINUTE);
        let cleared = self.judge(policy, now, empty_at);
        if calls == 0 && cost == 0 {
            let [calls, cost] = cleared;
            return [calls, cost, None, None];
        }
        self.recorded_at = self.recorded_at.max(now);
        let place = place(self.newest);
        self.calls.add(place, calls);
        self.cost.add(place, cost);
        let [calls_before, cost_before] = cleared;
        let [calls, cost] = self.judge(policy, now, now);
        [calls_before, cost_before, calls, cost]
    }

    /// `below_at`: since when a measure that is below its level has been so at the latest.
    fn judge(
        &mut self,
        policy: &AnomalyPolicy,
        now: Instant,
        below_at: Instant,
    ) -> [Option<(AlertMeasure, Found)>; 2] {
        let (calls_rule, cost_rule) = (self.calls_rule(policy), self.cost_rule(policy));
        let calls = self.calls.judge(&calls_rule, now, below_at);
        let cost = self.cost.judge(&cost_rule, now, below_at);
        [
            calls.map(|found| (AlertMeasure::Calls, found)),
            cost.map(|found| (AlertMeasure::Cost, found)),
        ]
    }
}

fn place(slice: u64) -> usize {
    usize::try_from(slice % SLICES as u64).unwrap_or_default()
}

impl Gauge {
    const fn add(&mut self, place: usize, amount: u64) {
        self.slices[place] = self.slices[place].saturating_add(amount);
        self.minute = self.minute.saturating_add(amount);
    }

    fn last_minute(&self) -> u64 {
        self.slices.iter().fold(0, |sum, slice| sum.saturating_add(*slice))
    }

    /// The baseline, once it stands on enough minutes.
    fn usual(&self, policy: &AnomalyPolicy) -> Option<f64> {
        (self.learned >= policy.learn_minutes).then_some(self.baseline)
    }

    /// A minute is over.
    fn learn(&mut self, policy: &AnomalyPolicy, floor: u64) {
        let minute = std::mem::take(&mut self.minute) as f64;
        if minute <= 0.0 {
            return;
        }
        let Some(usual) = self.usual(policy) else {
            self.learned += 1;
            self.baseline += (minute - self.baseline) / f64::from(self.learned);
            return;
        };
        let minute = minute.min((policy.factor * usual).max(floor as f64));
        let half_life = if minute > usual { policy.rise_minutes } else { policy.fall_minutes };
        self.baseline += (minute - usual) * (1.0 - (-1.0 / f64::from(half_life)).exp2());
    }

    /// The level above which the last minute is an anomaly, and what sets it.
    fn limit(&self, rule: &Rule<'_>) -> Option<(f64, AlertCause)> {
        let by_baseline = self.usual(rule.policy).map(|usual| {
            let level = (rule.policy.factor * usual).max(rule.floor as f64);
            (level, AlertCause::Baseline)
        });
        let by_ceiling = rule.ceiling.map(|ceiling| (ceiling as f64, AlertCause::Ceiling));
        by_baseline.into_iter().chain(by_ceiling).min_by(|one, other| one.0.total_cmp(&other.0))
    }

    fn judge(&mut self, rule: &Rule<'_>, now: Instant, below_at: Instant) -> Option<Found> {
        let (limit, _) = self.limit(rule)?;
        let last_minute = self.last_minute();
        let event = match &mut self.episode {
            None => {
                let cause = self.cause(rule, last_minute)?;
                self.episode = Some(Episode { since: now, peak: last_minute, below_since: None });
                AlertEvent::Raised { cause }
            }
            Some(episode) => {
                episode.peak = episode.peak.max(last_minute);
                if last_minute as f64 >= limit * rule.policy.clear_share {
                    episode.below_since = None;
                    return None;
                }
                let below_since = *episode.below_since.get_or_insert(below_at);
                if now.saturating_duration_since(below_since) < rule.policy.clear_after {
                    return None;
                }
                let lasted = now.saturating_duration_since(episode.since);
                let peak = episode.peak;
                self.episode = None;
                AlertEvent::Cleared { lasted, peak }
            }
        };
        let baseline = self.usual(rule.policy);
        let limit = match event {
            AlertEvent::Raised { cause: AlertCause::Ceiling } => {
                rule.ceiling.map_or(limit, |ceiling| ceiling as f64)
            }
            _ => limit,
        };
        Some(Found { event, last_minute, baseline, limit })
    }

    /// What makes an anomaly of the last minute, if it is one.
    fn cause(&self, rule: &Rule<'_>, last_minute: u64) -> Option<AlertCause> {
        if rule.ceiling.is_some_and(|ceiling| last_minute > ceiling) {
            return Some(AlertCause::Ceiling);
        }
        let usual = self.usual(rule.policy)?;
        let anomalous = rule.comparable
            && last_minute >= rule.floor
            && last_minute as f64 > rule.policy.factor * usual;
        anomalous.then_some(AlertCause::Baseline)
    }

    fn look(&self, rule: &Rule<'_>) -> AnomalyLevel {
        AnomalyLevel {
            last_minute: self.last_minute(),
            baseline: self.usual(rule.policy),
            limit: self.limit(rule).map(|(limit, _)| limit),
            raised: self.episode.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
