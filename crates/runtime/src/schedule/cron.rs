//! When a schedule fires: a cron expression in a time zone, and what a change of the clocks does to it.
//!
//! An expression whose hours begin with `*` counts on through a change of the clocks: it fires at every
//! moment that matches, so not at all in an hour that is left out, and in both of an hour that comes twice.
//! Any other names times of the day, and each fires once a day: one that is left out fires as much later as
//! the clocks were put forward, one that comes twice fires the first time.

use cronexpr::{Crontab, MakeTimestamp, parse_crontab};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp as Instant, Unit};
use steadfast_store::Timestamp;

/// Clocks are never changed by more than this (a day was left out in Samoa in 2011).
const CHANGE_MAX: SignedDuration = SignedDuration::from_hours(25);

/// An expression that cannot be used, or a time zone that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression is not one, or names no time that ever comes.
    #[error(
        "`{cron}` is no time to fire at: {problem}; write five fields, such as `0 6 * * 1-5` (at 6:00 from Monday to Friday)"
    )]
    Expression {
        /// The expression.
        cron: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no such time zone.
    #[error("there is no time zone `{name}`; write one such as `UTC` or `Europe/Zurich`")]
    Zone {
        /// The name asked for.
        name: String,
    },
}

/// When a schedule fires.
#[derive(Clone, Debug)]
pub struct Cron {
    /// Matches moments if it counts on, times of the day otherwise.
    times: Crontab,
    counts_on: bool,
    zone: TimeZone,
}

