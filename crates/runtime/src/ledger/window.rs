//! For how long a budget holds before it begins anew.
//!
//! Days, weeks and months are those of the calendar in a time zone, so a day in which the clocks are changed
//! has 23 or 25 hours. Weeks begin on Monday. Hours are those of UTC: an hour is an hour, whatever the
//! clocks do.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp as Instant, ToSpan as _};
use serde::{Deserialize, Serialize};
use steadfast_store::Timestamp;

const HOUR_MS: i64 = 3_600_000;

/// For how long a budget holds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// For one call, each by itself: nothing is added up.
    Call,
    /// For as long as the party is there: the whole run, the whole session.
    #[default]
    Whole,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
}

/// When a window began and when the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first moment in it, in milliseconds since 1970; 0 if it has no beginning.
    pub since: i64,
    /// The first moment after it; `None` if it has no end.
    pub until: Option<i64>,
}

impl Window {
    /// Its word in names and in configurations.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Whole => "whole",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The window in which a moment lies. Every moment of a window has the same bounds.
    ///
    /// A moment that no calendar reaches (before the year -9999 or after 9999) lies in a window without
    /// beginning and end.
    #[must_use]
    pub fn bounds(self, now: Timestamp, zone: &TimeZone) -> Bounds {
        let endless = Bounds { since: 0, until: None };
        match self {
            Self::Call | Self::Whole => endless,
            Self::Hour => {
                let since = now.0 - now.0.rem_euclid(HOUR_MS);
                Bounds { since, until: Some(since.saturating_add(HOUR_MS)) }
            }
            Self::Day | Self::Week | Self::Month => {
                self.of_calendar(now.0, zone).unwrap_or(endless)
            }
        }
    }

    fn of_calendar(self, now_ms: i64, zone: &TimeZone) -> Option<Bounds> {
        let now = Instant::from_millisecond(now_ms).ok()?;
        let today = zone.to_datetime(now).date();
        let first = self.first_day(today)?;
        let next = self.following(first)?;
        let (since, until) = (begins(first, zone)?, begins(next, zone)?);
        // Where clocks are put back over midnight, a day's end comes after the next one has begun. The
        // next one is then taken to begin for good.
        if until <= now_ms {
            return self.of_calendar_from(next, zone);
        }
        Some(Bounds { since, until: Some(until) })
    }

    fn of_calendar_from(self, first: Date, zone: &TimeZone) -> Option<Bounds> {
        let until = begins(self.following(first)?, zone)?;
        Some(Bounds { since: begins(first, zone)?, until: Some(until) })
    }

    fn first_day(self, day: Date) -> Option<Date> {
        match self {
            Self::Week => {
                let since_monday = i64::from(day.weekday().to_monday_zero_offset());
                day.checked_sub(since_monday.days()).ok()
            }
            Self::Month => Some(day.first_of_month()),
            Self::Call | Self::Whole | Self::Hour | Self::Day => Some(day),
        }
    }

    fn following(self, first: Date) -> Option<Date> {
        match self {
            Self::Week => first.checked_add(7.days()),
            Self::Month => first.checked_add(1.month()),
            Self::Call | Self::Whole | Self::Hour | Self::Day => first.checked_add(1.day()),
        }
        .ok()
    }
}

