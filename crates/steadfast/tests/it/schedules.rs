//! Schedules, from the configuration to the command line, the API and the console.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{request, serve};
use crate::program::{example, refused, run, text};

fn add(folder: &Path, lines: &str) {
    let path = folder.join("steadfast.toml");
    let config = std::fs::read_to_string(&path).expect("reads");
    std::fs::write(&path, format!("{config}\n{lines}\n")).expect("written");
}

/// The example with a schedule that fires once a year.
fn scheduled() -> (tempfile::TempDir, std::path::PathBuf) {
    let (temporary, folder) = example("report");
    add(
        &folder,
        "[schedules.yearly]\ncron = \"0 6 1 1 *\"\ntimezone = \"Europe/Zurich\"\nagent = \"report\"",
    );
    (temporary, folder)
}

#[test]
fn a_schedule_is_listed_run_by_hand_and_shown() {
    let (_temporary, folder) = scheduled();
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let listed = run(&folder, &["schedules", "--server", &url]);
    let listed = text(&listed.stdout);
    for told in ["yearly", "0 6 1 1 * Europe/Zurich", "-01-01 06:00 +01:00"] {
        assert!(listed.contains(told), "{listed}");
    }
    let listed = run(&folder, &["schedules", "--server", &url, "--output", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!((&listed[0]["catch_up"], &listed[0]["last"]), (&"last".into(), &Value::Null));
    let head = format!("GET /console/schedules HTTP/1.1\r\nhost: {}", server.address);
    let (status, page) = request(&server.address, &head, b"");
    assert!(status == 200 && page.contains("id=\"schedule-yearly\""), "{status} {page}");

    let submitted = run(&folder, &["schedules", "run", "yearly", "--server", &url]);
    let id = text(&submitted.stdout).trim().to_owned();
    let watched = run(&folder, &["watch", &id, "--server", &url]);
    assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
    let unknown = run(&folder, &["schedules", "run", "daily", "--server", &url]);
    let said = text(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(3), "{said}");
    assert!(said.contains("no schedule `daily`") && said.contains("yearly"), "{said}");
}

#[test]
fn a_changed_file_changes_the_schedules_of_a_running_server() {
    let (_temporary, folder) = scheduled();
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    add(&folder, "[schedules.monthly]\ncron = \"0 6 1 * *\"\nagent = \"report\"");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let listed = text(&run(&folder, &["schedules", "--server", &url]).stdout);
        if listed.contains("monthly") && listed.contains("yearly") {
            break;
        }
        assert!(Instant::now() < deadline, "{listed}");
    }
}

#[test]
fn a_wrong_schedule_is_refused_by_check_with_its_place_and_an_example() {
    let (_temporary, folder) = example("report");
    add(&folder, "[schedules.daily]\ncron = \"0 25 * * *\"\nagent = \"report\"");
    let told = ["steadfast.toml line", "schedules.daily.cron", "0 6 * * 1-5"];
    refused(&folder, &["check"], 64, &told);
}
