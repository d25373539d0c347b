//! Opening the file: is it ours, is it whole, is it free, and is the engine fit to write it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema::{self, APPLICATION_ID, VERSION};
use super::writer::with_remedy;
use super::{SqliteOptions, unavailable};
use crate::StoreError;

/// Versions before this one can lose committed pages when a WAL is reset while another connection
/// checkpoints it (sqlite.org/wal.html, "the WAL-reset bug").
const ENGINE_REQUIRED: &str = "3.51.3";
const ENGINE_REQUIRED_NUMBER: i32 = 3_051_003;

/// How long a statement waits for a lock that a foreign tool holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENTS_CACHED: usize = 64;

/// A store's file, opened and brought up to date.
pub(super) struct Opened {
    pub(super) lock: File,
    pub(super) writer: Connection,
    pub(super) readers: Vec<Connection>,
    pub(super) id: String,
}

pub(super) fn open(path: &Path, options: &SqliteOptions) -> Result<Opened, StoreError> {
    check_engine(rusqlite::version_number(), rusqlite::version())?;
    check_place(path)?;
    let lock = lock(path)?;
    check_remains(path)?;
    check_header(path)?;
    let is_new = create(path)?;
    let (mut writer, found) = connect(path).map_err(|error| at_open(path, &error))?;
    if found.application_id != APPLICATION_ID && !found.is_empty() {
        let problem = "it is the SQLite database of another program; choose another path";
        return Err(not_a_store(path, problem));
    }
    if found.version > VERSION {
        let place = path.display().to_string();
        return Err(StoreError::Newer { place, found: found.version, known: VERSION });
    }
    let id = prepare(&mut writer, found.version, options).map_err(|error| at_open(path, &error))?;
    let readers = (0..options.readers.max(1))
        .map(|_| reader(path))
        .collect::<Result<_, _>>()
        .map_err(|error| at_open(path, &error))?;
    if is_new {
        sync_directory(path)?;
    }
    Ok(Opened { lock, writer, readers, id })
}

/// Refuses an engine with the WAL-reset defect. `number` is SQLite's version as one number.
pub(super) fn check_engine(number: i32, name: &str) -> Result<(), StoreError> {
    if number < ENGINE_REQUIRED_NUMBER {
        let found = name.to_owned();
        return Err(StoreError::UnsafeEngine { found, required: ENGINE_REQUIRED });
    }
    Ok(())
}

fn check_place(path: &Path) -> Result<(), StoreError> {
    let directory = directory(path);
    let problem = match directory.metadata() {
        Ok(found) if !found.is_dir() => "is not a directory: choose another path".to_owned(),
        Ok(_) if path.is_dir() => {
            return Err(not_a_store(path, "it is a directory; name a file inside it"));
        }
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            "does not exist: create it, or choose another path".to_owned()
        }
        Err(error) => format!(
            "cannot be entered ({error}): give this user access to it, or choose another path"
        ),
    };
    Err(unavailable(path, format!("its directory {} {problem}", directory.display())))
}

/// What to do about a file that could not be used.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space and start again",
        // The directory was found: such a system keeps no files of others in it.
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound => {
            "give this user write permission to the file and its directory, or choose another path"
        }
        _ => "see the system's log, mend the cause and start again, or choose another path",
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes an empty file that only this user can read, if there is none; whether it did. SQLite gives
/// the files beside it the same permissions.
pub(super) fn create(path: &Path) -> Result<bool, StoreError> {
    let mut options = File::options();
    options.write(true).create_new(true);
    keep_private(&mut options);
    match options.open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => {
            let remedy = remedy(&error);
            Err(unavailable(path, format!("it cannot be created ({error}): {remedy}")))
        }
    }
}

/// Prompts and answers are nobody else's business.
#[cfg(unix)]
fn keep_private(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn keep_private(_: &mut OpenOptions) {}

/// A new file outlives a crash of the machine only once its directory has been synced too.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = directory(path);
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(|error| {
        let (directory, remedy) = (directory.display(), remedy(&error));
        let problem = format!("its directory {directory} cannot be synced ({error}): {remedy}");
        unavailable(path, problem)
    })
}

/// The file that a path leads to.
fn followed(path: &Path) -> PathBuf {
    let link = path.is_symlink().then(|| path.canonicalize().ok()).flatten();
    link.unwrap_or_else(|| path.to_owned())
}

/// Takes the lock that keeps a second process out, for as long as the file stays open. It stands beside the
/// file itself: whoever comes by a link meets it, too.
fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = beside(&followed(path), "-lock");
    let refused = |error: std::io::Error| {
        let (lock_path, remedy) = (lock_path.display(), remedy(&error));
        let problem = format!("its lock file {lock_path} cannot be written ({error}): {remedy}");
        unavailable(path, problem)
    };
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&lock_path)
        .map_err(refused)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StoreError::InUse { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(refused(error)),
    }
    file.set_len(0).map_err(refused)?;
    writeln!(file, "{}", std::process::id()).map_err(refused)?;
    Ok(file)
}

/// SQLite takes an empty database file as new and drops the log beside it. Ours is never empty once
/// it has a log, so such a log is all that is left of a store.
fn check_remains(path: &Path) -> Result<(), StoreError> {
    let length = |path: &Path| path.metadata().map_or(0, |found| found.len());
    if length(path) == 0 && length(&beside(&followed(path), "-wal")) > 0 {
        return Err(StoreError::Damaged {
            what: "the database file",
            place: path.display().to_string(),
            problem: "it is empty or missing while its write-ahead log is there; restore it from \
                      a backup"
                .to_owned(),
        });
    }
    Ok(())
}

