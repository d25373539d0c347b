//! What becomes of what the program says: a reader that leaves, a full disk, and texts that would steer a
//! terminal.

use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::http::{post, serve};
use crate::program::{events, example, run, steadfast, text};

/// A pipe that nobody reads any more.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_that_leaves_ends_a_command_without_a_word() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let submitted = run(&folder, &["submit", "report", "--server", &url]);
    let id = text(&submitted.stdout).trim().to_owned();
    assert!(run(&folder, &["watch", &id, "--server", &url]).status.success());
    for arguments in [&["ps"][..], &["show", &id], &["watch", &id], &["-o", "json", "ps"]] {
        let mut command = steadfast(&folder);
        let ended = command.args(arguments).args(["--server", &url]).stdout(unread()).output();
        let ended = ended.expect("the program starts");
        assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(141), String::new()));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn data_that_cannot_be_written_is_an_error() {
    let (_temporary, folder) = example("report");
    let full = std::fs::File::create("/dev/full").expect("opens");
    let ended = steadfast(&folder).arg("run").arg("report").stdout(full).output();
    let ended = ended.expect("the program starts");
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("error: cannot write to standard output: No space left"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(events(&folder).last().map(|row| row.kind.clone()).as_deref(), Some("succeeded"));
}

#[test]
fn a_server_whose_log_nobody_reads_executes_runs_and_drains() {
    let (_temporary, folder) = example("report");
    let mut command = steadfast(&folder);
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut pipe = child.stderr.take().expect("piped");
    let (mut said, mut byte) = (String::new(), [0]);
    while !said.contains("/console\n") {
        pipe.read_exact(&mut byte).expect("it says where it is");
        said.push(char::from(byte[0]));
    }
    drop(pipe);
    let url = said.lines().find_map(|line| line.split(" on ").nth(1)).expect("an address");
    let submitted = run(&folder, &["submit", "report", "--server", url]);
    let id = text(&submitted.stdout).trim().to_owned();
    let watched = run(&folder, &["watch", &id, "--server", url]);
    let sent = Command::new("kill").arg(child.id().to_string()).status();
    let ended = child.wait().expect("reaped");
    assert!(watched.status.success(), "{}", text(&watched.stderr));
    assert!(sent.is_ok_and(|sent| sent.success()));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn nothing_that_a_run_holds_steers_a_terminal() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let body = r#"{"agent": "report", "input": "\u001b[2J\u009b31m\u202egone\r", "tenant": "t\u001b[1m",
                   "session": "s\nstate    cancelled"}"#;
    let (status, body) = post(&server.address, "/api/v1/runs", "application/json", body);
    assert_eq!(status, 201, "{body}");
    let made: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let id = made["id"].as_str().expect("an id");
    assert!(run(&folder, &["watch", id, "--server", &url]).status.success());
    for arguments in [&["ps"][..], &["show", id]] {
        let shown = run(&folder, &[arguments, &["--server", &url]].concat());
        let shown = text(&shown.stdout);
        let steers = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
        assert!(!shown.contains(steers), "{shown:?}");
        assert!(shown.contains(r"\u{1b}[2J\u{9b}31m\u{202e}gone"), "{shown}");
        assert!(!shown.contains("\nstate    cancelled"), "{shown}");
    }
}
