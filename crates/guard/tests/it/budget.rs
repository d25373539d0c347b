//! How many calls may be retrying at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use steadfast_guard::RetryBudget;
use tokio::time::sleep;

use super::*;

fn policy(budget: RetryBudget) -> Policy {
    Policy {
        concurrency: 2000,
        retry: RetryPolicy { budget, ..RetryPolicy::alike(3, secs(1)) },
        ..retrying()
    }
}

/// The defect of a budget that does not count the sleeping: all of 1 000 failing calls retry at once.
#[tokio::test(start_paused = true)]
async fn r7_of_a_thousand_failing_calls_a_fifth_retries_the_sleeping_included() {
    let guard = guard(policy(RetryBudget::default()));
    let (out, most, hits) = (AtomicUsize::new(0), AtomicUsize::new(0), Reached::default());
    let calls = (0..1000).map(|_| {
        guard.call(READ, |attempt| {
            hits.hit();
            if attempt.number > 1 {
                most.fetch_max(out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            }
            let out = &out;
            async move {
                sleep(secs(1)).await;
                if attempt.number > 1 {
                    out.fetch_sub(1, Ordering::SeqCst);
                }
                Err::<(), _>(broken(ErrorClass::Server))
            }
        })
    });
    join_all(calls).await;
    let snapshot = guard.snapshot();
    assert!(most.load(Ordering::SeqCst) <= 200, "{most:?} retried at once");
    assert!(hits.count() > 1000, "some are retried");
    assert_eq!(snapshot.counters.no_budget + snapshot.counters.retry / 3, 1000);
    assert_eq!(snapshot.retrying, 0, "every place is given back");
}

#[tokio::test(start_paused = true)]
async fn r7_a_few_calls_may_always_retry_and_a_budget_of_nothing_stops_all() {
    for (budget, expected) in [
        (RetryBudget { ratio: 0.0, floor: 2 }, 2),
        (RetryBudget { ratio: 0.0, floor: 0 }, 0),
        (RetryBudget { ratio: 1.0, floor: 0 }, 6),
    ] {
        let guard = guard(policy(budget));
        let calls = (0..6).map(|_| {
            guard.call(READ, |attempt| async move {
                sleep(secs(1)).await;
                if attempt.number == 1 { Err(broken(ErrorClass::Server)) } else { Ok(()) }
            })
        });
        let done = join_all(calls).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(done, expected, "{budget:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r7_a_retry_that_is_dropped_in_its_sleep_gives_its_place_back() {
    let guard = guard(policy(RetryBudget { ratio: 0.0, floor: 1 }));
    let failing = || guard.call(READ, |_| async { Err::<(), _>(broken(ErrorClass::Server)) });
    for _ in 0..3 {
        let mut call = Box::pin(failing());
        assert!(futures_util::poll!(call.as_mut()).is_pending());
        assert_eq!(guard.snapshot().retrying, 1);
        drop(call);
        assert_eq!(guard.snapshot().retrying, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn r13_fallbacks_take_places_of_retries_and_are_never_refused_one() {
    let guard = guard(policy(RetryBudget { ratio: 0.0, floor: 2 }));
    let fails_once = |attempt: steadfast_guard::Attempt| async move {
        if attempt.number == 1 { Err(broken(ErrorClass::Server)) } else { Ok(()) }
    };
    let elsewhere: Vec<_> = (0..5).map(|_| guard.fall_back()).collect();
    assert_eq!(guard.snapshot().retrying, 5);
    guard.call(READ, fails_once).await.unwrap_err();
    assert_eq!(guard.snapshot().counters.no_budget, 1);
    drop(elsewhere);
    guard.call(READ, fails_once).await.unwrap();
    assert_eq!(guard.snapshot().retrying, 0);
}
