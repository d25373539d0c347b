//! What moves the breaker, and what it admits.

use std::future::pending;

use futures_util::future::join_all;
use steadfast_guard::{BreakerState, CallError, Rejection};
use tokio::sync::Notify;
use tokio::time::{Instant, advance};

use super::*;

#[tokio::test(start_paused = true)]
async fn r10_a_thousand_concurrent_callers_in_half_open_reach_the_dependency_once() {
    let (guard, reached) = (guard(single()), Reached::default());
    fail(&guard, 3).await;
    advance(secs(30)).await;
    let ended = join_all((0..1000).map(|_| {
        guard.call(READ, |_| {
            reached.hit();
            async {
                tokio::time::sleep(secs(1)).await;
                Ok::<_, Broken>(())
            }
        })
    }))
    .await;
    assert_eq!(reached.count(), 1);
    assert_eq!(ended.iter().filter(|end| end.is_ok()).count(), 1);
    assert_eq!(guard.snapshot().breaker, BreakerState::Closed);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the race needs tasks on several threads")]
fn r10_threads_that_race_into_half_open_reach_the_dependency_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        for _ in 0..20 {
            let policy = Policy {
                breaker: BreakerPolicy { open_for: Duration::ZERO, ..BreakerPolicy::default() },
                ..single()
            };
            let (guard, reached) = (guard(policy), Reached::default());
            fail(&guard, 3).await;
            let done = Arc::new(Notify::new());
            let calls: Vec<_> = (0..100)
                .map(|_| {
                    let (guard, reached, done) =
                        (guard.clone(), reached.clone(), Arc::clone(&done));
                    tokio::spawn(async move {
                        let operation = |_| {
                            reached.hit();
                            let done = Arc::clone(&done);
                            async move {
                                done.notified().await;
                                Ok::<_, Broken>(())
                            }
                        };
                        guard.call(READ, operation).await.is_ok()
                    })
                })
                .collect();
            while guard.snapshot().counters.rejected < 99 {
                tokio::task::yield_now().await;
            }
            done.notify_one();
            let answers = join_all(calls).await;
            assert_eq!(answers.into_iter().filter(|ok| *ok.as_ref().unwrap()).count(), 1);
            assert_eq!(reached.count(), 1);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn r10_a_stale_success_cannot_close() {
    let guard = guard(single());
    let release = Notify::new();
    let slow = guard.call(READ, |_| async {
        release.notified().await;
        Ok::<_, Broken>(())
    });
    let mut slow = Box::pin(slow);
    assert!(futures_util::poll!(slow.as_mut()).is_pending());
    fail(&guard, 3).await;
    release.notify_one();
    slow.await.unwrap();
    assert_eq!(guard.snapshot().breaker, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn r10_hung_calls_open_the_breaker() {
    let guard = guard(single());
    for _ in 0..3 {
        let ended = guard.call(READ, |_| pending::<Result<(), Broken>>()).await;
        assert!(matches!(ended, Err(CallError::TimedOut { .. })));
    }
    let snapshot = guard.snapshot();
    assert_eq!(snapshot.breaker, BreakerState::Open);
    assert_eq!(snapshot.next_probe_in_ms, Some(30_000));
    assert_eq!(snapshot.counters.timeout, 3);
    assert!(guard.explain().contains("next probe in 30s"), "{}", guard.explain());
}

#[tokio::test(start_paused = true)]
async fn r10_local_refusals_never_count() {
    let guard = guard(Policy { concurrency: 1, queue: 0, ..single() });
    let mut running = Box::pin(guard.call(READ, |_| pending::<Result<(), Broken>>()));
    assert!(futures_util::poll!(running.as_mut()).is_pending());
    for _ in 0..10 {
        let ended = guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await;
        assert!(matches!(
            ended,
            Err(CallError::Rejected { reason: Rejection::QueueFull { .. }, .. })
        ));
    }
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.breaker, snapshot.consecutive_failures), (BreakerState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn r10_a_failed_probe_opens_again_and_a_dropped_one_frees_its_slot() {
    let guard = guard(single());
    fail(&guard, 3).await;
    advance(secs(30)).await;
    fail(&guard, 1).await;
    assert_eq!(guard.snapshot().breaker, BreakerState::Open);
    advance(secs(59)).await;
    assert_eq!(guard.snapshot().breaker, BreakerState::Open, "for twice as long");
    advance(secs(1)).await;
    let mut probe = Box::pin(guard.call(READ, |_| pending::<Result<(), Broken>>()));
    assert!(futures_util::poll!(probe.as_mut()).is_pending());
    let before = guard.snapshot();
    drop(probe);
    let after = guard.snapshot();
    assert_eq!((after.breaker, after.in_flight), (BreakerState::HalfOpen, 0));
    assert_eq!(after.counters, before.counters);
    guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap();
    assert_eq!(guard.snapshot().breaker, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn r10_an_operator_opens_and_closes_it_by_hand_and_a_new_policy_keeps_its_state() {
    let guard = guard(single());
    let ask = || guard.call(READ, |_| async { Ok::<_, Broken>(()) });
    guard.force_open();
    assert!(ask().await.is_err());
    guard.force_closed();
    fail(&guard, 10).await;
    ask().await.unwrap();
    guard.auto();
    fail(&guard, 3).await;
    guard.replace_policy(Policy { concurrency: 7, ..single() }).unwrap();
    assert_eq!((guard.snapshot().breaker, guard.policy().concurrency), (BreakerState::Open, 7));
    guard.replace_policy(Policy { concurrency: 0, ..single() }).unwrap_err();
    assert_eq!(guard.policy().concurrency, 7);
}

#[tokio::test(start_paused = true)]
async fn r17_a_snapshot_is_data() {
    let guard = guard(single());
    fail(&guard, 2).await;
    let json = serde_json::to_value(guard.snapshot()).unwrap();
    assert_eq!(json["name"], "dependency");
    assert_eq!(json["breaker"], "closed");
    assert_eq!(json["consecutive_failures"], 2);
    assert_eq!(json["counters"]["error"], 2);
}

#[tokio::test(start_paused = true)]
async fn r10_a_callers_short_deadline_says_nothing_about_the_dependency() {
    let guard = guard(single());
    for _ in 0..10 {
        let hasty = READ.with_deadline(Instant::now() + secs(1));
        let hung = guard.call(hasty, |_| pending::<Result<(), Broken>>());
        assert!(matches!(hung.await, Err(CallError::TimedOut { .. })));
    }
    assert_eq!(guard.snapshot().breaker, BreakerState::Closed);
    assert_eq!(guard.snapshot().consecutive_failures, 0);
    // with the time that the policy gives, the same hang is its fault
    for _ in 0..3 {
        let patient = READ.with_deadline(Instant::now() + secs(3600));
        let hung = guard.call(patient, |_| pending::<Result<(), Broken>>());
        assert!(matches!(hung.await, Err(CallError::TimedOut { .. })));
    }
    assert_eq!(guard.snapshot().breaker, BreakerState::Open);
}
