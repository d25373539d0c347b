#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use serde_json::{Value, json};
use steadfast_guard::ErrorClass;
use steadfast_providers::http::MAX_ANSWER_BYTES;
use steadfast_providers::model::FinishReason;
use steadfast_providers::wire::{
    AnswerFacts, Dialect, Frames, Meaning, Peek, PoolLimits, Reader, Upstream, UpstreamAnswer,
    UpstreamOptions, Upstreams, Wire, WireFailure,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::sim::{KEY, http as plain_client, sim, soon};

const TALK: &str = r#"
name = "talk"
[[step]]
name = "both"
text = "Two files at once; äöü, and a text that is long enough for several pieces."
calls = [{ tool = "read", arguments = { path = "a.txt" } }, { tool = "list" }]
usage = { input = 120, cached_input = 20, output = 30 }
[[step]]
name = "bye"
text = "Thanks."
"#;

const STREAMING: [Wire; 3] = [Wire::Chat, Wire::Responses, Wire::Messages];

fn upstream(url: &str, wire: Wire) -> Upstream {
    let base_url = match wire.dialect() {
        Dialect::OpenAi => format!("{url}/v1"),
        Dialect::Anthropic => url.to_owned(),
    };
    let options = UpstreamOptions {
        name: "test".to_owned(),
        dialect: wire.dialect(),
        base_url,
        api_key: Some(KEY.into()),
        headers: Vec::new(),
    };
    Upstream::new(&Upstreams::new(PoolLimits::default()).unwrap(), options).unwrap()
}

fn request(wire: Wire, stream: bool) -> Bytes {
    let messages = json!([{"role": "user", "content": "go"}]);
    let body = match wire {
        Wire::Responses => json!({"model": "m", "input": messages, "stream": stream}),
        Wire::Embeddings => json!({"model": "m", "input": ["go", "go on"]}),
        Wire::CountTokens => json!({"model": "m", "messages": messages}),
        Wire::Chat | Wire::Messages => json!({"model": "m", "messages": messages, "max_tokens": 9,
            "stream": stream, "stream_options": {"include_usage": true}}),
    };
    let body = Bytes::from(body.to_string());
    assert_eq!(Peek::read(wire, &body).unwrap().stream, stream && wire.streams());
    body
}

/// Sends it without a caller's headers.
async fn send(
    upstream: &Upstream,
    wire: Wire,
    stream: bool,
) -> Result<UpstreamAnswer, WireFailure> {
    soon(upstream.send(wire, &HeaderMap::new(), request(wire, stream))).await
}

/// What came of a stream, and how its body ended.
struct Read {
    reader: Reader,
    meanings: Vec<Meaning>,
    bytes: Vec<u8>,
    ended: Result<(), WireFailure>,
}

async fn read(upstream: &Upstream, wire: Wire) -> Read {
    let answer = send(upstream, wire, true).await.unwrap();
    assert!(answer.status.is_success() && answer.is_stream());
    let (mut body, mut frames, mut reader) = (answer.body, Frames::default(), Reader::new(wire));
    let (mut meanings, mut bytes) = (Vec::new(), Vec::new());
    loop {
        let ended = match soon(body.next()).await {
            Some(Ok(chunk)) => {
                bytes.extend_from_slice(&chunk);
                frames.push(chunk);
                while let Some(frame) = frames.next_frame().unwrap() {
                    meanings.push(reader.read(&frame).meaning);
                }
                continue;
            }
            None => Ok(()),
            Some(Err(failure)) => Err(failure),
        };
        return Read { reader, meanings, bytes, ended };
    }
}

#[tokio::test]
async fn every_wire_is_answered_whole_with_its_usage() {
    let (sim, url) = sim(TALK).await;
    for wire in Wire::ALL {
        let upstream = upstream(&url, wire);
        let answer = send(&upstream, wire, false).await.unwrap();
        assert!(answer.status.is_success() && !answer.is_stream(), "{wire:?}");
        let body = soon(answer.body.read_up_to(MAX_ANSWER_BYTES)).await.unwrap();
        let facts = AnswerFacts::read(wire, &body).unwrap();
        match wire {
            Wire::Embeddings => {
                assert_eq!((facts.vectors, facts.usage.input_uncached), (2, Some(2)));
            }
            Wire::CountTokens => assert_eq!(facts.counted, Some(120)),
            Wire::Chat | Wire::Responses | Wire::Messages => {
                assert_eq!(facts.finish, FinishReason::ToolCalls, "{wire:?}");
                assert_eq!((facts.tool_calls.len(), facts.model.as_str()), (2, "simulated/talk"));
                assert!(facts.text.starts_with("Two files at once; äöü"));
                let usage = (facts.usage.input_uncached, facts.usage.cache_read);
                assert_eq!((usage, facts.usage.output), ((Some(100), Some(20)), Some(30)));
            }
        }
        let path = sim.requests().pop().unwrap().path;
        assert_eq!(Wire::at(&path), Some(wire));
    }
}

#[tokio::test]
async fn a_stream_comes_byte_for_byte_and_is_complete_with_its_usage() {
    let (_sim, url) = sim(TALK).await;
    for wire in STREAMING {
        let Read { reader, meanings, bytes, ended } = read(&upstream(&url, wire), wire).await;
        assert!(reader.complete() && ended.is_ok(), "{wire:?}");
        assert_eq!(meanings[0], Meaning::Preamble);
        assert_eq!(meanings.last(), Some(&Meaning::Terminal));
        assert_eq!(reader.finish(), Some(FinishReason::ToolCalls));
        let usage = reader.usage();
        assert_eq!((usage.input_uncached, usage.cache_read), (Some(100), Some(20)), "{wire:?}");
        assert_eq!((usage.output, reader.usage_is_final()), (Some(30), true));
        assert_eq!(reader.model(), "simulated/talk");
        // Another client that knows nothing of wires gets the same, but for ids and times.
        let path = match wire.dialect() {
            Dialect::OpenAi => format!("{url}/v1{}", wire.upstream_path()),
            Dialect::Anthropic => format!("{url}{}", wire.upstream_path()),
        };
        let direct = plain_client().post(path).body(request(wire, true)).send().await.unwrap();
        assert_eq!(direct.bytes().await.unwrap().len(), bytes.len());
    }
}

#[tokio::test]
async fn a_response_goes_on_after_its_tools_were_called() {
    let (_sim, url) = sim(TALK).await;
    let upstream = upstream(&url, Wire::Responses);
    let mut input =
        vec![json!({"role": "user", "content": [{"type": "input_text", "text": "go"}]})];
    let ask = |input: &[Value]| {
        let body = json!({"model": "m", "input": input}).to_string();
        let upstream = upstream.clone();
        async move {
            let headers = HeaderMap::new();
            let answer = soon(upstream.send(Wire::Responses, &headers, body.into())).await.unwrap();
            let body = answer.body.read_up_to(MAX_ANSWER_BYTES).await.unwrap();
            serde_json::from_slice::<Value>(&body).unwrap()
        }
    };
    let first = ask(&input).await;
    let output = first["output"].as_array().unwrap();
    input.extend(output.iter().cloned());
    for call in output.iter().filter(|item| item["type"] == "function_call") {
        input.push(
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": "x"}),
        );
    }
    assert_eq!(input.len(), 6);
    let second = ask(&input).await;
    assert_eq!(second["output"][0]["content"][0]["text"], "Thanks.");
    let stored = ask(&[]).await;
    assert_eq!(stored["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_stream_that_is_cut_at_a_byte_is_never_complete() {
    for wire in STREAMING {
        let (sim, url) = sim(TALK).await;
        let upstream = upstream(&url, wire);
        let whole = read(&upstream, wire).await.bytes.len();
        // Every byte is tried where no server is in between; here it is the way through one.
        for cut in (0..whole).step_by(61).chain([whole - 1, whole - 2]) {
            let fault = json!([{"every": 1, "kind": "cut_bytes", "after_bytes": cut}]);
            sim.set_faults(serde_json::from_value(fault).unwrap()).unwrap();
            let Read { reader, meanings, bytes, ended } = read(&upstream, wire).await;
            assert_eq!(bytes.len(), cut, "{wire:?}");
            assert!(!reader.complete() && !meanings.contains(&Meaning::Terminal));
            let failure = ended.unwrap_err();
            assert_eq!(failure.class, ErrorClass::Malformed);
            assert!(failure.message.contains("cut"), "{failure}");
        }
    }
}

#[tokio::test]
async fn an_error_after_a_good_beginning_and_a_slow_first_token_are_told_apart() {
    for wire in STREAMING {
        let (sim, url) = sim(TALK).await;
        let upstream = upstream(&url, wire);
        let fault = |fault: Value| {
            sim.set_faults(serde_json::from_value(json!([fault])).unwrap()).unwrap();
        };
        fault(json!({"every": 1, "kind": "error_in_stream", "after_chunks": 1}));
        let Read { reader, meanings, ended, .. } = read(&upstream, wire).await;
        assert!(ended.is_ok() && !reader.complete() && !reader.has_content(), "{wire:?}");
        let [Meaning::Preamble, Meaning::Error(failure)] = meanings.as_slice() else {
            panic!("{meanings:?}")
        };
        assert!(failure.message.contains("a simulated fault"), "{failure}");
        let answer = send(&upstream, wire, false).await.unwrap();
        let body = answer.body.read_up_to(MAX_ANSWER_BYTES).await.unwrap();
        assert!(AnswerFacts::read(wire, &body).is_err());
        fault(json!({"every": 1, "kind": "slow_first_token", "ms": 1}));
        assert!(read(&upstream, wire).await.reader.complete());
    }
}

#[tokio::test]
async fn a_bad_status_has_its_class_its_wait_and_its_body() {
    let fault = "kind = \"status\"\ncode = 429\nretry_after = 1.5";
    for wire in Wire::ALL {
        let (_sim, url) = sim(&format!("{TALK}\n[[fault]]\nevery = 1\n{fault}\n")).await;
        let sent = send(&upstream(&url, wire), wire, true).await.unwrap();
        let (failure, body) = soon(sent.failure()).await;
        assert_eq!((failure.class, failure.status), (ErrorClass::RateLimited, Some(429)));
        assert_eq!(failure.retry_after, Some(std::time::Duration::from_millis(1500)));
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["message"], "a simulated fault");
        let kind = if wire.dialect() == Dialect::OpenAi { "requests" } else { "rate_limit_error" };
        assert_eq!(failure.kind, kind);
    }
}

/// A provider of one connection: it reads a request, answers these bytes, and says what it read once the
/// other side has closed.
async fn one_answer(bytes: String) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let tasks = tokio_util::task::TaskTracker::new();
    let served = tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut read, mut piece) = (Vec::new(), [0; 4096]);
        while !read.ends_with(b"}") {
            let count = stream.read(&mut piece).await.unwrap();
            read.extend_from_slice(&piece[..count]);
        }
        stream.write_all(bytes.as_bytes()).await.unwrap();
        while stream.read(&mut piece).await.unwrap_or(0) > 0 {}
        String::from_utf8(read).unwrap()
    });
    (url, served)
}

