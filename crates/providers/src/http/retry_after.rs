//! How long a provider asks us to wait.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// Reads the wait from `retry-after-ms`, `x-ms-retry-after-ms` (Azure) or `retry-after` (seconds with a
/// fraction, or an HTTP date), in this order. What is negative, not a number or not a date is
/// passed over.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let milliseconds = |name| text(name).and_then(|value| positive(value, 0.001));
    milliseconds("retry-after-ms").or_else(|| milliseconds("x-ms-retry-after-ms")).or_else(|| {
        let value = text("retry-after")?;
        positive(value, 1.0).or_else(|| until(value, text("date")))
    })
}

fn positive(text: &str, unit_seconds: f64) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(number * unit_seconds).ok()
}

/// The wait until an HTTP date. It is measured from the response's own `Date`, where there is one:
/// the two come from the same clock, and ours may differ.
fn until(date: &str, response_date: Option<&str>) -> Option<Duration> {
    let parse = |text: &str| DateTimeParser::new().parse_timestamp(text).ok();
    let then = parse(date)?;
    let now = response_date.and_then(parse).unwrap_or_else(Timestamp::now);
    Duration::try_from(then.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)], expected_ms: Option<u64>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        assert_eq!(read(&map), expected_ms.map(Duration::from_millis), "{headers:?}");
    }

    #[test]
    fn milliseconds_win_over_seconds_and_azure_comes_between() {
        check(&[("retry-after-ms", "1500"), ("retry-after", "9")], Some(1500));
        check(&[("x-ms-retry-after-ms", "700"), ("retry-after", "9")], Some(700));
        check(&[("retry-after", "9")], Some(9000));
        check(&[("retry-after", "0.25")], Some(250));
        check(&[("retry-after", "0")], Some(0));
        check(&[], None);
    }

    #[test]
    fn nonsense_is_passed_over() {
        check(&[("retry-after-ms", "-5"), ("retry-after", "2")], Some(2000));
        for bad in ["-1", "soon", "", "NaN", "inf", "1e400"] {
            check(&[("retry-after", bad)], None);
        }
    }

    #[test]
    fn a_date_is_measured_from_the_responses_own_date() {
        let date = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        check(&[("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT"), date], Some(30_000));
        check(&[("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT"), date], None);
    }
}
