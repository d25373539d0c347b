//! One step: described, done once, remembered.

use std::fmt;
use std::future::{Future, pending};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use steadfast_guard::{CallContext, CallError, Classify, Effect, ErrorClass, Rejection};
use steadfast_store::{FactWrite, RunId, Timestamp};
use tokio::time::{Instant, timeout_at};

use super::board::{Awaited, Board, What};
use super::record::{StepFailure, StepState};
use crate::call::chain;
use crate::event::RunEvent;
use crate::run::Ending;

/// What a step's operation is told.
#[derive(Clone, Debug)]
pub struct StepCall {
    /// The same for every attempt, before and after a crash: hand it to what is called.
    pub key: String,
    /// The attempt is cut off at this time.
    pub deadline: Instant,
    /// 1 for the first attempt since the step was last begun.
    pub attempt: u32,
}

/// Why a step has no result, or why the run's code gives up. With `?` it ends the run as failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    /// The step, if it was one.
    pub step: Option<String>,
    /// What kind of error.
    pub class: ErrorClass,
    /// What happened, for people.
    pub message: String,
    /// The run that did not succeed, if the step was a child.
    pub child: Option<Box<ChildEnd>>,
}

/// How a child ended that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildEnd {
    /// The child.
    pub run: RunId,
    /// How it ended.
    pub ending: Ending,
}

impl StepError {
    /// The code itself gives up.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        let (class, message) = (ErrorClass::InvalidRequest, message.into());
        Self { step: None, class, message, child: None }
    }

    pub(super) fn of(step: &str, failure: StepFailure) -> Self {
        let StepFailure { class, message } = failure;
        Self { step: Some(step.to_owned()), class, message, child: None }
    }

    pub(super) fn at(step: &str, class: ErrorClass, message: impl Into<String>) -> Self {
        Self::of(step, StepFailure { class, message: message.into() })
    }

    /// Two steps have one name.
    pub(super) fn named_twice(step: &str) -> Self {
        let message = "another step of this run has the same name: give each its own";
        Self::at(step, ErrorClass::InvalidRequest, message)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Some(step) => write!(f, "step `{step}`: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for StepError {}

impl Classify for StepError {
    fn class(&self) -> ErrorClass {
        self.class
    }
}

/// A step that is being described; [`Step::call`] does it.
#[derive(Clone)]
#[must_use = "a step does nothing until it is called"]
pub struct Step<'r> {
    pub(super) board: &'r Board,
    pub(super) name: String,
    pub(super) effect: Effect,
    pub(super) dependency: Option<String>,
    pub(super) timeout: Duration,
    pub(super) undoes: bool,
    /// Written with its result.
    pub(super) facts: Vec<FactWrite>,
}

/// How long a step may take if nothing else is said: 30 s, as a tool call (SCOPE R3).
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .field("effect", &self.effect)
            .finish_non_exhaustive()
    }
}

