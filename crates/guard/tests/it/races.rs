//! Many calls on several threads, some given up at any moment.

use std::sync::atomic::AtomicUsize;

use futures_util::future::{Either, join_all, select};
use tokio::task::yield_now;

use super::*;

#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    highest: AtomicUsize,
}

/// Inside the dependency; leaves when dropped too.
struct Inside(Arc<Gauge>);

impl Inside {
    fn new(gauge: &Arc<Gauge>) -> Self {
        let now = gauge.now.fetch_add(1, Ordering::SeqCst) + 1;
        gauge.highest.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(gauge))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn yields(n: usize) {
    for _ in 0..n {
        yield_now().await;
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the race needs tasks on several threads")]
fn r1_racing_calls_and_drops_never_pass_the_limit_and_leave_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let guard = guard(Policy { concurrency: 3, queue: 64, ..retrying() });
        let gauge = Arc::new(Gauge::default());
        let answered = Reached::default();
        let tasks: Vec<_> = (0..32_usize)
            .map(|task| {
                let (guard, gauge, answered) =
                    (guard.clone(), Arc::clone(&gauge), answered.clone());
                tokio::spawn(async move {
                    for round in 0..200_usize {
                        let operation = |_| {
                            let inside = Inside::new(&gauge);
                            async move {
                                yields(round % 4).await;
                                drop(inside);
                                Ok::<_, Broken>(())
                            }
                        };
                        let call = Box::pin(guard.call(READ, operation));
                        // every fourth task is patient: with a wake-up lost, it would wait for ever
                        if task % 4 == 0 {
                            call.await.unwrap();
                            answered.hit();
                        } else {
                            let gives_up = Box::pin(yields((task * 7 + round) % 13));
                            if let Either::Left((answer, _)) = select(call, gives_up).await {
                                answer.unwrap();
                                answered.hit();
                            }
                        }
                    }
                })
            })
            .collect();
        for task in join_all(tasks).await {
            task.unwrap();
        }
        let snapshot = guard.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.queued), (0, 0));
        assert!(gauge.highest.load(Ordering::SeqCst) <= 3);
        assert_eq!(snapshot.counters.total, u64::from(answered.count()));
        assert!(answered.count() >= 8 * 200);
    });
}
