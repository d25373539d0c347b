//! Admission against its promises, over random histories: whatever is asked, ended, dropped, reloaded or
//! forced in whatever order.

use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::{Effect, RatePolicy};

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask { priority: usize, tenant: u64, tokens: u64 },
    End { which: usize, verdict: usize, used: u64 },
    DropPermit(usize),
    DropWaiting(usize),
    Poll(usize),
    Pass(u64),
    Reload { concurrency: usize, queue: usize },
    ForceOpen,
    Auto,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..4, 0_u64..3, 0_u64..50)
            .prop_map(|(priority, tenant, tokens)| Step::Ask { priority, tenant, tokens }),
        4 => (any::<usize>(), 0_usize..4, 0_u64..80)
            .prop_map(|(which, verdict, used)| Step::End { which, verdict, used }),
        1 => any::<usize>().prop_map(Step::DropPermit),
        2 => any::<usize>().prop_map(Step::DropWaiting),
        3 => any::<usize>().prop_map(Step::Poll),
        2 => (1_u64..20_000).prop_map(Step::Pass),
        1 => (1_usize..5, 0_usize..6)
            .prop_map(|(concurrency, queue)| Step::Reload { concurrency, queue }),
        1 => Just(Step::ForceOpen),
        2 => Just(Step::Auto),
    ]
}

fn policy(concurrency: usize, queue: usize) -> Policy {
    let rate =
        RatePolicy { requests_per_minute: Some(60), tokens_per_minute: Some(600), burst: 0.5 };
    Policy { concurrency, queue, rate, ..Policy::default() }
}

/// What the callers hold.
#[derive(Default)]
struct Held<'a> {
    permits: Vec<Permit<'a>>,
    waiting: Vec<Pin<Box<Waiting<'a>>>>,
}

impl<'a> Held<'a> {
    fn poll(&mut self, which: usize) {
        if self.waiting.is_empty() {
            return;
        }
        let which = which % self.waiting.len();
        if let Some(answer) = self.waiting[which].as_mut().now_or_never() {
            drop(self.waiting.swap_remove(which));
            self.permits.extend(answer.ok());
        }
    }

    fn take(&mut self, which: usize) -> Option<Permit<'a>> {
        (!self.permits.is_empty()).then(|| self.permits.swap_remove(which % self.permits.len()))
    }

    fn step(&mut self, admission: &'a Admission, step: Step) {
        let now = Instant::now();
        match step {
            Step::Ask { priority, tenant, tokens } => {
                let mut context = CallContext::new(Effect::Read).with_tokens(tokens);
                (context.priority, context.tenant) = (Priority::ALL[priority], tenant);
                match admission.ask(&context, now) {
                    Ask::Granted(permit) => self.permits.push(permit),
                    Ask::Queued(waiting) => self.waiting.push(Box::pin(waiting)),
                    Ask::Refused(_) => {}
                }
            }
            Step::End { which, verdict, used } => {
                let verdict = [
                    Verdict::Success,
                    Verdict::Failure,
                    Verdict::Neutral,
                    Verdict::Throttled { until: Some(now + Duration::from_secs(2)) },
                ][verdict];
                let (took, cost) = (Duration::from_millis(5), Cost::Tokens(used));
                if let Some(permit) = self.take(which) {
                    let timed_out = false;
                    permit.settle(Settlement { verdict, timed_out, took, cost, at: now });
                }
            }
            Step::DropPermit(which) => drop(self.take(which)),
            Step::DropWaiting(which) if !self.waiting.is_empty() => {
                drop(self.waiting.swap_remove(which % self.waiting.len()));
            }
            Step::DropWaiting(_) | Step::Pass(_) => {}
            Step::Poll(which) => self.poll(which),
            Step::Reload { concurrency, queue } => {
                admission.replace_policy(policy(concurrency, queue), now);
            }
            Step::ForceOpen => admission.operate(now, Breaker::force_open),
            Step::Auto => admission.operate(now, |breaker| breaker.auto(now)),
        }
    }

    /// Permits that the waiters have been granted and have not yet seen.
    fn unseen(&self) -> usize {
        let granted = |waiting: &&Pin<Box<Waiting<'_>>>| {
            matches!(*waiting.waiter.slot.lock(), Slot::Granted(_))
        };
        self.waiting.iter().filter(granted).count()
    }

    fn still_waiting(&self) -> usize {
        let waits = |waiting: &&Pin<Box<Waiting<'_>>>| {
            matches!(*waiting.waiter.slot.lock(), Slot::Waiting(_))
        };
        self.waiting.iter().filter(waits).count()
    }
}

proptest! {
    #[test]
    fn r1_r2_permits_and_places_are_kept_exactly_over_any_history(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let admission = Admission::new(policy(2, 4), Cooldown::new(), Instant::now());
            let mut held = Held::default();
            let mut most = 2;
            for step in steps {
                if let Step::Pass(ms) = step {
                    tokio::time::advance(Duration::from_millis(ms)).await;
                }
                if let Step::Reload { concurrency, .. } = step {
                    most = most.max(concurrency);
                }
                held.step(&admission, step);
                let now = Instant::now();
                let look = admission.look(now);
                let queued: usize = look.queued.iter().sum();
                assert_eq!(look.in_flight, held.permits.len() + held.unseen(), "permits");
                assert_eq!(queued, held.still_waiting(), "places");
                assert!(look.in_flight <= most, "{} in flight", look.in_flight);
                // Nobody waits while the next in line could go, or while everybody is refused.
                let mut state = admission.state.lock();
                if let Some(tokens) = state.queue.peek().map(|next| next.tokens)
                    && state.in_flight < state.limit
                {
                    // Time alone changes this without anybody's doing: the next poll serves them.
                    let wait = state.rate_wait(tokens, now);
                    let refused = state.refusal(now).is_some();
                    drop(state);
                    if wait.is_zero() || refused {
                        // From the end: who is answered leaves, and the last one takes its place.
                        for which in (0..held.waiting.len()).rev() {
                            held.poll(which);
                        }
                        let served = admission.look(now);
                        let left: usize = served.queued.iter().sum();
                        assert!(left < queued || refused, "somebody was served");
                    }
                }
            }
            // Everybody leaves: nothing is left behind.
            drop(held);
            let look = admission.look(Instant::now());
            assert_eq!((look.in_flight, look.queued), (0, [0; 4]));
        });
    }
}
