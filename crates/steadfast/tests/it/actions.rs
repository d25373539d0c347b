//! What people do with runs that went wrong, by the command line, the API and the console.

use std::path::Path;

use serde_json::Value;

use crate::http::{EventStream, get, post, serve};
use crate::program::{run, text};

/// An agent that fails once behind its first step, and one that never answers.
const CONFIG: &str = r#"
[models.flaky]
provider = "simulated"
script = "flaky.toml"
[models.stuck]
provider = "simulated"
script = "stuck.toml"
[agents.flaky]
model = "flaky"
tools = ["report_progress"]
[agents.stuck]
model = "stuck"
"#;

const FLAKY: &str = r#"
name = "flaky"
[[step]]
name = "begin"
text = "I begin."
calls = [{ tool = "report_progress", arguments = { step = 1, total = 2, description = "half done" } }]
[[step]]
name = "end"
text = "at last"
[[fault]]
request = 2
times = 1
kind = "status"
code = 400
"#;

const ANSWER: &str = r#"{"call":"c1","verdict":"happened"}"#;

const STUCK: &str = r#"
name = "stuck"
[[step]]
name = "only"
text = "never said"
[[fault]]
every = 1
kind = "stall_before_first_byte"
"#;

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = temporary.path().to_owned();
    for (name, content) in
        [("steadfast.toml", CONFIG), ("flaky.toml", FLAKY), ("stuck.toml", STUCK)]
    {
        std::fs::write(folder.join(name), content).expect("written");
    }
    (temporary, folder)
}

/// What a command says, and its exit code.
fn say(folder: &Path, server: &str, command: &[&str]) -> (Option<i32>, String) {
    let command: Vec<&str> = command.iter().copied().chain(["--server", server]).collect();
    let done = run(folder, &command);
    (done.status.code(), text(&done.stdout).trim().to_owned())
}

fn submit(folder: &Path, server: &str, agent: &str) -> String {
    let (code, id) = say(folder, server, &["submit", agent, "--input", "go"]);
    assert_eq!(code, Some(0));
    id
}

/// The kinds of a run's events, followed until it is over.
fn follow(address: &str, run: &str) -> Vec<String> {
    let path = format!("/api/v1/runs/{run}/events");
    EventStream::open(address, &path, "accept: text/event-stream\r\n")
        .map(|sent| sent.event)
        .collect()
}

fn shown(address: &str, run: &str) -> Value {
    serde_json::from_str(&get(address, &format!("/api/v1/runs/{run}")).body).expect("JSON")
}

#[test]
fn c11_a_run_is_paused_and_resumed_by_the_command_line() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let id = submit(&folder, &url, "stuck");
    let mut events = EventStream::open(
        &server.address,
        &format!("/api/v1/runs/{id}/events"),
        "accept: text/event-stream\r\n",
    );
    assert!(events.any(|sent| sent.event == "claimed"));
    let (code, said) = say(&folder, &url, &["pause", &id]);
    assert_eq!((code, said), (Some(0), format!("{id} pauses once its step under way has ended")));
    let (code, said) = say(&folder, &url, &["pause", &id, "--now", "--reason", "lunch"]);
    assert_eq!((code, said), (Some(0), format!("{id} paused")));
    assert_eq!(say(&folder, &url, &["pause", &id, "--now"]).0, Some(4), "it is paused");
    let (code, said) = say(&folder, &url, &["resume", &id]);
    assert!(code == Some(0) && said.starts_with(&id), "{said}");
    assert_eq!(say(&folder, &url, &["cancel", &id]).0, Some(0));
}

