//! Streams: opening and reading is one attempt, under its limits.

use futures_util::{FutureExt, Stream, StreamExt, stream};
use steadfast_guard::{CallError, TimeoutLayer};
use tokio::time::{Instant, sleep};

use super::*;

/// Numbers from 0, the n-th after `pause(n)`; ends after `len`.
fn numbers(
    len: u64,
    pause: impl Fn(u64) -> Duration + Copy,
) -> impl Stream<Item = Result<u64, Broken>> + Unpin {
    Box::pin(stream::iter(0..len).then(move |n| async move {
        sleep(pause(n)).await;
        Ok(n)
    }))
}

fn timeout<T: std::fmt::Debug>(ended: Result<T, CallError<Broken>>) -> (TimeoutLayer, Duration) {
    match ended.unwrap_err() {
        CallError::TimedOut { layer, limit, .. } => (layer, limit),
        other => panic!("not a timeout: {other}"),
    }
}

fn limits() -> Policy {
    Policy { first_item_timeout: secs(20), idle_timeout: secs(5), ..single() }
}

#[tokio::test(start_paused = true)]
async fn r3_a_stream_that_opens_and_says_nothing_is_cut_at_the_first_item_limit() {
    let start = Instant::now();
    let open = |_| async { Ok(numbers(1, |_| secs(1000))) };
    let ended = guard(limits()).gather(READ, open, Some).await;
    assert_eq!(timeout(ended), (TimeoutLayer::FirstItem, secs(20)));
    assert_eq!(start.elapsed(), secs(20));
}

#[tokio::test(start_paused = true)]
async fn r3_a_stream_that_never_opens_is_cut_at_the_first_item_limit() {
    let open = |_| async {
        sleep(secs(1000)).await;
        Ok(numbers(1, |_| secs(0)))
    };
    let ended = guard(limits()).gather(READ, open, Some).await;
    assert_eq!(timeout(ended), (TimeoutLayer::FirstItem, secs(20)));
}

#[tokio::test(start_paused = true)]
async fn r3_a_stream_that_stalls_is_cut_at_the_idle_limit_counted_from_the_last_item() {
    let start = Instant::now();
    let open = |_| async { Ok(numbers(9, |n| if n < 4 { secs(4) } else { secs(1000) })) };
    let ended = guard(limits()).gather(READ, open, |n| (n == 8).then_some(())).await;
    assert_eq!(timeout(ended), (TimeoutLayer::Idle, secs(5)));
    assert_eq!(start.elapsed(), secs(4 * 4 + 5));
}

#[tokio::test(start_paused = true)]
async fn r3_a_stream_that_trickles_for_ever_is_cut_at_the_attempt_limit() {
    let start = Instant::now();
    let open = |_| async { Ok(numbers(u64::MAX, |_| secs(4))) };
    let ended = guard(limits()).gather(READ, open, |_| None::<()>).await;
    assert_eq!(timeout(ended), (TimeoutLayer::Attempt, secs(60)));
    assert_eq!(start.elapsed(), secs(60));
}

#[tokio::test(start_paused = true)]
async fn r7_stalled_and_cut_streams_are_failures_and_are_read_again_from_the_start() {
    let policy = Policy { retry: RetryPolicy::default(), ..limits() };
    let (guard, reached) = (guard(policy), Reached::default());
    let seen = std::cell::RefCell::new(Vec::new());
    let open = |attempt: steadfast_guard::Attempt| {
        reached.hit();
        seen.borrow_mut().clear();
        async move {
            let (len, stalls) = match attempt.number {
                1 => (9, true),
                2 => (2, false),
                _ => (4, false),
            };
            Ok(numbers(len, move |n| if stalls && n == 2 { secs(1000) } else { secs(1) }))
        }
    };
    let take = |n| {
        seen.borrow_mut().push(n);
        (n == 3).then(|| seen.take())
    };
    let answer = guard.gather(READ, open, take).await.unwrap();
    assert_eq!((answer.value, answer.report.attempts), (vec![0, 1, 2, 3], 3));
    assert_eq!((reached.count(), guard.snapshot().in_flight), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn r11_a_write_whose_answer_is_cut_has_an_unknown_outcome_and_is_not_repeated() {
    let (guard, reached) = (guard(retrying()), Reached::default());
    let open = |_| {
        reached.hit();
        async { Ok(numbers(2, |_| secs(1))) }
    };
    let error = guard.gather(ONCE, open, |_| None::<()>).await.unwrap_err();
    assert!(matches!(error, CallError::Cut { attempts: 1, outcome_unknown: true, .. }), "{error}");
    assert_eq!((error.class(), reached.count()), (ErrorClass::OutcomeUnknown, 1));
    assert_eq!(guard.snapshot().consecutive_failures, 1);
}

#[tokio::test(start_paused = true)]
async fn r3_a_stream_that_is_always_ready_is_cut_at_the_attempt_limit_too() {
    let start = Instant::now();
    let open = |_| async {
        Ok(stream::iter(0..1000).map(|n| {
            // the first poll moves the clock: a second passes with each item, and nothing is waited for
            assert!(tokio::time::advance(secs(1)).now_or_never().is_none());
            Ok(n)
        }))
    };
    let ended = guard(single()).gather(READ, open, |_| None::<()>).await;
    assert_eq!(timeout(ended), (TimeoutLayer::Attempt, secs(60)));
    assert_eq!(start.elapsed(), secs(60));
}
