//! What stays byte for byte, what crosses dialects, and who is told what.

use serde_json::{Value, json};

use super::{World, asks};
use crate::http::{get, post, whole};

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {body}"))
}

const CROSSING: &str = "[policies.\"model:*\"]\nretry = { max_retries = 0 }\n\
    [fallback.\"model:chat\"]\nto = [\"claude\"]\n[fallback.\"model:claude\"]\nto = [\"chat\"]\n";

#[test]
fn r14_a_fallback_to_the_other_dialect_answers_in_the_callers_own() {
    let world = World::start(CROSSING);
    for (wire, stream) in [("chat", false), ("chat", true), ("messages", false), ("messages", true)]
    {
        world.faults(&json!([{"request": 1, "kind": "status", "code": 503}]));
        let before = world.requests();
        let (path, body) = asks(wire, stream, 100);
        let (status, text) = post(world.address(), path, "application/json", &body);
        assert_eq!((status, world.requests() - before), (200, 2), "{wire}: {text}");
        if stream {
            let end = if wire == "chat" { "data: [DONE]" } else { "event: message_stop" };
            assert!(text.contains(end) && text.contains("sunny"), "{wire}: {text}");
            continue;
        }
        let answer = json(&text);
        let said = match wire {
            "chat" => &answer["choices"][0]["message"]["content"],
            _ => &answer["content"][0]["text"],
        };
        assert_eq!(said, "It is sunny in Bern.", "{text}");
    }
}

#[test]
fn every_path_is_there_with_and_without_the_version_and_can_be_turned_off() {
    let world = World::start("");
    for prefix in ["", "/v1"] {
        for (path, body) in [
            (
                "/chat/completions",
                json!({"model": "chat", "messages": [{"role": "user", "content": "a"}]}),
            ),
            ("/responses", json!({"model": "chat", "input": "a"})),
            ("/embeddings", json!({"model": "chat", "input": "a"})),
            (
                "/messages",
                json!({"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}),
            ),
            (
                "/messages/count_tokens",
                json!({"model": "claude", "messages": [{"role": "user", "content": "a"}]}),
            ),
        ] {
            let path = format!("{prefix}{path}");
            let (status, text) =
                post(world.address(), &path, "application/json", &body.to_string());
            assert_eq!(status, 200, "{path}: {text}");
        }
        let listed = json(&get(world.address(), &format!("{prefix}/models")).body);
        assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
        assert_eq!(get(world.address(), &format!("{prefix}/models/chat")).status, 200);
        assert_eq!(get(world.address(), &format!("{prefix}/models/none")).status, 404);
    }
    let off = World::start("[gateway]\nenabled = false\n");
    assert_eq!(get(off.address(), "/v1/models").status, 404);
    let (path, body) = asks("chat", false, 10);
    assert_eq!(post(off.address(), path, "application/json", &body).0, 404);
}

#[test]
fn a_page_of_another_site_cannot_ask_and_an_answer_says_what_it_cost() {
    let world = World::start("");
    let at = world.address();
    let (path, body) = asks("chat", false, 10);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {at}\r\norigin: https://evil.example\r\n\
         content-type: application/json"
    );
    assert_eq!(whole(at, &head, body.as_bytes()).0, 403);
    assert_eq!(world.requests(), 0);
    let head = format!("POST {path} HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json");
    let (status, head, _) = whole(at, &head, body.as_bytes());
    assert!(status == 200 && head.contains("x-request-id: req_"), "{head}");
    let cost = head.lines().find_map(|line| line.strip_prefix("x-steadfast-cost-nano-usd: "));
    let cost: u64 = cost.and_then(|cost| cost.trim().parse().ok()).expect("a cost");
    assert!(cost > 0, "{head}");
}

#[test]
fn a_caller_that_repeats_a_call_is_tried_once_and_one_that_does_not_as_the_policy_says() {
    let policy = "[policies.\"model:*\"]\nretry = { max_retries = 2, base_delay = \"1ms\" }\n\
                  breaker = { consecutive_failures = 1000, min_calls = 1000 }\n";
    let world = World::start(policy);
    world.faults(&json!([{"every": 1, "kind": "status", "code": 500}]));
    let (path, body) = asks("messages", false, 10);
    let at = world.address();
    for (more, attempts) in [("", 3), ("\r\nx-stainless-retry-count: 1", 1)] {
        let before = world.requests();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json{more}");
        let (status, head, text) = whole(at, &head, body.as_bytes());
        assert_eq!((status, world.requests() - before), (502, attempts), "{text}");
        assert!(head.contains("x-should-retry: false") && head.contains("request-id: req_"));
        assert_eq!(json(&text)["error"]["type"], "api_error");
    }
}
