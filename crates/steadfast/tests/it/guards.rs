//! Guards from outside: seen, forced by hand, and given other policies while the program runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::http::{EventStream, get, post, serve, submit_form};
use crate::program::{refused, run, text};

const SCRIPT: &str = "name = \"m\"\n[[step]]\nname = \"only\"\ntext = \"done\"\n";

fn config(policies: &str) -> String {
    format!(
        "[models.m]\nprovider = \"simulated\"\nscript = \"m.toml\"\n[agents.a]\nmodel = \"m\"\n{policies}"
    )
}

fn folder(policies: &str) -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = temporary.path().to_owned();
    std::fs::write(folder.join("m.toml"), SCRIPT).expect("written");
    std::fs::write(folder.join("steadfast.toml"), config(policies)).expect("written");
    (temporary, folder)
}

/// Replaces the file at once, as an editor does: a reader sees the old one or the new one.
fn rewrite(folder: &Path, content: &str) {
    std::fs::write(folder.join("new"), content).expect("written");
    std::fs::rename(folder.join("new"), folder.join("steadfast.toml")).expect("renamed");
}

fn json(body: &str) -> Value {
    serde_json::from_str(body).expect("JSON")
}

fn policy(address: &str) -> Value {
    json(&get(address, "/api/v1/guards/model:m").body)["policy"].clone()
}

#[test]
fn r16_policies_are_inherited_from_default_and_kind() {
    let (_temporary, folder) = folder(
        "[policies.default]\nqueue = 5\nconcurrency = 6\n[policies.\"model:*\"]\nconcurrency = 7\n\
         [policies.\"model:m\".retry]\nmax_retries = 1\n",
    );
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let shown = run(&folder, &["guards", "show", "model:m", "--server", &url]);
    let shown = text(&shown.stdout);
    assert!(shown.starts_with("`model:m` lets calls through;"), "{shown}");
    for line in ["calls    0: 0 answered", "queue = 5", "retry.max_retries = 1", "\"2m\""] {
        assert!(shown.contains(line), "{line} is not in: {shown}");
    }
    let policy = policy(&server.address);
    assert_eq!((&policy["queue"], &policy["concurrency"]), (&5.into(), &7.into()));
    assert_eq!(policy["retry"]["max_retries"], 1);
    assert_eq!(policy["total_timeout"], "2m");
}

#[test]
fn r10_a_breaker_is_forced_by_command_line_api_and_console() {
    let (_temporary, folder) = folder("");
    let server = serve(&folder);
    let at = server.address.as_str();
    let url = format!("http://{at}");
    let opened = run(&folder, &["guards", "open", "model:m", "--server", &url]);
    assert!(text(&opened.stdout).contains("forced open"), "{}", text(&opened.stderr));
    let listed = run(&folder, &["guards", "--server", &url, "--output", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["guards"][0]["breaker"], "forced_open");
    assert!(get(at, "/console/guards").body.contains("breaker-forced_open"));

    // a run meets the closed door, waits in front of it, and goes on when it is opened
    let body = r#"{"agent":"a","input":"go"}"#;
    let (_, submitted) = post(at, "/api/v1/runs", "application/json", body);
    let id = json(&submitted)["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/runs/{id}/events/stream");
    let mut events = EventStream::open(at, &path, "");
    let parked = events.find(|sent| sent.event == "parked").expect("it waits");
    assert!(parked.data.contains("breaker"), "{}", parked.data);
    assert_eq!(submit_form(at, "/console/guards/model:m/auto"), 303);
    let (status, _) = post(at, &format!("/api/v1/runs/{id}/resume"), "application/json", "{}");
    assert_eq!(status, 200);
    assert_eq!(events.last().map(|sent| sent.event), Some("succeeded".to_owned()));

    let closed = post(at, "/api/v1/guards/model:m/close", "application/json", "{}");
    assert_eq!((closed.0, &json(&closed.1)["breaker"]), (200, &"forced_closed".into()));
    let measuring = run(&folder, &["guards", "measure", "model:m", "--server", &url]);
    assert!(text(&measuring.stdout).contains("only measures"), "{}", text(&measuring.stderr));
    let (status, body) = post(at, "/api/v1/guards/model:m/kick", "application/json", "{}");
    assert!(status == 400 && body.contains("`open`, `close`, `measure` or `auto`"), "{body}");
    let unknown = run(&folder, &["guards", "auto", "model:x", "--server", &url]);
    assert_eq!(unknown.status.code(), Some(3), "{}", text(&unknown.stderr));
    assert!(text(&unknown.stderr).contains("model:m"), "{}", text(&unknown.stderr));
}

#[test]
fn r16_a_changed_file_changes_the_policies_and_a_bad_one_changes_nothing() {
    let (_temporary, folder) = folder("");
    let mut server = serve(&folder);
    let at = server.address.clone();
    post(&at, "/api/v1/guards/model:m/open", "application/json", "{}");
    rewrite(&folder, &config("[policies.\"model:m\"]\nconcurrency = 3\n"));
    let said = server.program.wait_for("policy replaced");
    assert!(said.contains("concurrency 32 -> 3"), "{said}");
    assert_eq!(policy(&at)["concurrency"], 3);
    let guard = json(&get(&at, "/api/v1/guards/model:m").body);
    assert_eq!(guard["breaker"], "forced_open", "the breaker's state stays");

    for (bad, words) in [
        ("[policies.\"model:m\"]\nconcurrency = 0\n", "concurrency"),
        ("[policies.\"model:m\"]\nconcurency = 4\n", "did you mean `concurrency`"),
        ("[policies.\"model:x\"]\nqueue = 4\n", "no such dependency"),
        ("[policies.default]\nretry.base_delay = \"-1s\"\n", "base_delay"),
        ("[policies.default]\nqueue = 99999999999999999999999\n", "policies"),
    ] {
        rewrite(&folder, &config(bad));
        server.program.wait_for("the old policies stay");
        assert_eq!(policy(&at)["concurrency"], 3);
        let list = json(&get(&at, "/api/v1/guards").body);
        let problem = list["reload_problem"].as_str().expect("a problem");
        assert!(problem.contains(words) && problem.contains("steadfast.toml"), "{problem}");
        assert!(get(&at, "/console/guards").body.contains("was not taken over"));
    }

    let other = config("[policies.\"model:m\"]\nconcurrency = 5\n").replace("m.toml", "n.toml");
    rewrite(&folder, &other);
    server.program.wait_for("take effect at the next start");
    assert_eq!(policy(&at)["concurrency"], 5);
    assert_eq!(json(&get(&at, "/api/v1/guards").body)["reload_problem"], Value::Null);

    let pid = server.program.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("runs").success());
    server.program.wait_for("no policy has changed");
}

