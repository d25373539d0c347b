//! The one connection that writes, owned by a task of its own. It takes everything of one kind that waits
//! into one transaction, with no waiting timer; while one commits, the next batch gathers.
//!
//! When the connection is lost the task connects anew. What was not sent waits for it, up to a limit.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::address::Address;
use super::link::Link;
use super::notify::Outbox;
use super::task::{Request, Task, Write};
use super::{append, claim, facts, flag, keys, lease, ledger, overdue, prune};
use crate::patience::limited;
use crate::{NewRun, StoreError};

/// Most requests in one transaction.
const BATCH_REQUESTS: usize = 512;
/// A transaction takes no further request once it holds this much.
const BATCH_BYTES: usize = 1024 * 1024;
/// Requests that may wait before callers do.
const QUEUE_REQUESTS: usize = 4096;
/// How long after a failed attempt to connect the next is made: first, and at most.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

const CLOSED: &str = "it has been closed";

/// Everything that the writer sends.
fn statements() -> impl Iterator<Item = &'static str> {
    let kinds: [&[&str]; 19] = [
        <NewRun as Write>::STATEMENTS,
        <append::Appending as Write>::STATEMENTS,
        <lease::Renew as Write>::STATEMENTS,
        <lease::Retire as Write>::STATEMENTS,
        <lease::Release as Write>::STATEMENTS,
        <claim::Claim as Write>::STATEMENTS,
        <crate::KeyClaim as Write>::STATEMENTS,
        <crate::KeySettlement as Write>::STATEMENTS,
        <keys::Purge as Write>::STATEMENTS,
        <crate::Mail as Write>::STATEMENTS,
        <facts::WriteFacts as Write>::STATEMENTS,
        <facts::Purge as Write>::STATEMENTS,
        <flag::Flag as Write>::STATEMENTS,
        <ledger::TakeHolds as Write>::STATEMENTS,
        <ledger::SettleHolds as Write>::STATEMENTS,
        <overdue::Expire as Write>::STATEMENTS,
        <overdue::Prune as Write>::STATEMENTS,
        <prune::Cards as Write>::STATEMENTS,
        <prune::Remains as Write>::STATEMENTS,
    ];
    let mut all: Vec<&str> = kinds.concat();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
}

/// What the rest of the store has of the writer.
pub(super) struct Handle {
    address: Arc<Address>,
    patience: Duration,
    queue: Mutex<Option<mpsc::Sender<Box<dyn Task>>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    /// Why nothing is written once the queue is gone.
    refusal: &'static str,
}

struct Writer {
    address: Arc<Address>,
    outbox: Arc<Outbox>,
    /// How often it has connected anew.
    renewed: watch::Sender<u64>,
    waiting: VecDeque<Box<dyn Task>>,
    link: Option<Link>,
    /// Why there is no connection, and when the next attempt is due.
    outage: Option<Outage>,
}

struct Outage {
    problem: String,
    pause: Duration,
    retry_at: Instant,
}

impl Handle {
    /// Connects, and begins to write.
    pub(super) async fn start(
        address: Arc<Address>,
        patience: Duration,
        outbox: Arc<Outbox>,
        renewed: watch::Sender<u64>,
    ) -> Result<Self, StoreError> {
        let link = Link::connect(&address, statements(), None)
            .await
            .map_err(|failure| address.unavailable(failure.problem()))?;
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS);
        let writer = Writer {
            address: Arc::clone(&address),
            outbox,
            renewed,
            waiting: VecDeque::new(),
            link: Some(link),
            outage: None,
        };
        #[expect(clippy::disallowed_methods, reason = "owned here; `close` waits for it")]
        let task = tokio::spawn(writer.run(requests));
        let (queue, task) = (Mutex::new(Some(queue)), Mutex::new(Some(task)));
        Ok(Self { address, patience, queue, task, refusal: CLOSED })
    }

    /// Of a store that is only looked at.
    pub(super) const fn none(address: Arc<Address>, refusal: &'static str) -> Self {
        let patience = Duration::ZERO;
        Self { address, patience, queue: Mutex::new(None), task: Mutex::new(None), refusal }
    }

    pub(super) async fn write<W: Write>(&self, write: W) -> Result<W::Answer, StoreError> {
        let queue = self.queue.lock().clone();
        let queue = queue.ok_or_else(|| self.address.unavailable(self.refusal))?;
        let patience = limited(self.patience);
        let (reply, answer) = oneshot::channel();
        let request = Box::new(Request::new(write, patience, reply));
        match timeout(patience, queue.send(request)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(self.address.unavailable(CLOSED)),
            Err(_) => return Err(self.address.unavailable(&crowded(patience))),
        }
        // Held any longer, it would keep the writer from closing.
        drop(queue);
        answer.await.unwrap_or_else(|_| Err(self.address.unavailable(CLOSED)))
    }

    /// Finishes what was accepted, then ends.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().take());
        let task = self.task.lock().take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::error!(store = %self.address, "the writer of the store panicked");
        }
    }
}

