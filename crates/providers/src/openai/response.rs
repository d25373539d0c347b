//! A whole OpenAI answer, and what it shares with a streamed one.

use serde::Deserialize;
use serde_json::Value;

use crate::http::WireFailure;
use crate::model::{FinishReason, ModelAnswer, ServiceTier, ToolCall, Usage};

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    service_tier: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    message: Option<AnswerMessage>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct AnswerMessage {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<AnswerCall>>,
}

#[derive(Deserialize)]
struct AnswerCall {
    #[serde(default)]
    id: Option<String>,
    function: AnswerFunction,
}

#[derive(Deserialize)]
struct AnswerFunction {
    name: String,
    /// A string, and from some servers an object.
    #[serde(default)]
    arguments: Value,
}

/// Reads a whole answer.
pub(crate) fn read(bytes: &[u8]) -> Result<ModelAnswer, WireFailure> {
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|error| WireFailure::malformed(format!("the answer is not JSON: {error}")))?;
    // Some gateways answer 200 with an error object.
    if json.get("error").is_some_and(|error| !error.is_null()) {
        return Err(WireFailure::in_stream(&json));
    }
    let completion: Completion = serde_json::from_value(json).map_err(|error| {
        WireFailure::malformed(format!("the answer is not a completion: {error}"))
    })?;
    let choice = completion.choices.unwrap_or_default().into_iter().next();
    let (message, finish) = choice
        .and_then(|choice| Some((choice.message?, choice.finish_reason)))
        .ok_or_else(|| WireFailure::malformed("the answer has no choice with a message"))?;
    let id = completion.id.unwrap_or_default();
    let mut tool_calls = Vec::new();
    for (index, call) in message.tool_calls.unwrap_or_default().into_iter().enumerate() {
        let arguments = match call.function.arguments {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let id = call_id(call.id, &id, index);
        tool_calls.push(ToolCall { id, name: call.function.name, arguments });
    }
    let refused = message.refusal.as_ref().is_some_and(|text| !text.is_empty());
    let text = message.content.unwrap_or_default();
    Ok(ModelAnswer {
        finish: finish_reason(finish.as_deref(), !tool_calls.is_empty(), refused),
        text: if refused && text.is_empty() { message.refusal.unwrap_or_default() } else { text },
        tool_calls,
        usage: reported(completion.usage.as_ref(), completion.service_tier.as_deref()),
        model: completion.model.unwrap_or_default(),
    })
}

/// The call's own id; for a server that gives none, one that is unique as long as answers are.
pub(crate) fn call_id(id: Option<String>, answer_id: &str, index: usize) -> String {
    id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("call_{answer_id}_{index}"))
}

pub(crate) fn finish_reason(reason: Option<&str>, has_calls: bool, refused: bool) -> FinishReason {
    match reason {
        Some("content_filter") => FinishReason::Refused,
        Some("length") => FinishReason::Length,
        _ if refused => FinishReason::Refused,
        // Some servers say `stop` although they call tools.
        Some("tool_calls" | "function_call" | "stop") if has_calls => FinishReason::ToolCalls,
        Some("stop" | "tool_calls" | "function_call") => FinishReason::Stop,
        _ => FinishReason::Other,
    }
}

/// The usage, with the tier that stands beside it.
pub(crate) fn reported(usage: Option<&Value>, tier: Option<&str>) -> Usage {
    let mut usage = usage.map(crate::wire::usage::chat).unwrap_or_default();
    usage.service_tier = tier.and_then(ServiceTier::named).or(usage.service_tier);
    usage
}
