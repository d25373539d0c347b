#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use serde_json::{Value, json};
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::arguments::Arguments;
use steadfast_providers::builtin::{
    CommandOptions, CommandTool, FileLimits, HttpGet, HttpGetOptions, ListFiles, ReadFile,
    ReportProgress, Root, RunCommand, RunCommandOptions, WriteFile,
};
use steadfast_providers::tool::{Progress, Tool, ToolError, ToolInvocation, ToolOutput};
use tokio::time::Instant;

use crate::process::owner;

async fn call(tool: &dyn Tool, arguments: Value) -> Result<ToolOutput, ToolError> {
    // Only what fits the schema ever reaches a tool.
    let schema = Arguments::compile(&tool.spec().definition.schema).unwrap();
    let arguments = schema.parse(&arguments.to_string()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    tool.call(ToolInvocation { arguments, idempotency_key: "key-1".to_owned(), deadline }).await
}

async fn said(tool: &dyn Tool, arguments: Value) -> ToolOutput {
    call(tool, arguments).await.unwrap()
}

fn limits() -> FileLimits {
    FileLimits { read_bytes: 16, write_bytes: 64, entries: 4 }
}

fn root(path: &Path) -> Root {
    Root::open(path).unwrap()
}

#[tokio::test]
async fn files_are_written_whole_read_back_and_listed() {
    let directory = tempfile::tempdir().unwrap();
    let write = WriteFile::new(root(directory.path()), limits());
    assert_eq!(write.spec().effect, Effect::Idempotent);
    let done = said(&write, json!({"path": "a/b/c.txt", "content": "hello"})).await;
    assert!(!done.is_error, "{}", done.content);
    said(&write, json!({"path": "a/b/c.txt", "content": "again"})).await;
    let read = ReadFile::new(root(directory.path()), limits());
    assert_eq!(said(&read, json!({"path": "./a/b//c.txt"})).await.content, "again");
    let list = ListFiles::new(root(directory.path()), limits());
    assert_eq!(said(&list, json!({})).await.content, "a/");
    let all = said(&list, json!({"recursive": true})).await.content;
    assert_eq!(all, "a/\na/b/\na/b/c.txt");
    let large = said(&write, json!({"path": "x", "content": "y".repeat(65)})).await;
    assert!(large.is_error && !directory.path().join("x").exists());
    let over = said(&write, json!({"path": "a/b", "content": "z"})).await;
    assert!(over.is_error, "{}", over.content);
}

#[tokio::test]
async fn long_files_come_in_pages_that_never_cut_a_character() {
    let directory = tempfile::tempdir().unwrap();
    let whole = "äöü€".repeat(10);
    std::fs::write(directory.path().join("f"), &whole).unwrap();
    let read = ReadFile::new(root(directory.path()), limits());
    let mut offset = 0;
    let mut collected = String::new();
    loop {
        let page = said(&read, json!({"path": "f", "offset": offset})).await.content;
        let (text, note) = page.split_once("\n[bytes").unwrap_or((&page, ""));
        collected.push_str(text);
        offset = whole.len().min(collected.len());
        if note.is_empty() {
            break;
        }
        assert!(note.contains(&format!("go on with offset {offset}]")), "{note}");
    }
    assert_eq!(collected, whole);
    let inside = said(&read, json!({"path": "f", "offset": 1})).await.content;
    assert!(inside.starts_with('ö'), "{inside}");
}

#[tokio::test]
async fn what_cannot_be_read_is_told_by_name() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("binary"), [0x66, 0xFF, 0x00]).unwrap();
    let read = ReadFile::new(root(directory.path()), limits());
    let missing = said(&read, json!({"path": "no/such.txt"})).await;
    assert!(missing.is_error && missing.content.contains("`no/such.txt` does not exist"));
    let binary = said(&read, json!({"path": "binary"})).await;
    assert!(binary.is_error && binary.content.contains("not UTF-8 text (byte 1)"));
    assert!(said(&read, json!({"path": "."})).await.is_error);
}

