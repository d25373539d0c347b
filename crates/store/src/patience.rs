//! How long somebody lets a store that is away keep them waiting.

use std::future::Future;
use std::time::Duration;

tokio::task_local! {
    static LIMIT: Duration;
}

/// Does some work; none of its calls of a store waits longer than `limit` for a database that cannot be
/// reached before it is [`StoreError::Unavailable`](crate::StoreError::Unavailable). For work that somebody
/// looks at and will ask for again. Without it, and in tasks that the work spawns, a call waits as long
/// as the store's own patience says; a longer limit changes nothing.
///
/// A call that a connection is at work on is not cut short. Whether the server still answers there is
/// looked at after about 2 s, so that also a connection that has gone silent fails within about 8 s.
/// What a returned write promises is the same.
pub async fn with_patience<F: Future>(limit: Duration, work: F) -> F::Output {
    LIMIT.scope(limit, work).await
}

/// How long a call may wait here, in a store of this patience.
pub(crate) fn limited(patience: Duration) -> Duration {
    LIMIT.try_with(|limit| patience.min(*limit)).unwrap_or(patience)
}
