//! Rows to values and back.

use bytes::Bytes;
use rusqlite::{Row, types::Type};

use crate::{Checkpoint, Disposition, RunHead, RunId, StoreError, StoredEvent, Timestamp};

/// The columns of a run that [`head`] reads, in its order.
pub(super) const HEAD: &str = "public_id, tenant, agent, state, disposition, wake_at, priority, \
                               epoch, owner, head_seq, created_at, updated_at, summary";

pub(super) const READY: i64 = 0;
pub(super) const HELD: i64 = 1;
pub(super) const PARKED: i64 = 2;
pub(super) const ENDED: i64 = 3;

pub(super) fn head(row: &Row<'_>) -> rusqlite::Result<RunHead> {
    Ok(RunHead {
        id: RunId::from_bytes(row.get(0)?),
        tenant: row.get(1)?,
        agent: row.get(2)?,
        state: row.get(3)?,
        disposition: disposition(row, 4, 5)?,
        priority: row.get(6)?,
        epoch: unsigned(row, 7)?,
        owner: row.get::<_, Option<String>>(8)?.map(Into::into),
        head_seq: unsigned(row, 9)?,
        created_at: Timestamp(row.get(10)?),
        updated_at: Timestamp(row.get(11)?),
        summary: body(row, 12)?,
    })
}

/// Reads `seq, at, kind, version, body`.
pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        seq: unsigned(row, 0)?,
        at: Timestamp(row.get(1)?),
        kind: row.get(2)?,
        version: row.get(3)?,
        body: body(row, 4)?,
    })
}

/// Reads `seq, at, body`.
pub(super) fn checkpoint(row: &Row<'_>) -> rusqlite::Result<Checkpoint> {
    Ok(Checkpoint {
        seq: unsigned(row, 0)?,
        at: Timestamp(row.get(1)?),
        body: body(row, 2)?,
    })
}

pub(super) fn body(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    let bytes = row.get_ref(column)?.as_blob();
    let wrong = |_| rusqlite::Error::InvalidColumnType(column, "body".to_owned(), Type::Blob);
    bytes.map(Bytes::copy_from_slice).map_err(wrong)
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// As SQLite keeps it. Numbers beyond its range do not occur in a log; as a cursor or a limit they
/// mean "beyond everything", and so does the largest one.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn disposition(row: &Row<'_>, code: usize, wake_at: usize) -> rusqlite::Result<Disposition> {
    match row.get(code)? {
        READY => Ok(Disposition::Ready),
        HELD => Ok(Disposition::Held),
        PARKED => {
            Ok(Disposition::Parked { wake_at: row.get::<_, Option<i64>>(wake_at)?.map(Timestamp) })
        }
        ENDED => Ok(Disposition::Ended),
        unknown => Err(rusqlite::Error::IntegralValueOutOfRange(code, unknown)),
    }
}

/// A disposition's code and wake-up time.
pub(super) fn encode(disposition: Disposition) -> (i64, Option<i64>) {
    match disposition {
        Disposition::Ready => (READY, None),
        Disposition::Held => (HELD, None),
        Disposition::Parked { wake_at } => (PARKED, wake_at.map(|at| at.0)),
        Disposition::Ended => (ENDED, None),
    }
}

/// What an error of SQLite means to a caller.
pub(super) fn explain(place: &str, error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    let place = place.to_owned();
    let problem = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            let problem = format!("{error}; restore the file from a backup");
            return StoreError::Damaged { what: "a page", place, problem };
        }
        None if is_about_a_value(error) => {
            let problem = format!("{error}; restore the file from a backup");
            return StoreError::Damaged { what: "a row", place, problem };
        }
        Some(ErrorCode::DiskFull) => format!("{error}; make room, then open the store again"),
        _ => error.to_string(),
    };
    StoreError::Unavailable { place, problem }
}

/// Whether one stored value is at fault, and not the medium.
pub(super) fn is_about_a_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)
    )
}