#[tokio::test]
async fn nothing_leaves_the_root_by_dots_absolute_paths_or_links() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let directory = tempfile::tempdir().unwrap();
    symlink(outside.path(), directory.path().join("way")).unwrap();
    symlink(outside.path().join("secret"), directory.path().join("link")).unwrap();
    let read = ReadFile::new(root(directory.path()), limits());
    let write = WriteFile::new(root(directory.path()), limits());
    let list = ListFiles::new(root(directory.path()), limits());
    let absolute = outside.path().join("secret");
    for path in ["../secret", "way/secret", "link", "a/../../secret", absolute.to_str().unwrap()] {
        let got = said(&read, json!({"path": path})).await;
        assert!(got.is_error && !got.content.starts_with("secret"), "{path}: {}", got.content);
        let put = said(&write, json!({"path": path, "content": "changed"})).await;
        assert!(put.is_error, "{path}: {}", put.content);
    }
    assert!(said(&write, json!({"path": "way/new", "content": "x"})).await.is_error);
    assert!(said(&list, json!({"path": "way"})).await.is_error);
    assert_eq!(said(&list, json!({"recursive": true})).await.content, "link@\nway@");
    assert_eq!(std::fs::read_to_string(absolute).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_named_pipe_is_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let read = ReadFile::new(root(directory.path()), limits());
    assert!(said(&read, json!({"path": "pipe"})).await.content.contains("regular file"));
}

#[tokio::test]
async fn a_long_listing_is_cut_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..6 {
        std::fs::write(directory.path().join(format!("f{number}")), "").unwrap();
    }
    let list = ListFiles::new(root(directory.path()), limits());
    let listed = said(&list, json!({})).await.content;
    assert_eq!(listed.lines().count(), 5, "{listed}");
    assert!(listed.contains("cut at 4 entries"), "{listed}");
}

fn command(options: CommandOptions) -> CommandTool {
    CommandTool::new(options, owner("command")).unwrap()
}

#[tokio::test]
async fn a_command_gets_each_argument_whole_and_the_key_of_the_call() {
    let script = r#"printf '%s|' "$@"; printf '%s' "$STEADFAST_IDEMPOTENCY_KEY""#;
    let argv = ["sh", "-c", script, "name", "--", "{message}", "n={count}"];
    let tool = command(CommandOptions::new("note", "notes", &argv));
    assert_eq!(tool.spec().effect, Effect::Once);
    assert_eq!(tool.spec().definition.schema["required"], json!(["count", "message"]));
    let done = said(&tool, json!({"message": "-a; $(b) 'c'", "count": "2"})).await;
    assert_eq!(done.content, "--|-a; $(b) 'c'|n=2|key-1");
}

#[tokio::test]
async fn a_failed_command_shows_its_exit_code_and_both_outputs() {
    let tool = command(CommandOptions::new("f", "f", &["sh", "-c", "echo o; echo e >&2; exit 3"]));
    let done = said(&tool, json!({})).await;
    assert!(done.is_error);
    assert_eq!(done.content, "exit code: 3\nstdout:\no\nstderr:\ne");
}

#[tokio::test]
async fn a_command_reads_its_input_and_refuses_options_in_disguise() {
    let mut options = CommandOptions::new("c", "c", &["cat"]);
    options.stdin = Some("<{text}>".to_owned());
    assert_eq!(said(&command(options), json!({"text": "-x"})).await.content, "<-x>");
    let tool = command(CommandOptions::new("e", "e", &["echo", "{text}"]));
    let error = call(&tool, json!({"text": "--help"})).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::InvalidRequest);
    assert_eq!(said(&tool, json!({"text": "plain"})).await.content, "plain\n");
}

#[tokio::test]
async fn a_command_past_its_time_limit_is_unknown_unless_it_only_reads() {
    for (effect, class) in
        [(Effect::Read, ErrorClass::Timeout), (Effect::Once, ErrorClass::OutcomeUnknown)]
    {
        let mut options = CommandOptions::new("s", "s", &["sleep", "1000"]);
        options.timeout = Duration::from_millis(100);
        options.effect = effect;
        assert_eq!(call(&command(options), json!({})).await.unwrap_err().class, class);
    }
}

