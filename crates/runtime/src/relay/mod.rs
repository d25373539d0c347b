//! Calls of models that come as bytes from a program in any language and go on as bytes.
//!
//! Agents and relayed calls share everything that decides: guards, fallbacks, prices, budgets. What is
//! different is the form. A relayed call keeps its wire and, as far as it can, its bytes; an answer that is a
//! stream goes on as it comes, from its first meaningful event. Until then a retry or a fallback is
//! invisible; from then on what goes wrong is the last thing the caller is told, and never looks like an end.
//!
//! ```text
//!  RelayCall -> request.rs (peek, ways) -> pump.rs, a task of its own:
//!     for each way: paid.rs (reserve) -> guard -> answering.rs (frames, first meaningful one) -> pieces
//!     no way left:  failing.rs (what the caller is told)
//! ```
//!
//! The task goes on by itself when the caller has gone, as far as [`HangUp`] says, so that what a provider
//! charges for is in the books.

mod answering;
mod deployment;
mod failing;
mod paid;
mod pump;
mod request;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use steadfast_guard::Admitted;
use steadfast_providers::wire::{Failure, FailureKind, ListedModel, Wire};
use steadfast_store::{Store, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::AccessKey;
use crate::catalog::Catalog;
use crate::ledger::{Cashier, Money, Payer};

pub use deployment::Deployment;
use request::Ask;

/// Pieces of an answer that wait for a slow reader; then the provider is not read any further.
const PIECES: usize = 16;

/// What becomes of a call whose caller has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// It is ended at once; what it has used is estimated.
    Abort,
    /// It is read on for so long at most, so that what it has used is known.
    Drain(Duration),
    /// It is read to its end.
    Finish,
}

/// A call to hand on.
#[derive(Debug)]
pub struct RelayCall {
    /// In which format it is.
    pub wire: Wire,
    /// The caller's headers; those that are a provider's business go on.
    pub headers: HeaderMap,
    /// The request.
    pub body: Bytes,
    /// Its id, for what the caller is told when it fails.
    pub request_id: String,
    /// Who pays for it.
    pub payer: Payer,
    /// The key that it came with: it may ask only the models that are the key's.
    pub key: Option<Arc<AccessKey>>,
    /// Its place within the limits of its key, held until it is over.
    pub admitted: Option<Admitted>,
    /// How long the caller waits for a whole answer.
    pub within: Option<Duration>,
    /// How long the caller waits for the first piece of a stream.
    pub first_within: Option<Duration>,
    /// Somebody above is repeating it already: it is tried once.
    pub repeated: bool,
    /// What becomes of it when the caller goes.
    pub hang_up: HangUp,
}

/// A piece of an answer. The first is [`Piece::Whole`], [`Piece::Refused`] or [`Piece::Open`]; if none of
/// them comes, the node is stopping.
#[derive(Debug)]
pub enum Piece {
    /// The whole answer.
    Whole(WholeAnswer),
    /// There is none.
    Refused(Box<Failure>),
    /// It is a stream, with these headers of the provider's.
    Open(HeaderMap),
    /// Whole events of the stream.
    Data(Bytes),
    /// The stream failed: these last events tell it, and what follows must not look like an end.
    Broken(Bytes),
    /// The stream has ended well. A stream without it has not.
    End,
}

/// An answer in one piece.
#[derive(Debug)]
pub struct WholeAnswer {
    /// The provider's headers, as far as they go on.
    pub headers: HeaderMap,
    /// The answer.
    pub body: Bytes,
    /// What it cost.
    pub cost: Option<Money>,
}

/// A call that has been taken on.
#[derive(Debug)]
pub struct Relaying {
    /// Whether the caller wants a stream.
    pub stream: bool,
    /// The answer, piece by piece. Dropping it tells that the caller has gone.
    pub pieces: mpsc::Receiver<Piece>,
}

/// Hands calls on. Cheap to clone.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    catalog: Arc<Catalog>,
    cashier: Arc<Cashier>,
    store: Arc<dyn Store>,
    began: Timestamp,
    tasks: TaskTracker,
    drain: CancellationToken,
    halt: CancellationToken,
}

impl Relay {
    pub(crate) fn new(
        catalog: &Arc<Catalog>,
        cashier: &Arc<Cashier>,
        store: &Arc<dyn Store>,
        drain: &CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            catalog: Arc::clone(catalog),
            cashier: Arc::clone(cashier),
            store: Arc::clone(store),
            began: store.now(),
            tasks: TaskTracker::new(),
            drain: drain.clone(),
            halt: CancellationToken::new(),
        }))
    }

    /// Takes a call on; its answer comes in pieces. It is under way until it has been charged, whoever
    /// listens.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be taken on at all: it is no request, no such model is there, no way can
    /// answer it, or the node is stopping.
    pub fn begin(&self, call: RelayCall) -> Result<Relaying, Box<Failure>> {
        if self.0.drain.is_cancelled() {
            let message = "this node is stopping: ask another one, or in a moment";
            let mut failure = Failure::new(FailureKind::Overloaded, message);
            failure.tried = call.repeated;
            return Err(failure.into());
        }
        let ask = Ask::read(&self.0.catalog, call)?;
        let stream = ask.peek.stream;
        let (sender, pieces) = mpsc::channel(PIECES);
        self.0.tasks.spawn(pump::pump(Arc::clone(&self.0), ask, sender));
        Ok(Relaying { stream, pieces })
    }

    /// The models that can be asked for.
    #[must_use]
    pub fn models(&self) -> Vec<ListedModel> {
        let created = jiff::Timestamp::from_millisecond(self.0.began.0).unwrap_or_default();
        let listed = self.0.catalog.models().filter_map(|(name, entry)| {
            let deployment = entry.deployment.as_ref()?;
            Some(ListedModel {
                id: name.to_owned(),
                display_name: name.to_owned(),
                owner: deployment.provider.clone(),
                created,
            })
        });
        listed.collect()
    }

    /// Waits for calls under way until then, and ends those that are left; `true` if there were none.
    pub(crate) async fn close(&self, end: Instant) -> bool {
        self.0.tasks.close();
        if timeout_at(end, self.0.tasks.wait()).await.is_ok() {
            return true;
        }
        self.0.halt.cancel();
        self.0.tasks.wait().await;
        false
    }

    /// Ends every call at once.
    pub(crate) fn abandon(&self) {
        self.0.halt.cancel();
    }
}
