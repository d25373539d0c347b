//! Several programs on one PostgreSQL database.

use std::path::Path;

use crate::http::{Server, get, post};
use crate::postgres_server::{fresh_schema, shared};
use crate::program::{Running, example, refusal, run, steadfast, text};

/// The variable that holds the database's URL.
const VARIABLE: &str = "STEADFAST_TEST_DATABASE";

fn node(folder: &Path, url: &str) -> Server {
    let mut command = steadfast(folder);
    command.env(VARIABLE, url).args(["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--store", &format!("env:{VARIABLE}")]);
    let mut program = Running::start(command);
    let line = program.wait_for(" on http://");
    let address = line.split("http://").nth(1).expect("the address is said").trim().to_owned();
    let store = program.wait_for("store ");
    assert!(store.contains("PostgreSQL at 127.0.0.1") && !store.contains("horse"), "{store}");
    Server { program, address }
}

/// Hands a run to a node; its id.
fn submit(address: &str) -> String {
    let order = r#"{ "agent": "report", "input": "go" }"#;
    let (status, body) = post(address, "/api/v1/runs", "application/json", order);
    assert_eq!(status, 201, "{body}");
    let submitted: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    submitted["id"].as_str().expect("an id").to_owned()
}

fn lay_out() -> (tempfile::TempDir, std::path::PathBuf) {
    let (temporary, folder) = example("report");
    let config = folder.join("steadfast.toml");
    let text = std::fs::read_to_string(&config).expect("laid out");
    let schema = fresh_schema();
    let more = format!("\n[store]\nschema = \"{schema}\"\n[runtime]\nlease_ttl = \"3s\"\n");
    std::fs::write(&config, text + &more).expect("written");
    (temporary, folder)
}

#[test]
fn c10_a_run_that_one_node_took_is_followed_on_another_and_outlives_the_first_and_the_database() {
    let Some(server) = shared() else { return };
    let (_temporary, folder) = lay_out();
    let first = node(&folder, &server.url());
    let second = node(&folder, &server.url());
    let watch = |id: &str| {
        let url = format!("http://{}", second.address);
        let watched = run(&folder, &["watch", id, "--server", &url]);
        assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
    };
    watch(&submit(&first.address));
    // Killed whatever it does: the other one takes over what it held.
    let orphan = submit(&first.address);
    first.program.kill();
    watch(&orphan);
    for mode in ["fast", "immediate"] {
        server.halt(mode);
        server.resume();
        watch(&submit(&second.address));
    }
    let list = get(&second.address, "/api/v1/runs").body;
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let runs = list["runs"].as_array().expect("a list");
    assert_eq!(runs.len(), 4);
    assert!(runs.iter().all(|run| run["state"] == "succeeded"), "{list}");
    assert!(!folder.join("steadfast.db").exists(), "no file beside the database");
}

#[test]
fn a_database_that_cannot_be_used_is_refused_without_its_password() {
    let Some(server) = shared() else { return };
    let (_temporary, folder) = lay_out();
    let wrong = server.url().replace("correct%20", "wrong-");
    let plain = server.url();
    for (store, url, code, word) in [
        (format!("env:{VARIABLE}"), wrong, 1, "password authentication failed"),
        (format!("env:{VARIABLE}"), String::new(), 64, VARIABLE),
        (plain.clone(), plain, 64, "may only be named"),
        ("mysql://clerk@localhost/d".to_owned(), String::new(), 64, "postgres://"),
    ] {
        let mut command = steadfast(&folder);
        command.env(VARIABLE, url).args(["serve", "--listen", "127.0.0.1:0", "--store", &store]);
        let said = refusal(&command.output().expect("starts"), code, &[word]);
        assert!(!said.contains("horse"), "{said}");
    }
}
