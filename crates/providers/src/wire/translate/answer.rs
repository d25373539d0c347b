//! A whole answer on the other wire.

use serde_json::{Map, Value, json};

use super::{Head, arguments, items, no_way, text};
use crate::model::Usage;
use crate::wire::{Wire, WireFailure, usage};

/// A whole answer, translated.
pub(crate) fn whole(
    from: Wire,
    to: Wire,
    answer: &Value,
    head: &Head,
) -> Result<Value, WireFailure> {
    match (from, to) {
        (Wire::Chat, Wire::Messages) => message(answer),
        (Wire::Messages, Wire::Chat) => completion(answer, head),
        _ => Err(WireFailure::malformed(no_way(from, to))),
    }
}

fn message(answer: &Value) -> Result<Value, WireFailure> {
    let [choice] = items(answer, "choices") else {
        return Err(WireFailure::malformed("the answer does not have exactly one choice"));
    };
    let said = choice.get("message").filter(|message| message.is_object());
    let said = said.ok_or_else(|| WireFailure::malformed("the answer has no message"))?;
    let reason = choice.get("finish_reason").and_then(Value::as_str);
    let reason = reason.ok_or_else(|| WireFailure::malformed("the answer has no reason to end"))?;
    let mut content = Vec::new();
    for name in ["content", "refusal"] {
        if !text(said, name).is_empty() {
            content.push(json!({"type": "text", "text": text(said, name)}));
        }
    }
    let calls = items(said, "tool_calls");
    for (index, call) in calls.iter().enumerate() {
        let function = call.get("function").unwrap_or(&Value::Null);
        match arguments(text(function, "arguments")) {
            Some(input) => content.push(json!({
                "type": "tool_use",
                "id": text(call, "id"),
                "name": text(function, "name"),
                "input": input,
            })),
            None if reason == "length" && index + 1 == calls.len() => {}
            None => return Err(no_object(text(function, "name"))),
        }
    }
    let refused = !text(said, "refusal").is_empty();
    let usage = answer.get("usage").map(usage::chat).unwrap_or_default();
    Ok(json!({
        "id": text(answer, "id"),
        "type": "message",
        "role": "assistant",
        "model": text(answer, "model"),
        "content": content,
        "stop_reason": stop_reason(reason, !calls.is_empty(), refused),
        "stop_sequence": null,
        "usage": messages_usage(&usage),
    }))
}

pub(super) fn no_object(name: &str) -> WireFailure {
    let what = "are no JSON object, and the messages wire takes nothing else";
    WireFailure::malformed(format!("the arguments of the call of `{name}` {what}"))
}

/// Anthropic's reason for OpenAI's.
pub(super) fn stop_reason(reason: &str, has_calls: bool, refused: bool) -> &'static str {
    match reason {
        "content_filter" => "refusal",
        "length" => "max_tokens",
        _ if refused => "refusal",
        // Some servers say `stop` although they call tools.
        _ if has_calls => "tool_use",
        _ => "end_turn",
    }
}

/// OpenAI's reason for Anthropic's.
pub(super) fn finish_reason(reason: &str) -> &'static str {
    match reason {
        "tool_use" => "tool_calls",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

/// The usage as Messages has it. Its SDKs want figures for input and output.
pub(super) fn messages_usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input_uncached.unwrap_or(0),
        "cache_creation_input_tokens": usage.cache_write.unwrap_or(0),
        "cache_read_input_tokens": usage.cache_read.unwrap_or(0),
        "output_tokens": usage.output.unwrap_or(0),
    })
}

/// The usage as Chat has it: the cached tokens are a part of the prompt.
pub(super) fn chat_usage(usage: &Usage) -> Value {
    let (input, output) = (usage.input_total(), usage.output.unwrap_or(0));
    let mut details = Map::new();
    details.insert("cached_tokens".to_owned(), usage.cache_read.unwrap_or(0).into());
    if usage.cache_write.is_some() || usage.cache_write_1h.is_some() {
        let written = usage.cache_write.unwrap_or(0) + usage.cache_write_1h.unwrap_or(0);
        details.insert("cache_write_tokens".to_owned(), written.into());
    }
    let mut out = json!({
        "prompt_tokens": input,
        "completion_tokens": output,
        "total_tokens": input.saturating_add(output),
        "prompt_tokens_details": details,
    });
    if let Some(reasoning) = usage.output_reasoning {
        out["completion_tokens_details"] = json!({"reasoning_tokens": reasoning});
    }
    out
}

/// A `tool_use` block as a tool call.
pub(super) fn chat_call(block: &Value) -> Value {
    let input = block.get("input").filter(|input| input.is_object());
    let arguments = input.map_or_else(|| "{}".to_owned(), Value::to_string);
    json!({
        "id": text(block, "id"),
        "type": "function",
        "function": {"name": text(block, "name"), "arguments": arguments},
    })
}

fn completion(answer: &Value, head: &Head) -> Result<Value, WireFailure> {
    let blocks = answer.get("content").and_then(Value::as_array);
    let blocks = blocks.ok_or_else(|| WireFailure::malformed("the answer is no message"))?;
    let reason = answer.get("stop_reason").and_then(Value::as_str);
    let reason = reason.ok_or_else(|| WireFailure::malformed("the answer has no stop reason"))?;
    let (mut said, mut calls) = (String::new(), Vec::new());
    for block in blocks {
        match text(block, "type") {
            "text" => said.push_str(text(block, "text")),
            "tool_use" => calls.push(chat_call(block)),
            "thinking" | "redacted_thinking" => {}
            other => return Err(no_place(other)),
        }
    }
    let content = if said.is_empty() { Value::Null } else { said.into() };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    let mut usage = Usage::default();
    if let Some(reported) = answer.get("usage") {
        usage::merge_messages(&mut usage, reported);
    }
    let reason = finish_reason(reason);
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason});
    Ok(json!({
        "id": text(answer, "id"),
        "object": "chat.completion",
        "created": head.created_seconds,
        "model": text(answer, "model"),
        "choices": [choice],
        "usage": chat_usage(&usage),
    }))
}

pub(super) fn no_place(kind: &str) -> WireFailure {
    WireFailure::malformed(format!("a block of type `{kind}` has no place on the chat wire"))
}
