//! A whole answer, read for its usage and for whoever checks whether it is one.

use serde_json::Value;

use super::reader::responses_finish;
use super::{Wire, WireFailure, usage};
use crate::model::{FinishReason, ServiceTier, ToolCall, Usage};
use crate::{anthropic, openai};

/// What stands in a whole JSON answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFacts {
    /// What it cost, as far as the provider said.
    pub usage: Usage,
    /// Why it ended. What is not text has [`FinishReason::Stop`].
    pub finish: FinishReason,
    /// The model that answered, as the provider names it; empty if it does not.
    pub model: String,
    /// The text of the first choice; a refusal's, if there is nothing else.
    pub text: String,
    /// The tools it calls.
    pub tool_calls: Vec<ToolCall>,
    /// Of embeddings: how many vectors.
    pub vectors: usize,
    /// Of a count of tokens: the count.
    pub counted: Option<u64>,
}

impl AnswerFacts {
    /// Reads an answer.
    ///
    /// # Errors
    /// [`WireFailure`] of class `malformed` if it is not one, and of the error's class if it is an error
    /// that came with a good status.
    pub fn read(wire: Wire, body: &[u8]) -> Result<Self, WireFailure> {
        let answer = match wire {
            Wire::Chat => openai::response::read(body)?,
            Wire::Messages => anthropic::response::read(body)?,
            Wire::Responses => return response(&parsed(body)?),
            Wire::Embeddings => return embeddings(&parsed(body)?),
            Wire::CountTokens => return count(&parsed(body)?),
        };
        Ok(Self {
            usage: answer.usage,
            finish: answer.finish,
            model: answer.model,
            text: answer.text,
            tool_calls: answer.tool_calls,
            ..Self::empty()
        })
    }

    fn empty() -> Self {
        Self {
            usage: Usage::default(),
            finish: FinishReason::Stop,
            model: String::new(),
            text: String::new(),
            tool_calls: Vec::new(),
            vectors: 0,
            counted: None,
        }
    }
}

fn parsed(body: &[u8]) -> Result<Value, WireFailure> {
    let json: Value = serde_json::from_slice(body)
        .map_err(|error| WireFailure::malformed(format!("the answer is not JSON: {error}")))?;
    if json.get("error").is_some_and(|error| !error.is_null()) {
        return Err(WireFailure::in_stream(&json));
    }
    Ok(json)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn response(json: &Value) -> Result<AnswerFacts, WireFailure> {
    let output = json
        .get("output")
        .and_then(Value::as_array)
        .ok_or_else(|| WireFailure::malformed("the answer is no response: it has no `output`"))?;
    let mut facts = AnswerFacts { model: text(json, "model").to_owned(), ..AnswerFacts::empty() };
    let mut refusal = String::new();
    for item in output {
        match text(item, "type") {
            "message" => {
                let parts = item.get("content").and_then(Value::as_array);
                for part in parts.into_iter().flatten() {
                    facts.text.push_str(text(part, "text"));
                    refusal.push_str(text(part, "refusal"));
                }
            }
            "function_call" => facts.tool_calls.push(ToolCall {
                id: text(item, "call_id").to_owned(),
                name: text(item, "name").to_owned(),
                arguments: text(item, "arguments").to_owned(),
            }),
            _ => {}
        }
    }
    let reason = json.pointer("/incomplete_details/reason").and_then(Value::as_str);
    let (calls, refused) = (!facts.tool_calls.is_empty(), !refusal.is_empty());
    facts.finish = responses_finish(text(json, "status"), reason, calls, refused);
    if facts.text.is_empty() {
        facts.text = refusal;
    }
    facts.usage = json.get("usage").map(usage::responses).unwrap_or_default();
    let tier = ServiceTier::named(text(json, "service_tier"));
    facts.usage.service_tier = tier.or(facts.usage.service_tier);
    Ok(facts)
}

fn embeddings(json: &Value) -> Result<AnswerFacts, WireFailure> {
    let data = json
        .get("data")
        .and_then(Value::as_array)
        .ok_or_else(|| WireFailure::malformed("the answer is no list: it has no `data`"))?;
    Ok(AnswerFacts {
        usage: json.get("usage").map(usage::chat).unwrap_or_default(),
        model: text(json, "model").to_owned(),
        vectors: data.len(),
        ..AnswerFacts::empty()
    })
}

fn count(json: &Value) -> Result<AnswerFacts, WireFailure> {
    let counted = json.get("input_tokens").and_then(Value::as_u64).ok_or_else(|| {
        WireFailure::malformed("the answer is no count: it has no `input_tokens`")
    })?;
    Ok(AnswerFacts { counted: Some(counted), ..AnswerFacts::empty() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use steadfast_guard::ErrorClass;

    fn facts(wire: Wire, body: &Value) -> AnswerFacts {
        AnswerFacts::read(wire, body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn each_wires_answer_tells_its_usage_its_end_and_its_text() {
        let chat = facts(
            Wire::Chat,
            &json!({"model": "m", "service_tier": "priority", "choices": [{"finish_reason": "stop",
                "message": {"content": null, "refusal": "No."}}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
        );
        assert_eq!((chat.finish, chat.text.as_str()), (FinishReason::Refused, "No."));
        assert_eq!(chat.usage.service_tier, Some(ServiceTier::Priority));
        let message = facts(
            Wire::Messages,
            &json!({"model": "c", "stop_reason": "tool_use", "content": [
                {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"},
                {"type": "tool_use", "id": "i", "name": "n", "input": {"a": 1}}],
                "usage": {"input_tokens": 3, "output_tokens": 1}}),
        );
        assert_eq!((message.finish, message.tool_calls.len()), (FinishReason::ToolCalls, 1));
        let response = facts(
            Wire::Responses,
            &json!({"model": "m", "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"}, "output": [
                {"type": "reasoning"}, {"type": "message", "content": [
                    {"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}],
                "usage": {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 4},
                    "output_tokens": 2}}),
        );
        assert_eq!((response.finish, response.text.as_str()), (FinishReason::Length, "ab"));
        assert_eq!(response.tool_calls[0].id, "c");
        assert_eq!((response.usage.input_uncached, response.usage.output), (Some(1), Some(2)));
        let vectors = facts(
            Wire::Embeddings,
            &json!({"data": [{}, {}], "model": "e", "usage": {"prompt_tokens": 8}}),
        );
        assert_eq!((vectors.vectors, vectors.usage.total()), (2, Some(8)));
        let count = facts(Wire::CountTokens, &json!({"input_tokens": 9}));
        assert_eq!((count.counted, count.usage), (Some(9), Usage::default()));
    }

    #[test]
    fn what_is_no_answer_and_an_error_with_a_good_status_are_failures() {
        for wire in Wire::ALL {
            for bad in ["", "{", "[]", "{}"] {
                let failure = AnswerFacts::read(wire, bad.as_bytes()).unwrap_err();
                assert_eq!(failure.class, ErrorClass::Malformed, "{wire:?} {bad}");
            }
            let error = br#"{"error":{"type":"overloaded_error","message":"m"}}"#;
            let failure = AnswerFacts::read(wire, error).unwrap_err();
            assert_eq!(failure.class, ErrorClass::Unavailable, "{wire:?}");
            assert_eq!(failure.kind, "overloaded_error");
        }
    }
}