fn crowded(patience: Duration) -> String {
    format!("so many writes wait that this one was not sent within {patience:?}")
}

impl Writer {
    async fn run(mut self, mut requests: mpsc::Receiver<Box<dyn Task>>) {
        loop {
            if self.waiting.is_empty() {
                match requests.recv().await {
                    Some(first) => self.waiting.push_back(first),
                    None => break,
                }
            }
            while self.waiting.len() < QUEUE_REQUESTS {
                let Ok(next) = requests.try_recv() else { break };
                self.waiting.push_back(next);
            }
            match self.link.take().filter(|link| !link.is_closed()) {
                Some(link) => self.write(link).await,
                None => self.connect(&mut requests).await,
            }
        }
    }

    async fn write(&mut self, link: Link) {
        let batch = gather(&mut self.waiting);
        let Some(first) = batch.first() else { return self.link = Some(link) };
        let performed = first.perform()(batch, &link, &self.address).await;
        self.outbox.tell(performed.changes);
        match performed.lost {
            None => self.link = Some(link),
            Some(problem) => {
                tracing::warn!(store = %self.address, problem, "the connection to the store was lost");
                for task in performed.unsent.into_iter().rev() {
                    self.waiting.push_front(task);
                }
                self.expire(&problem);
                let retry_at = Instant::now();
                self.outage = Some(Outage { problem, pause: PAUSE, retry_at });
            }
        }
    }

    /// Tries to connect, when it is due; answers those who have waited long enough.
    async fn connect(&mut self, requests: &mut mpsc::Receiver<Box<dyn Task>>) {
        let due = self.outage.as_ref().map_or_else(Instant::now, |outage| outage.retry_at);
        let address = Arc::clone(&self.address);
        let attempt = async move {
            sleep_until(due).await;
            Link::connect(&address, statements(), None).await
        };
        let problem = match self.meanwhile(requests, attempt).await {
            None => return,
            Some(Ok(link)) => {
                if self.outage.take().is_some() {
                    tracing::info!(store = %self.address, "the store is back");
                }
                self.renewed.send_modify(|renewed| *renewed += 1);
                self.link = Some(link);
                return;
            }
            Some(Err(failure)) => failure.problem().to_owned(),
        };
        let pause = self.outage.as_ref().map_or(PAUSE, |outage| outage.pause * 2);
        let pause = pause.min(PAUSE_MAX);
        self.expire(&problem);
        self.outage = Some(Outage { problem, pause, retry_at: Instant::now() + pause });
    }

    /// Waits for something; takes in requests meanwhile and answers those who have waited long enough.
    /// `None` if nobody waits any more and nobody will.
    async fn meanwhile<T>(
        &mut self,
        requests: &mut mpsc::Receiver<Box<dyn Task>>,
        awaited: impl Future<Output = T>,
    ) -> Option<T> {
        let mut awaited = pin!(awaited);
        let mut open = true;
        while open || !self.waiting.is_empty() {
            let patient = self.waiting.iter().map(|task| task.deadline()).min();
            let over = async {
                match patient {
                    Some(patient) => sleep_until(patient).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                came = &mut awaited => return Some(came),
                next = requests.recv(), if open && self.waiting.len() < QUEUE_REQUESTS => match next {
                    Some(next) => self.waiting.push_back(next),
                    None => open = false,
                },
                () = over => {
                    let problem = self.outage.as_ref().map(|outage| outage.problem.clone());
                    self.expire(problem.as_deref().unwrap_or("it does not answer"));
                }
            }
        }
        None
    }

    /// Answers those whose time to wait is over; they have written nothing, or what they wrote can be
    /// written again.
    fn expire(&mut self, problem: &str) {
        let now = Instant::now();
        let (over, waiting) = self.waiting.drain(..).partition(|task| task.deadline() <= now);
        self.waiting = waiting;
        let over: VecDeque<Box<dyn Task>> = over;
        for task in over {
            let away = self.address.away(problem, task.patience());
            task.refuse(away);
        }
    }
}

/// The next request, and with it those of its kind that may share its transaction, in their order.
fn gather(waiting: &mut VecDeque<Box<dyn Task>>) -> Vec<Box<dyn Task>> {
    let Some(kind) = waiting.front().map(|first| first.kind()) else { return Vec::new() };
    let (mut batch, mut left) = (Vec::new(), VecDeque::new());
    let (mut size_bytes, mut places) = (0_usize, BTreeSet::new());
    for task in waiting.drain(..) {
        let fits = batch.len() < BATCH_REQUESTS && size_bytes < BATCH_BYTES;
        // Also those that do not fit hold their place: who comes later about the same stays behind.
        let alone = task.place().is_none_or(|place| places.insert(place));
        if task.kind() == kind && fits && alone {
            size_bytes = size_bytes.saturating_add(task.size_bytes());
            batch.push(task);
        } else {
            left.push_back(task);
        }
    }
    *waiting = left;
    batch
}
