mod requests;
mod streams;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;

fn head() -> Head {
    Head { created_seconds: 7, include_usage: true }
}

fn crossed(from: Wire, to: Wire, answer: &Value) -> Result<Value, WireFailure> {
    let bytes = super::answer(from, to, answer.to_string().as_bytes(), &head())?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn a_whole_chat_answer_is_a_message_and_back() {
    let chat = json!({
        "id": "c", "object": "chat.completion", "created": 7, "model": "m",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": null, "message": {
            "role": "assistant", "content": "x", "refusal": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"k\":[1]}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1}},
    });
    let message = crossed(Wire::Chat, Wire::Messages, &chat).unwrap();
    let expected = json!({
        "id": "c", "type": "message", "role": "assistant", "model": "m", "content": [
            {"type": "text", "text": "x"},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"k": [1]}},
            {"type": "tool_use", "id": "b", "name": "g", "input": {}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 5, "cache_creation_input_tokens": 1,
            "cache_read_input_tokens": 4, "output_tokens": 2},
    });
    assert_eq!(message, expected);
    assert_eq!(crossed(Wire::Messages, Wire::Chat, &message).unwrap(), chat);
}

#[test]
fn reasons_to_end_cross() {
    for (chat, calls, refusal, messages) in [
        ("stop", false, Value::Null, "end_turn"),
        ("stop", true, Value::Null, "tool_use"),
        ("tool_calls", true, Value::Null, "tool_use"),
        ("length", false, Value::Null, "max_tokens"),
        ("content_filter", false, Value::Null, "refusal"),
        ("stop", false, json!("no"), "refusal"),
    ] {
        let call = json!({"id": "a", "function": {"name": "f", "arguments": ""}});
        let calls: Vec<Value> = if calls { vec![call] } else { Vec::new() };
        let answer = json!({"choices": [{"finish_reason": chat,
            "message": {"refusal": refusal, "tool_calls": calls}}]});
        let crossed = crossed(Wire::Chat, Wire::Messages, &answer).unwrap();
        assert_eq!(crossed["stop_reason"], messages, "{answer}");
    }
    for (messages, chat) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ] {
        let answer = json!({"content": [], "stop_reason": messages});
        let crossed = crossed(Wire::Messages, Wire::Chat, &answer).unwrap();
        assert_eq!(crossed["choices"][0]["finish_reason"], chat);
    }
}

#[test]
fn an_answer_that_cannot_cross_is_an_error_that_says_why() {
    let chat = |arguments: &str, reason: &str| {
        json!({"choices": [{"finish_reason": reason, "message": {"tool_calls": [
            {"id": "a", "function": {"name": "f", "arguments": arguments}}]}}]})
    };
    for (from, answer, says) in [
        (Wire::Chat, chat("[1", "tool_calls"), "`f` are no JSON object"),
        (Wire::Chat, chat("[1]", "tool_calls"), "`f` are no JSON object"),
        (Wire::Chat, json!({"choices": []}), "exactly one choice"),
        (Wire::Chat, json!({"choices": [{"message": {}}]}), "reason to end"),
        (Wire::Chat, json!({"error": {"message": "boom"}}), "boom"),
        (
            Wire::Messages,
            json!({"content": [{"type": "server_tool_use"}], "stop_reason": "x"}),
            "`server_tool_use`",
        ),
        (Wire::Messages, json!({"content": []}), "stop reason"),
    ] {
        let to = if from == Wire::Chat { Wire::Messages } else { Wire::Chat };
        let failure = crossed(from, to, &answer).unwrap_err();
        assert!(failure.message.contains(says), "{failure}");
    }
    // What was cut at the limit is left out.
    let cut = crossed(Wire::Chat, Wire::Messages, &chat("{\"k", "length")).unwrap();
    assert_eq!((&cut["content"], &cut["stop_reason"]), (&json!([]), &json!("max_tokens")));
    let nowhere = crossed(Wire::Responses, Wire::Chat, &json!({})).unwrap_err();
    assert!(nowhere.message.contains("responses wire"), "{nowhere}");
    assert!(StreamTranslator::new(Wire::Chat, Wire::Responses, head()).is_err());
    assert!(can_cross(Wire::Chat, Wire::Messages) && !can_cross(Wire::Chat, Wire::Chat));
}

#[test]
fn thinking_is_left_out() {
    let answer = json!({"content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"},
        {"type": "text", "text": "b"}], "stop_reason": "end_turn"});
    let chat = crossed(Wire::Messages, Wire::Chat, &answer).unwrap();
    assert_eq!(chat["choices"][0]["message"]["content"], "ab");
    assert!(!chat.to_string().contains("hm"));
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
