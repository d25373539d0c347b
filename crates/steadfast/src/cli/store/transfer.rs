//! `steadfast store export|import|migrate`: everything out, everything in. Nothing is half there: an
//! archive gets its name when it is whole, a store holds something when all of it is in.

use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use serde_json::json;
use steadfast_guard::counted;
use steadfast_runtime::compare;
use steadfast_store::{RunFilter, Store};

use super::super::{Exit, Output, output};
use super::archive::{Counts, Reader, Writer, count};

/// Records after which progress is told where there is no terminal.
const TOLD_EVERY: u64 = 100_000;

/// Tells how far something has got.
pub(super) struct Meter {
    bar: Option<ProgressBar>,
    what: &'static str,
    done: u64,
}

impl Meter {
    pub(super) fn new(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        Self { bar, what, done: 0 }
    }

    pub(super) fn add(&mut self, records: usize) {
        let before = self.done;
        self.done += records as u64;
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{} {}", counted(self.done, "record"), self.what));
                bar.tick();
            }
            None if self.done / TOLD_EVERY > before / TOLD_EVERY => {
                output::talk(&format!("{} {}", counted(self.done, "record"), self.what));
            }
            None => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

pub(super) async fn export(store: &dyn Store, to: &Path) -> anyhow::Result<Exit> {
    if to == Path::new("-") {
        let (_, counts) = write(store, std::io::stdout().lock()).await?;
        output::talk(&told("exported", &counts));
        return Ok(Exit::Done);
    }
    let there = || anyhow::anyhow!("{} is there already: name another file", to.display());
    ensure!(!to.exists(), there());
    let partial = partial(to);
    let place = || format!("cannot write {}", partial.display());
    let (file, counts) = write(store, create(&partial).with_context(place)?).await?;
    file.sync_all().with_context(place)?;
    ensure!(!to.exists(), there());
    std::fs::rename(&partial, to).with_context(place)?;
    output::talk(&told("exported", &counts));
    Ok(Exit::Done)
}

/// Where an archive is while it is not whole.
fn partial(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// A file that only this user can read: prompts and answers are nobody else's business.
fn create(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

async fn write<W: Write>(store: &dyn Store, to: W) -> anyhow::Result<(W, Counts)> {
    let mut meter = Meter::new("exported");
    let mut writer = Writer::begin(BufWriter::new(to), store.id())?;
    let mut dump = store.dump().await?;
    loop {
        let records = dump.next().await?;
        if records.is_empty() {
            break;
        }
        writer.records(&records)?;
        meter.add(records.len());
    }
    let (to, counts) = writer.finish()?;
    meter.finish();
    let to = to.into_inner().map_err(std::io::IntoInnerError::into_error);
    Ok((to.context("cannot write the archive")?, counts))
}

pub(super) async fn import(
    store: Arc<dyn Store>,
    from: &Path,
    format: Output,
) -> anyhow::Result<Exit> {
    let file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let read = || format!("cannot import {}: nothing was imported", from.display());
    let mut reader = Reader::begin(BufReader::new(file)).with_context(read)?;
    let mut meter = Meter::new("imported");
    let mut restore = store.restore().await.with_context(read)?;
    loop {
        let records = reader.records().with_context(read)?;
        if records.is_empty() {
            break;
        }
        meter.add(records.len());
        restore.write(records).await.with_context(read)?;
    }
    restore.finish().await.with_context(read)?;
    meter.finish();
    store.close().await?;
    tell("imported", &reader.counts, format)
}

pub(super) async fn migrate(
    from: Arc<dyn Store>,
    to: Arc<dyn Store>,
    format: Output,
) -> anyhow::Result<Exit> {
    let mut meter = Meter::new("migrated");
    let mut counts = Counts::new();
    let mut restore = to.restore().await?;
    let mut dump = from.dump().await?;
    loop {
        let records = dump.next().await?;
        if records.is_empty() {
            break;
        }
        count(&mut counts, &records);
        meter.add(records.len());
        restore.write(records).await.context("nothing was migrated")?;
    }
    drop(dump);
    restore.finish().await.context("nothing was migrated")?;
    meter.finish();
    verify(from.as_ref(), to.as_ref(), &counts).await?;
    from.close().await?;
    to.close().await?;
    tell("migrated", &counts, format)
}

/// Compares what is in the other store now with what was to come into it.
async fn verify(from: &dyn Store, to: &dyn Store, expected: &Counts) -> anyhow::Result<()> {
    let mut found = Counts::new();
    let mut dump = to.dump().await?;
    loop {
        let records = dump.next().await?;
        if records.is_empty() {
            break;
        }
        count(&mut found, &records);
    }
    ensure!(
        found == *expected,
        "{} holds {} instead of {}",
        to.describe(),
        listed(&found),
        listed(expected)
    );
    let mut meter = Meter::new("compared");
    let mut filter = RunFilter { limit: 500, ..RunFilter::default() };
    loop {
        let page = from.list(filter.clone()).await?;
        for head in &page.runs {
            if let Some(difference) = compare(from, to, head.id).await? {
                bail!("run {} differs in {}: {difference}", head.id, to.describe());
            }
        }
        meter.add(page.runs.len());
        if page.next.is_none() {
            meter.finish();
            return Ok(());
        }
        filter.before = page.next;
    }
}

fn told(done: &str, counts: &Counts) -> String {
    if counts.is_empty() {
        return format!("{done}: nothing, the store was empty");
    }
    format!("{done}: {}", listed(counts))
}

/// The counts in words.
fn listed(counts: &Counts) -> String {
    let said = |(kind, count): (&String, &u64)| match kind.as_str() {
        "blob_use" => format!("{} of a blob", counted(*count, "use")),
        "letter_taken" => format!("{} taken up", counted(*count, "letter")),
        kind => counted(*count, kind),
    };
    counts.iter().map(said).collect::<Vec<_>>().join(", ")
}

fn tell(done: &str, counts: &Counts, format: Output) -> anyhow::Result<Exit> {
    match format {
        Output::Json => output::json(&json!({ done: counts }))?,
        Output::Text => output::data(&told(done, counts))?,
    }
    Ok(Exit::Done)
}
