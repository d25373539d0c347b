//! `steadfast store`: looking after a store.
//!
//! `check`, `backup` and `export` look at one moment of a store that a server may be using. `import`,
//! `migrate` and `prune` need it for themselves and are refused while another process has it.

mod archive;
mod check;
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::json;
use steadfast_runtime::Status;
use steadfast_store::{Prune, Pruned, SqliteOptions, SqliteStore, Store, Timestamp};

use super::ps::state;
use super::{Exit, Output, output};
use crate::config::Config;

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
        /// The other store.
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

fn duration(text: &str) -> Result<Duration, String> {
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
        Some(place) => place,
        None => {
            let config = Config::load(config)?;
            config.resolve(&config.store.path).display().to_string()
        }
    };
    match action {
        StoreAction::Check => check::check(inspect(&place)?.as_ref(), format).await,
        StoreAction::Backup { to } => back_up(file(&place)?, &to, format).await,
        StoreAction::Export { to } => transfer::export(inspect(&place)?.as_ref(), &to).await,
        StoreAction::Import { from } => transfer::import(open(&place)?, &from, format).await,
        StoreAction::Migrate { to } => {
            let from = open_existing(&place)?;
            transfer::migrate(from, open(&to)?, format).await
        }
        StoreAction::Prune { older_than, state } => {
            prune(open_existing(&place)?, older_than, &state, format).await
        }
    }
}

/// The file that a place names.
fn file(place: &str) -> anyhow::Result<&Path> {
    if place.contains("://") {
        bail!("this command needs the path of a SQLite store, not a URL");
    }
    Ok(Path::new(place))
}

/// A store as it is at this moment, whoever uses it.
fn inspect(place: &str) -> anyhow::Result<Arc<dyn Store>> {
    let store = SqliteStore::inspect(file(place)?).context("cannot read the store")?;
    Ok(Arc::new(store))
}

/// A store that is this process's alone.
fn open(place: &str) -> anyhow::Result<Arc<dyn Store>> {
    let store = SqliteStore::open(file(place)?, SqliteOptions::default());
    Ok(Arc::new(store.context("cannot open the store")?))
}

fn open_existing(place: &str) -> anyhow::Result<Arc<dyn Store>> {
    if !file(place)?.exists() {
        bail!("there is no store at {place}: name one with `--store`");
    }
    open(place)
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
        Output::Text => output::data(&format!("{}: {size_bytes} bytes, checked", to.display())),
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
        output::talk(&format!("removed {} runs", all.runs));
    }
    store.close().await?;
    let Pruned { runs, events, blobs, bytes } = all;
    match format {
        Output::Json => output::json(
            &json!({ "runs": runs, "events": events, "blobs": blobs, "size_bytes": bytes }),
        )?,
        Output::Text => output::data(&format!(
            "removed {runs} runs with {events} events and {blobs} blobs: {bytes} bytes"
        )),
    }
    Ok(Exit::Done)
}
