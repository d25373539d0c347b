//! `steadfast store`, on stores that real runs have filled, also while a server uses them and when it is
//! killed in the middle.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use steadfast_runtime::RunEvent;
use steadfast_store::{Catalog as _, RunFilter, SqliteOptions, SqliteStore};

use crate::postgres_server::{fresh_schema, shared};
use crate::program::{Running, example, refusal, refused, run, steadfast, text};

/// A folder with the report example, and a run of it that has succeeded.
fn ran() -> (tempfile::TempDir, PathBuf) {
    let (temporary, folder) = example("report");
    let done = run(&folder, &["run", "report", "--key", "mine"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    (temporary, folder)
}

/// Runs `steadfast store`, which must succeed; what it printed.
fn store(folder: &Path, arguments: &[&str]) -> Value {
    let arguments = [&["--output", "json", "store"], arguments].concat();
    let done = run(folder, &arguments);
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    serde_json::from_str(&text(&done.stdout)).unwrap_or_default()
}

fn serve(folder: &Path) -> Running {
    let mut command = steadfast(folder);
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("NO_COLOR", "1");
    let mut server = Running::start(command);
    server.wait_for("on http://");
    server
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).expect("an archive").lines().map(str::to_owned).collect()
}

fn write(path: &Path, lines: &[String]) {
    std::fs::write(path, lines.join("\n") + "\n").expect("written");
}

/// Waits for something to be so, or for the time in which it must have been.
fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_store_is_checked_copied_and_exported_while_a_server_uses_it() {
    let (_temporary, folder) = ran();
    let server = serve(&folder);
    assert_eq!(store(&folder, &["check"])["runs"], 1);
    store(&folder, &["backup", "copy.db"]);
    store(&folder, &["export", "all.jsonl"]);
    let words = ["already", "choose another path"];
    refused(&folder, &["store", "backup", "copy.db"], 1, &words);
    refused(&folder, &["store", "export", "all.jsonl"], 1, &["already"]);
    for command in [&["import", "all.jsonl"][..], &["prune", "--older-than", "0s"]] {
        let command = [&["store"], command].concat();
        let pid = server.pid().to_string();
        refused(&folder, &command, 1, &["in use by another process", &pid]);
    }
    drop(server);
    assert_eq!(store(&folder, &["--store", "copy.db", "check"])["runs"], 1);
    let imported = store(&folder, &["--store", "new.db", "import", "all.jsonl"]);
    assert_eq!(imported["imported"]["run"], 1, "{imported}");
    assert_eq!(store(&folder, &["--store", "new.db", "check"])["runs"], 1);
    // The key of the submission has come along: nothing runs again.
    std::fs::rename(folder.join("new.db"), folder.join("steadfast.db")).expect("moved");
    std::fs::remove_file(folder.join("steadfast.db-wal")).ok();
    std::fs::remove_file(folder.join("steadfast.db-shm")).ok();
    let again = run(&folder, &["run", "report", "--key", "mine"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(store(&folder, &["check"])["runs"], 1);
}

#[test]
fn an_archive_that_was_cut_or_changed_is_refused_and_leaves_nothing() {
    let (_temporary, folder) = ran();
    store(&folder, &["export", "all.jsonl"]);
    let whole = lines(&folder.join("all.jsonl"));
    let bad = folder.join("bad.jsonl");
    let mut changed = whole.clone();
    let place = changed.iter().position(|line| line.contains("\"fact\"")).unwrap_or(1);
    changed[place] = changed[place].replacen("report", "repost", 1);
    let newer = whole[0].replace("\"steadfast_archive\":2", "\"steadfast_archive\":3");
    for (spoilt, word) in [
        (whole[..whole.len() - 1].to_vec(), "was cut"),
        (whole[..2].to_vec(), "was cut"),
        (changed, "was changed"),
        ([&[newer], &whole[1..]].concat(), "newer one"),
        ([&whole[..], &whole[1..2]].concat(), "follows its trailer"),
        (vec!["hello".to_owned()], "not the header"),
    ] {
        write(&bad, &spoilt);
        refused(&folder, &["store", "--store", "new.db", "import", "bad.jsonl"], 1, &[word]);
        assert_eq!(store(&folder, &["--store", "new.db", "check"])["runs"], 0, "{word}");
    }
    store(&folder, &["--store", "new.db", "import", "all.jsonl"]);
    let words = ["holds runs", "empty store"];
    refused(&folder, &["store", "--store", "new.db", "import", "all.jsonl"], 1, &words);
}

#[test]
fn a_store_migrates_to_another_one_with_everything() {
    let (_temporary, folder) = ran();
    let migrated = store(&folder, &["migrate", "--to", "other.db"]);
    store(&folder, &["export", "one.jsonl"]);
    store(&folder, &["--store", "other.db", "export", "other.jsonl"]);
    let (one, other) = (lines(&folder.join("one.jsonl")), lines(&folder.join("other.jsonl")));
    assert_eq!(one[1..one.len() - 1], other[1..other.len() - 1]);
    let records: u64 =
        migrated["migrated"].as_object().expect("counts").values().filter_map(Value::as_u64).sum();
    assert_eq!(records, one.len() as u64 - 2);
    refused(&folder, &["store", "migrate", "--to", "other.db"], 1, &["empty store"]);
    let words = ["no store at nowhere.db"];
    refused(&folder, &["store", "--store", "nowhere.db", "migrate", "--to", "x.db"], 1, &words);
    assert!(!folder.join("nowhere.db").exists());
}

#[test]
fn damage_is_found_with_its_run_and_what_to_do() {
    let (_temporary, folder) = ran();
    let whole = std::fs::read(folder.join("steadfast.db")).expect("a store");
    for (damage, word) in [
        ("DELETE FROM event WHERE seq = 9", "some are missing"),
        ("UPDATE event SET body = x'7b' WHERE seq = 5", "event 5"),
        ("UPDATE run SET state = 'failed'", "its card says `failed`"),
        ("UPDATE run SET head_seq = head_seq + 1", "some are missing"),
        ("UPDATE checkpoint SET body = x'7b'", "checkpoint"),
        ("INSERT INTO blob_ref VALUES (1, zeroblob(32))", "is referred to and missing"),
        (
            "INSERT INTO blob VALUES (zeroblob(32), x'ff'); \
          INSERT INTO blob_ref VALUES (1, zeroblob(32))",
            "damaged",
        ),
        (
            "INSERT INTO event (pos, run, seq, at, kind, version, body) \
             SELECT 999, 77, 1, at, kind, version, body FROM event LIMIT 1",
            "no card",
        ),
    ] {
        std::fs::write(folder.join("steadfast.db"), &whole).expect("written");
        let path = folder.join("steadfast.db");
        let connection = rusqlite::Connection::open(path).expect("opens");
        connection.execute_batch(damage).expect(damage);
        connection.close().expect("closed");
        let checked = run(&folder, &["--output", "json", "store", "check"]);
        assert_eq!(checked.status.code(), Some(1), "{damage}: {}", text(&checked.stderr));
        let said: Value = serde_json::from_str(&text(&checked.stdout)).expect("JSON");
        assert_eq!(said["ok"], false);
        let said = said["findings"].to_string();
        assert!(said.contains(word) && said.contains("restore"), "{damage}: {said}");
    }
}

/// An archive of many runs: the one of the example, under many ids.
fn many(folder: &Path, copies: usize) -> PathBuf {
    store(folder, &["export", "one.jsonl"]);
    let one = lines(&folder.join("one.jsonl"));
    let card: Value = serde_json::from_str(&one[1]).expect("a card");
    let id = card["id"].as_str().expect("an id").to_owned();
    let mut all = vec![one[0].clone()];
    let mut counts = serde_json::Map::new();
    for line in &one[1..one.len() - 1] {
        let record: Value = serde_json::from_str(line).expect("a record");
        let kind = record["record"].as_str().expect("a kind");
        let of_run = line.contains(&id);
        // An entry of the ledger has a name of its own, which only it has.
        let own = record["id"].as_str().filter(|_| kind == "entry").unwrap_or(&id);
        for copy in 0..if of_run { copies } else { 1 } {
            let copied = |id: &str| format!("{}{copy:06}", &id[..id.len() - 6]);
            let line = line.replace(&id, &copied(&id)).replace(own, &copied(own));
            all.push(line.replace("\"key\":\"mine\"", &format!("\"key\":\"mine-{copy}\"")));
            let count = counts.get(kind).and_then(Value::as_u64).unwrap_or(0);
            counts.insert(kind.to_owned(), json!(count + 1));
        }
    }
    let body = all.join("\n") + "\n";
    let hash = blake3::hash(body.as_bytes()).to_hex().to_string();
    all.push(json!({ "records": counts, "blake3": hash }).to_string());
    let path = folder.join("many.jsonl");
    write(&path, &all);
    path
}

/// Starts a command, and kills it when a file has this size; nothing if it was faster.
fn killed(folder: &Path, arguments: &[&str], file: &str, size_bytes: u64) {
    let mut command = steadfast(folder);
    command.args(arguments).stdout(std::process::Stdio::null());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("starts");
    let path = folder.join(file);
    wait_until("the file grows", || {
        path.metadata().is_ok_and(|found| found.len() >= size_bytes)
            || child.try_wait().is_ok_and(|ended| ended.is_some())
    });
    child.kill().ok();
    child.wait().expect("reaped");
}

const COPIES: usize = 150;

#[test]
fn a_kill_in_the_middle_of_import_export_backup_or_prune_leaves_all_or_nothing() {
    let (_temporary, folder) = ran();
    many(&folder, COPIES);
    let import = ["store", "--store", "big.db", "import", "many.jsonl"];
    let mut size_bytes = 0;
    loop {
        killed(&folder, &import, "big.db-wal", size_bytes);
        let runs =
            store(&folder, &["--store", "big.db", "check"])["runs"].as_u64().expect("a count");
        assert!(runs == 0 || runs == COPIES as u64, "{runs} runs are half a store");
        if runs > 0 {
            break;
        }
        size_bytes += 400_000;
    }
    let export = ["store", "--store", "big.db", "export", "big.jsonl"];
    killed(&folder, &export, "big.jsonl.partial", 100_000);
    if !folder.join("big.jsonl").exists() {
        assert!(run(&folder, &export).status.success());
    }
    let (big, all) = (lines(&folder.join("big.jsonl")), lines(&folder.join("many.jsonl")));
    assert_eq!(big.len(), all.len());
    let backup = ["store", "--store", "big.db", "backup", "copy.db"];
    killed(&folder, &backup, "copy.db.partial", 1);
    if !folder.join("copy.db").exists() {
        assert!(run(&folder, &backup).status.success());
    }
    assert_eq!(store(&folder, &["--store", "copy.db", "check"])["runs"], COPIES);
    let prune = ["store", "--store", "big.db", "prune", "--older-than", "0s"];
    for size_bytes in [1, 100_000, 500_000] {
        killed(&folder, &prune, "big.db-wal", size_bytes);
        store(&folder, &["--store", "big.db", "check"]);
    }
    assert!(run(&folder, &prune).status.success());
    assert_eq!(store(&folder, &["--store", "big.db", "check"])["runs"], 0);
    assert_eq!(store(&folder, &["--store", "big.db", "prune", "--older-than", "0s"])["runs"], 0);
    // What runs have cost is kept when they go.
    let import = ["store", "--store", "big.db", "import", "big.jsonl"];
    refused(&folder, &import, 1, &["holds", "accounts", "empty store"]);
    store(&folder, &["--store", "again.db", "import", "big.jsonl"]);
    assert_eq!(store(&folder, &["--store", "again.db", "check"])["runs"], COPIES);
}

#[test]
fn a_server_removes_runs_that_were_kept_long_enough() {
    let (_temporary, folder) = ran();
    let config = folder.join("steadfast.toml");
    let text = std::fs::read_to_string(&config).expect("laid out");
    std::fs::write(&config, format!("{text}\n[retention]\nsucceeded = \"1s\"\n")).expect("written");
    let mut server = serve(&folder);
    let said = server.wait_for("removed runs that were kept long enough");
    assert!(said.contains("runs=1") && said.contains("events=27"), "{said}");
    drop(server);
    assert_eq!(store(&folder, &["check"])["runs"], 0);
    // Its key is free again.
    let again = run(&folder, &["run", "report", "--key", "mine"]);
    assert!(again.status.success(), "{}", crate::program::text(&again.stderr));
    assert_eq!(store(&folder, &["check"])["runs"], 1);
}

/// Archives that earlier releases wrote, and how many runs each has. Kept for every later release; the last one
/// is of the store `store-4.sqlite`, which the runtime's tests keep.
const ARCHIVES: [(&str, u64); 2] =
    [(include_str!("../data/archive-1.jsonl"), 4), (include_str!("../data/archive-2.jsonl"), 23)];

/// What is between header and trailer, which name the release and the store.
fn records(archive: &[String]) -> &[String] {
    &archive[1..archive.len() - 1]
}

#[test]
fn c10_the_archives_of_earlier_releases_are_read_and_have_every_kind_of_event() {
    for kind in RunEvent::KINDS {
        let has = |archive: &str| archive.contains(&format!("\"kind\":\"{kind}\""));
        let told = "CONTRIBUTING.md says how to keep one of this release";
        assert!(ARCHIVES.iter().any(|(archive, _)| has(archive)), "{kind} is in none: {told}");
    }
    for (archive, runs) in ARCHIVES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path();
        std::fs::write(place.join("old.jsonl"), archive).expect("written");
        store(place, &["--store", "new.db", "import", "old.jsonl"]);
        assert_eq!(store(place, &["--store", "new.db", "check"])["runs"], runs);
        store(place, &["--store", "new.db", "export", "again.jsonl"]);
        let old: Vec<_> = archive.lines().map(str::to_owned).collect();
        assert_eq!(records(&lines(&place.join("again.jsonl"))), records(&old));
    }
}

#[tokio::test]
async fn c10_a_kept_store_gives_the_archive_that_was_kept_and_that_folds_to_the_same_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path();
    let kept = include_bytes!("../../../store/tests/data/store-4.sqlite");
    std::fs::write(place.join("kept.db"), kept).expect("written");
    // A store of an earlier schema is only read once it is brought up to date.
    store(place, &["--store", "kept.db", "prune", "--older-than", "50000d"]);
    store(place, &["--store", "kept.db", "export", "kept.jsonl"]);
    let (archive, runs) = ARCHIVES[ARCHIVES.len() - 1];
    let archive: Vec<_> = archive.lines().map(str::to_owned).collect();
    assert_eq!(records(&lines(&place.join("kept.jsonl"))).len(), records(&archive).len());
    write(&place.join("archive.jsonl"), &archive);
    store(place, &["--store", "imported.db", "import", "archive.jsonl"]);
    let open =
        |name: &str| SqliteStore::open(place.join(name), SqliteOptions::default()).expect("opens");
    let (kept, imported) = (open("kept.db"), open("imported.db"));
    let page = kept.list(RunFilter { limit: 500, ..RunFilter::default() }).await.expect("lists");
    assert_eq!(page.runs.len() as u64, runs);
    for head in page.runs {
        let differs = steadfast_runtime::compare(&kept, &imported, head.id).await.expect("folds");
        assert_eq!(differs, None, "{}", head.id);
    }
}

#[test]
fn a_store_that_an_earlier_release_wrote_is_copied_as_it_is_and_then_brought_up_to_date() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path();
    let old = include_bytes!("../../../store/tests/data/store-2.sqlite");
    std::fs::write(place.join("old.db"), old).expect("written");
    store(place, &["--store", "old.db", "backup", "copy.db"]);
    let words = ["schema version 2", "make a backup"];
    refused(place, &["store", "--store", "copy.db", "check"], 1, &words);
    let pruned = store(place, &["--store", "copy.db", "prune", "--older-than", "50000d"]);
    assert_eq!(pruned["runs"], 0);
    assert_eq!(store(place, &["--store", "copy.db", "check"])["runs"], 1);
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path();
    std::fs::write(place.join("text"), "hello, this is no store\n".repeat(9)).expect("written");
    for command in ["check", "backup"] {
        let arguments = ["store", "--store", "text", command, "x"];
        let arguments = &arguments[..if command == "check" { 4 } else { 5 }];
        let said = refusal(&run(place, arguments), 1, &["text"]);
        assert!(said.contains("not a SQLite database"), "{said}");
    }
    refused(place, &["store", "--store", "none.db", "check"], 1, &["none.db", "no such file"]);
    assert!(!place.join("none.db").exists());
    let url = ["store", "--store", "postgres://me@127.0.0.1/x", "backup", "y"];
    refused(place, &url, 1, &["not a URL", "pg_dump"]);
    for option in [
        &["--store", "postgres://me:hunter2@127.0.0.1/x", "check"][..],
        &["--store", "x.db", "migrate", "--to", "postgres://me:hunter2@127.0.0.1/x"],
    ] {
        let said = refused(place, &[&["store"], option].concat(), 64, &["may only be named"]);
        assert!(!said.contains("hunter2") && said.contains("--"), "{said}");
    }
    let wrong = run(place, &["store", "--store", "x", "prune", "--older-than", "soon"]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// The variable that holds the database's URL.
const VARIABLE: &str = "STEADFAST_TEST_DATABASE";
const DATABASE: &str = "env:STEADFAST_TEST_DATABASE";

fn with_database(folder: &Path, url: &str, arguments: &[&str]) -> std::process::Output {
    let arguments = [&["--output", "json", "store"], arguments].concat();
    steadfast(folder).env(VARIABLE, url).args(arguments).output().expect("starts")
}

#[test]
fn a_store_moves_into_a_database_is_looked_after_there_and_moves_back() {
    let Some(server) = shared() else { return };
    let (_temporary, folder) = ran();
    let config = folder.join("steadfast.toml");
    let schema = format!("\n[store]\nschema = \"{}\"\n", fresh_schema());
    let laid_out = std::fs::read_to_string(&config).expect("laid out");
    std::fs::write(&config, laid_out + &schema).expect("written");
    let url = server.url();
    let done = |arguments: &[&str]| -> Value {
        let done = with_database(&folder, &url, arguments);
        let said = format!("{}{}", text(&done.stdout), text(&done.stderr));
        assert!(done.status.success() && !said.contains("horse"), "{said}");
        serde_json::from_str(&text(&done.stdout)).unwrap_or_default()
    };
    let not = |arguments: &[&str], word: &str| {
        let said = refusal(&with_database(&folder, &url, arguments), 1, &[word, "127.0.0.1"]);
        assert!(!said.contains("horse"), "{said}");
    };
    // Looking makes nothing.
    for _ in 0..2 {
        not(&["--store", DATABASE, "check"], "holds no store");
    }
    let prune = ["--store", DATABASE, "prune", "--older-than", "0s"];
    refusal(&with_database(&folder, &url, &prune), 1, &["there is no store in the schema"]);
    let migrated = done(&["migrate", "--to", DATABASE]);
    assert_eq!(migrated["migrated"]["run"], 1, "{migrated}");
    assert_eq!(done(&["--store", DATABASE, "check"])["runs"], 1);
    not(&["migrate", "--to", DATABASE], "empty store");
    done(&["export", "file.jsonl"]);
    done(&["--store", DATABASE, "export", "database.jsonl"]);
    done(&["--store", DATABASE, "migrate", "--to", "back.db"]);
    done(&["--store", "back.db", "export", "back.jsonl"]);
    let records = |name: &str| {
        let all = lines(&folder.join(name));
        let mut records = all[1..all.len() - 1].to_vec();
        records.sort_unstable();
        records
    };
    assert_eq!(records("file.jsonl"), records("database.jsonl"));
    assert_eq!(records("file.jsonl"), records("back.jsonl"));
    // The key of the submission has come along.
    let mut again = steadfast(&folder);
    again.env(VARIABLE, &url).args(["serve", "--listen", "127.0.0.1:0", "--store", DATABASE]);
    let mut again = Running::start(again);
    again.wait_for("on http://");
    assert_eq!(done(&["--store", DATABASE, "check"])["runs"], 1);
    not(&["--store", DATABASE, "migrate", "--to", "late.db"], "in use by 1 node:");
    // Nodes may be at work while it is pruned.
    let pruned = done(&prune);
    assert_eq!((&pruned["runs"], &pruned["events"]), (&json!(1), &json!(27)), "{pruned}");
    drop(again);
    assert_eq!(done(&["--store", DATABASE, "check"])["runs"], 0);
}
