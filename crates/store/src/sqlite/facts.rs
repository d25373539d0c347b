//! Facts, inside the writer's transaction.

use rusqlite::{Connection, params};

use super::writer::{Failure, Write};
use crate::clock::millis;
use crate::{FactWrite, Timestamp};

pub(super) struct WriteFacts(pub(super) Vec<FactWrite>);

impl Write for WriteFacts {
    type Answer = ();

    fn size_bytes(&self) -> usize {
        self.0.iter().filter_map(|fact| fact.value.as_ref()).map(bytes::Bytes::len).sum()
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<(), Failure> {
        Ok(write(connection, &self.0, at)?)
    }
}

pub(super) fn write(
    connection: &Connection,
    facts: &[FactWrite],
    at: Timestamp,
) -> rusqlite::Result<()> {
    for FactWrite { name, value, keep } in facts {
        // One that no longer holds is gone: what is written in its place is a new one.
        connection
            .prepare_cached(
                "DELETE FROM fact WHERE scope = ?1 AND key = ?2 AND (?3 OR expires_at <= ?4)",
            )?
            .execute(params![name.scope, name.key, value.is_none(), at.0])?;
        let Some(value) = value else { continue };
        let expires_at = keep.map(|keep| at.0.saturating_add(millis(Some(keep))));
        connection
            .prepare_cached(
                "INSERT INTO fact (scope, key, value, version, at, expires_at) \
                 VALUES (?1, ?2, ?3, 1, ?4, ?5) ON CONFLICT (scope, key) DO UPDATE SET \
                 value = excluded.value, version = version + 1, at = excluded.at, \
                 expires_at = excluded.expires_at",
            )?
            .execute(params![name.scope, name.key, value.as_ref(), at.0, expires_at])?;
    }
    Ok(())
}

pub(super) struct Purge {
    pub(super) limit: usize,
}

impl Write for Purge {
    type Answer = usize;

    fn write(self, connection: &Connection, at: Timestamp) -> Result<usize, Failure> {
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let purged = connection
            .prepare_cached(
                "DELETE FROM fact WHERE rowid IN (SELECT rowid FROM fact \
                 WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            )?
            .execute(params![at.0, limit])?;
        Ok(purged)
    }
}
