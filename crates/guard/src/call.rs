//! [`Guard::call`]: the order of protections.

use std::future::Future;
use std::sync::Arc;

use futures_util::Stream;
use tokio::time::{Instant, timeout_at};

use crate::admission::{Admission, Withdrawal};
use crate::breaker::Breaker;
use crate::cooldown::Cooldown;
use crate::ending::End;
use crate::explain::{explain, millis, whole};
use crate::gather::{Pace, read_on};
use crate::hedge::{open_stream, unusual_call};
use crate::run::{Run, enter};
use crate::shared::Shared;
use crate::stats::Stats;
use crate::{
    Answer, Attempt, CallContext, CallError, Classify, GuardSnapshot, Policy, PolicyError,
};

/// Stands in front of one dependency. Cheap to clone; clones share all state.
#[derive(Clone)]
pub struct Guard {
    shared: Arc<Shared>,
}

/// A call that has gone another way: see [`Guard::fall_back`].
#[derive(Debug)]
pub struct FallingBack<'g> {
    _place: Withdrawal<'g>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guard").field(&self.snapshot()).finish()
    }
}

impl Guard {
    /// A guard with a policy.
    ///
    /// # Errors
    /// The policy cannot be kept.
    pub fn new(name: impl Into<Arc<str>>, policy: Policy) -> Result<Self, PolicyError> {
        Self::with_cooldown(name, policy, Cooldown::new())
    }

    /// A guard that shares a cooldown with others: those of deployments that share a quota.
    ///
    /// # Errors
    /// The policy cannot be kept.
    pub fn with_cooldown(
        name: impl Into<Arc<str>>,
        policy: Policy,
        cooldown: Cooldown,
    ) -> Result<Self, PolicyError> {
        policy.validate()?;
        let now = Instant::now();
        let (stats, admission) = (Stats::default(), Admission::new(policy, cooldown, now));
        Ok(Self { shared: Arc::new(Shared { name: name.into(), admission, stats }) })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The dependency's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The policy that calls start with now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.admission.policy()
    }

    /// Replaces the policy, for this guard and its clones. Breaker, cooldown, queue, calls in flight and
    /// counters are kept. Calls that run keep their timeouts and retries; the limits of admission and
    /// breaker hold for everybody at once, and calls in flight above a lower `concurrency` run to their
    /// end.
    ///
    /// # Errors
    /// The policy cannot be kept; the old one then stays.
    pub fn replace_policy(&self, policy: Policy) -> Result<(), PolicyError> {
        policy.validate()?;
        self.shared.admission.replace_policy(policy, Instant::now());
        Ok(())
    }

    /// Refuses every call, those in the queue too, until [`Guard::force_closed`] or [`Guard::auto`].
    pub fn force_open(&self) {
        self.shared.admission.operate(Instant::now(), Breaker::force_open);
    }

    /// Lets calls through whatever their ends say, until [`Guard::force_open`] or [`Guard::auto`].
    /// Cooldowns, permits and timeouts still hold.
    pub fn force_closed(&self) {
        self.shared.admission.operate(Instant::now(), Breaker::force_closed);
    }

    /// Lets calls through and only measures: [`GuardSnapshot::would_refuse`] tells what the breaker would
    /// do by its own judgement. Until another of these, or [`Guard::auto`].
    pub fn metrics_only(&self) {
        self.shared.admission.operate(Instant::now(), Breaker::only_measure);
    }

    /// Gives a forced breaker back to its own judgement: closed, with no failure remembered. A breaker
    /// that is not forced stays as it is.
    pub fn auto(&self) {
        let now = Instant::now();
        self.shared.admission.operate(now, |breaker| breaker.auto(now));
    }

