//! A chat request as a messages request.

use serde_json::{Map, Value, json};

use super::{Target, arguments, given, items, refuse, text};
use crate::anthropic::request::Turns;
use crate::wire::WireProblem;

pub(super) fn request(
    body: &Map<String, Value>,
    target: &Target<'_>,
) -> Result<Value, WireProblem> {
    unsayable(body)?;
    let mut system = Vec::new();
    let mut turns = Turns::default();
    let messages = body.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or_else(|| WireProblem::new("messages", "it must be a list"))?;
    for (at, message) in messages.iter().enumerate() {
        let place = format!("messages[{at}]");
        match text(message, "role") {
            "system" | "developer" => system.extend(blocks(message, &place)?),
            "user" => turns.push("user", blocks(message, &place)?),
            "assistant" => turns.push("assistant", assistant(message, &place)?),
            "tool" => turns.result(tool_result(message, &place)?),
            other => {
                let what = format!("the messages wire has no role `{other}`");
                return Err(WireProblem::new(format!("{place}.role"), what));
            }
        }
    }
    if turns.last_role() == Some("assistant") {
        let what = "the last turn is the assistant's, which the messages wire would go on with";
        return Err(WireProblem::new("messages", what));
    }
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    set("model", target.model.into());
    let limit = given(body, "max_completion_tokens").or_else(|| given(body, "max_tokens"));
    set("max_tokens", limit.cloned().unwrap_or_else(|| target.default_max_output.into()));
    if !system.is_empty() {
        set("system", system.into());
    }
    set("messages", turns.into_value());
    let tools = tools(body)?;
    if !tools.is_empty() {
        set("tools", tools.into());
        if let Some(choice) = tool_choice(body)? {
            set("tool_choice", choice);
        }
    }
    if let Some(temperature) = given(body, "temperature") {
        let warmest = temperature.as_f64().filter(|degrees| *degrees > 1.0).map(|_| json!(1));
        set("temperature", warmest.unwrap_or_else(|| temperature.clone()));
    }
    if let Some(top_p) = given(body, "top_p") {
        set("top_p", top_p.clone());
    }
    match given(body, "stop") {
        Some(Value::String(stop)) => set("stop_sequences", json!([stop])),
        Some(list) => set("stop_sequences", list.clone()),
        None => {}
    }
    if let Some(user) = given(body, "safety_identifier").or_else(|| given(body, "user")) {
        set("metadata", json!({"user_id": user}));
    }
    if let Some(stream) = given(body, "stream") {
        set("stream", stream.clone());
    }
    Ok(Value::Object(out))
}

fn unsayable(body: &Map<String, Value>) -> Result<(), WireProblem> {
    let one = |value: &Value| value.as_u64() == Some(1);
    refuse(body, &["n"], one, "messages")?;
    let off = |value: &Value| value == false || value.as_object().is_some_and(Map::is_empty);
    refuse(body, &["logprobs", "logit_bias", "audio", "web_search_options"], off, "messages")?;
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    refuse(body, &["functions", "function_call"], empty, "messages")?;
    refuse(body, &["modalities"], |value| *value == json!(["text"]), "messages")?;
    refuse(body, &["response_format"], |value| text(value, "type") == "text", "messages")
}

/// The content of a message as blocks.
fn blocks(message: &Value, place: &str) -> Result<Vec<Value>, WireProblem> {
    let wrong = |what: String| Err(WireProblem::new(format!("{place}.content"), what));
    let parts = match message.get("content") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(text_block(text).into_iter().collect()),
        Some(Value::Array(parts)) => parts,
        Some(_) => return wrong("it must be text or a list of parts".to_owned()),
    };
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        match text(part, "type") {
            "text" => blocks.extend(text_block(text(part, "text"))),
            "refusal" => blocks.extend(text_block(text(part, "refusal"))),
            "image_url" => {
                let url = part.pointer("/image_url/url").and_then(Value::as_str);
                blocks.push(json!({"type": "image", "source": source(url.unwrap_or_default())}));
            }
            "file" => {
                let data = part.pointer("/file/file_data").and_then(Value::as_str);
                let Some(data) = data.filter(|data| data.starts_with("data:application/pdf;"))
                else {
                    return wrong("of files only PDF data crosses to the messages wire".to_owned());
                };
                blocks.push(json!({"type": "document", "source": source(data)}));
            }
            other => {
                return wrong(format!(
                    "a part of type `{other}` has no place on the messages wire"
                ));
            }
        }
    }
    Ok(blocks)
}

