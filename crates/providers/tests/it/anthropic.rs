#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use steadfast_guard::ErrorClass;
use steadfast_providers::anthropic::DEFAULT_MAX_OUTPUT_TOKENS;

use crate::sim::{KEY, Wire, asking, http, serve, sim, soon, streamed, user};

const HELLO: &str = r#"
name = "hello"
[[step]]
name = "hi"
text = "Hi."
calls = [{ tool = "look", arguments = { at = "it" } }, { tool = "look" }]
usage = { input = 10, cached_input = 4, output = 2 }
[[step]]
name = "end"
text = "End."
"#;

async fn raw(url: &str, body: &Value) -> String {
    let request = http().post(format!("{url}/v1/messages")).body(body.to_string());
    request.send().await.unwrap().text().await.unwrap()
}

fn question() -> Value {
    json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]})
}

#[tokio::test]
async fn a_stream_has_the_shape_that_clients_of_the_wire_expect() {
    let (_sim, url) = sim(HELLO).await;
    let mut body = question();
    body["stream"] = true.into();
    let text = raw(&url, &body).await;
    let mut names = Vec::new();
    let mut events = Vec::new();
    for event in text.split_terminator("\n\n") {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        assert_eq!(data["type"], name.as_str());
        names.push(name);
        events.push(data);
    }
    let (begin, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
    assert_eq!(
        names,
        [
            "message_start",
            "ping",
            begin,
            delta,
            stop,
            begin,
            delta,
            stop,
            begin,
            delta,
            stop,
            "message_delta",
            "message_stop",
        ]
    );
    let start = &events[0]["message"];
    assert_eq!((&start["role"], &start["content"]), (&json!("assistant"), &json!([])));
    assert_eq!(start["usage"]["input_tokens"], 6);
    assert_eq!(start["usage"]["cache_read_input_tokens"], 4);
    let indexes: Vec<&Value> = events[2..11].iter().map(|event| &event["index"]).collect();
    assert_eq!(indexes, [0, 0, 0, 1, 1, 1, 2, 2, 2].map(Value::from).iter().collect::<Vec<_>>());
    assert_eq!(events[5]["content_block"]["input"], json!({}));
    assert_eq!(events[6]["delta"]["partial_json"], r#"{"at":"it"}"#);
    assert_eq!(events[11]["delta"]["stop_reason"], "tool_use");
    assert_eq!(events[11]["usage"]["output_tokens"], 2);
}

#[tokio::test]
async fn a_plain_answer_has_the_shape_that_clients_of_the_wire_expect() {
    let (_sim, url) = sim(HELLO).await;
    let answer: Value = serde_json::from_str(&raw(&url, &question()).await).unwrap();
    assert_eq!((&answer["type"], &answer["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(answer["content"][0], json!({"type": "text", "text": "Hi."}));
    let call =
        json!({"type": "tool_use", "id": "sim-hi-0-1", "name": "look", "input": {"at": "it"}});
    assert_eq!(answer["content"][1], call);
    assert_eq!(answer["stop_reason"], "tool_use");
    let mut unlimited = question();
    unlimited.as_object_mut().unwrap().remove("max_tokens");
    let refused: Value = serde_json::from_str(&raw(&url, &unlimited).await).unwrap();
    assert_eq!(refused["error"]["type"], "invalid_request_error");
    assert!(refused["error"]["message"].as_str().unwrap().contains("max_tokens"));
}

#[tokio::test]
async fn a_request_carries_key_version_and_limit() {
    let (sent, mut seen) = tokio::sync::mpsc::unbounded_channel::<(HeaderMap, Value)>();
    let take = move |headers: HeaderMap, body: String| async move {
        sent.send((headers, serde_json::from_str(&body).unwrap())).unwrap();
        (StatusCode::IM_A_TEAPOT, "")
    };
    let url = serve(Router::new().route("/v1/messages", post(take))).await;
    let model = Wire::Anthropic.client(&url);
    soon(model.complete(&asking(vec![user("x")]))).await.unwrap_err();
    let (headers, body) = seen.recv().await.unwrap();
    assert_eq!(headers["x-api-key"], KEY);
    assert_eq!(headers["anthropic-version"], "2023-06-01");
    assert_eq!(headers["idempotency-key"], "run-1/step-1");
    assert_eq!(body["max_tokens"], DEFAULT_MAX_OUTPUT_TOKENS);
}

#[tokio::test]
async fn r6_an_error_event_within_a_stream_is_classified_by_its_word() {
    let broken = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\"}}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",",
        "\"message\":\"Overloaded\"}}\n\n",
    );
    let answer = move || async move { ([("content-type", "text/event-stream")], broken) };
    let url = serve(Router::new().route("/v1/messages", post(answer))).await;
    let (deltas, end) = streamed(&*Wire::Anthropic.client(&url), &asking(vec![user("x")])).await;
    assert_eq!(deltas.len(), 1);
    let error = end.unwrap_err();
    assert_eq!((error.class, error.status), (ErrorClass::Unavailable, None));
    assert!(error.message.contains("Overloaded"), "{error}");
}
