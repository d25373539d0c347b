//! Limits that follow what is seen, through the whole guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use steadfast_guard::{AdaptiveConcurrency, AdaptiveTimeout};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::*;

/// A server that answers 100 requests a second, and works on whatever has reached it, also for clients
/// that have given up.
#[derive(Clone)]
struct Server {
    workers: Arc<Semaphore>,
    requests: Arc<JoinSetOf>,
}

type JoinSetOf = std::sync::Mutex<JoinSet<()>>;

impl Server {
    fn new() -> Self {
        Self { workers: Arc::new(Semaphore::new(10)), requests: Arc::default() }
    }

    async fn ask(&self) -> Result<(), Broken> {
        let (reply, answer) = oneshot::channel();
        let workers = Arc::clone(&self.workers);
        self.requests.lock().unwrap().spawn(async move {
            let _worker = workers.acquire().await;
            sleep(Duration::from_millis(100)).await;
            reply.send(()).ok();
        });
        answer.await.map_err(|_| broken(ErrorClass::Server))
    }
}

/// Answers a second, of a server that is asked ten times as much as it can do, after a time to settle.
async fn goodput(policy: Policy) -> usize {
    let (guard, server) = (guard(policy), Server::new());
    let good = Arc::new(AtomicUsize::new(0));
    let (start, mut calls) = (Instant::now(), JoinSet::new());
    for number in 0_u64..20_000 {
        tokio::time::sleep_until(start + Duration::from_millis(number)).await;
        let (guard, server, good) = (guard.clone(), server.clone(), Arc::clone(&good));
        calls.spawn(async move {
            let answer = guard.call(READ, |_| server.ask()).await;
            if answer.is_ok() && start.elapsed() >= secs(10) {
                good.fetch_add(1, Ordering::SeqCst);
            }
        });
        while calls.try_join_next().is_some() {}
    }
    good.load(Ordering::SeqCst) / 10
}

#[tokio::test(start_paused = true)]
async fn r1_at_ten_times_the_load_an_adaptive_limit_keeps_what_an_unlimited_client_loses() {
    let unlimited = Policy {
        concurrency: 1_000_000,
        queue: 0,
        attempt_timeout: secs(1),
        retry: RetryPolicy::alike(0, Duration::ZERO),
        ..retrying()
    };
    let adaptive = AdaptiveConcurrency { enabled: true, ..AdaptiveConcurrency::default() };
    let limited = Policy { adaptive_concurrency: adaptive, ..unlimited.clone() };
    let (limited, unlimited) = (goodput(limited).await, goodput(unlimited).await);
    assert!(limited >= 90, "{limited} of 100 a second");
    assert!(unlimited <= 10, "{unlimited} a second: it collapses");
}

#[tokio::test(start_paused = true)]
async fn r5_a_dependency_that_becomes_three_times_slower_is_given_the_time_it_needs() {
    let adaptive_timeout = AdaptiveTimeout {
        enabled: true,
        min: secs(1),
        base: secs(10),
        ..AdaptiveTimeout::default()
    };
    let guard = guard(Policy {
        adaptive_timeout,
        retry: RetryPolicy::alike(0, Duration::ZERO),
        ..retrying()
    });
    assert_eq!(guard.snapshot().attempt_timeout_ms, 10_000);
    let ask = |took: Duration| {
        guard.call(READ, move |_| async move {
            sleep(took).await;
            Ok::<_, Broken>(())
        })
    };
    for _ in 0..100 {
        ask(secs(2)).await.unwrap();
    }
    assert_eq!(guard.snapshot().attempt_timeout_ms, 3_000);
    let mut late = 0;
    for _ in 0..100 {
        late += usize::from(ask(secs(6)).await.is_err());
    }
    assert!((1..50).contains(&late), "{late} were cut off");
    ask(secs(6)).await.unwrap();
    assert_eq!(guard.snapshot().attempt_timeout_ms, 9_000);
}

#[tokio::test(start_paused = true)]
async fn r5_nothing_is_learned_while_the_breaker_is_not_closed_or_from_a_hurried_caller() {
    let adaptive_timeout = AdaptiveTimeout { enabled: true, ..AdaptiveTimeout::default() };
    let guard = guard(Policy { adaptive_timeout, ..single() });
    for _ in 0..20 {
        let hasty = READ.with_deadline(Instant::now() + secs(1));
        guard.call(hasty, |_| std::future::pending::<Result<(), Broken>>()).await.unwrap_err();
    }
    guard.force_closed();
    for _ in 0..20 {
        guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap();
    }
    assert_eq!(guard.snapshot().attempt_timeout_ms, 30_000, "the base still");
}

#[tokio::test(start_paused = true)]
async fn r17_latency_is_told_by_its_quantiles_and_refusals_by_their_reason() {
    let guard = guard(Policy { concurrency: 1, queue: 0, ..single() });
    for tenths in 1..=100 {
        let call = guard.call(READ, |_| async move {
            sleep(Duration::from_millis(tenths * 100)).await;
            Ok::<_, Broken>(())
        });
        call.await.unwrap();
    }
    let mut running = Box::pin(guard.call(READ, |_| std::future::pending::<Result<(), Broken>>()));
    assert!(futures_util::poll!(running.as_mut()).is_pending());
    guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap_err();
    guard.force_open();
    guard.call(READ, |_| async { Ok::<_, Broken>(()) }).await.unwrap_err();
    let snapshot = guard.snapshot();
    let near = |micros: u64, seconds: f64| {
        let found = micros as f64 / 1e6;
        assert!((seconds..=seconds * 1.04).contains(&found), "{found} for {seconds}");
    };
    near(snapshot.latency.p50_micros, 5.0);
    near(snapshot.latency.p95_micros, 9.5);
    near(snapshot.latency.p99_micros, 9.9);
    let refusals = snapshot.counters.refusals;
    assert_eq!((refusals.queue_full, refusals.breaker, snapshot.counters.rejected), (1, 1, 2));
    assert_eq!(snapshot.counters.success_ratio().map(|ratio| (ratio * 102.0).round()), Some(100.0));
}