impl Step<'_> {
    /// It changes nothing: after a crash in its middle it is simply done again, and nothing is written
    /// ahead. Without this and [`Step::idempotent`] a step counts as one that changes something each time,
    /// and is never done again while nobody knows whether it took effect.
    pub const fn read(mut self) -> Self {
        self.effect = Effect::Read;
        self
    }

    /// It changes something, and the same key ([`StepCall::key`]) changes it once: after a crash in its
    /// middle it is done again with the same key.
    pub const fn idempotent(mut self) -> Self {
        self.effect = Effect::Idempotent;
        self
    }

    /// It goes through the guard of a configured dependency, with that policy's retries, breaker and limits.
    /// Without this it is tried once.
    ///
    /// A read or idempotent step whose dependency asks for quiet for longer than the policy waits (a
    /// `Retry-After` beyond `max_retry_after`) is tried again after that time, with [`Step::within`] anew;
    /// while every branch waits, the run is put aside and holds nothing.
    pub fn guarded(mut self, dependency: impl Into<String>) -> Self {
        self.dependency = Some(dependency.into());
        self
    }

    /// How long it may take, all attempts together. Default 30 s.
    pub const fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Does the step, or returns what it returned before.
    ///
    /// What it returns is on disk before this returns. If the future is dropped in the middle, or the
    /// process dies, a read or idempotent step is done again by the next execution, and any other one has
    /// an unknown outcome.
    ///
    /// # Errors
    /// The operation failed for good; the same error is returned ever after, until a person resumes the
    /// run; a second step of the same name in one execution. [`ErrorClass::OutcomeUnknown`]: the step may have taken effect. [`ErrorClass::Malformed`]: what
    /// was remembered under this name cannot be read as a `T`.
    pub async fn call<T, E, F>(
        self,
        mut operation: impl FnMut(StepCall) -> F,
    ) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
        E: Classify + std::error::Error + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let busy = self.board.busy();
        if !self.board.meet(&self.name) {
            return Err(StepError::named_twice(&self.name));
        }
        let known = self.board.journal.lock().await.run().steps.get(&self.name).cloned();
        match known {
            Some(StepState::Done { output }) => return read_back(&self.name, output),
            Some(StepState::Failed { failure }) => return Err(StepError::of(&self.name, failure)),
            Some(StepState::Interrupted { effect: Effect::Once })
                if !self.board.begins_nothing() =>
            {
                let message =
                    "it was interrupted and may or may not have taken effect: look whether it \
                               did; resuming the run does it again"
                        .to_owned();
                return self.fail(ErrorClass::OutcomeUnknown, message).await;
            }
            Some(StepState::Interrupted { .. } | StepState::Started { .. }) | None => {}
        }
        drop(busy);
        let ended = self.insist(known.is_some(), &mut operation).await;
        let _busy = self.board.busy();
        match ended {
            Ok(value) => {
                let output =
                    serde_json::to_value(&value).map_err(|error| self.unwritable(&error))?;
                let finished = RunEvent::StepFinished {
                    step: self.name.clone(),
                    output: Some(output),
                    failure: None,
                    undoes: self.undoes,
                };
                let mut journal = self.board.journal.lock().await;
                journal.stage(self.facts.clone());
                self.board.append(&mut journal, finished).await;
                Ok(value)
            }
            Err(Unmade { class, message, .. }) => self.fail(class, message).await,
        }
    }

    /// Tries until it has ended: while its dependency asks for quiet, the branch waits.
    async fn insist<T, E, F>(
        &self,
        mut was_begun: bool,
        operation: &mut impl FnMut(StepCall) -> F,
    ) -> Result<T, Unmade>
    where
        E: Classify + std::error::Error + 'static,
        F: Future<Output = Result<T, E>>,
    {
        loop {
            let busy = self.board.busy();
            if self.board.stands_still().await {
                let _held = self.board.hold();
                drop(busy);
                return pending().await;
            }
            let key = self.begin(was_begun).await;
            let (quiet, message) = match self.attempt(&key, operation).await {
                // What is done once would be interrupted by being put aside, and nobody would know more.
                Err(Unmade { quiet: Some(quiet), message, .. }) if self.effect != Effect::Once => {
                    (quiet, message)
                }
                ended => return ended,
            };
            was_begun = true;
            let quiet_ms = i64::try_from(quiet.as_millis()).unwrap_or(i64::MAX).max(1);
            let until = Some(Timestamp(self.board.now().0.saturating_add(quiet_ms)));
            let what = What::Quiet(format!("step `{}`: {message}", self.name));
            drop(busy);
            self.board.has_come(&Awaited { what, until }).await;
        }
    }

    /// Does the step once for each item, at most `limit` at once, each remembered as a step of its own, called
    /// `NAME[0]`, `NAME[1]` and so on. The results are in the items' order.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::convert::Infallible;
    /// use steadfast_runtime::code::{RunContext, StepError};
    /// # use steadfast_runtime::{Catalog, Runtime, RuntimeOptions, SubmitRun};
    /// # use steadfast_store::MemoryStore;
    ///
    /// async fn squares(run: RunContext) -> Result<Vec<u64>, StepError> {
    ///     let step = run.step("square").read();
    ///     step.each(1..=4_u64, 2, |n, _| async move { Ok::<_, Infallible>(n * n) }).await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let catalog = Catalog::builder().code("squares", squares).build()?;
    /// # let store = Arc::new(MemoryStore::new());
    /// # let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    /// let run = runtime.submit(SubmitRun::new("squares", "null")).await?.run.id;
    /// assert_eq!(runtime.wait(run).await?.ending.as_deref(), Some("[1,4,9,16]"));
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first one that failed, as [`Step::call`]; those under way are dropped.
    pub async fn each<I, T, E, F>(
        self,
        items: impl IntoIterator<Item = I>,
        limit: usize,
        operation: impl Fn(I, StepCall) -> F,
    ) -> Result<Vec<T>, StepError>
    where
        I: Clone,
        T: Serialize + DeserializeOwned,
        E: Classify + std::error::Error + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let operation = &operation;
        let branches = items.into_iter().enumerate().map(|(place, item)| {
            let step = Self { name: format!("{}[{place}]", self.name), ..self.clone() };
            step.call(move |call| operation(item.clone(), call))
        });
        stream::iter(branches).buffered(limit.max(1)).try_collect().await
    }

    fn unwritable(&self, error: &serde_json::Error) -> StepError {
        let message =
            format!("its result cannot be written as JSON ({error}): return something else");
        StepError::at(&self.name, ErrorClass::Malformed, message)
    }

    /// Writes the step ahead if it changes something, and gives its key.
    async fn begin(&self, was_begun: bool) -> String {
        // What is not done in the end is better not announced: nobody would know that it was not.
        self.board.lease.held().await;
        let mut journal = self.board.journal.lock().await;
        let run = journal.run();
        let key = format!("{}-{}-{}", run.id, run.steps.round, self.name);
        if self.effect != Effect::Read && !was_begun {
            let event = RunEvent::StepStarted {
                step: self.name.clone(),
                effect: self.effect,
                undoes: self.undoes,
            };
            self.board.append(&mut journal, event).await;
        }
        key
    }

    async fn attempt<T, E, F>(
        &self,
        key: &str,
        operation: &mut impl FnMut(StepCall) -> F,
    ) -> Result<T, Unmade>
    where
        E: Classify + std::error::Error + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let deadline = Instant::now() + self.timeout;
        self.board.pulse.begins(self.timeout);
        let Some(dependency) = &self.dependency else {
            let call = StepCall { key: key.to_owned(), deadline, attempt: 1 };
            self.board.lease.held().await;
            return match timeout_at(deadline, operation(call)).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(Unmade::new(self.class_of(error.class()), chain(&error))),
                Err(_) => {
                    let class = self.class_of(ErrorClass::Timeout);
                    Err(Unmade::new(class, format!("it did not end within {:?}", self.timeout)))
                }
            };
        };
        let Some(guard) = self.board.shared.catalog.guard(dependency) else {
            let message = format!("there is no dependency `{dependency}` to guard it");
            return Err(Unmade::new(ErrorClass::NotFound, message));
        };
        let context = CallContext::new(self.effect).with_deadline(deadline);
        let called = guard.call(context, |attempt| {
            let (deadline, number) = (attempt.deadline, attempt.number);
            let done = operation(StepCall { key: key.to_owned(), deadline, attempt: number });
            async {
                self.board.lease.held().await;
                done.await
            }
        });
        let called: Result<_, CallError<E>> = called.await;
        called.map(|answer| answer.value).map_err(|error| Unmade {
            quiet: quiet(&error),
            ..Unmade::new(error.class(), chain(&error))
        })
    }

    /// A change that ended so may have taken effect.
    const fn class_of(&self, class: ErrorClass) -> ErrorClass {
        match (self.effect, class) {
            (Effect::Once, ErrorClass::Timeout | ErrorClass::Server | ErrorClass::Malformed) => {
                ErrorClass::OutcomeUnknown
            }
            (_, class) => class,
        }
    }

    async fn fail<T>(&self, class: ErrorClass, message: String) -> Result<T, StepError> {
        let failure = StepFailure { class, message };
        self.append(RunEvent::StepFinished {
            step: self.name.clone(),
            output: None,
            failure: Some(failure.clone()),
            undoes: self.undoes,
        })
        .await;
        Err(StepError::of(&self.name, failure))
    }

    async fn append(&self, event: RunEvent) {
        let mut journal = self.board.journal.lock().await;
        self.board.append(&mut journal, event).await;
    }
}

