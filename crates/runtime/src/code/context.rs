//! What the code of a run is given.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use steadfast_guard::Effect;
use steadfast_providers::tool::Progress;
use steadfast_store::{RunId, Timestamp};

use super::board::{Awaited, Board, What};
use super::compensate::Undo;
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
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::convert::Infallible;
    /// use steadfast_runtime::code::{RunContext, StepError};
    /// # use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
    /// # use steadfast_store::MemoryStore;
    ///
    /// async fn greet(run: RunContext) -> Result<String, StepError> {
    ///     // Outside is what the closure does: a request, a file, a process.
    ///     let name: String =
    ///         run.step("look up").read().call(|_| async { Ok::<_, Infallible>("Ada".into()) }).await?;
    ///     let sent = run.step("send").idempotent();
    ///     sent.call(|call| async move { Ok::<_, Infallible>(call.key.ends_with("send")) }).await?;
    ///     Ok(name)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let catalog = Catalog::builder().code("greet", greet).build()?;
    /// # let store = Arc::new(MemoryStore::new());
    /// # let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    /// let run = runtime.submit(SubmitRun::new("greet", "null")).await?.run.id;
    /// assert_eq!(runtime.wait(run).await?.ending.as_deref(), Some("\"Ada\""));
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
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
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// use steadfast_runtime::code::{RunContext, StepError};
    /// # use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
    /// # use steadfast_store::MemoryStore;
    ///
    /// async fn remind(run: RunContext) -> Result<&'static str, StepError> {
    ///     // As well a week: no process need live that long.
    ///     run.sleep("until then", Duration::from_millis(20)).await?;
    ///     Ok("it is time")
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let catalog = Catalog::builder().code("remind", remind).build()?;
    /// # let store = Arc::new(MemoryStore::new());
    /// # let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    /// let run = runtime.submit(SubmitRun::new("remind", "null")).await?.run.id;
    /// assert_eq!(runtime.wait(run).await?.ending.as_deref(), Some("\"it is time\""));
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The time cannot be written down.
    pub async fn sleep(&self, name: impl Into<String>, time: Duration) -> Result<(), StepError> {
        let until = Some(self.until(name.into(), time).await?);
        self.board.has_come(&Awaited { what: What::Time, until }).await;
        Ok(())
    }

    /// When so long will have passed from when this was first asked under the name.
    pub(super) async fn until(&self, name: String, time: Duration) -> Result<Timestamp, StepError> {
        let time_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.remember(name, || Timestamp(self.board.now().0.saturating_add(time_ms))).await
    }

    /// Makes a value once and remembers it: what would be another one each time the code is run. What is
    /// made must reach nothing outside; [`RunContext::step`] does that.
    ///
    /// ```
    /// # use steadfast_runtime::code::{RunContext, StepError};
    /// async fn lottery(run: RunContext) -> Result<Vec<u64>, StepError> {
    ///     let drawn = || (0..3).map(|n| n * 7).collect();
    ///     run.remember("drawn", drawn).await
    /// }
    /// # steadfast_runtime::Catalog::builder().code("lottery", lottery).build().unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Step::call`].
    pub async fn remember<T>(
        &self,
        name: impl Into<String>,
        make: impl FnOnce() -> T,
    ) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
    {
        let mut make = Some(make);
        let made = |_: StepCall| {
            let made = make.take().map(|make| make());
            async move { made.ok_or_else(|| StepError::failed("it is made once")) }
        };
        self.step(name).read().call(made).await
    }

    /// The time by the store's clock, when the code first asked under this name.
    ///
    /// # Errors
    /// As [`Step::call`].
    pub async fn now(&self, name: impl Into<String>) -> Result<Timestamp, StepError> {
        self.remember(name, || self.board.now()).await
    }

    /// A random number, the same ever after.
    ///
    /// # Errors
    /// As [`Step::call`].
    pub async fn random(&self, name: impl Into<String>) -> Result<u64, StepError> {
        self.remember(name, || fastrand::u64(..)).await
    }

    /// A new UUID (version 7) as text with hyphens, the same ever after.
    ///
    /// # Errors
    /// As [`Step::call`].
    pub async fn uuid(&self, name: impl Into<String>) -> Result<String, StepError> {
        self.remember(name, || RunId::generate().to_string()).await
    }

    /// Takes a checkpoint of the run as it is (SCOPE C3): resuming reads on from here. The runtime takes
    /// checkpoints by itself; this is for where the code knows of a good place.
    pub async fn checkpoint(&self) {
        let _busy = self.board.busy();
        let mut journal = self.board.journal.lock().await;
        let taken = journal.checkpoint().await;
        self.board.must(taken).await;
    }

    /// Tells where the run stands (SCOPE C7). A checkpoint is taken.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::convert::Infallible;
    /// use steadfast_runtime::code::{RunContext, StepError};
    /// # use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
    /// # use steadfast_store::MemoryStore;
    ///
    /// async fn count(run: RunContext) -> Result<u64, StepError> {
    ///     for n in 1..=3 {
    ///         let page = run.step(format!("page {n}")).read();
    ///         page.call(|_| async { Ok::<_, Infallible>(()) }).await?;
    ///         run.progress(n, 3, "counting pages").await;
    ///     }
    ///     // Where resuming reads on from, if nothing was told of it.
    ///     run.checkpoint().await;
    ///     Ok(3)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let catalog = Catalog::builder().code("count", count).build()?;
    /// # let store = Arc::new(MemoryStore::new());
    /// # let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    /// let run = runtime.submit(SubmitRun::new("count", "null")).await?.run.id;
    /// let progress = runtime.wait(run).await?.progress.expect("it was told");
    /// assert_eq!((progress.step, progress.total), (3, 3));
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn progress(&self, step: u64, total: u64, description: impl Into<String>) {
        let progress = Progress { step, total, description: description.into() };
        let _busy = self.board.busy();
        let mut journal = self.board.journal.lock().await;
        // Told already by an earlier execution.
        let is_news = journal.run().progress.as_ref().is_none_or(|told| told.step < step);
        if is_news && !self.board.begins_nothing() {
            self.board.append(&mut journal, RunEvent::Progressed { progress }).await;
        }
    }
}
