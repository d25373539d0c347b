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

/// Turns that take turns.
#[derive(Default)]
pub(crate) struct Turns(Vec<Turn>);

impl Turns {
    /// Appends blocks to the last turn if it has this role, otherwise to one more.
    pub(crate) fn push(&mut self, role: &'static str, blocks: impl IntoIterator<Item = Value>) {
        for block in blocks {
            self.turn_of(role).blocks.push(block);
        }
    }

    /// Puts a tool's result before the other content of the user's turn.
    pub(crate) fn result(&mut self, block: Value) {
        let turn = self.turn_of("user");
        turn.blocks.insert(turn.results, block);
        turn.results += 1;
    }

    fn turn_of(&mut self, role: &'static str) -> &mut Turn {
        if self.0.last().is_none_or(|turn| turn.role != role) {
            self.0.push(Turn { role, blocks: Vec::new(), results: 0 });
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Whose turn was the last.
    pub(crate) fn last_role(&self) -> Option<&'static str> {
        self.0.last().map(|turn| turn.role)
    }

    pub(crate) fn into_value(self) -> Value {
        let message = |turn: Turn| json!({"role": turn.role, "content": turn.blocks});
        self.0.into_iter().map(message).collect()
    }
}

fn turns(messages: &[Message]) -> Value {
    let mut turns = Turns::default();
    for message in messages {
        match message {
            Message::User { text } => turns.push("user", text_block(text)),
            Message::Assistant { text, tool_calls } => {
                turns.push("assistant", text_block(text));
                turns.push("assistant", tool_calls.iter().map(tool_use));
            }
            Message::Tool { call_id, content, is_error, .. } => {
                turns.result(tool_result(call_id, content, *is_error));
            }
        }
    }
    turns.into_value()
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

/// An id of the characters that the API allows.
pub(crate) fn wire_id(id: &str) -> String {
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
