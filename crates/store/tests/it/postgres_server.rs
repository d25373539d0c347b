//! A PostgreSQL server that the tests start for themselves, with `initdb` and `pg_ctl`: on a free loopback
//! port, with a password, and with its disk writes synced as in earnest.
//!
//! A guard, a small shell, waits on a pipe that this process holds open. When the process ends, however
//! that comes about, the pipe closes, and the guard stops the server and removes its folder.
//!
//! Other crates include this file by its path.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a server is a child of the tests, and a test that is skipped says so"
)]

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The password of the tests' user, as it is and as it stands in a URL; no error may show it.
const PASSWORD: &str = "correct horse";
const PASSWORD_IN_URL: &str = "correct%20horse";

/// Waits for the end of standard input, then stops the server in `$1` and removes the folder.
const GUARD: &str = r#"
cat >/dev/null
folder="$1"; shift
"$@" -D "$folder/data" -m immediate -w stop
rm -rf "$folder"
"#;

/// A running server. It ends with the process at the latest.
pub(crate) struct Server {
    folder: PathBuf,
    programs: PathBuf,
    pub(crate) port: u16,
    /// Dropping it closes the pipe.
    _guard: Child,
}

/// The server that all tests of a process share, or `None`, with a word on standard error, if there is no
/// PostgreSQL on this machine.
pub(crate) fn shared() -> Option<&'static Server> {
    static SHARED: OnceLock<Option<Server>> = OnceLock::new();
    SHARED.get_or_init(Server::start).as_ref()
}

/// A name that no other test of this process has.
pub(crate) fn fresh_schema() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Server {
    /// Starts a server of its own.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!("skipped: PostgreSQL's `initdb` is not on this machine");
            return None;
        };
        let folder =
            tempfile::Builder::new().prefix("steadfast-pg-").tempdir().expect("a folder").keep();
        let guard = guard(&folder, &programs);
        let mut server = Self { folder, programs, port: 0, _guard: guard };
        server.initialise();
        // A port that was free a moment ago may be taken by now: then another one is tried.
        for _ in 0..20 {
            server.port = free_port();
            if server.control(&["start"]) {
                return Some(server);
            }
        }
        panic!("the server does not start: {}", server.log());
    }

    fn initialise(&self) {
        let secret = self.folder.join("password");
        std::fs::write(&secret, PASSWORD).expect("written");
        if let Some(user) = user() {
            let given = Command::new("chown").arg("-R").arg(user).arg(&self.folder).status();
            assert!(given.expect("chown").success(), "the folder cannot be given to {user}");
        }
        let made = as_user(&self.programs.join("initdb"))
            .args(["--username=clerk", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"])
            .arg(format!("--pwfile={}", secret.display()))
            .arg("-D")
            .arg(self.folder.join("data"))
            .output()
            .expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Where a database is, with user and password.
    pub(crate) fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same behind another port, which leads here.
    #[expect(clippy::unused_self, reason = "every server has the same user")]
    pub(crate) fn url_at(&self, port: u16) -> String {
        format!("postgres://clerk:{PASSWORD_IN_URL}@127.0.0.1:{port}/postgres")
    }

    /// Stops the server: `fast` cuts its connections off in order, `immediate` is as a power cut.
    pub(crate) fn halt(&self, mode: &str) {
        assert!(self.control(&["stop", "-m", mode]), "{}", self.log());
    }

    /// Starts the server again, at the same place.
    pub(crate) fn resume(&self) {
        assert!(self.control(&["start"]), "{}", self.log());
    }

    fn control(&self, order: &[&str]) -> bool {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=on \
             -c max_connections=300 -c shared_buffers=64MB",
            self.port
        );
        let mut command = as_user(&self.programs.join("pg_ctl"));
        command.args(order).args(["-w", "-s", "-t", "60", "-D"]).arg(self.folder.join("data"));
        if order == ["start"] {
            command.arg("-l").arg(self.folder.join("data/log.txt")).arg("-o").arg(options);
        }
        // What the server inherits would keep a pipe of the test open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("pg_ctl").success()
    }

    /// The end of what the server has said.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("data/log.txt")).unwrap_or_default();
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }
}

/// A port that is free, below those that systems give to connections, and given once: while a server is
/// restarted, nobody else may get its port. Other processes begin somewhere else.
fn free_port() -> u16 {
    const FIRST: usize = 12_000;
    const COUNT: usize = 20_000;
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    // Processes that begin together have numbers side by side.
    let begin = (std::process::id() as usize).wrapping_mul(7919);
    for _ in 0..COUNT {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(given) % COUNT;
        let port = u16::try_from(port).expect("small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free")
}

fn guard(folder: &Path, programs: &Path) -> Child {
    let stop = as_user(&programs.join("pg_ctl"));
    Command::new("sh")
        .args(["-c", GUARD, "guard"])
        .arg(folder)
        .arg(stop.get_program())
        .args(stop.get_args())
        .current_dir("/")
        // A signal to the test's group must not reach it before the pipe closes.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}

/// The folder with `initdb` and `pg_ctl`: on the path, or where Debian keeps them.
fn programs() -> Option<PathBuf> {
    let path = std::env::vars_os().find(|(name, _)| name == "PATH").map(|(_, value)| value);
    let on_path = path.iter().flat_map(std::env::split_paths).collect::<Vec<_>>();
    let mut kept: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    kept.sort();
    kept.reverse();
    kept.into_iter()
        .chain(on_path)
        .find(|folder| folder.join("initdb").exists() && folder.join("pg_ctl").exists())
}

/// Whom the server runs as: it refuses to run as root.
fn user() -> Option<&'static str> {
    static USER: OnceLock<Option<&'static str>> = OnceLock::new();
    *USER.get_or_init(|| {
        let is = |arguments: &[&str]| Command::new("id").args(arguments).output().ok();
        let own = is(&["-u"]).map(|output| output.stdout);
        if own.as_deref() != Some(b"0\n") {
            return None;
        }
        ["postgres", "nobody"]
            .into_iter()
            .find(|name| is(&["-u", name]).is_some_and(|output| output.status.success()))
    })
}

fn as_user(program: &Path) -> Command {
    let mut command;
    match user() {
        None => command = Command::new(program),
        Some(user) => {
            command = Command::new("setpriv");
            let group = Command::new("id").args(["-g", user]).output().expect("id").stdout;
            let group = String::from_utf8(group).expect("a number");
            command.arg(format!("--reuid={user}")).arg(format!("--regid={}", group.trim()));
            command.arg("--clear-groups").arg(program);
        }
    }
    command.current_dir("/");
    command
}
