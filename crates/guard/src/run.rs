//! One call's way through the guard: admitted, tried, settled, and, where the policy allows, once more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::admission::{Ask, Cost, Permit, Settlement, Waiting, Withdrawal};
use crate::drill::Drill;
use crate::ending::End;
use crate::retry::{Decision, Ended};
use crate::shared::Shared;
use crate::{
    Answer, Attempt, CallContext, CallError, CallReport, Classify, Effect, Policy, Rejection,
    TimeoutLayer, Verdict,
};

/// An attempt that is out.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing {
    number: u32,
    pub(crate) started: Instant,
    /// How long the policy gives it.
    usual: Duration,
    /// What is done to it on purpose.
    pub(crate) drill: Drill,
}

/// The limits of a whole call.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    deadline: Instant,
    total: Duration,
}

impl Outgoing {
    /// As the operation is told.
    pub(crate) fn attempt(&self, limits: Limits) -> Attempt {
        let deadline = (self.started + self.usual).min(limits.deadline);
        Attempt { number: self.number, deadline }
    }

    /// Which limit the attempt's deadline is, and its length.
    pub(crate) fn limit(&self, limits: Limits) -> (TimeoutLayer, Duration) {
        if self.started + self.usual <= limits.deadline {
            (TimeoutLayer::Attempt, self.usual)
        } else {
            (TimeoutLayer::Total, limits.total)
        }
    }
}

pub(crate) struct Run<'g, E> {
    shared: &'g Shared,
    pub(crate) policy: Arc<Policy>,
    context: CallContext,
    /// The last time that was read. The clock is read again only after something has been waited for.
    now: Instant,
    began: Instant,
    deadline: Instant,
    /// The caller gave less time than the policy would have.
    hurried: bool,
    /// A second attempt may go beside one that is slow.
    pub(crate) hedges: bool,
    /// Attempts may meet injected faults.
    is_drill: bool,
    attempts: u32,
    /// The attempt that is out, or was the last to be.
    pub(crate) out: Outgoing,
    waited: Duration,
    /// The first attempt's answer from admission, asked for under the same lock that gave the policy.
    first: Option<Ask<'g>>,
    /// The error of the last attempt, if one ended with an error.
    last: Option<E>,
    /// The call's place among those that retry, once it does.
    withdrawal: Option<Withdrawal<'g>>,
}

/// The first look: a call that is refused at once costs little more than this.
pub(crate) fn enter<'g, E>(
    shared: &'g Shared,
    context: &CallContext,
    now: Instant,
) -> Result<(Arc<Policy>, Ask<'g>), CallError<E>> {
    let entered = match context.deadline {
        // a call that comes too late asks for nothing
        Some(deadline) if deadline <= now => Err(Rejection::Deadline),
        _ => shared.admission.enter(context, now),
    };
    entered.map_err(|reason| {
        shared.stats.rejected(&reason);
        let dependency = Arc::clone(&shared.name);
        CallError::Rejected { dependency, reason, attempts: 0, source: None }
    })
}

impl<'g, E: Classify> Run<'g, E> {
    /// A call that began at `now` and was not refused at once.
    pub(crate) fn new(
        shared: &'g Shared,
        context: &CallContext,
        now: Instant,
        (policy, first): (Arc<Policy>, Ask<'g>),
    ) -> Self {
        let longest = now + policy.total_timeout;
        let deadline = context.deadline.map_or(longest, |deadline| deadline.min(longest));
        Self {
            hurried: deadline < longest,
            hedges: policy.hedge.enabled && context.effect == Effect::Read,
            is_drill: policy.chaos.is_on(),
            shared,
            context: *context,
            now,
            began: now,
            deadline,
            policy,
            attempts: 0,
            out: Outgoing {
                number: 0,
                started: now,
                usual: Duration::ZERO,
                drill: Drill::default(),
            },
            waited: Duration::ZERO,
            first: Some(first),
            last: None,
            withdrawal: None,
        }
    }

    /// Waits until the next attempt may start. A refusal is final: it is never asked again here, so that
    /// no crowd gathers outside of the bounded queue.
    pub(crate) async fn admit(&mut self) -> Result<Permit<'g>, Rejection> {
        if self.now >= self.deadline {
            return Err(Rejection::Deadline);
        }
        let ask = match self.first.take() {
            Some(ask) => ask,
            None => self.shared.admission.ask(&self.context, self.now),
        };
        match ask {
            Ask::Granted(permit) => Ok(permit),
            Ask::Queued(waiting) => self.wait_in_queue(waiting).await,
            Ask::Refused(rejection) => Err(rejection),
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
            // granted in the moment of the deadline: dropping the permit gives it back
            Ok(_) if self.now >= self.deadline => Err(Rejection::Deadline),
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

    /// The next attempt, which starts now.
    pub(crate) fn start(&mut self, permit: &Permit<'_>) -> Attempt {
        if self.attempts > 0 {
            self.shared.stats.retried();
        }
        self.send(permit)
    }

    fn send(&mut self, permit: &Permit<'_>) -> Attempt {
        self.attempts += 1;
        let usual = permit.attempt_timeout();
        let own = self.now + usual;
        let drill = if self.is_drill { self.draw() } else { Drill::default() };
        let number = self.attempts;
        self.out = Outgoing { number, started: self.now, usual, drill };
        Attempt { number, deadline: own.min(self.deadline) }
    }

    #[cold]
    fn draw(&self) -> Drill {
        Drill::draw(&self.policy.chaos, fastrand::f64)
    }

    /// What an attempt's deadline is, and its length.
    pub(crate) fn limits(&self) -> Limits {
        Limits { deadline: self.deadline, total: self.deadline - self.began }
    }

    /// Whether attempts are neither hedged nor tampered with.
    pub(crate) const fn is_plain(&self) -> bool {
        !self.is_drill && !self.hedges
    }

    /// A second attempt, which starts now, if there is room for it.
    pub(crate) fn hedge(&mut self) -> Option<Permit<'g>> {
        self.now = Instant::now();
        if self.withdrawal.is_none() {
            self.withdrawal = self.shared.admission.withdraw();
            self.withdrawal.as_ref()?;
        }
        let permit = self.shared.admission.spare(&self.context, self.now)?;
        self.shared.stats.hedged();
        self.send(&permit);
        Some(permit)
    }

    /// A refusal as the end of the call.
    pub(crate) fn refused(&mut self, reason: Rejection) -> CallError<E> {
        self.shared.stats.rejected(&reason);
        let (attempts, source) = (self.attempts, self.last.take());
        CallError::Rejected { dependency: self.name(), reason, attempts, source }
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.shared.name)
    }

