//! A whole Anthropic answer, and what it shares with a streamed one.

use serde::Deserialize;
use serde_json::Value;

use crate::http::WireError;
use crate::model::{FinishReason, ModelAnswer, ToolCall, Usage};

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
pub(super) fn read(bytes: &[u8]) -> Result<ModelAnswer, WireError> {
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|error| WireError::malformed(format!("the answer is not JSON: {error}")))?;
    if json.get("error").is_some_and(|error| !error.is_null()) {
        return Err(WireError::in_stream(&json));
    }
    let answer: Answer = serde_json::from_value(json)
        .map_err(|error| WireError::malformed(format!("the answer is not a message: {error}")))?;
    let mut text = String::new();
    let mut tool_calls = Vec::new();
    for block in answer.content {
        match block.kind.as_str() {
            "text" => text.push_str(&block.text.unwrap_or_default()),
            "tool_use" => {
                let (Some(id), Some(name)) = (block.id, block.name) else {
                    return Err(WireError::malformed("a tool call has no id or no name"));
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
        merge_usage(&mut usage, reported);
    }
    Ok(ModelAnswer {
        text,
        tool_calls,
        finish: finish_reason(answer.stop_reason.as_deref()),
        usage,
        model: answer.model,
    })
}

pub(super) fn finish_reason(reason: Option<&str>) -> FinishReason {
    match reason {
        Some("end_turn" | "stop_sequence") => FinishReason::Stop,
        Some("tool_use") => FinishReason::ToolCalls,
        Some("max_tokens" | "model_context_window_exceeded") => FinishReason::Length,
        Some("refusal") => FinishReason::Refused,
        _ => FinishReason::Other,
    }
}

/// Takes over what a usage object says. Its figures are totals so far, so later ones win; what it
/// leaves out stays. `input_tokens` is without the cached ones.
pub(super) fn merge_usage(usage: &mut Usage, reported: &Value) {
    let number = |name: &str| reported.get(name).and_then(Value::as_u64);
    usage.input_uncached = number("input_tokens").or(usage.input_uncached);
    usage.cache_read = number("cache_read_input_tokens").or(usage.cache_read);
    usage.cache_write = number("cache_creation_input_tokens").or(usage.cache_write);
    // The rest of the total is kept for minutes: with server tools this covers the first round only.
    let hour =
        reported.pointer("/cache_creation/ephemeral_1h_input_tokens").and_then(Value::as_u64);
    usage.cache_write_1h = hour.or(usage.cache_write_1h);
    usage.output = number("output_tokens").or(usage.output);
    let reasoning =
        reported.pointer("/output_tokens_details/thinking_tokens").and_then(Value::as_u64);
    usage.output_reasoning = reasoning.or(usage.output_reasoning);
}
