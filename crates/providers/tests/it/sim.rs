#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use futures_util::StreamExt;
use secrecy::SecretString;
use serde_json::{Value, json};
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::anthropic::MessagesModel;
use steadfast_providers::builtin::{FileLimits, ReadFile, Root, WriteFile};
use steadfast_providers::http::{Client, ModelOptions};
use steadfast_providers::model::{
    FinishReason, Message, Model, ModelAnswer, ModelDelta, ModelError, ModelRequest,
};
use steadfast_providers::openai::ChatModel;
use steadfast_providers::sim::{SIMULATED_HEADER, Script, Sim, SimOptions};
use steadfast_providers::tool::{Tool, ToolInvocation};
use tokio::net::TcpListener;

/// Much longer than anything here takes; only a hang reaches it.
const HANG: Duration = Duration::from_secs(60);

/// A server on loopback; gone when the test's runtime is.
pub(crate) async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// A client that knows nothing of wires.
pub(crate) fn http() -> reqwest::Client {
    // Ours chooses the TLS provider, without which no client can be built.
    Client::new().unwrap();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub(crate) async fn sim(script: &str) -> (Sim, String) {
    let script = Script::parse(script).unwrap();
    let sim = Sim::new(script, SimOptions::default()).unwrap();
    let url = serve(sim.router()).await;
    (sim, url)
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire {
    OpenAi,
    Anthropic,
}

pub(crate) const WIRES: [Wire; 2] = [Wire::OpenAi, Wire::Anthropic];

/// The key of every client here.
pub(crate) const KEY: &str = "sk-loopback-4711";

impl Wire {
    /// A real client of this wire for the server at `url`.
    pub(crate) fn client(self, url: &str) -> Box<dyn Model> {
        let client = Client::new().unwrap();
        let base_url = match self {
            Self::OpenAi => format!("{url}/v1/"),
            Self::Anthropic => url.to_owned(),
        };
        let options = ModelOptions {
            provider: "test".to_owned(),
            model: "scripted".to_owned(),
            base_url,
            api_key: Some(SecretString::from(KEY)),
            simulated: true,
            max_output_tokens: None,
            headers: Vec::new(),
        };
        match self {
            Self::OpenAi => Box::new(ChatModel::new(&client, options).unwrap()),
            Self::Anthropic => Box::new(MessagesModel::new(&client, options).unwrap()),
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/chat/completions",
            Self::Anthropic => "/v1/messages",
        }
    }
}

pub(crate) fn user(text: &str) -> Message {
    Message::User { text: text.to_owned() }
}

pub(crate) fn asking(messages: Vec<Message>) -> ModelRequest {
    ModelRequest {
        messages,
        idempotency_key: Some("run-1/step-1".to_owned()),
        ..Default::default()
    }
}

/// Fails where it would hang.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.unwrap()
}

/// Every delta of a stream, and how it ended.
pub(crate) async fn streamed(
    model: &dyn Model,
    request: &ModelRequest,
) -> (Vec<ModelDelta>, Result<ModelAnswer, ModelError>) {
    let mut deltas = Vec::new();
    let mut stream = match soon(model.stream(request)).await {
        Ok(stream) => stream,
        Err(error) => return (deltas, Err(error)),
    };
    while let Some(item) = soon(stream.next()).await {
        match item {
            Ok(ModelDelta::Done(answer)) => return (deltas, Ok(*answer)),
            Ok(delta) => deltas.push(delta),
            Err(error) => return (deltas, Err(error)),
        }
    }
    panic!("the stream ended without an answer and without an error: {deltas:?}")
}

fn text_in(deltas: &[ModelDelta]) -> String {
    let text = |delta: &ModelDelta| match delta {
        ModelDelta::Text(text) => Some(text.clone()),
        _ => None,
    };
    deltas.iter().filter_map(text).collect()
}

const TALK: &str = r#"
name = "talk"
[[step]]
name = "both"
text = "Two files at once; äöü, and a text that is long enough for several pieces."
calls = [
    { tool = "read", arguments = { path = "a.txt", deep = { list = [1, 2.5, "x"] } } },
    { tool = "read", arguments = { path = "b.txt" } },
]
usage = { input = 120, cached_input = 20, output = 30 }
[[step]]
name = "bye"
text = "Thanks."
"#;

#[tokio::test]
async fn both_wires_give_the_same_answer_plain_and_streamed() {
    for wire in WIRES {
        let (sim, url) = sim(TALK).await;
        let model = wire.client(&url);
        let mut request = asking(vec![user("go")]);
        let plain = soon(model.complete(&request)).await.unwrap();
        assert_eq!(plain.model, "simulated/talk");
        assert!(plain.text.starts_with("Two files at once; äöü"), "{}", plain.text);
        assert_eq!(plain.finish, FinishReason::ToolCalls);
        let ids: Vec<&str> = plain.tool_calls.iter().map(|call| call.id.as_str()).collect();
        assert_eq!(ids, ["sim-both-0-1", "sim-both-1-1"]);
        assert_eq!(
            serde_json::from_str::<Value>(&plain.tool_calls[0].arguments).unwrap(),
            json!({"path": "a.txt", "deep": {"list": [1, 2.5, "x"]}}),
        );
        let usage = (plain.usage.input_uncached, plain.usage.cache_read, plain.usage.output);
        assert_eq!(usage, (Some(100), Some(20), Some(30)), "{wire:?}");
        let (deltas, answer) = streamed(&*model, &request).await;
        assert_eq!(answer.unwrap(), plain, "{wire:?}");
        assert_eq!(text_in(&deltas), plain.text);
        assert!(deltas.len() > 10, "{deltas:?}");
        let ModelAnswer { text, tool_calls, .. } = plain;
        request.messages.push(Message::Assistant { text, tool_calls: tool_calls.clone() });
        for call in tool_calls {
            let content = "read".to_owned();
            let (call_id, name) = (call.id, call.name);
            request.messages.push(Message::Tool { call_id, name, content, is_error: false });
        }
        let (deltas, last) = streamed(&*model, &request).await;
        let last = last.unwrap();
        assert_eq!((last.text.as_str(), last.finish), ("Thanks.", FinishReason::Stop));
        assert_eq!(text_in(&deltas), "Thanks.");
        assert_eq!(soon(model.complete(&request)).await.unwrap().text, "Thanks.");
        let records = sim.requests();
        let steps: Vec<_> =
            records.iter().map(|r| (r.number, r.step.as_deref().unwrap())).collect();
        assert_eq!(steps, [(1, "both"), (2, "both"), (3, "bye"), (4, "bye")]);
        assert!(records.iter().all(|record| record.path == wire.path()));
        assert!(records.iter().all(|r| r.idempotency_key.as_deref() == Some("run-1/step-1")));
        assert_eq!((records[0].stream, records[1].stream), (false, true));
        assert_eq!(records[0].messages, 1);
    }
}

const RELEASE: &str = r#"
name = "release"
[[entry]]
when = "(?i)status"
goto = "status"
[[step]]
name = "plan"
calls = [{ tool = "read_file", arguments = { path = "plan.json" } }]
next = [{ when = "nothing", goto = "end" }]
[[step]]
each = "changes"
[[step.steps]]
name = "look-{{index}}"
text = "{{index}} of {{total}}: {{item.file}}, because {{result.plan#/why}}"
calls = [{ tool = "read_file", arguments = { path = "{{item.file}}" } }]
next = [{ when = "^skip {{item.file}}$", goto = "@next-item" }]
[[step.steps]]
name = "copy-{{index}}"
calls = [{ tool = "write_file", arguments = { path = "out/{{item.file}}", content = "{{result.look-{{index}}}}" } }]
[[step]]
name = "end"
text = "All changes are through."
[[step]]
name = "status"
text = "Idle."
[data]
changes = [{ file = "a.txt" }, { file = "b+.txt" }, { file = "c.txt" }]
"#;

/// Plays the agent: real tools on real files, until the model ends its turn.
async fn play(model: &dyn Model, root: &Path, messages: &mut Vec<Message>) -> Vec<String> {
    let limits = FileLimits { read_bytes: 4096, write_bytes: 4096, entries: 16 };
    let read = ReadFile::new(Root::open(root).unwrap(), limits);
    let write = WriteFile::new(Root::open(root).unwrap(), limits);
    assert_eq!(write.spec().effect, Effect::Idempotent);
    let mut texts = Vec::new();
    loop {
        let answer = soon(model.complete(&asking(messages.clone()))).await.unwrap();
        texts.push(answer.text.clone());
        let calls = answer.tool_calls.clone();
        let (text, tool_calls) = (answer.text, answer.tool_calls);
        messages.push(Message::Assistant { text, tool_calls });
        if calls.is_empty() {
            return texts;
        }
        for call in calls {
            let tool: &dyn Tool = if call.name == "read_file" { &read } else { &write };
            let invocation = ToolInvocation {
                arguments: Value::Object(call.arguments_object().unwrap()),
                idempotency_key: call.id.clone(),
                deadline: tokio::time::Instant::now() + HANG,
            };
            let output = tool.call(invocation).await.unwrap();
            let (content, is_error) = (output.content, output.is_error);
            messages.push(Message::Tool { call_id: call.id, name: call.name, content, is_error });
        }
    }
}

#[tokio::test]
async fn a_grouped_script_is_played_with_real_tools_and_branches_on_their_results() {
    for wire in WIRES {
        let directory = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("plan.json", "{\"why\": \"it is time\"}"),
            ("a.txt", "alpha"),
            ("b+.txt", "skip b+.txt"),
            ("c.txt", "gamma"),
        ] {
            std::fs::write(directory.path().join(file), content).unwrap();
        }
        let (sim, url) = sim(RELEASE).await;
        let model = wire.client(&url);
        let mut messages = vec![user("release")];
        let texts = play(&*model, directory.path(), &mut messages).await;
        assert_eq!(texts[1], "1 of 3: a.txt, because it is time");
        assert_eq!(texts.last().unwrap(), "All changes are through.");
        let steps: Vec<String> = sim.requests().into_iter().filter_map(|r| r.step).collect();
        let expected = ["plan", "look-1", "copy-1", "look-2", "look-3", "copy-3", "end"];
        assert_eq!(steps, expected, "{wire:?}");
        let copied = |file: &str| std::fs::read_to_string(directory.path().join("out").join(file));
        assert_eq!(copied("a.txt").unwrap(), "alpha");
        assert!(copied("b+.txt").is_err());
        assert_eq!(copied("c.txt").unwrap(), "gamma");
        // Another turn of the same conversation, and the first request once more.
        messages.push(user("what is the STATUS?"));
        assert_eq!(play(&*model, directory.path(), &mut messages).await, ["Idle."]);
        let again = soon(model.complete(&asking(vec![user("release")]))).await.unwrap();
        assert_eq!(again.tool_calls[0].id, "sim-plan-0-1");
    }
}

