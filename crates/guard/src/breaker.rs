//! The circuit breaker: a pure machine. Time comes in as an argument; nothing here waits or locks.
//!
//! *Open* means that it refuses. Every change of state starts a new generation, and a ticket carries the
//! generation it was granted in: an answer from before a trip can therefore neither close the breaker nor
//! open it again. Only failures move it; neutral ends give a probe slot back and change nothing else.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

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
}

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    generation: u64,
}

impl Breaker {
    pub(crate) const fn new() -> Self {
        Self { state: State::Closed { failures: 0 }, generation: 0 }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }

    /// Whether a call would be refused at `now`, and the time to the next probe. While every probe is
    /// out, or an operator holds the breaker open, that time is not known: `open_for` then stands for it.
    pub(crate) fn refusal(&self, policy: &BreakerPolicy, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed { .. } | State::ForcedClosed => None,
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

    /// Takes a ticket back with what its call's end said.
    pub(crate) fn settle(
        &mut self,
        policy: &BreakerPolicy,
        ticket: Ticket,
        health: Health,
        now: Instant,
    ) {
        if ticket.generation != self.generation {
            return;
        }
        let opened = State::Open { until: now + policy.open_for };
        match (self.state, health) {
            (State::Closed { .. }, Health::Success) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Health::Failure) => {
                let failures = failures.saturating_add(1);
                if failures >= policy.consecutive_failures {
                    self.enter(opened);
                } else {
                    self.state = State::Closed { failures };
                }
            }
            (State::HalfOpen { .. }, Health::Success) => self.enter(State::Closed { failures: 0 }),
            (State::HalfOpen { .. }, Health::Failure) => self.enter(opened),
            (State::HalfOpen { probes }, Health::Neutral) => {
                self.state = State::HalfOpen { probes: probes.saturating_sub(1) };
            }
            (State::Closed { .. }, Health::Neutral)
            // no ticket bears the generation of an open state: it is left by a new generation
            | (State::Open { .. } | State::ForcedOpen | State::ForcedClosed, _) => {}
        }
    }

    /// Whether a call that comes at `at` is sure to be refused, as far as is known now.
    pub(crate) fn stays_open_until_after(&self, at: Instant) -> bool {
        match self.state {
            State::Open { until } => at < until,
            State::ForcedOpen => true,
            State::Closed { .. } | State::HalfOpen { .. } | State::ForcedClosed => false,
        }
    }

    pub(crate) fn force_open(&mut self) {
        self.enter(State::ForcedOpen);
    }

    pub(crate) fn force_closed(&mut self) {
        self.enter(State::ForcedClosed);
    }

    /// Gives a forced breaker back to its own judgement, closed and with nothing remembered.
    pub(crate) fn auto(&mut self) {
        if matches!(self.state, State::ForcedOpen | State::ForcedClosed) {
            self.enter(State::Closed { failures: 0 });
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
        }
    }

    pub(crate) const fn consecutive_failures(&self) -> u32 {
        match self.state {
            State::Closed { failures } => failures,
            _ => 0,
        }
    }

    /// Time to the next probe; `None` unless the breaker is open by its own judgement.
    pub(crate) fn next_probe_in(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until - now),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
