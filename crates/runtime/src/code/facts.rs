//! Facts for the code of a run: each read and each write is a step of its own.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use steadfast_guard::ErrorClass;
use steadfast_store::{FactFilter, FactWrite};

use super::RunContext;
use super::step::{Step, StepError};
use crate::call::chain;
use crate::error::RuntimeError;
use crate::memory::{FactScope, MemoryScope};

/// The facts of one scope, as a run's code sees them. Every method is a step of the name that it is given,
/// done once: what was read is remembered with the run, and what is written is on disk together with the
/// step, or neither is.
#[derive(Clone, Debug)]
pub struct RunFacts {
    run: RunContext,
    scope: Option<FactScope>,
}

impl RunContext {
    /// The facts that this run shares with others.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use steadfast_runtime::code::{RunContext, StepError};
    /// # use steadfast_runtime::{Catalog, FactScope, MemoryScope, Runtime, RuntimeOptions, SubmitRun};
    /// # use steadfast_store::MemoryStore;
    /// async fn count(run: RunContext) -> Result<u64, StepError> {
    ///     let facts = run.facts(MemoryScope::Tenant);
    ///     let before: Option<u64> = facts.get("read the count", "runs").await?;
    ///     let count = before.unwrap_or(0) + 1;
    ///     facts.set("write the count", "runs", &count).await?;
    ///     Ok(count)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let catalog = Catalog::builder().code("count", count).build()?;
    /// # let runtime =
    /// #     Runtime::start(Arc::new(MemoryStore::new()), catalog, RuntimeOptions::default()).await?;
    /// for _ in 0..2 {
    ///     let submitted = runtime.submit(SubmitRun::new("count", "null")).await?;
    ///     runtime.wait(submitted.run.id).await?;
    /// }
    /// let facts = runtime.facts(FactScope::Tenant { tenant: "default".to_owned() });
    /// assert_eq!(facts.get("runs").await?.map(|fact| fact.value), Some(2.into()));
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn facts(&self, scope: MemoryScope) -> RunFacts {
        let board = &self.board;
        let session = board.session.as_deref();
        let scope = FactScope::of(scope, &board.tenant, &board.agent, session);
        RunFacts { run: self.clone(), scope }
    }
}

impl RunFacts {
    /// A fact, or `None` if it is not known.
    ///
    /// # Errors
    /// The run belongs to no session, the key is not acceptable, what is known is no `T`; as
    /// [`Step::call`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        step: impl Into<String>,
        key: &str,
    ) -> Result<Option<T>, StepError> {
        let name = self.scope()?.name(key).map_err(|error| refused(&error))?;
        let (name, store) = (&name, &self.run.board.store);
        let read = self.run.step(step).read().call(|_| async move {
            let fact = store.fact(name).await.map_err(|error| unread(&error))?;
            fact.map(|fact| serde_json::from_slice::<Value>(&fact.value))
                .transpose()
                .map_err(garbled)
        });
        let value: Option<Value> = read.await?;
        value.map(|value| serde_json::from_value(value).map_err(garbled)).transpose()
    }

    /// The keys that begin so and hold, at most 1000, each with its value.
    ///
    /// # Errors
    /// As [`RunFacts::get`].
    pub async fn list(
        &self,
        step: impl Into<String>,
        prefix: &str,
    ) -> Result<Vec<(String, Value)>, StepError> {
        let filter = FactFilter {
            scope: self.scope()?.stored(),
            prefix: prefix.to_owned(),
            after: None,
            limit: 1000,
        };
        let (filter, store) = (&filter, &self.run.board.store);
        let read = self.run.step(step).read().call(|_| async move {
            let facts = store.facts(filter.clone()).await.map_err(|error| unread(&error))?;
            let pairs = facts
                .into_iter()
                .map(|fact| Ok((fact.key, serde_json::from_slice(&fact.value).map_err(garbled)?)));
            pairs.collect::<Result<Vec<_>, StepError>>()
        });
        read.await
    }

    /// Makes a fact true for good.
    ///
    /// # Errors
    /// The run belongs to no session, the key is not acceptable, the value is too large; as
    /// [`Step::call`].
    pub async fn set(
        &self,
        step: impl Into<String>,
        key: &str,
        value: &impl Serialize,
    ) -> Result<(), StepError> {
        self.write(step, self.made(key, value, None)?).await
    }

    /// Makes a fact true for so long.
    ///
    /// # Errors
    /// As [`RunFacts::set`].
    pub async fn set_for(
        &self,
        step: impl Into<String>,
        key: &str,
        value: &impl Serialize,
        keep: Duration,
    ) -> Result<(), StepError> {
        self.write(step, self.made(key, value, Some(keep))?).await
    }

    /// Forgets a fact.
    ///
    /// # Errors
    /// As [`RunFacts::set`].
    pub async fn forget(&self, step: impl Into<String>, key: &str) -> Result<(), StepError> {
        let write = self.scope()?.forget(key).map_err(|error| refused(&error))?;
        self.write(step, write).await
    }

    fn scope(&self) -> Result<&FactScope, StepError> {
        self.scope
            .as_ref()
            .ok_or_else(|| StepError::failed("the run belongs to no session: submit it with one"))
    }

    fn made(
        &self,
        key: &str,
        value: &impl Serialize,
        keep: Option<Duration>,
    ) -> Result<FactWrite, StepError> {
        let value = serde_json::to_value(value).map_err(garbled)?;
        self.scope()?.write(key, &value, keep).map_err(|error| refused(&error))
    }

    /// The step does nothing but to be written down, and the fact with it.
    async fn write(&self, step: impl Into<String>, fact: FactWrite) -> Result<(), StepError> {
        let described = self.run.step(step).read();
        let step = Step { facts: vec![fact], ..described };
        step.call(|_| async { Ok::<_, StepError>(()) }).await
    }
}

fn refused(error: &RuntimeError) -> StepError {
    StepError::failed(error.to_string())
}

fn unread(error: &steadfast_store::StoreError) -> StepError {
    let message = format!("the fact cannot be read: {}", chain(error));
    StepError { step: None, class: ErrorClass::Unavailable, message, child: None }
}

#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
fn garbled(error: serde_json::Error) -> StepError {
    let message = format!("the fact is not as expected: {error}");
    StepError { step: None, class: ErrorClass::Malformed, message, child: None }
}