#[test]
fn bad_command_templates_are_refused_at_configuration() {
    for argv in [&[][..], &["{program}"], &["echo", "{a b}"]] {
        assert!(CommandTool::new(CommandOptions::new("x", "x", argv), owner("bad")).is_err());
    }
    let mut options = CommandOptions::new("x", "x", &["echo", "{text}"]);
    options.schema = Some(json!({"type": "object", "properties": {"other": {}}}));
    let error = CommandTool::new(options, owner("bad")).unwrap_err().to_string();
    assert!(error.contains("{text}"), "{error}");
}

#[tokio::test]
async fn only_allowed_programs_run() {
    let tool = RunCommand::new(RunCommandOptions::new(&["echo"]), owner("run"));
    let done = said(&tool, json!({"program": "echo", "args": ["a b", "$HOME"]})).await;
    assert_eq!(done.content, "a b $HOME\n");
    let deadline = Instant::now() + Duration::from_secs(30);
    let arguments = json!({"program": "sh"});
    let call = ToolInvocation { arguments, idempotency_key: String::new(), deadline };
    assert_eq!(tool.call(call).await.unwrap_err().class, ErrorClass::Permission);
}

#[tokio::test]
async fn c7_progress_is_reported() {
    let tool = ReportProgress::new();
    let arguments = json!({"step": 2, "total": 5, "description": "reading"});
    let progress = Progress { step: 2, total: 5, description: "reading".to_owned() };
    assert_eq!(said(&tool, arguments).await.progress, Some(progress));
    let beyond = said(&tool, json!({"step": 6, "total": 5, "description": "x"})).await;
    assert!(beyond.is_error && beyond.progress.is_none());
}

/// A real server on loopback; gone when the test's runtime is.
async fn website() -> String {
    let busy = (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "7")], "busy");
    let to = |target: &'static str| (StatusCode::FOUND, [(header::LOCATION, target)]);
    let router = Router::new()
        .route("/", get(|| async { "welcome" }))
        .route("/big", get(|| async { "x".repeat(5000) }))
        .route("/busy", get(move || async move { busy }))
        .route("/hop", get(move || async move { to("/") }))
        .route("/loop", get(move || async move { to("/loop") }))
        .route("/away", get(move || async move { to("http://elsewhere.invalid/") }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[tokio::test]
async fn allowed_hosts_are_read_and_redirects_checked() {
    let site = website().await;
    let mut options = HttpGetOptions::new(&["127.0.0.1"]);
    options.body_bytes = 100;
    let tool = HttpGet::new(&options).unwrap();
    let at = |path: &str| json!({"url": format!("{site}{path}")});
    assert_eq!(said(&tool, at("/")).await.content, "welcome");
    assert_eq!(said(&tool, at("/hop")).await.content, "welcome");
    let big = said(&tool, at("/big")).await.content;
    assert!(big.starts_with("xxx") && big.ends_with("[cut after 100 bytes]"), "{big}");
    let missing = said(&tool, at("/none")).await;
    assert!(missing.is_error && missing.content.contains("404"));
    let busy = call(&tool, at("/busy")).await.unwrap_err();
    assert_eq!(
        (busy.class, busy.retry_after),
        (ErrorClass::Unavailable, Some(Duration::from_secs(7)))
    );
    assert_eq!(call(&tool, at("/loop")).await.unwrap_err().class, ErrorClass::Malformed);
    let away = call(&tool, at("/away")).await.unwrap_err();
    assert_eq!(away.class, ErrorClass::Permission);
    assert!(away.message.contains("elsewhere.invalid"));
}

#[tokio::test]
async fn inner_addresses_need_a_literal_entry() {
    let site = website().await;
    let port = site.rsplit(':').next().unwrap();
    let tool = HttpGet::new(&HttpGetOptions::new(&["*.localhost", "example.org"])).unwrap();
    let literal = call(&tool, json!({"url": site.clone()})).await.unwrap_err();
    assert_eq!(literal.class, ErrorClass::Permission);
    let named = HttpGet::new(&HttpGetOptions::new(&["localhost"])).unwrap();
    let welcome = said(&named, json!({"url": format!("http://localhost:{port}/")})).await;
    assert_eq!(welcome.content, "welcome");
}
