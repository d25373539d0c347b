//! Joint admission: the concurrency permit and the breaker's ticket are granted together, under one short
//! lock, so that no caller holds the one while waiting for the other.
//!
//! Who finds no permit waits in a bounded first-in-first-out queue. Two things hold whenever the lock is
//! free: nobody waits while a permit is free, and nobody waits while the breaker or a cooldown refuses.
//! Grants are written into the waiter's slot by whoever frees a permit. A waiter that is dropped takes
//! itself out of the queue, or passes on the permit that it had been granted: no wake-up is lost.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::breaker::{Breaker, BreakerLook, Ending, Health, Ticket};
use crate::retry::Outlook;
use crate::{Policy, Rejection, RetryBudget, Verdict};

#[derive(Debug)]
pub(crate) struct Admission {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    policy: Arc<Policy>,
    breaker: Breaker,
    cooldown_until: Option<Instant>,
    in_flight: usize,
    /// Calls that are retrying, sleeping ones included, and hedges and fallbacks.
    extra: usize,
    queue: VecDeque<Arc<Waiter>>,
}

/// Lock order: the admission's state before a waiter's slot.
#[derive(Debug)]
struct Waiter {
    slot: Mutex<Slot>,
}

#[derive(Debug)]
enum Slot {
    Waiting(Option<Waker>),
    Granted(Ticket),
    Refused(Rejection),
    Taken,
}

/// The answer to a call that asks to go.
pub(crate) enum Ask<'a> {
    Granted(Permit<'a>),
    Queued(Waiting<'a>),
    Refused(Rejection),
}

/// What admission looks like at one moment.
pub(crate) struct Look {
    pub(crate) policy: Arc<Policy>,
    pub(crate) breaker: BreakerLook,
    pub(crate) cooldown: Option<Duration>,
    pub(crate) in_flight: usize,
    pub(crate) queued: usize,
    pub(crate) retrying: usize,
}

impl State {
    fn cooldown(&self, now: Instant) -> Option<Duration> {
        self.cooldown_until.filter(|until| now < *until).map(|until| until - now)
    }

    fn refusal(&self, now: Instant) -> Option<Rejection> {
        if let Some(retry_after) = self.cooldown(now) {
            return Some(Rejection::Cooldown { retry_after });
        }
        self.breaker
            .refusal(&self.policy.breaker, now)
            .map(|retry_after| Rejection::BreakerOpen { retry_after })
    }

    fn grant(&mut self, now: Instant) -> Result<Ticket, Rejection> {
        let ticket = self
            .breaker
            .admit(&self.policy.breaker, now)
            .map_err(|retry_after| Rejection::BreakerOpen { retry_after })?;
        self.in_flight += 1;
        Ok(ticket)
    }

    /// Serves the queue after any change. The wakers are woken by the caller once the lock is free: a
    /// waker may run foreign code, which may come back here.
    fn serve_queue(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while !self.queue.is_empty() {
            let answer = match self.refusal(now) {
                Some(rejection) => Slot::Refused(rejection),
                None if self.in_flight >= self.policy.concurrency => break,
                None => match self.grant(now) {
                    Ok(ticket) => Slot::Granted(ticket),
                    Err(rejection) => Slot::Refused(rejection),
                },
            };
            if let Some(waiter) = self.queue.pop_front()
                && let Slot::Waiting(Some(waker)) =
                    std::mem::replace(&mut *waiter.slot.lock(), answer)
            {
                wakers.push(waker);
            }
        }
        wakers
    }

    fn release(
        &mut self,
        ticket: Ticket,
        verdict: Verdict,
        took: Duration,
        now: Instant,
    ) -> Vec<Waker> {
        self.in_flight -= 1;
        let health = match verdict {
            Verdict::Success => Health::Success,
            Verdict::Failure | Verdict::Unknown => Health::Failure,
            Verdict::Neutral | Verdict::Throttled { .. } => Health::Neutral,
        };
        if let Verdict::Throttled { until: Some(until) } = verdict {
            self.cooldown_until = self.cooldown_until.max(Some(until));
        }
        let ending = Ending { health, took, at: now };
        self.breaker.settle(&self.policy.breaker, ticket, ending, fastrand::f64);
        self.serve_queue(now)
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

impl Admission {
    pub(crate) fn new(policy: Policy, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                breaker: Breaker::new(&policy.breaker, now),
                policy: Arc::new(policy),
                cooldown_until: None,
                in_flight: 0,
                extra: 0,
                queue: VecDeque::new(),
            }),
        }
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.state.lock().policy)
    }

    pub(crate) fn replace_policy(&self, policy: Policy, now: Instant) {
        let policy = Arc::new(policy);
        self.change(now, |state| {
            state.breaker.fit(&policy.breaker, now);
            state.policy = policy;
        });
    }

    /// Changes the breaker by hand.
    pub(crate) fn operate(&self, now: Instant, hand: impl FnOnce(&mut Breaker)) {
        self.change(now, |state| hand(&mut state.breaker));
    }

    fn change(&self, now: Instant, change: impl FnOnce(&mut State)) {
        let wakers = {
            let mut state = self.state.lock();
            change(&mut state);
            state.serve_queue(now)
        };
        wake(wakers);
    }

    /// The policy for a call that begins now and, if it wants one, its first answer: one lock for both.
    pub(crate) fn enter(&self, now: Instant, asks: bool) -> (Arc<Policy>, Option<Ask<'_>>) {
        let mut state = self.state.lock();
        let policy = Arc::clone(&state.policy);
        (policy, asks.then(|| self.answer(&mut state, now)))
    }

    /// Asks to go now.
    pub(crate) fn ask(&self, now: Instant) -> Ask<'_> {
        self.answer(&mut self.state.lock(), now)
    }

    // Inlined by force: two copies of the answer on its way to the caller cost a tenth of the whole call.
    #[inline(always)]
    fn answer(&self, state: &mut State, now: Instant) -> Ask<'_> {
        if let Some(rejection) = state.refusal(now) {
            return Ask::Refused(rejection);
        }
        if state.in_flight < state.policy.concurrency && state.queue.is_empty() {
            return match state.grant(now) {
                Ok(ticket) => Ask::Granted(Permit { admission: self, ticket: Some(ticket) }),
                Err(rejection) => Ask::Refused(rejection),
            };
        }
        if state.queue.len() >= state.policy.queue {
            return Ask::Refused(Rejection::QueueFull {
                in_flight: state.in_flight,
                queued: state.queue.len(),
            });
        }
        let waiter = Arc::new(Waiter { slot: Mutex::new(Slot::Waiting(None)) });
        state.queue.push_back(Arc::clone(&waiter));
        Ask::Queued(Waiting { admission: self, waiter })
    }

    /// Asks for a place among the calls that do more than call once. It is held until the call is over.
    pub(crate) fn withdraw(&self) -> Option<Withdrawal<'_>> {
        let mut state = self.state.lock();
        let RetryBudget { ratio, floor } = state.policy.retry.budget;
        // The caller's own permit has been given back; those that sleep hold none. All are under way.
        let under_way = state.in_flight + state.queue.len() + state.extra + 1;
        let limit = (under_way as f64 * ratio).max(f64::from(floor));
        if (state.extra + 1) as f64 > limit {
            return None;
        }
        state.extra += 1;
        drop(state);
        Some(Withdrawal { admission: self })
    }

    /// What a call that has failed at `now` may expect of the next attempt.
    pub(crate) fn outlook(&self, now: Instant) -> Outlook {
        let state = self.state.lock();
        Outlook { quiet: state.cooldown(now).unwrap_or_default(), closure: state.breaker.closure() }
    }

    pub(crate) fn look(&self, now: Instant) -> Look {
        let mut state = self.state.lock();
        let policy = Arc::clone(&state.policy);
        Look {
            breaker: state.breaker.look(&policy.breaker, now),
            policy,
            cooldown: state.cooldown(now),
            in_flight: state.in_flight,
            queued: state.queue.len(),
            retrying: state.extra,
        }
    }

    fn release(&self, ticket: Ticket, verdict: Verdict, took: Duration, now: Instant) {
        let wakers = self.state.lock().release(ticket, verdict, took, now);
        wake(wakers);
    }
}

