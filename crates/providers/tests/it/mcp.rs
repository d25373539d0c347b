#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::mcp::{EffectOverride, McpServer, McpServerConfig};
use steadfast_providers::process::sweep_orphans;
use steadfast_providers::tool::{Tool, ToolError, ToolInvocation, ToolOutput};
use tokio::time::{Instant, sleep};

use crate::process::owner;

/// Built by `cargo test` beside this binary: `target/PROFILE/deps/it-HASH` and `target/PROFILE/examples/`.
fn fixture() -> String {
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(|deps| deps.parent()).unwrap();
    let path: PathBuf = profile.join("examples").join("mcp_fixture");
    assert!(path.exists(), "{} is not built", path.display());
    path.to_str().unwrap().to_owned()
}

fn config(args: &[&str]) -> McpServerConfig {
    let mut config = McpServerConfig::new(&fixture(), args);
    config.trust = true;
    config
}

async fn start(test: &str, config: McpServerConfig) -> McpServer {
    McpServer::start("fix", config, owner(&format!("mcp-{test}"))).await.unwrap()
}

fn tool(server: &McpServer, name: &str) -> Arc<dyn Tool> {
    let full = format!("fix__{name}");
    server.tools().into_iter().find(|tool| tool.spec().definition.name == full).unwrap()
}

async fn call(server: &McpServer, name: &str, arguments: Value) -> Result<ToolOutput, ToolError> {
    call_within(server, name, arguments, Duration::from_secs(30)).await
}

async fn call_within(
    server: &McpServer,
    name: &str,
    arguments: Value,
    limit: Duration,
) -> Result<ToolOutput, ToolError> {
    let deadline = Instant::now() + limit;
    let call = ToolInvocation { arguments, idempotency_key: "key".to_owned(), deadline };
    tool(server, name).call(call).await
}

async fn echoes(server: &McpServer) {
    let said = call(server, "echo", json!({"text": "hello"})).await.unwrap();
    assert_eq!(said, ToolOutput::text("hello".to_owned()));
}

/// Nothing of this owner is left.
async fn nothing_left(test: &str) {
    let id = owner(&format!("mcp-{test}"));
    assert_eq!(sweep_orphans(id.id(), Duration::ZERO).await, 0);
}

