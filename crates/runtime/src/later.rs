//! Calls that could not be made and are to be made later: each is a run of its own, which keeps trying
//! until it is done or its time is over (SCOPE R14).

use std::time::Duration;

use steadfast_store::Timestamp;

use crate::call::ToolResult;
use crate::commands::{Labels, create};
use crate::error::RuntimeError;
use crate::event::{Degraded, QueuedCall, RunEvent, ToolOutcome};
use crate::journal::RunJournal;
use crate::run::OpenCall;

/// The shortest and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15 * 60));

/// How long to wait before the next try: half of the time that the call has waited already, so that pauses
/// grow by half each time.
pub(crate) fn pause(now: Timestamp, queued_at: Timestamp) -> Duration {
    let waited = Duration::from_millis(u64::try_from(now.0 - queued_at.0).unwrap_or(0));
    (waited / 2).clamp(PAUSES.0, PAUSES.1)
}

/// Queues a call that was not made, and says so in its result. Queueing it again, after a crash, finds the
/// run that was made then.
pub(crate) async fn queue(
    journal: &RunJournal,
    open: &OpenCall,
    result: ToolResult,
    now: Timestamp,
    keep_trying: Duration,
    notify: Option<String>,
) -> Result<ToolResult, RuntimeError> {
    let from = journal.run();
    let (tool, arguments) = (open.call.name.clone(), open.call.arguments.clone());
    let keep_ms = i64::try_from(keep_trying.as_millis()).unwrap_or(i64::MAX);
    let until = Timestamp(now.0.saturating_add(keep_ms));
    let input = format!("{tool} {arguments}, queued by run {}", from.id);
    let call = QueuedCall {
        tool: tool.clone(),
        arguments,
        key: open.key.clone(),
        from: from.id,
        until,
        notify,
    };
    let event = RunEvent::Submitted {
        agent: from.agent.clone(),
        input,
        call: Some(call),
        parent: None,
        session: journal.session().map(str::to_owned),
        tags: Vec::new(),
    };
    let labels = Labels {
        tenant: journal.tenant().to_owned(),
        priority: journal.priority(),
        key: Some(format!("queued-{}", open.key)),
    };
    let run = match create(journal.store(), event, labels).await {
        Ok((head, _)) => head.id,
        // the same call, queued before a crash, with another time
        Err(RuntimeError::KeyConflict { run, .. }) => run,
        Err(error) => return Err(error),
    };
    let reason = result.content;
    let content = format!(
        "queued for later: NOT done yet. `{tool}` is not available now ({reason}). Run {run} makes \
         this call as soon as it can, and gives up after {}. Do not call it again for this; tell the \
         user that it is still to be done.",
        humantime_serde::re::humantime::format_duration(keep_trying),
    );
    let degraded = Some(Degraded { way: format!("queued as run {run}"), reason });
    Ok(ToolResult { outcome: ToolOutcome::Queued, content, degraded, ..result })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r14_pauses_grow_with_the_time_waited_and_stay_within_bounds() {
        let pause = |seconds: i64| pause(Timestamp(seconds * 1_000), Timestamp(0)).as_secs();
        assert_eq!([0, 10, 60, 3_600, 86_400].map(pause), [10, 10, 30, 900, 900]);
        assert_eq!(pause(-5), 10);
    }
}
