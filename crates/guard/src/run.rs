//! One call's way through the guard: admitted, tried, settled, and, where the policy allows, once more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::admission::{Ask, Permit, Waiting};
use crate::call::Shared;
use crate::retry::{Decision, Ended};
use crate::{
    Answer, Attempt, CallContext, CallError, CallReport, Classify, Effect, ErrorClass, Policy,
    Rejection, TimeoutLayer, Verdict,
};

/// How an attempt ended without an answer.
pub(crate) enum End<E> {
    Error(E),
    TimedOut(TimeoutLayer, Duration),
    Cut,
}

/// An attempt that may start now.
pub(crate) struct Start<'g> {
    pub(crate) permit: Permit<'g>,
    pub(crate) attempt: Attempt,
    pub(crate) started: Instant,
    /// Which limit the attempt's deadline is, and its length.
    pub(crate) limit: (TimeoutLayer, Duration),
}

pub(crate) struct Run<'g, E> {
    shared: &'g Shared,
    pub(crate) policy: Arc<Policy>,
    effect: Effect,
    /// The last time that was read; the clock is read again only after something has been waited for.
    now: Instant,
    deadline: Instant,
    total: Duration,
    attempts: u32,
    waited: Duration,
    /// How the last attempt ended, once there was one.
    last: Option<CallError<E>>,
}

impl<'g, E: Classify> Run<'g, E> {
    pub(crate) fn new(shared: &'g Shared, context: &CallContext) -> Self {
        let now = Instant::now();
        let policy = shared.admission.policy();
        let longest = now + policy.total_timeout;
        let deadline = context.deadline.map_or(longest, |deadline| deadline.min(longest));
        Self {
            shared,
            effect: context.effect,
            now,
            deadline,
            total: deadline.saturating_duration_since(now),
            policy,
            attempts: 0,
            waited: Duration::ZERO,
            last: None,
        }
    }

