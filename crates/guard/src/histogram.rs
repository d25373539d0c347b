//! Durations in constant memory: buckets that are a thirty-second of their octave wide, so that a quantile
//! is at most about 3 % off. Two halves take turns, so that it tells of now and not of since the start.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Buckets of an octave, as a power of two.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// The octaves up to 2^36 microseconds, 19 hours; what is longer counts as that.
const BUCKETS: usize = (36 - SUB_BITS as usize + 1) * SUB;
/// How long a half takes records.
const HALF: Duration = Duration::from_secs(300);

/// Durations of the last 5 to 10 minutes.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// When the turn of the half that takes records ends.
    ends_at: Instant,
    /// Which half takes records.
    newest: usize,
    halves: [Box<[u32]>; 2],
}

/// How long the attempts of the last 5 to 10 minutes took that returned an answer: at most about 3 % more
/// than this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many they were.
    pub count: u64,
    /// Half of them took no longer, in microseconds.
    pub p50_micros: u64,
    /// 95 % of them took no longer.
    pub p95_micros: u64,
    /// 99 % of them took no longer.
    pub p99_micros: u64,
}

impl Histogram {
    pub(crate) fn new(now: Instant) -> Self {
        let half = || vec![0; BUCKETS].into();
        Self { ends_at: now + HALF, newest: 0, halves: [half(), half()] }
    }

    pub(crate) fn record(&mut self, micros: u64, now: Instant) {
        self.take_turns(now);
        let count = &mut self.halves[self.newest][bucket(micros)];
        *count = count.saturating_add(1);
    }

    fn take_turns(&mut self, now: Instant) {
        if now < self.ends_at {
            return;
        }
        let both = now >= self.ends_at + HALF;
        self.newest = 1 - self.newest;
        self.halves[self.newest].fill(0);
        if both {
            self.halves[1 - self.newest].fill(0);
        }
        self.ends_at = if both { now + HALF } else { self.ends_at + HALF };
    }

    pub(crate) fn read(&mut self, now: Instant) -> Latency {
        self.take_turns(now);
        let [first, second] = &self.halves;
        let counts = first.iter().zip(second).map(|(a, b)| u64::from(*a) + u64::from(*b));
        let total: u64 = counts.clone().sum();
        let quantile = |percent: u64| {
            let wanted = (total * percent).div_ceil(100);
            let mut seen = 0;
            let found = counts.clone().position(|count| {
                seen += count;
                seen >= wanted && wanted > 0
            });
            found.map_or(0, upper)
        };
        Latency {
            count: total,
            p50_micros: quantile(50),
            p95_micros: quantile(95),
            p99_micros: quantile(99),
        }
    }
}

/// The bucket of a value.
fn bucket(micros: u64) -> usize {
    let Some(octave) = micros.checked_ilog2().filter(|octave| *octave >= SUB_BITS) else {
        return usize::try_from(micros).unwrap_or(0);
    };
    let shift = octave - SUB_BITS;
    let within = usize::try_from(micros >> shift).unwrap_or(usize::MAX) - SUB;
    ((shift as usize + 1) * SUB + within).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (octave, within) = (bucket / SUB, (bucket % SUB) as u64);
    match octave {
        0 => within,
        _ => ((SUB as u64 + within + 1) << (octave - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r17_buckets_follow_each_other_without_a_gap() {
        let mut last = 0;
        for index in 1..BUCKETS {
            let upper = upper(index);
            assert_eq!(bucket(upper), index);
            assert_eq!(bucket(last + 1), index);
            last = upper;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn r17_what_is_older_than_ten_minutes_is_forgotten() {
        let start = Instant::now();
        let mut histogram = Histogram::new(start);
        let count_at = |histogram: &mut Histogram, seconds| {
            histogram.read(start + Duration::from_secs(seconds)).count
        };
        histogram.record(1, start);
        assert_eq!((count_at(&mut histogram, 0), count_at(&mut histogram, 599)), (1, 1));
        histogram.record(1, start + Duration::from_secs(599));
        assert_eq!((count_at(&mut histogram, 600), count_at(&mut histogram, 899)), (1, 1));
        assert_eq!(count_at(&mut histogram, 900), 0);
        histogram.record(1, start + Duration::from_secs(9_000_000));
        assert_eq!(count_at(&mut histogram, 9_000_000), 1);
    }

    proptest! {
        #[test]
        fn r17_a_quantile_is_at_most_a_thirty_second_above_the_exact_one(
            mut values in prop::collection::vec(0_u64..100_000_000_000, 1..300),
            small in prop::collection::vec(0_u64..200, 0..100),
        ) {
            values.extend(small);
            let now = Instant::now();
            let mut histogram = Histogram::new(now);
            for value in &values {
                histogram.record(*value, now);
            }
            values.sort_unstable();
            let latency = histogram.read(now);
            prop_assert_eq!(latency.count, values.len() as u64);
            for (percent, found) in
                [(50, latency.p50_micros), (95, latency.p95_micros), (99, latency.p99_micros)]
            {
                let exact = values[(values.len() * percent).div_ceil(100) - 1].min(1 << 36);
                prop_assert!(found >= exact.min((1 << 36) - 1), "{found} {exact}");
                prop_assert!(found <= exact + exact / 32, "{found} {exact}");
            }
        }
    }
}
