//! From a path to an open store: nothing is touched before it is known to be ours, and nobody else's
//! at the moment.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{row, schema};
use crate::StoreError;

/// The first version without the defect of 3.7.0 to 3.51.2 by which two connections that write and
/// checkpoint at once can corrupt a WAL database (fixed in 3.51.3, 13 March 2026).
const ENGINE_REQUIRED: (i32, &str) = (3_051_003, "3.51.3");

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pages that the writer keeps in memory, in KiB; negative, as SQLite wants it.
const WRITER_CACHE_KIB: i64 = -32 * 1024;

pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) lock: File,
    pub(super) store_id: String,
    pub(super) path: PathBuf,
}

pub(super) fn check_engine(number: i32, found: &str) -> Result<(), StoreError> {
    let (oldest, required) = ENGINE_REQUIRED;
    if number < oldest {
        return Err(StoreError::UnsafeEngine { found: found.to_owned(), required });
    }
    Ok(())
}

pub(super) fn place(path: &Path) -> String {
    format!("the store {}", path.display())
}

/// Opens the file for writing, made and led to the newest schema if need be.
pub(super) fn open(path: &Path) -> Result<Opened, StoreError> {
    check_engine(rusqlite::version_number(), rusqlite::version())?;
    let path = absolute(path)?;
    let lock = lock(&path)?;
    let is_new = create(&path)?;
    let mut conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .map_err(|error| foreign(&path, &error))?;
    let version = recognise(&path, &conn)?;
    let prepared = prepare(&mut conn, version).map_err(|error| foreign(&path, &error));
    let store_id = prepared?;
    if is_new {
        sync_directory(&path)?;
    }
    Ok(Opened { writer: conn, lock, store_id, path })
}

/// One more connection, which cannot write.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| foreign(path, &error))
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "mmap_size", 0)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// The schema version of a file that is ours or empty.
fn recognise(path: &Path, conn: &Connection) -> Result<i64, StoreError> {
    let look = || -> rusqlite::Result<(i64, i64, i64)> {
        let number = |sql| conn.query_row(sql, [], |row| row.get(0));
        Ok((
            number("PRAGMA application_id")?,
            number("PRAGMA user_version")?,
            number("SELECT count(*) FROM sqlite_schema")?,
        ))
    };
    let (application, version, tables) = look().map_err(|error| foreign(path, &error))?;
    let path = || path.to_owned();
    match (application, version, tables) {
        (0, 0, 0) => Ok(0),
        (schema::APPLICATION_ID, version, _) if version > schema::NEWEST => {
            Err(StoreError::Newer { path: path(), found: version, known: schema::NEWEST })
        }
        (schema::APPLICATION_ID, version, _) if version >= 0 => Ok(version),
        _ => Err(StoreError::NotAStore {
            path: path(),
            problem: "it is a database of another program; choose another path".to_owned(),
        }),
    }
}

/// Settings, schema, and the nodes of earlier processes forgotten; the store's id.
fn prepare(conn: &mut Connection, version: i64) -> rusqlite::Result<String> {
    if conn.is_readonly(rusqlite::MAIN_DB)? {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
        return Err(rusqlite::Error::SqliteFailure(code, None));
    }
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "fullfsync", true)?;
    conn.pragma_update(None, "checkpoint_fullfsync", true)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
    schema::migrate(conn, version)?;
    // The process lock proves that no other node lives: what they held may be claimed at once.
    conn.execute("DELETE FROM node", [])?;
    conn.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))
}

/// What an error while opening means: then a damaged first page is a file that is not a store.
fn foreign(path: &Path, error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::NotAStore {
            path: path.to_owned(),
            problem: "it is not a database; choose another path".to_owned(),
        },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            let problem =
                format!("{error}; this user needs to read and write the file and its directory");
            StoreError::Unavailable { place: place(path), problem }
        }
        _ => row::explain(&place(path), error),
    }
}

/// A relative path would mean another file once the process changes its directory.
fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|error| denied(path, &error))
}

/// Makes an empty file, for its owner alone, if there is none.
fn create(path: &Path) -> Result<bool, StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    restrict(&mut options);
    match options.open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(denied(path, &error)),
    }
}

/// A file that did not exist survives a crash of the machine only once its directory has been synced.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|file| file.sync_all()).map_err(|error| denied(path, &error))
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = OsString::from(path.as_os_str());
    name.push("-lock");
    let name = PathBuf::from(name);
    if path.is_dir() {
        let problem = "it is a directory; name a file in it".to_owned();
        return Err(StoreError::NotAStore { path: path.to_owned(), problem });
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    restrict(&mut options);
    let mut file = options.open(&name).map_err(|error| denied(path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let pid = file.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
            return Err(StoreError::InUse { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(denied(&name, &error)),
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(|error| denied(&name, &error))?;
    Ok(file)
}

fn denied(path: &Path, error: &io::Error) -> StoreError {
    let directory = path.parent().unwrap_or(path);
    let remedy = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => "create its directory first",
        Ok(directory) if directory.is_dir() => {
            "this user needs to read and write the file and its directory"
        }
        Ok(_) | Err(_) => "its directory cannot be used; choose another path",
    };
    StoreError::Unavailable { place: place(path), problem: format!("{error}; {remedy}") }
}

/// Conversations are nobody else's business.
#[cfg(unix)]
fn restrict(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn restrict(_: &mut OpenOptions) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_can_corrupt_a_wal_is_refused() {
        for (number, version) in [(3_050_002, "3.50.2"), (3_051_002, "3.51.2")] {
            let refused = check_engine(number, version);
            assert!(
                matches!(&refused, Err(StoreError::UnsafeEngine { found, required: "3.51.3" })
                    if found == version),
                "{refused:?}"
            );
        }
        assert!(check_engine(3_051_003, "3.51.3").is_ok());
        assert!(check_engine(rusqlite::version_number(), rusqlite::version()).is_ok());
    }
}
