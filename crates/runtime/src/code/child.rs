//! Runs that a run starts.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use steadfast_guard::{Effect, ErrorClass, counted};
use steadfast_store::{RunId, Store};

use super::board::{Awaited, Board, What};
use super::compensate::Undone;
use super::context::RunContext;
use super::record::{ChildTries, child_step};
use super::step::{ChildEnd, Step, StepCall, StepError, read_back};
use crate::commands::{self, CancelRun, INPUT_BYTES_MAX, Labels, ResumeRun};
use crate::error::RuntimeError;
use crate::event::{RunEvent, StopReason};
use crate::run::Ending;
use crate::state::Status;

/// Longest name of a child, in bytes: it becomes part of a key.
const NAME_BYTES_MAX: usize = 128;

/// Starting a child is a write to the store, which fails by itself; this only bounds it.
const START_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A run that the run has started.
#[derive(Clone, Debug)]
pub struct Child {
    context: RunContext,
    step: String,
    run: RunId,
    is_code: bool,
}

impl RunContext {
    /// Starts another run, of an agent or of code, as a child of this one: once, over crashes, and for the
    /// same tenant and session with the same priority. Once this has returned, the child is on disk and goes
    /// on by itself; [`Child::result`] waits for its end.
    ///
    /// An agent is given an input that is a string as it is, and any other as JSON; code is given JSON.
    ///
    /// If the run is cancelled, so are its children, and it waits for their end before it undoes anything. If
    /// the code gives up, the same happens, unless [`CodePolicy`](super::CodePolicy) says otherwise. When a
    /// run is resumed, children that failed are resumed, and those that were cancelled started anew.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use steadfast_runtime::code::{RunContext, StepError};
    /// # use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
    /// # use steadfast_store::MemoryStore;
    ///
    /// async fn double(run: RunContext) -> Result<u64, StepError> {
    ///     Ok(2 * run.input::<u64>()?)
    /// }
    ///
    /// async fn all(run: RunContext) -> Result<u64, StepError> {
    ///     let one = run.child("one", "double", &1).await?;
    ///     let many: Vec<u64> = run.children("many", "double", 2..10, 4).await?;
    ///     Ok(one.result::<u64>().await? + many.iter().sum::<u64>())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let catalog = Catalog::builder().code("double", double).code("all", all).build()?;
    /// # let store = Arc::new(MemoryStore::new());
    /// # let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    /// let run = runtime.submit(SubmitRun::new("all", "null")).await?.run.id;
    /// assert_eq!(runtime.wait(run).await?.ending.as_deref(), Some("90"));
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// No such agent, an input that is too large, a name of more than 128 bytes, too many runs above one
    /// another, or a child of this name with another agent or input.
    pub async fn child(
        &self,
        name: impl Into<String>,
        agent: impl Into<String>,
        input: &impl Serialize,
    ) -> Result<Child, StepError> {
        let (name, agent) = (name.into(), agent.into());
        let step = child_step(&name);
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let message = format!("the name of a child must have 1 to {NAME_BYTES_MAX} bytes");
            return Err(StepError::at(&step, ErrorClass::InvalidRequest, message));
        }
        let is_code = self.board.shared.catalog.code(&agent).is_some();
        let input = match serde_json::to_value(input) {
            Ok(Value::String(text)) if !is_code => text,
            Ok(value) => value.to_string(),
            Err(error) => {
                let message = format!("its input cannot be written as JSON: {error}");
                return Err(StepError::at(&step, ErrorClass::InvalidRequest, message));
            }
        };
        let order = Order { step: &step, parent: self.id, agent: &agent, input: &input };
        let described =
            Step { effect: Effect::Idempotent, timeout: START_TIMEOUT, ..self.step(step.as_str()) };
        let start = |call: StepCall| start(&self.board, order, call.key);
        let run = described.call(start).await?;
        Ok(Child { context: self.clone(), step, run, is_code })
    }

    /// Starts a child for each item and waits for all, at most `limit` at once, called `NAME[0]`, `NAME[1]`
    /// and so on. The results are in the items' order.
    ///
    /// # Errors
    /// As [`RunContext::child`] and [`Child::result`], the first; those under way are cancelled.
    pub async fn children<I, T>(
        &self,
        name: impl Into<String>,
        agent: impl Into<String>,
        items: impl IntoIterator<Item = I>,
        limit: usize,
    ) -> Result<Vec<T>, StepError>
    where
        I: Serialize,
        T: DeserializeOwned,
    {
        let (name, agent) = (name.into(), agent.into());
        let (name, agent) = (name.as_str(), agent.as_str());
        // Written first: the branches hold no borrow of the items, which may live shorter than the run.
        let items: Result<Vec<Value>, _> = items.into_iter().map(serde_json::to_value).collect();
        let items = items.map_err(|error| {
            let message = format!("an input cannot be written as JSON: {error}");
            StepError::at(&child_step(name), ErrorClass::InvalidRequest, message)
        })?;
        let branches = items.into_iter().enumerate().map(|(place, item)| async move {
            let child = self.child(format!("{name}[{place}]"), agent, &item).await?;
            child.result::<T>().await
        });
        let ended = stream::iter(branches).buffered(limit.max(1)).try_collect().await;
        if ended.is_err() {
            self.cancel_started(&child_step(&format!("{name}["))).await;
        }
        ended
    }

    /// Cancels the children whose step begins like this.
    async fn cancel_started(&self, step: &str) {
        let _busy = self.board.busy();
        let open: Vec<RunId> = {
            let journal = self.board.journal.lock().await;
            let run = journal.run();
            let started = run.steps.children().filter(|(name, _)| name.starts_with(step));
            started.map(|(_, id)| id).filter(|id| !run.children.contains_key(id)).collect()
        };
        for child in open {
            cancel(&self.board, self.id, child, "another child of the same group failed").await;
        }
    }
}