#[tokio::test]
async fn dropping_a_body_closes_the_request() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
    let chunk = "transfer-encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n";
    let (url, served) = one_answer(format!("{head}{chunk}")).await;
    let upstream = upstream(&url, Wire::Chat);
    let caller: HeaderMap = [("x-api-key", "callers"), ("traceparent", "00-1")]
        .into_iter()
        .map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        })
        .collect();
    let mut answer =
        soon(upstream.send(Wire::Chat, &caller, request(Wire::Chat, true))).await.unwrap();
    assert_eq!(soon(answer.body.next_chunk()).await.unwrap().unwrap(), "data: x\n\n");
    assert!(!served.is_finished());
    drop(answer);
    let asked = soon(served).await.unwrap();
    assert!(asked.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("authorization: Bearer {KEY}\r\n")));
    assert!(asked.contains("traceparent: 00-1\r\n") && !asked.contains("callers"));
}

#[tokio::test]
async fn no_failure_shows_the_key() {
    let body = format!("{{\"error\":{{\"message\":\"wrong key {KEY}\",\"code\":\"{KEY}\"}}}}");
    let length = body.len();
    let (url, _served) =
        one_answer(format!("HTTP/1.1 401 No\r\ncontent-length: {length}\r\n\r\n{body}")).await;
    let sent = send(&upstream(&url, Wire::Chat), Wire::Chat, false).await.unwrap();
    let (failure, _) = soon(sent.failure()).await;
    assert_eq!(failure.class, ErrorClass::Authentication);
    assert_eq!(failure.message, "[redacted]: wrong key [redacted]");
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_connection_that_was_never_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let sent = send(&upstream(&url, Wire::Messages), Wire::Messages, false).await;
    let failure = sent.unwrap_err();
    assert_eq!((failure.class, failure.status), (ErrorClass::Connection, None));
    assert!(failure.message.contains(&url), "{failure}");
    // A connection that is lost before the head may have carried the request.
    let (url, _served) = one_answer("HTTP/1.1 nonsense\r\n\r\n".to_owned()).await;
    let lost = send(&upstream(&url, Wire::Chat), Wire::Chat, false).await;
    assert_eq!(lost.unwrap_err().class, ErrorClass::Server);
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_as_base64_and_models_are_listed_by_name() {
    let (sim, url) = sim(TALK).await;
    let http = plain_client();
    let ask = |body: Value| {
        let sent = http.post(format!("{url}/v1/embeddings")).body(body.to_string()).send();
        async move { sent.await.unwrap().json::<Value>().await.unwrap() }
    };
    let numbers = ask(json!({"model": "m", "input": "one two", "dimensions": 8})).await;
    let numbers = numbers["data"][0]["embedding"].as_array().unwrap().len();
    let coded = ask(
        json!({"model": "m", "input": "one two", "dimensions": 8, "encoding_format": "base64"}),
    )
    .await;
    // 8 numbers of 4 bytes are 44 characters.
    assert_eq!((numbers, coded["data"][0]["embedding"].as_str().unwrap().len()), (8, 44));
    for (name, status) in [(sim.model(), 200), ("gone", 404)] {
        let found = http.get(format!("{url}/v1/models/{name}")).send().await.unwrap();
        assert_eq!(found.status().as_u16(), status);
    }
}
