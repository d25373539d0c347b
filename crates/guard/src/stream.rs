//! A stream that is handed on piece by piece and stays under the guard to its end.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::admission::{Cost, Permit, Settlement};
use crate::ending::End;
use crate::hedge::open_stream;
use crate::retry::Ended;
use crate::run::{Outgoing, Run, enter};
use crate::shared::Shared;
use crate::{
    Attempt, CallContext, CallError, Classify, Effect, Guard, Policy, TimeoutLayer, Verdict,
};

/// The items of a guarded stream. It holds the permit, the breaker's ticket and what was reserved until its
/// end, and says what the end means: complete, cut, failed or stalled.
///
/// Dropping it gives everything back and counts nowhere. The limits run only while the dependency is waited
/// for: a reader that takes its time is not the dependency's fault.
#[must_use = "a stream does nothing unless it is read"]
pub struct GuardedStream<'g, S, I, E, L> {
    shared: &'g Shared,
    /// `None` once the end has been told.
    permit: Option<Permit<'g>>,
    stream: S,
    first: Option<I>,
    is_last: L,
    effect: Effect,
    attempts: u32,
    began: Instant,
    idle: Duration,
    /// The limit of the whole stream, and what it is called.
    deadline: Instant,
    limit: (TimeoutLayer, Duration),
    /// Cut after the first item, on purpose.
    is_cut: bool,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer runs: the dependency has been found not ready.
    waits: bool,
    error: PhantomData<fn() -> E>,
}

impl<S, I, E, L> std::fmt::Debug for GuardedStream<'_, S, I, E, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = self.permit.is_none();
        f.debug_struct("GuardedStream")
            .field("guard", &self.shared.name)
            .field("ended", &ended)
            .finish()
    }
}

impl Guard {
    /// Opens a stream under this guard's policy and hands its items on.
    ///
    /// Until the first item it is a call like any other: refusals, errors and stalls are met by the
    /// policy, retries included. After it nothing is repeated, because the reader has seen a part: what
    /// goes wrong then is the last item, an error. `is_last` says which item ends the stream; one that
    /// ends without it was cut.
    ///
    /// # Errors
    /// See [`CallError`]; the stream's items give the same errors.
    ///
    /// ```
    /// use futures_util::{StreamExt, stream};
    /// use steadfast_guard::{CallContext, Classify, Effect, ErrorClass, Guard, Policy};
    ///
    /// #[derive(Debug, thiserror::Error)]
    /// #[error("garbled")]
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
    /// let open = |_attempt| async { Ok::<_, Garbled>(stream::iter(["Hel", "lo", "."].map(Ok))) };
    /// let mut items = guard.stream(CallContext::new(Effect::Read), open, |item| *item == ".").await?;
    /// assert_eq!(guard.snapshot().in_flight, 1);
    /// while let Some(item) = items.next().await {
    ///     print!("{}", item?);
    /// }
    /// assert_eq!(guard.snapshot().in_flight, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stream<'g, I, E, S, Fut, L>(
        &'g self,
        context: CallContext,
        mut open: impl FnMut(Attempt) -> Fut,
        is_last: L,
    ) -> Result<GuardedStream<'g, S, I, E, L>, CallError<E>>
    where
        Fut: Future<Output = Result<S, E>>,
        S: Stream<Item = Result<I, E>> + Unpin,
        E: Classify,
        L: Fn(&I) -> bool,
    {
        let shared = self.shared();
        let now = Instant::now();
        let entered = enter(shared, &context, now)?;
        let mut run = Run::new(shared, &context, now, entered);
        loop {
            let permit = run.admit().await.map_err(|reason| run.refused(reason))?;
            let (permit, opened) = open_stream(&mut run, permit, &mut open).await;
            let end = match opened {
                Ok((stream, first)) => {
                    let Outgoing { started, drill, .. } = run.out;
                    let attempt = run.out.attempt(run.limits());
                    let (deadline, limit) = whole_limit(started, &run.policy, &context);
                    return Ok(GuardedStream {
                        shared,
                        permit: Some(permit),
                        stream,
                        first: Some(first),
                        is_last,
                        effect: context.effect,
                        attempts: attempt.number,
                        began: started,
                        idle: run.policy.idle_timeout,
                        deadline,
                        limit,
                        is_cut: drill.cuts(),
                        timer: Box::pin(sleep_until(deadline)),
                        waits: false,
                        error: PhantomData,
                    });
                }
                Err(end) => end,
            };
            run.fail(permit, end).await?;
        }
    }
}

