//! Times and lengths of time, for people.

use steadfast_store::Timestamp;

/// A time as a page shows it: how long ago, and exactly when.
#[derive(Clone, Debug)]
pub(super) struct When {
    /// `3 min ago`.
    pub(super) relative: String,
    /// RFC 3339, UTC.
    pub(super) exact: String,
}

impl When {
    pub(super) fn new(at: Timestamp, now: Timestamp) -> Self {
        Self { relative: relative(at.0, now.0), exact: exact(at) }
    }
}

/// RFC 3339, UTC; the plain number if it is outside the calendar.
pub(super) fn exact(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}

fn relative(at_ms: i64, now_ms: i64) -> String {
    let seconds = now_ms.saturating_sub(at_ms) / 1000;
    let size = seconds.unsigned_abs();
    let (count, unit) = match size {
        0..5 => return "just now".to_owned(),
        5..60 => (size, "s"),
        60..3600 => (size / 60, "min"),
        3600..86400 => (size / 3600, "h"),
        _ => (size / 86400, "d"),
    };
    if seconds < 0 { format!("in {count} {unit}") } else { format!("{count} {unit} ago") }
}

/// A length of time, short.
pub(super) fn took(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_distance_in_both_directions() {
        let told = |at| relative(at, 1_000_000_000);
        assert_eq!(told(1_000_000_000), "just now");
        assert_eq!(told(999_950_000), "50 s ago");
        assert_eq!(told(999_700_000), "5 min ago");
        assert_eq!(told(1_000_700_000), "in 11 min");
        assert_eq!(told(1_000_000_000 - 3 * 86_400_000), "3 d ago");
    }

    #[test]
    fn lengths_are_told_in_the_unit_that_fits() {
        assert_eq!(
            [999, 1550, 61_000, 3_660_000].map(took),
            ["999 ms", "1.5 s", "1 min 1 s", "1 h 1 min"]
        );
    }

    #[test]
    fn an_exact_time_is_rfc_3339_and_one_outside_the_calendar_stays_a_number() {
        assert_eq!(exact(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(exact(Timestamp(i64::MAX)), i64::MAX.to_string());
    }
}
