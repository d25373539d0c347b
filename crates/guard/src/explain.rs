//! What a guard looks like from outside: numbers for a machine, one line for a person.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BreakerState, Counters, Latency};

/// A guard at one moment.
///
/// ```
/// use std::convert::Infallible;
/// use steadfast_guard::{CallContext, Effect, Guard, Policy};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let guard = Guard::new("search", Policy::default())?;
/// guard.call(CallContext::new(Effect::Read), |_| async { Ok::<_, Infallible>(()) }).await?;
/// guard.force_open();
/// let snapshot = guard.snapshot();
/// assert_eq!((snapshot.counters.success, snapshot.latency.count), (1, 1));
/// assert!(guard.explain().starts_with("`search` refuses calls: the breaker is forced open"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GuardSnapshot {
    /// The dependency's name.
    pub name: String,
    /// What the breaker does with calls.
    pub breaker: BreakerState,
    /// Failures in a row while it is closed.
    pub consecutive_failures: u32,
    /// Failures in a row that open it.
    pub failures_to_open: u32,
    /// Calls in the breaker's window.
    pub window_calls: u32,
    /// Failures among them.
    pub window_failures: u32,
    /// Slow calls among them.
    pub window_slow: u32,
    /// The breaker only measures, and would refuse calls by its own judgement.
    pub would_refuse: bool,
    /// Times the breaker has opened since it was last healthy for as long as its window.
    pub trips: u32,
    /// Ends of calls that came after the breaker had changed its state, and counted for nothing.
    pub stale: u64,
    /// Time to the next probe, in milliseconds, while it is open by its own judgement.
    pub next_probe_in_ms: Option<u64>,
    /// Time to the end of the cooldown, in milliseconds, while there is one.
    pub cooldown_ms: Option<u64>,
    /// Calls in flight.
    pub in_flight: usize,
    /// Calls that may be in flight at once.
    pub concurrency: usize,
    /// Calls waiting for a permit.
    pub queued: usize,
    /// The same for each of [`Priority::ALL`](crate::Priority::ALL), lowest first.
    pub queued_by_priority: [usize; 4],
    /// Attempts that may leave now, of this minute's; less than 0 is owed. `None`: no limit.
    pub requests_left: Option<i64>,
    /// Tokens that may leave now, of this minute's; less than 0 is owed. `None`: no limit.
    pub tokens_left: Option<i64>,
    /// Calls that may wait.
    pub queue: usize,
    /// Calls that do more than call once: retries, sleeping ones included, hedges and fallbacks.
    pub retrying: usize,
    /// The limit of an attempt that began now, in milliseconds.
    pub attempt_timeout_ms: u64,
    /// Faults are injected on purpose: the policy's `chaos` is on.
    #[serde(default)]
    pub drill: bool,
    /// How long attempts take that return an answer.
    pub latency: Latency,
    /// How calls ended since the guard was made.
    pub counters: Counters,
}

/// Rounded up, so that whoever waits that long does not come too early.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Rounded down, so that nobody is promised what is not there.
#[expect(clippy::cast_possible_truncation, reason = "a cast saturates, and limits are far below")]
pub(crate) fn whole(level: f64) -> i64 {
    level.floor() as i64
}