#[test]
fn c11_a_failed_run_is_rolled_back_and_a_run_is_forked_by_the_command_line() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let (at, url) = (server.address.as_str(), format!("http://{}", server.address));
    let id = submit(&folder, &url, "flaky");
    assert_eq!(follow(at, &id).last().map(String::as_str), Some("failed"));
    let (_, listed) = say(&folder, &url, &["checkpoints", &id]);
    assert!(listed.contains("1/2 half done") && listed.contains("whole"), "{listed}");
    let (code, said) = say(&folder, &url, &["rollback", &id, "--reason", "again"]);
    assert!(code == Some(0) && said.contains("rolled back to event"), "{said}");
    let events = follow(at, &id);
    assert_eq!(events.last().map(String::as_str), Some("succeeded"));
    assert!(events.iter().any(|kind| kind == "rolled_back"));
    for refused in ["rollback", "retry", "pause"] {
        assert_eq!(say(&folder, &url, &[refused, &id]).0, Some(4), "{refused}: it succeeded");
    }
    std::fs::write(folder.join("prompt.txt"), "Be brief.").expect("written");
    let order = ["fork", &id, "--at", "1", "--input", "another", "--prompt-file", "prompt.txt"];
    let (code, fork) = say(&folder, &url, &order);
    assert_eq!(code, Some(0), "{fork}");
    follow(at, &fork);
    let detail = shown(at, &fork);
    assert_eq!((&detail["input"], &detail["forked_from"]), (&"another".into(), &id.clone().into()));
    assert_eq!(detail["origin"]["changes"]["instructions"], "Be brief.");
    let (_, said) = say(&folder, &url, &["show", &fork]);
    assert!(said.contains("input    another"), "{said}");
    assert!(said.contains(&format!("fork of  {id}")), "{said}");
    let (code, said) = say(&folder, &url, &["watch", &fork]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("forked from {id} at event 1")), "{said}");
    let (_, said) = say(&folder, &url, &["watch", &id]);
    assert!(said.contains("by api (again)"), "{said}");
    assert_eq!(say(&folder, &url, &["fork", &id, "--model", "none"]).0, Some(1));
    assert_eq!(say(&folder, &url, &["answer", &id, "c1", "happened"]).0, Some(4), "asks nobody");
    let (_, refused) = post(at, &format!("/api/v1/runs/{id}/answer"), "application/json", ANSWER);
    assert!(refused.contains("not_asking") && refused.contains("can be told: fork\""), "{refused}");
    let again = |at: &str| say(&folder, &url, &["fork", &id, "--key", "k", "--at", at]);
    assert_eq!((again("1").0, again("1").0, again("2").0), (Some(0), Some(0), Some(4)));
    let (_, refused) =
        post(at, &format!("/api/v1/runs/{id}/fork"), "application/json", r#"{"at":2,"key":"k"}"#);
    assert!(refused.contains("with another `at`: use another key"), "{refused}");
}

#[test]
fn c11_the_console_offers_what_can_be_done_with_a_run() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = server.address.as_str();
    let body = r#"{"agent":"flaky","input":"<b>go</b>"}"#;
    let (_, run) = post(at, "/api/v1/runs", "application/json", body);
    let run: Value = serde_json::from_str(&run).expect("JSON");
    let id = run["id"].as_str().expect("an id").to_owned();
    follow(at, &id);
    let path = format!("/console/runs/{id}");
    let page = get(at, &path).body;
    for offered in ["retry", "resume", "checkpoints", "fork?at=1\""] {
        assert!(page.contains(&format!("{path}/{offered}")), "{offered}: {page}");
    }
    assert!(!page.contains(&format!("{path}/pause")), "it is over");
    let form = "application/x-www-form-urlencoded";
    let send = |path: &str, body: &str| post(at, path, form, body).0;
    let list = get(at, &format!("{path}/checkpoints")).body;
    assert!(list.contains("half done") && list.contains("Roll back"), "{list}");
    let asked = get(at, &format!("{path}/fork?at=1")).body;
    assert!(asked.contains("&#60;b&#62;go"), "escaped: {asked}");
    assert_eq!(send(&format!("{path}/retry"), ""), 303);
    assert_eq!(follow(at, &id).last().map(String::as_str), Some("succeeded"));
    assert_eq!(send(&format!("{path}/rollback"), "to=1"), 409, "it succeeded");
    assert_eq!(send(&format!("{path}/fork"), "at=1&input=other&model=flaky&instructions="), 303);
    assert_eq!(send(&format!("{path}/fork"), "at=x"), 400);
    let listed = get(at, "/api/v1/runs").body;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let fork = &listed["runs"][0];
    assert_eq!((&fork["forked_from"], &fork["input"]), (&id.into(), &"other".into()));
}
