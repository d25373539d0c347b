#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use steadfast_guard::ErrorClass;
use steadfast_providers::model::{ModelRequest, ToolDefinition};

use crate::sim::{KEY, WIRES, Wire, asking, http, serve, sim, soon, streamed, user};

const HELLO: &str = r#"
name = "hello"
[[step]]
name = "hi"
text = "Hi."
calls = [{ tool = "look", arguments = { at = "it" } }]
usage = { input = 10, cached_input = 4, output = 2 }
[[step]]
name = "end"
text = "End."
"#;

/// The data of every event that the simulated provider streams for this body.
async fn events(url: &str, body: &Value) -> Vec<String> {
    let response = http()
        .post(format!("{url}/v1/chat/completions"))
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    text.split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_stream_has_the_shape_that_clients_of_the_wire_expect() {
    let (_sim, url) = sim(HELLO).await;
    let messages = json!([{"role": "user", "content": [{"type": "text", "text": "x"}]}]);
    let mut body = json!({"model": "m", "messages": messages, "stream": true});
    let bare = events(&url, &body).await;
    body["stream_options"] = json!({"include_usage": true});
    let full = events(&url, &body).await;
    assert_eq!(
        (bare.last().unwrap().as_str(), full.last().unwrap().as_str()),
        ("[DONE]", "[DONE]")
    );
    assert_eq!(full.len(), bare.len() + 1);
    let chunks = |events: &[String]| -> Vec<Value> {
        let data = &events[..events.len() - 1];
        data.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect()
    };
    assert!(chunks(&bare).iter().all(|chunk| chunk.get("usage").is_none()));
    let full = chunks(&full);
    let (usage, rest) = full.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["prompt_tokens"], 10);
    assert_eq!(usage["usage"]["total_tokens"], 12);
    assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
    assert!(rest.iter().all(|chunk| chunk["usage"].is_null()));
    assert!(full.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    assert!(full.iter().all(|chunk| chunk["id"] == full[0]["id"]));
    assert_eq!(rest[0]["choices"][0]["delta"]["role"], "assistant");
    let begin = &rest[2]["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!(begin["id"], "sim-hi-0-1");
    assert_eq!(begin["type"], "function");
    let finish: Vec<&Value> =
        rest.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    let (last, before) = finish.split_last().unwrap();
    assert_eq!(**last, "tool_calls");
    assert!(before.iter().all(|reason| reason.is_null()));
}

/// A server that answers every model call with this.
fn always(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Router {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    let status = StatusCode::from_u16(status).unwrap();
    let answer = move || async move { (status, headers, body) };
    Router::new()
        .route("/v1/chat/completions", post(answer.clone()))
        .route("/v1/messages", post(answer))
}

#[tokio::test]
async fn r6_nobody_listening_is_a_connection_error() {
    // Bound and not listening: nobody else can take the port while the test runs.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    for wire in WIRES {
        let model = wire.client(&url);
        let plain = soon(model.complete(&asking(vec![user("x")]))).await.unwrap_err();
        let (_, stream) = streamed(&*model, &asking(vec![user("x")])).await;
        for error in [plain, stream.unwrap_err()] {
            assert_eq!((error.class, error.status), (ErrorClass::Connection, None), "{error}");
        }
    }
}

#[tokio::test]
async fn a_key_that_the_provider_repeats_never_shows() {
    let echo = |headers: HeaderMap| async move {
        let bearer = headers.get("authorization").or_else(|| headers.get("x-api-key")).unwrap();
        let message = format!("bad key: {}", bearer.to_str().unwrap());
        let body = json!({"error": {"type": "authentication_error", "message": message}});
        (StatusCode::UNAUTHORIZED, body.to_string())
    };
    let router =
        Router::new().route("/v1/chat/completions", post(echo)).route("/v1/messages", post(echo));
    let url = serve(router).await;
    for wire in WIRES {
        let model = wire.client(&url);
        let plain = soon(model.complete(&asking(vec![user("x")]))).await.unwrap_err();
        let (_, stream) = streamed(&*model, &asking(vec![user("x")])).await;
        for error in [plain, stream.unwrap_err()] {
            assert_eq!((error.class, error.status), (ErrorClass::Authentication, Some(401)));
            assert!(error.message.contains("[redacted]"), "{error}");
            assert!(!format!("{error} {error:?}").contains(KEY), "{error}");
        }
    }
}

#[tokio::test]
async fn r6_the_wait_is_read_from_every_header_that_providers_use() {
    for (headers, expected_ms) in [
        (&[("retry-after", "2")][..], Some(2000)),
        (&[("retry-after-ms", "250"), ("retry-after", "2")], Some(250)),
        (&[("x-ms-retry-after-ms", "300")], Some(300)),
        (
            &[
                ("date", "Wed, 21 Oct 2026 07:28:00 GMT"),
                ("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT"),
            ],
            Some(30_000),
        ),
        (&[("retry-after", "soon")], None),
    ] {
        let url = serve(always(429, headers, "{}")).await;
        for wire in WIRES {
            let error =
                soon(wire.client(&url).complete(&asking(vec![user("x")]))).await.unwrap_err();
            assert_eq!(error.class, ErrorClass::RateLimited);
            let wait = error.retry_after.map(|wait| wait.as_millis());
            assert_eq!(wait, expected_ms, "{wire:?} {headers:?}");
        }
    }
}

#[tokio::test]
async fn r6_a_redirect_is_not_followed_and_an_error_in_a_good_answer_is_one() {
    let moved = serve(always(302, &[("location", "/v1/messages")], "")).await;
    let json = &[("content-type", "application/json")][..];
    let wrong = r#"{"error": {"type": "overloaded_error", "message": "busy"}}"#;
    let good = serve(always(200, json, wrong)).await;
    let not_json = serve(always(200, json, "<html>")).await;
    for wire in WIRES {
        for (url, class) in [
            (&moved, ErrorClass::InvalidRequest),
            (&good, ErrorClass::Unavailable),
            (&not_json, ErrorClass::Malformed),
        ] {
            let model = wire.client(url);
            let plain = soon(model.complete(&asking(vec![user("x")]))).await.unwrap_err();
            let (_, stream) = streamed(&*model, &asking(vec![user("x")])).await;
            assert_eq!((plain.class, stream.unwrap_err().class), (class, class), "{wire:?} {url}");
        }
    }
}

#[tokio::test]
async fn a_request_carries_what_was_asked() {
    let (sent, mut seen) = tokio::sync::mpsc::unbounded_channel::<(HeaderMap, Value)>();
    let take = move |headers: HeaderMap, body: String| async move {
        sent.send((headers, serde_json::from_str(&body).unwrap())).unwrap();
        (StatusCode::IM_A_TEAPOT, "")
    };
    let url = serve(Router::new().route("/v1/chat/completions", post(take))).await;
    let tool = ToolDefinition {
        name: "look".to_owned(),
        description: "Looks.".to_owned(),
        schema: json!({"type": "object"}),
    };
    let request = ModelRequest {
        system: Some("be brief".to_owned()),
        tools: vec![tool],
        max_output_tokens: Some(50),
        temperature: Some(0.5),
        ..asking(vec![user("x")])
    };
    let model = Wire::OpenAi.client(&url);
    soon(model.complete(&request)).await.unwrap_err();
    streamed(&*model, &request).await.1.unwrap_err();
    let (headers, plain) = seen.recv().await.unwrap();
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(headers["idempotency-key"], "run-1/step-1");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(plain["messages"][0], json!({"role": "system", "content": "be brief"}));
    assert_eq!(plain["tools"][0]["function"]["name"], "look");
    assert_eq!(plain["temperature"], 0.5);
    assert!(plain.get("stream").is_none());
    let (_, stream) = seen.recv().await.unwrap();
    assert_eq!(stream["stream"], true);
    assert_eq!(stream["stream_options"]["include_usage"], true);
}