    /// Waits until the next attempt may start.
    pub(crate) async fn admit(&mut self) -> Result<Start<'g>, CallError<E>> {
        loop {
            if self.now >= self.deadline {
                return Err(self.refused(Rejection::Deadline));
            }
            let answer = match self.shared.admission.ask(self.now) {
                Ask::Granted(permit) => Ok(permit),
                Ask::Queued(waiting) => self.wait_in_queue(waiting).await,
                Ask::Refused(rejection) => Err(rejection),
            };
            match answer {
                Ok(permit) if self.now < self.deadline => return Ok(self.start(permit)),
                Ok(_) => return Err(self.refused(Rejection::Deadline)),
                // A call that has reached the dependency sleeps a cooldown out, if it may; a fresh one
                // is told at once, so that no crowd of sleepers gathers outside of the bounded queue.
                Err(Rejection::Cooldown { retry_after })
                    if self.last.is_some()
                        && retry_after <= self.policy.retry.max_retry_after
                        && self.now + retry_after < self.deadline =>
                {
                    self.sleep(self.now + retry_after).await;
                }
                Err(rejection) => return Err(self.refused(rejection)),
            }
        }
    }

    async fn wait_in_queue(&mut self, waiting: Waiting<'g>) -> Result<Permit<'g>, Rejection> {
        let since = self.now;
        let longest = since + self.policy.queue_timeout;
        let answer = timeout_at(longest.min(self.deadline), waiting).await;
        self.now = Instant::now();
        let waited = self.now - since;
        self.waited += waited;
        match answer {
            Ok(answer) => answer,
            Err(_) if longest < self.deadline => Err(Rejection::QueueTimeout { waited }),
            Err(_) => Err(Rejection::Deadline),
        }
    }

    async fn sleep(&mut self, until: Instant) {
        let since = self.now;
        sleep_until(until).await;
        self.now = Instant::now();
        self.waited += self.now - since;
    }

    fn start(&mut self, permit: Permit<'g>) -> Start<'g> {
        self.attempts += 1;
        if self.attempts > 1 {
            self.shared.stats.retried();
        }
        let own = self.now + self.policy.attempt_timeout;
        let (deadline, limit) = if own <= self.deadline {
            (own, (TimeoutLayer::Attempt, self.policy.attempt_timeout))
        } else {
            (self.deadline, (TimeoutLayer::Total, self.total))
        };
        let attempt = Attempt { number: self.attempts, deadline };
        Start { permit, attempt, started: self.now, limit }
    }

    /// The refusal as the call's end: what the call met at the dependency goes first.
    fn refused(&mut self, reason: Rejection) -> CallError<E> {
        match self.last.take() {
            Some(error) => self.ended(error),
            None => {
                self.shared.stats.rejected();
                CallError::Rejected { dependency: self.name(), reason, attempts: self.attempts }
            }
        }
    }

    fn ended(&self, error: CallError<E>) -> CallError<E> {
        match error {
            CallError::TimedOut { .. } => self.shared.stats.timed_out(),
            CallError::Rejected { .. } => self.shared.stats.rejected(),
            CallError::Failed { .. } | CallError::Cut { .. } | CallError::RetryLater { .. } => {
                self.shared.stats.failed();
            }
        }
        error
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.shared.name)
    }

    /// Ends the call with an answer.
    pub(crate) fn succeed<T>(self, permit: Permit<'_>, started: Instant, value: T) -> Answer<T> {
        let now = Instant::now();
        permit.settle(Verdict::Success, now);
        self.shared.stats.succeeded(now - started);
        Answer { value, report: CallReport { attempts: self.attempts, waited: self.waited } }
    }

    /// Settles an attempt that brought no answer. Returns once another one may be asked for; the permit
    /// has been given back by then.
    pub(crate) async fn fail(
        &mut self,
        permit: Permit<'g>,
        end: End<E>,
    ) -> Result<(), CallError<E>> {
        self.now = Instant::now();
        match self.settle(permit, end) {
            (error, Some(again)) => {
                self.last = Some(error);
                self.sleep(again).await;
                Ok(())
            }
            (error, None) => Err(self.ended(error)),
        }
    }

    /// The error that this end is, and when to try again, if at all.
    fn settle(&self, permit: Permit<'g>, end: End<E>) -> (CallError<E>, Option<Instant>) {
        let (class, retry_after) = match &end {
            End::Error(error) => (error.class(), error.retry_after()),
            End::TimedOut(..) => (ErrorClass::Timeout, None),
            End::Cut => (ErrorClass::Malformed, None),
        };
        let ended = Ended { class, effect: self.effect, retry_after, attempts: self.attempts };
        permit.settle(ended.verdict(self.now), self.now);
        let retry = &self.policy.retry;
        let draw = |longest| fastrand::u64(0..=longest);
        let again = match ended.decide(retry, self.now, self.deadline, draw) {
            Decision::Later(wait) => return (self.error(end, false, Some(wait)), None),
            Decision::Again(at)
                if !self.shared.admission.is_sure_to_refuse(
                    at,
                    self.now + retry.max_retry_after,
                    self.deadline,
                ) =>
            {
                Some(at)
            }
            Decision::Again(_) | Decision::Stop => None,
        };
        (self.error(end, ended.outcome_unknown(), None), again)
    }

    fn error(&self, end: End<E>, outcome_unknown: bool, later: Option<Duration>) -> CallError<E> {
        let (dependency, attempts) = (self.name(), self.attempts);
        match (end, later) {
            (End::Error(source), Some(retry_after)) => {
                CallError::RetryLater { dependency, retry_after, attempts, source }
            }
            (End::Error(source), None) => {
                CallError::Failed { dependency, attempts, outcome_unknown, source }
            }
            (End::TimedOut(layer, limit), _) => {
                CallError::TimedOut { dependency, layer, limit, attempts, outcome_unknown }
            }
            (End::Cut, _) => CallError::Cut { dependency, attempts, outcome_unknown },
        }
    }
}