    /// Ends the call with an answer.
    pub(crate) fn succeed<T>(
        &self,
        permit: Permit<'_>,
        value: T,
        tokens: Option<u64>,
    ) -> Answer<T> {
        let at = Instant::now();
        let cost = tokens.map_or(Cost::AsReserved, Cost::Tokens);
        let took = at - self.out.started;
        let verdict = Verdict::Success;
        permit.settle(Settlement { verdict, timed_out: false, took, cost, at });
        Answer { value, report: CallReport { attempts: self.attempts, waited: self.waited } }
    }

    /// Settles an attempt that brought no answer. Returns once another one may be asked for; the permit
    /// has been given back by then.
    pub(crate) async fn fail(
        &mut self,
        permit: Permit<'g>,
        end: End<E>,
    ) -> Result<(), CallError<E>> {
        let (ended, decision) = self.settle(permit, &end);
        match decision {
            Decision::Again(at) => {
                self.last = match end {
                    End::Error(error) => Some(error),
                    End::TimedOut(..) | End::Cut | End::Injected(_) => None,
                };
                self.sleep(at).await;
                Ok(())
            }
            Decision::Later(wait) => Err(self.ended(end, false, Some(wait))),
            Decision::Stop => Err(self.ended(end, ended.outcome_unknown(), None)),
            Decision::NoBudget => {
                self.shared.stats.no_budget();
                Err(self.ended(end, ended.outcome_unknown(), None))
            }
        }
    }

    fn read_end(&self, end: &End<E>) -> Ended {
        let (class, retry_after) = end.said();
        let (effect, attempts, began) = (self.context.effect, self.attempts, self.began);
        Ended { class, effect, retry_after, attempts, began }
    }

    /// Whether asking again may bring an answer where an attempt ended so.
    pub(crate) fn may_mend(&self, end: &End<E>) -> bool {
        self.read_end(end).retryable()
    }

    /// Gives the permit of the attempt that is out back, with what its end says.
    fn give_back(&mut self, permit: Permit<'g>, end: &End<E>) -> Ended {
        self.now = Instant::now();
        let took = self.now - self.out.started;
        let ended = self.read_end(end);
        let verdict =
            if self.was_cut_short(end, took) { Verdict::Neutral } else { ended.verdict(self.now) };
        let timed_out = matches!(end, End::TimedOut(TimeoutLayer::Attempt, _));
        let cost = ended.cost();
        permit.settle(Settlement { verdict, timed_out, took, cost, at: self.now });
        ended
    }

    /// The end of an attempt while another one is out.
    pub(crate) fn settle_beside(&mut self, permit: Permit<'g>, end: &End<E>) {
        self.give_back(permit, end);
    }

    /// Gives the permit back with what the attempt's end says, and decides what comes next.
    fn settle(&mut self, permit: Permit<'g>, end: &End<E>) -> (Ended, Decision) {
        let ended = self.give_back(permit, end);
        // looked at after the settling: this very end may have opened the breaker
        let outlook = self.shared.admission.outlook(self.now);
        let draw = |longest| fastrand::u64(0..=longest);
        let mut decision =
            ended.decide(&self.policy.retry, &outlook, self.now, self.deadline, draw);
        let is_enough = self.context.max_retries.is_some_and(|most| self.attempts > most);
        if is_enough && matches!(decision, Decision::Again(_)) {
            decision = Decision::Stop;
        }
        if matches!(decision, Decision::Again(_)) && self.withdrawal.is_none() {
            self.withdrawal = self.shared.admission.withdraw();
            if self.withdrawal.is_none() {
                return (ended, Decision::NoBudget);
            }
        }
        (ended, decision)
    }

    /// Whether the caller's own deadline ended the attempt before the dependency had the time that the
    /// policy gives it: that says nothing about its health.
    fn was_cut_short(&self, end: &End<E>, took: Duration) -> bool {
        let usual = self.out.usual.min(self.policy.total_timeout);
        let is_total = matches!(end, End::TimedOut(TimeoutLayer::Total, _));
        is_total && self.hurried && took < usual
    }

    /// The end of the last attempt as the end of the call.
    fn ended(&self, end: End<E>, outcome_unknown: bool, later: Option<Duration>) -> CallError<E> {
        let (dependency, attempts) = (self.name(), self.attempts);
        match &end {
            End::TimedOut(..) => self.shared.stats.timed_out(),
            End::Error(_) | End::Cut | End::Injected(_) => self.shared.stats.failed(),
        }
        let end = self.out.drill.own(end);
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
            (End::Injected(class), _) => {
                CallError::Injected { dependency, class, attempts, outcome_unknown }
            }
        }
    }
}
