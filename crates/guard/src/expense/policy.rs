//! The knobs of an expensive tool's protection, their defaults, and where these come from.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::PolicyError;
use crate::policy::check::{LONGEST, refuse};

/// More than this is a slip, and beyond what a fraction counts exactly.
const AMOUNT_MAX: u64 = 1 << 50;
/// A shorter window holds no calls worth counting.
const SHORTEST_WINDOW: Duration = Duration::from_millis(1);

/// How much may leave in any window of a length. Local: each process counts its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetPolicy {
    /// Calls in a window: 1 to 2^50. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// Cost in a window, in a unit of the caller's choice, such as micro-dollars: 1 to 2^50. Default: no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// The window's length: 1 ms to a year. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self { calls: None, cost: None, window: Duration::from_secs(60 * 60) }
    }
}

impl BudgetPolicy {
    /// Checks that the budget can be kept.
    ///
    /// # Errors
    /// Names the first key whose value cannot.
    pub fn validate(&self) -> Result<(), PolicyError> {
        amount("budget.calls", self.calls)?;
        amount("budget.cost", self.cost)?;
        if !(SHORTEST_WINDOW..=LONGEST).contains(&self.window) {
            let problem = "set it to 1 ms or more and 365 days or less";
            return Err(refuse("budget.window", &self.window, problem));
        }
        Ok(())
    }
}

/// What a pre-check that fails or is late means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCheckError {
    /// The call does not go: money is not spent on a guess.
    #[default]
    Refuse,
    /// The call goes unchecked: for a check that saves money and forbids nothing.
    Allow,
}

/// How a pre-check is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreCheckPolicy {
    /// How long the hook may take: above 0, at most a year. Default 2 s: a check is a look, not a call to a
    /// model.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// What a hook that fails, panics or is late means. Default: the call is refused.
    pub on_error: OnCheckError,
}

impl Default for PreCheckPolicy {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(2), on_error: OnCheckError::default() }
    }
}

impl PreCheckPolicy {
    /// Checks that the policy can be kept.
    ///
    /// # Errors
    /// Names the key whose value cannot.
    pub fn validate(&self) -> Result<(), PolicyError> {
        duration("pre_check.timeout", self.timeout)
    }
}

/// When the calls or the spend of a dependency are out of the ordinary.
///
/// The baseline is an exponentially weighted moving average of per-minute values (S. W. Roberts, "Control
/// Chart Tests Based on Geometric Moving Averages", Technometrics 1 (3), 1959). The figures are choices of
/// this crate: 3 times the usual is more than a busy hour and less than a loop that calls as fast as it can,
/// and an average that rises in half an hour and falls in half a day keeps the level of busy minutes over a
/// quiet night.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnomalyPolicy {
    /// More than this many times the baseline in the last minute is an anomaly: above 1, at most 1000.
    /// Default 3.
    pub factor: f64,
    /// Calls that the last minute must hold before they are compared with the baseline. At least 1. Default
    /// 20.
    pub min_calls: u64,
    /// Cost that the last minute must hold before it is compared with its baseline: 1 to 2^50. Default:
    /// none, and cost is compared when the minute holds `min_calls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_cost: Option<u64>,
    /// Minutes with calls that are only learned from, 1 to 10 080. Default 10.
    pub learn_minutes: u32,
    /// Minutes with calls after which the baseline has moved half of the way up to a higher level, 1 to
    /// 10 080. Default 30.
    pub rise_minutes: u32,
    /// The same down to a lower level. Default 720, half a day.
    pub fall_minutes: u32,
    /// More calls than this in the last minute are an anomaly at once, learned or not: 1 to 2^50. Default:
    /// no ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_calls: Option<u64>,
    /// More cost than this in the last minute is an anomaly at once: 1 to 2^50. Default: no ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<u64>,
    /// Share of the level that raises an alert below which the last minute must fall for the episode to end:
    /// above 0, below 1. Default 0.5.
    pub clear_share: f64,
    /// How long it must stay below. At most a year. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub clear_after: Duration,
}

impl Default for AnomalyPolicy {
    fn default() -> Self {
        Self {
            factor: 3.0,
            min_calls: 20,
            min_cost: None,
            learn_minutes: 10,
            rise_minutes: 30,
            fall_minutes: 720,
            max_calls: None,
            max_cost: None,
            clear_share: 0.5,
            clear_after: Duration::from_secs(300),
        }
    }
}

/// A week of minutes: what takes longer to learn is not learned.
const MINUTES_MAX: u32 = 7 * 24 * 60;

impl AnomalyPolicy {
    /// Checks that the policy can be kept.
    ///
    /// # Errors
    /// Names the first key whose value contradicts itself.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if !(self.factor > 1.0 && self.factor <= 1000.0) {
            let problem = "what is usual would be an anomaly, or nothing; set it above 1 and at \
                           most 1000";
            return Err(refuse("anomaly.factor", &self.factor, problem));
        }
        if !(self.clear_share > 0.0 && self.clear_share < 1.0) {
            let problem = "an episode would never end, or end where it began; set it above 0 and \
                           below 1";
            return Err(refuse("anomaly.clear_share", &self.clear_share, problem));
        }
        amount("anomaly.min_calls", Some(self.min_calls))?;
        amount("anomaly.min_cost", self.min_cost)?;
        amount("anomaly.max_calls", self.max_calls)?;
        amount("anomaly.max_cost", self.max_cost)?;
        for (key, minutes) in [
            ("anomaly.learn_minutes", self.learn_minutes),
            ("anomaly.rise_minutes", self.rise_minutes),
            ("anomaly.fall_minutes", self.fall_minutes),
        ] {
            if !(1..=MINUTES_MAX).contains(&minutes) {
                return Err(refuse(
                    key,
                    &minutes,
                    "set it to 1 or more and 10080, a week, or less",
                ));
            }
        }
        if self.clear_after > LONGEST {
            let problem = "longer than a year; set it to 365 days or less";
            return Err(refuse("anomaly.clear_after", &self.clear_after, problem));
        }
        Ok(())
    }
}

fn amount(key: &'static str, amount: Option<u64>) -> Result<(), PolicyError> {
    if amount.is_some_and(|amount| !(1..=AMOUNT_MAX).contains(&amount)) {
        let problem = "nothing could ever go, or nothing be held back; set it to 1 or more and \
                       2^50 or less, or leave it out where it may be";
        return Err(refuse(key, &amount.unwrap_or_default(), problem));
    }
    Ok(())
}

fn duration(key: &'static str, value: Duration) -> Result<(), PolicyError> {
    if value.is_zero() || value > LONGEST {
        return Err(refuse(key, &value, "set it above 0 and to 365 days or less"));
    }
    Ok(())
}
