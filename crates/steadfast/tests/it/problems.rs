//! A run with a problem, as people meet it: in lists, on its page, on the command line and in the log.

use std::time::{Duration, Instant};

use crate::http::{get, serve};
use crate::program::{example, run, text};

const CONFIG: &str = r#"
[models.m]
provider = "simulated"
script = "script.toml"
[tools.look]
kind = "command"
command = ["echo", "nothing new"]
description = "looks"
effect = "read"
[agents.worker]
model = "m"
tools = ["look"]
"#;

/// Looks four times, and then never answers.
const SCRIPT: &str = r#"
name = "same-again"
[[step]]
name = "first"
calls = [{ tool = "look", arguments = {} }]
[[step]]
name = "second"
calls = [{ tool = "look", arguments = {} }]
[[step]]
name = "third"
calls = [{ tool = "look", arguments = {} }]
[[step]]
name = "last"
text = "never said"
[[fault]]
request = 4
kind = "stall_before_first_byte"
"#;

#[test]
fn c12_a_run_that_repeats_itself_is_listed_shown_and_told() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    std::fs::write(folder.join("steadfast.toml"), CONFIG).expect("written");
    std::fs::write(folder.join("script.toml"), SCRIPT).expect("written");
    let mut server = serve(folder);
    let place = format!("http://{}", server.address);
    let said = |arguments: &[&str]| {
        let output = run(folder, &[arguments, &["--server", &place]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let id = said(&["submit", "worker", "--input", "go"]).trim().to_owned();
    let told = server.program.wait_for("a run has a problem");
    assert!(told.contains("repeating") && told.contains(&id), "{told}");
    let listed = said(&["ps", "--problem", "repeating"]);
    assert!(listed.contains(&id) && listed.contains("running"), "{listed}");
    assert!(!said(&["ps", "--problem", "stuck,partial"]).contains(&id));
    let shown = said(&["show", &id]);
    for word in ["problem  repeating since 20", "3 times in a row", "mend the instructions"] {
        assert!(shown.contains(word), "`{word}` is not in: {shown}");
    }
    let list = get(&server.address, "/console?problem=any").body;
    assert!(list.contains(&id) && list.contains("badge problem"), "{list}");
    let page = get(&server.address, &format!("/console/runs/{id}")).body;
    assert!(page.contains("come again and again") && page.contains("in a row"), "{page}");
    said(&["cancel", &id]);
    // the card is written with the cancellation
    let deadline = Instant::now() + Duration::from_secs(30);
    while said(&["ps", "--problem"]).contains(&id) {
        assert!(Instant::now() < deadline, "still listed");
    }
}

#[test]
fn a_setting_that_would_look_all_the_time_has_its_line() {
    let (_temporary, folder) = example("report");
    let path = folder.join("steadfast.toml");
    let before = std::fs::read_to_string(&path).expect("reads");
    std::fs::write(&path, format!("{before}\n[problems]\ncheck_every = \"0s\"\n"))
        .expect("written");
    crate::program::refused(&folder, &["check"], 64, &["problems.check_every", "line"]);
}
