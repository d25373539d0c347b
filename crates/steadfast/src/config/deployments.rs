//! Where the calls of programs go: the same providers that agents' models have, asked with bytes.

use steadfast_providers::http::{ModelOptions, OptionsError};
use steadfast_providers::wire::{Dialect, Upstream, UpstreamOptions, Upstreams};
use steadfast_runtime::relay::Deployment;

use super::ModelSection;
use super::sections::Wire;

/// The deployment of a model. A simulated provider speaks both dialects.
pub(super) fn deployment(
    upstreams: &Upstreams,
    wire: Wire,
    options: &ModelOptions,
    section: &ModelSection,
) -> Result<Deployment, OptionsError> {
    let upstream = |dialect: Dialect, base_url: &str| {
        Upstream::new(
            upstreams,
            UpstreamOptions {
                name: options.provider.clone(),
                dialect,
                base_url: base_url.to_owned(),
                api_key: options.api_key.clone(),
                headers: options.headers.clone(),
            },
        )
    };
    let base = options.base_url.as_str();
    let (openai, anthropic) = match wire {
        Wire::OpenAi if options.simulated => {
            (Some(base), Some(base.strip_suffix("/v1").unwrap_or(base)))
        }
        Wire::OpenAi => (Some(base), None),
        Wire::Anthropic => (None, Some(base)),
    };
    Ok(Deployment {
        provider: options.provider.clone(),
        model: options.model.clone(),
        openai: openai.map(|base| upstream(Dialect::OpenAi, base)).transpose()?,
        anthropic: anthropic.map(|base| upstream(Dialect::Anthropic, base)).transpose()?,
        output_max: section.max_output_tokens.map(u64::from),
        simulated: options.simulated,
    })
}
