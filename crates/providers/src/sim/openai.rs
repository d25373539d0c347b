//! Chat Completions from the other side.

use serde_json::{Value, json};

use super::conversation::Conversation;
use super::reply::{Head, pieces, text_of};
use super::script::{Reply, ReplyUsage};

/// Reads the messages of a request.
pub(super) fn conversation(messages: &[Value]) -> Result<Conversation, String> {
    let mut conversation = Conversation::default();
    for (at, message) in messages.iter().enumerate() {
        conversation.message();
        let field = |name: &str| message.get(name).and_then(Value::as_str);
        match field("role") {
            Some("user") => conversation.user(text_of(message.get("content"))),
            Some("assistant") => {
                let calls = message.get("tool_calls").and_then(Value::as_array);
                let id =
                    |call: &'_ Value| call.get("id").and_then(Value::as_str).map(str::to_owned);
                let ids: Vec<String> = calls.into_iter().flatten().filter_map(id).collect();
                conversation.assistant(ids.iter().map(String::as_str));
            }
            Some("tool") => {
                let id = field("tool_call_id")
                    .ok_or_else(|| format!("messages[{at}].tool_call_id is missing"))?;
                conversation.result(id, text_of(message.get("content")));
            }
            Some("system" | "developer") => {}
            _ => return Err(format!("messages[{at}].role is missing or unknown")),
        }
    }
    Ok(conversation)
}

fn finish(reply: &Reply) -> &'static str {
    if reply.calls.is_empty() { "stop" } else { "tool_calls" }
}

fn usage(usage: ReplyUsage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": {"cached_tokens": usage.cached_input, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// The whole answer.
pub(super) fn plain(head: &Head, reply: &Reply) -> Value {
    let mut message = json!({"role": "assistant", "content": reply.text, "refusal": null});
    if !reply.calls.is_empty() {
        let calls = reply.calls.iter().map(|call| {
            json!({
                "id": call.id,
                "type": "function",
                "function": {"name": call.tool, "arguments": call.arguments.to_string()},
            })
        });
        message["tool_calls"] = calls.collect();
    }
    let choice =
        json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish(reply)});
    json!({
        "id": head.id("chatcmpl-sim"),
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [choice],
        "usage": usage(reply.usage),
        "service_tier": "default",
        "system_fingerprint": null,
    })
}

/// The answer's events. The usage comes in a chunk of its own, and only if the client asked for it;
/// then every other chunk says `usage: null`.
pub(super) fn events(head: &Head, reply: &Reply, with_usage: bool) -> Vec<String> {
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": head.id("chatcmpl-sim"),
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "service_tier": "default",
            "system_fingerprint": null,
            "choices": choices,
        });
        if with_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, finish: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        chunk(json!([choice]), None)
    };
    let opening = reply.text.as_ref().map(|_| "");
    let mut events =
        vec![delta(json!({"role": "assistant", "content": opening, "refusal": null}), None)];
    for piece in pieces(reply.text.as_deref().unwrap_or_default()) {
        events.push(delta(json!({"content": piece}), None));
    }
    for (index, call) in reply.calls.iter().enumerate() {
        let begin = json!({
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.tool, "arguments": ""},
        });
        events.push(delta(json!({"tool_calls": [begin]}), None));
        for piece in pieces(&call.arguments.to_string()) {
            let more = json!({"index": index, "function": {"arguments": piece}});
            events.push(delta(json!({"tool_calls": [more]}), None));
        }
    }
    events.push(delta(json!({}), Some(finish(reply))));
    if with_usage {
        events.push(chunk(json!([]), Some(usage(reply.usage))));
    }
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// An error answer.
pub(super) fn error(status: u16, message: &str) -> Value {
    let (kind, code) = match status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        404 => ("invalid_request_error", Some("model_not_found")),
        429 => ("requests", Some("rate_limit_exceeded")),
        500.. => ("server_error", None),
        _ => ("invalid_request_error", None),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
