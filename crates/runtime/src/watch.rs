//! Who wants to know that a run's log has grown. A notice carries no event: whoever is told reads the
//! log from where it left off, so a slow reader loses nothing and blocks nobody.

use steadfast_store::RunId;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Notices a reader may be behind before it is told merely "something happened".
const NOTICES_KEPT: usize = 1024;

/// Tells that runs' logs have grown.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    sender: broadcast::Sender<Told>,
    /// Cancelled when nothing comes any more.
    ended: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    Grown(Notice),
    /// Any log may have grown.
    Missed,
}

/// A run's log has grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The run.
    pub run: RunId,
    /// Its last event.
    pub seq: u64,
}

impl Notices {
    pub(crate) fn new(ended: CancellationToken) -> Self {
        Self { sender: broadcast::Sender::new(NOTICES_KEPT), ended }
    }

    pub(crate) fn publish(&self, run: RunId, seq: u64) {
        // Nobody listening is the usual case, and no error.
        drop(self.sender.send(Told::Grown(Notice { run, seq })));
    }

    /// Any log may have grown, by the hand of another node.
    pub(crate) fn publish_missed(&self) {
        drop(self.sender.send(Told::Missed));
    }

    pub(crate) fn subscribe(&self) -> Watch {
        Watch { receiver: self.sender.subscribe(), ended: self.ended.clone() }
    }
}

/// A reader of notices.
#[derive(Debug)]
pub struct Watch {
    receiver: broadcast::Receiver<Told>,
    ended: CancellationToken,
}

impl Watch {
    /// Waits until the log of `run` has grown (or, with `None`, any log), or may have: after falling
    /// behind it returns at once. `false` when the runtime has ended. Cancel-safe.
    pub async fn changed(&mut self, run: Option<RunId>) -> bool {
        loop {
            let received = tokio::select! {
                biased;
                received = self.receiver.recv() => received,
                () = self.ended.cancelled() => return false,
            };
            match received {
                Ok(Told::Grown(notice)) if run.is_some_and(|run| run != notice.run) => {}
                Ok(Told::Grown(_) | Told::Missed) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    return true;
                }
                Err(broadcast::error::RecvError::Closed) => return false,
            }
        }
    }
}
