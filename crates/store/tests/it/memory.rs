//! The store in memory passes the suite.

use std::sync::Arc;

use steadfast_store::{MemoryStore, Store};

#[expect(clippy::unused_async, reason = "the suite opens every backend alike")]
async fn open() -> (Arc<dyn Store>, ()) {
    (Arc::new(MemoryStore::new()), ())
}

steadfast_store::contract_tests!(open);
