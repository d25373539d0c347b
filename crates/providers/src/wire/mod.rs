//! The wires themselves: bytes that come from a caller in some language and go to a provider, and back.
//!
//! What is between the two reads as little as it can and changes as little as it can. A request and an
//! answer that stay in one format keep every byte but those that are told here to change; what crosses
//! formats goes through [`translate`], and what cannot cross is an error. Nothing here retries, waits by
//! policy or counts money.
//!
//! ```text
//!   request   Peek (what is it?)  -> rewrite (model, usage, limit) -> Upstream
//!   answer    Upstream -> Frames -> Reader (what does it mean?)    -> the same bytes
//!                                \> translate                      -> another wire's bytes
//!   failure   WireFailure -> Failure -> status, headers, body or frames of the caller's wire
//! ```

mod facts;
mod failure;
mod frames;
mod models;
mod object;
mod peek;
mod reader;
mod rewrite;
pub mod translate;
mod upstream;
pub(crate) mod usage;

pub use crate::http::WireFailure;
pub use facts::AnswerFacts;
pub use failure::{
    BudgetFacts, Failure, FailureKind, MAX_RETRY_AFTER, failure_body, failure_frames,
};
pub use frames::{Frame, FrameTooLarge, Frames, MAX_FRAME_BYTES};
pub use models::{ListedModel, model_body, models_body};
pub use peek::{Peek, WireProblem};
pub use reader::{Meaning, Reader, Seen, UsageField};
pub use rewrite::{Rewrite, rewrite};
pub use upstream::{
    PoolLimits, Upstream, UpstreamAnswer, UpstreamBody, UpstreamOptions, Upstreams, answer_headers,
};

/// A format in which a model is asked and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// OpenAI Chat Completions.
    Chat,
    /// OpenAI Responses.
    Responses,
    /// OpenAI embeddings.
    Embeddings,
    /// Anthropic Messages.
    Messages,
    /// Anthropic's count of a request's tokens.
    CountTokens,
}

/// Whose errors, headers and lists a wire has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI, and everything compatible with it.
    OpenAi,
    /// Anthropic.
    Anthropic,
}

impl Wire {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Chat, Self::Responses, Self::Embeddings, Self::Messages, Self::CountTokens];

    /// What is added to a provider's base URL. OpenAI's holds `/v1` and Anthropic's does not, as in
    /// their SDKs.
    #[must_use]
    pub const fn upstream_path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Responses => "/responses",
            Self::Embeddings => "/embeddings",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
        }
    }

    /// The wire that a path asks for, with and without `/v1` before it.
    #[must_use]
    pub fn at(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        Some(match path {
            "/chat/completions" => Self::Chat,
            "/responses" => Self::Responses,
            "/embeddings" => Self::Embeddings,
            "/messages" => Self::Messages,
            "/messages/count_tokens" => Self::CountTokens,
            _ => return None,
        })
    }

    /// Whose errors and headers it has.
    #[must_use]
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Chat | Self::Responses | Self::Embeddings => Dialect::OpenAi,
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
        }
    }

    /// Whether its answers can be streams.
    #[must_use]
    pub const fn streams(self) -> bool {
        matches!(self, Self::Chat | Self::Responses | Self::Messages)
    }

    /// Its name in labels and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
        }
    }
}

impl Dialect {
    /// The header in which a key travels: `authorization` (as `Bearer KEY`) or `x-api-key`.
    #[must_use]
    pub const fn key_header(self) -> &'static str {
        match self {
            Self::OpenAi => "authorization",
            Self::Anthropic => "x-api-key",
        }
    }

    /// The header in which its SDKs look for a request's id.
    #[must_use]
    pub const fn request_id_header(self) -> &'static str {
        match self {
            Self::OpenAi => "x-request-id",
            Self::Anthropic => "request-id",
        }
    }
}

#[cfg(test)]
mod samples;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_wire_with_and_without_the_version() {
        for (path, wire) in [
            ("/v1/chat/completions", Some(Wire::Chat)),
            ("/chat/completions", Some(Wire::Chat)),
            ("/v1/responses", Some(Wire::Responses)),
            ("/embeddings", Some(Wire::Embeddings)),
            ("/messages", Some(Wire::Messages)),
            ("/v1/messages/count_tokens", Some(Wire::CountTokens)),
            ("/v1chat/completions", None),
            ("/v1/v1/messages", None),
            ("/v1", None),
        ] {
            assert_eq!(Wire::at(path), wire, "{path}");
        }
    }
}
