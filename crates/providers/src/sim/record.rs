//! What the simulated provider was asked.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::SimError;

/// More records than this are not kept in memory; the oldest go first. The journal keeps all.
pub const MAX_RECORDS: usize = 10_000;

/// One request, as it came and as it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Counts the requests from 1, in order of arrival, since the server was made.
    pub number: u64,
    /// The path that was asked, such as `/v1/chat/completions`.
    pub path: String,
    /// The model that was asked for.
    pub model: String,
    /// The `idempotency-key` header.
    pub idempotency_key: Option<String>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// How many messages the conversation has.
    pub messages: usize,
    /// The step that answers it.
    pub step: Option<String>,
    /// The kind of fault that strikes it.
    pub fault: Option<String>,
    /// Why it gets no answer from the script.
    pub problem: Option<String>,
}

/// The records, in memory and in the journal.
#[derive(Debug)]
pub(super) struct Records {
    kept: VecDeque<Record>,
    count: u64,
    journal: Option<(PathBuf, File)>,
}

impl Records {
    pub(super) fn open(journal: Option<&Path>) -> Result<Self, SimError> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let file =
                file.map_err(|source| SimError::Journal { path: path.to_owned(), source })?;
            Ok((path.to_owned(), file))
        };
        let journal = journal.map(open).transpose()?;
        Ok(Self { kept: VecDeque::new(), count: 0, journal })
    }

    /// The number of the next request.
    pub(super) fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = &Record> {
        self.kept.iter()
    }

    /// Keeps a record. Once it has returned, the line is with the operating system: it outlives this
    /// process, not a loss of power.
    pub(super) fn keep(&mut self, record: Record) -> io::Result<()> {
        if let Some((_, file)) = &mut self.journal {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            // One write, so that lines stay whole when several processes append.
            file.write_all(&line)?;
        }
        if self.kept.len() == MAX_RECORDS {
            self.kept.pop_front();
        }
        self.kept.push_back(record);
        Ok(())
    }
}
