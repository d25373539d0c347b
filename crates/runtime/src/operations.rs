//! Operations that are done once, whoever asks and however often (SCOPE R11).
//!
//! Whoever wants to do one enters it first. There it is claimed, or joined while somebody else does it,
//! or answered from the record. An owner that is gone (its node holds no lease, or its run is over)
//! leaves an operation whose outcome nobody knows: an [`Effect::Idempotent`] one is then done again with
//! the same key, an [`Effect::Once`] one never.

use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use steadfast_guard::{Classify, Effect, ErrorClass};
use steadfast_store::{
    BlobHash, Disposition, KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding, NodeId, RunId,
    Store, StoreError, Timestamp,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

/// How often an operation that another node does is looked at; on this node its end is told.
const POLL: Duration = Duration::from_secs(1);

/// An operation that is to be done once.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What it is called: the same name is the same operation.
    pub name: KeyName,
    /// The hash of what it is done with: the same name with anything else is refused.
    pub digest: BlobHash,
    /// What it does outside.
    pub effect: Effect,
    /// For how long its answer is kept.
    pub keep: Duration,
    /// How long to wait, at most, while somebody else does it.
    pub deadline: Instant,
}

/// Why an operation was neither done nor answered from the record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The key was used for something else.
    #[error(
        "key `{key}` of {scope} was used before with another request: use another key, or send the \
         request as it was"
    )]
    Conflict {
        /// Within what the key is unique.
        scope: String,
        /// The key.
        key: String,
    },
    /// Somebody else does it, and did not end in time.
    #[error(
        "key `{key}` of {scope} is in use by {owner}, which has not ended yet: try again later"
    )]
    InFlight {
        /// Within what the key is unique.
        scope: String,
        /// The key.
        key: String,
        /// Who does it.
        owner: String,
    },
    /// It was begun, its end was never recorded, and it may not be done again unseen.
    #[error(
        "outcome unknown: {owner} began the operation with key `{key}` of {scope} and never reported \
         its end. Verify its effect, then use another key"
    )]
    OutcomeUnknown {
        /// Within what the key is unique.
        scope: String,
        /// The key.
        key: String,
        /// Who began it.
        owner: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The way in.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It is the caller's to do and to settle.
    Claimed,
    /// It has been done.
    Recorded { answer: Bytes, at: Timestamp },
}

/// What the parts of a runtime share of this.
pub(crate) struct Operations {
    store: Arc<dyn Store>,
    /// The node that claims are made on; a scheduler that has lost its lease takes a new name.
    node: Mutex<NodeId>,
    /// Rung when an operation of this node has been settled.
    bell: Notify,
    /// Settlements of operations whose callers have gone.
    late: TaskTracker,
}

impl Operations {
    pub(crate) fn new(store: Arc<dyn Store>, node: NodeId) -> Self {
        Self { store, node: Mutex::new(node), bell: Notify::new(), late: TaskTracker::new() }
    }

    pub(crate) fn set_node(&self, node: NodeId) {
        *self.node.lock() = node;
    }

    /// Says that an operation of this node has been settled, in an append.
    pub(crate) fn ring(&self) {
        self.bell.notify_waiters();
    }

    /// Waits for the settlements of callers that have gone.
    pub(crate) async fn drain(&self) {
        self.late.close();
        self.late.wait().await;
    }

    /// Claims an operation for `owner`, joins it while somebody else does it, or gives its recorded
    /// answer. Dropping the future before it has returned leaves at most a claim of `owner`.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub(crate) async fn enter(
        &self,
        operation: &Operation,
        owner: &str,
    ) -> Result<Entry, EntryError> {
        let mut seize = None;
        loop {
            // Before the look: an end between the look and the wait must not be slept through.
            let bell = self.bell.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            let claim = KeyClaim {
                name: operation.name.clone(),
                digest: operation.digest,
                owner: owner.to_owned(),
                node: self.node.lock().clone(),
                seize: seize.take(),
            };
            let KeyName { scope, key } = operation.name.clone();
            match self.store.claim_key(claim).await? {
                KeyStanding::Claimed => return Ok(Entry::Claimed),
                KeyStanding::Settled { answer, at } => return Ok(Entry::Recorded { answer, at }),
                KeyStanding::Conflict { .. } => return Err(EntryError::Conflict { scope, key }),
                KeyStanding::InFlight { owner, alive, .. } => {
                    let is_gone = !alive || self.is_over(&owner).await?;
                    match operation.effect {
                        Effect::Once if is_gone => {
                            return Err(EntryError::OutcomeUnknown { scope, key, owner });
                        }
                        Effect::Read | Effect::Idempotent if is_gone => seize = Some(owner),
                        _ if Instant::now() >= operation.deadline => {
                            return Err(EntryError::InFlight { scope, key, owner });
                        }
                        _ => {
                            let until = operation.deadline.min(Instant::now() + POLL);
                            // Told or not: look again.
                            drop(timeout_at(until, bell).await);
                        }
                    }
                }
            }
        }
    }

    /// A run that is over settles nothing any more.
    async fn is_over(&self, owner: &str) -> Result<bool, StoreError> {
        let Ok(run) = RunId::from_str(owner) else { return Ok(false) };
        let head = self.store.head(run).await?;
        Ok(head.is_none_or(|head| head.disposition == Disposition::Ended))
    }

    async fn settle(&self, settlement: KeySettlement) -> Result<(), StoreError> {
        self.store.settle_key(settlement).await?;
        self.ring();
        Ok(())
    }
}

