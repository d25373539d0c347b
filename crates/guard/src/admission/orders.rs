//! Threads in every order: shuttle runs the real admission under thousands of schedules, with a switch
//! possible at every locking. Part of the normal test run; more schedules with
//! `SHUTTLE_SCHEDULES=100000 cargo test -p steadfast-guard --lib orders`.
//!
//! Rates stay off: their waits are timers, and there is no timer in here.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use shuttle::future::block_on;
use shuttle::thread;

use super::*;
use crate::sync::in_model;
use crate::{BreakerPolicy, Effect};

fn check(body: impl Fn() + Send + Sync + 'static) {
    #[expect(clippy::disallowed_methods, reason = "how thorough to be is the reader's choice")]
    let schedules = std::env::var("SHUTTLE_SCHEDULES").ok().and_then(|text| text.parse().ok());
    in_model(|| shuttle::check_random(body, schedules.unwrap_or(1_000)));
}

const CALL: CallContext = CallContext::new(Effect::Read);

fn call(priority: Priority, tenant: usize) -> CallContext {
    CALL.with_priority(priority).with_tenant(&tenant.to_string())
}

fn admission(policy: Policy) -> Arc<Admission> {
    Arc::new(Admission::new(policy, Cooldown::new(), Instant::now()))
}

fn ended(verdict: Verdict) -> Settlement {
    let (took, cost) = (Duration::from_millis(1), Cost::AsReserved);
    Settlement { verdict, timed_out: false, took, cost, at: Instant::now() }
}

/// Goes through the admission; `polls` says after how many looks the caller gives up waiting.
fn pass(
    admission: &Admission,
    context: &CallContext,
    polls: usize,
    inside: &AtomicUsize,
    limit: usize,
) -> bool {
    let permit = match admission.ask(context, Instant::now()) {
        Ask::Granted(permit) => permit,
        Ask::Refused(_) => return false,
        Ask::Queued(waiting) => {
            let mut waiting = Box::pin(waiting);
            let mut left = polls;
            let ended = block_on(std::future::poll_fn(|context: &mut Context<'_>| {
                match waiting.as_mut().poll(context) {
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                    Poll::Pending if left == 0 => Poll::Ready(None),
                    Poll::Pending => {
                        left -= 1;
                        if left < 10 {
                            context.waker().wake_by_ref();
                        }
                        Poll::Pending
                    }
                }
            }));
            let Some(Ok(permit)) = ended else { return false };
            permit
        }
    };
    let now_inside = inside.fetch_add(1, Ordering::SeqCst) + 1;
    assert!(now_inside <= limit, "{now_inside} inside of {limit}");
    thread::yield_now();
    inside.fetch_sub(1, Ordering::SeqCst);
    permit.settle(ended(Verdict::Success));
    true
}

const PATIENT: usize = usize::MAX;

#[test]
fn r1_in_every_order_the_limit_holds_and_no_wake_up_is_lost() {
    check(|| {
        let admission = admission(Policy { concurrency: 2, queue: 12, ..Policy::default() });
        let inside = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..5)
            .map(|n| {
                let (admission, inside) = (Arc::clone(&admission), Arc::clone(&inside));
                thread::spawn(move || {
                    // a lost wake-up would leave a patient one waiting for ever: a deadlock, which
                    // shuttle reports
                    let polls = if n % 2 == 0 { PATIENT } else { n };
                    let passed =
                        pass(&admission, &call(Priority::ALL[n % 4], n % 3), polls, &inside, 2);
                    assert!(passed || polls != PATIENT);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let look = admission.look(Instant::now());
        assert_eq!((look.in_flight, look.queued), (0, [0; 4]));
    });
}

#[test]
fn r10_in_every_order_half_open_admits_exactly_its_probes() {
    check(|| {
        let breaker = BreakerPolicy {
            consecutive_failures: 1,
            open_for: Duration::ZERO,
            half_open_probes: 2,
            ..BreakerPolicy::default()
        };
        let admission = admission(Policy { breaker, ..Policy::default() });
        let Ask::Granted(permit) = admission.ask(&CALL, Instant::now()) else {
            panic!("not granted")
        };
        permit.settle(ended(Verdict::Failure));
        let out = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (admission, out) = (Arc::clone(&admission), Arc::clone(&out));
                thread::spawn(move || {
                    let Ask::Granted(probe) = admission.ask(&CALL, Instant::now()) else {
                        return;
                    };
                    assert!(out.fetch_add(1, Ordering::SeqCst) < 2, "more than two probes are out");
                    thread::yield_now();
                    out.fetch_sub(1, Ordering::SeqCst);
                    // half of them are given up; none of them answers, so the breaker stays half-open
                    if n % 2 == 0 {
                        drop(probe);
                    } else {
                        probe.settle(ended(Verdict::Neutral));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let look = admission.look(Instant::now());
        assert_eq!(look.in_flight, 0);
        let probes: Vec<_> = (0..3).map(|_| admission.ask(&CALL, Instant::now())).collect();
        let granted = probes.iter().filter(|ask| matches!(ask, Ask::Granted(_))).count();
        assert_eq!(granted, 2, "every slot has come back");
    });
}

#[test]
fn r1_in_every_order_a_limit_that_moves_holds_for_whoever_comes_after() {
    check(|| {
        let admission = admission(Policy { concurrency: 3, queue: 8, ..Policy::default() });
        let inside = Arc::new(AtomicUsize::new(0));
        let mut threads: Vec<_> = (0..4)
            .map(|n| {
                let (admission, inside) = (Arc::clone(&admission), Arc::clone(&inside));
                thread::spawn(move || {
                    let context = call(Priority::Interactive, n);
                    assert!(pass(&admission, &context, PATIENT, &inside, 3));
                })
            })
            .collect();
        let resizer = Arc::clone(&admission);
        threads.push(thread::spawn(move || {
            for concurrency in [1, 3, 2] {
                let policy = Policy { concurrency, queue: 8, ..Policy::default() };
                resizer.replace_policy(policy, Instant::now());
            }
        }));
        for thread in threads {
            thread.join().unwrap();
        }
        let look = admission.look(Instant::now());
        assert_eq!((look.in_flight, look.queued, look.limit), (0, [0; 4], 2));
    });
}
