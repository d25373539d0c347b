//! Fork: a new run that begins with another one's history up to an event and goes on in its own way. The other
//! run is not touched, whatever its state.

use std::borrow::Cow;

use steadfast_store::{Created, NewEvent, NewRun, RunHead, RunId, Store};

use super::submit::{check_label, searched};
use super::{INPUT_BYTES_MAX, Submitted};
use crate::error::RuntimeError;
use crate::event::{Changes, RunEvent};
use crate::folding::{READ_PAGE, fold, fold_until};
use crate::journal::{face, unwritable};
use crate::recovery::Origin;
use crate::run::Run;
use crate::shared::Shared;
use crate::stored;
use crate::view::RunView;

/// Asks for a fork.
#[derive(Clone, Debug)]
pub struct ForkRun {
    /// The run whose history is taken over.
    pub run: RunId,
    /// The last event that is taken over. Default: the last there is.
    pub at: Option<u64>,
    /// What is different from there on.
    pub changes: Changes,
    /// Forking again with the same key gives the same run.
    pub key: Option<String>,
    /// Who asks.
    pub by: String,
}

/// Makes the fork. Once it has returned, it is on disk, with all that it needs: pruning the other run takes
/// nothing from it.
pub(crate) async fn fork(shared: &Shared, command: ForkRun) -> Result<Submitted, RuntimeError> {
    let ForkRun { run: source, at, changes, key, by } = command;
    let at_given = at.is_some();
    let store = shared.store.as_ref();
    let head = store.head(source).await?.ok_or(RuntimeError::UnknownRun { run: source })?;
    check(shared, &head, at, &changes, key.as_ref())?;
    let at = at.unwrap_or(head.head_seq);
    let past = fold_until(store, source, at).await?.run;
    check_place(&past, at)?;
    let (mut events, mut blobs) = (Vec::new(), Vec::new());
    let id = RunId::generate();
    while (events.len() as u64) < at {
        let after = events.len() as u64;
        let left = usize::try_from(at - after).unwrap_or(usize::MAX);
        let page = store.read(source, after, left.min(READ_PAGE)).await?;
        if page.is_empty() {
            return Err(RuntimeError::UnknownRun { run: source });
        }
        for event in page {
            blobs.extend(stored::blobs_of(store, &event.body).await?);
            let (kind, version) = (Cow::Owned(event.kind), event.version);
            events.push(NewEvent { kind, version, body: event.body });
        }
    }
    let origin = Origin { run: source, at, changes: changes.clone() };
    let event = RunEvent::Forked { from: source, last: at, changes, by };
    let (packed, more) = stored::pack_event(&event).map_err(unwritable)?;
    events.push(packed);
    blobs.extend(more);
    // Its keys are of no matter here: whoever executes the fork folds its own log.
    let mut folded = Run { id, ..past };
    folded.apply(at + 1, store.now(), event)?;
    let new = NewRun {
        id,
        priority: head.priority,
        key,
        session: head.session,
        tags: head.tags,
        text: searched(&folded.input),
        blobs,
        ..NewRun::new(head.tenant, head.agent, events, face(&folded)?)
    };
    match store.create(new).await? {
        Created::New(head) => {
            shared.announce(head.id, head.head_seq);
            Ok(Submitted { run: RunView::from_head(&head), new: true })
        }
        Created::Existing(head) => {
            check_same(store, &head, &origin, at_given).await?;
            Ok(Submitted { run: RunView::from_head(&head), new: false })
        }
    }
}

fn check(
    shared: &Shared,
    head: &RunHead,
    at: Option<u64>,
    changes: &Changes,
    key: Option<&String>,
) -> Result<(), RuntimeError> {
    let invalid = |problem: String| Err(RuntimeError::InvalidInput { problem });
    let catalog = &shared.catalog;
    if !catalog.executes(&head.agent) {
        let (name, known) = (head.agent.clone(), catalog.agent_names());
        return Err(RuntimeError::UnknownAgent { name, known });
    }
    if let Some(at) = at.filter(|at| !(1..=head.head_seq).contains(at)) {
        let last = head.head_seq;
        return invalid(format!("`at` is {at}, and the run has the events 1 to {last}"));
    }
    if let Some(model) = changes.model.as_ref().filter(|name| catalog.model(name).is_none()) {
        let known = catalog.model_names().join(", ");
        return invalid(format!("there is no model `{model}`; there are: {known}"));
    }
    let asks_model = changes.model.is_some() || changes.instructions.is_some();
    if asks_model && catalog.code(&head.agent).is_some() {
        let agent = &head.agent;
        return invalid(format!(
            "`{agent}` is code, which has no model and no prompt: change its input"
        ));
    }
    for text in [&changes.input, &changes.instructions].into_iter().flatten() {
        let size = text.len();
        if size > INPUT_BYTES_MAX {
            return invalid(format!(
                "the input or prompt is {size} bytes, and the limit is {INPUT_BYTES_MAX}: put it into a \
                 file that a tool reads"
            ));
        }
    }
    check_label("key", key)
}

/// A place in the middle of what makes no sense twice is refused.
fn check_place(past: &Run, at: u64) -> Result<(), RuntimeError> {
    let run = past.id;
    let problem = if past.queued.is_some() {
        format!("run {run} makes one call for another run, and that is to be made once: retry it")
    } else if past.rollback.is_some() {
        format!(
            "run {run} was being rolled back at event {at}: choose one before the rollback, or after it"
        )
    } else {
        return Ok(());
    };
    Err(RuntimeError::InvalidInput { problem })
}

/// A key stands for one fork.
async fn check_same(
    store: &dyn Store,
    head: &RunHead,
    origin: &Origin,
    at_given: bool,
) -> Result<(), RuntimeError> {
    let run = head.id;
    let Some(known) = fold(store, run).await?.run.origin else {
        return Err(RuntimeError::KeyConflict { run, differs: Vec::new() });
    };
    let (was, is) = (&known.changes, &origin.changes);
    let differs = [
        ("run", known.run != origin.run),
        // Without a place the fork was made at what was the last event then.
        ("at", at_given && known.at != origin.at),
        ("input", was.input != is.input),
        ("model", was.model != is.model),
        ("instructions", was.instructions != is.instructions),
    ];
    let differs: Vec<_> =
        differs.into_iter().filter(|field| field.1).map(|field| field.0).collect();
    if differs.is_empty() { Ok(()) } else { Err(RuntimeError::KeyConflict { run, differs }) }
}
