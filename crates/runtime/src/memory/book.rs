//! Facts for code and people: read and written at once, beside any run.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_store::{Fact, FactFilter, Store, StoreError, Timestamp};

use super::FactScope;
use crate::error::RuntimeError;

/// A fact as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactView {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// 1 when it was first written; each later write adds one.
    pub version: u64,
    /// When it was last written, in milliseconds since 1970 UTC.
    pub at: Timestamp,
    /// When it ends to hold, if it does.
    pub expires_at: Option<Timestamp>,
}

impl FactView {
    pub(super) fn of(fact: Fact) -> Result<Self, StoreError> {
        let value = serde_json::from_slice(&fact.value).map_err(|error| StoreError::Damaged {
            what: "a fact",
            place: format!("key `{}`", fact.key),
            problem: error.to_string(),
        })?;
        let Fact { key, version, at, expires_at, .. } = fact;
        Ok(Self { key, value, version, at, expires_at })
    }
}

/// Which facts of a scope a list shows.
#[derive(Clone, Debug, Default)]
pub struct FactQuery {
    /// Only keys that begin so.
    pub prefix: String,
    /// Only keys after this one: the cursor that the page before ended with.
    pub after: Option<String>,
    /// Rows on a page; 0 means 100, and more than 1000 means 1000.
    pub limit: usize,
}

/// The facts of one scope.
#[derive(Clone)]
pub struct FactBook {
    store: Arc<dyn Store>,
    scope: FactScope,
}

impl std::fmt::Debug for FactBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FactBook").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl FactBook {
    pub(crate) const fn new(store: Arc<dyn Store>, scope: FactScope) -> Self {
        Self { store, scope }
    }

    /// A fact, or `None` if it is not known or no longer holds.
    ///
    /// # Errors
    /// The key is not acceptable, or the store failed.
    pub async fn get(&self, key: &str) -> Result<Option<FactView>, RuntimeError> {
        let fact = self.store.fact(&self.scope.name(key)?).await?;
        Ok(fact.map(FactView::of).transpose()?)
    }

    /// Facts that hold, by key, one page.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(&self, query: FactQuery) -> Result<Vec<FactView>, RuntimeError> {
        let FactQuery { prefix, after, limit } = query;
        let filter = FactFilter { scope: self.scope.stored(), prefix, after, limit };
        let facts = self.store.facts(filter).await?;
        Ok(facts.into_iter().map(FactView::of).collect::<Result<_, _>>()?)
    }

    /// Makes a fact true, for good or for so long. Once it has returned, it is on disk.
    ///
    /// # Errors
    /// The key is not acceptable, the value is too large, or the store failed.
    pub async fn set(
        &self,
        key: &str,
        value: &Value,
        keep: Option<Duration>,
    ) -> Result<(), RuntimeError> {
        let write = self.scope.write(key, value, keep)?;
        Ok(self.store.write_facts(vec![write]).await?)
    }

    /// Forgets a fact. Once it has returned, that is on disk. One that is not known is forgotten, too.
    ///
    /// # Errors
    /// The key is not acceptable, or the store failed.
    pub async fn forget(&self, key: &str) -> Result<(), RuntimeError> {
        let write = self.scope.forget(key)?;
        Ok(self.store.write_facts(vec![write]).await?)
    }
}
