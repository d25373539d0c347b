//! Roll back: lets a run go on from where it was at an earlier event, after what came since has been undone as
//! far as it can be. Unlike a fork it changes the run itself, and undoes what the run has done outside.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_guard::Effect;
use steadfast_store::{RunId, Store};

use super::{ATTEMPTS_MAX, write};
use crate::catalog::Catalog;
use crate::error::RuntimeError;
use crate::event::{LeftCall, RunEvent, ToolOutcome, UndoCall, Verdict, WaitReason};
use crate::folding::{READ_PAGE, fold, fold_until};
use crate::run::Run;
use crate::shared::Shared;
use crate::stored;

/// Asks for a run to go back.
#[derive(Clone, Debug)]
pub struct RollbackRun {
    /// The run.
    pub run: RunId,
    /// The last event that still counts. Default: that of the newest checkpoint before the last event.
    pub to: Option<u64>,
    /// Who asks.
    pub by: String,
    /// Why, if they say so.
    pub reason: Option<String>,
    /// The run is paused then, with nothing undone yet, instead of queued.
    pub pause: bool,
}

/// What rolling back did. Of a run of code both lists are empty: the code says what undoes its steps, and
/// event `undone` tells what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBackTo {
    /// The last event that still counts.
    pub to: u64,
    /// Calls that are made to undo others.
    pub undo: Vec<UndoCall>,
    /// Changes that stay.
    pub left: Vec<LeftCall>,
}

/// Takes the run from whoever has it and rolls it back. Once it has returned, this is on disk; what undoes
/// something is done by the node that takes the run next.
pub(crate) async fn rollback(
    shared: &Shared,
    command: RollbackRun,
) -> Result<RolledBackTo, RuntimeError> {
    let RollbackRun { run: id, to, by, reason, pause } = command;
    let store = shared.store.as_ref();
    for _ in 0..ATTEMPTS_MAX {
        let mut run = fold(store, id).await?.run;
        let to = place(shared, &run, to).await?;
        let past = fold_until(store, id, to).await?.run;
        check_past(&past)?;
        let mut done = Done::begin(&past);
        let mut after = to;
        while after < run.seq {
            for stored in store.read(id, after, READ_PAGE).await? {
                after = stored.seq;
                done.meet(stored::unpack_event(store, &stored).await?);
            }
        }
        let (undo, left) = done.split(&shared.catalog);
        let (by, reason) = (by.clone(), reason.clone());
        let (told, at) = (RolledBackTo { to, undo: undo.clone(), left: left.clone() }, store.now());
        let event = RunEvent::RolledBack { to, by: by.clone(), reason: reason.clone(), undo, left };
        if run.status.next(&event).is_err() {
            return Err(RuntimeError::WrongState {
                run: id,
                command: "roll back",
                status: run.status,
            });
        }
        let expected_seq = run.seq;
        run.go_back(expected_seq + 1, at, &event, past)?;
        let mut events = vec![event];
        if pause {
            let paused = RunEvent::Paused { by, reason };
            run.apply(expected_seq + 2, at, paused.clone())?;
            events.push(paused);
        }
        run.renewed_ahead();
        if write(&shared.store, &run, expected_seq, &events, true).await? {
            shared.interrupt(id);
            shared.announce(id, run.seq);
            return Ok(told);
        }
    }
    Err(RuntimeError::Contended { run: id, command: "roll back", attempts: ATTEMPTS_MAX })
}

/// The event to go back to.
async fn place(shared: &Shared, run: &Run, to: Option<u64>) -> Result<u64, RuntimeError> {
    let (id, last) = (run.id, run.seq);
    let invalid = |problem: String| Err(RuntimeError::InvalidInput { problem });
    if run.queued.is_some() {
        return invalid(format!(
            "run {id} makes one call for another run: there is no way back in it"
        ));
    }
    let store = shared.store.as_ref();
    let earlier = earlier(store, run).await?;
    let to = match to {
        Some(to) => to,
        None => newest(store, run, &earlier).await?,
    };
    if !(1..last).contains(&to) {
        return invalid(format!(
            "`to` is {to}, and the run can go back to the events 1 to {}",
            last - 1
        ));
    }
    if let Some(origin) = run.origin.as_ref().filter(|origin| to <= origin.at) {
        let first = origin.at + 1;
        return invalid(format!(
            "the events up to {} are those of run {}: this one can go back to event {first} or later",
            origin.at, origin.run
        ));
    }
    if let Some((by, place)) = taken_back(&earlier, to) {
        return invalid(format!(
            "event {to} was taken back by the rollback at event {by}: go back to event {place} or one before \
             it, to one after event {by}, or fork the run at event {to}"
        ));
    }
    Ok(to)
}