#[tokio::test]
async fn a_missing_reference_is_a_server_error_that_names_step_and_reference() {
    let script = "name = \"s\"\n[[step]]\nname = \"a\"\ntext = \"{{result.b#/x}}\"\n\
                  [[step]]\nname = \"b\"\ncalls = [{ tool = \"t\" }]\n\
                  [[step]]\nname = \"c\"\ntext = \"c\"\n";
    for wire in WIRES {
        let (sim, url) = sim(script).await;
        let error = soon(wire.client(&url).complete(&asking(vec![user("x")]))).await.unwrap_err();
        assert_eq!((error.class, error.status), (ErrorClass::Server, Some(500)));
        assert!(error.message.contains("`a`") && error.message.contains("{{result.b#/x}}"));
        let record = sim.requests().pop().unwrap();
        assert_eq!(record.step.as_deref(), Some("a"));
        assert!(record.problem.unwrap().contains("result.b"));
    }
}

#[tokio::test]
async fn a_large_request_is_taken_and_every_response_says_that_it_is_simulated() {
    let (_sim, url) = sim(TALK).await;
    let http = http();
    for wire in WIRES {
        let large = "x".repeat(5 * 1024 * 1024);
        let answer = soon(wire.client(&url).complete(&asking(vec![user(&large)]))).await.unwrap();
        assert_eq!(answer.tool_calls.len(), 2);
        let bad = http.post(format!("{url}{}", wire.path())).body("{").send().await.unwrap();
        assert_eq!(
            (bad.status().as_u16(), &bad.headers()[SIMULATED_HEADER]),
            (400, &"true".parse().unwrap())
        );
        let body: Value = bad.json().await.unwrap();
        assert!(body["error"]["message"].as_str().unwrap().contains("JSON"), "{body}");
    }
    for (path, status) in [("/v1/models", 200), ("/sim", 200), ("/sim/requests", 200), ("/x", 404)]
    {
        let response = http.get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(response.headers()[SIMULATED_HEADER], "true", "{path}");
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
    }
}

