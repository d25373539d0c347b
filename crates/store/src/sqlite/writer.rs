//! The one writer: a thread that owns the only connection that writes and checkpoints.
//!
//! It takes everything that is queued, writes it in one transaction, commits, and answers everybody.
//! There is no timer that waits for company: a batch is what gathered during the commit before it.
//! What a request is refused for is found before it writes, so a refusal costs its caller only. An
//! error of the medium ends the writer: nobody in the batch is acknowledged, and nothing more is
//! accepted, because after a failed fsync nobody knows what the disk holds.
//!
//! The log is checkpointed here, between batches, and by nobody else: a second connection cannot keep
//! up with a busy writer, and one writing and checkpointing connection has no races.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::unavailable;
use crate::{StoreError, Timestamp};

/// Most requests in one transaction.
const BATCH_REQUESTS: usize = 512;
/// A transaction takes no further request once it holds this much.
const BATCH_BYTES: usize = 1024 * 1024;
/// Requests that may wait before callers do.
const QUEUE_REQUESTS: usize = 4096;
/// After this long without a request, what has been written is checkpointed.
const IDLE: Duration = Duration::from_millis(200);

/// Why a statement, or what it was for, did not succeed.
pub(super) enum Failure {
    /// The request is at fault, or the row it is about; it has written nothing.
    Refused(StoreError),
    /// A stored value is not what the schema says; found while reading.
    Damaged(String),
    /// The file is not whole, found while reading or in the middle of writing.
    Torn(String),
    /// The medium is at fault.
    Broken(String),
}

impl Failure {
    /// Nothing happened, if it was only a refusal.
    pub(super) fn spare<T: Default>(self) -> Result<T, Self> {
        match self {
            Self::Refused(_) => Ok(T::default()),
            Self::Damaged(_) | Self::Torn(_) | Self::Broken(_) => Err(self),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        match error {
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => Self::Damaged(format!("{error}; restore it from a backup")),
            error if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                Self::Torn(with_remedy(&error))
            }
            error => Self::Broken(with_remedy(&error)),
        }
    }
}

/// What the medium did, and what to do about it.
pub(super) fn with_remedy(error: &rusqlite::Error) -> String {
    let remedy = match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            // No statement here breaks a constraint, and all fit the schema, while the file is whole.
            | ErrorCode::ConstraintViolation
            | ErrorCode::Unknown,
        )
        | None => "restore it from a backup",
        Some(ErrorCode::DiskFull) => "free some space and start again",
        Some(ErrorCode::SystemIoFailure) => {
            "the disk failed or was taken away: the system's log says more; mend it and start again"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "give this user write permission to the file and its directory, or choose another path"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {remedy}")
}

/// One thing to write.
pub(super) trait Write: Send + 'static {
    type Answer: Send + 'static;

    /// About how many bytes it writes.
    fn size_bytes(&self) -> usize {
        0
    }

    /// Checks, then writes, inside a transaction.
    fn write(self, connection: &Connection, at: Timestamp) -> Result<Self::Answer, Failure>;
}

struct Request<W: Write> {
    write: Option<W>,
    at: Timestamp,
    outcome: Option<Result<W::Answer, StoreError>>,
    reply: oneshot::Sender<Result<W::Answer, StoreError>>,
    _place_in_queue: OwnedSemaphorePermit,
}

/// A [`Request`] whatever it writes.
trait Task: Send {
    fn size_bytes(&self) -> usize;
    /// Writes; `Err` if the medium failed.
    fn perform(&mut self, writer: &mut Writer) -> Result<(), String>;
    /// Tells the caller, now that it is known whether the transaction has been committed.
    fn settle(self: Box<Self>, committed: Result<(), StoreError>);
}

impl<W: Write> Task for Request<W> {
    fn size_bytes(&self) -> usize {
        self.write.as_ref().map_or(0, Write::size_bytes)
    }

    fn perform(&mut self, writer: &mut Writer) -> Result<(), String> {
        let Some(write) = self.write.take() else { return Ok(()) };
        // Callers read the clock on their own threads; what is stored never goes back.
        writer.latest = writer.latest.max(self.at);
        self.outcome = Some(match write.write(&writer.connection, writer.latest) {
            Ok(answer) => Ok(answer),
            Err(Failure::Refused(refusal)) => Err(refusal),
            Err(Failure::Damaged(problem)) => Err(super::damaged(&writer.path, problem)),
            // Part of it may have been written: the transaction must not be committed.
            Err(Failure::Torn(problem) | Failure::Broken(problem)) => return Err(problem),
        });
        Ok(())
    }

    fn settle(self: Box<Self>, committed: Result<(), StoreError>) {
        let outcome = match (committed, self.outcome) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => return,
        };
        // A caller that has gone does not want to know.
        drop(self.reply.send(outcome));
    }
}

type CloseReply = oneshot::Sender<Result<(), StoreError>>;

enum Message {
    Write(Box<dyn Task>),
    Close(CloseReply),
}

