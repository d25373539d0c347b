//! Executes one claimed run and sees to its end: settled, given back, or given up.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use steadfast_store::{Append, Disposition, Fence, HeadUpdate, RunHead, StoreError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::call::chain;
use crate::code::{self, Board};
use crate::commands;
use crate::driver::{Driver, Outcome};
use crate::error::RuntimeError;
use crate::event::{RunEvent, StopReason};
use crate::journal::RunJournal;
use crate::lease::Lease;
use crate::ledger::Payer;
use crate::letters;
use crate::shared::{Driven, Shared};
use crate::state::Status;
use crate::stored;

/// How long after a failed attempt to give a run back the next is made: first, and at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Executes a run that this node has claimed.
pub(crate) async fn drive(shared: &Arc<Shared>, lease: &Arc<Lease>, head: RunHead, driven: Driven) {
    let Driven { stop, mail } = driven;
    let run = head.id;
    let driving = async {
        let policy = shared.options.checkpoints.clone();
        let store = Arc::clone(&shared.store);
        let check = shared.checks.enter(&head, &shared.catalog);
        let notices = shared.notices.clone();
        let mut journal = RunJournal::open(store, notices, policy, &head, check).await?;
        let claimed = RunEvent::Claimed { node: lease.node.to_string(), epoch: head.epoch };
        journal.begin(claimed).await?;
        if journal.take_letters(true).await? {
            return Ok(Outcome::Settled);
        }
        if let Some(parent) = head.parent
            && let Some(wish) = commands::orphaned(shared, parent, journal.run()).await?
        {
            journal.append(vec![wish]).await?;
            return Ok(Outcome::Settled);
        }
        if let Some(code) = shared.catalog.code(&head.agent) {
            let policy = shared.catalog.code_policy(&head.agent);
            let lease = Arc::clone(lease);
            let board = Board::new(journal, Arc::clone(shared), lease, policy, mail);
            return code::drive(code, board).await;
        }
        let clock = Arc::clone(&shared.store);
        let now = Box::new(move || clock.now());
        let payer = payer(shared, &head).await?;
        let driver = Driver {
            catalog: Arc::clone(&shared.catalog),
            journal,
            operations: Arc::clone(&shared.operations),
            cashier: Arc::clone(&shared.cashier),
            payer,
            lease: Arc::clone(lease),
            drain: shared.drain.clone(),
            mail,
            now,
        };
        driver.drive().await
    };
    let ended = tokio::select! {
        // Once it is stopped it does nothing more, whatever it could go on with by now.
        biased;
        // Dropping the future is the interruption: what was under way is settled by the next claim.
        () = stop.cancelled() => return debug!(%run, "interrupted"),
        ended = AssertUnwindSafe(driving).catch_unwind() => ended,
    };
    match ended {
        Ok(Ok(driven)) => debug!(%run, ?driven, "driven"),
        Ok(Err(RuntimeError::Store(StoreError::Fenced { .. } | StoreError::Conflict { .. }))) => {
            info!(%run, epoch = head.epoch, "somebody else has the run now: nothing more was written");
        }
        Ok(Err(RuntimeError::Store(error @ StoreError::Unavailable { .. }))) => {
            give_back(shared, &head, &stop, error).await;
        }
        Ok(Err(error)) if is_taken(shared, &head).await => {
            info!(%run, %error, "somebody else has the run now: nothing more was written");
        }
        Ok(Err(error)) => give_up(shared, &head, &chain(&error)).await,
        Err(_) => give_up(shared, &head, "a defect in Steadfast: the driver panicked").await,
    }
}

/// A store that is away is not the run's fault: it is given back, as soon as that can be written. If the
/// node drains or has let go, somebody else does it.
async fn give_back(
    shared: &Shared,
    head: &RunHead,
    stop: &CancellationToken,
    mut error: StoreError,
) {
    let mut pause = RETRY;
    loop {
        warn!(run = %head.id, error = chain(&error), "the store is away: giving the run back");
        let released = async {
            sleep(pause).await;
            shared.store.release(head.id, head.epoch).await
        };
        let released = tokio::select! {
            released = released => released,
            () = stop.cancelled() => return,
            () = shared.drain.cancelled() => return,
        };
        match released {
            Ok(()) => return,
            Err(again @ StoreError::Unavailable { .. }) => error = again,
            Err(other) => {
                return error!(run = %head.id, error = chain(&other), "cannot give the run back");
            }
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Most generations of runs whose budgets a run falls under.
const GENERATIONS_MAX: usize = 32;

/// Who pays for what a run asks models: also the runs that it descends from.
async fn payer(shared: &Shared, head: &RunHead) -> Result<Payer, RuntimeError> {
    let (mut ancestors, mut parent) = (Vec::new(), head.parent);
    while let Some(run) = parent
        && ancestors.len() < GENERATIONS_MAX
    {
        ancestors.push(run.to_string());
        parent = shared.store.head(run).await?.and_then(|head| head.parent);
    }
    Ok(Payer {
        tenant: head.tenant.clone(),
        agent: Some(head.agent.clone()),
        session: head.session.clone(),
        run: Some(head.id.to_string()),
        ancestors,
        ..Payer::default()
    })
}

/// Whether somebody has taken the run since it was claimed: what its log says now is not what was claimed.
async fn is_taken(shared: &Shared, head: &RunHead) -> bool {
    matches!(shared.store.head(head.id).await, Ok(Some(now)) if now.epoch != head.epoch)
}

/// A run that cannot be driven (its log is damaged, its state contradicts an event) must not be
/// claimed again and again: it fails, visibly.
async fn give_up(shared: &Shared, head: &RunHead, problem: &str) {
    let message = format!("cannot be executed: {problem}");
    error!(run = %head.id, error = message, "giving up on the run");
    let stop = StopReason::Error { class: steadfast_guard::ErrorClass::Internal };
    let event = RunEvent::Failed { stop, message };
    let (Ok((packed, blobs)), Ok(Some(now))) =
        (stored::pack_event(&event), shared.store.head(head.id).await)
    else {
        return;
    };
    let append = Append {
        events: vec![packed],
        blobs,
        head: Some(HeadUpdate {
            state: Status::Failed.as_str().to_owned(),
            disposition: Disposition::Ended,
            problem: now.problem,
            summary: now.summary,
        }),
        mail: head
            .parent
            .and_then(|parent| letters::farewell(head.id, now.head_seq + 1, parent))
            .into_iter()
            .collect(),
        ..Append::new(head.id, Fence::Holding { epoch: head.epoch }, now.head_seq)
    };
    match shared.store.append(append).await {
        Ok(appended) => shared.notices.publish(head.id, appended.head_seq),
        Err(error) => error!(run = %head.id, error = chain(&error), "cannot record the failure"),
    }
}
