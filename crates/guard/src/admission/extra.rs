//! What calls do beyond their first attempt: retries, hedges and fallbacks share one budget
//! ([`RetryBudget`]), so that a dependency that fails is not asked much more often than one that works.

use tokio::time::Instant;

use super::{Admission, Permit};
use crate::{CallContext, RetryBudget};

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

impl Admission {
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

    /// Takes a place for a fallback, which is never refused one: while many calls go other ways, retries
    /// and hedges are what yields.
    pub(crate) fn fall_back(&self) -> Withdrawal<'_> {
        self.state.lock().extra += 1;
        Withdrawal { admission: self }
    }

    /// A permit for a hedge: only what is free at once, in front of a dependency that is well, and never
    /// a place in the queue.
    pub(crate) fn spare(&self, context: &CallContext, now: Instant) -> Option<Permit<'_>> {
        let mut state = self.state.lock();
        let is_free = state.in_flight < state.limit && state.queue.is_empty();
        if !is_free || !state.breaker.is_closed() || state.refusal(now).is_some() {
            return None;
        }
        if !state.rate_wait(context.tokens, now).is_zero() {
            return None;
        }
        let grant = state.grant(context.tokens, now).ok()?;
        Some(Permit { admission: self, grant: Some(grant) })
    }
}
