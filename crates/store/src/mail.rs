//! Letters to runs: what somebody who does not hold a run has to say to it. A signal, the end of a
//! child, the wish that it pause.
//!
//! A letter waits beside the log, so that sending one never contends with the owner's appends. The
//! owner takes it up by an append that carries what came of it; letter and events are settled in one
//! transaction.

use bytes::Bytes;

use crate::{RunId, Timestamp};

/// Largest body of a letter, in bytes (1 MiB).
pub const MAIL_BYTES_MAX: usize = 1024 * 1024;

/// Letters that may wait for one run.
pub const MAIL_WAITING_MAX: usize = 10_000;

/// A letter to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The run.
    pub to: RunId,
    /// Names the letter among all that the run ever gets: sent again, it is not kept again.
    pub id: String,
    /// What kind of letter; a stable word.
    pub kind: String,
    /// What it says, opaque here.
    pub body: Bytes,
}

/// A letter that waits for its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number, by which it is taken. Later letters to the same run have larger ones.
    pub number: i64,
    /// Its name.
    pub id: String,
    /// What kind of letter.
    pub kind: String,
    /// What it says.
    pub body: Bytes,
    /// When it was sent.
    pub at: Timestamp,
}

/// What sending did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The letter waits, on disk; a parked run has become ready with it.
    Kept,
    /// A letter of this name was sent before.
    Known,
    /// The run is over; nothing was kept.
    Ended,
}
