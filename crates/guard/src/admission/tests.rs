use std::pin::{Pin, pin};
use std::task::Context;

use futures_util::FutureExt;
use futures_util::future::poll_immediate;

use super::*;

fn admission(concurrency: usize, queue: usize) -> Admission {
    Admission::new(
        Policy { concurrency, queue, ..Policy::default() },
        Cooldown::new(),
        Instant::now(),
    )
}

const CALL: CallContext = CallContext::new(crate::Effect::Read);

fn ended(verdict: Verdict, at: Instant) -> Settlement {
    Settlement { verdict, timed_out: false, took: Duration::ZERO, cost: Cost::AsReserved, at }
}

fn granted(admission: &Admission) -> Permit<'_> {
    match admission.ask(&CALL, Instant::now()) {
        Ask::Granted(permit) => permit,
        Ask::Queued(_) => panic!("queued"),
        Ask::Refused(rejection) => panic!("{rejection}"),
    }
}

fn queued(admission: &Admission) -> Waiting<'_> {
    match admission.ask(&CALL, Instant::now()) {
        Ask::Queued(waiting) => waiting,
        Ask::Granted(_) => panic!("granted"),
        Ask::Refused(rejection) => panic!("{rejection}"),
    }
}

fn load(admission: &Admission) -> (usize, usize) {
    let look = admission.look(Instant::now());
    (look.in_flight, look.queued.iter().sum())
}

#[tokio::test(start_paused = true)]
async fn r2_a_full_queue_refuses_and_says_how_full() {
    let admission = admission(1, 1);
    let _running = granted(&admission);
    let _waiting = queued(&admission);
    let Ask::Refused(rejection) = admission.ask(&CALL, Instant::now()) else {
        panic!("not refused")
    };
    let retry_after = Duration::ZERO;
    assert_eq!(rejection, Rejection::QueueFull { in_flight: 1, queued: 1, retry_after });
}

#[tokio::test(start_paused = true)]
async fn r2_the_queue_is_first_in_first_out_and_newcomers_do_not_overtake() {
    let admission = admission(1, 8);
    let running = granted(&admission);
    let (first, second) = (queued(&admission), queued(&admission));
    running.settle(ended(Verdict::Success, Instant::now()));
    let third = queued(&admission);
    let mut second = pin!(second);
    assert!(poll_immediate(&mut second).await.is_none());
    let permit = first.await.unwrap();
    permit.settle(ended(Verdict::Success, Instant::now()));
    second.await.unwrap().settle(ended(Verdict::Success, Instant::now()));
    drop(third.await.unwrap());
    assert_eq!(load(&admission), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn r2_a_dropped_queue_head_wakes_the_next() {
    let admission = admission(1, 8);
    let running = granted(&admission);
    let mut head = Box::pin(queued(&admission));
    let next = queued(&admission);
    assert!(head.as_mut().now_or_never().is_none());
    let mut next = watched(next);
    assert!(next.poll_is_pending());
    // the head is granted the permit, and dropped before it is polled again
    running.settle(ended(Verdict::Success, Instant::now()));
    assert!(!next.woken());
    drop(head);
    assert!(next.woken());
    assert_eq!(load(&admission), (1, 0));
    drop(next);
    assert_eq!(load(&admission), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn r2_a_waiter_dropped_before_its_turn_leaves_the_queue() {
    let admission = admission(1, 8);
    let running = granted(&admission);
    let (first, second, third) = (queued(&admission), queued(&admission), queued(&admission));
    drop(second);
    drop(first);
    assert_eq!(load(&admission), (1, 1));
    drop(running);
    drop(third.await.unwrap());
    assert_eq!(load(&admission), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn r10_the_breaker_is_asked_again_after_waiting() {
    let admission = Admission::new(
        Policy { concurrency: 3, queue: 8, ..Policy::default() },
        Cooldown::new(),
        Instant::now(),
    );
    let running = [granted(&admission), granted(&admission), granted(&admission)];
    let mut waiting = [queued(&admission), queued(&admission), queued(&admission)];
    for permit in running {
        permit.settle(ended(Verdict::Failure, Instant::now()));
    }
    // two were granted before the third failure; it opened the breaker, and the last one is refused
    let [first, second, third] = &mut waiting;
    let refused = third.await.unwrap_err();
    assert!(matches!(refused, Rejection::BreakerOpen { .. }), "{refused}");
    drop((first.await.unwrap(), second.await.unwrap()));
    assert_eq!(load(&admission), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn r8_the_latest_known_end_of_a_cooldown_wins_and_throttling_never_moves_the_breaker() {
    let admission = admission(8, 8);
    let now = Instant::now();
    let permits: Vec<_> = (0..6).map(|_| granted(&admission)).collect();
    for (permit, seconds) in permits.into_iter().zip([5, 20, 10, 1, 2, 3]) {
        let until = Some(now + Duration::from_secs(seconds));
        permit.settle(ended(Verdict::Throttled { until }, now));
    }
    let Ask::Refused(rejection) = admission.ask(&CALL, now) else { panic!("not refused") };
    assert_eq!(rejection, Rejection::Cooldown { retry_after: Duration::from_secs(20) });
    let over = now + Duration::from_secs(20);
    assert!(matches!(admission.ask(&CALL, over), Ask::Granted(_)));
    assert_eq!(admission.look(over).breaker.consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn r1_a_higher_concurrency_lets_waiters_in_at_once() {
    let admission = admission(1, 8);
    let _running = granted(&admission);
    let (first, second) = (queued(&admission), queued(&admission));
    let wider = Policy { concurrency: 2, queue: 8, ..Policy::default() };
    admission.replace_policy(wider, Instant::now());
    let _permit = first.now_or_never().unwrap().unwrap();
    assert!(second.now_or_never().is_none());
}

/// A future with a waker that remembers whether it was woken.
struct Watched<F> {
    future: Pin<Box<F>>,
    flag: Arc<Flag>,
}

#[derive(Default)]
struct Flag(std::sync::atomic::AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

fn watched<F: Future>(future: F) -> Watched<F> {
    Watched { future: Box::pin(future), flag: Arc::default() }
}

impl<F: Future> Watched<F> {
    fn poll_is_pending(&mut self) -> bool {
        let waker = Waker::from(Arc::clone(&self.flag));
        self.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
    }

    fn woken(&self) -> bool {
        self.flag.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}