#[test]
fn r17_faults_are_injected_only_where_that_is_allowed_and_everybody_is_told() {
    let drill = "[policies.\"model:m\"]\nchaos = { error = 1.0, error_class = \"server\" }\n\
                 retry = { max_retries = 0 }\n";
    let (_temporary, folder) = folder(drill);
    let words = ["policies.model:m", "chaos.allow = true", "steadfast.toml line"];
    refused(&folder, &["check", "steadfast.toml"], 64, &words);

    rewrite(&folder, &config(&format!("[chaos]\nallow = true\n{drill}")));
    let ended = run(&folder, &["run", "a", "--input", "go"]);
    let told = text(&ended.stderr);
    assert!(!ended.status.success() && told.contains("FAULTS ARE INJECTED"), "{told}");
    assert!(told.contains("a fault of class `server` was injected"), "{told}");

    let mut server = serve(&folder);
    let guard = json(&get(&server.address, "/api/v1/guards/model:m").body);
    assert_eq!(guard["drill"], true);
    assert!(guard["explain"].as_str().expect("a line").contains("FAULTS ARE INJECTED"));
    for path in ["/console", "/console/guards"] {
        let page = get(&server.address, path).body;
        assert!(page.contains("FAULTS ARE INJECTED: model:m"), "{path}: {page}");
    }
    let listed = run(&folder, &["guards", "--server", &format!("http://{}", server.address)]);
    assert!(text(&listed.stdout).contains("FAULTS ARE INJECTED"), "{}", text(&listed.stdout));

    rewrite(&folder, &config(drill));
    server.program.wait_for("the old policies stay");
    assert_eq!(json(&get(&server.address, "/api/v1/guards/model:m").body)["drill"], true);
    rewrite(&folder, &config(""));
    server.program.wait_for("policy replaced");
    assert_eq!(json(&get(&server.address, "/api/v1/guards/model:m").body)["drill"], false);
}

#[test]
fn r10_the_page_shows_those_in_trouble_first_and_finds_them_by_name() {
    let (_temporary, folder) = folder("");
    let server = serve(&folder);
    let at = server.address.as_str();
    let names = |path: &str| {
        let page = get(at, path).body;
        let rows = page.split("<tr id=\"guard-").skip(1);
        rows.map(|row| row.split('"').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("/console/guards"), ["model:m", "tool:report_progress"]);
    assert!(get(at, "/console/guards?trouble=only").body.contains("Show all"));
    post(at, "/api/v1/guards/tool:report_progress/open", "application/json", "{}");
    assert_eq!(names("/console/guards"), ["tool:report_progress", "model:m"]);
    assert_eq!(names("/console/guards?trouble=only&name="), ["tool:report_progress"]);
    assert_eq!(names("/console/guards?name=model%3A"), ["model:m"]);
    assert!(get(at, "/console/guards").body.contains("1 of 2 in trouble"));
    let mut live = EventStream::open(at, "/console/guards/live?trouble=only", "");
    let first = live.next().expect("a fragment");
    assert!(first.data.contains("tool:report_progress") && !first.data.contains("guard-model:m"));
    post(at, "/api/v1/guards/tool:report_progress/auto", "application/json", "{}");
    let next = live.next().expect("another fragment");
    assert!(next.data.contains("0 of 2 in trouble"), "{}", next.data);
    assert_eq!(get(at, "/console/guards?wrong=1").status, 400);
}