impl Cron {
    /// Reads an expression of five fields: minute, hour, day of the month, month, day of the week.
    ///
    /// # Errors
    /// [`CronError`] says what is wrong, and gives an example.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, CronError> {
        let wrong = |problem: &str| {
            Err(CronError::Expression { cron: cron.to_owned(), problem: problem.to_owned() })
        };
        let Ok(found) = TimeZone::get(zone) else {
            return Err(CronError::Zone { name: zone.to_owned() });
        };
        let fields: Vec<&str> = cron.split_whitespace().collect();
        let &[_, hours, _, _, _] = fields.as_slice() else {
            return wrong(&format!("it has {} fields", fields.len()));
        };
        let counts_on = hours.starts_with('*');
        let clock = if counts_on { zone } else { "UTC" };
        let times = match parse_crontab(&format!("{} {clock}", fields.join(" "))) {
            Ok(times) => times,
            Err(error) => {
                // Its first lines repeat the expression and point at the place.
                let told = error.to_string();
                let told = told.lines().last().unwrap_or_default();
                return wrong(told.trim_start_matches([' ', '^']));
            }
        };
        let cron_ = Self { times, counts_on, zone: found };
        match cron_.next(Timestamp(0)) {
            Some(_) => Ok(cron_),
            None => wrong("such a day never comes"),
        }
    }

    /// The first time after this one; `None` if there is none that can be told.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = Instant::from_millisecond(after.0).ok()?;
        let next = if self.counts_on {
            self.times.find_next(MakeTimestamp(after)).ok()?.timestamp()
        } else {
            self.next_of_day(after)?
        };
        Some(Timestamp(next.as_millisecond()))
    }

    /// Looks through times of the day from before the last change of the clocks on: times that were left
    /// out fire later, and thus possibly among those that come after them.
    fn next_of_day(&self, after: Instant) -> Option<Instant> {
        let change = self.zone.preceding(after).next().map(|change| change.timestamp());
        let is_near = change.is_some_and(|change| after.duration_since(change) < CHANGE_MAX);
        let from = if is_near { after - CHANGE_MAX } else { after };
        let mut time = self.zone.to_datetime(from);
        let mut best: Option<Instant> = None;
        loop {
            time = self.following(time)?;
            let moment = self.zone.to_ambiguous_timestamp(time);
            let is_left_out = matches!(moment.offset(), AmbiguousOffset::Gap { .. });
            let moment = moment.compatible().ok()?;
            if moment > after {
                best = Some(best.map_or(moment, |best| best.min(moment)));
                if !is_left_out {
                    return best;
                }
            }
        }
    }

    /// The time of the day after this one that matches, on a clock that is never changed.
    fn following(&self, time: DateTime) -> Option<DateTime> {
        let as_utc = TimeZone::UTC.to_timestamp(time.round(Unit::Second).ok()?).ok()?;
        Some(self.times.find_next(MakeTimestamp(as_utc)).ok()?.datetime())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<Instant>().expect("a time").as_millisecond())
    }

    fn firings(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(cron, zone).expect("good");
        let mut time = at(after);
        let mut fired = Vec::new();
        for _ in 0..count {
            time = cron.next(time).expect("comes");
            fired.push(Instant::from_millisecond(time.0).expect("in range").to_string());
        }
        fired
    }

    #[test]
    fn a_time_of_the_day_keeps_to_the_clock_on_the_wall() {
        assert_eq!(
            firings("0 6 * * *", "Europe/Zurich", "2026-03-27T12:00:00Z", 3),
            ["2026-03-28T05:00:00Z", "2026-03-29T04:00:00Z", "2026-03-30T04:00:00Z"]
        );
    }

    #[test]
    fn a_time_that_is_left_out_fires_as_much_later_as_the_clocks_were_put_forward() {
        // On 2026-03-29 2:00 is followed by 3:00, which is 1:00 UTC.
        assert_eq!(
            firings("30 2 * * *", "Europe/Zurich", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]
        );
        // Also if one looks only after the change, and among those that come by themselves.
        assert_eq!(
            firings("30 2 * * *", "Europe/Zurich", "2026-03-29T01:10:00Z", 1),
            ["2026-03-29T01:30:00Z"]
        );
        assert_eq!(
            firings("15,45 2,3 * * *", "Europe/Zurich", "2026-03-29T00:50:00Z", 3),
            ["2026-03-29T01:15:00Z", "2026-03-29T01:45:00Z", "2026-03-30T00:15:00Z"]
        );
    }

    #[test]
    fn a_time_that_comes_twice_fires_the_first_time() {
        // On 2026-10-25 3:00 is followed by 2:00, at 1:00 UTC.
        assert_eq!(
            firings("30 2 * * *", "Europe/Zurich", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            firings("30 2 * * *", "Europe/Zurich", "2026-10-25T01:10:00Z", 1),
            ["2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn what_counts_on_fires_in_both_hours_and_not_in_the_one_that_is_left_out() {
        assert_eq!(
            firings("30 * * * *", "Europe/Zurich", "2026-10-24T23:50:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]
        );
        assert_eq!(
            firings("30 * * * *", "Europe/Zurich", "2026-03-29T00:10:00Z", 2),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_an_example() {
        for (cron, problem) in [
            ("0 6 * *", "it has 4 fields"),
            ("0 6 * * * *", "it has 6 fields"),
            ("0 25 * * *", "25"),
            ("0 6 30 2 *", "never comes"),
            ("every day", "it has 2 fields"),
        ] {
            let told = Cron::parse(cron, "UTC").expect_err(cron).to_string();
            assert!(told.contains(problem) && told.contains("0 6 * * 1-5"), "{told}");
            assert!(!told.contains('\n'), "{told}");
        }
        let told = Cron::parse("0 6 * * *", "Europe/Zuerich").expect_err("unknown").to_string();
        assert!(told.contains("Europe/Zuerich") && told.contains("Europe/Zurich"), "{told}");
    }

    proptest! {
        #[test]
        fn the_next_time_is_later_and_none_lies_between(
            minute in 0..60_u8,
            hour in prop_oneof![Just("*".to_owned()), (0..24_u8).prop_map(|h| h.to_string()), Just("1-3".to_owned())],
            zone in prop_oneof![Just("UTC"), Just("Europe/Zurich"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("Pacific/Apia")],
            start_s in 1_262_304_000_i64..1_893_456_000,
            back_s in 0..172_800_i64,
        ) {
            let cron = Cron::parse(&format!("{minute} {hour} * * *"), zone).expect("good");
            let start = Timestamp(start_s * 1000);
            let next = cron.next(start).expect("comes");
            prop_assert!(next > start);
            // Whoever looks from earlier meets the same times: none is skipped, none comes anew.
            let mut time = Timestamp((start_s - back_s) * 1000);
            while time <= start {
                time = cron.next(time).expect("comes");
            }
            prop_assert_eq!(time, next);
        }
    }
}
