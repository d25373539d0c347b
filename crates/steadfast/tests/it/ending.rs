//! How the program ends when it is asked to, whatever holds it up.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::http::serve;
use crate::program::{Running, example, run, steadfast, text};

/// An agent whose only call says who it is, and pays once it is let.
const PATIENT: &str = r#"
[models.m]
provider = "simulated"
script = "m.toml"
[tools.pay]
kind = "command"
command = ["sh", "-c", "echo $$ > payer; while [ ! -e go ]; do sleep 0.02; done; echo paid >> paid"]
description = "pays"
effect = "once"
[agents.a]
model = "m"
tools = ["pay"]
"#;

const SCRIPT: &str = "name = \"m\"\n[[step]]\nname = \"ask\"\ncalls = [{ tool = \"pay\", arguments = {} }]\n\
                      [[step]]\nname = \"end\"\ntext = \"told\"\n";

fn patient() -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = temporary.path().to_owned();
    std::fs::write(folder.join("m.toml"), SCRIPT).expect("written");
    std::fs::write(folder.join("steadfast.toml"), PATIENT).expect("written");
    (temporary, folder)
}

/// Waits until something is so, for half a minute.
fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1500 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("never: {what}");
}

/// A run of it that is paying, and by which process.
fn paying(folder: &Path) -> (Running, String) {
    let mut command = steadfast(folder);
    command.args(["run", "a", "--key", "mine"]);
    let program = Running::start(command);
    let payer = || std::fs::read_to_string(folder.join("payer")).unwrap_or_default();
    until("it pays", || payer().ends_with('\n'));
    (program, payer().trim().to_owned())
}

#[test]
fn a_run_that_is_asked_to_end_lets_its_step_end_and_goes_on_from_there() {
    let (_temporary, folder) = patient();
    let (mut program, _) = paying(&folder);
    program.terminate();
    program.wait_for("interrupted: the run is kept");
    std::fs::write(folder.join("go"), "").expect("written");
    assert_eq!(program.ended(), Some(5));
    let again = run(&folder, &["run", "a", "--key", "mine"]);
    assert_eq!(text(&again.stdout).trim(), "told", "{}", text(&again.stderr));
    let paid = std::fs::read_to_string(folder.join("paid")).expect("paid");
    assert_eq!(paid, "paid\n");
}

#[test]
fn a_run_that_is_asked_twice_ends_at_once_and_leaves_no_child() {
    let (_temporary, folder) = patient();
    let (mut program, payer) = paying(&folder);
    program.terminate();
    program.wait_for("interrupted: the run is kept");
    // The second one counts from when it is listened for, so it is sent until it is heard.
    let pid = program.pid().to_string();
    let ended = std::thread::spawn(move || program.ended());
    until("it ends", || {
        drop(Command::new("kill").arg(&pid).output());
        ended.is_finished()
    });
    assert_eq!(ended.join().expect("no panic"), Some(5));
    until("its child is gone", || {
        let state = std::fs::read_to_string(format!("/proc/{payer}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    });
}

#[test]
fn a_client_that_never_sends_the_rest_does_not_keep_a_server_from_ending() {
    let (_temporary, folder) = example("report");
    let mut server = serve(&folder);
    let mut client = TcpStream::connect(&server.address).expect("connects");
    let head = format!(
        "POST /api/v1/runs HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\nexpect: 100-continue\r\n\r\n",
        server.address
    );
    client.write_all(head.as_bytes()).expect("written");
    let mut go_on = [0; 12];
    client.read_exact(&mut go_on).expect("the server wants the body");
    assert_eq!(&go_on, b"HTTP/1.1 100");
    server.program.terminate();
    server.program.wait_for("closed connections of clients that were too slow");
    assert_eq!(server.program.ended(), Some(0));
}
