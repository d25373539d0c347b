//! Facts: values by name that outlive the run that found them (SCOPE C13).

use std::time::Duration;

use bytes::Bytes;

use crate::Timestamp;

/// Largest value of a fact, in bytes (256 KiB).
pub const FACT_BYTES_MAX: usize = 256 * 1024;

/// Names a fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactName {
    /// Within what the key is unique: whose fact it is.
    pub scope: String,
    /// The key.
    pub key: String,
}

/// Makes a fact true, or forgets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactWrite {
    /// The fact.
    pub name: FactName,
    /// Its value, opaque here; `None` forgets it.
    pub value: Option<Bytes>,
    /// For how long it holds; `None` for ever.
    pub keep: Option<Duration>,
}

/// A fact as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// 1 when it was first written; each later write adds one.
    pub version: u64,
    /// When it was last written.
    pub at: Timestamp,
    /// When it ends to hold, if it does.
    pub expires_at: Option<Timestamp>,
}

/// Which facts of a scope a list shows.
#[derive(Clone, Debug, Default)]
pub struct FactFilter {
    /// The scope.
    pub scope: String,
    /// Only keys that begin so.
    pub prefix: String,
    /// Only keys after this one: the cursor that the page before ended with.
    pub after: Option<String>,
    /// Rows on a page; 0 means 100, and more than 1000 means 1000.
    pub limit: usize,
}

impl FactFilter {
    /// Rows on a page, with the default and the limit applied.
    pub(crate) fn page_size(&self) -> usize {
        match self.limit {
            0 => 100,
            limit => limit.min(1000),
        }
    }
}