/// The first moment of a day. Where the clocks leave midnight out, the day begins when they do.
fn begins(day: Date, zone: &TimeZone) -> Option<i64> {
    let midnight = zone.to_ambiguous_timestamp(day.at(0, 0, 0, 0));
    let moment = midnight.compatible().ok()?;
    let change = zone.preceding(moment).next();
    let by_change = change
        .map(|change| change.timestamp())
        .filter(|change| *change < moment && zone.to_datetime(*change).date() == day);
    Some(by_change.unwrap_or(moment).as_millisecond())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(window: Window, zone: &str, now: &str, since: &str, until: &str) {
        let at = |text: &str| text.parse::<Instant>().expect("a time").as_millisecond();
        let zone = TimeZone::get(zone).expect("a zone");
        let bounds = window.bounds(Timestamp(at(now)), &zone);
        let text = |ms| Instant::from_millisecond(ms).expect("in range").to_string();
        assert_eq!(text(bounds.since), since, "{window:?} at {now}");
        assert_eq!(bounds.until.map(text).as_deref(), Some(until), "{window:?} at {now}");
    }

    #[test]
    fn g9_days_weeks_and_months_are_those_of_the_calendar() {
        let now = "2026-11-25T12:00:00Z";
        check(Window::Hour, "UTC", now, "2026-11-25T12:00:00Z", "2026-11-25T13:00:00Z");
        check(Window::Day, "UTC", now, "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z");
        // A Wednesday.
        check(Window::Week, "UTC", now, "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z");
        check(Window::Month, "UTC", now, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
        check(Window::Day, "Asia/Tokyo", now, "2026-11-24T15:00:00Z", "2026-11-25T15:00:00Z");
        let eve = "2026-12-31T23:30:00Z";
        check(Window::Month, "Europe/Zurich", eve, "2026-12-31T23:00:00Z", "2027-01-31T23:00:00Z");
        check(
            Window::Week,
            "UTC",
            "2026-11-30T00:00:00Z",
            "2026-11-30T00:00:00Z",
            "2026-12-07T00:00:00Z",
        );
        let endless = Bounds { since: 0, until: None };
        assert_eq!(Window::Whole.bounds(Timestamp(1), &TimeZone::UTC), endless);
        assert_eq!(Window::Call.bounds(Timestamp(1), &TimeZone::UTC), endless);
    }

    #[test]
    fn g9_a_day_on_which_the_clocks_change_has_23_or_25_hours() {
        let zone = "Europe/Zurich";
        let (from, to) = ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        check(Window::Day, zone, from, from, to);
        check(Window::Day, zone, "2026-03-29T21:59:59.999Z", from, to);
        check(
            Window::Day,
            zone,
            "2026-10-25T01:30:00Z",
            "2026-10-24T22:00:00Z",
            "2026-10-25T23:00:00Z",
        );
        check(
            Window::Month,
            zone,
            "2026-03-29T12:00:00Z",
            "2026-02-28T23:00:00Z",
            "2026-03-31T22:00:00Z",
        );
    }

    #[test]
    fn g9_a_day_without_midnight_begins_when_the_clocks_do() {
        // At midnight of 2018-11-04 it was 1:00 in Sao Paulo.
        check(
            Window::Day,
            "America/Sao_Paulo",
            "2018-11-04T12:00:00Z",
            "2018-11-04T03:00:00Z",
            "2018-11-05T02:00:00Z",
        );
        // At 23:30 of 1919-03-30 it was 0:30 of the next day in Toronto.
        check(
            Window::Day,
            "America/Toronto",
            "1919-03-31T12:00:00Z",
            "1919-03-31T04:30:00Z",
            "1919-04-01T04:00:00Z",
        );
    }

    proptest! {
        #[test]
        fn g9_every_moment_of_a_window_has_the_same_bounds_and_windows_meet(
            window in prop::sample::select(vec![Window::Hour, Window::Day, Window::Week, Window::Month]),
            zone in prop::sample::select(vec![
                "UTC", "Europe/Zurich", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe",
                "Pacific/Apia", "Asia/Kathmandu", "America/Havana", "Africa/Cairo", "America/Asuncion", "America/St_Johns",
            ]),
            now_ms in 946_684_800_000_i64..2_208_988_800_000,
            share in 0.0..1.0_f64,
        ) {
            let zone = TimeZone::get(zone).expect("a zone");
            let bounds = window.bounds(Timestamp(now_ms), &zone);
            let until = bounds.until.expect("an end");
            prop_assert!(bounds.since <= now_ms && now_ms < until, "{bounds:?}");
            #[expect(clippy::cast_possible_truncation, reason = "a share of some days")]
            let within = bounds.since + ((until - bounds.since - 1) as f64 * share) as i64;
            for moment in [bounds.since, within, until - 1] {
                prop_assert_eq!(window.bounds(Timestamp(moment), &zone), bounds);
            }
            prop_assert_eq!(window.bounds(Timestamp(until), &zone).since, until);
        }
    }
}
