//! What a relayed call is: what it asks for, and the ways that may answer it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use steadfast_guard::{Admitted, Guard};
use steadfast_providers::tokens;
use steadfast_providers::wire::translate::{self, Target};
use steadfast_providers::wire::{
    Failure, FailureKind, Peek, Rewrite, Upstream, Wire, WireProblem, rewrite,
};

use super::{Deployment, HangUp, RelayCall};
use crate::catalog::{Catalog, ModelEntry};
use crate::fallback::FallbackRule;
use crate::ledger::{ANSWER_MAX, Payer};

/// A call that has been read.
pub(super) struct Ask {
    pub(super) wire: Wire,
    pub(super) peek: Peek,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) request_id: String,
    pub(super) payer: Payer,
    /// How long its caller waits: for a whole answer, or for a stream's first piece.
    pub(super) within: Option<Duration>,
    pub(super) repeated: bool,
    pub(super) hang_up: HangUp,
    /// Input tokens at most.
    pub(super) input_bound: u64,
    /// Whether it asks for cache entries that live for an hour.
    pub(super) long_cache: bool,
    /// What an answer must pass while other ways are left.
    pub(super) rule: Option<Arc<FallbackRule>>,
    /// The first is what was asked for; never empty.
    pub(super) ways: Vec<Way>,
    /// Its place within the limits of its key.
    _admitted: Option<Admitted>,
}

/// One deployment that may answer.
pub(super) struct Way {
    pub(super) guard: Guard,
    pub(super) deployment: Arc<Deployment>,
    /// On which wire it is asked.
    pub(super) wire: Wire,
}

impl Way {
    fn of(entry: &ModelEntry, asked: Wire) -> Option<Self> {
        let deployment = entry.deployment.clone()?;
        let (wire, _) = deployment.wire_for(asked)?;
        Some(Self { guard: entry.guard.clone(), deployment, wire })
    }

    /// Where it is asked. The wire was chosen by it.
    pub(super) fn upstream(&self, asked: Wire) -> Option<Upstream> {
        self.deployment.wire_for(asked).map(|(_, upstream)| upstream.clone())
    }
}

impl Ask {
    /// Reads a call and finds its ways.
    pub(super) fn read(catalog: &Catalog, call: RelayCall) -> Result<Self, Box<Failure>> {
        let RelayCall { wire, headers, body, request_id, payer, repeated, hang_up, .. } = call;
        let peek = Peek::read(wire, &body).map_err(|problem| Failure::from(&problem))?;
        if let Some(key) = call.key.as_ref().filter(|key| !key.allows(&peek.model)) {
            let (id, model) = (&key.id, &peek.model);
            let message = format!("key `{id}` may not ask model `{model}`");
            return Err(Failure::new(FailureKind::NotAllowed, message).into());
        }
        let within = if peek.stream { call.first_within } else { call.within };
        let known = catalog.model(&peek.model).filter(|entry| entry.deployment.is_some());
        let Some(entry) = known else {
            let names = catalog.models().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
            let message = format!("there is no model `{}`; there are: {names}", peek.model);
            return Err(Failure::new(FailureKind::UnknownModel, message).into());
        };
        let rule = entry.fallback.clone();
        let others = rule.iter().flat_map(|rule| &rule.to);
        let others = others.filter_map(|name| catalog.model(name));
        let ways: Vec<Way> =
            std::iter::once(entry).chain(others).filter_map(|entry| Way::of(entry, wire)).collect();
        if ways.is_empty() {
            let (model, wire) = (&peek.model, wire.name());
            let message = format!(
                "the provider of model `{model}` does not speak the {wire} wire, and nothing can \
                 translate to the one that it speaks"
            );
            return Err(Failure::new(FailureKind::UnknownModel, message).into());
        }
        let input_bound = tokens::upper_bound(&body);
        let long_cache = std::str::from_utf8(&body).is_ok_and(|text| text.contains("\"1h\""));
        Ok(Self {
            wire,
            peek,
            headers,
            body,
            request_id,
            payer,
            within,
            repeated,
            hang_up,
            input_bound,
            long_cache,
            rule,
            ways,
            _admitted: call.admitted,
        })
    }

    /// Output tokens at most, of all its answers together, if it says that.
    pub(super) fn output_max(&self) -> Option<u64> {
        match self.wire {
            Wire::Embeddings | Wire::CountTokens => Some(0),
            Wire::Chat | Wire::Responses | Wire::Messages => {
                self.peek.max_output_tokens.map(|most| most.saturating_mul(self.peek.choices))
            }
        }
    }

    /// Its bytes for one way. `cap` is the longest answer in tokens, all its answers together, that it must
    /// ask for because it does not say.
    pub(super) fn body_for(&self, way: &Way, cap: Option<u64>) -> Result<Bytes, WireProblem> {
        let model = way.deployment.model.as_str();
        let most = cap.map(|cap| (cap / self.peek.choices.max(1)).max(1));
        let change = Rewrite {
            model: Some(model.to_owned()),
            include_usage: self.peek.stream && way.wire == Wire::Chat,
            max_output: most,
        };
        if way.wire == self.wire {
            return Ok(rewrite(way.wire, &self.body, &change));
        }
        let default_max_output = most.or(way.deployment.output_max).unwrap_or(ANSWER_MAX);
        let target = Target { model, default_max_output };
        let body = translate::request(self.wire, way.wire, &self.body, &target)?;
        Ok(rewrite(way.wire, &body, &change))
    }
}