/// What the rest of the store has of the writer.
pub(super) struct Handle {
    path: PathBuf,
    queue: Option<Sender<Message>>,
    places: Arc<Semaphore>,
    end: Arc<OnceLock<End>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Why the writer accepts nothing more.
enum End {
    Closed,
    /// It never was there.
    ReadOnly,
    Failed(String),
}

struct Writer {
    path: PathBuf,
    connection: Connection,
    latest: Timestamp,
    wal: Wal,
    end: Arc<OnceLock<End>>,
    place: Place,
    /// Held until the connection is closed.
    lock: File,
}

/// Which file a path led to when the store was opened. Somebody may remove or replace it meanwhile; SQLite
/// would go on writing into the file that nobody can open any more.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    #[cfg(unix)]
    device_and_inode: (u64, u64),
}

impl Place {
    #[cfg(unix)]
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = path.metadata()?;
        Ok(Self { device_and_inode: (found.dev(), found.ino()) })
    }

    #[cfg(not(unix))]
    fn of(_: &Path) -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Whether the path still leads there.
    fn check(&self, path: &Path) -> Result<(), String> {
        match Self::of(path) {
            Ok(now) if now == *self => Ok(()),
            Ok(_) | Err(_) => Err("its file was removed or replaced while it was open, so what was \
                                   written since is lost with it: stop, put the file back or restore a \
                                   backup, and start again"
                .to_owned()),
        }
    }
}

/// When the log is due to be checkpointed. Sizes are in pages.
struct Wal {
    threshold: i64,
    /// How long the log was when it was last tried, so that a reader who holds it back is not met
    /// with a new attempt after every batch.
    tried_at: i64,
    dirty: bool,
}

impl Handle {
    pub(super) fn start(
        path: PathBuf,
        connection: Connection,
        lock: File,
        checkpoint_wal_bytes: u64,
    ) -> Result<Self, StoreError> {
        let page_bytes: i64 = connection
            .pragma_query_value(None, "page_size", |row| row.get(0))
            .map_err(|error| unavailable(&path, error.to_string()))?;
        let threshold = i64::try_from(checkpoint_wal_bytes).unwrap_or(i64::MAX) / page_bytes.max(1);
        let end = Arc::new(OnceLock::new());
        let place = Place::of(&path).map_err(|error| unavailable(&path, error.to_string()))?;
        let writer = Writer {
            place,
            path: path.clone(),
            connection,
            latest: Timestamp::default(),
            wal: Wal { threshold: threshold.max(1), tried_at: 0, dirty: true },
            end: Arc::clone(&end),
            lock,
        };
        let (queue, requests) = channel();
        let thread = std::thread::Builder::new()
            .name("steadfast-store".to_owned())
            .spawn(move || writer.run(&requests))
            .map_err(|error| unavailable(&path, format!("its writer cannot start: {error}")))?;
        let places = Arc::new(Semaphore::new(QUEUE_REQUESTS));
        Ok(Self { path, queue: Some(queue), places, end, thread: Some(thread) })
    }

    /// No writer at all: every write is refused.
    pub(super) fn none(path: PathBuf) -> Self {
        let end = Arc::new(OnceLock::from(End::ReadOnly));
        Self { path, queue: None, places: Arc::new(Semaphore::new(1)), end, thread: None }
    }

    /// Why nothing is written any more, if nothing is.
    pub(super) fn refuses(&self) -> Option<String> {
        self.end.get().map(|_| self.problem())
    }

    pub(super) async fn write<W: Write>(
        &self,
        write: W,
        at: Timestamp,
    ) -> Result<W::Answer, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| self.ended())?;
        let (reply, answer) = oneshot::channel();
        let request =
            Request { write: Some(write), at, outcome: None, reply, _place_in_queue: place };
        self.send(Message::Write(Box::new(request)))?;
        answer.await.map_err(|_| self.ended())?
    }

    /// Whether the medium has not failed yet.
    pub(super) fn writable(&self) -> Result<(), StoreError> {
        match self.end.get() {
            Some(End::Failed(_)) => Err(self.ended()),
            Some(End::Closed | End::ReadOnly) | None => Ok(()),
        }
    }

    pub(super) async fn close(&self) -> Result<(), StoreError> {
        self.places.close();
        let (reply, answer) = oneshot::channel();
        let closed = match self.send(Message::Close(reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.ended())),
            Err(ended) => Err(ended),
        };
        match self.end.get() {
            Some(End::Closed | End::ReadOnly) => Ok(()),
            _ => closed,
        }
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        let Some(queue) = &self.queue else { return Err(self.ended()) };
        queue.send(message).map_err(|_| self.ended())
    }

    fn ended(&self) -> StoreError {
        unavailable(&self.path, self.problem())
    }

    fn problem(&self) -> String {
        match self.end.get() {
            Some(End::Failed(problem)) => problem.clone(),
            Some(End::ReadOnly) => "it was opened to be read only".to_owned(),
            Some(End::Closed) | None => "it has been closed".to_owned(),
        }
    }
}

