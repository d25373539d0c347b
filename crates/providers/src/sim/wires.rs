//! What a request asks and how it is answered, wire by wire.

use serde_json::{Value, json};

use super::conversation::Conversation;
use super::embeddings::Inputs;
use super::reply::Head;
use super::script::Reply;
use super::{anthropic, embeddings, openai, responses};
use crate::wire::{Dialect, Wire};

/// A request, read.
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) with_usage: bool,
    pub(super) conversation: Conversation,
    /// What is to be embedded; no step of the script answers that.
    pub(super) inputs: Option<Inputs>,
}

impl Asked {
    pub(super) fn read(wire: Wire, body: &[u8]) -> Result<Self, String> {
        let json: Value = serde_json::from_slice(body)
            .map_err(|error| format!("the request is not JSON: {error}"))?;
        let model = json.get("model").and_then(Value::as_str).ok_or("model: it is missing")?;
        if wire == Wire::Messages && json.get("max_tokens").is_none_or(|n| !n.is_u64()) {
            return Err("max_tokens: it is missing or not a number".to_owned());
        }
        let messages = || {
            let messages = json.get("messages").and_then(Value::as_array);
            let messages = messages.filter(|messages| !messages.is_empty());
            messages.ok_or("messages: at least one is needed")
        };
        let mut inputs = None;
        let conversation = match wire {
            Wire::Chat => openai::conversation(messages()?)?,
            Wire::Messages | Wire::CountTokens => anthropic::conversation(messages()?)?,
            Wire::Responses => responses::conversation(&json)?,
            Wire::Embeddings => {
                inputs = Some(Inputs::read(&json)?);
                Conversation::default()
            }
        };
        let is = |pointer: &str| json.pointer(pointer).is_some_and(|value| value == true);
        Ok(Self {
            model: model.to_owned(),
            stream: wire.streams() && is("/stream"),
            with_usage: is("/stream_options/include_usage"),
            conversation,
            inputs,
        })
    }
}

pub(super) const fn path(wire: Wire) -> &'static str {
    match wire {
        Wire::Chat => "/v1/chat/completions",
        Wire::Responses => "/v1/responses",
        Wire::Embeddings => "/v1/embeddings",
        Wire::Messages => "/v1/messages",
        Wire::CountTokens => "/v1/messages/count_tokens",
    }
}

/// The whole answer.
pub(super) fn plain(wire: Wire, head: &Head, reply: &Reply, inputs: Option<&Inputs>) -> Value {
    match wire {
        Wire::Chat => openai::plain(head, reply),
        Wire::Responses => responses::plain(head, reply),
        Wire::Messages => anthropic::plain(head, reply),
        Wire::CountTokens => json!({"input_tokens": reply.usage.input}),
        Wire::Embeddings => embeddings::plain(head, reply, inputs),
    }
}

/// The answer's events.
pub(super) fn events(wire: Wire, head: &Head, reply: &Reply, with_usage: bool) -> Vec<String> {
    match wire {
        Wire::Chat | Wire::Embeddings => openai::events(head, reply, with_usage),
        Wire::Responses => responses::events(head, reply),
        Wire::Messages | Wire::CountTokens => anthropic::events(head, reply),
    }
}

/// An error answer.
pub(super) fn error(wire: Wire, status: u16, message: &str) -> Value {
    match wire.dialect() {
        Dialect::OpenAi => openai::error(status, message),
        Dialect::Anthropic => anthropic::error(status, message),
    }
}

/// An error within a stream.
pub(super) fn error_event(wire: Wire, message: &str) -> String {
    match wire {
        Wire::Chat | Wire::Embeddings => format!("data: {}\n\n", openai::error(500, message)),
        Wire::Responses => responses::error_event(message),
        Wire::Messages | Wire::CountTokens => {
            format!("event: error\ndata: {}\n\n", anthropic::error(529, message))
        }
    }
}
