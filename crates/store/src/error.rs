//! What can go wrong with a store: what failed, where, and what to do.

use std::path::PathBuf;

use crate::{BlobHash, NodeId, RunId};

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The run has another owner now. The caller must stop executing it.
    #[error(
        "run {run} is no longer this caller's: epoch {held} was held, epoch {current} is in force"
    )]
    Fenced {
        /// The run.
        run: RunId,
        /// The epoch that the caller holds.
        held: u64,
        /// The epoch in force.
        current: u64,
    },
    /// The log has grown since the caller read it.
    #[error("run {run} has {actual} events where {expected} were expected: read its log again")]
    Conflict {
        /// The run.
        run: RunId,
        /// What the caller expected.
        expected: u64,
        /// What is there.
        actual: u64,
    },
    /// There is no such run.
    #[error("there is no run {run} in this store")]
    NotFound {
        /// The run.
        run: RunId,
    },
    /// The id is taken.
    #[error("run {run} exists already")]
    Exists {
        /// The run.
        run: RunId,
    },
    /// The node's lease has expired, or it never had one.
    #[error("node {node} holds no lease: its runs may have been taken over")]
    NodeLost {
        /// The node.
        node: NodeId,
    },
    /// A value is larger than the store keeps.
    #[error("{what} of run {run} is {size_bytes} bytes, and the limit is {limit_bytes}")]
    TooLarge {
        /// The run.
        run: RunId,
        /// Which value.
        what: &'static str,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// A stored blob does not have the hash it is stored under.
    #[error("blob {hash} is damaged: its bytes have another hash; restore it from a backup")]
    Corrupt {
        /// The hash.
        hash: BlobHash,
    },
    /// A stored value cannot be read.
    #[error("{what} in {place} cannot be read: {problem}")]
    Damaged {
        /// Which value.
        what: &'static str,
        /// In which store.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another process has the store open.
    #[error(
        "{path} is in use by another process{}: stop it first, or talk to it with `--server`",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The store's file.
        path: PathBuf,
        /// The other process, if it left its id.
        pid: Option<u32>,
    },
    /// The store was written by a newer release.
    #[error(
        "{place} has schema version {found} and this release knows versions up to {known}: use the \
         release that wrote it, or a newer one"
    )]
    Newer {
        /// The store: its file, or where its tables are.
        place: String,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The store that an archive was to be taken into holds something.
    #[error(
        "{place} holds runs, facts, keys or accounts already: an archive is imported into an empty store"
    )]
    Occupied {
        /// Which store.
        place: String,
    },
    /// The file, or the schema of the database, is there and is not a store.
    #[error("{place} is not a Steadfast store: {problem}")]
    NotAStore {
        /// The file, or where the tables are.
        place: String,
        /// Why.
        problem: String,
    },
    /// The linked SQLite has a defect that can corrupt the file.
    #[error("SQLite {found} can corrupt a WAL database; version {required} or newer is needed")]
    UnsafeEngine {
        /// The version linked.
        found: String,
        /// The oldest version without the defect.
        required: &'static str,
    },
    /// The caller broke the contract of a method.
    #[error("refused: {problem}")]
    Misuse {
        /// What is wrong.
        problem: &'static str,
    },
    /// The medium failed, or the store is closed. A write that got this answer may or may not have
    /// happened.
    #[error("{place} is unavailable: {problem}")]
    Unavailable {
        /// Which store.
        place: String,
        /// What happened.
        problem: String,
    },
}

/// What the place of a store in a database begins with.
pub(crate) const DATABASE: &str = "PostgreSQL";

impl StoreError {
    /// Whether it is a database that cannot be reached, or does not do what it is asked. A store in one
    /// comes back by itself once it can; one in a file has to be mended and opened again.
    #[must_use]
    pub fn is_database_away(&self) -> bool {
        matches!(self, Self::Unavailable { place, .. } if place.starts_with(DATABASE))
    }
}
