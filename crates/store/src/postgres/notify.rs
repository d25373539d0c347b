//! How nodes wake each other: a connection that listens, and tells what this node has committed.
//!
//! Telling is no part of the transactions: a commit that notifies waits for those of all other nodes.
//! What is told after a commit may get lost with the node; whoever listens therefore also looks from
//! time to time. A connection that hears nothing of what it says itself is replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::address::Address;
use super::link::{Failure, Link, step};
use crate::{Changes, RunId};

/// How often the listener sends itself a word, and how long it waits for it.
const BEAT: Duration = Duration::from_secs(30);
const ECHO: Duration = Duration::from_secs(10);
/// Changes within this time are told together.
const GATHER: Duration = Duration::from_millis(2);
/// How long after a lost connection the next is tried: first, and at most.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Runs told of in one notification; its text may have 8000 bytes.
const RUNS_TOLD: usize = 120;
/// Runs remembered for somebody who does not ask; beyond them it is told that it missed some.
const RUNS_KEPT: usize = 4096;

const TELL: &str = "SELECT pg_notify(current_schema(), $1)";

/// Changes that wait for somebody.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Changes>,
    told: Notify,
}

impl Outbox {
    pub(super) fn tell(&self, changes: Changes) {
        if changes == Changes::default() {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.merge(changes);
        if waiting.grown.len() > RUNS_KEPT {
            waiting.grown.clear();
            waiting.missed = true;
        }
        drop(waiting);
        self.told.notify_one();
    }

    /// Waits for changes and takes them. Cancel-safe.
    pub(super) async fn next(&self) -> Changes {
        loop {
            let changes = std::mem::take(&mut *self.waiting.lock());
            if changes != Changes::default() {
                return changes;
            }
            self.told.notified().await;
        }
    }
}

/// The listening connection, and what it has heard.
pub(super) struct Listener {
    heard: Arc<Outbox>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Listener {
    /// `renewals` rises when the writer connects anew.
    pub(super) fn start(
        address: Arc<Address>,
        outbox: Arc<Outbox>,
        renewals: watch::Receiver<u64>,
    ) -> Self {
        let heard = Arc::new(Outbox::default());
        let ear = Arc::new(Ear {
            own: uuid::Uuid::now_v7().as_simple().to_string(),
            heard: Arc::clone(&heard),
            echo: AtomicU64::new(0),
            echoed: Notify::new(),
        });
        #[expect(clippy::disallowed_methods, reason = "owned by the listener, which ends it")]
        let task = tokio::spawn(listen(address, outbox, ear, renewals));
        Self { heard, task: Some(task) }
    }

    /// Of a store that is only looked at: nothing ever changes.
    pub(super) fn none() -> Self {
        Self { heard: Arc::new(Outbox::default()), task: None }
    }

    /// Waits until another node has changed something. Cancel-safe.
    pub(super) async fn changed(&self) -> Changes {
        self.heard.next().await
    }

    pub(super) fn stop(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Takes notifications in.
struct Ear {
    /// What this node's own notifications begin with.
    own: String,
    heard: Arc<Outbox>,
    /// The last of its own beats that it heard.
    echo: AtomicU64,
    echoed: Notify,
}

impl Ear {
    fn hear(&self, text: &str) {
        let Some((sender, message)) = text.split_once(' ') else { return };
        if sender != self.own {
            self.heard.tell(parse(message));
        } else if let Some(beat) = message.strip_prefix("beat ") {
            self.echo.fetch_max(beat.parse().unwrap_or(0), Ordering::AcqRel);
            self.echoed.notify_one();
        }
    }

    async fn wait_for_echo(&self, beat: u64) {
        while self.echo.load(Ordering::Acquire) < beat {
            self.echoed.notified().await;
        }
    }
}

/// A notification's text: `beat N`, or words: `ready`, `missed`, or a run and its last event.
fn format(changes: &Changes) -> String {
    let mut words = Vec::new();
    if changes.ready {
        words.push("ready".to_owned());
    }
    if changes.missed || changes.grown.len() > RUNS_TOLD {
        words.push("missed".to_owned());
    } else {
        words.extend(changes.grown.iter().map(|(run, seq)| format!("{run}:{seq}")));
    }
    words.join(" ")
}

/// What this release does not understand is passed over: a newer node may have told it.
fn parse(message: &str) -> Changes {
    let mut changes = Changes::default();
    for word in message.split(' ') {
        match word {
            "ready" => changes.ready = true,
            "missed" => changes.missed = true,
            word => {
                let told = word.split_once(':');
                let told = told.and_then(|(run, seq)| {
                    Some((run.parse::<RunId>().ok()?, seq.parse::<u64>().ok()?))
                });
                changes.grown.extend(told);
            }
        }
    }
    changes
}

async fn listen(
    address: Arc<Address>,
    outbox: Arc<Outbox>,
    ear: Arc<Ear>,
    mut renewals: watch::Receiver<u64>,
) {
    let mut pause = PAUSE;
    let mut beat = 0;
    loop {
        let began = Instant::now();
        renewals.mark_unchanged();
        let failure = tokio::select! {
            failure = serve(&address, &outbox, &ear, &mut beat) => failure,
            // What has befallen the writer's connection has probably befallen this one, or another
            // server is in charge now.
            Ok(()) = renewals.changed() => Failure::Lost("the writer has connected anew".to_owned()),
        };
        tracing::debug!(store = %address, problem = failure.problem(), "the listener connects anew");
        if began.elapsed() > BEAT {
            pause = PAUSE;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Listens and tells until the connection is of no more use.
async fn serve(address: &Address, outbox: &Outbox, ear: &Arc<Ear>, beat: &mut u64) -> Failure {
    let hearing = Arc::clone(ear);
    let hear = Box::new(move |text: &str| hearing.hear(text));
    let link = match Link::connect(address, [TELL], Some(hear)).await {
        Ok(link) => link,
        Err(failure) => return failure,
    };
    // Notifications are no writes: nobody waits for the disk.
    let listen = format!("SET synchronous_commit TO off; LISTEN {}", address.schema);
    if let Err(error) = link.client().batch_execute(&listen).await {
        return error.into();
    }
    // Nobody knows what was said meanwhile.
    ear.heard.tell(Changes { ready: true, missed: true, ..Changes::default() });
    let mut due = Instant::now();
    loop {
        let told = tokio::select! {
            changes = outbox.next() => {
                sleep(GATHER).await;
                tell(&link, ear, &format(&changes)).await
            }
            () = sleep_until(due) => {
                *beat += 1;
                due = Instant::now() + BEAT;
                prove(&link, ear, *beat).await
            }
        };
        if let Err(failure) = told {
            return failure;
        }
    }
}

async fn tell(link: &Link, ear: &Ear, message: &str) -> Result<(), Failure> {
    let text = format!("{} {message}", ear.own);
    let silent = || Failure::Lost(format!("it gave no answer within {ECHO:?}"));
    let told = timeout(ECHO, link.query([step(TELL, &[&text])])).await;
    told.map_err(|_| silent())?.map(drop)
}

/// Says something and waits to hear it: a connection may be cut, or pooled so that it cannot listen.
async fn prove(link: &Link, ear: &Ear, beat: u64) -> Result<(), Failure> {
    tell(link, ear, &format!("beat {beat}")).await?;
    let silent = || Failure::Lost("it does not hear its own notifications".to_owned());
    timeout(ECHO, ear.wait_for_echo(beat)).await.map_err(|_| silent())?;
    // A node may have died between a commit and its telling: whoever follows a log looks once more.
    ear.heard.tell(Changes { missed: true, ..Changes::default() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood() {
        let (one, two) = (RunId::generate(), RunId::generate());
        let grown = [(one, 7), (two, 8)].into();
        let changes = Changes { ready: true, grown, missed: false };
        assert_eq!(parse(&format(&changes)), changes);
        assert_eq!(parse("a newer:word"), Changes::default());
    }

    #[test]
    fn what_does_not_fit_into_a_notification_is_told_as_missed() {
        let grown = (0..=RUNS_TOLD as u64).map(|seq| (RunId::generate(), seq)).collect();
        let text = format(&Changes { ready: false, grown, missed: false });
        assert_eq!(text, "missed");
        let grown = (0..RUNS_TOLD as u64).map(|seq| (RunId::generate(), u64::MAX - seq)).collect();
        let text = format(&Changes { ready: true, grown, missed: false });
        assert!(text.len() < 7900, "{}", text.len());
    }
}
