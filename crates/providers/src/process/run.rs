//! One command from start to end.

use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Capture, CommandLine, OwnedChild, ProcessError, ProcessOwner};

/// How long the pipes are read after the child has gone. Only a grandchild that left the group can hold
/// them open that long.
const DRAIN: Duration = Duration::from_millis(500);

/// Limits of one command.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    /// It is ended at this time.
    pub deadline: Instant,
    /// The most that is kept of each of its two outputs.
    pub output_bytes: usize,
    /// Between SIGTERM at the deadline and SIGKILL.
    pub after_term: Duration,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How; absent if it was ended at the deadline.
    pub status: Option<ExitStatus>,
    /// What it wrote to stdout.
    pub stdout: Capture,
    /// What it wrote to stderr.
    pub stderr: Capture,
}

impl ProcessOwner {
    /// Runs a command: feeds its stdin and closes it, collects its output, and ends it (SIGTERM, SIGKILL)
    /// at the deadline. When this returns the child and its group are gone; a grandchild outside the
    /// group that holds a pipe delays the result by half a second at most. If dropped, the group is killed.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub async fn run(
        &self,
        line: &CommandLine,
        stdin: Option<Vec<u8>>,
        limits: RunLimits,
    ) -> Result<Finished, ProcessError> {
        let mut child = self.spawn(line)?;
        let mut stdout = Capture::new(limits.output_bytes);
        let mut stderr = Capture::new(limits.output_bytes);
        let ended = timeout_at(
            limits.deadline,
            run_to_end(&mut child, &mut stdout, &mut stderr, stdin.unwrap_or_default()),
        )
        .await;
        let status = match ended {
            Ok(status) => Some(status?),
            Err(_) => {
                child.terminate(limits.after_term).await?;
                None
            }
        };
        Ok(Finished { status, stdout, stderr })
    }
}

async fn run_to_end(
    child: &mut OwnedChild,
    stdout: &mut Capture,
    stderr: &mut Capture,
    input: Vec<u8>,
) -> Result<ExitStatus, ProcessError> {
    let (pipe_in, pipe_out, pipe_err) =
        (child.take_stdin(), child.take_stdout(), child.take_stderr());
    let mut streams = std::pin::pin!(async {
        tokio::join!(feed(pipe_in, input), stdout.fill(pipe_out), stderr.fill(pipe_err));
    });
    tokio::select! {
        status = child.wait() => {
            let status = status?;
            if timeout(DRAIN, streams).await.is_err() {
                tracing::debug!("a process outside the group still holds a pipe of an ended command");
            }
            Ok(status)
        }
        () = &mut streams => child.wait().await,
    }
}

/// Writes all and closes. A child that does not want its input is not a failure.
async fn feed(pipe: Option<ChildStdin>, input: Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    if let Err(error) = pipe.write_all(&input).await {
        tracing::debug!(%error, "a command did not read all of its input");
    }
}
