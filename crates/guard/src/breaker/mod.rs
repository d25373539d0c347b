//! The circuit breaker: a pure machine. Time comes in as an argument; nothing here waits or locks.
//!
//! *Open* means that it refuses. Every change of state starts a new generation, and a ticket carries the
//! generation it was granted in: an answer from before a trip can therefore neither close the breaker nor
//! open it again. Only failures move it; neutral ends give a probe slot back and change nothing else.
//!
//! Failures in a row open it, or their share of the calls in a sliding window, or the share of slow
//! calls. The first sees a dependency that is asked once a minute die; the second one that fails half of
//! the time and never three times in a row.

mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(crate) use self::window::Counts;
use self::window::Window;
use crate::BreakerPolicy;

/// What a breaker does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// Calls are refused until the next probe.
    Open,
    /// Probes go through, everything else is refused.
    HalfOpen,
    /// Calls are refused until an operator says otherwise.
    ForcedOpen,
    /// Calls go through, whatever their ends say, until an operator says otherwise.
    ForcedClosed,
    /// As forced closed, and what it would do by its own judgement is told.
    MetricsOnly,
}

impl BreakerState {
    /// The state as one stable `snake_case` word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::MetricsOnly => "metrics_only",
        }
    }
}

/// The right to make one call, bound to the generation it was granted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    generation: u64,
}

/// What a call's end means to the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Success,
    Failure,
    Neutral,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { probes: u32 },
    ForcedOpen,
    ForcedClosed,
    MetricsOnly { failures: u32 },
}

/// The end of a call, as far as the breaker needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) health: Health,
    /// How long the call took.
    pub(crate) took: Duration,
    pub(crate) at: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    generation: u64,
    window: Window,
    /// Times it has opened since it was last healthy for as long as a window.
    trips: u32,
    closed_since: Instant,
    /// Ends that came after their generation.
    stale: u64,
}

/// Until when an open breaker is sure to refuse, as far as is known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closure {
    /// It does not refuse, or may not.
    None,
    Until(Instant),
    /// Until an operator says otherwise.
    Forced,
}

impl Closure {
    /// Whether a call that comes at `at` is sure to be refused.
    pub(crate) fn holds_at(self, at: Instant) -> bool {
        match self {
            Self::None => false,
            Self::Until(until) => at < until,
            Self::Forced => true,
        }
    }
}

impl Breaker {
    pub(crate) fn new(policy: &BreakerPolicy, now: Instant) -> Self {
        Self {
            state: State::Closed { failures: 0 },
            generation: 0,
            window: Window::new(policy, now),
            trips: 0,
            closed_since: now,
            stale: 0,
        }
    }

    /// Takes another policy. State and counts stay; the window starts anew only if its shape changes.
    pub(crate) fn fit(&mut self, policy: &BreakerPolicy, now: Instant) {
        if !self.window.is_of(policy) {
            self.window = Window::new(policy, now);
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        self.window.clear();
    }

    fn close(&mut self, now: Instant) {
        self.enter(State::Closed { failures: 0 });
        self.closed_since = now;
    }

    /// Opens for twice as long as the last time, up to the limit, and up to `open_jitter` longer, so
    /// that breakers that opened together do not probe together.
    fn open(&mut self, policy: &BreakerPolicy, now: Instant, draw: impl FnOnce() -> f64) {
        let doubled = policy.open_for.saturating_mul(1 << self.trips.min(31));
        let length = doubled.min(policy.max_open_for).mul_f64(1.0 + policy.open_jitter * draw());
        self.trips = self.trips.saturating_add(1);
        self.enter(State::Open { until: now + length });
    }

    /// Whether a call would be refused at `now`, and the time to the next probe. While every probe is
    /// out, or an operator holds the breaker open, that time is not known: `open_for` then stands for it.
    pub(crate) fn refusal(&self, policy: &BreakerPolicy, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed { .. } | State::ForcedClosed | State::MetricsOnly { .. } => None,
            State::Open { until } if now >= until => None,
            State::Open { until } => Some(until - now),
            State::HalfOpen { probes } if probes < policy.half_open_probes => None,
            State::HalfOpen { .. } | State::ForcedOpen => Some(policy.open_for),
        }
    }

    /// Grants a ticket, or says how long until the next probe.
    pub(crate) fn admit(
        &mut self,
        policy: &BreakerPolicy,
        now: Instant,
    ) -> Result<Ticket, Duration> {
        if let Some(retry_after) = self.refusal(policy, now) {
            return Err(retry_after);
        }
        if let State::Open { .. } = self.state {
            self.enter(State::HalfOpen { probes: 0 });
        }
        if let State::HalfOpen { probes } = &mut self.state {
            *probes += 1;
        }
        Ok(Ticket { generation: self.generation })
    }

