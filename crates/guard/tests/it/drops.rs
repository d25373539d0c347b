//! Dropping a call at any poll gives everything back.

use std::pin::Pin;

use futures_util::stream;
use steadfast_guard::HedgePolicy;
use tokio::time::{advance, sleep};

use super::*;

/// Polls up to `k` times while time passes, then drops. Whether the call ended before.
async fn drop_at<F: Future>(mut call: Pin<Box<F>>, k: usize) -> bool {
    for _ in 0..k {
        if futures_util::poll!(call.as_mut()).is_ready() {
            return true;
        }
        advance(Duration::from_millis(300)).await;
    }
    false
}

/// Drops a call at every poll, with the permit free and with others before and behind it in the queue.
async fn check<F: Future>(start: impl Fn(Guard) -> F) {
    for k in 0..200_usize {
        let guard = guard(Policy { concurrency: 1, queue: 8, ..retrying() });
        let other = |guard: Guard| async move {
            let operation = |_| async {
                sleep(secs(1)).await;
                Ok::<_, Broken>(())
            };
            guard.call(READ, operation).await
        };
        let mut running = Box::pin(other(guard.clone()));
        assert!(futures_util::poll!(running.as_mut()).is_pending());
        let mut call = Box::pin(start(guard.clone()));
        let mut ended = k > 0 && futures_util::poll!(call.as_mut()).is_ready();
        let mut behind = Box::pin(other(guard.clone()));
        assert!(futures_util::poll!(behind.as_mut()).is_pending());
        advance(secs(1)).await;
        running.await.unwrap();
        ended = ended || drop_at(call, k.saturating_sub(1)).await;
        behind.await.unwrap();
        let snapshot = guard.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.queued), (0, 0), "after poll {k}");
        assert_eq!(snapshot.counters.total, 2 + u64::from(ended), "after poll {k}");
        guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap();
        if ended {
            assert!(k > 2, "the call must have waited");
            return;
        }
    }
    panic!("the call never ended");
}

#[tokio::test(start_paused = true)]
async fn r1_dropping_a_call_at_every_poll_leaks_nothing() {
    check(|guard| async move {
        let operation = |attempt: steadfast_guard::Attempt| async move {
            sleep(Duration::from_millis(500)).await;
            if attempt.number < 3 { Err(broken(ErrorClass::Unavailable)) } else { Ok(()) }
        };
        guard.call(READ, operation).await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn r1_dropping_a_gathered_stream_at_every_poll_leaks_nothing() {
    check(|guard| async move {
        let open = |attempt: steadfast_guard::Attempt| async move {
            Ok::<_, Broken>(Box::pin(stream::unfold(0_u32, move |n| async move {
                sleep(Duration::from_millis(400)).await;
                (attempt.number > 1 || n < 2).then_some((Ok(n), n + 1))
            })))
        };
        guard.gather(READ, open, |n| (n == 3).then_some(n)).await
    })
    .await;
}

/// The guard under test, with hedges.
fn with_hedges(guard: &Guard) {
    let hedge = HedgePolicy { enabled: true, after: Duration::from_millis(700) };
    let policy = Policy { concurrency: 3, hedge, ..(*guard.policy()).clone() };
    guard.replace_policy(policy).unwrap();
}

#[tokio::test(start_paused = true)]
async fn r1_dropping_a_hedged_call_at_every_poll_leaks_nothing() {
    check(|guard| async move {
        with_hedges(&guard);
        let operation = |attempt: steadfast_guard::Attempt| async move {
            sleep(Duration::from_millis(2_000)).await;
            if attempt.number < 5 { Err(broken(ErrorClass::Unavailable)) } else { Ok(()) }
        };
        guard.call(READ, operation).await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn r1_dropping_a_hedged_stream_at_every_poll_leaks_nothing() {
    check(|guard| async move {
        with_hedges(&guard);
        let open = |attempt: steadfast_guard::Attempt| async move {
            Ok::<_, Broken>(Box::pin(stream::unfold(0_u32, move |n| async move {
                sleep(Duration::from_millis(1_500)).await;
                (attempt.number > 2 || n < 1).then_some((Ok(n), n + 1))
            })))
        };
        guard.gather(READ, open, |n| (n == 2).then_some(n)).await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn r1_guarded_futures_may_move_between_threads() {
    fn check<T: Send>(value: T) -> T {
        value
    }
    let guard = guard(single());
    check(guard.call(READ, |_| async { Ok::<_, Broken>(()) })).await.unwrap();
    let open = |_| async { Ok::<_, Broken>(stream::iter([Ok(1)])) };
    check(guard.gather(READ, open, Some)).await.unwrap();
}