impl Child {
    /// The child.
    #[must_use]
    pub const fn id(&self) -> RunId {
        self.run
    }

    /// Waits for the child's end, and gives what it returned: of code its value, of an agent its answer, as
    /// text or, if that is no `T`, read as JSON. While every branch of the run waits, the run is put aside.
    ///
    /// # Errors
    /// The child failed or was cancelled: [`StepError::child`] says which run it is and how it ended. Or
    /// what it returned is no `T`.
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        let board = &self.context.board;
        board.has_come(&Awaited { what: What::Child(self.run), until: None }).await;
        let ending = {
            let _busy = board.busy();
            board.journal.lock().await.run().children.get(&self.run).cloned()
        };
        match ending {
            Some(Ending::Succeeded { output }) => self.read(output),
            Some(ending) => Err(self.lost(ending)),
            None => Err(StepError::at(&self.step, ErrorClass::Internal, "its end got lost")),
        }
    }

    fn read<T: DeserializeOwned>(&self, output: String) -> Result<T, StepError> {
        let json = serde_json::from_str::<Value>(&output).ok();
        let text = Value::String(output);
        match json {
            Some(json) if self.is_code => read_back(&self.step, json),
            Some(json) => match serde_json::from_value(text) {
                Ok(value) => Ok(value),
                Err(_) => read_back(&self.step, json),
            },
            None => read_back(&self.step, text),
        }
    }

    fn lost(&self, ending: Ending) -> StepError {
        let (class, how) = match &ending {
            Ending::Failed { stop, message } => (class_of(*stop), format!("failed: {message}")),
            Ending::Cancelled { by, .. } => {
                (ErrorClass::Cancelled, format!("was cancelled by {by}"))
            }
            Ending::Succeeded { .. } => (ErrorClass::Internal, "succeeded".to_owned()),
        };
        let message = format!("run {} {how}", self.run);
        let child = Some(Box::new(ChildEnd { run: self.run, ending }));
        StepError { child, ..StepError::at(&self.step, class, message) }
    }
}

const fn class_of(stop: StopReason) -> ErrorClass {
    match stop {
        StopReason::Error { class } => class,
        StopReason::Timeout { .. } => ErrorClass::Timeout,
        StopReason::Refused => ErrorClass::Refused,
        StopReason::Context => ErrorClass::ContextTooLong,
        StopReason::Budget => ErrorClass::QuotaExhausted,
        StopReason::IterationLimit | StopReason::OutputLimit => ErrorClass::InvalidRequest,
    }
}

/// What is to be started.
#[derive(Clone, Copy)]
struct Order<'a> {
    step: &'a str,
    parent: RunId,
    agent: &'a str,
    input: &'a str,
}