impl Drop for Handle {
    /// Waits until the file is closed and its lock is given back, so that it can be opened again.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the writer of the store panicked");
        }
    }
}

impl Writer {
    fn run(mut self, requests: &Receiver<Message>) {
        let closing = loop {
            match self.next(requests) {
                Some(Message::Write(first)) => {
                    let (batch, closing) = gather(first, requests);
                    if let Err(problem) = self.commit(batch) {
                        return self.fail(problem);
                    }
                    if closing.is_some() {
                        break closing;
                    }
                    self.checkpoint_if_due();
                }
                Some(Message::Close(reply)) => break Some(reply),
                None => break None,
            }
        };
        self.close(closing);
    }

    /// The next message; checkpoints when none comes. `None` once the store has been dropped.
    fn next(&mut self, requests: &Receiver<Message>) -> Option<Message> {
        if self.wal.dirty {
            match requests.recv_timeout(IDLE) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    self.checkpoint();
                    self.wal.dirty = false;
                }
            }
        }
        requests.recv().ok()
    }

    fn commit(&mut self, mut batch: Vec<Box<dyn Task>>) -> Result<(), String> {
        let written = self.write(&mut batch);
        self.wal.dirty = true;
        if let Err(problem) = &written {
            // Before anybody is told: who is told must find the store closed.
            let _first = self.end.set(End::Failed(problem.clone()));
        }
        for task in batch {
            let told = written.as_ref().map_err(|problem| unavailable(&self.path, problem.clone()));
            task.settle(told.copied());
        }
        written
    }

    fn write(&mut self, batch: &mut [Box<dyn Task>]) -> Result<(), String> {
        let run =
            |connection: &Connection, sql| connection.prepare_cached(sql)?.execute([]).map(|_| ());
        let text = |error: rusqlite::Error| match Failure::from(error) {
            Failure::Damaged(problem) | Failure::Torn(problem) | Failure::Broken(problem) => {
                problem
            }
            Failure::Refused(refusal) => refusal.to_string(),
        };
        run(&self.connection, "BEGIN IMMEDIATE").map_err(text)?;
        let mut written = Ok(());
        for task in batch {
            written = task.perform(self);
            if written.is_err() {
                break;
            }
        }
        let written = written.and_then(|()| run(&self.connection, "COMMIT").map_err(text));
        // Asked after the commit: nobody is acknowledged for what went into a file that is gone.
        let written = written.and_then(|()| self.place.check(&self.path));
        if written.is_err() && !self.connection.is_autocommit() {
            // The connection is closed next, which rolls back too.
            if let Err(error) = run(&self.connection, "ROLLBACK") {
                tracing::warn!(path = %self.path.display(), %error, "rolling back failed");
            }
        }
        written
    }

    fn checkpoint_if_due(&mut self) {
        let Ok((log, done)) = self.wal("PRAGMA wal_checkpoint(NOOP)") else { return };
        let retry_at = self.wal.tried_at.saturating_add(self.wal.threshold / 8);
        let tried = self.wal.tried_at > 0 && log >= self.wal.tried_at && log < retry_at;
        if log - done >= self.wal.threshold && !tried {
            self.checkpoint();
        }
    }

    /// A checkpoint that fails loses nothing: the log keeps what it has, and the next one tries again.
    fn checkpoint(&mut self) {
        match self.wal("PRAGMA wal_checkpoint(PASSIVE)") {
            Ok((log, done)) => self.wal.tried_at = if done < log { log } else { 0 },
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the checkpoint failed");
            }
        }
    }

    /// Pages in the log, and how many of them are in the database file already.
    fn wal(&self, pragma: &str) -> rusqlite::Result<(i64, i64)> {
        self.connection.prepare_cached(pragma)?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
    }

    fn fail(self, problem: String) {
        tracing::error!(
            path = %self.path.display(),
            problem,
            "the store cannot write and accepts nothing more"
        );
        let _first = self.end.set(End::Failed(problem));
    }

    fn close(mut self, reply: Option<CloseReply>) {
        self.checkpoint();
        let closed = self.connection.close().map_err(|(_, error)| error.to_string());
        drop(self.lock);
        let end = match &closed {
            Ok(()) => End::Closed,
            Err(problem) => End::Failed(problem.clone()),
        };
        let _first = self.end.set(end);
        if let Some(reply) = reply {
            drop(reply.send(closed.map_err(|problem| unavailable(&self.path, problem))));
        }
    }
}

/// Everything that is queued, up to the limits of a batch; and the request to close, if it is next.
fn gather(
    first: Box<dyn Task>,
    requests: &Receiver<Message>,
) -> (Vec<Box<dyn Task>>, Option<CloseReply>) {
    let mut size_bytes = first.size_bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH_REQUESTS && size_bytes < BATCH_BYTES {
        match requests.try_recv() {
            Ok(Message::Write(task)) => {
                size_bytes = size_bytes.saturating_add(task.size_bytes());
                batch.push(task);
            }
            Ok(Message::Close(reply)) => return (batch, Some(reply)),
            Err(_) => break,
        }
    }
    (batch, None)
}
