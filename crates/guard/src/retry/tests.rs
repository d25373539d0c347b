use proptest::prelude::*;

use super::*;
use crate::breaker::Closure;

use ErrorClass as C;

const ALL: [ErrorClass; 17] = [
    C::Connection,
    C::Timeout,
    C::RateLimited,
    C::QuotaExhausted,
    C::Unavailable,
    C::Server,
    C::Malformed,
    C::Authentication,
    C::Permission,
    C::InvalidRequest,
    C::NotFound,
    C::Conflict,
    C::ContextTooLong,
    C::Refused,
    C::Cancelled,
    C::OutcomeUnknown,
    C::Internal,
];

fn ended(class: ErrorClass, effect: Effect) -> Ended {
    Ended { class, effect, retry_after: None, attempts: 1, began: Instant::now() }
}

/// No cooldown, and a closed breaker.
fn clear() -> Outlook {
    Outlook { quiet: Duration::ZERO, closure: Closure::None }
}

fn again(ended: Ended, policy: &RetryPolicy) -> bool {
    let now = Instant::now();
    let deadline = now + Duration::from_secs(3600);
    matches!(ended.decide(policy, &clear(), now, deadline, |_| 0), Decision::Again(_))
}

#[test]
fn r7_reads_and_idempotent_writes_are_retried_for_exactly_the_transient_classes() {
    let transient =
        [C::Connection, C::Timeout, C::RateLimited, C::Unavailable, C::Server, C::Malformed];
    for class in ALL {
        for effect in [Effect::Read, Effect::Idempotent] {
            let retried = again(ended(class, effect), &RetryPolicy::default());
            assert_eq!(retried, transient.contains(&class), "{class:?} {effect:?}");
        }
    }
}

#[test]
fn r7_a_once_effect_is_retried_only_where_it_cannot_have_taken_place() {
    for class in ALL {
        let ended = ended(class, Effect::Once);
        let safe = matches!(class, C::Connection | C::RateLimited | C::Unavailable);
        let unknown = matches!(class, C::Timeout | C::Server | C::Malformed | C::OutcomeUnknown);
        assert_eq!(again(ended, &RetryPolicy::default()), safe, "{class:?}");
        assert_eq!(ended.outcome_unknown(), unknown, "{class:?}");
    }
}

#[test]
fn r10_each_class_has_its_verdict() {
    let now = Instant::now();
    for class in ALL {
        let expected = match class {
            C::Connection | C::Timeout | C::Unavailable | C::Server | C::Malformed => {
                Verdict::Failure
            }
            C::OutcomeUnknown => Verdict::Unknown,
            C::RateLimited | C::QuotaExhausted => Verdict::Throttled { until: None },
            _ => Verdict::Neutral,
        };
        assert_eq!(ended(class, Effect::Read).verdict(now), expected, "{class:?}");
    }
    let wait = Duration::from_secs(7);
    let limited = Ended { retry_after: Some(wait), ..ended(C::RateLimited, Effect::Read) };
    assert_eq!(limited.verdict(now), Verdict::Throttled { until: Some(now + wait) });
}

#[test]
fn r8_retry_after_is_obeyed_up_to_its_limit_and_handed_on_beyond() {
    let (policy, now) = (RetryPolicy::default(), Instant::now());
    let deadline = now + Duration::from_secs(60);
    let at =
        |wait: Duration| Ended { retry_after: Some(wait), ..ended(C::RateLimited, Effect::Read) };
    let limit = policy.max_retry_after;
    let decide = |wait| at(wait).decide(&policy, &clear(), now, deadline, |_| 0);
    assert_eq!(decide(limit), Decision::Again(now + limit));
    let longer = limit + Duration::from_nanos(1);
    assert_eq!(decide(longer), Decision::Later(longer));
    assert_eq!(decide(Duration::MAX), Decision::Later(Duration::MAX));
}

#[test]
fn r8_a_cooldown_is_slept_out_before_a_retry_up_to_the_same_limit_as_a_retry_after() {
    let (policy, now) = (RetryPolicy::default(), Instant::now());
    let limit = policy.max_retry_after;
    let decide = |quiet: Duration, retry_after, attempts| {
        let ended = Ended { retry_after, attempts, ..ended(C::Server, Effect::Read) };
        let outlook = Outlook { quiet, ..clear() };
        ended.decide(&policy, &outlook, now, now + Duration::from_secs(60), |_| 0)
    };
    assert_eq!(decide(limit, None, 1), Decision::Again(now + limit));
    // whichever is longer counts
    let (short, long) = (Duration::from_secs(5), Duration::from_secs(20));
    assert_eq!(decide(short, Some(long), 1), Decision::Again(now + long));
    assert_eq!(decide(long, Some(short), 1), Decision::Again(now + long));
    assert_eq!(decide(limit * 2, None, 1), Decision::Later(limit * 2));
    assert_eq!(decide(limit * 3, Some(limit * 2), 1), Decision::Later(limit * 3));
    // a call that has used up its retries failed of its own accord
    assert_eq!(decide(limit * 2, None, 4), Decision::Stop);
}

