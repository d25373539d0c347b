//! Several programs on one PostgreSQL database.

use std::path::Path;

use crate::http::{Server, get, post};
use crate::postgres_proxy::Proxy;
use crate::postgres_server::{Server as Database, fresh_schema, shared};
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

#[test]
fn who_asks_while_the_database_is_away_is_told_so_soon_and_the_node_goes_on_by_itself() {
    let Some(database) = Database::start() else { return };
    let proxy = Proxy::to(database.port);
    let (_temporary, folder) = lay_out();
    let mut node = node(&folder, &database.url_at(proxy.port()));
    let url = format!("http://{}", node.address);
    let order = r#"{ "agent": "report", "input": "go" }"#;
    let mut count = 0;
    let mut goes_on = || {
        // Its lease may be gone, or what was sent before may be in the way for a moment.
        let id = (0..600).find_map(|_| {
            let (status, body) = post(&node.address, "/api/v1/runs", "application/json", order);
            assert!(status == 201 || status == 503, "{body}");
            let submitted: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            if status == 503 {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            submitted["id"].as_str().map(str::to_owned)
        });
        let id = id.expect("the node does not come back");
        let watched = run(&folder, &["watch", &id, "--server", &url]);
        assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
        count += 1;
    };
    goes_on();
    let is_told = |answer: (u16, String)| {
        assert_eq!(answer.0, 503, "{}", answer.1);
        assert!(
            answer.1.contains("the database that keeps the runs cannot be reached"),
            "{}",
            answer.1
        );
        assert!(!answer.1.contains("horse"), "{}", answer.1);
    };
    database.halt("fast");
    let asked = |path: &str| {
        let answer = get(&node.address, path);
        (answer.status, answer.body)
    };
    is_told(asked("/api/v1/runs"));
    is_told(asked("/console"));
    is_told(post(&node.address, "/api/v1/runs", "application/json", order));
    let ps = run(&folder, &["ps", "--server", &url]);
    assert_ne!(ps.status.code(), Some(0));
    assert!(text(&ps.stderr).contains("database that keeps the runs"), "{}", text(&ps.stderr));
    database.resume();
    goes_on();
    // The connections that there are go silent; then nothing answers any more.
    proxy.silence();
    goes_on();
    proxy.deafen();
    is_told(asked("/api/v1/runs"));
    proxy.hear();
    goes_on();
    let list: serde_json::Value =
        serde_json::from_str(&get(&node.address, "/api/v1/runs").body).expect("JSON");
    let runs = list["runs"].as_array().expect("a list");
    assert!(runs.iter().filter(|run| run["state"] == "succeeded").count() >= count, "{list}");
    // Each was kept waiting for as long as the documentation says, the runs for longer.
    let said = node.program.wait_for("a request failed");
    assert!(said.contains("(waited 2s for it)"), "{said}");
}