/// When a stream that began at `started` must have ended, and which limit that is: the policy's, or the
/// caller's deadline if that is sooner.
fn whole_limit(
    started: Instant,
    policy: &Policy,
    context: &CallContext,
) -> (Instant, (TimeoutLayer, Duration)) {
    let own = started + policy.stream_timeout;
    match context.deadline.filter(|deadline| *deadline < own) {
        Some(deadline) => (deadline, (TimeoutLayer::Total, deadline - started)),
        None => (own, (TimeoutLayer::Stream, policy.stream_timeout)),
    }
}

impl<S, I, E: Classify, L> GuardedStream<'_, S, I, E, L> {
    /// The stream is complete.
    fn complete(&mut self) {
        if let Some(permit) = self.permit.take() {
            let at = Instant::now();
            let (verdict, took) = (Verdict::Success, at - self.began);
            let cost = Cost::AsReserved;
            permit.settle(Settlement { verdict, timed_out: false, took, cost, at });
        }
    }

    /// The stream broke off: gives everything back with what that says, and tells the reader.
    fn break_off(&mut self, end: End<E>) -> Option<CallError<E>> {
        let permit = self.permit.take()?;
        let at = Instant::now();
        let (class, retry_after) = end.said();
        let (effect, attempts, began) = (self.effect, self.attempts, self.began);
        let ended = Ended { class, effect, retry_after, attempts, began };
        // How long a stream is handed on says nothing of how long attempts take.
        let (verdict, took, cost) = (ended.verdict(at), at - began, Cost::AsReserved);
        permit.settle(Settlement { verdict, timed_out: false, took, cost, at });
        let (dependency, outcome_unknown) =
            (Arc::clone(&self.shared.name), ended.outcome_unknown());
        Some(match end {
            End::Cut if self.is_cut => {
                self.shared.stats.failed();
                CallError::Injected { dependency, class, attempts, outcome_unknown }
            }
            End::Error(source) => {
                self.shared.stats.failed();
                CallError::Failed { dependency, attempts, outcome_unknown, source }
            }
            End::Injected(class) => {
                self.shared.stats.failed();
                CallError::Injected { dependency, class, attempts, outcome_unknown }
            }
            End::Cut => {
                self.shared.stats.failed();
                CallError::Cut { dependency, attempts, outcome_unknown }
            }
            End::TimedOut(layer, limit) => {
                self.shared.stats.timed_out();
                CallError::TimedOut { dependency, layer, limit, attempts, outcome_unknown }
            }
        })
    }

    /// Polls the timer, which runs from the moment on in which the dependency was first found not ready.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<(TimeoutLayer, Duration)> {
        let now = Instant::now();
        if !self.waits {
            self.waits = true;
            self.timer.as_mut().reset((now + self.idle).min(self.deadline));
        }
        if self.timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let is_idle = Instant::now() < self.deadline;
        Poll::Ready(if is_idle { (TimeoutLayer::Idle, self.idle) } else { self.limit })
    }
}

impl<S, I, E, L> Stream for GuardedStream<'_, S, I, E, L>
where
    S: Stream<Item = Result<I, E>> + Unpin,
    I: Unpin,
    E: Classify,
    L: Fn(&I) -> bool + Unpin,
{
    type Item = Result<I, CallError<E>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.permit.is_none() {
            return Poll::Ready(None);
        }
        let item = match this.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None if this.is_cut => Poll::Ready(None),
            None => this.stream.poll_next_unpin(context),
        };
        let end = match item {
            Poll::Ready(Some(Ok(item))) => {
                this.waits = false;
                if !this.is_cut && (this.is_last)(&item) {
                    this.complete();
                }
                return Poll::Ready(Some(Ok(item)));
            }
            Poll::Ready(Some(Err(error))) => End::Error(error),
            Poll::Ready(None) => End::Cut,
            Poll::Pending => match this.poll_late(context) {
                Poll::Ready((layer, length)) => End::TimedOut(layer, length),
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(this.break_off(end).map(Err))
    }
}