/// Why a step has not been done.
struct Unmade {
    class: ErrorClass,
    message: String,
    /// For how long its dependency is to be left alone, if it asked for that and took nothing in.
    quiet: Option<Duration>,
}

impl Unmade {
    const fn new(class: ErrorClass, message: String) -> Self {
        Self { class, message, quiet: None }
    }
}

/// For how long a dependency asks to be left alone, if that is longer than its policy waits.
const fn quiet<E>(error: &CallError<E>) -> Option<Duration> {
    match error {
        CallError::RetryLater { retry_after, .. }
        | CallError::Rejected { reason: Rejection::Cooldown { retry_after }, .. } => {
            Some(*retry_after)
        }
        _ => None,
    }
}

/// What a step of this name returned before, as what the code expects now.
pub(super) fn read_back<T: DeserializeOwned>(step: &str, output: Value) -> Result<T, StepError> {
    let stored = shape(&output);
    serde_json::from_value(output).map_err(|error| {
        let expected = std::any::type_name::<T>();
        let message = format!(
            "its result does not fit the code: stored is {stored}, and the code expects a `{expected}` \
             ({}). Give the new step another name, or read the old result",
            misfit(&error)
        );
        StepError::at(step, ErrorClass::Malformed, message)
    })
}

/// Why a value does not fit, without the value: a run's message is read by more people than its log.
fn misfit(error: &serde_json::Error) -> String {
    let told = error.to_string();
    match told.rsplit_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}"),
        None if told.starts_with("missing field") => told,
        None => "its shape differs".to_owned(),
    }
}

/// Names of fields that are told of an object.
const FIELDS_TOLD: usize = 12;

/// What kind of value it is; what it says is for those who may read the log.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "nothing (`null`)".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(fields) => {
            let names: Vec<_> = fields.keys().take(FIELDS_TOLD).map(String::as_str).collect();
            let more = if fields.len() > FIELDS_TOLD { ", ..." } else { "" };
            format!("an object with the fields {}{more}", names.join(", "))
        }
    }
}
