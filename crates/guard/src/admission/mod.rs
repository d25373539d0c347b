//! Joint admission: the concurrency permit, the request and the tokens of this minute, and the breaker's
//! ticket are granted together, under one short lock, so that no caller holds the one while waiting for
//! the other.
//!
//! Who cannot go waits in a bounded queue ([`queue`]). Two things hold whenever the lock is free: nobody
//! waits while the next in line could go, and nobody waits while the breaker or a cooldown refuses.
//! Grants are written into the waiter's slot by whoever frees a permit; who waits for a bucket to fill
//! looks again when it has. A waiter that is dropped takes itself out of the queue, or passes on what it
//! had been granted: no wake-up is lost.

mod extra;
mod handles;
mod queue;

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::extra::Withdrawal;
pub(crate) use self::handles::{Permit, Waiting};
use self::queue::Queue;
use crate::adaptive::{Estimator, Limiter};
use crate::breaker::{Breaker, BreakerLook, Closure, Ending, Health, Ticket};
use crate::cooldown::Cooldown;
use crate::rate::{Rate, RateLook};
use crate::stats::{Answers, AnswersLook};
use crate::sync::Mutex;
use crate::{CallContext, Policy, Priority, Rejection, Verdict};

#[derive(Debug)]
pub(crate) struct Admission {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    policy: Arc<Policy>,
    breaker: Breaker,
    cooldown: Cooldown,
    rate: Rate,
    /// Calls that may be in flight: the policy's, or fewer by an adaptive limit.
    limit: usize,
    in_flight: usize,
    /// Calls that are retrying, sleeping ones included, and hedges and fallbacks.
    extra: usize,
    queue: Queue<Waiter>,
    answers: Answers,
    estimator: Estimator,
    limiter: Limiter,
    /// How long calls take, in nanoseconds: an average that forgets.
    service_ns: u64,
}

/// Lock order: the admission's state before a waiter's slot.
#[derive(Debug)]
struct Waiter {
    slot: Mutex<Slot>,
    tokens: u64,
}

impl Waiter {
    fn waker(&self) -> Option<Waker> {
        match &*self.slot.lock() {
            Slot::Waiting(waker) => waker.clone(),
            Slot::Granted(_) | Slot::Refused(_) | Slot::Taken => None,
        }
    }
}

#[derive(Debug)]
enum Slot {
    Waiting(Option<Waker>),
    Granted(Grant),
    Refused(Rejection),
    Taken,
}

/// What a call was granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    ticket: Ticket,
    /// Tokens reserved.
    tokens: u64,
    /// How long the attempt may take.
    attempt_timeout: Duration,
}

/// What is known of the cost when a call ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    /// It cost so many tokens.
    Tokens(u64),
    /// What was reserved stands: it may have cost that.
    AsReserved,
    /// It left, and cost no tokens.
    Nothing,
    /// It never left.
    NotSent,
}

/// The end of a call, as far as admission needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settlement {
    pub(crate) verdict: Verdict,
    /// It reached the attempt's limit.
    pub(crate) timed_out: bool,
    pub(crate) took: Duration,
    pub(crate) cost: Cost,
    pub(crate) at: Instant,
}

/// What a waiter does next.
enum Turn {
    /// It was its turn.
    IsAnswered,
    /// It is the next in line, and looks again when the bucket has filled.
    LooksAt(Instant),
    /// Somebody else's end will serve it.
    Waits,
}

/// The answer to a call that asks to go.
pub(crate) enum Ask<'a> {
    Granted(Permit<'a>),
    Queued(Waiting<'a>),
    Refused(Rejection),
}

/// What this side knows of the dependency after a failed attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook {
    /// What is left of the cooldown.
    pub(crate) quiet: Duration,
    pub(crate) closure: Closure,
}

