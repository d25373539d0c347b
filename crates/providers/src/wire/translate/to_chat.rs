//! A messages request as a chat request.

use serde_json::{Map, Value, json};

use super::{Target, given, items, refuse, text};
use crate::tokens;
use crate::wire::WireProblem;

pub(super) fn request(
    body: &Map<String, Value>,
    target: &Target<'_>,
) -> Result<Value, WireProblem> {
    unsayable(body)?;
    let mut messages = Vec::new();
    if let Some(system) = given(body, "system") {
        let text = match system {
            Value::String(text) => text.clone(),
            _ => texts(system.as_array().map(Vec::as_slice).unwrap_or_default()).join("\n\n"),
        };
        if !text.is_empty() {
            messages.push(json!({"role": "system", "content": text}));
        }
    }
    let turns = body.get("messages").and_then(Value::as_array);
    let turns = turns.ok_or_else(|| WireProblem::new("messages", "it must be a list"))?;
    for (at, turn) in turns.iter().enumerate() {
        let place = format!("messages.{at}");
        match text(turn, "role") {
            "user" => user(turn, &place, &mut messages)?,
            "assistant" => messages.push(assistant(turn, &place)?),
            "system" => messages.push(system_turn(turn)),
            other => {
                let what = format!("the chat wire has no role `{other}`");
                return Err(WireProblem::new(format!("{place}.role"), what));
            }
        }
    }
    if turns.last().is_some_and(|turn| text(turn, "role") == "assistant") {
        let what = "the last turn is the assistant's, and the chat wire cannot go on from there";
        return Err(WireProblem::new("messages", what));
    }
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    set("model", target.model.into());
    set("messages", messages.into());
    let limit = given(body, "max_tokens").cloned();
    let field = if tokens::is_o200k(target.model) { "max_completion_tokens" } else { "max_tokens" };
    set(field, limit.unwrap_or_else(|| target.default_max_output.into()));
    let tools = tools(body)?;
    if !tools.is_empty() {
        set("tools", tools.into());
        tool_choice(body, &mut set)?;
    }
    for (name, as_name) in
        [("temperature", "temperature"), ("top_p", "top_p"), ("stop_sequences", "stop")]
    {
        if let Some(value) = given(body, name) {
            set(as_name, value.clone());
        }
    }
    let user = given(body, "metadata").and_then(|metadata| metadata.get("user_id"));
    if let Some(user) = user.filter(|user| user.is_string()) {
        set("user", user.clone());
    }
    if let Some(stream) = given(body, "stream") {
        set("stream", stream.clone());
        if stream == true {
            set("stream_options", json!({"include_usage": true}));
        }
    }
    Ok(Value::Object(out))
}

fn unsayable(body: &Map<String, Value>) -> Result<(), WireProblem> {
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    refuse(body, &["mcp_servers", "container", "output_format"], empty, "chat")?;
    let no_format = |value: &Value| value.get("format").is_none_or(Value::is_null);
    refuse(body, &["output_config"], no_format, "chat")
}

fn texts(blocks: &[Value]) -> Vec<&str> {
    let is_text = |block: &&Value| text(block, "type") == "text";
    blocks.iter().filter(is_text).map(|block| text(block, "text")).collect()
}

fn system_turn(turn: &Value) -> Value {
    let content = match turn.get("content") {
        Some(Value::String(text)) => text.clone(),
        _ => texts(items(turn, "content")).join("\n\n"),
    };
    json!({"role": "system", "content": content})
}

/// A user turn: first the results of tools, each a message, then the rest.
fn user(turn: &Value, place: &str, messages: &mut Vec<Value>) -> Result<(), WireProblem> {
    if let Some(Value::String(content)) = turn.get("content") {
        messages.push(json!({"role": "user", "content": content}));
        return Ok(());
    }
    let mut parts = Vec::new();
    for (at, block) in items(turn, "content").iter().enumerate() {
        let place = format!("{place}.content.{at}");
        match text(block, "type") {
            "text" => parts.push(json!({"type": "text", "text": text(block, "text")})),
            "image" => {
                let url = url(block.get("source"), &place)?;
                parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
            }
            "document" => parts.push(document(block, &place)?),
            "tool_result" => messages.push(tool_message(block, &place)?),
            other => {
                let what = format!("a block of type `{other}` has no place on the chat wire");
                return Err(WireProblem::new(place, what));
            }
        }
    }
    let content = match parts.as_slice() {
        [] => return Ok(()),
        // Many servers know only text.
        [one] if text(one, "type") == "text" => one["text"].clone(),
        _ => Value::from(parts),
    };
    messages.push(json!({"role": "user", "content": content}));
    Ok(())
}

