//! The Anthropic wire from the other side: Messages.

use serde_json::{Value, json};

use super::conversation::Conversation;
use super::reply::{Head, pieces, text_of};
use super::script::{Reply, ReplyUsage};

/// Reads the messages of a request.
pub(super) fn conversation(messages: &[Value]) -> Result<Conversation, String> {
    let mut conversation = Conversation::default();
    for (at, message) in messages.iter().enumerate() {
        conversation.message();
        let content = message.get("content");
        let blocks = content.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let of_kind = |kind: &'static str| {
            blocks.iter().filter(move |block| block.get("type").is_some_and(|t| t == kind))
        };
        match message.get("role").and_then(Value::as_str) {
            Some("user") => {
                for result in of_kind("tool_result") {
                    let id =
                        result.get("tool_use_id").and_then(Value::as_str).ok_or_else(|| {
                            format!("messages.{at}: a tool_result has no tool_use_id")
                        })?;
                    conversation.result(id, text_of(result.get("content")));
                }
                conversation.user(text_of(content));
            }
            Some("assistant") => {
                let ids = of_kind("tool_use").filter_map(|call| call.get("id")?.as_str());
                conversation.assistant(ids);
            }
            _ => return Err(format!("messages.{at}.role must be `user` or `assistant`")),
        }
    }
    Ok(conversation)
}

fn stop_reason(reply: &Reply) -> &'static str {
    if reply.calls.is_empty() { "end_turn" } else { "tool_use" }
}

fn usage(usage: ReplyUsage, output: u64) -> Value {
    json!({
        "input_tokens": usage.input.saturating_sub(usage.cached_input),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": output,
        "service_tier": "standard",
    })
}

fn message(head: &Head, content: &Value, stop_reason: Option<&str>, usage: &Value) -> Value {
    json!({
        "id": head.id("msg_sim"),
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": null,
        "usage": usage,
    })
}

/// The whole answer.
pub(super) fn plain(head: &Head, reply: &Reply) -> Value {
    let text = reply.text.iter().map(|text| json!({"type": "text", "text": text}));
    let calls = reply.calls.iter().map(|call| {
        json!({"type": "tool_use", "id": call.id, "name": call.tool, "input": call.arguments})
    });
    let content: Value = text.chain(calls).collect();
    message(head, &content, Some(stop_reason(reply)), &usage(reply.usage, reply.usage.output))
}

/// The answer's events.
pub(super) fn events(head: &Head, reply: &Reply) -> Vec<String> {
    let mut events = Vec::new();
    let mut push = |json: Value| {
        let name = json.get("type").and_then(Value::as_str).unwrap_or_default();
        events.push(format!("event: {name}\ndata: {json}\n\n"));
    };
    // The first report of the output is of what has been written so far.
    let begun = message(head, &json!([]), None, &usage(reply.usage, 1));
    push(json!({"type": "message_start", "message": begun}));
    push(json!({"type": "ping"}));
    let mut index = 0_usize;
    let mut block = |begin: Value, deltas: Vec<Value>| {
        push(json!({"type": "content_block_start", "index": index, "content_block": begin}));
        for delta in deltas {
            push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        push(json!({"type": "content_block_stop", "index": index}));
        index += 1;
    };
    if let Some(text) = &reply.text {
        let delta = |piece| json!({"type": "text_delta", "text": piece});
        block(json!({"type": "text", "text": ""}), pieces(text).into_iter().map(delta).collect());
    }
    for call in &reply.calls {
        let begin = json!({"type": "tool_use", "id": call.id, "name": call.tool, "input": {}});
        let arguments = call.arguments.to_string();
        let delta = |piece| json!({"type": "input_json_delta", "partial_json": piece});
        block(begin, pieces(&arguments).into_iter().map(delta).collect());
    }
    push(json!({
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason(reply), "stop_sequence": null},
        "usage": {"output_tokens": reply.usage.output},
    }));
    push(json!({"type": "message_stop"}));
    events
}

/// An error answer.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": null})
}