/// What admission looks like at one moment.
pub(crate) struct Look {
    pub(crate) policy: Arc<Policy>,
    pub(crate) breaker: BreakerLook,
    pub(crate) cooldown: Option<Duration>,
    pub(crate) in_flight: usize,
    pub(crate) queued: [usize; Priority::ALL.len()],
    pub(crate) retrying: usize,
    pub(crate) limit: usize,
    pub(crate) attempt_timeout: Duration,
    pub(crate) answers: AnswersLook,
    pub(crate) rate: RateLook,
}

impl State {
    fn refusal(&self, now: Instant) -> Option<Rejection> {
        if let Some(retry_after) = self.cooldown.left(now) {
            return Some(Rejection::Cooldown { retry_after });
        }
        self.breaker
            .refusal(&self.policy.breaker, now)
            .map(|retry_after| Rejection::BreakerOpen { retry_after })
    }

    fn attempt_timeout(&self) -> Duration {
        if self.policy.adaptive_timeout.enabled {
            self.estimator.limit()
        } else {
            self.policy.attempt_timeout
        }
    }

    /// Lets the limits follow what the end of an attempt shows.
    fn adapt(&mut self, settlement: &Settlement) {
        let Settlement { verdict, timed_out, took, at, .. } = *settlement;
        let policy = &self.policy;
        let answered = verdict == Verdict::Success;
        // A breaker that is not closed lets through what is not usual: nothing is learned from it.
        if policy.adaptive_timeout.enabled && (answered || timed_out) && self.breaker.is_closed() {
            self.estimator.record(&policy.adaptive_timeout, took);
        }
        let adaptive = &policy.adaptive_concurrency;
        if adaptive.enabled {
            match verdict {
                Verdict::Success => self.limiter.succeeded(self.in_flight + 1, policy.concurrency),
                Verdict::Failure | Verdict::Unknown | Verdict::Throttled { .. } => {
                    self.limiter.overloaded(adaptive, at - took, at);
                }
                Verdict::Neutral => {}
            }
            self.limit = self.limiter.limit(adaptive, policy.concurrency);
        }
    }

    /// Takes another policy; what was found out stays.
    fn fit(&mut self, policy: Arc<Policy>, now: Instant) {
        self.breaker.fit(&policy.breaker, now);
        self.rate.fit(&policy.rate, now);
        self.estimator.fit(&policy.adaptive_timeout);
        self.limit = match policy.adaptive_concurrency {
            adaptive if adaptive.enabled => self.limiter.limit(&adaptive, policy.concurrency),
            _ => policy.concurrency,
        };
        self.policy = policy;
    }

    /// Time until the buckets allow a call that costs so many tokens.
    fn rate_wait(&mut self, tokens: u64, now: Instant) -> Duration {
        if self.rate.is_limited() { self.rate.wait(tokens, now) } else { Duration::ZERO }
    }

    fn grant(&mut self, tokens: u64, now: Instant) -> Result<Grant, Rejection> {
        let ticket = self
            .breaker
            .admit(&self.policy.breaker, now)
            .map_err(|retry_after| Rejection::BreakerOpen { retry_after })?;
        self.in_flight += 1;
        if self.rate.is_limited() {
            self.rate.take(tokens);
        }
        Ok(Grant { ticket, tokens, attempt_timeout: self.attempt_timeout() })
    }

    /// Serves the queue after any change. The wakers are woken by the caller once the lock is free: a
    /// waker may run foreign code, which may come back here.
    fn serve_queue(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(next) = self.queue.peek() {
            let (next, tokens) = (Arc::clone(next), next.tokens);
            let refusal = self.refusal(now);
            if refusal.is_none() && self.in_flight >= self.limit {
                break;
            }
            if refusal.is_none() && !self.rate_wait(tokens, now).is_zero() {
                // Nobody tells when a bucket has filled: the next in line sets a timer.
                wakers.extend(next.waker());
                break;
            }
            let answer = match refusal.map_or_else(|| self.grant(tokens, now), Err) {
                Ok(grant) => Slot::Granted(grant),
                Err(rejection) => Slot::Refused(rejection),
            };
            self.queue.pop();
            wakers.extend(answer_waiter(&next, answer));
        }
        wakers
    }

