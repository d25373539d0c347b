//! A second attempt beside one that is slow.

use std::future::pending;

use futures_util::{StreamExt, stream};
use steadfast_guard::{Attempt, HedgePolicy, Priority, RatePolicy, RetryBudget};
use tokio::time::{Instant, sleep};

use super::*;

fn hedged() -> Policy {
    Policy { hedge: HedgePolicy { enabled: true, after: secs(2) }, ..single() }
}

/// The first attempt takes so many seconds, any other one so many.
fn slow_first(reached: &Reached, first: u64, others: u64) -> impl FnMut(Attempt) -> Answering {
    let reached = reached.clone();
    move |attempt| {
        reached.hit();
        let seconds = if attempt.number == 1 { first } else { others };
        Box::pin(async move {
            sleep(secs(seconds)).await;
            Ok(attempt.number)
        })
    }
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Result<u32, Broken>> + Send>>;

#[tokio::test(start_paused = true)]
async fn a_read_that_is_slow_is_asked_again_and_the_first_answer_counts() {
    let (guard, reached, start) = (guard(hedged()), Reached::default(), Instant::now());
    let answer = guard.call(READ, slow_first(&reached, 60, 1)).await.unwrap();
    assert_eq!((answer.value, answer.report.attempts, reached.count()), (2, 2, 2));
    assert_eq!(start.elapsed(), secs(3));
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.retrying), (0, 0), "the loser's permit is back");
    let counters = snapshot.counters;
    assert_eq!((counters.total, counters.success, counters.hedge, counters.retry), (1, 1, 1, 0));
    assert_eq!(counters.latency_max_micros, 1_000_000, "measured from the winner's start");
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_still_counts_if_it_answers_before_the_hedge() {
    let (guard, reached) = (guard(hedged()), Reached::default());
    let answer = guard.call(READ, slow_first(&reached, 3, 5)).await.unwrap();
    assert_eq!((answer.value, reached.count()), (1, 2));
    assert_eq!(guard.snapshot().counters.latency_max_micros, 3_000_000);
    let quick = guard.call(READ, slow_first(&reached, 1, 1)).await.unwrap();
    assert_eq!((quick.value, reached.count()), (1, 3), "a quick one is not hedged");
}