/// A place in the retry budget; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Withdrawal<'a> {
    admission: &'a Admission,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        self.admission.state.lock().extra -= 1;
    }
}

/// The right to make one call now. Dropping it gives back the permit and the probe slot, and says nothing
/// about the dependency's health.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    admission: &'a Admission,
    ticket: Option<Ticket>,
}

impl Permit<'_> {
    /// Gives the permit back with what the end of the attempt, which took so long, says.
    pub(crate) fn settle(mut self, verdict: Verdict, took: Duration, now: Instant) {
        if let Some(ticket) = self.ticket.take() {
            self.admission.release(ticket, verdict, took, now);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.admission.release(ticket, Verdict::Neutral, Duration::ZERO, Instant::now());
        }
    }
}

/// A place in the queue. Resolves to a permit or a refusal; dropping it gives up the place, or passes on
/// the permit that had been granted and not yet been seen.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    admission: &'a Admission,
    waiter: Arc<Waiter>,
}

impl<'a> Future for Waiting<'a> {
    type Output = Result<Permit<'a>, Rejection>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.waiter.slot.lock();
        let replaced = match &mut *slot {
            Slot::Waiting(Some(waker)) if waker.will_wake(context.waker()) => return Poll::Pending,
            Slot::Waiting(waker) => waker.replace(context.waker().clone()),
            Slot::Granted(_) | Slot::Refused(_) | Slot::Taken => {
                return match std::mem::replace(&mut *slot, Slot::Taken) {
                    Slot::Granted(ticket) => {
                        Poll::Ready(Ok(Permit { admission: self.admission, ticket: Some(ticket) }))
                    }
                    Slot::Refused(rejection) => Poll::Ready(Err(rejection)),
                    Slot::Waiting(_) | Slot::Taken => Poll::Pending,
                };
            }
        };
        drop(slot);
        // dropping a waker may run foreign code: not under the lock
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if matches!(*self.waiter.slot.lock(), Slot::Taken) {
            return;
        }
        let mut state = self.admission.state.lock();
        let slot = std::mem::replace(&mut *self.waiter.slot.lock(), Slot::Taken);
        let mut wakers = Vec::new();
        match &slot {
            Slot::Waiting(_) => state.queue.retain(|other| !Arc::ptr_eq(other, &self.waiter)),
            Slot::Granted(ticket) => {
                wakers = state.release(*ticket, Verdict::Neutral, Duration::ZERO, Instant::now());
            }
            Slot::Refused(_) | Slot::Taken => {}
        }
        drop(state);
        drop(slot);
        wake(wakers);
    }
}

#[cfg(test)]
mod tests;
