//! Where a model's calls go as bytes.

use steadfast_providers::wire::{Dialect, Upstream, Wire};

/// A model at its provider, asked with the caller's own bytes.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The provider, as it is named in the configuration and in price tables.
    pub provider: String,
    /// The model, as the provider names it.
    pub model: String,
    /// Where it is asked on OpenAI's wires, if it can be.
    pub openai: Option<Upstream>,
    /// Where it is asked on Anthropic's wires, if it can be.
    pub anthropic: Option<Upstream>,
    /// The longest answer in tokens where a wire demands a figure that the request does not have.
    pub output_max: Option<u64>,
    /// Its answers are scripted and cost nothing.
    pub simulated: bool,
}

impl Deployment {
    /// The wire on which a request of the wire `asked` goes there: the same if it can be, otherwise the one
    /// that it can be translated to; `None` if there is none.
    pub(super) fn wire_for(&self, asked: Wire) -> Option<(Wire, &Upstream)> {
        let native = self.upstream(asked.dialect()).map(|upstream| (asked, upstream));
        let other = match asked {
            Wire::Chat => Some(Wire::Messages),
            Wire::Messages => Some(Wire::Chat),
            Wire::Responses | Wire::Embeddings | Wire::CountTokens => None,
        };
        native.or_else(|| {
            let other = other?;
            self.upstream(other.dialect()).map(|upstream| (other, upstream))
        })
    }

    const fn upstream(&self, dialect: Dialect) -> Option<&Upstream> {
        match dialect {
            Dialect::OpenAi => self.openai.as_ref(),
            Dialect::Anthropic => self.anthropic.as_ref(),
        }
    }
}
