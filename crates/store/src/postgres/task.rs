//! What waits to be written: requests of one kind are written together, each gets an answer of its own.

use std::any::{Any, TypeId};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::address::Address;
use super::link::{Failure, Link};
use super::silence::exchange;
use crate::{Changes, StoreError};

/// How often a batch that met another transaction is tried again before its callers are told.
const TRIES: u32 = 5;

/// What is in the way when a value cannot be stored.
const UNSTORABLE: &str =
    "the database refuses a value: PostgreSQL keeps no text with a NUL character";

/// One kind of write. A kind is one file: its statements, and how several of it are written at once.
pub(super) trait Write: Sized + Send + Sync + 'static {
    type Answer: Send + 'static;

    /// What [`Write::write`] sends, so that it is prepared with the connection.
    const STATEMENTS: &'static [&'static str];

    /// Whether writing it twice is as good as once: it is then sent again when nobody knows whether it
    /// has been written.
    const REPEATABLE: bool;

    /// About how many bytes it writes.
    fn size_bytes(&self) -> usize {
        0
    }

    /// What it is about, if no two of the same may be in one transaction.
    fn place(&self) -> Option<[u8; 32]> {
        None
    }

    /// Checks, then writes all of them in one transaction; one answer for each, in their order. What one
    /// is refused writes nothing and costs the others nothing. Rows are locked in the order of runs,
    /// blobs, operations, and of their keys within each, so that nodes never wait for each other in a ring.
    fn write(
        batch: &[&Self],
        link: &Link,
    ) -> impl Future<Output = Result<Written<Self::Answer>, Failure>> + Send;
}

/// What a transaction has done.
pub(super) struct Written<A> {
    pub(super) answers: Vec<Result<A, Refusal>>,
    /// What other nodes are to be told.
    pub(super) changes: Changes,
}

impl<A> Written<A> {
    /// Answers that concern no other node.
    pub(super) fn quietly(answers: Vec<Result<A, Refusal>>) -> Self {
        Self { answers, changes: Changes::default() }
    }
}

/// Why one of a batch was not written.
pub(super) enum Refusal {
    Store(StoreError),
    /// Its row is not what the schema says.
    Damaged(String),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A request, whatever it writes.
pub(super) trait Task: Send {
    fn kind(&self) -> TypeId;
    fn size_bytes(&self) -> usize;
    fn place(&self) -> Option<[u8; 32]>;
    /// Until when it may wait to be sent.
    fn deadline(&self) -> Instant;
    /// How long that is from when it came.
    fn patience(&self) -> Duration;
    /// Answers with an error.
    fn refuse(self: Box<Self>, error: StoreError);
    fn perform(&self) -> Perform;
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// Writes requests of one kind and answers them.
pub(super) type Perform = for<'a> fn(
    Vec<Box<dyn Task>>,
    &'a Link,
    &'a Address,
) -> Pin<Box<dyn Future<Output = Performed> + Send + 'a>>;

/// What came of a batch.
#[derive(Default)]
pub(super) struct Performed {
    /// What was surely not written, or may be written twice, and still has no answer.
    pub(super) unsent: Vec<Box<dyn Task>>,
    /// Why the connection is of no more use.
    pub(super) lost: Option<String>,
    pub(super) changes: Changes,
}

/// A caller's wish, and where its answer goes.
pub(super) struct Request<W: Write> {
    write: W,
    deadline: Instant,
    patience: Duration,
    reply: oneshot::Sender<Result<W::Answer, StoreError>>,
}

impl<W: Write> Request<W> {
    /// A request that has just come.
    pub(super) fn new(
        write: W,
        patience: Duration,
        reply: oneshot::Sender<Result<W::Answer, StoreError>>,
    ) -> Self {
        Self { write, deadline: Instant::now() + patience, patience, reply }
    }