/// A number with its noun, as people say it: `1 call`, `2 calls`.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// One line: the state, and why a call would wait or be refused now.
pub(crate) fn explain(snapshot: &GuardSnapshot) -> String {
    let GuardSnapshot { name, in_flight, concurrency, queued, queue, .. } = snapshot;
    let load = format!("{in_flight} of {concurrency} in flight, {queued} of {queue} queued");
    let ms = |ms: Option<u64>| Duration::from_millis(ms.unwrap_or_default());
    let cooldown = ms(snapshot.cooldown_ms);
    let answer = match snapshot.breaker {
        BreakerState::ForcedOpen => "refuses calls: the breaker is forced open".to_owned(),
        _ if !cooldown.is_zero() => {
            format!("refuses calls: cooling down after a rate limit for another {cooldown:?}")
        }
        BreakerState::Open => format!(
            "refuses calls: the breaker is open, next probe in {:?}",
            ms(snapshot.next_probe_in_ms)
        ),
        BreakerState::HalfOpen => "lets probes through: the breaker is half-open".to_owned(),
        _ if snapshot.requests_left.is_some_and(|left| left < 1) => {
            "lets calls wait: this minute's requests are used up".to_owned()
        }
        _ if snapshot.tokens_left.is_some_and(|left| left < 1) => {
            "lets calls wait: this minute's tokens are used up".to_owned()
        }
        BreakerState::Closed | BreakerState::ForcedClosed | BreakerState::MetricsOnly
            if in_flight < concurrency =>
        {
            "lets calls through".to_owned()
        }
        BreakerState::Closed | BreakerState::ForcedClosed | BreakerState::MetricsOnly
            if queued < queue =>
        {
            "lets calls wait: every permit is in use".to_owned()
        }
        BreakerState::Closed | BreakerState::ForcedClosed | BreakerState::MetricsOnly => {
            "refuses calls: every permit is in use and the queue is full".to_owned()
        }
    };
    let health = match snapshot.breaker {
        BreakerState::Closed if snapshot.consecutive_failures > 0 => format!(
            "; {} in a row, and the breaker opens at {}",
            counted(snapshot.consecutive_failures.into(), "failure"),
            snapshot.failures_to_open
        ),
        BreakerState::ForcedClosed => "; the breaker is forced closed".to_owned(),
        BreakerState::MetricsOnly if snapshot.would_refuse => {
            "; the breaker only measures, and would refuse calls".to_owned()
        }
        BreakerState::MetricsOnly => "; the breaker only measures".to_owned(),
        _ => String::new(),
    };
    let GuardSnapshot { window_calls, window_failures, .. } = snapshot;
    let window = match window_failures {
        0 => String::new(),
        _ => format!(
            "; {window_failures} of the last {} failed",
            counted((*window_calls).into(), "call")
        ),
    };
    let drill = if snapshot.drill { "; FAULTS ARE INJECTED (chaos)" } else { "" };
    let retrying = match snapshot.retrying {
        0 => String::new(),
        calls => format!("; {calls} retrying or gone another way"),
    };
    format!("`{name}` {answer}; {load}{health}{window}{retrying}{drill}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut GuardSnapshot), expected: &str) {
        let mut snapshot = GuardSnapshot {
            name: "llm".to_owned(),
            breaker: BreakerState::Closed,
            consecutive_failures: 0,
            failures_to_open: 3,
            window_calls: 0,
            window_failures: 0,
            window_slow: 0,
            would_refuse: false,
            trips: 0,
            stale: 0,
            next_probe_in_ms: None,
            cooldown_ms: None,
            in_flight: 1,
            concurrency: 2,
            queued: 0,
            queued_by_priority: [0; 4],
            requests_left: None,
            drill: false,
            tokens_left: None,
            queue: 1,
            retrying: 0,
            attempt_timeout_ms: 60_000,
            latency: Latency::default(),
            counters: Counters::default(),
        };
        change(&mut snapshot);
        let line = explain(&snapshot);
        assert!(line.starts_with(&format!("`llm` {expected}; ")), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn every_reason_to_wait_or_to_be_refused_is_told_in_one_line() {
        check(|_| (), "lets calls through");
        check(|s| s.in_flight = 2, "lets calls wait: every permit is in use");
        check(
            |s| (s.in_flight, s.queued) = (2, 1),
            "refuses calls: every permit is in use and the queue is full",
        );
        check(
            |s| (s.breaker, s.next_probe_in_ms) = (BreakerState::Open, Some(1500)),
            "refuses calls: the breaker is open, next probe in 1.5s",
        );
        check(
            |s| s.cooldown_ms = Some(2000),
            "refuses calls: cooling down after a rate limit for another 2s",
        );
        check(
            |s| s.breaker = BreakerState::HalfOpen,
            "lets probes through: the breaker is half-open",
        );
        check(
            |s| s.breaker = BreakerState::ForcedOpen,
            "refuses calls: the breaker is forced open",
        );
    }

    #[test]
    fn milliseconds_are_rounded_up() {
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_millis(7)), 7);
        assert_eq!(millis(Duration::ZERO), 0);
    }
}