/// SQLite takes a file that is shorter than a page for an empty database and would write over it.
fn check_header(path: &Path) -> Result<(), StoreError> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let length = path.metadata().map_or(0, |found| found.len());
    // A journal is what a crash while the store was made leaves: SQLite undoes it.
    if length == 0 || beside(path, "-journal").exists() {
        return Ok(());
    }
    let mut header = [0; 18];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Ok(()) if !header.starts_with(MAGIC) => {
            Err(not_a_store(path, "it is not a SQLite database; choose another path"))
        }
        Ok(()) => {
            // Bytes 16 and 17 are the page size; 1 stands for 65536 (sqlite.org/fileformat.html).
            let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
                1 => 65_536,
                size => u64::from(size),
            };
            if length < page_bytes {
                return Err(StoreError::Damaged {
                    what: "the database file",
                    place: path.display().to_string(),
                    problem: format!("it was cut to {length} bytes; restore it from a backup"),
                });
            }
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(not_a_store(path, "it is not a SQLite database; choose another path"))
        }
        Err(error) => {
            let remedy = remedy(&error);
            Err(unavailable(path, format!("it cannot be read ({error}): {remedy}")))
        }
    }
}

struct Found {
    application_id: i64,
    version: i64,
    tables: i64,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.application_id == 0 && self.version == 0 && self.tables == 0
    }
}

fn connect(path: &Path) -> rusqlite::Result<(Connection, Found)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    let found = Found {
        application_id: pragma("application_id")?,
        version: pragma("user_version")?,
        tables: connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
    };
    Ok((connection, found))
}

/// Migrates, sets the connection up, and frees the runs of nodes that are no more; the store's id.
fn prepare(
    connection: &mut Connection,
    found: i64,
    options: &SqliteOptions,
) -> rusqlite::Result<String> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // Before the WAL: a new store's mark is in the file itself before there is a log beside it.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    schema::migrate(connection, found)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "this file system supports no write-ahead log (journal mode {mode})"
        )));
    }
    let limit = i64::try_from(options.checkpoint_wal_bytes.saturating_mul(2)).unwrap_or(i64::MAX);
    connection.pragma_update_and_check(None, "journal_size_limit", limit, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -65_536)?;
    // The process lock proves that no node of an earlier process lives.
    connection.execute("DELETE FROM node", [])?;
    connection.query_row("SELECT value FROM meta WHERE name = 'store_id'", [], |row| row.get(0))
}

fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.query_row("SELECT count(*) FROM meta", [], |_| Ok(()))?;
    Ok(connection)
}

/// A connection that sees the store as it is now for as long as it lives, also while another process
/// writes to it. It takes no lock and changes nothing.
pub(super) fn snapshot(path: &Path) -> Result<Connection, StoreError> {
    let connection = foreign(path)?;
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| at_open(path, &error))?;
    if version < VERSION {
        let problem = format!(
            "it has schema version {version}, which is only read after it has been brought to version \
             {VERSION}: make a backup, then start `steadfast serve` on it once"
        );
        return Err(unavailable(path, problem));
    }
    connection
        .execute_batch("BEGIN; SELECT count(*) FROM meta;")
        .map_err(|error| at_open(path, &error))?;
    Ok(connection)
}

/// A connection that only reads, to a store of this version or an older one that anybody may have open.
pub(super) fn foreign(path: &Path) -> Result<Connection, StoreError> {
    check_engine(rusqlite::version_number(), rusqlite::version())?;
    check_place(path)?;
    if !path.exists() {
        return Err(unavailable(path, "there is no such file: name a store".to_owned()));
    }
    check_remains(path)?;
    check_header(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
        let (mark, version): (i64, i64) = (pragma("application_id")?, pragma("user_version")?);
        Ok((connection, mark, version))
    });
    let (connection, mark, version) = opened.map_err(|error| at_open(path, &error))?;
    if mark != APPLICATION_ID {
        return Err(not_a_store(path, "it is another SQLite database; name a store"));
    }
    if version > VERSION {
        let place = path.display().to_string();
        return Err(StoreError::Newer { place, found: version, known: VERSION });
    }
    Ok(connection)
}

/// A connection with a transaction that an empty store is filled in. The store is open, and nobody else
/// writes to it.
pub(super) fn filling(path: &Path) -> Result<Connection, StoreError> {
    let begin = || {
        let (connection, _) = connect(path)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(connection)
    };
    begin().map_err(|error| at_open(path, &error))
}

pub(super) fn at_open(path: &Path, error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            not_a_store(path, "it is not a SQLite database; choose another path")
        }
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged {
            what: "the database file",
            place: path.display().to_string(),
            problem: with_remedy(error),
        },
        None if matches!(error, rusqlite::Error::InvalidParameterName(_)) => {
            unavailable(path, error.to_string())
        }
        // A statement or a row that does not fit: the tables are not those of the version in the header.
        Some(ErrorCode::Unknown) | None => {
            let reason = match error {
                rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
                other => other.to_string(),
            };
            StoreError::Damaged {
                what: "the database file",
                place: path.display().to_string(),
                problem: format!(
                    "its tables are not those of its version ({reason}); restore it from a backup"
                ),
            }
        }
        _ => unavailable(path, with_remedy(error)),
    }
}

fn not_a_store(path: &Path, problem: &str) -> StoreError {
    StoreError::NotAStore { place: path.display().to_string(), problem: problem.to_owned() }
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_with_the_wal_reset_defect_is_refused() {
        assert!(check_engine(3_051_003, "3.51.3").is_ok());
        assert!(check_engine(3_054_001, "3.54.1").is_ok());
        assert!(matches!(
            check_engine(3_051_002, "3.51.2"),
            Err(StoreError::UnsafeEngine { found, required: "3.51.3" }) if found == "3.51.2"
        ));
        assert!(check_engine(3_050_099, "3.50.99").is_err());
    }
}
