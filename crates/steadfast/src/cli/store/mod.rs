//! `steadfast store`: looking after a store.
//!
//! `check`, `backup` and `export` look at one moment of a store that a server may be using. `import`,
//! `migrate` and `prune` need a file for themselves and are refused while another process has it; a database
//! can be pruned while nodes use it.

mod archive;
mod check;
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use secrecy::ExposeSecret as _;
use serde_json::json;
use steadfast_guard::counted;
use steadfast_runtime::Status;
use steadfast_store::{PostgresStore, Prune, Pruned, SqliteOptions, SqliteStore, Store, Timestamp};

use super::ps::state;
use super::{Exit, Output, output};
use crate::config::{Config, ConfigError, StorePlace};

/// What is done with a store.
#[derive(Debug, Subcommand)]
pub(super) enum StoreAction {
    /// Look for damage: the file, every log, every blob, every checkpoint and card. Changes nothing.
    Check,
    /// Copy the store into a new file, also while a server uses it.
    Backup {
        /// The copy; must not exist.
        to: PathBuf,
    },
    /// Write everything as JSON lines, also while a server uses the store.
    Export {
        /// The file; must not exist. `-` writes to standard output.
        to: PathBuf,
    },
    /// Take what `export` wrote into an empty store: all of it, or nothing.
    Import {
        /// The file.
        from: PathBuf,
    },
    /// Take everything into another, empty store, and compare.
    Migrate {
        /// The other store: a file, a `postgres://` URL without a password, or `env:VARIABLE`.
        #[arg(long)]
        to: String,
    },
    /// Remove runs that ended long ago, with all that belongs to them.
    Prune {
        /// How long ago, such as `30d`.
        #[arg(long, value_parser = duration)]
        older_than: Duration,
        /// Only in these states. Default: however they ended.
        #[arg(long, value_parser = state)]
        state: Vec<Status>,
    },
}

/// A duration as people write it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    serde_json::from_value::<humantime_serde::Serde<Duration>>(json!(text))
        .map(humantime_serde::Serde::into_inner)
        .map_err(|_| "it is not a duration such as `30d` or `12h`".to_owned())
}

pub(super) async fn store(
    place: Option<String>,
    config: Option<&Path>,
    action: StoreAction,
    format: Output,
) -> anyhow::Result<Exit> {
    let place = match place {
        Some(named) => find("--store", &named, config)?,
        None => Config::load(config)?.store_place()?,
    };
    match action {
        StoreAction::Check => check::check(inspect(&place).await?.as_ref(), format).await,
        StoreAction::Backup { to } => back_up(file(&place)?, &to, format).await,
        StoreAction::Export { to } => transfer::export(inspect(&place).await?.as_ref(), &to).await,
        StoreAction::Import { from } => transfer::import(open(&place).await?, &from, format).await,
        StoreAction::Migrate { to } => {
            let to = find("--to", &to, config)?;
            let from = open_existing(&place).await?;
            refuse_in_use(&place).await?;
            transfer::migrate(from, open(&to).await?, format).await
        }
        StoreAction::Prune { older_than, state } => {
            prune(open_existing(&place).await?, older_than, &state, format).await
        }
    }
}

/// What a command wants of a store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// To see it as it is at this moment, whoever uses it.
    Look,
    /// To change what is there.
    Change,
    /// To change it, and to make it if it is not there.
    Make,
}

/// The store that `--store` or the configuration names.
pub(super) async fn store_for(
    place: Option<String>,
    config: Option<&Path>,
    intent: Use,
) -> anyhow::Result<Arc<dyn Store>> {
    let place = match place {
        Some(named) => find("--store", &named, config)?,
        None => Config::load(config)?.store_place()?,
    };
    match intent {
        Use::Look => inspect(&place).await,
        Use::Change => open_existing(&place).await,
        Use::Make => open(&place).await,
    }
}

/// What a word of the command line names: a file, or a database by its URL or its variable. The schema of a
/// database is the configuration's, if there is one.
fn find(option: &str, named: &str, config: Option<&Path>) -> anyhow::Result<StorePlace> {
    if !named.contains("://") && !named.starts_with("env:") {
        return Ok(StorePlace::File(named.into()));
    }
    let schema = match Config::load(config) {
        Ok(config) => config.store.schema,
        Err(ConfigError::Unreadable { .. }) if config.is_none() => None,
        Err(error) => return Err(error.into()),
    };
    Ok(StorePlace::database(option, named, schema)?)
}

