//! One node: store, runtime and what they use, built from the configuration and taken down in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use steadfast_providers::process::{ProcessOwner, sweep_orphans};
use steadfast_runtime::{Catalog, CheckpointPolicy, Retention, Runtime, RuntimeOptions};
use steadfast_store::{PostgresStore, SqliteOptions, SqliteStore, Store};
use tracing::warn;

use crate::config::{Assembly, Config, Services, StorePlace, assemble, verify};

/// Where faults are injected, for people who would otherwise search for their cause; empty if nowhere.
pub(crate) fn drills(catalog: &Catalog) -> Vec<String> {
    let guards = catalog.guards().filter(|guard| guard.snapshot().drill);
    let told = guards.map(|guard| {
        format!("FAULTS ARE INJECTED into calls of `{}`, by its policy's `chaos`", guard.name())
    });
    told.collect()
}

/// Opens the store, and names this instance: by its file, which it has for itself, or by a database that
/// it shares and by where it listens.
async fn open(
    config: &Config,
    listens: Option<SocketAddr>,
) -> anyhow::Result<(Arc<dyn Store>, ProcessOwner)> {
    let (store, owner): (Arc<dyn Store>, String) = match config.store_place()? {
        StorePlace::File(path) => {
            let store = SqliteStore::open(&path, SqliteOptions::default())?;
            let owner = store.id();
            (Arc::new(store), owner)
        }
        StorePlace::Database { url, options } => {
            let store = PostgresStore::connect(url.expose_secret(), options).await?;
            let place = listens.map_or_else(
                || format!("process {}", std::process::id()),
                |address| address.to_string(),
            );
            let owner = format!("{} at {place}", store.id());
            (Arc::new(store), owner)
        }
    };
    Ok((store, ProcessOwner::new(&owner)))
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
    /// and begins to execute runs. Where it listens tells it from other nodes of this machine.
    pub(crate) async fn start(
        config: &Config,
        listens: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        // First: a wrong configuration must not leave a new store behind.
        verify(config).await?;
        let (store, owner) = open(config, listens).await.context("cannot open the store")?;
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
            caps: config.caps(),
            problems: config.problems.clone(),
            retention: Retention {
                succeeded: config.retention.succeeded,
                failed: config.retention.failed,
                cancelled: config.retention.cancelled,
            },
            terms: Some(config.terms()?),
            ..RuntimeOptions::default()
        };
        let runtime = Runtime::start(Arc::clone(&store), catalog, options).await?;
        runtime.set_schedules(config.timetable()?)?;
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
        let graceful = self.runtime.shutdown().await;
        // Also after a failure: no child may be left behind.
        self.services.shutdown().await;
        Ok(graceful?)
    }
}
