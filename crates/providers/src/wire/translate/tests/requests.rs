use serde_json::{Value, json};

use crate::wire::Wire;
use crate::wire::translate::{Target, request};

fn crossed(from: Wire, to: Wire, body: &Value) -> Value {
    let target = Target { model: "other", default_max_output: 99 };
    let bytes = request(from, to, body.to_string().as_bytes(), &target).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn refused(from: Wire, to: Wire, body: &Value) -> String {
    let target = Target { model: "other", default_max_output: 99 };
    request(from, to, body.to_string().as_bytes(), &target).unwrap_err().to_string()
}

#[test]
fn a_chat_request_crosses_with_tools_results_and_images() {
    let chat = json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "and kind"}]},
            {"role": "user", "content": [{"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "image_url", "image_url": {"url": "https://x.example/y.png"}}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a:1", "type": "function", "function": {"name": "f", "arguments": "{\"k\":1}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": "a:1", "content": "ra"},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "rb"}]},
            {"role": "user", "content": "go on"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "strict": true,
            "parameters": {"type": "object"}}}, {"type": "function", "function": {"name": "g"}}],
        "tool_choice": "required", "parallel_tool_calls": false,
        "max_completion_tokens": 50, "temperature": 1.5, "top_p": 0.5, "stop": "END",
        "user": "u", "stream": true, "stream_options": {"include_usage": true}, "seed": 5, "n": 1,
        "response_format": {"type": "text"}, "logprobs": false,
    });
    let expected = json!({
        "model": "other", "max_tokens": 50,
        "system": [{"type": "text", "text": "be brief"}, {"type": "text", "text": "and kind"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "look"},
                {"type": "image", "source":
                    {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                {"type": "image", "source": {"type": "url", "url": "https://x.example/y.png"}}]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "a_1", "name": "f", "input": {"k": 1}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a_1", "content": "ra"},
                {"type": "tool_result", "tool_use_id": "b",
                    "content": [{"type": "text", "text": "rb"}]},
                {"type": "text", "text": "go on"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}},
            {"name": "g", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "temperature": 1, "top_p": 0.5, "stop_sequences": ["END"],
        "metadata": {"user_id": "u"}, "stream": true,
    });
    assert_eq!(crossed(Wire::Chat, Wire::Messages, &chat), expected);
}

#[test]
fn a_messages_request_crosses_with_tools_results_and_documents() {
    let messages = json!({
        "model": "c", "max_tokens": 50,
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "and kind"}],
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"k": 1}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "gone", "is_error": true},
                {"type": "tool_result", "tool_use_id": "b", "content": [
                    {"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
                {"type": "text", "text": "go on"},
                {"type": "image", "source":
                    {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                {"type": "document", "title": "t.pdf", "source":
                    {"type": "base64", "media_type": "application/pdf", "data": "BB=="}},
                {"type": "document", "source": {"type": "text", "data": "plain"}}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}},
            {"type": "custom", "name": "g", "input_schema": {}}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
        "temperature": 0.5, "top_k": 5, "stop_sequences": ["END"],
        "metadata": {"user_id": "u"}, "stream": true, "thinking": {"type": "enabled"},
    });
    let function = |name: &str, arguments: &str| json!({"name": name, "arguments": arguments});
    let expected = json!({
        "model": "other",
        "messages": [
            {"role": "system", "content": "be brief\n\nand kind"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "I look.", "tool_calls": [
                {"id": "a", "type": "function", "function": function("f", "{\"k\":1}")},
                {"id": "b", "type": "function", "function": function("g", "{}")}]},
            {"role": "tool", "tool_call_id": "a", "content": "Error: gone"},
            {"role": "tool", "tool_call_id": "b", "content": "x\ny"},
            {"role": "user", "content": [{"type": "text", "text": "go on"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "file", "file": {"filename": "t.pdf",
                    "file_data": "data:application/pdf;base64,BB=="}},
                {"type": "text", "text": "plain"}]},
        ],
        "max_tokens": 50,
        "tools": [{"type": "function", "function":
                {"name": "f", "description": "d", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": false,
        "temperature": 0.5, "stop": ["END"], "user": "u", "stream": true,
        "stream_options": {"include_usage": true},
    });
    assert_eq!(crossed(Wire::Messages, Wire::Chat, &messages), expected);
}

#[test]
fn what_a_request_leaves_out_has_its_default_and_the_models_own_name() {
    let chat = json!({"messages": [{"role": "user", "content": "x"}], "tool_choice": "auto"});
    let expected = json!({"model": "other", "max_tokens": 99, "messages": [
        {"role": "user", "content": [{"type": "text", "text": "x"}]}]});
    assert_eq!(crossed(Wire::Chat, Wire::Messages, &chat), expected);
    let target = Target { model: "gpt-5.4-mini", default_max_output: 99 };
    let body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5});
    let bytes = request(Wire::Messages, Wire::Chat, body.to_string().as_bytes(), &target).unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(body["max_completion_tokens"], 5);
}

#[test]
fn what_cannot_be_said_on_the_other_wire_is_refused_by_its_name() {
    let user = json!({"role": "user", "content": "x"});
    let assistant = json!({"role": "assistant", "content": "x"});
    let with = |name: &str, value: Value| json!({"messages": [user], name: value});
    let content = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1"}});
    for (body, says) in [
        (with("n", json!(2)), "`n`"),
        (with("logprobs", json!(true)), "`logprobs`"),
        (with("response_format", json!({"type": "json_object"})), "`response_format`"),
        (with("functions", json!([{}])), "`functions`"),
        (with("modalities", json!(["text", "audio"])), "`modalities`"),
        (with("tools", json!([{"type": "custom"}])), "`tools[0]`"),
        (content(json!({"type": "input_audio"})), "`input_audio`"),
        (content(json!({"type": "file", "file": {"file_id": "f"}})), "PDF"),
        (
            json!({"messages": [user, {"role": "assistant", "tool_calls": [call]}, user]}),
            "`messages[1].tool_calls[0].function.arguments`",
        ),
        (json!({"messages": [{"role": "function"}]}), "role `function`"),
        (json!({"messages": [user, assistant]}), "last turn"),
        (json!({"messages": "x"}), "`messages`"),
    ] {
        let error = refused(Wire::Chat, Wire::Messages, &body);
        assert!(error.contains(says), "{body}: {error}");
    }
    let result =
        |content: Value| json!({"type": "tool_result", "tool_use_id": "a", "content": content});
    for (body, says) in [
        (with("mcp_servers", json!([{}])), "`mcp_servers`"),
        (with("output_config", json!({"format": {"type": "json_schema"}})), "`output_config`"),
        (with("tools", json!([{"type": "web_search_20250305"}])), "`tools.0`"),
        (content(result(json!([{"type": "image"}]))), "only text"),
        (content(json!({"type": "image", "source": {"type": "file"}})), "`file`"),
        (content(json!({"type": "search_result"})), "`search_result`"),
        (json!({"messages": [user, assistant]}), "last turn"),
        (json!({"messages": [{"role": "tool"}]}), "role `tool`"),
    ] {
        let error = refused(Wire::Messages, Wire::Chat, &body);
        assert!(error.contains(says), "{body}: {error}");
    }
    assert!(refused(Wire::Responses, Wire::Chat, &json!({})).contains("no translation"));
    assert_eq!(
        crossed(Wire::Messages, Wire::Chat, &with("output_config", json!({"effort": "low"})))["user"],
        Value::Null
    );
}
