//! The command line: what each command says, and how it refuses.

use crate::program::{example, refused, run, text};

#[test]
fn a_missing_configuration_names_the_file_and_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(folder.path(), &["run", "a"], 64, &["steadfast.toml", "steadfast init"]);
}

#[test]
fn a_wrong_key_names_the_file_the_line_and_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("steadfast.toml"), "[servr]\nlisten = 1\n").expect("written");
    refused(folder.path(), &["check"], 64, &["steadfast.toml", "servr"]);
}

#[test]
fn an_unknown_agent_is_refused_and_the_known_ones_are_named() {
    let (_temporary, folder) = example("report");
    refused(&folder, &["run", "reprot"], 3, &["no agent `reprot`", "report"]);
}

#[test]
fn a_garbage_store_is_refused_and_left_alone() {
    let (_temporary, folder) = example("report");
    let path = folder.join("steadfast.db");
    std::fs::write(&path, "this is a letter, not a database, and long enough to look at")
        .expect("w");
    let before = std::fs::read(&path).expect("reads");
    refused(&folder, &["run", "report"], 1, &["steadfast.db"]);
    assert_eq!(std::fs::read(&path).expect("reads"), before);
}

#[test]
fn a_command_that_talks_to_no_server_does_not_offer_to_name_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let help = |command: &str| text(&run(folder.path(), &[command, "--help"]).stdout);
    for command in ["serve", "run", "store", "sim", "check", "init", "demo"] {
        let help = help(command);
        assert!(help.contains("--config") && !help.contains("--server"), "{command}: {help}");
    }
    assert!(help("sim").contains("docs/sim.md"), "{}", help("sim"));
    for command in ["ps", "submit", "guards", "facts", "keys", "schedules"] {
        assert!(help(command).contains("--server"), "{command}");
    }
    // It is taken all the same, before the command and behind it.
    for arguments in [["--server", "http://x", "check"], ["check", "--server", "http://x"]] {
        refused(folder.path(), &arguments, 64, &["steadfast.toml"]);
    }
}

#[test]
fn a_server_that_is_not_there_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(
        folder.path(),
        &["ps", "--server", "http://127.0.0.1:9"],
        1,
        &["127.0.0.1:9", "steadfast serve"],
    );
}

#[test]
fn a_port_in_use_is_named_before_the_store_is_touched() {
    let (_temporary, folder) = example("report");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    refused(&folder, &["serve", "--listen", &address], 1, &[&address, "--listen"]);
    assert!(!folder.join("steadfast.db").exists());
}

#[test]
fn a_public_address_is_refused() {
    let (_temporary, folder) = example("report");
    refused(&folder, &["serve", "--listen", "0.0.0.0:0"], 64, &["0.0.0.0", "loopback"]);
}

#[test]
fn init_refuses_a_folder_that_holds_something() {
    let (temporary, _folder) = example("report");
    refused(temporary.path(), &["init", "report"], 1, &["report", "not empty"]);
}

#[test]
fn check_says_what_a_good_configuration_holds() {
    let (_temporary, folder) = example("report");
    let output = run(&folder, &["check", "--output", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["agents"], serde_json::json!(["report"]));
}
