//! The limits of keys on this node: a limiter for each key that has limits and is in use.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use steadfast_guard::{Admitted, Limiter, OverLimit};

use super::key::AccessKey;

/// Limiters that are kept without looking which are idle.
const SWEPT_FROM: usize = 1024;

/// A limiter for each key that is in use. One that is as a new one would be is dropped when there are many:
/// so they are at most about twice as many as keys that were used within the last minute.
#[derive(Debug)]
pub(super) struct KeyLimiters {
    limiters: Mutex<Limiters>,
}

#[derive(Debug)]
struct Limiters {
    by_key: HashMap<String, Arc<Limiter>>,
    sweep_at: usize,
}

impl Default for KeyLimiters {
    fn default() -> Self {
        let limiters = Limiters { by_key: HashMap::new(), sweep_at: SWEPT_FROM };
        Self { limiters: Mutex::new(limiters) }
    }
}

impl KeyLimiters {
    /// Lets one call of a key go that expects to cost so many tokens, or says when to come again; `None` if
    /// the key has no limits. Changed limits count from the next call on; what was used stays used.
    ///
    /// # Errors
    /// The limit that was met; nothing was taken then.
    pub(super) fn admit(
        &self,
        key: &AccessKey,
        tokens: u64,
    ) -> Result<Option<Admitted>, OverLimit> {
        let policy = key.spec.limits.policy();
        if !policy.is_limited() {
            return Ok(None);
        }
        // Limits were checked when the key was written. Ones that cannot be kept let nothing through.
        let nothing = |_| OverLimit::AtOnce { limit: 0 };
        let known = self.limiters.lock().by_key.get(&key.id).cloned();
        let limiter = match known {
            Some(limiter) => {
                limiter.fit(policy).map_err(nothing)?;
                limiter
            }
            None => self.limiters.lock().keep(&key.id, Limiter::new(policy).map_err(nothing)?),
        };
        limiter.admit(tokens).map(Some)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.limiters.lock().by_key.len()
    }
}

impl Limiters {
    /// The limiter of a key: this one, unless somebody has made one meanwhile.
    fn keep(&mut self, id: &str, limiter: Limiter) -> Arc<Limiter> {
        if self.by_key.len() >= self.sweep_at {
            // One that somebody holds is about to be used.
            self.by_key.retain(|_, limiter| Arc::strong_count(limiter) > 1 || !limiter.is_idle());
            self.sweep_at = SWEPT_FROM.max(2 * self.by_key.len());
        }
        Arc::clone(self.by_key.entry(id.to_owned()).or_insert_with(|| Arc::new(limiter)))
    }
}