#[test]
fn r10_nobody_sleeps_towards_a_breaker_that_will_still_be_open() {
    let (policy, now) = (RetryPolicy::default(), Instant::now());
    let open_for = Duration::from_secs(10);
    let outlook = Outlook { closure: Closure::Until(now + open_for), ..clear() };
    let decide = |wait| {
        let ended = Ended { retry_after: Some(wait), ..ended(C::Unavailable, Effect::Read) };
        ended.decide(&policy, &outlook, now, now + Duration::from_secs(60), |_| 0)
    };
    assert_eq!(decide(open_for - Duration::from_nanos(1)), Decision::Stop);
    assert_eq!(decide(open_for), Decision::Again(now + open_for));
    let forced = Outlook { closure: Closure::Forced, ..clear() };
    let ended = Ended { retry_after: Some(open_for), ..ended(C::Unavailable, Effect::Read) };
    let decision = ended.decide(&policy, &forced, now, now + open_for * 9, |_| 0);
    assert_eq!(decision, Decision::Stop);
}

#[test]
fn r7_the_fourth_failure_is_the_last_and_zero_retries_means_one_attempt() {
    let policy = RetryPolicy::default();
    for attempts in 1..=5 {
        let ended = Ended { attempts, ..ended(C::Server, Effect::Read) };
        assert_eq!(again(ended, &policy), attempts <= 3, "{attempts}");
    }
    let none = RetryPolicy { max_retries: Some(0), ..policy };
    assert!(!again(ended(C::Server, Effect::Read), &none));
}

#[test]
fn r8_each_class_has_its_own_number_of_retries_and_first_step() {
    let policy = RetryPolicy { max_delay: Duration::from_secs(100), ..RetryPolicy::default() };
    let (now, far) = (Instant::now(), Duration::from_secs(3600));
    for (class, retries, base_ms) in [
        (C::Connection, 5, 500),
        (C::RateLimited, 3, 10_000),
        (C::Unavailable, 4, 2_000),
        (C::Server, 3, 1_000),
        (C::Timeout, 3, 1_000),
        (C::Malformed, 3, 1_000),
    ] {
        for attempts in 1..=7 {
            let ended = Ended { attempts, ..ended(class, Effect::Read) };
            let decision = ended.decide(&policy, &clear(), now, now + far, |longest| longest);
            let wait = Duration::from_millis(base_ms * (1 << (attempts - 1))).min(policy.max_delay);
            let expected =
                if attempts <= retries { Decision::Again(now + wait) } else { Decision::Stop };
            assert_eq!(decision, expected, "{class:?} {attempts}");
        }
    }
    assert!(!again(ended(C::Authentication, Effect::Read), &policy));
    assert!(!again(ended(C::QuotaExhausted, Effect::Read), &policy));
}

#[test]
fn r7_no_attempt_begins_after_max_elapsed() {
    let limit = Duration::from_secs(5);
    let policy = RetryPolicy { max_elapsed: Some(limit), ..RetryPolicy::default() };
    let began = Instant::now();
    let (now, far) = (began + Duration::from_secs(2), Duration::from_secs(3600));
    let decide = |wait| {
        let ended = Ended { retry_after: Some(wait), began, ..ended(C::Server, Effect::Read) };
        ended.decide(&policy, &clear(), now, now + far, |_| 0)
    };
    assert_eq!(decide(Duration::from_secs(3)), Decision::Again(began + limit));
    assert_eq!(decide(Duration::from_millis(3001)), Decision::Stop);
}

proptest! {
    #[test]
    fn r7_no_wait_leaves_its_bounds_or_reaches_the_deadline(
        base_ms in 0_u64..5_000,
        more_ms in 0_u64..60_000,
        attempts in 1_u32..80,
        left_ms in 0_u64..60_000,
        fraction in 0.0_f64..=1.0,
    ) {
        let base = Duration::from_millis(base_ms);
        let cap = base + Duration::from_millis(more_ms);
        let policy = RetryPolicy {
            max_delay: cap,
            ..RetryPolicy::alike(100, base)
        };
        let now = Instant::now();
        let deadline = now + Duration::from_millis(left_ms);
        let ended = Ended { attempts, ..ended(C::Connection, Effect::Once) };
        let longest = (u128::from(base_ms) << (attempts - 1).min(60)).min(cap.as_millis());
        let mut drawn_from = None;
        let decision = ended.decide(&policy, &clear(), now, deadline, |max| {
            drawn_from = Some(u128::from(max));
            Duration::from_nanos(max).mul_f64(fraction).as_nanos().try_into().unwrap()
        });
        prop_assert_eq!(drawn_from, Some(longest * 1_000_000));
        match decision {
            Decision::Again(at) => prop_assert!(at < deadline && at - now <= cap),
            Decision::Stop => {
                let wait = Duration::from_nanos(u64::try_from(longest * 1_000_000).unwrap());
                prop_assert!(now + wait.mul_f64(fraction) >= deadline);
            }
            Decision::Later(_) | Decision::NoBudget => prop_assert!(false, "{decision:?}"),
        }
    }
}
