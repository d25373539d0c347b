//! Faults that a policy injects on purpose.

use futures_util::{StreamExt, stream};
use steadfast_guard::{CallError, ChaosPolicy, TimeoutLayer};
use tokio::time::{Instant, sleep};

use super::*;

fn chaotic(chaos: ChaosPolicy) -> Guard {
    guard(Policy { chaos, ..single() })
}

fn off() -> ChaosPolicy {
    ChaosPolicy::default()
}

#[tokio::test(start_paused = true)]
async fn an_injected_error_does_not_reach_the_dependency_and_counts_like_a_real_one() {
    let class = ErrorClass::Server;
    let chaos = ChaosPolicy { error: 1.0, error_class: class, ..off() };
    let (guard, reached) = (chaotic(chaos), Reached::default());
    let operation = |_| {
        reached.hit();
        async { Ok::<_, Broken>(()) }
    };
    let error = guard.call(READ, operation).await.unwrap_err();
    assert!(matches!(error, CallError::Injected { class: ErrorClass::Server, .. }), "{error}");
    assert!(error.to_string().contains("chaos"), "{error}");
    assert_eq!((error.class(), reached.count()), (ErrorClass::Server, 0));
    let unknown = guard.call(ONCE, operation).await.unwrap_err();
    assert_eq!(unknown.class(), ErrorClass::OutcomeUnknown, "as a real one would be");
    assert_eq!(guard.snapshot().consecutive_failures, 2);
    let explained = guard.explain();
    assert!(guard.snapshot().drill && explained.contains("FAULTS ARE INJECTED"), "{explained}");
}

#[tokio::test(start_paused = true)]
async fn an_injected_error_is_retried_like_a_real_one() {
    let chaos = ChaosPolicy { error: 1.0, ..off() };
    let retry = RetryPolicy::alike(2, secs(1));
    let guard = guard(Policy { chaos, retry, ..retrying() });
    let error = guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap_err();
    assert_eq!((error.attempts(), error.class()), (3, ErrorClass::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn injected_latency_lies_inside_the_attempts_timer() {
    let chaos = ChaosPolicy { latency: 1.0, latency_for: secs(5), ..off() };
    let (guard, start) = (chaotic(chaos), Instant::now());
    guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap();
    assert_eq!(start.elapsed(), secs(5));
    let short = Policy { attempt_timeout: secs(3), ..(*guard.policy()).clone() };
    guard.replace_policy(short).unwrap();
    let error = guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { layer: TimeoutLayer::Attempt, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_injected_stall_ends_at_the_limit_that_a_real_one_would() {
    let guard = chaotic(ChaosPolicy { stall: 1.0, ..off() });
    let start = Instant::now();
    let error = guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap_err();
    assert_eq!((error.class(), start.elapsed()), (ErrorClass::Timeout, secs(60)));
    assert!(matches!(error, CallError::Injected { .. }), "{error}");
    let quick = Policy { first_item_timeout: secs(7), ..(*guard.policy()).clone() };
    guard.replace_policy(quick).unwrap();
    let (open, start) = (|_| async { Ok::<_, Broken>(stream::iter([Ok(1)])) }, Instant::now());
    let error = guard.stream(READ, open, |_| true).await.err().unwrap();
    assert_eq!((error.class(), start.elapsed()), (ErrorClass::Timeout, secs(7)));
    assert_eq!(guard.snapshot().counters.timeout, 2);
}

#[tokio::test(start_paused = true)]
async fn an_injected_cut_loses_the_answer_after_the_dependency_gave_it() {
    let (guard, reached) = (chaotic(ChaosPolicy { cut: 1.0, ..off() }), Reached::default());
    let operation = |_| {
        reached.hit();
        async { Ok::<_, Broken>(()) }
    };
    let error = guard.call(ONCE, operation).await.unwrap_err();
    assert_eq!((error.class(), reached.count()), (ErrorClass::OutcomeUnknown, 1));
    let open = |_| async { Ok::<_, Broken>(stream::iter([1, 2, 3].map(Ok))) };
    let error = guard.gather(READ, open, |n| (n == 3).then_some(n)).await.unwrap_err();
    assert!(matches!(error, CallError::Injected { .. }), "{error}");
    guard.auto();
    for last in [1, 3] {
        guard.force_closed();
        let items = guard.stream(READ, open, |item| *item == last).await.unwrap();
        let seen: Vec<_> = items.collect().await;
        assert!(matches!(seen.as_slice(), [Ok(1), Err(CallError::Injected { .. })]), "{seen:?}");
    }
    assert_eq!(guard.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_attempts_meets_the_fault() {
    let chaos = ChaosPolicy { error: 0.3, ..off() };
    let guard = guard(Policy { chaos, ..retrying() });
    guard.force_closed();
    let retry = RetryPolicy::alike(0, Duration::ZERO);
    guard.replace_policy(Policy { retry, ..(*guard.policy()).clone() }).unwrap();
    let mut failed = 0;
    for _ in 0..2_000 {
        let ended = guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await;
        failed += u32::from(ended.is_err());
    }
    // 600 expected, standard deviation 20: ten of them either side
    assert!((400..800).contains(&failed), "{failed}");
    guard.replace_policy(retrying()).unwrap();
    assert!(!guard.snapshot().drill && !guard.explain().contains("INJECTED"));
    sleep(secs(1)).await;
}