/// An answer, and whether it comes from the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The answer.
    pub answer: Bytes,
    /// When it was recorded; `None` if the operation was done just now.
    pub recorded_at: Option<Timestamp>,
}

/// Why an operation gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError<E> {
    /// It was not done.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// It was done just now and failed.
    #[error("the operation failed")]
    Failed(#[source] E),
    /// It failed for good when it was done, and is not done again.
    #[error("the operation failed for good before: {message}")]
    FailedBefore {
        /// What kind of error.
        class: ErrorClass,
        /// What it said.
        message: String,
    },
}

/// What is recorded of an operation that [`once`] did.
#[derive(Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
enum Record {
    Answered { answer: Vec<u8> },
    Failed { class: ErrorClass, message: String },
    Unknown,
}

/// Does an operation once.
pub(crate) async fn once<F, E>(
    operations: &Arc<Operations>,
    operation: Operation,
    call: impl FnOnce() -> F,
) -> Result<Once, OnceError<E>>
where
    F: Future<Output = Result<Bytes, E>>,
    E: Classify + std::error::Error,
{
    let owner = format!("caller {}", RunId::generate());
    if let Entry::Recorded { answer, at } = operations.enter(&operation, &owner).await? {
        return recall(&operation.name, &owner, &answer, at);
    }
    let mut claim = Claim { operations: Arc::clone(operations), operation, owner, done: false };
    let outcome = call().await;
    let record = match &outcome {
        Ok(answer) => Some(Record::Answered { answer: answer.to_vec() }),
        Err(error) => after_failure(claim.operation.effect, error),
    };
    let settlement = claim.settlement(record.as_ref());
    operations.settle(settlement).await.map_err(EntryError::Store)?;
    claim.done = true;
    let answer = outcome.map_err(OnceError::Failed)?;
    Ok(Once { answer, recorded_at: None })
}

fn recall<E>(
    name: &KeyName,
    owner: &str,
    stored: &[u8],
    at: Timestamp,
) -> Result<Once, OnceError<E>> {
    let KeyName { scope, key } = name.clone();
    match serde_json::from_slice(stored) {
        Ok(Record::Answered { answer }) => {
            Ok(Once { answer: answer.into(), recorded_at: Some(at) })
        }
        Ok(Record::Failed { class, message }) => Err(OnceError::FailedBefore { class, message }),
        Ok(Record::Unknown) => {
            Err(EntryError::OutcomeUnknown { scope, key, owner: "an earlier caller".into() }.into())
        }
        Err(error) => Err(EntryError::Store(StoreError::Damaged {
            what: "a recorded answer",
            place: format!("key `{key}` of {scope}, asked for by {owner}"),
            problem: error.to_string(),
        })
        .into()),
    }
}

/// What a failure leaves on record: nothing, if trying again may help and can do no harm.
fn after_failure<E: Classify + std::error::Error>(effect: Effect, error: &E) -> Option<Record> {
    match error.class() {
        ErrorClass::OutcomeUnknown => Some(Record::Unknown),
        ErrorClass::Timeout | ErrorClass::Server | ErrorClass::Malformed
            if effect == Effect::Once =>
        {
            Some(Record::Unknown)
        }
        class if is_final(class) => Some(Record::Failed { class, message: error.to_string() }),
        _ => None,
    }
}

/// Whether the same request is sure to fail the same way again.
pub(crate) const fn is_final(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::InvalidRequest | ErrorClass::NotFound | ErrorClass::Conflict)
}

/// A claim that is settled even if the caller goes away while the operation is under way.
struct Claim {
    operations: Arc<Operations>,
    operation: Operation,
    owner: String,
    done: bool,
}

impl Claim {
    fn settlement(&self, record: Option<&Record>) -> KeySettlement {
        let record = record.and_then(|record| serde_json::to_vec(record).ok());
        let end = record.map_or(KeyEnd::Released, |record| KeyEnd::Recorded {
            answer: record.into(),
            keep: self.operation.keep,
        });
        KeySettlement { name: self.operation.name.clone(), owner: self.owner.clone(), end }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // It may or may not have taken effect.
        let unknown = (self.operation.effect == Effect::Once).then_some(Record::Unknown);
        let settlement = self.settlement(unknown.as_ref());
        let operations = Arc::clone(&self.operations);
        // Outside of a runtime the process is about to end, and with it the claim's node.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let settle = async move {
                if let Err(error) = operations.settle(settlement).await {
                    tracing::warn!(%error, "an operation given up could not be settled");
                }
            };
            self.operations.late.spawn_on(settle, &runtime);
        }
    }
}
