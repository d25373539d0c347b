//! Upkeep and archives.

use async_trait::async_trait;

use super::PostgresStore;
use crate::{Archive, Dump, Prune, Pruned, Restore, StoreError, Upkeep};

#[async_trait]
impl Upkeep for PostgresStore {
    async fn prune(&self, _: &Prune) -> Result<Pruned, StoreError> {
        Err(self.address.unavailable("pruning"))
    }

    async fn examine(&self) -> Result<Vec<String>, StoreError> {
        Err(self.address.unavailable("examining"))
    }
}

#[async_trait]
impl Archive for PostgresStore {
    async fn dump(&self) -> Result<Box<dyn Dump>, StoreError> {
        Err(self.address.unavailable("dumping"))
    }

    async fn restore(&self) -> Result<Box<dyn Restore>, StoreError> {
        Err(self.address.unavailable("restoring"))
    }
}