#[tokio::test]
async fn r11_a_server_is_handed_the_key_of_a_call_that_changes_something() {
    let server = start("key", config(&[])).await;
    assert_eq!(call(&server, "key", json!({})).await.unwrap().content, "key");
    let mut reading = config(&[]);
    reading.effects.insert("key".to_owned(), EffectOverride::Read);
    let other = start("key-read", reading).await;
    assert_eq!(call(&other, "key", json!({})).await.unwrap().content, "none");
    server.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn tools_of_all_pages_are_listed_and_called() {
    let server = start("normal", config(&[])).await;
    assert_eq!(server.tools().len(), 11);
    echoes(&server).await;
    let add = tool(&server, "add");
    assert_eq!(add.spec().dependency, "mcp:fix");
    assert_eq!(add.spec().definition.schema["required"], json!(["a", "b"]));
    assert_eq!(
        call(&server, "add", json!({"a": 1, "b": 2})).await.unwrap().content,
        r#"{"sum":3}"#
    );
    let failed = call(&server, "fail", json!({})).await.unwrap();
    assert!(failed.is_error && failed.content == "it went wrong");
    assert_eq!(call(&server, "big", json!({})).await.unwrap().content.len(), 1_000_000);
    let unknown = call(&server, "gone", json!({})).await.unwrap_err();
    assert_eq!(unknown.class, ErrorClass::InvalidRequest);
    server.shutdown().await;
    nothing_left("normal").await;
    let closed = call(&server, "echo", json!({})).await.unwrap_err();
    assert_eq!(closed.class, ErrorClass::Connection);
}

#[tokio::test]
async fn annotations_count_only_if_trusted_and_the_configuration_wins() {
    let trusted = start("trust", config(&[])).await;
    assert_eq!(tool(&trusted, "echo").spec().effect, Effect::Read);
    assert_eq!(tool(&trusted, "exit").spec().effect, Effect::Idempotent);
    assert_eq!(tool(&trusted, "fail").spec().effect, Effect::Once);
    trusted.shutdown().await;
    let mut untrusted = config(&[]);
    untrusted.trust = false;
    untrusted.effects.insert("fail".to_owned(), EffectOverride::Read);
    let untrusted = start("trust", untrusted).await;
    assert_eq!(tool(&untrusted, "echo").spec().effect, Effect::Once);
    assert_eq!(tool(&untrusted, "fail").spec().effect, Effect::Read);
    untrusted.shutdown().await;
}

/// Waits on the level: until the server has noted that line.
async fn noted(path: &std::path::Path, wanted: &str) {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().any(|line| line.starts_with(wanted)) {
            return;
        }
        assert!(Instant::now() < patience, "`{wanted}` was not noted in: {text}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_call_past_its_deadline_is_cancelled_and_a_late_answer_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let notes = directory.path().join("notes");
    let server = start("slow", config(&["normal", notes.to_str().unwrap()])).await;
    let limit = Duration::from_millis(300);
    let read = call_within(&server, "slow", json!({}), limit).await.unwrap_err();
    assert_eq!(read.class, ErrorClass::Timeout);
    noted(&notes, "cancelled").await;
    let write = call_within(&server, "slow_write", json!({}), limit).await.unwrap_err();
    assert_eq!(write.class, ErrorClass::OutcomeUnknown);
    echoes(&server).await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_at_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let notes = directory.path().join("notes");
    let server = start("drop", config(&["normal", notes.to_str().unwrap()])).await;
    tokio::select! {
        _ = call(&server, "slow", json!({})) => panic!("nothing was answered"),
        () = noted(&notes, "slow") => {}
    }
    noted(&notes, "cancelled").await;
    echoes(&server).await;
    server.shutdown().await;
}

#[tokio::test]
async fn calls_in_flight_at_a_servers_death_are_unknown_and_the_next_ones_start_it_again() {
    let mut settings = config(&[]);
    settings.env.insert("HARMLESS".to_owned(), "leaving".to_owned());
    let server = start("death", settings).await;
    let write = call(&server, "exit", json!({})).await.unwrap_err();
    assert_eq!(write.class, ErrorClass::OutcomeUnknown);
    // Started a moment ago, so the first tries are told to wait; they say what the server said last.
    let patience = Instant::now() + Duration::from_secs(30);
    let mut told_to_wait = false;
    loop {
        match call(&server, "echo", json!({"text": "again"})).await {
            Ok(said) => {
                assert_eq!(said.content, "again");
                break;
            }
            Err(error) => {
                assert_eq!(error.class, ErrorClass::Connection);
                told_to_wait |= error.retry_after.is_some();
                assert!(!error.message.contains("leaving"), "{}", error.message);
                assert!(Instant::now() < patience, "{}", error.message);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    assert!(told_to_wait);
    let read = call(&server, "exit_read", json!({})).await.unwrap_err();
    assert_eq!(read.class, ErrorClass::Connection);
    server.shutdown().await;
    nothing_left("death").await;
}

#[tokio::test]
async fn a_server_that_ignores_eof_is_ended_all_the_same() {
    let server = start("eof", config(&["ignore-eof"])).await;
    echoes(&server).await;
    server.shutdown().await;
    nothing_left("eof").await;
}

#[tokio::test]
async fn a_dropped_server_is_killed() {
    let server = start("dropped", config(&["ignore-eof"])).await;
    echoes(&server).await;
    drop(server);
    let id = owner("mcp-dropped");
    let patience = Instant::now() + Duration::from_secs(20);
    while sweep_orphans(id.id(), Duration::from_secs(5)).await > 0 {
        assert!(Instant::now() < patience);
    }
}

#[tokio::test]
async fn every_request_of_a_server_is_answered() {
    let server = start("asks", config(&["asks"])).await;
    let patience = Instant::now() + Duration::from_secs(20);
    let answers = loop {
        let text = call(&server, "answers", json!({})).await.unwrap().content;
        let answers: Vec<Value> = serde_json::from_str(&text).unwrap();
        if answers.len() >= 3 {
            break answers;
        }
        assert!(Instant::now() < patience, "{text}");
    };
    let answer = |id: &str| answers.iter().find(|answer| answer["id"] == id).unwrap();
    assert_eq!(answer("r")["error"]["code"], -32601);
    assert!(answer("p")["result"].is_object());
    assert_eq!(answer("x")["error"]["code"], -32601);
    server.shutdown().await;
}

#[tokio::test]
async fn storms_of_notifications_and_garbage_do_no_harm() {
    for mode in ["storm", "garbage", "strict"] {
        let server = start(mode, config(&[mode])).await;
        echoes(&server).await;
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_tells_its_last_words_without_its_secrets() {
    let mut settings = config(&["dies"]);
    settings.env.insert("FIXTURE_SECRET".to_owned(), "hunter2-hunter2".to_owned());
    let error = McpServer::start("fix", settings, owner("mcp-dies")).await.unwrap_err().to_string();
    assert!(error.contains("cannot log in with [redacted]"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let missing = McpServerConfig::new("no-such-server", &[]);
    let error = McpServer::start("m", missing, owner("mcp-none")).await.unwrap_err().to_string();
    assert!(error.contains("no-such-server"), "{error}");
}

#[tokio::test]
async fn a_silent_server_ends_at_the_start_up_limit() {
    let mut settings = config(&["silent"]);
    settings.timeouts.startup = Duration::from_millis(500);
    let error =
        McpServer::start("fix", settings, owner("mcp-silent")).await.unwrap_err().to_string();
    assert!(error.contains("timeout.startup"), "{error}");
    let id = owner("mcp-silent");
    sweep_orphans(id.id(), Duration::from_secs(5)).await;
    nothing_left("silent").await;
}

#[tokio::test]
async fn a_real_server_of_both_eras_answers() {
    let python = std::env::vars_os().find(|(name, _)| name == "STEADFAST_TEST_PYTHON");
    let Some(python) = python.and_then(|(_, value): (OsString, OsString)| value.into_string().ok())
    else {
        eprintln!("skipped: STEADFAST_TEST_PYTHON names no Python with mcp-server-time");
        return;
    };
    let settings = McpServerConfig::new(&python, &["-m", "mcp_server_time"]);
    let server = start("time", settings).await;
    let now = call(&server, "get_current_time", json!({"timezone": "UTC"})).await.unwrap();
    assert!(!now.is_error && now.content.contains("UTC"), "{}", now.content);
    server.shutdown().await;
    nothing_left("time").await;
}
