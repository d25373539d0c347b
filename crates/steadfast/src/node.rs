//! One node: store, runtime and what they use, built from the configuration and taken down in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use steadfast_providers::process::{ProcessOwner, sweep_orphans};
use steadfast_runtime::{Catalog, CheckpointPolicy, Retention, Runtime, RuntimeOptions};
use steadfast_store::{SqliteOptions, SqliteStore, Store};
use tracing::warn;

use crate::config::{Assembly, Config, Services, assemble, verify};

/// Where faults are injected, for people who would otherwise search for their cause; empty if nowhere.
pub(crate) fn drills(catalog: &Catalog) -> Vec<String> {
    let guards = catalog.guards().filter(|guard| guard.snapshot().drill);
    let told = guards.map(|guard| {
        format!("FAULTS ARE INJECTED into calls of `{}`, by its policy's `chaos`", guard.name())
    });
    told.collect()
}

/// How long orphans of a node that died may take to end before they are killed.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

/// A running node.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    services: Services,
    store: Arc<dyn Store>,
}

impl Node {
    /// Checks the configuration, opens the store, ends what an earlier node left behind, starts what the configuration names,
    /// and begins to execute runs.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Self> {
        // First: a wrong configuration must not leave a new store behind.
        verify(config).await?;
        let path = config.resolve(&config.store.path);
        let store: Arc<dyn Store> = Arc::new(
            SqliteStore::open(&path, SqliteOptions::default())
                .with_context(|| "cannot open the store".to_owned())?,
        );
        let owner = ProcessOwner::new(&store.id());
        // Children of a node that was killed may still be at work; a run must not verify an effect
        // that is still being made.
        let swept = sweep_orphans(owner.id(), ORPHAN_GRACE).await;
        if swept > 0 {
            warn!(swept, "ended child processes that an earlier node had left behind");
        }
        let Assembly { catalog, services } = assemble(config, &owner).await?;
        let options = RuntimeOptions {
            concurrency: config.runtime.concurrency,
            lease_ttl: config.runtime.lease_ttl,
            drain_timeout: config.runtime.drain_timeout,
            checkpoints: CheckpointPolicy {
                interval: config.runtime.checkpoint_interval,
                ..CheckpointPolicy::default()
            },
            retention: Retention {
                succeeded: config.retention.succeeded,
                failed: config.retention.failed,
                cancelled: config.retention.cancelled,
            },
            ..RuntimeOptions::default()
        };
        let runtime = Runtime::start(Arc::clone(&store), catalog, options).await?;
        Ok(Self { runtime, services, store })
    }

    /// Whether a model is scripted.
    pub(crate) const fn simulated(&self) -> bool {
        !self.services.simulated.is_empty()
    }

    /// What and where the store is.
    pub(crate) fn store(&self) -> String {
        self.store.describe()
    }

    /// Drains and ends everything; `true` if every step ended by itself.
    pub(crate) async fn stop(self) -> anyhow::Result<bool> {
        let graceful = self.runtime.shutdown().await?;
        self.services.shutdown().await;
        Ok(graceful)
    }
}