/// While a rollback undoes something there is no way back: what it has undone would be undone again.
fn check_past(past: &Run) -> Result<(), RuntimeError> {
    if !past.open_calls.iter().any(|open| open.is_undo) {
        return Ok(());
    }
    let problem = format!(
        "at event {} an earlier rollback was still undoing calls: go back to an event before that rollback, \
         or to one after it was done",
        past.seq
    );
    Err(RuntimeError::InvalidInput { problem })
}

/// The newest checkpoint that the run can go back to.
async fn newest(store: &dyn Store, run: &Run, earlier: &[(u64, u64)]) -> Result<u64, RuntimeError> {
    let since = run.origin.as_ref().map_or(1, |origin| origin.at + 1);
    let kept = store.checkpoints(run.id).await?;
    let mut seqs: Vec<u64> = kept.into_iter().map(|checkpoint| checkpoint.seq).collect();
    seqs.retain(|seq| (since..run.seq).contains(seq) && taken_back(earlier, *seq).is_none());
    seqs.sort_unstable();
    for seq in seqs.into_iter().rev() {
        if check_past(&fold_until(store, run.id, seq).await?.run).is_ok() {
            return Ok(seq);
        }
    }
    Ok(since)
}

/// The rollbacks so far, each with the event that it went back to.
async fn earlier(store: &dyn Store, run: &Run) -> Result<Vec<(u64, u64)>, RuntimeError> {
    let (mut earlier, mut after) = (Vec::new(), 0);
    while after < run.seq {
        for stored in store.read(run.id, after, READ_PAGE).await? {
            after = stored.seq;
            if stored.kind == ROLLED_BACK
                && let RunEvent::RolledBack { to, .. } =
                    stored::unpack_event(store, &stored).await?
            {
                earlier.push((stored.seq, to));
            }
        }
    }
    Ok(earlier)
}

/// The rollback that took an event back, if one did, with the event that it went back to. Of what was
/// taken back nothing counts, not even rollbacks.
fn taken_back(earlier: &[(u64, u64)], seq: u64) -> Option<(u64, u64)> {
    let mut last = u64::MAX;
    for (by, place) in earlier.iter().rev().copied().filter(|(by, _)| *by > seq) {
        if by > last {
            continue;
        }
        if place < seq {
            return Some((by, place));
        }
        last = place;
    }
    None
}

/// A call that has changed something, or may have.
struct Change {
    call_id: String,
    tool: String,
    arguments: String,
    key: String,
    is_once: bool,
    result: Option<String>,
    unknown: bool,
    /// Something else stood in for the tool: what undoes the tool does not undo that.
    stood_in: bool,
    reopens: bool,
}

/// What was done after the place that a run goes back to.
struct Done {
    /// Arguments of calls, by id, the latest if an id comes again; whether they were open at that place.
    asked: BTreeMap<String, (String, bool)>,
    /// Written ahead and without a result.
    under_way: BTreeMap<String, Change>,
    changes: Vec<Change>,
    /// Keys of changes whose undoing has begun, may have taken effect, and must not be done twice.
    maybe_undone: BTreeSet<String>,
}

impl Done {
    fn begin(past: &Run) -> Self {
        let open = past.open_calls.iter().filter(|open| !open.is_own());
        let asked = open.map(|open| (open.call.id.clone(), (open.call.arguments.clone(), true)));
        let asked = asked.collect();
        let (under_way, changes, maybe_undone) = Default::default();
        Self { asked, under_way, changes, maybe_undone }.with_under_way(past)
    }

    /// What was written ahead before that place, and has ended after it, if it has.
    fn with_under_way(mut self, past: &Run) -> Self {
        use crate::run::CallState::{Interrupted, Pending, Started};
        for open in past.open_calls.iter().filter(|open| !open.is_own()) {
            let effect = match open.state {
                Pending => continue,
                Started { effect } | Interrupted { effect } => effect,
            };
            self.started(open.call.id.clone(), open.call.name.clone(), effect, open.key.clone());
        }
        self
    }

