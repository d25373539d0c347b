//! Starting the program, and looking at what it left behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// The program with a clean environment: no keys, so that models are simulated.
pub(crate) fn steadfast(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
    command.current_dir(folder).stdin(Stdio::null());
    for variable in [
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        "STEADFAST_CONFIG",
        "STEADFAST_SERVER",
    ] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    steadfast(folder).args(arguments).output().expect("the program starts")
}

/// Expects a refusal: this exit code, nothing on standard output, one message on standard error, and
/// in it these words. Returns the message.
pub(crate) fn refused(folder: &Path, arguments: &[&str], code: i32, words: &[&str]) -> String {
    refusal(&run(folder, arguments), code, words)
}

/// As [`refused`], of a program that has ended.
pub(crate) fn refusal(output: &Output, code: i32, words: &[&str]) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(text(&output.stdout), "", "{said}");
    let messages = said.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(messages, 1, "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    said
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A program that is ended with the test, whatever happens.
pub(crate) struct Running {
    child: Child,
    /// Read at once, by a thread of its own: a program that nobody reads would stand still.
    lines: Receiver<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let said = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // The end of the test is the end of its interest.
            said.map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Self { child, lines }
    }

    /// The next line on standard error; `None` at the end.
    pub(crate) fn line(&mut self) -> Option<String> {
        self.lines.recv().ok()
    }

    /// Reads lines until one holds the text.
    pub(crate) fn wait_for(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        while let Some(line) = self.line() {
            if line.contains(wanted) {
                return line;
            }
            seen.push(line);
        }
        panic!("`{wanted}` was not said; said was:\n{}", seen.join("\n"));
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, as a supervisor does.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").arg(self.pid().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "still there to be asked");
    }

    /// Waits until it has ended by itself; its exit code.
    pub(crate) fn ended(mut self) -> Option<i32> {
        while self.line().is_some() {}
        self.child.wait().expect("reaped").code()
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("still there to be killed");
        self.child.wait().expect("reaped");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Lays an example out in a temporary folder.
pub(crate) fn example(name: &str) -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = temporary.path().join(name);
    let done = run(temporary.path(), &["init", name]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    (temporary, folder)
}

/// An event as it stands in the store.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) seq: u64,
    pub(crate) kind: String,
    pub(crate) body: serde_json::Value,
}

/// The events of the only run in a store that no program has open.
pub(crate) fn events(folder: &Path) -> Vec<Row> {
    let path = folder.join("steadfast.db");
    let store = rusqlite::Connection::open(&path).expect("opens");
    let check: String =
        store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checks");
    assert_eq!(check, "ok");
    let mut statement = store
        .prepare("SELECT seq, kind, body FROM event ORDER BY seq")
        .expect("the table is there");
    let rows = statement.query_map([], |row| {
        let body: Vec<u8> = row.get(2)?;
        let body = serde_json::from_slice(&body).expect("an event is JSON");
        Ok(Row { seq: row.get(0)?, kind: row.get(1)?, body })
    });
    rows.expect("reads").map(|row| row.expect("a row")).collect()
}
