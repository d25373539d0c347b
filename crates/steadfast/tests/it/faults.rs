//! Every fault of the simulated provider, over both wires, streamed and whole, through the running program:
//! how it ends is what `docs/faults.md` says.

use std::fmt::Write as _;

use serde_json::Value;

use crate::http::{EventStream, get, post, serve};
use crate::program::{Running, steadfast};

/// A fault: what the page calls it, and how it is asked of the simulated provider.
const FAULTS: [(&str, &str); 13] = [
    // first, so that it is looked at while its quiet lasts
    ("429, `Retry-After` 4 s", "kind = \"status\"\ncode = 429\nretry_after = 4"),
    ("429, `Retry-After` 1 h", "kind = \"status\"\ncode = 429\nretry_after = 3600"),
    ("answers later than the limit", "kind = \"latency\"\nms = 600000"),
    ("500", "kind = \"status\"\ncode = 500"),
    ("503", "kind = \"status\"\ncode = 503"),
    ("529", "kind = \"status\"\ncode = 529"),
    ("400", "kind = \"status\"\ncode = 400"),
    ("401", "kind = \"status\"\ncode = 401"),
    ("404", "kind = \"status\"\ncode = 404"),
    ("nothing comes, not even a status", "kind = \"stall_before_first_byte\""),
    ("the answer begins and stalls", "kind = \"stall_mid_stream\"\nafter_chunks = 1"),
    ("the connection breaks in the answer", "kind = \"cut_stream\"\nafter_chunks = 1"),
    ("the answer is not JSON", "kind = \"malformed_json\""),
];

/// Limits that only a fault reaches; everything else on the way is a thousand times quicker, and the limits
/// behind these (`total_timeout`, the turn) are never reached.
const LIMITS: &str = "first_item_timeout = \"3s\"\nidle_timeout = \"3s\"\ntotal_timeout = \"10m\"\n\
    retry = { max_retries = 1, base_delay = \"1ms\" }\n\
    breaker = { consecutive_failures = 100, min_calls = 1000 }\n";

const MODES: [&str; 2] = ["streamed", "whole"];
const WIRES: [&str; 2] = ["openai", "anthropic"];

fn json(body: &str) -> Value {
    serde_json::from_str(body).expect("JSON")
}

fn sim(folder: &std::path::Path, number: usize, fault: &str) -> (Running, String) {
    let script = format!(
        "name = \"f\"\n[[step]]\nname = \"s\"\ntext = \"Hello there.\"\n[[fault]]\nevery = 1\n{fault}\n"
    );
    let name = format!("sim-{number}.toml");
    std::fs::write(folder.join(&name), script).expect("written");
    let mut command = steadfast(folder);
    command.args(["sim", &name, "--listen", "127.0.0.1:0"]);
    let mut program = Running::start(command);
    let line = program.wait_for("http://");
    let address = line.split("http://").nth(1).expect("an address");
    let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
    let address = &address[..end.unwrap_or(address.len())];
    (program, address.to_owned())
}

fn name(fault: usize, wire: &str, mode: &str) -> String {
    format!("f{fault}-{wire}-{mode}")
}

/// The configuration of one model and agent for each way to each fault.
fn config(addresses: &[String]) -> String {
    let mut config = "[runtime]\nconcurrency = 100\n".to_owned();
    for (number, address) in addresses.iter().enumerate() {
        for wire in WIRES {
            let path = if wire == "openai" { "/v1" } else { "" };
            write!(config, "[providers.p{number}-{wire}]\nwire = \"{wire}\"\n").expect("written");
            writeln!(config, "base_url = \"http://{address}{path}\"").expect("written");
            for mode in MODES {
                let (name, stream) = (name(number, wire, mode), mode == "streamed");
                let attempt = if stream { "5m" } else { "3s" };
                write!(
                    config,
                    "[models.{name}]\nprovider = \"p{number}-{wire}\"\nmodel = \"m\"\nstream = {stream}\n\
                     [agents.{name}]\nmodel = \"{name}\"\n[policies.\"model:{name}\"]\n{LIMITS}\
                     attempt_timeout = \"{attempt}\"\n"
                )
                .expect("written");
            }
        }
    }
    config
}

/// What ended a run, as the page says it: by what, class, whether it was tried again, what the guard makes
/// of it.
fn outcome(address: &str, name: &str, run: &str) -> String {
    let path = format!("/api/v1/runs/{run}/events/stream");
    let ends = |event: &str| matches!(event, "failed" | "parked" | "succeeded");
    let last = EventStream::open(address, &path, "").find(|sent| ends(&sent.event));
    let last = last.expect("the run ends or waits");
    let told = json(&last.data);
    let message = told["message"].as_str().or_else(|| told["detail"].as_str());
    let message = message.unwrap_or_else(|| panic!("{name}: {told}"));
    let limits = ["`first_item_timeout`", "`idle_timeout`", "`attempt_timeout`", "`total_timeout`"];
    let by = limits.into_iter().find(|limit| message.contains(limit)).unwrap_or("the answer");
    let class = match last.event.as_str() {
        "parked" => "the run waits".to_owned(),
        _ => {
            let stop = &told["stop"];
            let class = stop["class"].as_str().unwrap_or_else(|| panic!("{name}: {told}"));
            format!("`{class}`")
        }
    };
    let guard = json(&get(address, &format!("/api/v1/guards/model:{name}")).body);
    let again = if guard["counters"]["retry"] == 0 { "no" } else { "yes" };
    let verdict = match (guard["cooldown_ms"].as_u64(), guard["consecutive_failures"].as_u64()) {
        (Some(_), Some(0)) => "quiet until then",
        (None, Some(1..)) => "a failure",
        (None, Some(0)) => "nothing",
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(guard["in_flight"], 0, "{name}: its permit is back");
    format!("{by} | {class} | {again} | {verdict}")
}

#[test]
fn r3_r7_every_fault_ends_within_its_limit_as_the_page_says() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let sims: Vec<_> =
        FAULTS.iter().enumerate().map(|(number, (_, fault))| sim(folder, number, fault)).collect();
    let addresses: Vec<_> = sims.iter().map(|(_, address)| address.clone()).collect();
    std::fs::write(folder.join("steadfast.toml"), config(&addresses)).expect("written");
    let server = serve(folder);
    let at = server.address.as_str();
    // all at once: together they take as long as the longest
    let mut runs = Vec::new();
    for (number, (fault, _)) in FAULTS.iter().enumerate() {
        for mode in MODES {
            for wire in WIRES {
                let name = name(number, wire, mode);
                let body = format!(r#"{{"agent":"{name}","input":"go"}}"#);
                let (status, body) = post(at, "/api/v1/runs", "application/json", &body);
                assert_eq!(status, 201, "{body}");
                let run = json(&body)["id"].as_str().expect("an id").to_owned();
                runs.push((*fault, mode, name, run));
            }
        }
    }
    let mut seen = String::new();
    for pair in runs.chunks(2) {
        let [one, other] = [0, 1].map(|wire| outcome(at, &pair[wire].2, &pair[wire].3));
        let (fault, mode, ..) = &pair[0];
        assert_eq!(one, other, "{fault}, {mode}: the wires differ");
        writeln!(seen, "| {fault} | {mode} | {one} |").expect("written");
    }
    let page = include_str!("../../../../docs/faults.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let told: String =
        rows.take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
    assert_eq!(seen, told, "what was seen, and what docs/faults.md says:\n{seen}");
}