fn url(source: Option<&Value>, place: &str) -> Result<String, WireProblem> {
    let source = source.unwrap_or(&Value::Null);
    match text(source, "type") {
        "base64" => {
            let (kind, data) = (text(source, "media_type"), text(source, "data"));
            Ok(format!("data:{kind};base64,{data}"))
        }
        "url" => Ok(text(source, "url").to_owned()),
        other => {
            let what = format!("a source of type `{other}` is known to its provider alone");
            Err(WireProblem::new(place, what))
        }
    }
}

fn document(block: &Value, place: &str) -> Result<Value, WireProblem> {
    let source = block.get("source").unwrap_or(&Value::Null);
    match text(source, "type") {
        "text" => Ok(json!({"type": "text", "text": text(source, "data")})),
        "base64" => {
            let data = url(Some(source), place)?;
            let name = block.get("title").and_then(Value::as_str).unwrap_or("document.pdf");
            Ok(json!({"type": "file", "file": {"filename": name, "file_data": data}}))
        }
        _ => Err(WireProblem::new(place, "of documents only data and text cross to the chat wire")),
    }
}

fn tool_message(block: &Value, place: &str) -> Result<Value, WireProblem> {
    let content = match block.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(content) => {
            let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
            let texts = texts(blocks);
            if texts.len() < blocks.len() {
                let what = "of a tool's result only text crosses to the chat wire";
                return Err(WireProblem::new(place, what));
            }
            texts.join("\n")
        }
    };
    let failed = block.get("is_error").is_some_and(|failed| failed == true);
    let content =
        if failed && !content.starts_with("Error") { format!("Error: {content}") } else { content };
    Ok(json!({"role": "tool", "tool_call_id": text(block, "tool_use_id"), "content": content}))
}

fn assistant(turn: &Value, place: &str) -> Result<Value, WireProblem> {
    if let Some(Value::String(content)) = turn.get("content") {
        return Ok(json!({"role": "assistant", "content": content}));
    }
    let (mut content, mut calls) = (String::new(), Vec::new());
    for (at, block) in items(turn, "content").iter().enumerate() {
        match text(block, "type") {
            "text" => content.push_str(text(block, "text")),
            "tool_use" => calls.push(super::answer::chat_call(block)),
            "thinking" | "redacted_thinking" => {}
            other => {
                let what = format!("a block of type `{other}` has no place on the chat wire");
                return Err(WireProblem::new(format!("{place}.content.{at}"), what));
            }
        }
    }
    let mut message = json!({"role": "assistant", "content": content});
    if !calls.is_empty() {
        if content.is_empty() {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

fn tools(body: &Map<String, Value>) -> Result<Vec<Value>, WireProblem> {
    let tools = given(body, "tools").and_then(Value::as_array);
    let mut out = Vec::new();
    for (at, tool) in tools.into_iter().flatten().enumerate() {
        if !matches!(text(tool, "type"), "" | "custom") {
            let what = "a tool of the provider's own does not cross to the chat wire";
            return Err(WireProblem::new(format!("tools.{at}"), what));
        }
        let mut function = Map::new();
        function.insert("name".to_owned(), text(tool, "name").into());
        if let Some(description) = tool.get("description").filter(|text| !text.is_null()) {
            function.insert("description".to_owned(), description.clone());
        }
        let schema = tool.get("input_schema").cloned();
        function.insert("parameters".to_owned(), schema.unwrap_or_else(|| json!({})));
        out.push(json!({"type": "function", "function": function}));
    }
    Ok(out)
}

fn tool_choice(
    body: &Map<String, Value>,
    set: &mut impl FnMut(&str, Value),
) -> Result<(), WireProblem> {
    let Some(choice) = given(body, "tool_choice") else { return Ok(()) };
    let translated = match text(choice, "type") {
        "auto" => json!("auto"),
        "any" => json!("required"),
        "none" => json!("none"),
        "tool" => json!({"type": "function", "function": {"name": text(choice, "name")}}),
        other => return Err(WireProblem::new("tool_choice", format!("`{other}` is unknown"))),
    };
    set("tool_choice", translated);
    if choice.get("disable_parallel_tool_use").is_some_and(|value| value == true) {
        set("parallel_tool_calls", false.into());
    }
    Ok(())
}
