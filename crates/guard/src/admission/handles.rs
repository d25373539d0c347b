//! What callers hold of admission: a permit, a place in the queue. Each gives itself back when it is dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Admission, Cost, Grant, Settlement, Slot, Turn, Waiter, wake};
use crate::{Rejection, Verdict};

/// The right to make one call now. Dropping it gives back the permit and the probe slot, and says nothing
/// about the dependency's health; what was reserved stays taken, because the call may have left.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    pub(super) admission: &'a Admission,
    pub(super) grant: Option<Grant>,
}

impl Permit<'_> {
    /// How long the attempt may take.
    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.grant.map_or(Duration::ZERO, |grant| grant.attempt_timeout)
    }

    /// Gives the permit back with what the end of the attempt says.
    pub(crate) fn settle(mut self, settlement: Settlement) {
        if let Some(grant) = self.grant.take() {
            self.admission.release(grant, settlement);
        }
    }
}

/// The end of a call that was given up.
fn given_up(cost: Cost) -> Settlement {
    let (took, at) = (Duration::ZERO, Instant::now());
    Settlement { verdict: Verdict::Neutral, timed_out: false, took, cost, at }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.admission.release(grant, given_up(Cost::AsReserved));
        }
    }
}

/// A place in the queue. Resolves to a permit or a refusal; dropping it gives up the place, or passes on
/// the permit that had been granted and not yet been seen.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    pub(super) admission: &'a Admission,
    pub(super) waiter: Arc<Waiter>,
    /// Set while it is the next in line and waits for a bucket to fill.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Waiting<'a> {
    /// The answer, if it is there; otherwise the waker is put where the answer will come.
    fn look(&self, waker: &Waker) -> Poll<Result<Permit<'a>, Rejection>> {
        let mut slot = self.waiter.slot.lock();
        let replaced = match &mut *slot {
            Slot::Waiting(Some(known)) if known.will_wake(waker) => return Poll::Pending,
            Slot::Waiting(place) => place.replace(waker.clone()),
            Slot::Granted(_) | Slot::Refused(_) | Slot::Taken => {
                return match std::mem::replace(&mut *slot, Slot::Taken) {
                    Slot::Granted(grant) => {
                        Poll::Ready(Ok(Permit { admission: self.admission, grant: Some(grant) }))
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

    /// Sets the timer to `at` and polls it.
    fn poll_timer(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(context)
    }
}

impl<'a> Future for Waiting<'a> {
    type Output = Result<Permit<'a>, Rejection>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Poll::Ready(answer) = self.look(context.waker()) {
                return Poll::Ready(answer);
            }
            match self.admission.turn(&self.waiter, Instant::now()) {
                Turn::IsAnswered => {}
                Turn::LooksAt(at) if self.poll_timer(at, context).is_ready() => {}
                Turn::LooksAt(_) | Turn::Waits => return Poll::Pending,
            }
        }
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
            Slot::Waiting(_) => {
                state.queue.remove(&self.waiter);
                // It may have been what the others waited behind.
                wakers = state.serve_queue(Instant::now());
            }
            Slot::Granted(grant) => wakers = state.release(*grant, given_up(Cost::NotSent)),
            Slot::Refused(_) | Slot::Taken => {}
        }
        drop(state);
        drop(slot);
        wake(wakers);
    }
}
