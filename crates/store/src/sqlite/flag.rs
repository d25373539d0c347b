//! What is wrong with a run, inside the writer's transaction.

use rusqlite::{Connection, params};

use super::writer::{Failure, Write};
use crate::{RunId, StoreError, Timestamp};

pub(super) struct Flag {
    pub(super) run: RunId,
    pub(super) problem: Option<String>,
}

impl Write for Flag {
    type Answer = ();

    fn write(self, connection: &Connection, _: Timestamp) -> Result<(), Failure> {
        let found = connection
            .prepare_cached("UPDATE run SET problem = ?2 WHERE id = ?1")?
            .execute(params![self.run.as_bytes(), self.problem])?;
        if found == 0 {
            return Err(Failure::Refused(StoreError::NotFound { run: self.run }));
        }
        Ok(())
    }
}