    /// Calls the dependency under this guard's policy.
    ///
    /// The call is over by the earlier of the context's deadline and now + `total_timeout`; each attempt
    /// within that by `attempt_timeout`. Dropping the future at any point gives everything back and
    /// counts nowhere. A call that goes through at once allocates nothing here.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// ```
    /// use steadfast_guard::{CallContext, Classify, Effect, ErrorClass, Guard, Policy};
    ///
    /// #[derive(Debug)]
    /// struct Overloaded;
    /// impl Classify for Overloaded {
    ///     fn class(&self) -> ErrorClass {
    ///         ErrorClass::Unavailable
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let guard = Guard::new("search", Policy::default())?;
    /// let answer = guard
    ///     .call(CallContext::new(Effect::Read), |attempt| async move {
    ///         if attempt.number < 3 { Err(Overloaded) } else { Ok("found") }
    ///     })
    ///     .await
    ///     .map_err(|error| error.to_string())?;
    /// assert_eq!((answer.value, answer.report.attempts), ("found", 3));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn call<T, E, Fut>(
        &self,
        context: CallContext,
        operation: impl FnMut(Attempt) -> Fut,
    ) -> Result<Answer<T>, CallError<E>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: Classify,
    {
        self.call_metered(context, operation, |_| None).await
    }

    /// [`Guard::call`], with what the answer says that it cost, in tokens: the reservation of
    /// [`CallContext::tokens`] is settled by it. `None` leaves it as it was reserved.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call_metered<T, E, Fut>(
        &self,
        context: CallContext,
        mut operation: impl FnMut(Attempt) -> Fut,
        cost: impl FnOnce(&T) -> Option<u64>,
    ) -> Result<Answer<T>, CallError<E>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: Classify,
    {
        let now = Instant::now();
        let entered = enter(&self.shared, &context, now)?;
        let mut run = Run::new(&self.shared, &context, now, entered);
        if !run.is_plain() {
            // apart, so that the usual way carries nothing of what this one needs
            return Box::pin(unusual_call(run, operation, cost)).await;
        }
        loop {
            let permit = run.admit().await.map_err(|reason| run.refused(reason))?;
            let attempt = run.start(&permit);
            let end = match timeout_at(attempt.deadline, operation(attempt)).await {
                Ok(Ok(value)) => {
                    let tokens = cost(&value);
                    return Ok(run.succeed(permit, value, tokens));
                }
                Ok(Err(error)) => End::Error(error),
                Err(_) => End::from(run.out.limit(run.limits())),
            };
            run.fail(permit, end).await?;
        }
    }

    /// Calls a dependency that answers piece by piece, and gathers the pieces.
    ///
    /// `open` starts an attempt; `take` is given each piece and returns `Some` with the last one. The
    /// limits to the first piece and between pieces hold inside each attempt.
    ///
    /// Nothing has been handed out before the end, so a stream that stalls or breaks half way is an
    /// attempt that failed, and is repeated like any other; `open` is where what `take` gathered from the
    /// attempt before is thrown away.
    ///
    /// # Errors
    /// See [`CallError`]; a stream that ends before `take` returned `Some` is [`CallError::Cut`].
    ///
    /// ```
    /// use std::cell::RefCell;
    /// use futures_util::stream;
    /// use steadfast_guard::{CallContext, Classify, Effect, ErrorClass, Guard, Policy};
    ///
    /// #[derive(Debug)]
    /// struct Garbled;
    /// impl Classify for Garbled {
    ///     fn class(&self) -> ErrorClass {
    ///         ErrorClass::Malformed
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let guard = Guard::new("model", Policy::default())?;
    /// let text = RefCell::new(String::new());
    /// let open = |_attempt| {
    ///     text.borrow_mut().clear();
    ///     async { Ok::<_, Garbled>(stream::iter(["Hello", ", ", "world", "."].map(Ok))) }
    /// };
    /// let take = |piece: &str| {
    ///     text.borrow_mut().push_str(piece);
    ///     (piece == ".").then(|| text.take())
    /// };
    /// let answer = guard
    ///     .gather(CallContext::new(Effect::Read), open, take)
    ///     .await
    ///     .map_err(|error| error.to_string())?;
    /// assert_eq!(answer.value, "Hello, world.");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn gather<T, I, E, S, Fut>(
        &self,
        context: CallContext,
        open: impl FnMut(Attempt) -> Fut,
        take: impl FnMut(I) -> Option<T>,
    ) -> Result<Answer<T>, CallError<E>>
    where
        Fut: Future<Output = Result<S, E>>,
        S: Stream<Item = Result<I, E>> + Unpin,
        E: Classify,
    {
        self.gather_metered(context, open, take, |_| None).await
    }

    /// [`Guard::gather`], with what the whole answer says that it cost: see [`Guard::call_metered`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn gather_metered<T, I, E, S, Fut>(
        &self,
        context: CallContext,
        mut open: impl FnMut(Attempt) -> Fut,
        mut take: impl FnMut(I) -> Option<T>,
        cost: impl FnOnce(&T) -> Option<u64>,
    ) -> Result<Answer<T>, CallError<E>>
    where
        Fut: Future<Output = Result<S, E>>,
        S: Stream<Item = Result<I, E>> + Unpin,
        E: Classify,
    {
        let now = Instant::now();
        let entered = enter(&self.shared, &context, now)?;
        let mut run = Run::new(&self.shared, &context, now, entered);
        loop {
            let permit = run.admit().await.map_err(|reason| run.refused(reason))?;
            let (permit, opened) = open_stream(&mut run, permit, &mut open).await;
            let ended = match opened {
                Ok(opened) => {
                    let pace = Pace::new(&run.policy, &run.out, run.limits());
                    read_on(opened, &mut take, run.out.drill, pace).await
                }
                Err(end) => Err(end),
            };
            match ended {
                Ok(value) => {
                    let tokens = cost(&value);
                    return Ok(run.succeed(permit, value, tokens));
                }
                Err(end) => run.fail(permit, end).await?,
            }
        }
    }

    /// Counts a call as gone another way until the returned value is dropped: it takes a place in
    /// `retry.budget`. A fallback is never refused a place; while many calls have fallen back, retries and
    /// hedges are what the budget refuses, so that a dependency that fails is not asked again and again by
    /// calls that could have an answer elsewhere.
    #[must_use = "the place is given back when this is dropped"]
    pub fn fall_back(&self) -> FallingBack<'_> {
        FallingBack { _place: self.shared.admission.fall_back() }
    }

    /// The guard at this moment.
    #[must_use]
    pub fn snapshot(&self) -> GuardSnapshot {
        let now = Instant::now();
        let look = self.shared.admission.look(now);
        GuardSnapshot {
            name: self.name().to_owned(),
            breaker: look.breaker.state,
            consecutive_failures: look.breaker.consecutive_failures,
            failures_to_open: look.policy.breaker.consecutive_failures,
            window_calls: look.breaker.counts.calls,
            window_failures: look.breaker.counts.failures,
            window_slow: look.breaker.counts.slow,
            would_refuse: look.breaker.would_refuse,
            trips: look.breaker.trips,
            stale: look.breaker.stale,
            next_probe_in_ms: look.breaker.next_probe_in.map(millis),
            cooldown_ms: look.cooldown.map(millis),
            in_flight: look.in_flight,
            concurrency: look.limit,
            queued: look.queued.iter().sum(),
            queued_by_priority: look.queued,
            requests_left: look.rate.requests.map(whole),
            tokens_left: look.rate.tokens.map(whole),
            queue: look.policy.queue,
            retrying: look.retrying,
            attempt_timeout_ms: millis(look.attempt_timeout),
            latency: look.answers.latency,
            drill: look.policy.chaos.is_on(),
            counters: self.shared.stats.read(look.answers),
        }
    }

    /// One line: the state, and why a call would wait or be refused now.
    #[must_use]
    pub fn explain(&self) -> String {
        explain(&self.snapshot())
    }
}
