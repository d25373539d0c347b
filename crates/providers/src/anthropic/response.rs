//! A whole Anthropic answer, and what it shares with a streamed one.

use serde::Deserialize;
use serde_json::Value;

use crate::http::WireFailure;
use crate::model::{FinishReason, ModelAnswer, ToolCall, Usage};
use crate::wire::usage::merge_messages;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    model: String,
    content: Vec<Block>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Option<Value>,
}

/// A block of content; of kinds that are not asked for (thinking, citations) nothing is kept.
#[derive(Deserialize)]
pub(super) struct Block {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) text: Option<String>,
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) input: Option<Value>,
}

/// Reads a whole answer.
pub(crate) fn read(bytes: &[u8]) -> Result<ModelAnswer, WireFailure> {
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|error| WireFailure::malformed(format!("the answer is not JSON: {error}")))?;
    if json.get("error").is_some_and(|error| !error.is_null()) {
        return Err(WireFailure::in_stream(&json));
    }
    let answer: Answer = serde_json::from_value(json)
        .map_err(|error| WireFailure::malformed(format!("the answer is not a message: {error}")))?;
    let mut text = String::new();
    let mut tool_calls = Vec::new();
    for block in answer.content {
        match block.kind.as_str() {
            "text" => text.push_str(&block.text.unwrap_or_default()),
            "tool_use" => {
                let (Some(id), Some(name)) = (block.id, block.name) else {
                    return Err(WireFailure::malformed("a tool call has no id or no name"));
                };
                let arguments =
                    block.input.map_or_else(|| "{}".to_owned(), |input| input.to_string());
                tool_calls.push(ToolCall { id, name, arguments });
            }
            _ => {}
        }
    }
    let mut usage = Usage::default();
    if let Some(reported) = &answer.usage {
        merge_messages(&mut usage, reported);
    }
    Ok(ModelAnswer {
        text,
        tool_calls,
        finish: finish_reason(answer.stop_reason.as_deref()),
        usage,
        model: answer.model,
    })
}

pub(crate) fn finish_reason(reason: Option<&str>) -> FinishReason {
    match reason {
        Some("end_turn" | "stop_sequence") => FinishReason::Stop,
        Some("tool_use") => FinishReason::ToolCalls,
        Some("max_tokens" | "model_context_window_exceeded") => FinishReason::Length,
        Some("refusal") => FinishReason::Refused,
        _ => FinishReason::Other,
    }
}
