//! `kill -9` in the middle of real work (SCOPE C8, C10, R11).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::program::{Row, Running, events, example, run, steadfast, text};

/// Where the program is killed: when it has said this for the n-th time. Nothing here may depend on how
/// many commits ended as `Done`: each kill may or may not hit one under way.
const KILLS: [(&str, usize); 9] = [
    ("claimed, epoch", 1),
    ("calls read_file", 1),
    ("write_file leaves", 2),
    ("git_commit leaves", 2),
    ("step 2/8", 1),
    ("git_commit leaves", 4),
    ("calls git_commit", 5),
    ("git_commit: ", 6),
    ("step 8/8", 1),
];

/// A simulated provider of its own, so that what was asked before and after a kill can be counted.
fn provider(folder: &Path) -> Running {
    let mut command = steadfast(folder);
    command.args(["sim", "model.toml", "--listen", "127.0.0.1:0", "--journal", "asked.jsonl"]);
    let mut provider = Running::start(command);
    let line = provider.wait_for("OpenAI base URL");
    let base = line.split("OpenAI base URL ").nth(1).and_then(|rest| rest.split(',').next());
    let config = folder.join("steadfast.toml");
    let text = std::fs::read_to_string(&config).expect("laid out");
    let text = text.replace("provider = \"auto\"", "provider = \"played\"\nmodel = \"refactor\"");
    let text = format!(
        "{text}\n[providers.played]\nwire = \"openai\"\nbase_url = \"{}\"\n",
        base.expect("the address is said")
    );
    std::fs::write(config, text).expect("written");
    provider
}

/// The keys of the model calls that the provider was asked, in order.
fn asked(folder: &Path) -> Vec<String> {
    let journal = std::fs::read_to_string(folder.join("asked.jsonl")).unwrap_or_default();
    let lines = journal.lines().map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).expect("a journal line is JSON");
        entry["idempotency_key"].as_str().expect("every call carries its key").to_owned()
    });
    lines.collect()
}

fn answered(rows: &[Row]) -> BTreeSet<String> {
    let answers = rows.iter().filter(|row| row.kind == "model_answered");
    answers.map(|row| row.body["key"].as_str().expect("a key").to_owned()).collect()
}

fn subjects(folder: &Path) -> Vec<String> {
    let log = Command::new("git")
        .args(["-C", "repo", "log", "--reverse", "--format=%s"])
        .current_dir(folder)
        .output()
        .expect("git runs");
    assert!(log.status.success(), "{}", text(&log.stderr));
    text(&log.stdout).lines().map(str::to_owned).collect()
}

/// Kills a report after its second step, which leaves two checkpoints, and spoils this many of them.
fn killed_with_damaged_checkpoints(folder: &Path, damaged: usize) {
    let mut command = steadfast(folder);
    command.args(["run", "report", "--key", "mine"]);
    let mut program = Running::start(command);
    program.wait_for("step 2/4");
    program.kill();
    let store = rusqlite::Connection::open(folder.join("steadfast.db")).expect("opens");
    let spoil = "UPDATE checkpoint SET body = x'7b7d' WHERE seq IN \
                 (SELECT seq FROM checkpoint ORDER BY seq DESC LIMIT ?1)";
    assert_eq!(store.execute(spoil, [damaged]).expect("spoils"), damaged);
}

#[test]
fn c4_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_the_run_says_so() {
    for damaged in [1, 2] {
        let (_temporary, folder) = example("report");
        killed_with_damaged_checkpoints(&folder, damaged);
        let mut command = steadfast(&folder);
        command.args(["run", "report", "--key", "mine"]);
        let done = command.output().expect("starts");
        let said = text(&done.stderr);
        assert!(done.status.success(), "{said}");
        assert_eq!(said.matches("is DAMAGED, the one before was used").count(), damaged, "{said}");
        let rows = events(&folder);
        let taken_up = rows.iter().rposition(|row| row.kind == "claimed").expect("claimed");
        let told: Vec<_> = rows[taken_up + 1..].iter().map(|row| row.kind.as_str()).collect();
        assert_eq!(told[..damaged], vec!["checkpoint_passed_over"; damaged]);
        assert_ne!(told[damaged], "checkpoint_passed_over");
    }
}

#[test]
fn c8_a_killed_refactoring_goes_on_and_applies_every_change_exactly_once() {
    let (_temporary, folder) = example("refactor");
    let _provider = provider(&folder);
    let mut before: Vec<Row> = Vec::new();
    let mut paid: Vec<(usize, BTreeSet<String>)> = Vec::new();
    for (said, times) in KILLS {
        let mut command = steadfast(&folder);
        command.args(["run", "refactor", "--key", "mine"]);
        let mut program = Running::start(command);
        let mut last_seen = 0;
        for _ in 0..times {
            let line = program.wait_for(said);
            let seq = line.split_whitespace().next().and_then(|word| word.parse().ok());
            last_seen = seq.expect("an event's line begins with its number");
        }
        program.kill();
        let rows = events(&folder);
        let seqs: Vec<u64> = rows.iter().map(|row| row.seq).collect();
        assert_eq!(seqs, (1..=rows.len() as u64).collect::<Vec<_>>(), "no holes");
        assert!(rows.len() as u64 >= last_seen, "event {last_seen} was shown and is lost");
        assert_eq!(rows[..before.len()], before[..], "what was written before is unchanged");
        paid.push((asked(&folder).len(), answered(&rows)));
        before = rows;
    }
    let done = run(&folder, &["run", "refactor", "--key", "mine"]);
    assert!(done.status.success(), "{}", text(&done.stderr));

    let log = subjects(&folder);
    assert_eq!(log.len(), 9, "{log:?}");
    for (index, subject) in log[1..].iter().enumerate() {
        assert!(subject.starts_with(&format!("refactor {}/8:", index + 1)), "{log:?}");
    }
    let asked = asked(&folder);
    for (asked_then, answered_then) in paid {
        for key in &asked[asked_then..] {
            assert!(!answered_then.contains(key), "the answer of {key} was paid twice");
        }
    }
    let unknown =
        events(&folder).iter().filter(|row| row.body["outcome"] == "outcome_unknown").count();
    assert!(unknown >= 1, "no kill fell into a commit: the test no longer tests what it says");
}