/// The file that a place names.
fn file(place: &StorePlace) -> anyhow::Result<&Path> {
    match place {
        StorePlace::File(path) => Ok(path),
        StorePlace::Database { .. } => bail!(
            "this command needs the path of a SQLite store, not a URL: a database is backed up with \
             `pg_dump`, or as an archive with `steadfast store export`"
        ),
    }
}

/// A store as it is at this moment, whoever uses it.
async fn inspect(place: &StorePlace) -> anyhow::Result<Arc<dyn Store>> {
    let problem = "cannot read the store";
    Ok(match place {
        StorePlace::File(path) => Arc::new(SqliteStore::inspect(path).context(problem)?),
        StorePlace::Database { url, options } => {
            let store = PostgresStore::inspect(url.expose_secret(), options.clone()).await;
            Arc::new(store.context(problem)?)
        }
    })
}

/// A store to be changed: a file is this process's alone, a database may have nodes.
async fn open(place: &StorePlace) -> anyhow::Result<Arc<dyn Store>> {
    let problem = "cannot open the store";
    Ok(match place {
        StorePlace::File(path) => {
            Arc::new(SqliteStore::open(path, SqliteOptions::default()).context(problem)?)
        }
        StorePlace::Database { url, options } => {
            let store = PostgresStore::connect(url.expose_secret(), options.clone()).await;
            Arc::new(store.context(problem)?)
        }
    })
}

async fn open_existing(place: &StorePlace) -> anyhow::Result<Arc<dyn Store>> {
    match place {
        StorePlace::File(path) if !path.exists() => {
            bail!("there is no store at {}: name one with `--store`", path.display())
        }
        StorePlace::Database { url, options }
            if !PostgresStore::exists(url.expose_secret(), options).await? =>
        {
            bail!(
                "there is no store in the schema `{}` of the database: name another one with \
                 `--store`, or `store.schema` in the configuration",
                options.schema
            )
        }
        StorePlace::File(_) | StorePlace::Database { .. } => open(place).await,
    }
}

/// What a node would write while a store is carried over would be lost. A file is held by one process anyway.
async fn refuse_in_use(place: &StorePlace) -> anyhow::Result<()> {
    let StorePlace::Database { url, options } = place else { return Ok(()) };
    let store = PostgresStore::inspect(url.expose_secret(), options.clone()).await?;
    let nodes = store.nodes().await?;
    store.close().await?;
    ensure!(
        nodes == 0,
        "{} is in use by {}: stop what runs there, or wait until its lease is over",
        store.describe(),
        counted(nodes as u64, "node")
    );
    Ok(())
}

async fn back_up(from: &Path, to: &Path, format: Output) -> anyhow::Result<Exit> {
    output::talk(&format!("copying {} to {}", from.display(), to.display()));
    let (source, target) = (from.to_owned(), to.to_owned());
    tokio::task::spawn_blocking(move || SqliteStore::back_up(source, target))
        .await?
        .context("there is no backup")?;
    let size_bytes = to.metadata()?.len();
    match format {
        Output::Json => output::json(&json!({ "backup": to, "size_bytes": size_bytes }))?,
        Output::Text => output::data(&format!("{}: {size_bytes} bytes, checked", to.display()))?,
    }
    Ok(Exit::Done)
}

/// Runs that are removed before progress is told.
const PRUNED_AT_ONCE: usize = 500;

async fn prune(
    store: Arc<dyn Store>,
    older_than: Duration,
    states: &[Status],
    format: Output,
) -> anyhow::Result<Exit> {
    let age_ms = i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX);
    let wanted = Prune {
        states: states.iter().map(|state| state.as_str().to_owned()).collect(),
        ended_before: Timestamp(store.now().0.saturating_sub(age_ms)),
        limit: PRUNED_AT_ONCE,
    };
    let mut all = Pruned::default();
    loop {
        let pruned = store.prune(&wanted).await?;
        all = all.plus(pruned);
        if pruned.runs < PRUNED_AT_ONCE as u64 {
            break;
        }
        output::talk(&format!("removed {}", counted(all.runs, "run")));
    }
    store.close().await?;
    let Pruned { runs, events, blobs, bytes } = all;
    match format {
        Output::Json => output::json(
            &json!({ "runs": runs, "events": events, "blobs": blobs, "size_bytes": bytes }),
        )?,
        Output::Text => output::data(&format!(
            "removed {} with {} and {}: {}",
            counted(runs, "run"),
            counted(events, "event"),
            counted(blobs, "blob"),
            counted(bytes, "byte")
        ))?,
    }
    Ok(Exit::Done)
}
