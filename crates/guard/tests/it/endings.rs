//! How calls end: deadlines, retries, and which error says so.

use std::future::pending;

use steadfast_guard::{CallError, Rejection, TimeoutLayer};
use tokio::time::{Instant, sleep};

use super::*;

fn layer<T: std::fmt::Debug>(
    ended: Result<T, CallError<Broken>>,
) -> (TimeoutLayer, Duration, u32, bool) {
    match ended.unwrap_err() {
        CallError::TimedOut { layer, limit, attempts, outcome_unknown, .. } => {
            (layer, limit, attempts, outcome_unknown)
        }
        other => panic!("not a timeout: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn r3_the_attempt_limit_fires_and_says_so() {
    let guard = guard(single());
    let start = Instant::now();
    let ended = guard.call(READ, |_| pending::<Result<(), _>>()).await;
    assert_eq!(layer(ended), (TimeoutLayer::Attempt, secs(60), 1, false));
    assert_eq!(start.elapsed(), secs(60));
}

#[tokio::test(start_paused = true)]
async fn r3_the_callers_deadline_cuts_the_attempt_and_is_named_as_the_total() {
    let guard = guard(retrying());
    let start = Instant::now();
    let context = READ.with_deadline(start + secs(10));
    let ended = guard.call(context, |_| pending::<Result<(), _>>()).await;
    assert_eq!(layer(ended), (TimeoutLayer::Total, secs(10), 1, false));
    assert_eq!(start.elapsed(), secs(10));
}

#[tokio::test(start_paused = true)]
async fn r3_the_total_holds_over_all_attempts_whatever_deadline_the_caller_gives() {
    let guard = guard(retrying());
    let start = Instant::now();
    let context = READ.with_deadline(start + secs(100_000));
    let ended = guard.call(context, |_| pending::<Result<(), _>>()).await;
    let (last, _, attempts, _) = layer(ended);
    assert_eq!((last, attempts), (TimeoutLayer::Total, 2));
    assert_eq!(start.elapsed(), secs(120));
}

#[tokio::test(start_paused = true)]
async fn r3_a_deadline_that_has_passed_reaches_nothing() {
    let (guard, reached) = (guard(retrying()), Reached::default());
    let context = READ.with_deadline(Instant::now());
    let ended = guard
        .call(context, |_| {
            reached.hit();
            async { Ok::<_, Broken>(()) }
        })
        .await;
    let error = ended.unwrap_err();
    assert!(matches!(error, CallError::Rejected { reason: Rejection::Deadline, .. }), "{error}");
    assert_eq!(reached.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn r7_three_retries_follow_the_first_attempt_and_the_last_error_ends_the_call() {
    let (guard, reached) = (guard(retrying()), Reached::default());
    let ended = guard
        .call(READ, |_| {
            reached.hit();
            async { Err::<(), _>(broken(ErrorClass::Server)) }
        })
        .await;
    let error = ended.unwrap_err();
    assert!(matches!(error, CallError::Failed { attempts: 4, .. }), "{error}");
    assert_eq!(reached.count(), 4);
    let counters = guard.snapshot().counters;
    assert_eq!((counters.total, counters.error, counters.retry), (1, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn r7_a_wrong_request_is_neither_retried_nor_held_against_the_dependency() {
    let (guard, reached) = (guard(Policy::default()), Reached::default());
    for _ in 0..10 {
        let ended = guard
            .call(READ, |_| {
                reached.hit();
                async { Err::<(), _>(broken(ErrorClass::InvalidRequest)) }
            })
            .await;
        assert_eq!(ended.unwrap_err().class(), ErrorClass::InvalidRequest);
    }
    assert_eq!(reached.count(), 10);
    assert_eq!(guard.snapshot().consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn r11_a_write_that_may_have_taken_effect_is_reported_as_unknown_and_not_repeated() {
    for class in [ErrorClass::Server, ErrorClass::Malformed, ErrorClass::Timeout] {
        let (guard, reached) = (guard(retrying()), Reached::default());
        let ended = guard
            .call(ONCE, |_| {
                reached.hit();
                async move { Err::<(), _>(broken(class)) }
            })
            .await;
        assert_eq!(ended.unwrap_err().class(), ErrorClass::OutcomeUnknown);
        assert_eq!(reached.count(), 1);
    }
    let guard = guard(retrying());
    let ended = guard.call(ONCE, |_| pending::<Result<(), _>>()).await;
    assert_eq!(layer(ended), (TimeoutLayer::Attempt, secs(60), 1, true));
}

#[tokio::test(start_paused = true)]
async fn r8_a_retry_after_within_the_limit_is_slept_out_to_the_second() {
    let guard = guard(retrying());
    let answer = guard
        .call(
            ONCE,
            |attempt| async move { if attempt.number == 1 { Err(limited(20)) } else { Ok(()) } },
        )
        .await
        .unwrap();
    assert_eq!((answer.report.attempts, answer.report.waited), (2, secs(20)));
}

#[tokio::test(start_paused = true)]
async fn r8_a_longer_retry_after_is_handed_to_the_caller_at_once() {
    let guard = guard(retrying());
    let start = Instant::now();
    let ended = guard.call(READ, |_| async { Err::<(), _>(limited(31)) }).await;
    let error = ended.unwrap_err();
    assert!(matches!(error, CallError::RetryLater { attempts: 1, .. }), "{error}");
    assert_eq!((error.retry_after(), start.elapsed()), (Some(secs(31)), Duration::ZERO));
    // others are refused while the cooldown lasts
    let refused = guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap_err();
    assert_eq!(refused.retry_after(), Some(secs(31)));
    assert_eq!(refused.class(), ErrorClass::RateLimited);
    assert!(guard.explain().contains("cooling down"), "{}", guard.explain());
}

#[tokio::test(start_paused = true)]
async fn r7_no_call_sleeps_past_its_deadline_it_ends_at_once_with_its_last_error() {
    let guard = guard(retrying());
    let start = Instant::now();
    let context = READ.with_deadline(start + secs(10));
    let ended = guard.call(context, |_| async { Err::<(), _>(limited(10)) }).await;
    assert!(matches!(ended, Err(CallError::Failed { attempts: 1, .. })));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn r8_an_exhausted_quota_is_not_retried() {
    let guard = guard(retrying());
    let quota = Broken { class: ErrorClass::QuotaExhausted, retry_after: None };
    let ended = guard.call(READ, |_| async { Err::<(), _>(quota.clone()) }).await;
    assert!(matches!(ended, Err(CallError::Failed { attempts: 1, .. })));
}

#[tokio::test(start_paused = true)]
async fn r10_a_breaker_that_this_call_opened_does_not_hide_its_last_error() {
    let guard = guard(Policy::default());
    let start = Instant::now();
    let ended = guard.call(READ, |_| async { Err::<(), _>(broken(ErrorClass::Server)) }).await;
    let error = ended.unwrap_err();
    assert!(matches!(error, CallError::Failed { attempts: 3, .. }), "{error}");
    assert!(start.elapsed() <= secs(3), "two backoffs, of 1 s and 2 s at most");
    let refused = guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap_err();
    assert!(matches!(
        refused,
        CallError::Rejected { reason: Rejection::BreakerOpen { .. }, attempts: 0, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn r1_no_permit_is_held_while_a_call_sleeps_between_attempts() {
    let guard = guard(Policy { concurrency: 1, queue: 0, ..retrying() });
    let sleeper = guard.call(READ, |attempt| async move {
        if attempt.number == 1 { Err(broken(ErrorClass::RateLimited)) } else { Ok(()) }
    });
    let mut sleeper = Box::pin(sleeper);
    assert!(futures_util::poll!(sleeper.as_mut()).is_pending());
    assert_eq!(guard.snapshot().in_flight, 0);
    guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap();
    assert_eq!(sleeper.await.unwrap().report.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn r2_the_queue_ends_by_its_own_limit_or_by_the_callers_deadline() {
    let guard = guard(Policy { concurrency: 1, queue_timeout: secs(5), ..single() });
    let running = guard.call(READ, |_| async {
        sleep(secs(50)).await;
        Ok::<_, Broken>(())
    });
    let mut running = Box::pin(running);
    assert!(futures_util::poll!(running.as_mut()).is_pending());
    let ask = |context| guard.call(context, |_| async { Ok::<_, Broken>(()) });
    let reason = |ended| match ended {
        Err(CallError::Rejected { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(reason(ask(READ).await), Rejection::QueueTimeout { waited: secs(5) });
    let context = READ.with_deadline(Instant::now() + secs(2));
    assert_eq!(reason(ask(context).await), Rejection::Deadline);
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.queued, snapshot.counters.rejected), (0, 2));
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn r8_a_cooldown_that_another_call_began_is_slept_out_before_a_retry() {
    let guard = guard(retrying());
    let (reached, server) = (Reached::default(), broken(ErrorClass::Server));
    let mut first = Box::pin(guard.call(READ, |_| {
        let (number, server) = (reached.hit(), server.clone());
        async move {
            sleep(secs(1)).await;
            if number == 1 { Err(server) } else { Ok(()) }
        }
    }));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let other = guard.call(READ, |_| async { Err::<(), _>(limited(20)) });
    let mut other = Box::pin(other);
    assert!(futures_util::poll!(other.as_mut()).is_pending());
    drop(other);
    let answer = first.await.unwrap();
    assert_eq!((answer.report.attempts, answer.report.waited), (2, secs(19)));
}

#[tokio::test(start_paused = true)]
async fn r8_a_cooldown_that_begins_while_a_call_sleeps_refuses_its_retry() {
    let (guard, reached) = (guard(retrying()), Reached::default());
    let mut first = Box::pin(guard.call(READ, |_| {
        reached.hit();
        async { Err::<(), _>(limited(5)) }
    }));
    let other = guard.call(READ, |_| async {
        sleep(secs(2)).await;
        Err::<(), _>(limited(20))
    });
    let mut other = Box::pin(other);
    // the other one is in flight before the first one's cooldown begins
    assert!(futures_util::poll!(other.as_mut()).is_pending());
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    sleep(secs(2)).await;
    assert!(futures_util::poll!(other.as_mut()).is_pending());
    drop(other);
    let error = first.await.unwrap_err();
    let retry_after = secs(17);
    assert!(
        matches!(&error, CallError::Rejected { reason, attempts: 1, source: Some(_), .. }
            if *reason == Rejection::Cooldown { retry_after }),
        "{error:?}"
    );
    assert_eq!((error.retry_after(), reached.count()), (Some(retry_after), 1));
    assert_eq!(
        error.to_string(),
        "`dependency` was not called again: cooling down after a rate limit, for another 17s"
    );
}

#[tokio::test(start_paused = true)]
async fn r2_a_refused_retry_is_not_retried_and_names_the_error_before() {
    let guard = guard(Policy { concurrency: 1, queue: 0, ..retrying() });
    let mut call = Box::pin(guard.call(READ, |_| async { Err::<(), _>(limited(5)) }));
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    sleep(secs(5)).await;
    let mut other = Box::pin(guard.call(READ, |_| pending::<Result<(), Broken>>()));
    assert!(futures_util::poll!(other.as_mut()).is_pending());
    match call.await.unwrap_err() {
        CallError::Rejected { reason: Rejection::QueueFull { .. }, attempts, source, .. } => {
            assert_eq!((attempts, source), (1, Some(limited(5))));
        }
        error => panic!("not refused: {error}"),
    }
    assert_eq!(guard.snapshot().counters.rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn r17_latency_is_counted_as_sum_and_as_maximum_of_the_answers() {
    let guard = guard(retrying());
    for seconds in [1, 5, 2] {
        let operation = |_| async move {
            sleep(secs(seconds)).await;
            Ok::<_, Broken>(())
        };
        guard.call(READ, operation).await.unwrap();
    }
    let counters = guard.snapshot().counters;
    assert_eq!((counters.success, counters.total), (3, 3));
    assert_eq!((counters.latency_sum_micros, counters.latency_max_micros), (8_000_000, 5_000_000));
}

#[tokio::test(start_paused = true)]
async fn r10_wrong_credentials_leave_the_breaker_closed_and_give_a_probe_slot_back() {
    use steadfast_guard::BreakerState;
    for class in [ErrorClass::Authentication, ErrorClass::Permission] {
        let guard = guard(single());
        fail(&guard, 2).await;
        let ask = || guard.call(READ, |_| async { Err::<(), _>(broken(class)) });
        ask().await.unwrap_err();
        assert_eq!(guard.snapshot().consecutive_failures, 2, "{class:?}");
        fail(&guard, 1).await;
        sleep(secs(30)).await;
        ask().await.unwrap_err();
        assert_eq!(guard.snapshot().breaker, BreakerState::HalfOpen, "{class:?}");
        guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap();
        assert_eq!(guard.snapshot().breaker, BreakerState::Closed, "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r11_a_write_of_unknown_outcome_counts_against_the_dependency() {
    let guard = guard(single());
    for _ in 0..3 {
        let ended =
            guard.call(ONCE, |_| async { Err::<(), _>(broken(ErrorClass::OutcomeUnknown)) }).await;
        assert!(matches!(ended, Err(CallError::Failed { outcome_unknown: true, .. })));
    }
    assert_eq!(guard.snapshot().breaker, steadfast_guard::BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn r3_a_call_that_comes_too_late_does_not_touch_the_breaker() {
    use steadfast_guard::BreakerState;
    let guard = guard(single());
    fail(&guard, 3).await;
    sleep(secs(30)).await;
    let late = READ.with_deadline(Instant::now());
    guard.call(late, |_| async { Ok::<_, Broken>(()) }).await.unwrap_err();
    assert_eq!((guard.snapshot().breaker, guard.snapshot().in_flight), (BreakerState::HalfOpen, 0));
    guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn r10_forcing_the_breaker_open_refuses_those_in_the_queue_too() {
    let guard = guard(Policy { concurrency: 1, ..single() });
    let mut running = Box::pin(guard.call(READ, |_| pending::<Result<(), Broken>>()));
    assert!(futures_util::poll!(running.as_mut()).is_pending());
    let mut waiting = Box::pin(guard.call(READ, |_| async { Ok::<_, Broken>(()) }));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    guard.force_open();
    let error = waiting.await.unwrap_err();
    assert!(
        matches!(error, CallError::Rejected { reason: Rejection::BreakerOpen { .. }, .. }),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_repeated_above_is_retried_as_often_as_it_says_and_no_more_than_the_policy()
{
    for (most, attempts) in [(None, 3), (Some(0), 1), (Some(1), 2), (Some(9), 3)] {
        let retry = RetryPolicy::alike(2, Duration::from_millis(1));
        let guard = Guard::new("model", Policy { retry, ..Policy::default() }).unwrap();
        let mut context = CallContext::new(Effect::Read);
        if let Some(most) = most {
            context = context.with_max_retries(most);
        }
        let down = |_| async { Err::<(), _>(std::io::Error::from(std::io::ErrorKind::TimedOut)) };
        let error = guard.call(context, down).await.unwrap_err();
        assert_eq!(error.attempts(), attempts, "{most:?}");
    }
}
