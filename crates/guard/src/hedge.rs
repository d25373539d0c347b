//! A second attempt beside one that is slow.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::Stream;
use futures_util::future::{Either, select};
use tokio::time::timeout_at;

use crate::admission::Permit;
use crate::ending::End;
use crate::gather::{Pace, first_item};
use crate::run::{Outgoing, Run};
use crate::{Answer, Attempt, CallError, Classify};

/// How a race ended: the permit of the attempt that counts, and what came of it. The run's
/// [`Outgoing`] is that attempt's.
pub(crate) type Raced<'g, T, E> = (Permit<'g>, Result<T, End<E>>);

/// Waits for an attempt that is out, and sends a second one beside it if it is slow and the policy, the
/// budget and the dependency's state allow.
///
/// The first answer counts. So does an error that asking again cannot mend; after any other error the
/// attempt that is left decides. Dropping this drops both.
pub(crate) async fn race<'g, T, E, F>(
    run: &mut Run<'g, E>,
    permit: Permit<'g>,
    first: F,
    launch: impl FnOnce(Outgoing) -> F,
) -> Raced<'g, T, E>
where
    E: Classify,
    F: Future<Output = Result<T, End<E>>>,
{
    let mut first = pin!(first);
    let one = run.out;
    if let Ok(ended) = timeout_at(one.started + run.policy.hedge.after, first.as_mut()).await {
        return (permit, ended);
    }
    let Some(second_permit) = run.hedge() else {
        return (permit, first.await);
    };
    let two = run.out;
    let second = pin!(launch(two));
    match select(first, second).await {
        Either::Left((ended, second)) => {
            let sides = (Side { out: one, permit }, Side { out: two, permit: second_permit });
            decide(run, ended, sides, second).await
        }
        Either::Right((ended, first)) => {
            let sides = (Side { out: two, permit: second_permit }, Side { out: one, permit });
            decide(run, ended, sides, first).await
        }
    }
}

/// A call whose attempts may be hedged or meet injected faults.
pub(crate) async fn unusual_call<T, E, Fut>(
    mut run: Run<'_, E>,
    mut operation: impl FnMut(Attempt) -> Fut,
    cost: impl FnOnce(&T) -> Option<u64>,
) -> Result<Answer<T>, CallError<E>>
where
    Fut: Future<Output = Result<T, E>>,
    E: Classify,
{
    let (limits, latency_for) = (run.limits(), run.policy.chaos.latency_for);
    let mut launch = |out: Outgoing| {
        let answer = out.drill.prepare(|| operation(out.attempt(limits)));
        async move {
            let attempt = out.attempt(limits);
            match timeout_at(attempt.deadline, out.drill.run(answer, latency_for)).await {
                Ok(Ok(_)) if out.drill.cuts() => Err(End::Cut),
                Ok(ended) => ended,
                Err(_) => Err(End::from(out.limit(limits))),
            }
        }
    };
    loop {
        let permit = run.admit().await.map_err(|reason| run.refused(reason))?;
        run.start(&permit);
        let first = launch(run.out);
        let (permit, ended) = match run.hedges {
            true => race(&mut run, permit, first, &mut launch).await,
            false => (permit, first.await),
        };
        match ended {
            Ok(value) => {
                let tokens = cost(&value);
                return Ok(run.succeed(permit, value, tokens));
            }
            Err(end) => run.fail(permit, end).await?,
        }
    }
}

/// Sends an attempt that opens a stream, up to its first item, with a second one beside it if that is slow.
pub(crate) async fn open_stream<'g, I, E, S, Fut>(
    run: &mut Run<'g, E>,
    permit: Permit<'g>,
    open: &mut impl FnMut(Attempt) -> Fut,
) -> Raced<'g, (S, I), E>
where
    Fut: Future<Output = Result<S, E>>,
    S: Stream<Item = Result<I, E>> + Unpin,
    E: Classify,
{
    let (policy, limits) = (Arc::clone(&run.policy), run.limits());
    let mut launch = |out: Outgoing| {
        let opening = out.drill.prepare(|| open(out.attempt(limits)));
        let pace = Pace::new(&policy, &out, limits);
        first_item(opening, out.drill, policy.chaos.latency_for, pace)
    };
    run.start(&permit);
    let first = launch(run.out);
    if run.hedges {
        Box::pin(race(run, permit, first, launch)).await
    } else {
        (permit, first.await)
    }
}

struct Side<'g> {
    out: Outgoing,
    permit: Permit<'g>,
}

/// One side has ended, and the other is still out.
async fn decide<'g, T, E, F>(
    run: &mut Run<'g, E>,
    ended: Result<T, End<E>>,
    (done, left): (Side<'g>, Side<'g>),
    other: Pin<&mut F>,
) -> Raced<'g, T, E>
where
    E: Classify,
    F: Future<Output = Result<T, End<E>>>,
{
    run.out = done.out;
    match ended {
        Err(end) if run.may_mend(&end) => {
            run.settle_beside(done.permit, &end);
            run.out = left.out;
            let ended = other.await;
            (left.permit, ended)
        }
        // the permit of the side that is left is dropped: it counts nowhere
        ended => (done.permit, ended),
    }
}
