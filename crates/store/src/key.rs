//! Operations that are to be done once: how one is claimed, how it stands, how it ends.

use std::time::Duration;

use bytes::Bytes;

use crate::{BlobHash, NodeId, Timestamp};

/// Names an operation that is to be done once (SCOPE R11).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// Within what the key is unique: whose it is and what it is for.
    pub scope: String,
    /// The key.
    pub key: String,
}

/// Asks for the right to do an operation.
#[derive(Clone, Debug)]
pub struct KeyClaim {
    /// The operation.
    pub name: KeyName,
    /// The hash of what it is done with: the same key with anything else is a conflict.
    pub digest: BlobHash,
    /// Who asks. The same owner may claim again what it has claimed before, as after a crash.
    pub owner: String,
    /// The node that it asks on.
    pub node: NodeId,
    /// Takes the claim over from this owner, if it is still this owner's: for an operation that may be
    /// repeated, once that owner is known to be gone.
    pub seize: Option<String>,
}

/// How an operation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    /// It is the caller's to do, and to settle.
    Claimed,
    /// Somebody else does it, or did when they were last heard of.
    InFlight {
        /// Who.
        owner: String,
        /// Since when.
        since: Timestamp,
        /// Whether the node that it was claimed on holds a lease.
        alive: bool,
    },
    /// It has been done.
    Settled {
        /// The recorded answer.
        answer: Bytes,
        /// When it was recorded.
        at: Timestamp,
    },
    /// The key was used for something else.
    Conflict {
        /// When it was first used.
        since: Timestamp,
    },
}

/// The end of an operation. It counts only if the operation is still its owner's.
#[derive(Clone, Debug)]
pub struct KeySettlement {
    /// The operation.
    pub name: KeyName,
    /// Who did it.
    pub owner: String,
    /// How it ended.
    pub end: KeyEnd,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyEnd {
    /// For good: this is the answer to every later claim.
    Recorded {
        /// The answer, opaque here.
        answer: Bytes,
        /// For how long it is kept; afterwards the key is free again.
        keep: Duration,
    },
    /// Without effect: the key is free again.
    Released,
}