    fn started(&mut self, call_id: String, tool: String, effect: Effect, key: String) {
        let (arguments, reopens) = self.asked.get(&call_id).cloned().unwrap_or_default();
        if effect == Effect::Read {
            return;
        }
        let id = call_id.clone();
        let (result, unknown, stood_in) = (None, true, false);
        let is_once = effect == Effect::Once;
        let change =
            Change { call_id, tool, arguments, key, is_once, result, unknown, stood_in, reopens };
        self.under_way.insert(id, change);
    }

    fn meet(&mut self, event: RunEvent) {
        match event {
            RunEvent::ModelAnswered { tool_calls, .. } => {
                let calls = tool_calls.into_iter();
                self.asked.extend(calls.map(|call| (call.id, (call.arguments, false))));
            }
            RunEvent::ToolStarted { call_id, tool, effect, key } => {
                self.started(call_id, tool, effect, key);
            }
            RunEvent::ToolFinished { call_id, outcome, content, recorded_at, degraded, .. } => {
                let Some(change) = self.under_way.remove(&call_id) else { return };
                let unknown = match outcome {
                    ToolOutcome::OutcomeUnknown => true,
                    ToolOutcome::Done | ToolOutcome::Queued => false,
                    ToolOutcome::Failed | ToolOutcome::Invalid | ToolOutcome::Unavailable => return,
                };
                // It undid something, in an earlier rollback: that needs no undoing any more.
                if let Some(undone) = change.key.strip_suffix(UNDO) {
                    if unknown {
                        self.may_have_undone(&change);
                    } else {
                        self.changes.retain(|change| change.key != undone);
                    }
                    return;
                }
                // Another run's call had brought it about.
                if recorded_at.is_some() {
                    return;
                }
                let stood_in = degraded.is_some();
                let result = Some(content).filter(|_| !unknown);
                self.changes.push(Change { result, unknown, stood_in, ..change });
            }
            // What had been written ahead did not leave, then; a person is asked about what may have.
            RunEvent::Parked { reason, .. } if reason != WaitReason::Person => {
                self.under_way.clear();
            }
            // What it dropped has no result, and its id may come again.
            RunEvent::RolledBack { .. } => {
                let dropped = std::mem::take(&mut self.under_way).into_values();
                self.keep_dropped(dropped.collect());
            }
            RunEvent::CallJudged { call_id, verdict: Verdict::DidNot, .. } => {
                self.under_way.remove(&call_id);
            }
            _ => {}
        }
    }

    /// What undoes something has begun, and nobody knows whether it has.
    fn may_have_undone(&mut self, undo: &Change) {
        if let Some(undone) = undo.key.strip_suffix(UNDO).filter(|_| undo.is_once) {
            self.maybe_undone.insert(undone.to_owned());
        }
    }

    /// What was under way counts as done, and what undid something as begun.
    fn keep_dropped(&mut self, dropped: Vec<Change>) {
        for change in dropped {
            if change.key.ends_with(UNDO) {
                self.may_have_undone(&change);
            } else {
                self.changes.push(change);
            }
        }
    }

    /// What is undone, the last first, and what stays.
    fn split(mut self, catalog: &Catalog) -> (Vec<UndoCall>, Vec<LeftCall>) {
        let (mut undo, mut left) = (Vec::new(), Vec::new());
        let under_way = std::mem::take(&mut self.under_way).into_values().collect();
        self.keep_dropped(under_way);
        for change in self.changes.into_iter().rev() {
            let Change { call_id, tool, arguments, key, result, stood_in, reopens, .. } = change;
            let maybe_undone = self.maybe_undone.contains(&key);
            let unknown = change.unknown || maybe_undone;
            let rule = catalog.compensation(&tool).filter(|_| !stood_in && !maybe_undone);
            let filled = rule.and_then(|rule| {
                let arguments = rule.arguments_for(&arguments, result.as_deref()).ok()?;
                Some((rule.tool.clone(), arguments))
            });
            match filled {
                Some((with, arguments)) => {
                    let key = format!("{key}{UNDO}");
                    undo.push(UndoCall { call_id, tool, with, arguments, key, reopens });
                }
                None => left.push(LeftCall { call_id, tool, unknown }),
            }
        }
        (undo, left)
    }
}

/// The kind of the event that goes back, as it is stored.
const ROLLED_BACK: &str = "rolled_back";

/// What the key of a call that undoes another one ends with.
const UNDO: &str = "-undo";
