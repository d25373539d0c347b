//! A neutral request in the OpenAI wire format.

use serde_json::{Map, Value, json};

use crate::http::ModelOptions;
use crate::model::{Message, ModelRequest, ToolCall, ToolDefinition};
use crate::tokens;

pub(super) fn body(options: &ModelOptions, request: &ModelRequest, stream: bool) -> Value {
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    if let Some(system) = &request.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.extend(request.messages.iter().map(message));
    let mut body = Map::new();
    body.insert("model".to_owned(), options.model.as_str().into());
    body.insert("messages".to_owned(), Value::Array(messages));
    // An empty list is refused by some servers (vLLM answers 400).
    if !request.tools.is_empty() {
        body.insert("tools".to_owned(), request.tools.iter().map(tool).collect());
    }
    if let Some(limit) = request.max_output_tokens.or(options.max_output_tokens) {
        // OpenAI's reasoning models refuse `max_tokens`; many compatible servers know nothing else.
        let field =
            if tokens::is_o200k(&options.model) { "max_completion_tokens" } else { "max_tokens" };
        body.insert(field.to_owned(), limit.into());
    }
    if let Some(temperature) = request.temperature {
        body.insert("temperature".to_owned(), temperature.into());
    }
    if stream {
        body.insert("stream".to_owned(), true.into());
        // Without it a streamed call reports no usage and cannot be charged.
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    Value::Object(body)
}

fn message(message: &Message) -> Value {
    match message {
        Message::User { text } => json!({"role": "user", "content": text}),
        Message::Assistant { text, tool_calls } if tool_calls.is_empty() => {
            json!({"role": "assistant", "content": text})
        }
        Message::Assistant { text, tool_calls } => {
            let content = if text.is_empty() { Value::Null } else { text.as_str().into() };
            let calls: Vec<Value> = tool_calls.iter().map(tool_call).collect();
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        }
        Message::Tool { call_id, content, .. } => {
            json!({"role": "tool", "tool_call_id": call_id, "content": content})
        }
    }
}

fn tool_call(call: &ToolCall) -> Value {
    // Several compatible servers parse the arguments of the history and refuse what does not parse.
    let arguments = match call.arguments_object() {
        Some(_) => call.arguments.as_str(),
        None => "{}",
    };
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    })
}

fn tool(tool: &ToolDefinition) -> Value {
    json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.schema,
        },
    })
}
