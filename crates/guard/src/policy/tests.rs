use super::check::LONGEST;
use super::*;

fn key_of(change: impl FnOnce(&mut Policy)) -> &'static str {
    let mut policy = Policy::default();
    change(&mut policy);
    policy.validate().expect_err("must be refused").key
}

#[test]
fn r16_the_default_policy_is_valid() {
    assert_eq!(Policy::default().validate(), Ok(()));
}

#[test]
fn r16_validate_names_the_key_that_cannot_be_kept() {
    const ZERO: Duration = Duration::ZERO;
    let long = LONGEST + Duration::from_secs(1);
    assert_eq!(key_of(|p| p.concurrency = 0), "concurrency");
    assert_eq!(key_of(|p| p.queue_timeout = ZERO), "queue_timeout");
    assert_eq!(key_of(|p| p.attempt_timeout = ZERO), "attempt_timeout");
    assert_eq!(key_of(|p| p.total_timeout = ZERO), "total_timeout");
    assert_eq!(key_of(|p| p.first_item_timeout = ZERO), "first_item_timeout");
    assert_eq!(key_of(|p| p.idle_timeout = ZERO), "idle_timeout");
    assert_eq!(key_of(|p| p.stream_timeout = ZERO), "stream_timeout");
    assert_eq!(key_of(|p| p.retry.base_delay = Some(p.retry.max_delay * 2)), "retry.base_delay");
    assert_eq!(key_of(|p| p.breaker.consecutive_failures = 0), "breaker.consecutive_failures");
    assert_eq!(key_of(|p| p.breaker.half_open_probes = 0), "breaker.half_open_probes");
    assert_eq!(key_of(|p| p.breaker.half_open_probes = 33), "breaker.half_open_probes");
    assert_eq!(key_of(|p| p.total_timeout = long), "total_timeout");
    assert_eq!(key_of(|p| p.retry.max_delay = long), "retry.max_delay");
    assert_eq!(key_of(|p| p.retry.max_retry_after = long), "retry.max_retry_after");
    assert_eq!(key_of(|p| p.breaker.open_for = long), "breaker.open_for");
    assert_eq!(key_of(|p| p.retry.max_elapsed = Some(long)), "retry.max_elapsed");
    for ratio in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(key_of(|p| p.retry.budget.ratio = ratio), "retry.budget.ratio");
        assert_eq!(key_of(|p| p.breaker.failure_ratio = ratio), "breaker.failure_ratio");
        assert_eq!(key_of(|p| p.breaker.slow_ratio = ratio), "breaker.slow_ratio");
        assert_eq!(key_of(|p| p.breaker.open_jitter = ratio), "breaker.open_jitter");
    }
    for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(key_of(|p| p.chaos.latency = share), "chaos.latency");
        assert_eq!(key_of(|p| p.chaos.error = share), "chaos.error");
        assert_eq!(key_of(|p| p.chaos.stall = share), "chaos.stall");
        assert_eq!(key_of(|p| p.chaos.cut = share), "chaos.cut");
    }
    assert_eq!(key_of(|p| (p.chaos.error, p.chaos.cut) = (0.6, 0.6)), "chaos.error");
    assert_eq!(key_of(|p| p.chaos.latency_for = long), "chaos.latency_for");
    assert_eq!(key_of(|p| p.hedge.after = long), "hedge.after");
    let hedge = HedgePolicy { enabled: true, after: Policy::default().attempt_timeout };
    assert_eq!(key_of(|p| p.hedge = hedge), "hedge.after");
    assert_eq!(key_of(|p| p.breaker.failure_ratio = 0.0), "breaker.failure_ratio");
    assert_eq!(key_of(|p| p.breaker.min_calls = 0), "breaker.min_calls");
    assert_eq!(key_of(|p| p.breaker.window = ZERO), "breaker.window");
    assert_eq!(key_of(|p| p.breaker.window_calls = Some(0)), "breaker.window_calls");
    assert_eq!(key_of(|p| p.breaker.window_calls = Some(9)), "breaker.window_calls");
    assert_eq!(key_of(|p| p.breaker.window_calls = Some(10_001)), "breaker.window_calls");
    assert_eq!(key_of(|p| p.breaker.slow_call = Some(ZERO)), "breaker.slow_call");
    assert_eq!(key_of(|p| p.breaker.max_open_for = ZERO), "breaker.max_open_for");
}

#[test]
fn r16_a_policy_is_read_from_text_with_units() {
    let text =
        "total_timeout = \"5m\"\nretry.base_delay = \"500ms\"\nbreaker.open_for = \"1m 30s\"";
    let policy: Policy = toml::from_str(text).unwrap();
    assert_eq!(policy.total_timeout, Duration::from_secs(300));
    assert_eq!(policy.retry.base_delay, Some(Duration::from_millis(500)));
    assert_eq!(policy.breaker.open_for, Duration::from_secs(90));
    assert_eq!(policy.attempt_timeout, Policy::default().attempt_timeout);
    let written = toml::to_string(&policy).unwrap();
    assert_eq!(toml::from_str::<Policy>(&written).unwrap(), policy);
}

#[test]
fn r16_unknown_keys_and_bare_numbers_are_refused() {
    for text in
        ["totl_timeout = \"5m\"", "retry.tries = 3", "breaker.open = \"1s\"", "total_timeout = 5"]
    {
        assert!(toml::from_str::<Policy>(text).is_err(), "{text}");
    }
}