#[tokio::test(start_paused = true)]
async fn nothing_but_a_read_is_hedged_and_nothing_by_default() {
    for effect in [Effect::Idempotent, Effect::Once] {
        let (guard, reached) = (guard(hedged()), Reached::default());
        let answer = guard.call(CallContext::new(effect), slow_first(&reached, 10, 1)).await;
        assert_eq!((answer.unwrap().value, reached.count()), (1, 1), "{effect:?}");
    }
    let (guard, reached) = (guard(single()), Reached::default());
    guard.call(READ, slow_first(&reached, 10, 1)).await.unwrap();
    assert_eq!(reached.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_takes_no_place_that_another_call_could_have() {
    // no permit free
    let (full, reached) = (guard(Policy { concurrency: 1, ..hedged() }), Reached::default());
    full.call(READ, slow_first(&reached, 10, 1)).await.unwrap();
    assert_eq!(reached.count(), 1);
    // somebody of a lower priority waits: he is not put out of the queue
    let policy = Policy { concurrency: 1, queue: 1, ..hedged() };
    let (crowded, reached) = (guard(policy), Reached::default());
    let context = READ.with_priority(Priority::Critical);
    let call = crowded.call(context, slow_first(&reached, 10, 1));
    let low = crowded.call(READ.with_priority(Priority::Batch), slow_first(&reached, 1, 1));
    let (first, waiter) = tokio::join!(call, low);
    assert_eq!((first.unwrap().value, waiter.unwrap().value, reached.count()), (1, 1, 2));
    // this minute's requests are used up
    let rate = RatePolicy { requests_per_minute: Some(1), ..RatePolicy::default() };
    let (limited, reached) = (guard(Policy { rate, ..hedged() }), Reached::default());
    limited.call(READ, slow_first(&reached, 10, 1)).await.unwrap();
    assert_eq!(reached.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn hedges_share_the_budget_with_retries() {
    let mut policy = hedged();
    policy.retry.budget = RetryBudget { ratio: 0.0, floor: 2 };
    let (guard, reached) = (guard(policy), Reached::default());
    let calls = (0..10).map(|_| guard.call(READ, slow_first(&reached, 10, 9)));
    let ended = futures_util::future::join_all(calls).await;
    assert!(ended.iter().all(Result::is_ok));
    assert_eq!(reached.count(), 12, "ten calls and two hedges");
    assert_eq!(guard.snapshot().retrying, 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_attempt_that_is_left_decides_and_both_failures_count() {
    let (guard, reached) = (guard(hedged()), Reached::default());
    let hedge_fails = |attempt: Attempt| async move {
        sleep(secs(if attempt.number == 1 { 9 } else { 1 })).await;
        if attempt.number == 1 { Ok("first") } else { Err(broken(ErrorClass::Server)) }
    };
    assert_eq!(guard.call(READ, hedge_fails).await.unwrap().value, "first");
    let both_fail = |_| {
        reached.hit();
        async {
            sleep(secs(5)).await;
            Err::<(), _>(broken(ErrorClass::Unavailable))
        }
    };
    let error = guard.call(READ, both_fail).await.unwrap_err();
    assert_eq!((error.attempts(), error.class()), (2, ErrorClass::Unavailable));
    assert_eq!(guard.snapshot().consecutive_failures, 2, "the hedge's failure and the first's");
    assert_eq!(guard.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_asking_again_cannot_mend_ends_the_race() {
    let (guard, start) = (guard(hedged()), Instant::now());
    let wrong = |attempt: Attempt| async move {
        match attempt.number {
            1 => pending().await,
            _ => Err::<(), _>(broken(ErrorClass::InvalidRequest)),
        }
    };
    let error = guard.call(READ, wrong).await.unwrap_err();
    assert_eq!((error.class(), start.elapsed()), (ErrorClass::InvalidRequest, secs(2)));
}

#[tokio::test(start_paused = true)]
async fn both_attempts_have_their_own_limits() {
    let policy = Policy { attempt_timeout: secs(10), ..hedged() };
    let (guard, start) = (guard(policy), Instant::now());
    let error = guard.call(READ, |_| pending::<Result<(), Broken>>()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Timeout);
    assert_eq!(start.elapsed(), secs(12), "the hedge began at 2 s and had its 10 s");
    assert_eq!(guard.snapshot().consecutive_failures, 2);
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_is_not_well_is_not_hedged() {
    let mut policy = hedged();
    policy.breaker.consecutive_failures = 1;
    let (guard, reached) = (guard(policy), Reached::default());
    fail(&guard, 1).await;
    sleep(secs(31)).await;
    let probe = guard.call(READ, slow_first(&reached, 10, 1)).await.unwrap();
    assert_eq!((probe.value, reached.count()), (1, 1), "a probe goes alone");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_hedged_up_to_its_first_item_and_not_behind_it() {
    let (guard, reached) = (guard(hedged()), Reached::default());
    let open = |attempt: Attempt| {
        reached.hit();
        async move {
            let items = stream::iter([1, 2, 3]).then(move |item| async move {
                let late = if attempt.number == 1 { 20 } else { 5 };
                sleep(secs(late)).await;
                Ok::<_, Broken>((attempt.number, item))
            });
            Ok(Box::pin(items))
        }
    };
    let mut items = guard.stream(READ, open, |(_, item)| *item == 3).await.unwrap();
    let mut seen = Vec::new();
    while let Some(item) = items.next().await {
        seen.push(item.unwrap());
    }
    assert_eq!((seen, reached.count()), (vec![(2, 1), (2, 2), (2, 3)], 2));
    drop(items);
    let gathered = guard.gather(READ, open, |item| (item.1 == 3).then_some(item)).await.unwrap();
    assert_eq!((gathered.value, reached.count()), ((2, 3), 4));
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.retrying, snapshot.counters.hedge), (0, 0, 2));
}