#[tokio::test]
async fn faults_are_replaced_over_http_and_shown() {
    let (_sim, url) = sim(TALK).await;
    let http = http();
    let post = |body: Value| http.post(format!("{url}/sim/faults")).body(body.to_string()).send();
    let model = Wire::OpenAi.client(&url);
    let request = asking(vec![user("go")]);
    soon(model.complete(&request)).await.unwrap();
    let fault = json!({"request": 1, "kind": "status", "code": 503});
    assert_eq!(post(json!([fault])).await.unwrap().status().as_u16(), 200);
    let error = soon(model.complete(&request)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    soon(model.complete(&request)).await.unwrap();
    let gone = json!([{"step": "gone", "kind": "malformed_json"}]);
    for (wrong, says) in [(json!([{"kind": "status"}]), "`code`"), (gone, "`gone`")] {
        let refused = post(wrong).await.unwrap();
        assert_eq!(refused.status().as_u16(), 400);
        assert!(refused.text().await.unwrap().contains(says));
    }
    let shown = http.get(format!("{url}/sim")).send().await.unwrap();
    let shown: Value = shown.json().await.unwrap();
    assert_eq!(shown["simulated"], true);
    assert_eq!(shown["requests"], 3);
    assert_eq!(shown["steps"], json!(["both", "bye"]));
    let struck = json!({"request": 1, "times": 1, "kind": "status", "code": 503, "struck": 1});
    assert_eq!(shown["faults"], json!([struck]));
    let records = http.get(format!("{url}/sim/requests")).send().await.unwrap();
    let records: Value = records.json().await.unwrap();
    assert_eq!(records[1]["fault"], "status");
    assert_eq!(records.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn the_journal_has_the_request_although_the_answer_never_came() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("requests.jsonl");
    let stalled =
        format!("{TALK}\n[[fault]]\nrequest = 1\nkind = \"stall_mid_stream\"\nafter_chunks = 0\n");
    let options = SimOptions { journal: Some(journal.clone()) };
    let sim = Sim::new(Script::parse(&stalled).unwrap(), options.clone()).unwrap();
    let url = serve(sim.router()).await;
    let model = Wire::Anthropic.client(&url);
    // The head is there, so the request has been answered, and nothing else ever comes.
    drop(soon(model.stream(&asking(vec![user("go")]))).await.unwrap());
    soon(model.complete(&asking(vec![user("go")]))).await.unwrap();
    // Another server goes on in the same file.
    let second = Sim::new(Script::parse(TALK).unwrap(), options).unwrap();
    let url = serve(second.router()).await;
    soon(Wire::OpenAi.client(&url).complete(&asking(vec![user("go")]))).await.unwrap();
    let text = std::fs::read_to_string(&journal).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let brief: Vec<_> = lines.iter().map(|line| (&line["path"], &line["fault"])).collect();
    assert_eq!(
        brief,
        [
            (&json!("/v1/messages"), &json!("stall_mid_stream")),
            (&json!("/v1/messages"), &Value::Null),
            (&json!("/v1/chat/completions"), &Value::Null),
        ]
    );
    assert_eq!(lines[0]["idempotency_key"], "run-1/step-1");
    assert_eq!(lines[0]["model"], "scripted");
    let nowhere = SimOptions { journal: Some(directory.path().join("no/such/file")) };
    let error = Sim::new(Script::parse(TALK).unwrap(), nowhere).unwrap_err();
    assert!(error.to_string().contains("no/such/file"), "{error}");
}

#[tokio::test]
async fn a_conversation_with_an_open_call_is_refused() {
    for wire in WIRES {
        let (_sim, url) = sim(TALK).await;
        let model = wire.client(&url);
        let mut request = asking(vec![user("go")]);
        let answer = soon(model.complete(&request)).await.unwrap();
        let (text, tool_calls) = (answer.text, answer.tool_calls);
        request.messages.push(Message::Assistant { text, tool_calls });
        request.messages.push(user("well?"));
        let error = soon(model.complete(&request)).await.unwrap_err();
        assert_eq!((error.class, error.status), (ErrorClass::InvalidRequest, Some(400)));
        assert!(error.message.contains("sim-both-0-1"), "{error}");
    }
}

async fn faulty(wire: Wire, fault: &str) -> (Sim, Box<dyn Model>) {
    let (sim, url) = sim(&format!("{TALK}\n[[fault]]\nevery = 1\n{fault}\n")).await;
    let model = wire.client(&url);
    (sim, model)
}

#[tokio::test]
async fn r6_a_status_fault_has_its_class_and_its_wait_on_both_wires() {
    for wire in WIRES {
        for (code, class) in [
            (400, ErrorClass::InvalidRequest),
            (401, ErrorClass::Authentication),
            (402, ErrorClass::QuotaExhausted),
            (403, ErrorClass::Permission),
            (404, ErrorClass::NotFound),
            (408, ErrorClass::Timeout),
            (409, ErrorClass::Conflict),
            (429, ErrorClass::RateLimited),
            (500, ErrorClass::Server),
            (503, ErrorClass::Unavailable),
            (504, ErrorClass::Timeout),
            (529, ErrorClass::Unavailable),
        ] {
            let fault = format!("kind = \"status\"\ncode = {code}\nretry_after = 1.5");
            let (_sim, model) = faulty(wire, &fault).await;
            let request = asking(vec![user("go")]);
            let plain = soon(model.complete(&request)).await.unwrap_err();
            let (deltas, stream) = streamed(&*model, &request).await;
            for error in [plain, stream.unwrap_err()] {
                assert_eq!((error.class, error.status), (class, Some(code)), "{wire:?}");
                assert_eq!(error.retry_after, Some(Duration::from_millis(1500)));
                assert!(error.message.contains("a simulated fault"), "{error}");
            }
            assert_eq!(deltas, []);
        }
    }
}

#[tokio::test]
async fn r6_a_cut_is_malformed_after_what_came_before_it() {
    for wire in WIRES {
        let fault = "kind = \"cut_stream\"\nafter_chunks = 5";
        let (_sim, model) = faulty(wire, fault).await;
        let request = asking(vec![user("go")]);
        let (deltas, cut) = streamed(&*model, &request).await;
        assert!(text_in(&deltas).starts_with("Two files"), "{wire:?} {deltas:?}");
        let plain = soon(model.complete(&request)).await.unwrap_err();
        for error in [cut.unwrap_err(), plain] {
            assert_eq!(error.class, ErrorClass::Malformed, "{wire:?} {error}");
            assert!(error.message.contains("cut"), "{error}");
        }
        // Even when everything but the terminator came, it is no answer.
        let (_sim, model) = faulty(wire, "kind = \"cut_stream\"\nafter_chunks = 9999").await;
        let (deltas, cut) = streamed(&*model, &request).await;
        assert!(deltas.len() > 10, "{deltas:?}");
        assert_eq!(cut.unwrap_err().class, ErrorClass::Malformed);
        let (_sim, model) = faulty(wire, "kind = \"cut_stream\"\nafter_chunks = 0").await;
        let (deltas, cut) = streamed(&*model, &request).await;
        assert_eq!((deltas, cut.unwrap_err().class), (Vec::new(), ErrorClass::Malformed));
    }
}

#[tokio::test]
async fn r6_broken_json_is_malformed() {
    for wire in WIRES {
        let (_sim, model) = faulty(wire, "kind = \"malformed_json\"").await;
        let request = asking(vec![user("go")]);
        let plain = soon(model.complete(&request)).await.unwrap_err();
        let (_, stream) = streamed(&*model, &request).await;
        for error in [plain, stream.unwrap_err()] {
            assert_eq!(error.class, ErrorClass::Malformed, "{wire:?} {error}");
            assert!(error.message.contains("is not JSON"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_late_answer_is_a_whole_answer() {
    for wire in WIRES {
        let (sim, model) = faulty(wire, "kind = \"latency\"\nms = 1").await;
        let answer = soon(model.complete(&asking(vec![user("go")]))).await.unwrap();
        assert_eq!(answer.tool_calls.len(), 2);
        assert_eq!(sim.requests()[0].fault.as_deref(), Some("latency"));
    }
}

/// Waits on the level: until the server has noted that many requests.
async fn noted(sim: &Sim, count: usize) {
    while sim.requests().len() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn r5_a_stall_before_the_first_byte_lasts_until_the_call_is_dropped() {
    for wire in WIRES {
        let (sim, model) = faulty(wire, "times = 2\nkind = \"stall_before_first_byte\"").await;
        let request = asking(vec![user("go")]);
        tokio::select! {
            answer = model.complete(&request) => panic!("{answer:?}"),
            () = soon(noted(&sim, 1)) => {}
        }
        tokio::select! {
            _ = model.stream(&request) => panic!("a head came"),
            () = soon(noted(&sim, 2)) => {}
        }
        // The next call is served: nothing is left behind the ones that were given up.
        soon(model.complete(&request)).await.unwrap();
    }
}

#[tokio::test]
async fn r5_a_stall_within_the_stream_hands_out_what_came_and_then_nothing() {
    for wire in WIRES {
        let fault = "times = 2\nkind = \"stall_mid_stream\"\nafter_chunks = 5";
        let (sim, model) = faulty(wire, fault).await;
        let request = asking(vec![user("go")]);
        let mut stream = soon(model.stream(&request)).await.unwrap();
        let mut text = String::new();
        while !text.starts_with("Two files") {
            if let ModelDelta::Text(piece) = soon(stream.next()).await.unwrap().unwrap() {
                text.push_str(&piece);
            }
        }
        // What had come is read; from here on each poll finds an open connection and no bytes.
        let rest = async {
            while let Some(item) = stream.next().await {
                assert!(!matches!(item, Ok(ModelDelta::Done(_)) | Err(_)), "{item:?}");
            }
        };
        tokio::select! {
            () = rest => panic!("the stream ended"),
            answer = model.complete(&request) => panic!("{answer:?}"),
            () = soon(noted(&sim, 2)) => {}
        }
        drop(stream);
        soon(model.complete(&request)).await.unwrap();
    }
}