    fn settle(self, outcome: Result<W::Answer, StoreError>) {
        // A caller that has gone does not want to know.
        drop(self.reply.send(outcome));
    }
}

impl<W: Write> Task for Request<W> {
    fn kind(&self) -> TypeId {
        TypeId::of::<W>()
    }

    fn size_bytes(&self) -> usize {
        self.write.size_bytes()
    }

    fn place(&self) -> Option<[u8; 32]> {
        self.write.place()
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        self.settle(Err(error));
    }

    fn perform(&self) -> Perform {
        |batch, link, address| Box::pin(perform::<W>(batch, link, address))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

async fn perform<W: Write>(batch: Vec<Box<dyn Task>>, link: &Link, address: &Address) -> Performed {
    let requests = batch.into_iter().map(Task::into_any);
    let requests = requests.filter_map(|request| request.downcast::<Request<W>>().ok());
    let mut groups: Vec<Vec<Request<W>>> = vec![requests.map(|request| *request).collect()];
    let mut performed = Performed::default();
    while let Some(group) = groups.pop() {
        if performed.lost.is_some() {
            performed.unsent.extend(boxed(group));
            continue;
        }
        match attempt(&group, link, address).await {
            Ok(written) => {
                performed.changes.merge(written.changes);
                for (request, answer) in group.into_iter().zip(written.answers) {
                    request.settle(answer.map_err(|refusal| match refusal {
                        Refusal::Store(error) => error,
                        Refusal::Damaged(problem) => address.damaged(&problem),
                    }));
                }
            }
            // One of them is at fault: alone, each pays for itself.
            Err(Failure::Refused(_) | Failure::Damaged(_)) if group.len() > 1 => {
                groups.extend(group.into_iter().rev().map(|request| vec![request]));
            }
            Err(Failure::Refused(problem)) => {
                tracing::debug!(store = %address, problem, "the database refuses a value");
                let refused = || StoreError::Misuse { problem: UNSTORABLE };
                group.into_iter().for_each(|request| request.settle(Err(refused())));
            }
            Err(Failure::Damaged(problem)) => {
                let damaged = || address.damaged(&problem);
                group.into_iter().for_each(|request| request.settle(Err(damaged())));
            }
            Err(Failure::Again(problem) | Failure::Failed(problem)) => {
                let failed = || address.unavailable(&problem);
                group.into_iter().for_each(|request| request.settle(Err(failed())));
            }
            Err(Failure::Lost(problem)) => {
                performed.unsent.extend(boxed(group));
                performed.lost = Some(problem);
            }
            Err(Failure::Doubtful(problem)) => {
                performed.lost = Some(problem.clone());
                if W::REPEATABLE {
                    performed.unsent.extend(boxed(group));
                    continue;
                }
                let doubtful = || {
                    address.unavailable(&format!(
                        "the connection was lost while it committed, so the write may or may not \
                         have happened ({problem})"
                    ))
                };
                group.into_iter().for_each(|request| request.settle(Err(doubtful())));
            }
        }
    }
    performed
}

fn boxed<W: Write>(group: Vec<Request<W>>) -> impl Iterator<Item = Box<dyn Task>> {
    group.into_iter().map(|request| Box::new(request) as Box<dyn Task>)
}

/// Writes a group. Afterwards the connection is outside any transaction, or lost.
async fn attempt<W: Write>(
    group: &[Request<W>],
    link: &Link,
    address: &Address,
) -> Result<Written<W::Answer>, Failure> {
    let batch: Vec<&W> = group.iter().map(|request| &request.write).collect();
    let mut tries = 1;
    loop {
        let failure = match exchange(link, address, W::write(&batch, link)).await {
            Ok(written) => return Ok(written),
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Lost(_) | Failure::Doubtful(_)) {
            return Err(failure);
        }
        if exchange(link, address, link.rollback()).await.is_err() {
            return Err(Failure::Lost(failure.problem().to_owned()));
        }
        if !matches!(failure, Failure::Again(_)) || tries == TRIES {
            return Err(failure);
        }
        tries += 1;
    }
}