    /// Takes a ticket back with what its call's end said. `draw` gives a number in `[0, 1)`; it is asked
    /// for only if the breaker opens.
    pub(crate) fn settle(
        &mut self,
        policy: &BreakerPolicy,
        ticket: Ticket,
        ending: Ending,
        draw: impl FnOnce() -> f64,
    ) {
        let Ending { health, took: _, at } = ending;
        if ticket.generation != self.generation {
            self.stale += u64::from(health != Health::Neutral);
            return;
        }
        match (self.state, health) {
            (State::Closed { failures }, Health::Success | Health::Failure) => {
                let failures = self.count(policy, failures, ending);
                self.state = State::Closed { failures };
                if self.is_unwell(policy, failures, at) {
                    if at.saturating_duration_since(self.closed_since) >= policy.window {
                        self.trips = 0;
                    }
                    self.open(policy, at, draw);
                }
            }
            (State::MetricsOnly { failures }, Health::Success | Health::Failure) => {
                let failures = self.count(policy, failures, ending);
                self.state = State::MetricsOnly { failures };
            }
            (State::HalfOpen { .. }, Health::Success) => self.close(at),
            (State::HalfOpen { .. }, Health::Failure) => self.open(policy, at, draw),
            (State::HalfOpen { probes }, Health::Neutral) => {
                self.state = State::HalfOpen { probes: probes.saturating_sub(1) };
            }
            (State::Closed { .. } | State::MetricsOnly { .. }, Health::Neutral)
            // no ticket bears the generation of an open state: it is left by a new generation
            | (State::Open { .. } | State::ForcedOpen | State::ForcedClosed, _) => {}
        }
    }

    /// Counts an end; the failures in a row after it.
    fn count(&mut self, policy: &BreakerPolicy, failures: u32, ending: Ending) -> u32 {
        let failed = ending.health == Health::Failure;
        let slow = policy.slow_call.is_some_and(|limit| ending.took >= limit);
        self.window.record(ending.at, failed, slow);
        if failed { failures.saturating_add(1) } else { 0 }
    }

    /// Whether what was counted would open a closed breaker.
    fn is_unwell(&mut self, policy: &BreakerPolicy, failures: u32, now: Instant) -> bool {
        if failures >= policy.consecutive_failures {
            return true;
        }
        let Counts { calls, failures, slow } = self.window.counts(now);
        let reaches = |part: u32, ratio: f64| f64::from(part) >= ratio * f64::from(calls);
        let too_slow = policy.slow_call.is_some() && reaches(slow, policy.slow_ratio);
        calls >= policy.min_calls && (reaches(failures, policy.failure_ratio) || too_slow)
    }

    /// Whether it judges by itself and finds nothing wrong.
    pub(crate) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Until when it is sure to refuse.
    pub(crate) const fn closure(&self) -> Closure {
        match self.state {
            State::Open { until } => Closure::Until(until),
            State::ForcedOpen => Closure::Forced,
            State::Closed { .. }
            | State::HalfOpen { .. }
            | State::ForcedClosed
            | State::MetricsOnly { .. } => Closure::None,
        }
    }

    pub(crate) fn force_open(&mut self) {
        self.enter(State::ForcedOpen);
    }

    pub(crate) fn force_closed(&mut self) {
        self.enter(State::ForcedClosed);
    }

    pub(crate) fn only_measure(&mut self) {
        self.enter(State::MetricsOnly { failures: 0 });
    }

    /// Gives a forced breaker back to its own judgement, closed and with nothing remembered.
    pub(crate) fn auto(&mut self, now: Instant) {
        match self.state {
            State::ForcedOpen | State::ForcedClosed | State::MetricsOnly { .. } => {
                self.trips = 0;
                self.close(now);
            }
            State::Closed { .. } | State::Open { .. } | State::HalfOpen { .. } => {}
        }
    }

    /// The state as calls at `now` meet it: an open breaker whose time is over is half-open.
    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
            State::ForcedOpen => BreakerState::ForcedOpen,
            State::ForcedClosed => BreakerState::ForcedClosed,
            State::MetricsOnly { .. } => BreakerState::MetricsOnly,
        }
    }

    /// What it looks like at `now`.
    pub(crate) fn look(&mut self, policy: &BreakerPolicy, now: Instant) -> BreakerLook {
        let failures = match self.state {
            State::Closed { failures } | State::MetricsOnly { failures } => failures,
            State::Open { .. }
            | State::HalfOpen { .. }
            | State::ForcedOpen
            | State::ForcedClosed => 0,
        };
        BreakerLook {
            state: self.state(now),
            consecutive_failures: failures,
            counts: self.window.counts(now),
            would_refuse: matches!(self.state, State::MetricsOnly { .. })
                && self.is_unwell(policy, failures, now),
            next_probe_in: match self.state {
                State::Open { until } if now < until => Some(until - now),
                _ => None,
            },
            trips: self.trips,
            stale: self.stale,
        }
    }
}

/// A breaker at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakerLook {
    pub(crate) state: BreakerState,
    pub(crate) consecutive_failures: u32,
    pub(crate) counts: Counts,
    /// It only measures, and would refuse by its own judgement.
    pub(crate) would_refuse: bool,
    /// Time to the next probe; `None` unless it is open by its own judgement.
    pub(crate) next_probe_in: Option<Duration>,
    pub(crate) trips: u32,
    pub(crate) stale: u64,
}

#[cfg(test)]
mod tests;
