//! What the code of a run is given.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use steadfast_guard::{Classify, Effect};
use steadfast_providers::tool::Progress;
use steadfast_store::{RunId, Timestamp};

use super::board::Board;
use super::step::{DEFAULT_TIMEOUT, Step, StepCall, StepError};
use crate::event::RunEvent;

/// A run as its code sees it. Cheap to clone; clones are the same run, so that branches can run side by side.
///
/// ```
/// # use std::convert::Infallible;
/// # use std::sync::Arc;
/// use steadfast_runtime::code::{RunContext, StepError};
/// use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
/// use steadfast_store::MemoryStore;
///
/// async fn greet(run: RunContext) -> Result<String, StepError> {
///     let name: String = run.input()?;
///     let length: usize =
///         run.step("measure").read().call(|_| async { Ok::<_, Infallible>(name.len()) }).await?;
///     Ok(format!("{name} has {length} letters"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let catalog = Catalog::builder().code("greet", greet).build()?;
/// let runtime =
///     Runtime::start(Arc::new(MemoryStore::new()), catalog, RuntimeOptions::default()).await?;
/// let submitted = runtime.submit(SubmitRun::new("greet", "\"Ada\"")).await?;
/// let ended = runtime.wait(submitted.run.id).await?;
/// assert_eq!(ended.ending.as_deref(), Some("\"Ada has 3 letters\""));
/// # runtime.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RunContext {
    pub(super) board: Arc<Board>,
    pub(super) undos: Arc<Mutex<Vec<Undo>>>,
    pub(super) id: RunId,
    pub(super) input: Arc<str>,
}

/// What undoes a step, once the code has failed.
pub(super) struct Undo {
    pub(super) name: String,
    pub(super) run: Box<dyn FnOnce(RunContext) -> Undoing + Send>,
}

pub(super) type Undoing = Pin<Box<dyn Future<Output = Result<(), StepError>> + Send>>;

impl std::fmt::Debug for RunContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunContext").field("run", &self.id).finish_non_exhaustive()
    }
}

impl RunContext {
    /// The run.
    #[must_use]
    pub const fn id(&self) -> RunId {
        self.id
    }

    /// What the run was submitted with, read as JSON.
    ///
    /// # Errors
    /// It is not the JSON of a `T`.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        serde_json::from_str(&self.input)
            .map_err(|error| StepError::failed(format!("the input is not as expected: {error}")))
    }

    /// The same, as it was written.
    #[must_use]
    pub fn raw_input(&self) -> &str {
        &self.input
    }

    /// A step of this name, which must be the only one of the run.
    pub fn step(&self, name: impl Into<String>) -> Step<'_> {
        Step {
            board: &self.board,
            name: name.into(),
            effect: Effect::Once,
            dependency: None,
            timeout: DEFAULT_TIMEOUT,
            undoes: false,
            facts: Vec::new(),
        }
    }

    /// Waits for so long from when it is first called, over crashes and restarts. While every branch of the
    /// run waits, the run is put aside and holds nothing.
    ///
    /// # Errors
    /// The time cannot be written down.
    pub async fn sleep(&self, name: impl Into<String>, time: Duration) -> Result<(), StepError> {
        let board = &self.board;
        let until = self.step(name).read().call(|_| async move {
            let time_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            Ok::<_, StepError>((board.now)().0.saturating_add(time_ms))
        });
        let until = Timestamp(until.await?);
        let left = until.0 - (board.now)().0;
        if let Ok(left) = u64::try_from(left) {
            let _waits = board.wait(until);
            // Runs out only while another branch is busy; otherwise the run is put aside.
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        Ok(())
    }

    /// Says how to undo what has been done, should the code fail later (SCOPE R12). Undoing goes backwards,
    /// from what was said last; each is a step of its own, called `undo NAME`, with a key, and is done once
    /// over crashes. It may be repeated with the same key, so it must be harmless to repeat.
    ///
    /// Say it right behind the step that it undoes, or before it if the step's outcome may be unknown.
    pub fn undo_by<F, E>(
        &self,
        name: impl Into<String>,
        operation: impl FnMut(StepCall) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Classify + std::error::Error + Send + 'static,
    {
        let name = format!("undo {}", name.into());
        let step = name.clone();
        let run = Box::new(move |context: Self| -> Undoing {
            Box::pin(async move {
                let described = context.step(step).idempotent();
                Step { undoes: true, ..described }.call(operation).await
            })
        });
        self.undos.lock().push(Undo { name, run });
    }

    /// Tells where the run stands (SCOPE C7). A checkpoint is taken.
    pub async fn progress(&self, step: u64, total: u64, description: impl Into<String>) {
        let progress = Progress { step, total, description: description.into() };
        let _busy = self.board.busy();
        let mut journal = self.board.journal.lock().await;
        // Told already by an earlier execution.
        if journal.run().progress.as_ref().is_none_or(|told| told.step < step) {
            self.board.append(&mut journal, RunEvent::Progressed { progress }).await;
        }
    }
}
