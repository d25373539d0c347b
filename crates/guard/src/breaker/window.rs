//! How the last calls ended: counts over a sliding window, by time or by number, in constant memory.

use std::time::Duration;

use tokio::time::Instant;

use crate::BreakerPolicy;

/// Slices of a window by time. A slice leaves the window as a whole, so up to a tenth less than the
/// window counts.
const SLICES: usize = 10;

/// Ends of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) calls: u32,
    pub(crate) failures: u32,
    pub(crate) slow: u32,
}

impl Counts {
    const fn add(&mut self, failed: bool, slow: bool) {
        self.calls = self.calls.saturating_add(1);
        self.failures = self.failures.saturating_add(failed as u32);
        self.slow = self.slow.saturating_add(slow as u32);
    }

    const fn remove(&mut self, other: Self) {
        self.calls = self.calls.saturating_sub(other.calls);
        self.failures = self.failures.saturating_sub(other.failures);
        self.slow = self.slow.saturating_sub(other.slow);
    }
}

/// A window. A call counts where it ends: one that lasted longer than the window counts like any other.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    shape: Shape,
    sum: Counts,
}

#[derive(Clone, Debug)]
enum Shape {
    Time {
        slice: Duration,
        /// When the newest slice ends: a look before that costs a comparison.
        ends_at: Instant,
        newest: usize,
        slices: [Counts; SLICES],
    },
    Calls {
        ends: Box<[Counts]>,
        next: usize,
    },
}

impl Window {
    pub(crate) fn new(policy: &BreakerPolicy, now: Instant) -> Self {
        let shape = match policy.window_calls {
            Some(calls) => {
                let ends = vec![Counts::default(); usize::try_from(calls).unwrap_or(usize::MAX)];
                Shape::Calls { ends: ends.into(), next: 0 }
            }
            None => {
                let slice = slice_of(policy);
                let slices = [Counts::default(); SLICES];
                Shape::Time { slice, ends_at: now + slice, newest: 0, slices }
            }
        };
        Self { shape, sum: Counts::default() }
    }

    /// Whether a policy asks for a window of another shape.
    pub(crate) fn is_of(&self, policy: &BreakerPolicy) -> bool {
        match (&self.shape, policy.window_calls) {
            (Shape::Calls { ends, .. }, Some(calls)) => usize::try_from(calls) == Ok(ends.len()),
            (Shape::Time { slice, .. }, None) => *slice == slice_of(policy),
            (Shape::Calls { .. }, None) | (Shape::Time { .. }, Some(_)) => false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.sum = Counts::default();
        match &mut self.shape {
            Shape::Time { slices, .. } => *slices = [Counts::default(); SLICES],
            Shape::Calls { ends, .. } => ends.fill(Counts::default()),
        }
    }

    pub(crate) fn record(&mut self, now: Instant, failed: bool, slow: bool) {
        self.slide(now);
        self.sum.add(failed, slow);
        match &mut self.shape {
            Shape::Time { newest, slices, .. } => {
                slices[*newest].add(failed, slow);
            }
            Shape::Calls { ends, next } => {
                let end = &mut ends[*next];
                self.sum.remove(*end);
                *end = Counts::default();
                end.add(failed, slow);
                *next = (*next + 1) % ends.len();
            }
        }
    }

    /// What the window holds now.
    pub(crate) fn counts(&mut self, now: Instant) -> Counts {
        self.slide(now);
        self.sum
    }

    /// Lets go of what is older than the window. A clock that stands or seems to go back changes nothing.
    fn slide(&mut self, now: Instant) {
        let Shape::Time { slice, ends_at, newest, slices } = &mut self.shape else { return };
        if now < *ends_at {
            return;
        }
        let passed = (now - *ends_at).as_nanos() / slice.as_nanos() + 1;
        let slices_passed = usize::try_from(passed).unwrap_or(SLICES).min(SLICES);
        for _ in 0..slices_passed {
            *newest = (*newest + 1) % SLICES;
            self.sum.remove(slices[*newest]);
            slices[*newest] = Counts::default();
        }
        *ends_at = match u32::try_from(passed) {
            Ok(passed) => *ends_at + *slice * passed,
            Err(_) => now + *slice,
        };
    }
}

fn slice_of(policy: &BreakerPolicy) -> Duration {
    (policy.window / 10).max(Duration::from_nanos(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_calls(calls: u32) -> Window {
        let policy = BreakerPolicy { window_calls: Some(calls), ..BreakerPolicy::default() };
        Window::new(&policy, Instant::now())
    }

    fn by_time(window: Duration, now: Instant) -> Window {
        Window::new(&BreakerPolicy { window, ..BreakerPolicy::default() }, now)
    }

    #[test]
    fn r10_a_window_by_calls_holds_the_last_ones_only() {
        let (mut window, now) = (by_calls(3), Instant::now());
        for (failed, expected) in [(true, 1), (true, 2), (false, 2), (false, 1), (false, 0)] {
            window.record(now, failed, false);
            assert_eq!(window.counts(now).failures, expected);
        }
        assert_eq!(window.counts(now).calls, 3);
    }

    #[test]
    fn r10_a_window_by_time_slides_and_is_empty_after_its_length() {
        let now = Instant::now();
        let mut window = by_time(Duration::from_secs(10), now);
        for second in 0..20 {
            window.record(now + Duration::from_secs(second), true, second % 2 == 0);
        }
        let at = |window: &mut Window, second| window.counts(now + Duration::from_secs(second));
        assert_eq!(at(&mut window, 19), Counts { calls: 10, failures: 10, slow: 5 });
        assert_eq!(at(&mut window, 24).calls, 5);
        assert_eq!(at(&mut window, 29), Counts::default());
    }

    #[test]
    fn r10_a_clock_that_jumps_is_harmless() {
        let now = Instant::now();
        let mut window = by_time(Duration::from_secs(10), now);
        window.record(now + Duration::from_secs(5), true, false);
        assert_eq!(window.counts(now).calls, 1, "back");
        window.record(now, true, false);
        assert_eq!(window.counts(now + Duration::from_secs(5)).calls, 2);
        let years = now + Duration::from_secs(60 * 60 * 24 * 365 * 20);
        assert_eq!(window.counts(years), Counts::default(), "far ahead");
        window.record(years, true, false);
        assert_eq!(window.counts(years).calls, 1);
    }

    proptest! {
        #[test]
        fn r10_it_agrees_with_a_list_of_all_ends(
            ends in prop::collection::vec((0_u64..4, any::<bool>(), any::<bool>()), 1..200),
            calls in 1_u32..20,
        ) {
            let start = Instant::now();
            let (mut timed, mut counted) = (by_time(Duration::from_secs(10), start), by_calls(calls));
            let (mut second, mut all) = (0, Vec::new());
            for (pause, failed, slow) in ends {
                second += pause;
                let now = start + Duration::from_secs(second);
                timed.record(now, failed, slow);
                counted.record(now, failed, slow);
                all.push((second, failed, slow));
                let count = |chosen: Vec<&(u64, bool, bool)>| Counts {
                    calls: chosen.len().try_into().unwrap(),
                    failures: chosen.iter().filter(|(_, failed, _)| *failed).count().try_into().unwrap(),
                    slow: chosen.iter().filter(|(.., slow)| *slow).count().try_into().unwrap(),
                };
                let within = all.iter().filter(|(at, ..)| *at + 10 > second).collect();
                prop_assert_eq!(timed.counts(now), count(within));
                let last = all.iter().rev().take(calls as usize).collect();
                prop_assert_eq!(counted.counts(now), count(last));
            }
        }
    }
}
