//! Bad input: one message that names the thing, the place and the remedy; an exit code that is not 0;
//! and nothing left behind.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::program::{Running, refusal, refused, run, steadfast, text};

const SCRIPT: &str = "name = \"nothing\"\n[[step]]\nname = \"s\"\ntext = \"Done.\"\n";
const AGENT: &str = "[agents.a]\nmodel = \"m\"\n";
const SIMULATED: &str = "[models.m]\nprovider = \"simulated\"\nscript = \"model.toml\"\n";

/// A folder with a configuration.
fn configured(parts: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "model.toml", SCRIPT);
    write(folder.path(), "steadfast.toml", &parts.concat());
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
}

fn no_store(folder: &Path) {
    for name in ["steadfast.db", "steadfast.db-lock", "steadfast.db-wal"] {
        assert!(!folder.join(name).exists(), "{name} was left behind");
    }
}

/// What `check` and `run` say about a configuration that cannot be used. Neither leaves a store.
fn unusable(parts: &[&str], words: &[&str]) {
    let folder = configured(parts);
    for arguments in [["check", "steadfast.toml"], ["run", "a"]] {
        refused(folder.path(), &arguments, 64, words);
        no_store(folder.path());
    }
}

#[test]
fn the_configuration_that_the_others_break_is_good() {
    let folder = configured(&[SIMULATED, AGENT]);
    let done = run(folder.path(), &["run", "a"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
}

#[test]
fn a_wrong_key_has_its_file_its_line_and_the_nearest_right_key() {
    let right = ["steadfast.toml", "line 7", "`max_iteration`", "did you mean `max_iterations`?"];
    unusable(&[SIMULATED, AGENT, "\nmax_iteration = 3\n"], &right);
    let right = ["steadfast.toml", "line 1", "`servr`", "did you mean `server`?"];
    unusable(&["[servr]\n", SIMULATED, AGENT], &right);
    let wrong = "[policies.\"model:m\"]\nconcurency = 3\n";
    let right = ["line 7", "`concurency`", "did you mean `concurrency`?"];
    unusable(&[SIMULATED, AGENT, wrong], &right);
}

#[test]
fn a_wrong_value_or_unit_has_its_line_and_what_is_expected() {
    let wrong = "turn_timeout = \"15 parsecs\"\n";
    unusable(&[SIMULATED, AGENT, wrong], &["line 6", "15 parsecs", "duration"]);
    let wrong = "max_iterations = \"many\"\n";
    unusable(&[SIMULATED, AGENT, wrong], &["line 6", "\"many\"", "expected u32"]);
    let wrong = "[runtime]\nconcurrency = 0\n";
    unusable(&[wrong, SIMULATED, AGENT], &["line 2", "`runtime.concurrency`", "1 or more"]);
    let wrong = "[runtime]\nlease_ttl = \"0s\"\n";
    unusable(&[wrong, SIMULATED, AGENT], &["line 2", "`runtime.lease_ttl`", "`1s`"]);
}

#[test]
fn a_name_that_leads_nowhere_is_told_with_those_that_do() {
    let agent = "[agents.a]\nmodel = \"n\"\n";
    unusable(&[SIMULATED, agent], &["steadfast.toml", "`a`", "`n`", "there are: m"]);
    let wrong = "tools = [\"read_fil\"]\n";
    unusable(&[SIMULATED, AGENT, wrong], &["steadfast.toml", "`read_fil`", "report_progress"]);
    let wrong = "[policies.\"model:n\"]\nconcurrency = 3\n";
    let right = ["steadfast.toml line 6", "`policies.model:n`", "did you mean `model:m`?"];
    unusable(&[SIMULATED, AGENT, wrong], &right);
    let model = "[models.m]\nprovider = \"opnai\"\n";
    unusable(&[model, AGENT], &["line 2", "`models.m.provider`", "`opnai`", "`openai`"]);
    let model = "[models.m]\nprovider = \"simulated\"\nscript = \"no.toml\"\n";
    unusable(&[model, AGENT], &["line 3", "`models.m.script`", "no.toml"]);
    let wrong = "instructions_file = \"no.md\"\n";
    unusable(&[SIMULATED, AGENT, wrong], &["no.md", "`instructions_file`"]);
}

#[test]
fn a_missing_file_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [["check", "no.toml"], ["--config=no.toml", "check"]] {
        refused(folder.path(), &arguments, 64, &["no.toml", "steadfast init"]);
    }
}

/// A provider at an address, with a key from the environment.
fn provider(address: &str) -> String {
    format!(
        "[providers.p]\nwire = \"openai\"\nbase_url = \"http://{address}/v1\"\n\
         api_key = \"env:STEADFAST_TEST_KEY\"\n[models.m]\nprovider = \"p\"\nmodel = \"x\"\n"
    )
}

#[test]
fn a_key_that_is_not_in_the_environment_is_named_with_its_line() {
    let right =
        ["steadfast.toml line 4", "`providers.p.api_key`", "`STEADFAST_TEST_KEY`", "export"];
    unusable(&[&provider("127.0.0.1:9"), AGENT], &right);
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    let wrong = provider("127.0.0.1:9").replace("env:STEADFAST_TEST_KEY", "sk-in-the-open");
    let folder = configured(&[&wrong, AGENT]);
    let said = refused(folder.path(), &["check"], 64, &["line 4", "`providers.p.api_key`", "env:"]);
    assert!(!said.contains("sk-in-the-open"), "{said}");
}

#[test]
fn an_unreachable_provider_fails_the_run_with_one_message_and_without_the_key() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("bound").to_string();
    drop(closed);
    let quick = "[policies.\"model:m\".retry]\nmax_retries = 1\nbase_delay = \"1ms\"\n";
    let folder = configured(&[&provider(&address), AGENT, quick]);
    let mut command = steadfast(folder.path());
    let output =
        command.args(["run", "a"]).env("STEADFAST_TEST_KEY", "sk-not-to-be-shown").output();
    let output = output.expect("the program starts");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("failed: ")).count(), 1, "{said}");
    for word in ["`model:m`", &address, "`base_url`", "after 2 attempts"] {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
    let everything = format!("{said}{}", text(&output.stdout));
    assert!(!everything.contains("sk-not-to-be-shown"), "{everything}");
}

