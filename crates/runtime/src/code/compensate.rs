//! How a step is undone: said while the code runs, done backwards once it has failed or is cancelled.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_guard::{Classify, ErrorClass};

use super::context::RunContext;
use super::step::{DEFAULT_TIMEOUT, Step, StepCall, StepError};

/// What the name of a step begins with that undoes another one.
pub(super) const UNDO: &str = "undo ";

/// What undoes a step.
pub(super) struct Undo {
    /// Of the step that it is.
    pub(super) name: String,
    /// The steps before which, or behind which, it was said.
    pub(super) met_since: Vec<String>,
    run: Box<dyn FnOnce(RunContext) -> Undoing + Send>,
}

type Undoing = Pin<Box<dyn Future<Output = Result<(), StepError>> + Send>>;

/// What undoes a step, being described; [`Compensation::by`] says what it does.
#[must_use = "nothing is undone until `by` says how"]
pub struct Compensation<'r> {
    context: &'r RunContext,
    name: String,
    dependency: Option<String>,
    timeout: Duration,
}

impl fmt::Debug for Compensation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compensation").field("name", &self.name).finish_non_exhaustive()
    }
}

impl RunContext {
    /// Says how to undo what has been done, should the code fail later or the run be cancelled (SCOPE R12).
    /// Undoing goes backwards, from what was said last; each is a step of its own, called `undo NAME`, with a
    /// key, and is remembered over crashes. It may be repeated with the same key, so that must be harmless.
    ///
    /// Say it right behind the step that it undoes, or before it if the step's outcome may be unknown.
    ///
    /// When the run is rolled back, only what came after the place that it goes back to is undone. A
    /// compensation belongs to the steps, or children, of its name; if there are none, to the steps since the
    /// compensation before, but those that another one has the name of. If any of these came after that place, all are undone and done again.
    ///
    /// What cannot be undone does not stop the others. The run ends as failed, its message says what is
    /// undone and what is not, and once it is resumed only what is not is tried again.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use std::sync::Arc;
    /// use steadfast_runtime::code::{RunContext, StepError};
    /// # use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
    /// # use steadfast_store::MemoryStore;
    ///
    /// async fn order(run: RunContext) -> Result<(), StepError> {
    ///     run.compensate("reserve").by(|_| async { Ok::<_, Infallible>(()) });
    ///     run.step("reserve").idempotent().call(|_| async { Ok::<_, Infallible>(()) }).await?;
    ///     Err(StepError::failed("sold out"))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let catalog = Catalog::builder().code("order", order).build()?;
    /// # let store = Arc::new(MemoryStore::new());
    /// # let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    /// # let submitted = runtime.submit(SubmitRun::new("order", "null")).await?;
    /// let ended = runtime.wait(submitted.run.id).await?;
    /// assert_eq!(ended.ending.as_deref(), Some("sold out; undo reserve: done"));
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn compensate(&self, name: impl Into<String>) -> Compensation<'_> {
        let name = format!("{UNDO}{}", name.into());
        Compensation { context: self, name, dependency: None, timeout: DEFAULT_TIMEOUT }
    }
}

impl Compensation<'_> {
    /// It goes through the guard of a configured dependency, with that policy's retries, breaker and limits.
    /// Without this it is tried once.
    pub fn guarded(mut self, dependency: impl Into<String>) -> Self {
        self.dependency = Some(dependency.into());
        self
    }

    /// How long it may take, all attempts together. Default 30 s.
    pub const fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What it does. It is handed the same key each time.
    pub fn by<F, E>(self, operation: impl FnMut(StepCall) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Classify + std::error::Error + Send + 'static,
    {
        let Self { context, name, dependency, timeout } = self;
        let step = name.clone();
        let run = Box::new(move |context: RunContext| -> Undoing {
            Box::pin(async move {
                let described = context.step(step).idempotent();
                Step { undoes: true, dependency, timeout, ..described }.call(operation).await
            })
        });
        let met_since = context.board.met_since();
        context.undos.lock().push(Undo { name, met_since, run });
    }
}

/// What came of undoing.
#[derive(Debug, Default)]
pub(super) struct Undone {
    /// A line of all of it, each part after `; `.
    pub(super) told: String,
    /// What kind of error the first thing met that could not be undone.
    pub(super) failed: Option<ErrorClass>,
}

impl Undone {
    pub(super) fn tell(&mut self, name: &str, ended: Result<(), (ErrorClass, String)>) {
        match ended {
            Ok(()) => self.told.push_str(&format!("; {name}: done")),
            Err((class, message)) => {
                self.told.push_str(&format!("; {name}: FAILED: {message}"));
                self.failed.get_or_insert(class);
            }
        }
    }
}

/// Undoes what was done, the last first; what cannot be undone does not stop the others.
pub(super) async fn undo(context: &RunContext, undos: &Mutex<Vec<Undo>>, undone: &mut Undone) {
    let undos = std::mem::take(&mut *undos.lock());
    undo_all(context, undos, undone).await;
}

/// The same, of these.
pub(super) async fn undo_all(context: &RunContext, undos: Vec<Undo>, undone: &mut Undone) {
    for Undo { name, run, .. } in undos.into_iter().rev() {
        let ended = run(context.clone()).await;
        undone.tell(&name, ended.map_err(|error| (error.class, error.message)));
    }
}
