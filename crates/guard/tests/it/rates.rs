//! Priorities, tenants, and how much may leave a minute.

use std::future::{Ready, ready};
use std::sync::Mutex;

use futures_util::future::join_all;
use futures_util::{FutureExt, poll};
use steadfast_guard::{CallError, Cooldown, Priority, RatePolicy, Rejection};
use tokio::time::{Instant, sleep};

use super::*;

fn rated(requests: Option<u64>, tokens: Option<u64>) -> Policy {
    let rate = RatePolicy { requests_per_minute: requests, tokens_per_minute: tokens, burst: 1.0 };
    Policy { rate, queue_timeout: secs(600), total_timeout: secs(600), ..single() }
}

fn done() -> Ready<Result<(), Broken>> {
    ready(Ok(()))
}

#[tokio::test(start_paused = true)]
async fn r15_requests_leave_at_the_pace_that_is_allowed_and_in_order() {
    let guard = guard(rated(Some(60), None));
    let (start, left) = (Instant::now(), Mutex::new(Vec::new()));
    let calls = (0..90).map(|number| {
        let (guard, left) = (&guard, &left);
        async move {
            guard
                .call(READ, |_| async {
                    left.lock().unwrap().push((number, start.elapsed().as_secs()));
                    Ok::<_, Broken>(())
                })
                .await
                .unwrap();
        }
    });
    join_all(calls).await;
    let left = left.into_inner().unwrap();
    assert_eq!(left.iter().map(|(number, _)| *number).collect::<Vec<_>>(), Vec::from_iter(0..90));
    assert_eq!(left[59].1, 0, "a minute's share at once");
    assert_eq!((left[60].1, left[89].1), (1, 30), "then one a second");
    assert_eq!(guard.snapshot().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn r15_tokens_are_reserved_and_settled_by_what_the_answer_says() {
    let guard = guard(rated(None, Some(600)));
    let call = |reserved, used| {
        guard.call_metered(READ.with_tokens(reserved), |_| done(), move |()| Some(used))
    };
    call(600, 100).await.unwrap();
    assert_eq!(guard.snapshot().tokens_left, Some(500));
    let start = Instant::now();
    call(500, 700).await.unwrap();
    assert_eq!(start.elapsed(), secs(0));
    assert_eq!(guard.snapshot().tokens_left, Some(-200), "owed");
    call(100, 100).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 30, "300 tokens at 10 a second");
    // a call that failed before it was served costs nothing
    let failed = guard
        .call(READ.with_tokens(50), |_| async { Err::<(), _>(broken(ErrorClass::Unavailable)) });
    failed.await.unwrap_err();
    assert_eq!(guard.snapshot().tokens_left, Some(50), "waited for, and given back");
}

#[tokio::test(start_paused = true)]
async fn r15_a_call_larger_than_the_bucket_waits_and_goes() {
    let guard = guard(rated(None, Some(60)));
    guard.call(READ.with_tokens(30), |_| done()).await.unwrap();
    let start = Instant::now();
    guard.call(READ.with_tokens(1000), |_| done()).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn r15_what_would_wait_too_long_is_refused_at_once_with_the_time() {
    let policy = Policy { queue_timeout: secs(5), ..rated(Some(6), None) };
    let guard = guard(policy);
    for _ in 0..6 {
        guard.call(READ, |_| done()).await.unwrap();
    }
    let error = guard.call(READ, |_| done()).await.unwrap_err();
    let CallError::Rejected { reason: Rejection::RateLimited { retry_after }, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(retry_after.as_secs(), 10);
    assert_eq!(error.class(), ErrorClass::RateLimited);
    assert!(guard.explain().contains("requests are used up"), "{}", guard.explain());
}

/// Whoever is next in line holds the timer; when it leaves, the next one must take it over.
#[tokio::test(start_paused = true)]
async fn r2_a_dropped_head_that_waited_for_a_bucket_does_not_strand_the_others() {
    let guard = guard(rated(Some(60), None));
    for _ in 0..60 {
        guard.call(READ, |_| done()).await.unwrap();
    }
    let mut head = Box::pin(guard.call(READ, |_| done()));
    let mut next = Box::pin(guard.call(READ, |_| done()));
    assert!(poll!(head.as_mut()).is_pending() && poll!(next.as_mut()).is_pending());
    drop(head);
    let start = Instant::now();
    next.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 1);
}

/// The bucket runs empty while calls wait for a permit: they must notice when the permit comes.
#[tokio::test(start_paused = true)]
async fn r2_a_waiter_for_a_permit_that_finds_the_bucket_empty_waits_for_that() {
    let policy = Policy { concurrency: 1, ..rated(Some(60), None) };
    let guard = guard(policy);
    let start = Instant::now();
    let calls = (0..62).map(|_| {
        guard.call(READ, |_| async {
            sleep(Duration::from_millis(1)).await;
            Ok::<_, Broken>(())
        })
    });
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn r2_higher_priorities_go_first_and_tenants_take_turns() {
    let guard = guard(Policy { concurrency: 1, ..single() });
    let order = Mutex::new(Vec::new());
    let call = |priority, tenant: &'static str| {
        let (guard, order) = (&guard, &order);
        async move {
            let context = READ.with_priority(priority).with_tenant(tenant);
            guard
                .call(context, |_| async {
                    order.lock().unwrap().push(tenant);
                    sleep(secs(1)).await;
                    Ok::<_, Broken>(())
                })
                .await
                .unwrap();
        }
    };
    use Priority::{Batch, Critical, Interactive};
    let calls = [
        call(Interactive, "running"),
        call(Batch, "batch"),
        call(Interactive, "a"),
        call(Interactive, "a"),
        call(Interactive, "a"),
        call(Interactive, "b"),
        call(Critical, "critical"),
    ];
    join_all(calls).await;
    let order = order.into_inner().unwrap();
    assert_eq!(order, ["running", "critical", "a", "b", "a", "a", "batch"]);
}

#[tokio::test(start_paused = true)]
async fn r2_near_saturation_the_lowest_priority_is_refused_first() {
    let guard = guard(Policy { concurrency: 1, queue: 8, ..single() });
    let hold = || std::future::pending::<Result<(), Broken>>();
    let mut calls = Vec::new();
    let mut ask = |priority| {
        let mut call = Box::pin(guard.call(READ.with_priority(priority), move |_| hold()));
        match call.as_mut().now_or_never() {
            Some(answer) => Some(answer.map(drop).unwrap_err()),
            None => {
                calls.push(call);
                None
            }
        }
    };
    assert!(ask(Priority::Interactive).is_none(), "runs");
    for (priority, places) in
        [(Priority::Speculative, 4), (Priority::Batch, 2), (Priority::Interactive, 2)]
    {
        for _ in 0..places {
            assert!(ask(priority).is_none(), "{priority:?}");
        }
        let refused = ask(priority);
        if priority == Priority::Interactive {
            assert!(refused.is_none(), "it takes the place of a lower one");
            continue;
        }
        let Some(CallError::Rejected { reason, .. }) = refused else { panic!("{priority:?}") };
        assert!(matches!(reason, Rejection::Shed { .. }), "{reason}");
        assert!(reason.retry_after().is_some());
    }
    assert_eq!(guard.snapshot().queued_by_priority, [3, 2, 3, 0]);
    let shed = calls.into_iter().filter_map(FutureExt::now_or_never);
    let shed: Vec<_> = shed.map(|answer| answer.map(drop).unwrap_err().to_string()).collect();
    assert_eq!(shed.len(), 1, "{shed:?}");
}

#[tokio::test(start_paused = true)]
async fn r8_guards_that_share_a_quota_share_its_cooldown() {
    let cooldown = Cooldown::new();
    let named = |name| Guard::with_cooldown(name, single(), cooldown.clone()).unwrap();
    let (first, second) = (named("first"), named("second"));
    let stranger = guard(single());
    for (guard, seconds) in [(&first, 20), (&second, 5)] {
        let limited = move |_| async move { Err::<(), _>(limited(seconds)) };
        drop(guard.call(READ, limited).await.unwrap_err());
    }
    let error = second.call(READ, |_| done()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(secs(20)), "the latest end wins: {error}");
    stranger.call(READ, |_| done()).await.unwrap();
    sleep(secs(20)).await;
    second.call(READ, |_| done()).await.unwrap();
}
