//! Holds and settles in the store. What gathers while one batch is written is the next batch, so that a
//! transaction, and the accounts that everybody is about, are paid for once.
//!
//! A hold comes with a place in the line of settlements: however full that is, what has been held can be
//! settled at once, also by a drop.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use steadfast_store::{
    Account, Amounts, Balance, EntryId, Held, Hold, Settled, Settlement, Store, StoreError, Unheld,
};
use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::call::chain;

/// Holds that may be open on one node at once, and holds that may wait for their batch.
const OPEN_MAX: usize = 16_384;

/// Most holds or settlements in one batch.
const BATCH: usize = 256;

/// How long a charge that nothing was held for waits for company, and how many are written at once.
const COMPANY: Duration = Duration::from_millis(50);
const COMPANY_MAX: usize = 1024;

/// The pause before settlements are tried again that the store could not take.
const PAUSE: Duration = Duration::from_secs(1);

/// How often holds are looked for whose time is over, and how many are charged at once.
const EXPIRY: (Duration, usize) = (Duration::from_secs(15), 256);

/// The one place of a node that holds and settles.
pub(crate) struct Teller {
    holds: Sender<Request>,
    settlements: Sender<Settlement>,
    tasks: TaskTracker,
    stop: CancellationToken,
    abandon: CancellationToken,
}

struct Request {
    hold: Hold,
    place: OwnedPermit<Settlement>,
    reply: oneshot::Sender<Result<Taken, StoreError>>,
}

/// What became of a hold.
pub(crate) enum Taken {
    /// It is on disk: how its limited accounts stand.
    Granted(OpenHold, Vec<Balance>),
    /// Nothing is held: which of the limited accounts has no room, and how it stands.
    Refused { place: usize, balance: Balance },
}

/// An amount that is held. Dropping it settles what was last said of it; before anything was said, nothing
/// was done under it, and it is released.
pub(crate) struct OpenHold {
    place: Option<OwnedPermit<Settlement>>,
    last: Settlement,
}

impl OpenHold {
    fn new(id: EntryId, place: OwnedPermit<Settlement>) -> Self {
        let last =
            Settlement { id, amounts: Amounts::default(), tallies: None, body: None, unheld: None };
        Self { place: Some(place), last }
    }

    /// Of a call that no limit is on: nothing is held.
    fn unheld(place: OwnedPermit<Settlement>, subject: Option<String>) -> Self {
        let mut open = Self::new(EntryId::generate(), place);
        open.last.unheld = Some(Unheld { subject });
        open
    }

    pub(crate) const fn id(&self) -> EntryId {
        self.last.id
    }

    /// Says what is to be charged if nothing else is said.
    pub(crate) fn note(&mut self, amounts: Amounts, tallies: Option<Vec<Account>>, body: Bytes) {
        let (id, unheld) = (self.last.id, self.last.unheld.take());
        self.last = Settlement { id, amounts, tallies, body: Some(body), unheld };
    }

    /// Releases it: nothing was done under it after all.
    pub(crate) fn release(mut self) {
        let (id, unheld) = (self.last.id, self.last.unheld.take());
        let amounts = Amounts::default();
        self.last = Settlement { id, amounts, tallies: None, body: None, unheld };
    }
}

impl Drop for OpenHold {
    fn drop(&mut self) {
        // What was not held and not done leaves nothing to say.
        let is_nothing = self.last.unheld.is_some() && self.last.body.is_none();
        if let Some(place) = self.place.take().filter(|_| !is_nothing) {
            drop(place.send(self.last.clone()));
        }
    }
}

impl Teller {
    pub(crate) fn start(store: Arc<dyn Store>) -> Self {
        let (holds, hold_requests) = mpsc::channel(OPEN_MAX);
        let (settlements, settling) = mpsc::channel(OPEN_MAX);
        let (tasks, stop, abandon) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let abandoned = |task: BoxFuture<'static, ()>| {
            let abandon = abandon.clone();
            async move {
                tokio::select! {
                    biased;
                    () = abandon.cancelled() => {}
                    () = task => {}
                }
            }
        };
        let held = hold_all(Arc::clone(&store), hold_requests, stop.clone());
        let settled = settle_all(Arc::clone(&store), settling, stop.clone());
        tasks.spawn(abandoned(held.boxed()));
        tasks.spawn(abandoned(settled.boxed()));
        tasks.spawn(abandoned(expire_all(store, stop.clone()).boxed()));
        tasks.close();
        Self { holds, settlements, tasks, stop, abandon }
    }

    /// Drops everything at once, as a crash would.
    pub(crate) fn abandon(&self) {
        self.abandon.cancel();
    }

    /// Holds. Once it has returned, what is held is on disk. Dropping the future releases it.
    pub(crate) async fn hold(&self, hold: Hold) -> Result<Taken, StoreError> {
        let place = self.settlements.clone().reserve_owned().await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let request = Request { hold, place, reply };
        self.holds.send(request).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// A call that no limit is on: it is charged when it has ended, and a crash before leaves nothing of it.
    pub(crate) async fn unheld(&self, subject: Option<String>) -> Result<OpenHold, StoreError> {
        let place = self.settlements.clone().reserve_owned().await.map_err(|_| closed())?;
        Ok(OpenHold::unheld(place, subject))
    }

    /// Refuses what is new, waits until everything that is open has been settled, and writes that.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable {
        place: "the ledger".to_owned(),
        problem: "this node is shutting down".to_owned(),
    }
}

