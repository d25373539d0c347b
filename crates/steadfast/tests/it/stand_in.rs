//! What stands in for a dependency, from outside: configured, marked wherever it is seen, and kept over a
//! kill.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::http::{EventStream, get, post, serve};
use crate::program::{refused, run, text};

const MODEL: &str = "[models.m]\nprovider = \"simulated\"\nscript = \"m.toml\"\n";
const PAYING: &str = "name = \"m\"\n[[step]]\nname = \"ask\"\n\
    calls = [{ tool = \"pay\", arguments = { cents = \"500\" } }]\n[[step]]\nname = \"end\"\n\
    text = \"told\"\n";
const PAY: &str = "[tools.pay]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"echo $1 >> paid\", \"sh\", \
    \"{cents}\"]\ndescription = \"pays\"\neffect = \"once\"\n";
const AGENT: &str = "[agents.a]\nmodel = \"m\"\ntools = [\"pay\"]\n";
const DRILL: &str = "[chaos]\nallow = true\n[policies.\"tool:pay\"]\nretry = { max_retries = 0 }\n\
    chaos = { error = 1.0, error_class = \"connection\" }\n";

fn folder(script: &str, config: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = temporary.path().to_owned();
    std::fs::write(folder.join("m.toml"), script).expect("written");
    configure(&folder, config);
    (temporary, folder)
}

fn configure(folder: &Path, config: &[&str]) {
    std::fs::write(folder.join("new"), config.concat()).expect("written");
    std::fs::rename(folder.join("new"), folder.join("steadfast.toml")).expect("renamed");
}

fn json(body: &str) -> Value {
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn r14_a_model_that_is_down_is_stood_in_for_and_every_place_says_so() {
    let down = "name = \"m\"\n[[step]]\nname = \"s\"\ntext = \"never\"\n\
                [[fault]]\nevery = 1\nkind = \"status\"\ncode = 503\n";
    let rule = "[policies.\"model:m\"]\nretry = { max_retries = 0 }\n[agents.a]\nmodel = \"m\"\n\
                [fallback.\"model:m\"]\nprepared = [{ answer = \"We are back in an hour.\" }]\n";
    let (_temporary, folder) = folder(down, &[MODEL, rule]);
    let done = run(&folder, &["run", "a", "--input", "hello"]);
    assert_eq!(text(&done.stdout).trim(), "We are back in an hour.", "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("DEGRADED: prepared answer"), "{}", text(&done.stderr));

    let server = serve(&folder);
    let at = server.address.as_str();
    let list = json(&get(at, "/api/v1/runs").body);
    assert_eq!(list["runs"][0]["degraded"], 1);
    let id = list["runs"][0]["id"].as_str().expect("an id");
    let page = get(at, &format!("/console/runs/{id}")).body;
    assert!(page.contains("1 degraded") && page.contains("data-outcome=\"degraded\""), "{page}");
    let events = json(&get(at, &format!("/api/v1/runs/{id}/events")).body);
    let answered = events["events"].as_array().expect("a list").iter();
    let reasons: Vec<_> = answered.filter_map(|e| e["degraded"]["reason"].as_str()).collect();
    assert!(reasons.len() == 1 && reasons[0].contains("503"), "{reasons:?}");
    let shown = run(&folder, &["show", id, "--server", &format!("http://{at}")]);
    assert!(text(&shown.stdout).contains("degraded 1"), "{}", text(&shown.stdout));
}

#[test]
fn r14_a_queued_payment_survives_a_kill_and_is_made_once() {
    let queue = "[fallback.\"tool:pay\"]\nqueue = \"1h\"\n";
    let (_temporary, folder) = folder(PAYING, &[MODEL, PAY, AGENT, queue, DRILL]);
    let server = serve(&folder);
    let at = server.address.clone();
    let (_, body) = post(&at, "/api/v1/runs", "application/json", r#"{"agent":"a","input":"pay"}"#);
    let first = json(&body)["id"].as_str().expect("an id").to_owned();
    let stream =
        |at: &str, id: &str| EventStream::open(at, &format!("/api/v1/runs/{id}/events/stream"), "");
    let ended = stream(&at, &first).last().map(|sent| sent.event);
    assert_eq!(ended.as_deref(), Some("succeeded"), "it goes on without the payment");
    let runs = json(&get(&at, "/api/v1/runs").body)["runs"].clone();
    let ids = runs.as_array().expect("a list").iter().filter_map(|run| run["id"].as_str());
    let queued = ids.into_iter().find(|id| *id != first).expect("a queued run").to_owned();
    assert!(stream(&at, &queued).any(|sent| sent.event == "parked"));
    assert!(!folder.join("paid").exists());
    server.program.kill();

    configure(&folder, &[MODEL, PAY, AGENT, queue]);
    let server = serve(&folder);
    let at = server.address.as_str();
    post(at, &format!("/api/v1/runs/{queued}/resume"), "application/json", "{}");
    let last = stream(at, &queued).last().expect("ends");
    assert_eq!(last.event, "succeeded", "{}", last.data);
    let paid = std::fs::read_to_string(folder.join("paid")).expect("paid");
    assert_eq!(paid, "500\n", "once");
}

#[test]
fn r14_a_rule_that_cannot_do_what_it_says_is_refused_with_its_line() {
    for (rule, words) in [
        ("[fallback.\"model:x\"]\ncompact = true\n", &["fallback.model:x", "no such model"][..]),
        ("[fallback.\"model:m\"]\nto = [\"m\"]\n", &["fallback.model:m.to", "line"]),
        ("[fallback.\"tool:pay\"]\ncached = \"1h\"\n", &["fallback.tool:pay.cached", "line"]),
        ("[fallback.\"tool:pay\"]\nqueu = \"1h\"\n", &["queu", "did you mean `queue`", "line"]),
        ("[expensive.pay]\ncalls_per_run = 0\n", &["expensive.pay.calls_per_run", "line"]),
        ("[expensive.pay]\nbudget = { calls = 0 }\n", &["expensive.pay.budget.calls", "line"]),
        (
            "[expensive.pay]\npre_check_tool = \"no\"\n",
            &["pre_check_tool", "there is no tool", "line"],
        ),
        ("[expensive.no]\ncalls_per_run = 1\n", &["expensive.no", "no such tool", "line"]),
    ] {
        let (_temporary, folder) = folder(PAYING, &[MODEL, PAY, AGENT, rule]);
        refused(&folder, &["check", "steadfast.toml"], 64, words);
    }
}
