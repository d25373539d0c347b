//! A node's right to its runs, by its own clock. A process that was stopped as it stood wakes in the middle of
//! whatever it did and knows nothing: nobody has told it yet that its runs are another node's. So whoever is
//! about to send something outside looks here first.

use std::future::pending;
use std::time::Duration;

use steadfast_store::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

/// Share of the lease that is left when a node that could not renew it lets go of its runs: what is sent last
/// has this long to leave.
const MARGIN: u32 = 4;

/// The right of a node under one name. Once it is given up it is never had again: the node takes a new name.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) node: NodeId,
    /// The node acts on it until then; `None` while it is not registered, and once it is given up.
    until: watch::Sender<Option<Instant>>,
}

impl Lease {
    /// Of a node that is not registered yet.
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, until: watch::Sender::new(None) }
    }

    /// It was renewed for `ttl`, by a request that left at `began`; whether it had been held before.
    pub(crate) fn renewed(&self, began: Instant, ttl: Duration) -> bool {
        self.until.send_replace(Some(began + ttl - ttl / MARGIN)).is_some()
    }

    /// It is given up.
    pub(crate) fn give_up(&self) {
        self.until.send_replace(None);
    }

    /// When the node lets go of what it holds by it, unless it is renewed; `None` if it holds nothing.
    pub(crate) fn until(&self) -> Option<Instant> {
        *self.until.borrow()
    }

    /// Returns at once while the node may act on it. If its time is over, whoever asks stands still: until it
    /// is renewed after all, or for ever, as the node gives it up and drops what it did.
    pub(crate) async fn held(&self) {
        if self.is_held() {
            return;
        }
        let mut changes = self.until.subscribe();
        while !self.is_held() {
            if changes.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    fn is_held(&self) -> bool {
        self.until().is_some_and(|until| Instant::now() < until)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const TTL: Duration = Duration::from_secs(4);

    async fn is_held(lease: &Lease) -> bool {
        timeout(Duration::ZERO, lease.held()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn c11_a_lease_is_held_from_a_renewal_until_a_margin_before_its_end() {
        let lease = Lease::new(NodeId::generate());
        assert!(!is_held(&lease).await, "never registered");
        assert!(!lease.renewed(Instant::now(), TTL), "the first time");
        advance(Duration::from_millis(2_999)).await;
        assert!(is_held(&lease).await);
        advance(Duration::from_millis(1)).await;
        assert!(!is_held(&lease).await, "its time is over");
        assert!(lease.renewed(Instant::now(), TTL), "it had been held");
        assert!(is_held(&lease).await);
        lease.give_up();
        assert!(!is_held(&lease).await);
    }

    #[tokio::test(start_paused = true)]
    async fn c11_whoever_stands_still_without_a_lease_goes_on_once_it_is_renewed() {
        let lease = Lease::new(NodeId::generate());
        let renew = async {
            tokio::time::sleep(TTL).await;
            lease.renewed(Instant::now(), TTL);
        };
        let began = Instant::now();
        tokio::join!(lease.held(), renew);
        assert_eq!(began.elapsed(), TTL);
    }
}