    /// Whether there is a place in the queue; makes one by putting a lower priority out.
    fn make_place(&mut self, priority: Priority) -> Result<Option<Waker>, Rejection> {
        let queued = self.queue.len();
        if queued < priority.share(self.policy.queue) {
            return Ok(None);
        }
        let retry_after = self.expected_wait();
        if queued >= self.policy.queue
            && let Some(waiter) = self.queue.evict(priority)
        {
            let shed = Slot::Refused(Rejection::Shed { queued, retry_after });
            return Ok(answer_waiter(&waiter, shed));
        }
        let in_flight = self.in_flight;
        if queued < self.policy.queue {
            return Err(Rejection::Shed { queued, retry_after });
        }
        Err(Rejection::QueueFull { in_flight, queued, retry_after })
    }

    /// How long a call that came now would wait, by how long calls take: an estimate.
    fn expected_wait(&self) -> Duration {
        let rounds = (self.queue.len() + 1).div_ceil(self.limit.max(1));
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        Duration::from_nanos(self.service_ns).saturating_mul(rounds)
    }

    fn release(&mut self, grant: Grant, settlement: Settlement) -> Vec<Waker> {
        let Settlement { verdict, took, cost, at, .. } = settlement;
        self.in_flight -= 1;
        if self.policy.adaptive_timeout.enabled || self.policy.adaptive_concurrency.enabled {
            self.adapt(&settlement);
        }
        match cost {
            _ if !self.rate.is_limited() => {}
            Cost::Tokens(used) => self.rate.settle(grant.tokens, used),
            Cost::AsReserved => {}
            Cost::Nothing => self.rate.settle(grant.tokens, 0),
            Cost::NotSent => self.rate.give_back(grant.tokens),
        }
        let health = match verdict {
            Verdict::Success => Health::Success,
            Verdict::Failure | Verdict::Unknown => Health::Failure,
            Verdict::Neutral | Verdict::Throttled { .. } => Health::Neutral,
        };
        if health == Health::Success {
            // An eighth of the way to the newest: TCP's estimate of the round trip (RFC 6298).
            let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            self.service_ns = self.service_ns - self.service_ns / 8 + took_ns / 8;
            self.answers.record(took, at);
        }
        if let Verdict::Throttled { until: Some(until) } = verdict {
            self.cooldown.extend(until);
        }
        let ending = Ending { health, took, at };
        self.breaker.settle(&self.policy.breaker, grant.ticket, ending, fastrand::f64);
        if self.queue.is_empty() { Vec::new() } else { self.serve_queue(at) }
    }
}

