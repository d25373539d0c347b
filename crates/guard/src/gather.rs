//! Reading one attempt's stream under three limits with one timer at a time.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::drill::Drill;
use crate::ending::End;
use crate::run::{Limits, Outgoing};
use crate::{Policy, TimeoutLayer};

/// The limit that holds now, and the attempt's own, which always holds.
pub(crate) struct Pace {
    idle: Duration,
    attempt: Limit,
    now: Limit,
}

#[derive(Clone, Copy)]
struct Limit {
    at: Instant,
    layer: TimeoutLayer,
    length: Duration,
}

impl Pace {
    pub(crate) fn new(policy: &Policy, out: &Outgoing, limits: Limits) -> Self {
        let (layer, length) = out.limit(limits);
        let attempt = Limit { at: out.attempt(limits).deadline, layer, length };
        let mut pace = Self { idle: policy.idle_timeout, attempt, now: attempt };
        pace.next(TimeoutLayer::FirstItem, out.started, policy.first_item_timeout);
        pace
    }

    fn next(&mut self, layer: TimeoutLayer, since: Instant, length: Duration) {
        let limit = Limit { at: since + length, layer, length };
        self.now = if limit.at < self.attempt.at { limit } else { self.attempt };
    }

    /// A piece came. A stream that is always ready never lets the timer run: the attempt's limit is
    /// therefore looked at here too.
    fn item(&mut self, now: Instant) -> Result<(), Limit> {
        if now >= self.attempt.at {
            return Err(self.attempt);
        }
        self.next(TimeoutLayer::Idle, now, self.idle);
        Ok(())
    }
}

impl<E> From<Limit> for End<E> {
    fn from(Limit { layer, length, .. }: Limit) -> Self {
        Self::from((layer, length))
    }
}

/// Opens a stream (see [`Drill::prepare`]) and waits for its first item.
pub(crate) async fn first_item<I, E, S>(
    open: Option<impl Future<Output = Result<S, E>>>,
    drill: Drill,
    latency_for: Duration,
    pace: Pace,
) -> Result<(S, I), End<E>>
where
    S: Stream<Item = Result<I, E>> + Unpin,
{
    let opened = async {
        let mut stream = drill.run(open, latency_for).await?;
        let first = stream.next().await.ok_or(End::Cut)?.map_err(End::Error)?;
        Ok((stream, first))
    };
    match timeout_at(pace.now.at, opened).await {
        Ok(opened) => opened,
        Err(_) => Err(pace.now.into()),
    }
}

/// Reads a stream from its first item on, until `take` has what it needs.
pub(crate) async fn read_on<T, I, E, S>(
    (mut stream, first): (S, I),
    mut take: impl FnMut(I) -> Option<T>,
    drill: Drill,
    mut pace: Pace,
) -> Result<T, End<E>>
where
    S: Stream<Item = Result<I, E>> + Unpin,
{
    if drill.cuts() {
        return Err(End::Cut);
    }
    if let Some(value) = take(first) {
        return Ok(value);
    }
    pace.item(Instant::now())?;
    let mut timer = pin!(sleep_until(pace.now.at));
    loop {
        tokio::select! {
            biased;
            item = stream.next() => {
                let item = item.ok_or(End::Cut)?.map_err(End::Error)?;
                if let Some(value) = take(item) {
                    return Ok(value);
                }
                pace.item(Instant::now())?;
                // Only a limit that came nearer has to reach the timer at once. One that moved away is
                // set when the old one fires: no trip to the timer wheel for each piece.
                if pace.now.at < timer.deadline() {
                    timer.as_mut().reset(pace.now.at);
                }
            }
            () = &mut timer => {
                if Instant::now() >= pace.now.at {
                    return Err(pace.now.into());
                }
                timer.as_mut().reset(pace.now.at);
            }
        }
    }
}
