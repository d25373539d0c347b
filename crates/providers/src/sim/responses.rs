//! Responses from the other side. Nothing is stored: what a response goes on from stands in its input.

use serde_json::{Value, json};

use super::conversation::Conversation;
use super::reply::{Head, pieces, text_of};
use super::script::{Reply, ReplyCall, ReplyUsage};

/// Reads the input of a request.
pub(super) fn conversation(request: &Value) -> Result<Conversation, String> {
    for stored in ["previous_response_id", "conversation"] {
        if request.get(stored).is_some_and(|id| !id.is_null()) {
            return Err(format!("{stored}: the simulated provider stores nothing"));
        }
    }
    let mut conversation = Conversation::default();
    let items = match request.get("input") {
        Some(Value::String(text)) => {
            conversation.message();
            conversation.user(text.clone());
            return Ok(conversation);
        }
        Some(Value::Array(items)) if !items.is_empty() => items,
        _ => return Err("input: text or at least one item is needed".to_owned()),
    };
    // The calls of one answer are items of their own, one after the other.
    let mut answer: Option<Vec<&str>> = None;
    for (at, item) in items.iter().enumerate() {
        conversation.message();
        let field = |name: &str| item.get(name).and_then(Value::as_str);
        let kind = field("type").unwrap_or("message");
        match (kind, field("role")) {
            ("reasoning", _) => continue,
            ("message", Some("assistant")) => {
                answer.get_or_insert_default();
                continue;
            }
            ("function_call", _) => {
                answer.get_or_insert_default().extend(field("call_id"));
                continue;
            }
            _ => {}
        }
        if let Some(calls) = answer.take() {
            conversation.assistant(calls.into_iter());
        }
        match (kind, field("role")) {
            ("function_call_output", _) => {
                let id =
                    field("call_id").ok_or_else(|| format!("input[{at}].call_id is missing"))?;
                conversation.result(id, text_of(item.get("output")));
            }
            ("message", Some("user")) => conversation.user(text_of(item.get("content"))),
            ("message", Some("system" | "developer")) => {}
            _ => return Err(format!("input[{at}]: an item of type `{kind}` is not understood")),
        }
    }
    if let Some(calls) = answer.take() {
        conversation.assistant(calls.into_iter());
    }
    Ok(conversation)
}

fn usage(usage: ReplyUsage) -> Value {
    json!({
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_input},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input.saturating_add(usage.output),
    })
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn message(head: &Head, text: Option<&str>) -> Value {
    json!({
        "id": head.id("msg_sim"),
        "type": "message",
        "status": if text.is_some() { "completed" } else { "in_progress" },
        "role": "assistant",
        "content": text.map(part).into_iter().collect::<Vec<_>>(),
    })
}

fn call(call: &ReplyCall, arguments: Option<&str>) -> Value {
    json!({
        "id": format!("fc_{}", call.id),
        "type": "function_call",
        "status": if arguments.is_some() { "completed" } else { "in_progress" },
        "call_id": call.id,
        "name": call.tool,
        "arguments": arguments.unwrap_or_default(),
    })
}

fn response(head: &Head, status: &str, output: &[Value], usage: Option<&Value>) -> Value {
    json!({
        "id": head.id("resp_sim"),
        "object": "response",
        "created_at": head.created,
        "status": status,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "metadata": {},
        "model": head.model,
        "output": output,
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "service_tier": "default",
        "store": false,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage,
    })
}

fn output(head: &Head, reply: &Reply) -> Vec<Value> {
    let text = reply.text.as_deref().map(|text| message(head, Some(text)));
    let calls = reply.calls.iter().map(|one| call(one, Some(&one.arguments.to_string())));
    text.into_iter().chain(calls).collect()
}

/// The whole answer.
pub(super) fn plain(head: &Head, reply: &Reply) -> Value {
    response(head, "completed", &output(head, reply), Some(&usage(reply.usage)))
}

/// Events with their numbers.
#[derive(Default)]
struct Events(Vec<String>);

impl Events {
    fn push(&mut self, kind: &str, mut event: Value) {
        event["type"] = kind.into();
        event["sequence_number"] = self.0.len().into();
        self.0.push(format!("event: {kind}\ndata: {event}\n\n"));
    }
}

/// The answer's events.
pub(super) fn events(head: &Head, reply: &Reply) -> Vec<String> {
    let mut events = Events::default();
    for kind in ["response.created", "response.in_progress"] {
        events.push(kind, json!({"response": response(head, "in_progress", &[], None)}));
    }
    let mut index = 0_usize;
    if let Some(text) = &reply.text {
        let id = head.id("msg_sim");
        let place = json!({"item_id": id, "output_index": index, "content_index": 0});
        let at = |name: &str, value: Value| {
            let mut event = place.clone();
            event[name] = value;
            event
        };
        let item = |item: Value| json!({"output_index": index, "item": item});
        events.push("response.output_item.added", item(message(head, None)));
        events.push("response.content_part.added", at("part", part("")));
        for piece in pieces(text) {
            events.push("response.output_text.delta", at("delta", piece.into()));
        }
        events.push("response.output_text.done", at("text", text.as_str().into()));
        events.push("response.content_part.done", at("part", part(text)));
        events.push("response.output_item.done", item(message(head, Some(text))));
        index += 1;
    }
    for one in &reply.calls {
        let arguments = one.arguments.to_string();
        let id = format!("fc_{}", one.id);
        let item = |item: Value| json!({"output_index": index, "item": item});
        events.push("response.output_item.added", item(call(one, None)));
        for piece in pieces(&arguments) {
            let event = json!({"item_id": id, "output_index": index, "delta": piece});
            events.push("response.function_call_arguments.delta", event);
        }
        let done = json!({"item_id": id, "output_index": index, "name": one.tool,
            "arguments": arguments});
        events.push("response.function_call_arguments.done", done);
        events.push("response.output_item.done", item(call(one, Some(&arguments))));
        index += 1;
    }
    events.push("response.completed", json!({"response": plain(head, reply)}));
    events.0
}

/// An error within a stream.
pub(super) fn error_event(message: &str) -> String {
    let event = json!({"type": "error", "sequence_number": 1, "code": "server_error",
        "message": message, "param": null});
    format!("event: error\ndata: {event}\n\n")
}