#[test]
fn a_store_of_a_newer_release_is_refused_and_left_alone() {
    let folder = configured(&[SIMULATED, AGENT]);
    assert!(run(folder.path(), &["run", "a"]).status.success());
    let path = folder.path().join("steadfast.db");
    let store = rusqlite::Connection::open(&path).expect("opens");
    store.pragma_update(None, "user_version", 99).expect("set");
    store.close().expect("closes");
    let before = std::fs::read(&path).expect("reads");
    let words = ["steadfast.db", "schema version 99", "newer"];
    refused(folder.path(), &["run", "a"], 1, &words);
    assert_eq!(std::fs::read(&path).expect("reads"), before);
}

#[test]
fn a_store_that_cannot_be_made_names_the_folder_and_the_remedy() {
    let place = |path: &str| format!("[store]\npath = \"{path}\"\n");
    let folder = configured(&[&place("no/such/s.db"), SIMULATED, AGENT]);
    refused(folder.path(), &["run", "a"], 1, &["no/such", "does not exist", "create it"]);
    assert!(!folder.path().join("no").exists());
    let folder = configured(&[&place("model.toml/s.db"), SIMULATED, AGENT]);
    refused(folder.path(), &["run", "a"], 1, &["model.toml", "not a directory", "another path"]);
    // A folder that nobody may write to, whoever asks.
    let folder = configured(&[&place("/proc/s.db"), SIMULATED, AGENT]);
    refused(folder.path(), &["run", "a"], 1, &["/proc/s.db", "write permission", "another path"]);
}

