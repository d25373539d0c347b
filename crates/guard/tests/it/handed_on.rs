//! Streams that are handed on piece by piece and stay under the guard.

use futures_util::{FutureExt, Stream, StreamExt, stream};
use steadfast_guard::{BreakerState, CallError, TimeoutLayer};
use tokio::time::{Instant, sleep};

use super::*;

/// What a dependency sends: an item after a pause, or an error, and then its end.
type Sends = Vec<(u64, Result<u64, Broken>)>;

fn sends(items: Sends) -> impl Stream<Item = Result<u64, Broken>> + Unpin {
    Box::pin(stream::iter(items).then(|(pause, item)| async move {
        sleep(secs(pause)).await;
        item
    }))
}

fn limits() -> Policy {
    Policy { first_item_timeout: secs(20), idle_timeout: secs(5), ..single() }
}

/// Reads to the end; the items, and how it ended.
async fn read(guard: &Guard, items: Sends) -> (Vec<u64>, Option<CallError<Broken>>) {
    let open = |_| {
        let items = items.clone();
        async { Ok(sends(items)) }
    };
    let mut stream = match guard.stream(READ, open, |item| *item == 9).await {
        Ok(stream) => stream,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut read = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => read.push(item),
            Err(error) => return (read, Some(error)),
        }
    }
    (read, None)
}

#[tokio::test(start_paused = true)]
async fn r3_a_stream_holds_its_permit_to_its_end_and_success_is_counted_there() {
    let guard = guard(limits());
    let open = |_| async { Ok(sends(vec![(1, Ok(1)), (1, Ok(2)), (1, Ok(9))])) };
    let mut stream = guard.stream(READ, open, |item| *item == 9).await.unwrap();
    assert_eq!((guard.snapshot().in_flight, guard.snapshot().counters.success), (1, 0));
    assert_eq!(stream.by_ref().map(Result::unwrap).collect::<Vec<_>>().await, [1, 2, 9]);
    assert_eq!((guard.snapshot().in_flight, guard.snapshot().counters.success), (0, 1));
    assert!(stream.next().await.is_none(), "it stays ended");
}

#[tokio::test(start_paused = true)]
async fn r3_each_way_to_break_off_is_told_and_counts_against_the_dependency() {
    let late = ErrorClass::Server;
    for (items, read_before) in [
        (vec![(0, Ok(1))], vec![1]),
        (vec![(0, Ok(1)), (1000, Ok(9))], vec![1]),
        (vec![(0, Ok(1)), (0, Ok(2)), (0, Err(broken(late)))], vec![1, 2]),
        (vec![(1000, Ok(9))], vec![]),
        (vec![], vec![]),
    ] {
        let guard = guard(limits());
        for _ in 0..3 {
            let (items, error) = read(&guard, items.clone()).await;
            let error = error.expect("it broke off");
            let fits = match (&error, items.len()) {
                (CallError::Cut { .. } | CallError::Failed { .. }, _) => true,
                (CallError::TimedOut { layer, .. }, 0) => *layer == TimeoutLayer::FirstItem,
                (CallError::TimedOut { layer, .. }, _) => *layer == TimeoutLayer::Idle,
                _ => false,
            };
            assert!(fits && items == read_before, "{error} after {items:?}");
        }
        let snapshot = guard.snapshot();
        assert_eq!((snapshot.breaker, snapshot.in_flight), (BreakerState::Open, 0), "{items:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r7_what_goes_wrong_before_the_first_item_is_retried_and_nothing_after_it() {
    let guard = guard(retrying());
    let open = |attempt: steadfast_guard::Attempt| async move {
        match attempt.number {
            1 => Err(broken(ErrorClass::Unavailable)),
            2 => Ok(sends(vec![(0, Err(broken(ErrorClass::Server)))])),
            _ => Ok(sends(vec![(0, Ok(1)), (0, Err(broken(ErrorClass::Server)))])),
        }
    };
    let mut stream = guard.stream(READ, open, |item| *item == 9).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Failed { attempts: 3, .. }), "{error}");
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn r3_a_reader_that_takes_an_hour_is_not_the_dependencys_fault() {
    let guard = guard(Policy { stream_timeout: secs(7200), ..limits() });
    let open = |_| async { Ok(sends(vec![(0, Ok(1)), (4, Ok(2)), (4, Ok(9))])) };
    let mut stream = guard.stream(READ, open, |item| *item == 9).await.unwrap();
    for expected in [1, 2, 9] {
        sleep(secs(1800)).await;
        assert_eq!(stream.next().await.unwrap().unwrap(), expected);
    }
    assert_eq!(guard.snapshot().counters.success, 1);
}

#[tokio::test(start_paused = true)]
async fn r3_a_stream_outlives_the_limits_of_its_attempt_and_not_its_own() {
    let policy = Policy {
        attempt_timeout: secs(10),
        total_timeout: secs(11),
        idle_timeout: secs(60),
        stream_timeout: secs(30),
        ..limits()
    };
    let guard = guard(policy);
    let start = Instant::now();
    let (items, error) = read(&guard, vec![(4, Ok(1)), (20, Ok(2)), (20, Ok(9))]).await;
    assert_eq!(items, [1, 2]);
    let error = error.expect("late");
    assert!(matches!(error, CallError::TimedOut { layer: TimeoutLayer::Stream, .. }), "{error}");
    assert_eq!(start.elapsed(), secs(30));
}

#[tokio::test(start_paused = true)]
async fn r3_a_callers_deadline_holds_within_the_stream() {
    let guard = guard(Policy { idle_timeout: secs(60), ..limits() });
    let start = Instant::now();
    let context = CallContext { deadline: Some(start + secs(9)), ..READ };
    let open = |_| async { Ok(sends(vec![(4, Ok(1)), (60, Ok(9))])) };
    let mut stream = guard.stream(context, open, |item| *item == 9).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::TimedOut { layer: TimeoutLayer::Total, .. }), "{error}");
    assert_eq!(start.elapsed(), secs(9));
}

#[tokio::test(start_paused = true)]
async fn r10_a_reader_that_leaves_at_any_point_gives_everything_back_and_counts_nowhere() {
    for polls in 0..12 {
        let guard = guard(Policy { concurrency: 1, ..limits() });
        let before = guard.snapshot();
        {
            let open = |_| async { Ok(sends(vec![(1, Ok(1)), (1, Ok(2)), (1, Ok(3))])) };
            let reading = async {
                let mut stream = guard.stream(READ, open, |item| *item == 9).await.unwrap();
                for _ in 0..3 {
                    stream.next().await.unwrap().unwrap();
                }
                std::future::pending::<()>().await;
            };
            let mut reading = Box::pin(reading);
            for _ in 0..polls {
                assert!(reading.as_mut().now_or_never().is_none());
                tokio::time::advance(Duration::from_millis(500)).await;
            }
        }
        let after = guard.snapshot();
        assert_eq!(
            (after.in_flight, after.breaker, after.counters),
            (0, before.breaker, before.counters)
        );
        guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap();
    }
}
