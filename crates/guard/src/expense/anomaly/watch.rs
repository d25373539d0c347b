//! The last minute, the baseline and the episodes of a watch. Pure; time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::{AlertCause, AlertEvent, AlertMeasure, AnomalyLevel, AnomalyPolicy};

/// Slices of the last minute.
pub(super) const SLICES: usize = 12;
pub(super) const SLICE: Duration = Duration::from_secs(5);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Both measures over one ring of slices.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) anchor: Instant,
    /// The slice that is being filled, counted from the anchor.
    newest: u64,
    /// When something was recorded last.
    recorded_at: Instant,
    pub(super) calls: Gauge,
    pub(super) cost: Gauge,
}

/// One measure.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    slices: [u64; SLICES],
    /// What the minute holds that is being filled.
    minute: u64,
    /// The average, and of how many minutes.
    pub(super) baseline: f64,
    learned: u32,
    pub(super) episode: Option<Episode>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Episode {
    since: Instant,
    peak: u64,
    /// Since when the last minute is below the level at which it ends.
    below_since: Option<Instant>,
}

/// What a measure is held to at one moment.
pub(super) struct Rule<'a> {
    policy: &'a AnomalyPolicy,
    /// The least that the last minute must hold to be compared with the baseline.
    floor: u64,
    ceiling: Option<u64>,
    /// Whether the last minute holds enough calls to be compared at all.
    comparable: bool,
}

/// An episode's begin or end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) event: AlertEvent,
    pub(super) last_minute: u64,
    pub(super) baseline: Option<f64>,
    pub(super) limit: f64,
}

pub(super) type Finds = [Option<(AlertMeasure, Found)>; 4];

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        let (calls, cost) = (Gauge::default(), Gauge::default());
        Self { anchor: now, newest: 0, recorded_at: now, calls, cost }
    }

    pub(super) fn calls_rule<'a>(&self, policy: &'a AnomalyPolicy) -> Rule<'a> {
        let (floor, ceiling) = (policy.min_calls, policy.max_calls);
        Rule { policy, floor, ceiling, comparable: true }
    }

    pub(super) fn cost_rule<'a>(&self, policy: &'a AnomalyPolicy) -> Rule<'a> {
        let (floor, ceiling) = (policy.min_cost.unwrap_or_default(), policy.max_cost);
        let comparable = policy.min_cost.is_some() || self.calls.last_minute() >= policy.min_calls;
        Rule { policy, floor, ceiling, comparable }
    }

    /// Lets go of what is older than a minute, and learns from minutes that are over. A clock that seems to
    /// go back changes nothing.
    pub(super) fn slide(&mut self, policy: &AnomalyPolicy, now: Instant) {
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
    pub(super) fn record(
        &mut self,
        calls: u64,
        cost: u64,
        policy: &AnomalyPolicy,
        now: Instant,
    ) -> Finds {
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

    pub(super) fn last_minute(&self) -> u64 {
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

    pub(super) fn look(&self, rule: &Rule<'_>) -> AnomalyLevel {
        AnomalyLevel {
            last_minute: self.last_minute(),
            baseline: self.usual(rule.policy),
            limit: self.limit(rule).map(|(limit, _)| limit),
            raised: self.episode.is_some(),
        }
    }
}
