//! What is reserved for a relayed call, and what is known of its cost at any moment. Dropped, it is charged
//! with that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use steadfast_guard::Policy;
use steadfast_providers::model::Usage;
use steadfast_providers::wire::{Reader, Wire};
use tracing::warn;

use super::Inner;
use super::request::{Ask, Way};
use crate::ledger::{Money, NotReserved, Payer, Purchase, Reservation};

/// Bytes of text that are a token, for an answer that was cut: fewer than languages have on average, so that
/// the estimate is rather too high.
const TOKEN_BYTES: u64 = 3;

/// What has been seen of a streamed answer.
#[derive(Debug, Default)]
pub(super) struct Tally {
    usage: Usage,
    is_final: bool,
    is_begun: bool,
    output_bytes: u64,
    model: String,
    pub(super) next_sequence: u64,
    /// The provider's headers.
    pub(super) headers: HeaderMap,
}

impl Tally {
    pub(super) fn note(&mut self, reader: &Reader) {
        self.usage = *reader.usage();
        self.is_final = reader.usage_is_final();
        self.is_begun = reader.has_content() || self.usage != Usage::default();
        self.output_bytes = reader.output_bytes();
        self.next_sequence = reader.next_sequence();
        if self.model.is_empty() {
            reader.model().clone_into(&mut self.model);
        }
    }

    /// What it has used as far as can be told.
    fn estimate(&self, input_bound: u64) -> Usage {
        let mut usage = self.usage;
        if usage.input_total() == 0 {
            usage.input_uncached = Some(input_bound);
        }
        let seen = self.output_bytes.div_ceil(TOKEN_BYTES);
        usage.output = Some(usage.output.unwrap_or(0).max(seen));
        usage
    }
}

/// How long a call may take at most.
const fn longest(ask: &Ask, policy: &Policy) -> Duration {
    let attempts = policy.total_timeout;
    if ask.peek.stream { attempts.saturating_add(policy.stream_timeout) } else { attempts }
}

/// A call that is paid for.
pub(super) struct Paid {
    reservation: Option<Reservation>,
    /// Whether any attempt has left: until then nobody can charge for it.
    has_left: AtomicBool,
    input_bound: u64,
    pub(super) cap: Option<u64>,
    pub(super) tally: Arc<Mutex<Tally>>,
}

impl Paid {
    /// Reserves for a call that goes this way. To count tokens costs nothing.
    pub(super) async fn reserve(inner: &Inner, ask: &Ask, way: &Way) -> Result<Self, NotReserved> {
        let (has_left, input_bound, tally) =
            (AtomicBool::new(false), ask.input_bound, Arc::default());
        if ask.wire == Wire::CountTokens {
            return Ok(Self { reservation: None, has_left, input_bound, cap: None, tally });
        }
        let deployment = way.deployment.as_ref();
        let model = Some(format!("{}/{}", deployment.provider, deployment.model));
        let payer = Payer { model, ..ask.payer.clone() };
        let purchase = Purchase {
            payer: &payer,
            provider: &deployment.provider,
            model: &deployment.model,
            input_tokens: input_bound,
            output_max: ask.output_max(),
            long_cache: ask.long_cache,
            audio: ask.peek.has_audio,
            service: ask.peek.service_tier.as_deref(),
            simulated: deployment.simulated,
            within: longest(ask, &way.guard.policy()),
        };
        let reservation = inner.cashier.reserve(purchase).await?;
        for nearing in reservation.nearing() {
            warn!("{nearing}");
        }
        let cap = reservation.cap();
        Ok(Self { reservation: Some(reservation), has_left, input_bound, cap, tally })
    }

    /// An attempt leaves now.
    pub(super) fn leaves(&self) {
        self.has_left.store(true, Ordering::Release);
    }

    /// Charges what the answer says.
    pub(super) fn settle(mut self, model: &str, usage: Usage) -> Option<Money> {
        let reservation = self.reservation.take()?;
        Some(reservation.settle(model, usage, false).cost)
    }

    /// Charges nothing: nobody else does.
    pub(super) fn release(mut self) {
        if let Some(reservation) = self.reservation.take() {
            reservation.release();
        }
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        let Some(mut reservation) = self.reservation.take() else { return };
        if !*self.has_left.get_mut() {
            return reservation.release();
        }
        reservation.sent();
        let tally = self.tally.lock();
        if tally.is_final {
            reservation.settle(&tally.model, tally.usage, false);
        } else if tally.is_begun {
            // Settled with it by its own drop.
            reservation.seen(tally.estimate(self.input_bound));
        }
    }
}
