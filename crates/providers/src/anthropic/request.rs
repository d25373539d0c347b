//! A neutral request in the Anthropic wire format.
//!
//! The API wants roles that take turns, results before other text in a user message, no empty text,
//! arguments that are objects, and ids of letters, digits, `_` and `-`. A history that came from
//! another provider need not be like that, so all of it is seen to here.

use serde_json::{Map, Value, json};

use super::DEFAULT_MAX_OUTPUT_TOKENS;
use crate::http::ModelOptions;
use crate::model::{Message, ModelRequest, ToolCall, ToolDefinition};

pub(super) fn body(options: &ModelOptions, request: &ModelRequest, stream: bool) -> Value {
    let limit = request
        .max_output_tokens
        .or(options.max_output_tokens)
        .unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS);
    let mut body = Map::new();
    body.insert("model".to_owned(), options.model.as_str().into());
    body.insert("max_tokens".to_owned(), limit.into());
    if let Some(system) = request.system.as_deref().filter(|system| !system.is_empty()) {
        body.insert("system".to_owned(), system.into());
    }
    body.insert("messages".to_owned(), turns(&request.messages));
    if !request.tools.is_empty() {
        body.insert("tools".to_owned(), request.tools.iter().map(tool).collect());
    }
    if let Some(temperature) = request.temperature {
        body.insert("temperature".to_owned(), temperature.into());
    }
    if stream {
        body.insert("stream".to_owned(), true.into());
    }
    Value::Object(body)
}

struct Turn {
    role: &'static str,
    blocks: Vec<Value>,
    /// How many of the blocks, from the front, are tool results.
    results: usize,
}

fn turns(messages: &[Message]) -> Value {
    let mut turns: Vec<Turn> = Vec::new();
    for message in messages {
        match message {
            Message::User { text } => push(&mut turns, "user", text_block(text)),
            Message::Assistant { text, tool_calls } => {
                push(&mut turns, "assistant", text_block(text));
                for call in tool_calls {
                    push(&mut turns, "assistant", Some(tool_use(call)));
                }
            }
            Message::Tool { call_id, content, is_error, .. } => {
                let turn = turn_of(&mut turns, "user");
                turn.blocks.insert(turn.results, tool_result(call_id, content, *is_error));
                turn.results += 1;
            }
        }
    }
    let message = |turn: Turn| json!({"role": turn.role, "content": turn.blocks});
    turns.into_iter().map(message).collect()
}

fn push(turns: &mut Vec<Turn>, role: &'static str, block: Option<Value>) {
    if let Some(block) = block {
        turn_of(turns, role).blocks.push(block);
    }
}

/// The last turn if it has this role, otherwise one more.
fn turn_of<'a>(turns: &'a mut Vec<Turn>, role: &'static str) -> &'a mut Turn {
    if turns.last().is_none_or(|turn| turn.role != role) {
        turns.push(Turn { role, blocks: Vec::new(), results: 0 });
    }
    let last = turns.len() - 1;
    &mut turns[last]
}

fn text_block(text: &str) -> Option<Value> {
    // Text of nothing but white space is refused like empty text.
    (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
}

fn tool_use(call: &ToolCall) -> Value {
    let input = call.arguments_object().unwrap_or_default();
    json!({"type": "tool_use", "id": wire_id(&call.id), "name": call.name, "input": input})
}

fn tool_result(call_id: &str, content: &str, is_error: bool) -> Value {
    let mut block = Map::new();
    block.insert("type".to_owned(), "tool_result".into());
    block.insert("tool_use_id".to_owned(), wire_id(call_id).into());
    block.insert("content".to_owned(), content.into());
    if is_error {
        block.insert("is_error".to_owned(), true.into());
    }
    Value::Object(block)
}

fn wire_id(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

fn tool(tool: &ToolDefinition) -> Value {
    json!({"name": tool.name, "description": tool.description, "input_schema": tool.schema})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(messages: &[Message], expected: &Value) {
        assert_eq!(&turns(messages), expected);
    }

    fn call(id: &str, arguments: &str) -> ToolCall {
        ToolCall { id: id.into(), name: "t".into(), arguments: arguments.into() }
    }

    fn user(text: &str) -> Message {
        Message::User { text: text.into() }
    }

    fn result(id: &str, is_error: bool) -> Message {
        Message::Tool { call_id: id.into(), name: "t".into(), content: "r".into(), is_error }
    }

    #[test]
    fn equal_roles_are_merged_and_results_come_before_text() {
        let calls = vec![call("a", r#"{"x":1}"#), call("b:0", "[1")];
        check(
            &[
                user("one"),
                user("two"),
                Message::Assistant { text: String::new(), tool_calls: calls },
                result("a", false),
                user("hurry"),
                result("b:0", true),
            ],
            &json!([
                {"role": "user", "content": [
                    {"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "a", "name": "t", "input": {"x": 1}},
                    {"type": "tool_use", "id": "b_0", "name": "t", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "r"},
                    {"type": "tool_result", "tool_use_id": "b_0", "content": "r", "is_error": true},
                    {"type": "text", "text": "hurry"}]},
            ]),
        );
    }

    #[test]
    fn an_empty_assistant_message_leaves_no_trace() {
        let empty = Message::Assistant { text: String::new(), tool_calls: Vec::new() };
        check(
            &[user("one"), empty, user("two")],
            &json!([{"role": "user", "content": [
                {"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]),
        );
    }
}
