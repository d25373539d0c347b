//! Looking at a store that another process may have open, and copying it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::writer::Handle;
use super::{Readers, SqliteStore, open, unavailable};
use crate::StoreError;
use crate::clock::Clock;

impl SqliteStore {
    /// Opens a store for looking at it as it is at this moment, also while another process has it open:
    /// every read sees the same state, and every write is refused. While it is open, the other process
    /// cannot tidy the store's log away. Blocks.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`], [`StoreError::Newer`], [`StoreError::Damaged`];
    /// [`StoreError::Unavailable`] if there is no such file, if it cannot be read, or if an older release
    /// wrote it and it has not been brought up to date.
    pub fn inspect(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let connection = open::snapshot(&path)?;
        let id = connection
            .query_row("SELECT value FROM meta WHERE name = 'store_id'", [], |row| row.get(0))
            .map_err(|error| open::at_open(&path, &error))?;
        let free = Mutex::new(vec![connection]);
        let readers = Arc::new(Readers { free, count: 1, places: Semaphore::new(1) });
        let writer = Handle::none(path.clone());
        Ok(Self { id, path, clock: Clock::start(), readers, remembered: Arc::default(), writer })
    }

    /// Copies the store at `from`, as it is when the copy begins, into a new file at `to`, also while
    /// another process writes to it: nobody waits. Once it has returned, the copy is whole, checked and on
    /// disk; a crash leaves at most a file `TO.partial`, which the next copy replaces. The copy has no
    /// free pages and is of the same version as the store; it may be older than this release. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if `to` exists, if it cannot be written, or if another copy to it is
    /// under way; [`StoreError::Damaged`] if the copy is not whole, which means that the store is not;
    /// otherwise as [`SqliteStore::inspect`].
    pub fn back_up(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), StoreError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let connection = open::foreign(from)?;
        refuse_existing(to)?;
        let partial = open::beside(to, ".partial");
        open::create(&partial)?;
        let copy = hold(&partial)?;
        copy.set_len(0).map_err(|error| unavailable(&partial, error.to_string()))?;
        let text = partial.to_str().ok_or_else(|| {
            unavailable(to, "its path is not UTF-8: choose another path".to_owned())
        })?;
        connection
            .execute("VACUUM INTO ?1", [text])
            .map_err(|error| open::at_open(from, &error))?;
        check(&partial, from)?;
        copy.sync_all().map_err(|error| unavailable(&partial, error.to_string()))?;
        refuse_existing(to)?;
        std::fs::rename(&partial, to).map_err(|error| unavailable(to, error.to_string()))?;
        open::sync_directory(to)
    }
}

fn refuse_existing(to: &Path) -> Result<(), StoreError> {
    if to.symlink_metadata().is_ok() {
        let problem = "it is there already and is not written over: choose another path";
        return Err(unavailable(to, problem.to_owned()));
    }
    Ok(())
}

/// Keeps a second copy to the same place out for as long as the file stays open.
fn hold(partial: &PathBuf) -> Result<File, StoreError> {
    let opened = File::options().read(true).write(true).open(partial);
    let file = opened.map_err(|error| unavailable(partial, error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let problem = "another backup to it is under way: wait for it, or choose another path";
            Err(unavailable(partial, problem.to_owned()))
        }
        Err(TryLockError::Error(error)) => Err(unavailable(partial, error.to_string())),
    }
}

/// Whether a copy is whole.
fn check(copy: &Path, from: &Path) -> Result<(), StoreError> {
    let said = Connection::open(copy).and_then(|connection| {
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
    });
    let problem = match said {
        Ok(said) if said == "ok" => return Ok(()),
        Ok(said) => said,
        Err(error) => error.to_string(),
    };
    Err(StoreError::Damaged {
        what: "the copy",
        place: copy.display().to_string(),
        problem: format!("{problem}; run `steadfast store check` on {}", from.display()),
    })
}
