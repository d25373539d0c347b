//! Letters to runs, inside the writer's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::schema;
use super::writer::{Failure, Write};
use crate::{Disposition, Mail, Sent, StoreError, Timestamp, rules, turns};

impl Write for Mail {
    type Answer = Sent;

    fn size_bytes(&self) -> usize {
        self.body.len()
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Sent, Failure> {
        send(connection, &self, at)
    }
}

/// Keeps a letter, and wakes its run if that is parked.
pub(super) fn send(connection: &Connection, mail: &Mail, at: Timestamp) -> Result<Sent, Failure> {
    let (run, disposition, priority) = connection
        .prepare_cached("SELECT run, priority, disposition, wake_at FROM run WHERE id = ?1")?
        .query_row([mail.to.as_bytes()], |row| {
            Ok((row.get::<_, i64>(0)?, schema::disposition(row, 2)?, row.get::<_, i32>(1)?))
        })
        .optional()?
        .ok_or(Failure::Refused(StoreError::NotFound { run: mail.to }))?;
    let is_known = connection
        .prepare_cached("SELECT 1 FROM letter WHERE run = ?1 AND id = ?2")?
        .exists(params![run, mail.id])?;
    let waiting = connection
        .prepare_cached("SELECT count(*) FROM letter WHERE run = ?1 AND taken = 0")?
        .query_row([run], |row| row.get(0))?;
    let sent = rules::admit_mail(disposition == Disposition::Ended, is_known, waiting)
        .map_err(Failure::Refused)?;
    if sent != Sent::Kept {
        return Ok(sent);
    }
    connection
        .prepare_cached(
            "INSERT INTO letter (run, id, kind, body, at, taken) VALUES (?1, ?2, ?3, ?4, ?5, 0)",
        )?
        .execute(params![run, mail.id, mail.kind, mail.body.as_ref(), at.0])?;
    if rules::disposition(disposition, true) != disposition {
        connection
            .prepare_cached(
                "UPDATE run SET disposition = 0, wake_at = NULL, rank = ?2, updated_at = ?3 \
                 WHERE run = ?1",
            )?
            .execute(params![run, turns::rank(at, priority), at.0])?;
    }
    Ok(sent)
}

/// Whether a letter waits for a run.
pub(super) fn waits(connection: &Connection, run: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM letter WHERE run = ?1 AND taken = 0 LIMIT 1")?
        .exists([run])
}

/// Letters have been taken up; their names stay known, so that none is sent twice.
pub(super) fn take(connection: &Connection, run: i64, numbers: &[i64]) -> rusqlite::Result<()> {
    for number in numbers {
        connection
            .prepare_cached(
                "UPDATE letter SET taken = 1, body = x'' WHERE number = ?1 AND run = ?2",
            )?
            .execute([*number, run])?;
    }
    Ok(())
}
