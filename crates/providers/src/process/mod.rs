//! Child processes: the only place that starts them, and the one that sees to their end.
//!
//! Every child gets a process group of its own, a minimal environment and the mark of its owner. Its
//! end is: stdin closed, a wait, SIGTERM to the group, a wait, SIGKILL to the group, reaped. A
//! dropped handle kills the group on the spot, by a system call and not by a task, because a runtime
//! that is shutting down runs no new tasks. What a killed Steadfast leaves behind is found by the mark
//! ([`sweep_orphans`]).

mod capture;
mod run;
mod sweep;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

pub use capture::Capture;
pub use run::{Finished, RunLimits};
pub use sweep::sweep_orphans;

/// The environment variable that names the owner of a child.
pub const OWNER_VARIABLE: &str = "STEADFAST_OWNER";

/// What a child inherits of our environment; variables that begin with `LC_` too. A server that shows
/// its environment then shows no key of ours.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TMPDIR", "USER"];

/// Whose children these are. The id must be unique to one running instance (its data directory, say):
/// [`sweep_orphans`] ends everything that carries it.
#[derive(Clone, Debug)]
pub struct ProcessOwner {
    id: Arc<str>,
}

/// What to start.
#[derive(Clone, Default)]
pub struct CommandLine {
    /// The program: a path, or a name that is looked up in `PATH`.
    pub program: String,
    /// Its arguments, handed over as they are. There is no shell.
    pub args: Vec<String>,
    /// Set in its environment, besides the little that it inherits. Never printed.
    pub env: Vec<(String, String)>,
    /// Where it runs; our own directory if absent.
    pub cwd: Option<PathBuf>,
}

impl std::fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("CommandLine")
            .field("program", &self.program)
            .field("args", &self.args.len())
            .field("env", &names)
            .field("cwd", &self.cwd)
            .finish()
    }
}

/// How long a child is given at its end.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// Between the end of its stdin and SIGTERM. Default 2 s: well-behaved servers leave within 0.1 s.
    pub after_eof: Duration,
    /// Between SIGTERM and SIGKILL. Default 2 s.
    pub after_term: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self { after_eof: Duration::from_secs(2), after_term: Duration::from_secs(2) }
    }
}

/// Why a child could not be started or waited for.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It did not start.
    #[error("cannot start `{program}`: {reason}")]
    Start {
        /// The program.
        program: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The system did not let us wait for it.
    #[error("cannot wait for `{program}`: {source}")]
    Wait {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A group of processes that we started, to be signalled from anywhere.
#[derive(Debug)]
pub struct ProcessGroup {
    id: Pid,
    /// Set when the leader has been reaped: its number may belong to somebody else from then on.
    gone: AtomicBool,
}

impl ProcessGroup {
    /// Sends a signal to all its processes; nothing if it is gone. Returns at once.
    pub fn signal(&self, signal: Signal) {
        if self.gone.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = kill_process_group(self.id, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::debug!(group = self.id.as_raw_nonzero(), %error, "cannot signal a process group");
        }
    }

    /// Called as soon as the leader has been reaped. What it left behind in its group goes too; the
    /// number cannot have been given away in between, since the kernel counts upwards through all of them.
    fn leader_reaped(&self) {
        self.signal(Signal::KILL);
        self.gone.store(true, Ordering::Release);
    }
}

/// A running child. Dropping it kills its whole group at once.
#[derive(Debug)]
pub struct OwnedChild {
    program: String,
    inner: tokio::process::Child,
    group: Arc<ProcessGroup>,
}

impl ProcessOwner {
    /// An owner.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self { id: id.into() }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts a child with all three streams piped.
    ///
    /// # Errors
    /// [`ProcessError::Start`] if the directory or the program is not there or may not be run.
    pub fn spawn(&self, line: &CommandLine) -> Result<OwnedChild, ProcessError> {
        let start = |reason: String| ProcessError::Start { program: line.program.clone(), reason };
        if let Some(cwd) = &line.cwd
            && !cwd.is_dir()
        {
            return Err(start(format!("its directory does not exist: {}", cwd.display())));
        }
        #[expect(clippy::disallowed_methods, reason = "this module owns every child process")]
        let mut command = Command::new(&line.program);
        command
            .args(&line.args)
            .env_clear()
            .envs(inherited_environment())
            .envs(line.env.iter().map(|(name, value)| (name, value)))
            .env(OWNER_VARIABLE, &*self.id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(cwd) = &line.cwd {
            command.current_dir(cwd);
        }
        let mut inner = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                start("no such program; give its full path or install it".to_owned())
            }
            std::io::ErrorKind::PermissionDenied => {
                start("it may not be executed; check its permissions".to_owned())
            }
            _ => start(error.to_string()),
        })?;
        let id = inner.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(id) = id else {
            // Cannot be: a fresh child has a number. Better one child less than one without an owner.
            if let Err(error) = inner.start_kill() {
                tracing::debug!(%error, "cannot kill a child without a number");
            }
            return Err(start("the system gave it no process number".to_owned()));
        };
        let group = Arc::new(ProcessGroup { id, gone: AtomicBool::new(false) });
        Ok(OwnedChild { program: line.program.clone(), inner, group })
    }
}

impl OwnedChild {
    /// Its process number, until it has been waited for.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.inner.id()
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> Arc<ProcessGroup> {
        Arc::clone(&self.group)
    }

    /// Its standard input, once. Dropping the pipe is its end of file.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.inner.stdin.take()
    }

    /// Its standard output, once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.inner.stdout.take()
    }

    /// Its standard error, once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.inner.stderr.take()
    }

    /// Waits for its end; whatever it left in its group is killed then. Its stdin is left as it is.
    /// May be dropped and called again.
    ///
    /// # Errors
    /// [`ProcessError::Wait`] if the system refuses.
    pub async fn wait(&mut self) -> Result<ExitStatus, ProcessError> {
        // tokio's own `wait` would close stdin.
        let stdin = self.inner.stdin.take();
        let status = self.inner.wait().await;
        self.inner.stdin = stdin;
        let status = status
            .map_err(|source| ProcessError::Wait { program: self.program.clone(), source })?;
        if !self.group.gone.load(Ordering::Acquire) {
            self.group.leader_reaped();
        }
        Ok(status)
    }

    /// Ends it: stdin closed, a wait, SIGTERM, a wait, SIGKILL, reaped. A stdin that was taken must have
    /// been dropped by its taker, or the first wait is in vain. If dropped, the group is killed at once.
    ///
    /// # Errors
    /// [`ProcessError::Wait`] if the system refuses.
    pub async fn end(mut self, grace: Grace) -> Result<ExitStatus, ProcessError> {
        drop(self.inner.stdin.take());
        if let Ok(ended) = timeout(grace.after_eof, self.wait()).await {
            return ended;
        }
        self.terminate(grace.after_term).await
    }

    /// SIGTERM, a wait, SIGKILL, reaped.
    async fn terminate(&mut self, after_term: Duration) -> Result<ExitStatus, ProcessError> {
        self.group.signal(Signal::TERM);
        if let Ok(ended) = timeout(after_term, self.wait()).await {
            return ended;
        }
        self.group.signal(Signal::KILL);
        self.wait().await
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

fn inherited_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| INHERITED.contains(&name) || name.starts_with("LC_"))
    })
}