/// The next requests, as many as are there; none once it has been stopped and nothing is open.
async fn gather<T>(
    requests: &mut Receiver<T>,
    stop: &CancellationToken,
    batch: &mut Vec<T>,
) -> usize {
    tokio::select! {
        biased;
        () = stop.cancelled() => requests.close(),
        taken = requests.recv_many(batch, BATCH) => return taken,
    }
    requests.recv_many(batch, BATCH).await
}

async fn hold_all(store: Arc<dyn Store>, mut requests: Receiver<Request>, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    while gather(&mut requests, &stop, &mut batch).await > 0 {
        // Who has gone meanwhile does not want it any more.
        batch.retain(|request| !request.reply.is_closed());
        let holds: Vec<Hold> = batch.iter().map(|request| request.hold.clone()).collect();
        match store.hold(holds).await {
            Ok(held) => {
                for (Request { hold, place, reply }, held) in batch.drain(..).zip(held) {
                    let taken = match held {
                        Held::Granted(balances) => {
                            Taken::Granted(OpenHold::new(hold.id, place), balances)
                        }
                        Held::Refused { place, balance } => Taken::Refused { place, balance },
                    };
                    // Whoever has gone drops it unsaid: it is released.
                    drop(reply.send(Ok(taken)));
                }
            }
            Err(error) => refuse(&mut batch, &error),
        }
    }
}

fn refuse(batch: &mut Vec<Request>, error: &StoreError) {
    for Request { hold, place, reply } in batch.drain(..) {
        // Nobody knows whether it is held: it is released in case it is.
        drop(OpenHold::new(hold.id, place));
        let (place, problem) = ("the ledger".to_owned(), chain(error));
        drop(reply.send(Err(StoreError::Unavailable { place, problem })));
    }
}

async fn settle_all(
    store: Arc<dyn Store>,
    mut requests: Receiver<Settlement>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while gather(&mut requests, &stop, &mut batch).await > 0 {
        if batch.iter().all(|settlement| settlement.unheld.is_some()) {
            gather_more(&mut requests, &stop, &mut batch).await;
        }
        if settle(&*store, &batch).await.is_err() {
            // One of them may be at fault, and the others need not pay for it.
            for one in &batch {
                if let Err(failure) = settle(&*store, std::slice::from_ref(one)).await {
                    let (id, failure) = (one.id, chain(&failure));
                    error!(%id, error = failure, "a call is not settled: charged in full when its time is over");
                }
            }
        }
        batch.clear();
    }
}

/// Waits for company, because nobody waits for these and most are about the same accounts; until one comes
/// that gives an amount back.
async fn gather_more(
    requests: &mut Receiver<Settlement>,
    stop: &CancellationToken,
    batch: &mut Vec<Settlement>,
) {
    let until = tokio::time::Instant::now() + COMPANY;
    while batch.len() < COMPANY_MAX && batch.last().is_some_and(|last| last.unheld.is_some()) {
        let room = COMPANY_MAX - batch.len();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            taken = requests.recv_many(batch, room) => if taken == 0 { return },
            () = tokio::time::sleep_until(until) => return,
        }
    }
}

/// Settles, however long the store is away.
async fn settle(store: &dyn Store, batch: &[Settlement]) -> Result<(), StoreError> {
    loop {
        match store.settle(batch.to_vec()).await {
            Ok(settled) => {
                tell(batch, &settled);
                return Ok(());
            }
            Err(StoreError::Unavailable { problem, .. }) if store.writable().is_ok() => {
                warn!(problem, waiting = batch.len(), "the ledger cannot settle now");
                tokio::time::sleep(PAUSE).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Says what came too late to be charged. A release that finds nothing had nothing to release.
fn tell(batch: &[Settlement], settled: &[Settled]) {
    for (settlement, settled) in batch.iter().zip(settled) {
        if *settled == Settled::Unknown && settlement.body.is_some() {
            let Settlement { id, amounts, .. } = settlement;
            warn!(%id, tokens = amounts.tokens, "a call was settled that the ledger does not know (any more)");
        }
    }
}

async fn expire_all(store: Arc<dyn Store>, stop: CancellationToken) {
    let (pause, limit) = EXPIRY;
    loop {
        match store.expire_holds(limit).await {
            Ok(expired) if expired.len() == limit => continue,
            Ok(expired) if expired.is_empty() => {}
            Ok(expired) => {
                warn!(calls = expired.len(), "calls were never settled: charged in full");
            }
            Err(failure) => warn!(error = chain(&failure), "cannot look for calls never settled"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
