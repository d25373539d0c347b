//! Facts through the real program: remembered by an agent's tools, seen and changed by API, command line and
//! console, over a crash, and never by another tenant.

use std::path::Path;

use serde_json::{Value, json};

use crate::http::{Server, get, request, serve, submit_form};
use crate::program::{refused, run, text};

const CONFIG: &str = r#"
[models.m]
provider = "simulated"
script = "script.toml"
[tools.memory]
kind = "memory"
[tools.team]
kind = "memory"
scope = "tenant"
prefix = "team_"
keep = "7d"
[agents.worker]
model = "m"
tools = ["remember", "recall", "team_*"]
"#;

const SCRIPT: &str = r#"
name = "remembers"
[[step]]
name = "first"
calls = [
  { tool = "remember", arguments = { key = "tea/<b>", value = "green" } },
  { tool = "recall", arguments = { key = "tea/<b>" } },
  { tool = "team_remember", arguments = { key = "k", value = "v" } },
]
[[step]]
name = "last"
text = "done"
"#;

fn said(folder: &Path, server: &Server, arguments: &[&str]) -> String {
    let place = format!("http://{}", server.address);
    let output = run(folder, &[arguments, &["--server", &place]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

fn call(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let at = &server.address;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json");
    let (status, body) = request(at, &head, body.as_bytes());
    (status, serde_json::from_str(&body).unwrap_or_default())
}

#[test]
fn c13_what_an_agent_remembers_outlives_a_crash_and_stays_with_its_tenant() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    std::fs::write(folder.join("steadfast.toml"), CONFIG).expect("written");
    std::fs::write(folder.join("script.toml"), SCRIPT).expect("written");
    let server = serve(folder);
    let id = said(folder, &server, &["submit", "worker", "--tenant", "acme"]);
    let watched = said(folder, &server, &["watch", &id]);
    assert!(watched.contains("recall: done: green"), "{watched}");
    server.program.kill();
    let server = serve(folder);
    let of_worker = ["--tenant", "acme", "--agent", "worker"];
    let facts = |action: &[&str], whose: &[&str]| {
        said(folder, &server, &[&["facts"], action, whose].concat())
    };
    assert_eq!(facts(&["get", "tea/<b>"], &of_worker), "green");
    assert_eq!(facts(&["list"], &["--tenant", "acme"]), "k\tv");
    assert_eq!(facts(&["list"], &["--tenant", "other", "--agent", "worker"]), "");
    let place = format!("http://{}", server.address);
    let other = ["facts", "get", "tea/<b>", "--agent", "worker", "--server", &place];
    refused(folder, &other, 3, &["unknown_fact", "tea/<b>"]);
    let endless = ["facts", "set", "tea", "1", "--keep", "for ever", "--server", &place];
    refused(folder, &endless, 2, &["--keep", "for ever", "30d"]);
    let nameless = ["facts", "get", "", "--server", &place];
    refused(folder, &nameless, 2, &["KEY", "at least one letter"]);
    let page = get(&server.address, "/console/facts?tenant=acme&agent=worker").body;
    assert!(page.contains("green") && !page.contains("tea/<b>"), "{page}");
    let forget = page.split("method=\"post\" action=\"").nth(1).expect("a button");
    let forget = forget.split('"').next().expect("an address").replace("&#38;", "&");
    assert_eq!(submit_form(&server.address, &forget), 303);
    assert_eq!(facts(&["list"], &of_worker), "");
}

#[test]
fn c13_facts_are_set_listed_by_pages_and_forgotten_by_the_api_and_the_command_line() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    std::fs::write(folder.join("steadfast.toml"), CONFIG).expect("written");
    std::fs::write(folder.join("script.toml"), SCRIPT).expect("written");
    let server = serve(folder);
    let body = json!({ "value": { "n": 1 }, "keep": "1h" }).to_string();
    let (status, fact) = call(&server, "PUT", "/api/v1/facts/a%2Fb?session=s", &body);
    assert_eq!((status, &fact["key"], &fact["version"]), (200, &json!("a/b"), &json!(1)));
    assert!(fact["expires_at"].as_i64() > fact["at"].as_i64(), "{fact}");
    let (_, again) = call(&server, "PUT", "/api/v1/facts/a%2Fb?session=s", r#"{"value":2}"#);
    assert_eq!((&again["version"], &again["expires_at"]), (&json!(2), &Value::Null));
    assert_eq!(said(folder, &server, &["facts", "get", "a/b", "--session", "s"]), "2");
    said(folder, &server, &["facts", "set", "a/c", "two words", "--session", "s", "--keep", "1d"]);
    let (_, first) = call(&server, "GET", "/api/v1/facts?session=s&prefix=a&limit=1", "");
    assert_eq!((&first["facts"][0]["key"], &first["next"]), (&json!("a/b"), &json!("a/b")));
    let (_, rest) = call(&server, "GET", "/api/v1/facts?session=s&after=a/b&limit=1", "");
    assert_eq!((&rest["facts"][0]["value"], &rest["next"]), (&json!("two words"), &Value::Null));
    said(folder, &server, &["facts", "forget", "a/c", "--session", "s"]);
    assert_eq!(call(&server, "DELETE", "/api/v1/facts/a%2Fb?session=s", "").0, 204);
    assert_eq!(call(&server, "GET", "/api/v1/facts/a%2Fb?session=s", "").0, 404);
    assert_eq!(call(&server, "GET", "/api/v1/facts?session=s&agent=a", "").0, 400);
    let large = json!({ "value": "x".repeat(300_000) }).to_string();
    let (status, problem) = call(&server, "PUT", "/api/v1/facts/k", &large);
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_input")));
}
