//! The store in a file passes the suite.

mod contract {
    use std::sync::Arc;

    use steadfast_store::{SqliteOptions, SqliteStore, Store};

    #[expect(clippy::unused_async, reason = "the suite opens every backend alike")]
    async fn open() -> (Arc<dyn Store>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("steadfast.db");
        (Arc::new(SqliteStore::open(path, SqliteOptions::default()).unwrap()), directory)
    }

    steadfast_store::contract_tests!(open);
}
