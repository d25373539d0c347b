//! Waiting for what is said to a run from outside.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::board::{Awaited, Board, What};
use super::context::RunContext;
use super::record::StepState;
use super::step::{StepError, read_back};
use crate::commands::check_signal_name;
use crate::event::RunEvent;

/// A wait for a signal; awaited, it gives what was said.
#[must_use = "nothing is waited for until this is awaited"]
pub struct WaitFor<'r, T> {
    context: &'r RunContext,
    signal: String,
    step: String,
    said: PhantomData<fn() -> T>,
}

/// A wait for a signal with an end; awaited, it gives what was said, or `None` once the time is over.
#[must_use = "nothing is waited for until this is awaited"]
pub struct WaitWithin<'r, T> {
    wait: WaitFor<'r, T>,
    time: Duration,
}

impl<T> fmt::Debug for WaitFor<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitFor").field("signal", &self.signal).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for WaitWithin<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = &self.time;
        f.debug_struct("WaitWithin").field("signal", &self.wait.signal).field("time", time).finish()
    }
}

impl RunContext {
    /// Waits until something is said to the run under this name
    /// ([`Runtime::signal`](crate::Runtime::signal)), and gives the oldest that it has not heard. What was
    /// said before the code came here is kept. While every branch of the run waits, the run is put aside and
    /// holds nothing.
    ///
    /// What was heard is remembered: the first wait for `paid` as the step `wait paid`, the next ones, in the
    /// order in which the code asks, as `wait paid (2)` and so on. Branches that ask for one name side by
    /// side, in an order that may differ, give each wait its own name: [`WaitFor::named`].
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use std::time::Duration;
    /// use steadfast_runtime::code::{RunContext, StepError};
    /// # use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SignalRun, SubmitRun};
    /// # use steadfast_store::MemoryStore;
    ///
    /// async fn order(run: RunContext) -> Result<String, StepError> {
    ///     let day = Duration::from_secs(24 * 3600);
    ///     match run.wait_for::<String>("paid").within(day).await? {
    ///         Some(receipt) => Ok(receipt),
    ///         None => Err(StepError::failed("not paid within a day")),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let catalog = Catalog::builder().code("order", order).build()?;
    /// # let store = Arc::new(MemoryStore::new());
    /// # let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    /// let run = runtime.submit(SubmitRun::new("order", "null")).await?.run.id;
    /// let (name, payload, by) = ("paid".to_owned(), "receipt 7".into(), "bank".to_owned());
    /// runtime.signal(SignalRun { run, name, payload, by, id: None }).await?;
    /// assert_eq!(runtime.wait(run).await?.ending.as_deref(), Some("\"receipt 7\""));
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_for<T: DeserializeOwned>(&self, signal: impl Into<String>) -> WaitFor<'_, T> {
        let signal = signal.into();
        let step = match self.board.ask(&signal) {
            1 => format!("wait {signal}"),
            number => format!("wait {signal} ({number})"),
        };
        WaitFor { context: self, signal, step, said: PhantomData }
    }
}

impl<'r, T> WaitFor<'r, T> {
    /// The name of the step as which the wait is remembered, which must be the only one of the run.
    pub fn named(mut self, step: impl Into<String>) -> Self {
        self.step = step.into();
        self
    }

    /// Waits no longer than this from when it is first awaited, over crashes and restarts.
    pub const fn within(self, time: Duration) -> WaitWithin<'r, T> {
        WaitWithin { wait: self, time }
    }
}

type Hearing<'r, T> = Pin<Box<dyn Future<Output = Result<T, StepError>> + Send + 'r>>;

impl<'r, T: DeserializeOwned + 'r> IntoFuture for WaitFor<'r, T> {
    type Output = Result<T, StepError>;
    type IntoFuture = Hearing<'r, T>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { context, signal, step, .. } = self;
        Box::pin(async move {
            match hear(context, &signal, &step, None).await? {
                Some(said) => read_back(&step, said),
                // It has no end, so a code before this one gave it one.
                None => Err(StepError::failed(format!(
                    "step `{step}`: an earlier execution stopped waiting for signal `{signal}`; give the \
                     new wait another name"
                ))),
            }
        })
    }
}

impl<'r, T: DeserializeOwned + 'r> IntoFuture for WaitWithin<'r, T> {
    type Output = Result<Option<T>, StepError>;
    type IntoFuture = Hearing<'r, Option<T>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { wait: WaitFor { context, signal, step, .. }, time } = self;
        Box::pin(async move {
            let said = hear(context, &signal, &step, Some(time)).await?;
            said.map(|said| read_back(&step, said)).transpose()
        })
    }
}

/// What was said, or `None` if nothing was in time.
async fn hear(
    context: &RunContext,
    signal: &str,
    step: &str,
    within: Option<Duration>,
) -> Result<Option<Value>, StepError> {
    check_signal_name(signal).map_err(StepError::failed)?;
    let board = &context.board;
    if !board.meet(step) {
        return Err(StepError::named_twice(step));
    }
    let is_known = {
        let _busy = board.busy();
        board.journal.lock().await.run().steps.get(step).is_some()
    };
    if let Some(time) = within {
        // Asked for also when the wait is over: the code has come to this step, too.
        let until = context.until(format!("{step} until"), time);
        if is_known {
            until.await?;
        } else {
            listen(board, signal, step, Some(until.await?)).await;
        }
    } else if !is_known {
        listen(board, signal, step, None).await;
    }
    let _busy = board.busy();
    let journal = board.journal.lock().await;
    match journal.run().steps.get(step) {
        Some(StepState::Done { output: Value::Array(said) }) => Ok(said.first().cloned()),
        Some(StepState::Failed { failure }) => Err(StepError::of(step, failure.clone())),
        _ => Err(StepError::failed(format!(
            "step `{step}` was no wait for a signal before: give the wait another name"
        ))),
    }
}

/// Waits, and writes down what came of it.
async fn listen(
    board: &Board,
    signal: &str,
    step: &str,
    until: Option<steadfast_store::Timestamp>,
) {
    let awaited = Awaited { what: What::Signal(signal.to_owned()), until };
    loop {
        let has_come = board.has_come(&awaited).await;
        let _busy = board.busy();
        let mut journal = board.journal.lock().await;
        let timed_out = !journal.run().signals.contains_key(signal);
        // Another branch may have heard it first.
        if timed_out && has_come {
            continue;
        }
        let (step, signal) = (step.to_owned(), signal.to_owned());
        return board.append(&mut journal, RunEvent::Heard { step, signal, timed_out }).await;
    }
}
