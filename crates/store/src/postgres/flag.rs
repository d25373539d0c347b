//! What is wrong with a run.

use tokio_postgres::Row;

use super::link::{Failure, Link, step};
use super::schema;
use super::task::{Write, Written};
use crate::{RunId, StoreError};

const FLAG: &str = "UPDATE run SET problem = $2 WHERE id = $1 RETURNING run";

pub(super) struct Flag {
    pub(super) run: RunId,
    pub(super) problem: Option<String>,
}

impl Write for Flag {
    type Answer = ();

    const STATEMENTS: &'static [&'static str] = &[FLAG];
    const REPEATABLE: bool = true;

    /// One at a time: rows are locked in the order of runs, and these are rare.
    fn place(&self) -> Option<[u8; 32]> {
        Some([0; 32])
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<()>, Failure> {
        link.begin([]).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for Self { run, problem } in batch {
            let found: [Vec<Row>; 1] =
                link.query([step(FLAG, &[&schema::uuid(*run), problem])]).await?;
            answers.push(match found[0].is_empty() {
                true => Err(StoreError::NotFound { run: *run }.into()),
                false => Ok(()),
            });
        }
        link.commit(&[]).await?;
        Ok(Written::quietly(answers))
    }
}