#[test]
fn a_store_in_use_names_who_uses_it() {
    let folder = configured(&[SIMULATED, AGENT]);
    let mut command = steadfast(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let mut server = Running::start(command);
    server.wait_for("API");
    refused(folder.path(), &["run", "a"], 1, &["steadfast.db", "in use", "pid", "--server"]);
    server.kill();
}

/// What `check` says about an MCP server.
fn mcp(json: &str, words: &[&str]) {
    let folder = configured(&["mcp_config = \"mcp.json\"\n", SIMULATED, AGENT]);
    write(folder.path(), "mcp.json", json);
    refused(folder.path(), &["check"], 64, words);
    no_store(folder.path());
}

#[test]
fn an_mcp_configuration_that_cannot_be_read_is_named_with_the_place() {
    mcp("{\"mcpServers\": {\"x\": ", &["mcp.json", "not JSON", "line 1"]);
    mcp("{\"mcpServers\": []}", &["mcp.json", "object"]);
    mcp(
        "{\"mcpServers\": {\"x\": {\"comand\": \"y\"}}}",
        &["mcpServers.x", "`comand`", "command, "],
    );
    let wrong = "[mcp_servers.x]\ncommand = 3\n";
    let words = ["steadfast.toml line 7", "`mcp_servers.x`", "`command` must be a string"];
    unusable(&[SIMULATED, AGENT, "\n", wrong], &words);
    let folder = configured(&["mcp_config = \"mcp.json\"\n", SIMULATED, AGENT]);
    refused(folder.path(), &["check"], 64, &["mcp.json", "`mcp_config`"]);
}

#[test]
fn an_mcp_server_that_does_not_come_up_is_named_with_the_reason() {
    let server = |command: &str, script: &str| {
        format!(
            "{{\"mcpServers\": {{\"x\": {{\"command\": \"{command}\", \"args\": [\"-c\", \"{script}\"], \
             \"timeout\": {{\"startup\": 1}}}}}}}}"
        )
    };
    let words = ["mcp.json", "`mcpServers.x`", "steadfast-no-such-program", "install it"];
    mcp(&server("steadfast-no-such-program", ""), &words);
    let words = ["mcp.json", "`mcpServers.x`", "timeout.startup", "stdout", "protocol"];
    mcp(&server("sh", "echo This is no protocol; cat >&2"), &words);
    let words = ["mcp.json", "`mcpServers.x`", "ended", "lost my configuration"];
    mcp(&server("sh", "echo lost my configuration >&2; exit 3"), &words);
}

#[test]
fn what_cannot_be_submitted_leaves_no_store() {
    let folder = configured(&[SIMULATED, AGENT]);
    refused(folder.path(), &["run", "b"], 3, &["no agent `b`", "there are: a"]);
    refused(folder.path(), &["run", "a", "--key", ""], 1, &["`key`", "1 to 256 bytes"]);
    let too_large = vec![b'a'; 9 * 1024 * 1024];
    let words = ["the input is", "the limit is 8388608", "file"];
    refusal(&with_input(folder.path(), &too_large), 1, &words);
    refusal(&with_input(folder.path(), b"\xff\xfe"), 1, &["standard input", "UTF-8"]);
    no_store(folder.path());
}

/// `run a` with this on standard input.
fn with_input(folder: &Path, input: &[u8]) -> std::process::Output {
    let mut command = steadfast(folder);
    command.args(["run", "a", "--input", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // It may stop reading before the end, which is what is asked for.
    drop(child.stdin.take().expect("piped").write_all(input));
    child.wait_with_output().expect("ends")
}

#[test]
fn wrong_usage_is_told_before_a_server_is_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |arguments: &[&str], code, words: &[&str]| {
        refused(folder.path(), arguments, code, words);
    };
    refused(&["check", "--output", "yaml"], 2, &["'yaml'", "--output", "text, json"]);
    for command in ["show", "watch", "cancel", "resume"] {
        refused(&[command, "../agents"], 2, &["'../agents'", "id of a run", "steadfast ps"]);
    }
    refused(&["ps", "--state", "asleep"], 2, &["'asleep'", "queued, running"]);
    let words = ["`--server` is `nonsense`", "http://127.0.0.1:7420"];
    refused(&["ps", "--server", "nonsense"], 1, &words);
    let server = "--server=http://127.0.0.1:9";
    refused(&["submit", "a", server], 1, &["127.0.0.1:9", "steadfast serve"]);
}

#[test]
fn a_run_that_the_server_does_not_know_is_told_by_the_exit_code() {
    let folder = configured(&[SIMULATED, AGENT]);
    let mut command = steadfast(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let mut server = Running::start(command);
    let line = server.wait_for("steadfast ");
    let address = line.split_whitespace().last().expect("the address is said");
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    for command in ["show", "watch", "cancel", "resume"] {
        let words = [id, "no run", "unknown_run"];
        refused(folder.path(), &[command, id, "--server", address], 3, &words);
    }
    refused(folder.path(), &["submit", "b", "--server", address], 3, &["`b`", "there are: a"]);
    let odd = run(folder.path(), &["ps", "--agent", "b&state=x", "--server", address]);
    assert_eq!(odd.status.code(), Some(0), "{}", text(&odd.stderr));
    server.kill();
}
