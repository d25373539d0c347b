//! Retry: lets a failed run go on from the step that failed, which is done again. Unlike resume it makes a
//! call again that the run failed on, and wakes nothing that merely waits.

use steadfast_store::RunId;

use super::{ATTEMPTS_MAX, write};
use crate::error::RuntimeError;
use crate::event::{RunEvent, ToolOutcome};
use crate::folding::fold;
use crate::run::Run;
use crate::shared::Shared;
use crate::state::Status;
use crate::unknown::{Otherwise, UnknownRule};

/// Asks for a failed run to be tried again.
#[derive(Clone, Debug)]
pub struct RetryRun {
    /// The run.
    pub run: RunId,
    /// Who asks.
    pub by: String,
}

/// Puts a failed run back into the queue, with what it failed on to be done again.
pub(crate) async fn retry(shared: &Shared, command: RetryRun) -> Result<(), RuntimeError> {
    let RetryRun { run, by } = command;
    for _ in 0..ATTEMPTS_MAX {
        let mut folded = fold(shared.store.as_ref(), run).await?.run;
        if folded.status != Status::Failed {
            return Err(RuntimeError::WrongState { run, command: "retry", status: folded.status });
        }
        let event = RunEvent::Resumed { by: by.clone(), again: failed_on(shared, &folded) };
        let expected_seq = folded.seq;
        folded.apply(expected_seq + 1, shared.store.now(), event.clone())?;
        if write(&shared.store, &folded, expected_seq, &[event], false).await? {
            shared.announce(run, folded.seq);
            return Ok(());
        }
    }
    Err(RuntimeError::Contended { run, command: "retry", attempts: ATTEMPTS_MAX })
}

/// The calls without whose result the run did not go on.
fn failed_on(shared: &Shared, run: &Run) -> Vec<String> {
    let catalog = &shared.catalog;
    let agent = catalog.agent(&run.agent);
    let is_fatal = |tool: &str, outcome: ToolOutcome| {
        let critical = agent.as_ref().is_some_and(|agent| agent.is_critical(tool));
        let rule = catalog.unknown_rule(tool);
        let fails = match rule {
            Some(UnknownRule::Fail | UnknownRule::Ask) => true,
            Some(UnknownRule::Verify(verify)) => verify.otherwise != Otherwise::Tell,
            Some(UnknownRule::Tell) | None => false,
        };
        critical || fails && outcome == ToolOutcome::OutcomeUnknown
    };
    let fatal = run.unmade.iter().filter(|(open, outcome)| is_fatal(&open.call.name, *outcome));
    fatal.map(|(open, _)| open.call.id.clone()).collect()
}