/// Puts the child on disk, or finds the one that an earlier execution put there.
async fn start(board: &Board, order: Order<'_>, key: String) -> Result<RunId, StepError> {
    let Order { step, parent, agent, input } = order;
    let shared = &board.shared;
    let refuse = |class, message: String| Err(StepError::at(step, class, message));
    if !shared.catalog.executes(agent) {
        let known = shared.catalog.agent_names();
        let error = RuntimeError::UnknownAgent { name: agent.to_owned(), known };
        return refuse(ErrorClass::NotFound, error.to_string());
    }
    if input.len() > INPUT_BYTES_MAX {
        let size = input.len();
        let message = format!("its input is {size} bytes, and the limit is {INPUT_BYTES_MAX}");
        return refuse(ErrorClass::InvalidRequest, message);
    }
    let (above, limit) =
        (board.must(above(shared.store.as_ref(), parent).await).await, board.policy.depth_max);
    if above > limit {
        let message = format!(
            "it would lie below {}, each started by the one before, and the limit is {limit}: \
             does the code start itself?",
            counted(above as u64, "run")
        );
        return refuse(ErrorClass::InvalidRequest, message);
    }
    let (labels, session, tries) = {
        let journal = board.journal.lock().await;
        let tries = journal.run().steps.tries.get(step).copied().unwrap_or_default();
        let key = if tries.anew == 0 { key } else { format!("{key} {}", tries.anew) };
        let session = journal.session().map(str::to_owned);
        let (tenant, priority) = (journal.tenant().to_owned(), journal.priority());
        (Labels { tenant, priority, key: Some(key) }, session, tries)
    };
    let (agent, input) = (agent.to_owned(), input.to_owned());
    let parent = Some(parent);
    let event = RunEvent::Submitted { agent, input, call: None, parent, session, tags: Vec::new() };
    match commands::create(shared.store.as_ref(), event, labels).await {
        Err(RuntimeError::KeyConflict { run, .. }) => refuse(
            ErrorClass::Conflict,
            format!(
                "run {run} was started under this name with another agent or input: give the new one another name"
            ),
        ),
        Err(error) => board.must(Err(error)).await,
        Ok((head, true)) => {
            shared.announce(head.id, head.head_seq);
            Ok(head.id)
        }
        Ok((head, false)) => {
            resume(board, head.id, tries, Status::parse(&head.state)).await;
            Ok(head.id)
        }
    }
}

/// A child that had failed goes on with its parent.
async fn resume(board: &Board, run: RunId, tries: ChildTries, status: Option<Status>) {
    if !tries.again || status != Some(Status::Failed) {
        return;
    }
    let by = "its parent".to_owned();
    match commands::resume(&board.shared, ResumeRun { run, by }).await {
        // Somebody was quicker.
        Ok(()) | Err(RuntimeError::WrongState { .. }) => {}
        Err(error) => board.must(Err(error)).await,
    }
}

/// How many runs lie above a child of this one.
async fn above(store: &dyn Store, mut run: RunId) -> Result<usize, RuntimeError> {
    let mut count = 1;
    while let Some(parent) = store.head(run).await?.and_then(|head| head.parent) {
        (run, count) = (parent, count + 1);
    }
    Ok(count)
}

/// Cancels a child that may be over already.
async fn cancel(board: &Board, parent: RunId, run: RunId, why: &str) {
    let (by, reason) = (format!("run {parent}"), Some(why.to_owned()));
    match commands::cancel(&board.shared, CancelRun { run, by, reason }).await {
        Ok(()) | Err(RuntimeError::WrongState { .. }) => {}
        Err(error) => board.must(Err(error)).await,
    }
}

/// Cancels the children that are not over and not to be spared, also those whose start was not written down
/// any more, and waits for their end.
pub(super) async fn end_children(
    context: &RunContext,
    why: &str,
    spared: &[RunId],
    undone: &mut Undone,
) {
    let (board, parent) = (&context.board, context.id);
    let mut open = Vec::new();
    let mut before = None;
    let busy = board.busy();
    loop {
        let filter = steadfast_store::RunFilter {
            parent: Some(parent),
            before,
            limit: 500,
            ..Default::default()
        };
        let page = board.shared.store.list(filter).await.map_err(RuntimeError::from);
        let page = board.must(page).await;
        let is_open = |state: &str| !Status::parse(state).is_some_and(Status::is_over);
        let children = page.runs.iter().filter(|head| is_open(&head.state)).map(|head| head.id);
        open.extend(children.filter(|child| !spared.contains(child)));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    for child in &open {
        cancel(board, parent, *child, why).await;
    }
    drop(busy);
    for child in open {
        board.has_come(&Awaited { what: What::Child(child), until: None }).await;
        let _busy = board.busy();
        let ending = board.journal.lock().await.run().children.get(&child).cloned();
        if let Some(Ending::Failed { stop, message }) = ending {
            undone.tell(&format!("run {child}"), Err((class_of(stop), message)));
        }
    }
}