/// Writes the answer into a waiter's slot; its waker, if it waits.
fn answer_waiter(waiter: &Waiter, answer: Slot) -> Option<Waker> {
    match std::mem::replace(&mut *waiter.slot.lock(), answer) {
        Slot::Waiting(waker) => waker,
        Slot::Granted(_) | Slot::Refused(_) | Slot::Taken => None,
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

impl Admission {
    pub(crate) fn new(policy: Policy, cooldown: Cooldown, now: Instant) -> Self {
        let limiter = Limiter::new(&policy.adaptive_concurrency, policy.concurrency);
        Self {
            state: Mutex::new(State {
                breaker: Breaker::new(&policy.breaker, now),
                rate: Rate::new(&policy.rate, now),
                limit: match policy.adaptive_concurrency {
                    adaptive if adaptive.enabled => limiter.limit(&adaptive, policy.concurrency),
                    _ => policy.concurrency,
                },
                answers: Answers::new(now),
                estimator: Estimator::new(&policy.adaptive_timeout),
                limiter,
                policy: Arc::new(policy),
                cooldown,
                in_flight: 0,
                extra: 0,
                queue: Queue::new(),
                service_ns: 0,
            }),
        }
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.state.lock().policy)
    }

    pub(crate) fn replace_policy(&self, policy: Policy, now: Instant) {
        let policy = Arc::new(policy);
        self.change(now, |state| state.fit(policy, now));
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

    /// What a waiter that finds no answer does next.
    fn turn(&self, waiter: &Arc<Waiter>, now: Instant) -> Turn {
        let mut state = self.state.lock();
        let is_next = state.queue.peek().is_some_and(|next| Arc::ptr_eq(next, waiter));
        if !is_next || !state.rate.is_limited() || state.in_flight >= state.limit {
            return Turn::Waits;
        }
        let wait = state.rate_wait(waiter.tokens, now);
        if !wait.is_zero() {
            return Turn::LooksAt(now + wait);
        }
        let wakers = state.serve_queue(now);
        drop(state);
        wake(wakers);
        Turn::IsAnswered
    }

    /// The policy for a call that begins now, and its first answer: one lock for both.
    pub(crate) fn enter(
        &self,
        context: &CallContext,
        now: Instant,
    ) -> Result<(Arc<Policy>, Ask<'_>), Rejection> {
        let (entered, shed) = {
            let mut state = self.state.lock();
            match self.answer(&mut state, context, now) {
                (Ask::Refused(rejection), shed) => (Err(rejection), shed),
                (ask, shed) => (Ok((Arc::clone(&state.policy), ask)), shed),
            }
        };
        wake(shed);
        entered
    }

    /// Asks to go now.
    pub(crate) fn ask(&self, context: &CallContext, now: Instant) -> Ask<'_> {
        let (ask, shed) = self.answer(&mut self.state.lock(), context, now);
        wake(shed);
        ask
    }

    // Inlined by force: two copies of the answer on its way to the caller cost a tenth of the whole call.
    #[inline(always)]
    fn answer(
        &self,
        state: &mut State,
        context: &CallContext,
        now: Instant,
    ) -> (Ask<'_>, Option<Waker>) {
        if let Some(rejection) = state.refusal(now) {
            return (Ask::Refused(rejection), None);
        }
        let CallContext { priority, tenant, tokens, .. } = *context;
        let wait = state.rate_wait(tokens, now);
        if state.in_flight < state.limit && state.queue.is_empty() && wait.is_zero() {
            let ask = match state.grant(tokens, now) {
                Ok(grant) => Ask::Granted(Permit { admission: self, grant: Some(grant) }),
                Err(rejection) => Ask::Refused(rejection),
            };
            return (ask, None);
        }
        // Nobody waits for what is sure to come too late.
        if wait > state.policy.queue_timeout {
            return (Ask::Refused(Rejection::RateLimited { retry_after: wait }), None);
        }
        match state.make_place(priority) {
            Err(rejection) => (Ask::Refused(rejection), None),
            Ok(shed) => {
                let waiter = Arc::new(Waiter { slot: Mutex::new(Slot::Waiting(None)), tokens });
                state.queue.push(priority, tenant, tokens, Arc::clone(&waiter));
                (Ask::Queued(Waiting { admission: self, waiter, timer: None }), shed)
            }
        }
    }

    /// What a call that has failed at `now` may expect of the next attempt.
    pub(crate) fn outlook(&self, now: Instant) -> Outlook {
        let state = self.state.lock();
        Outlook {
            quiet: state.cooldown.left(now).unwrap_or_default(),
            closure: state.breaker.closure(),
        }
    }

    pub(crate) fn look(&self, now: Instant) -> Look {
        let mut state = self.state.lock();
        let policy = Arc::clone(&state.policy);
        Look {
            breaker: state.breaker.look(&policy.breaker, now),
            policy,
            cooldown: state.cooldown.left(now),
            in_flight: state.in_flight,
            queued: state.queue.by_priority(),
            retrying: state.extra,
            limit: state.limit,
            attempt_timeout: state.attempt_timeout(),
            answers: state.answers.look(now),
            rate: state.rate.look(now),
        }
    }

    fn release(&self, grant: Grant, settlement: Settlement) {
        let wakers = self.state.lock().release(grant, settlement);
        wake(wakers);
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod tests;