/// Empty text, and text of nothing but white space, is refused on the messages wire.
fn text_block(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
}

/// Where an image or a document is: in the URL itself, or behind it.
fn source(url: &str) -> Value {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    match data {
        Some((kind, data)) => json!({"type": "base64", "media_type": kind, "data": data}),
        None => json!({"type": "url", "url": url}),
    }
}

fn assistant(message: &Value, place: &str) -> Result<Vec<Value>, WireProblem> {
    let mut blocks = blocks(message, place)?;
    blocks.extend(text_block(text(message, "refusal")));
    for (at, call) in items(message, "tool_calls").iter().enumerate() {
        let place = format!("{place}.tool_calls[{at}]");
        let function = call.get("function").ok_or_else(|| {
            WireProblem::new(&place, "only calls of functions cross to the messages wire")
        })?;
        let input = arguments(text(function, "arguments")).ok_or_else(|| {
            let what = "they are no JSON object, and the messages wire takes nothing else";
            WireProblem::new(format!("{place}.function.arguments"), what)
        })?;
        blocks.push(json!({
            "type": "tool_use",
            "id": crate::anthropic::request::wire_id(text(call, "id")),
            "name": text(function, "name"),
            "input": input,
        }));
    }
    Ok(blocks)
}

fn tool_result(message: &Value, place: &str) -> Result<Value, WireProblem> {
    let id = crate::anthropic::request::wire_id(text(message, "tool_call_id"));
    let content = match message.get("content") {
        Some(Value::String(text)) => Value::from(text.as_str()),
        _ => blocks(message, place)?.into(),
    };
    Ok(json!({"type": "tool_result", "tool_use_id": id, "content": content}))
}

fn tools(body: &Map<String, Value>) -> Result<Vec<Value>, WireProblem> {
    let tools = given(body, "tools").and_then(Value::as_array);
    let mut out = Vec::new();
    for (at, tool) in tools.into_iter().flatten().enumerate() {
        let function = tool.get("function").filter(|_| text(tool, "type") == "function");
        let function = function.ok_or_else(|| {
            let what = "only functions cross to the messages wire";
            WireProblem::new(format!("tools[{at}]"), what)
        })?;
        let mut translated = Map::new();
        translated.insert("name".to_owned(), text(function, "name").into());
        if let Some(description) = function.get("description").filter(|text| !text.is_null()) {
            translated.insert("description".to_owned(), description.clone());
        }
        let schema = function.get("parameters").filter(|schema| !schema.is_null()).cloned();
        let schema = schema.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        translated.insert("input_schema".to_owned(), schema);
        out.push(Value::Object(translated));
    }
    Ok(out)
}

fn tool_choice(body: &Map<String, Value>) -> Result<Option<Value>, WireProblem> {
    let one_at_a_time = given(body, "parallel_tool_calls").is_some_and(|value| value == false);
    let mut choice = match given(body, "tool_choice") {
        None if one_at_a_time => json!({"type": "auto"}),
        None => return Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => json!({"type": "auto"}),
            "none" => json!({"type": "none"}),
            "required" => json!({"type": "any"}),
            other => {
                return Err(WireProblem::new("tool_choice", format!("`{other}` is unknown")));
            }
        },
        Some(named) => match named.pointer("/function/name").and_then(Value::as_str) {
            Some(name) => json!({"type": "tool", "name": name}),
            None => {
                let what = "only a function's name crosses to the messages wire";
                return Err(WireProblem::new("tool_choice", what));
            }
        },
    };
    if one_at_a_time && choice["type"] != "none" {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Ok(Some(choice))
}
