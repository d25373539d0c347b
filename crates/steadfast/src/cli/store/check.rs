//! `steadfast store check`: everything is read once, with the eyes of whoever would use it.

use serde_json::json;
use steadfast_guard::counted;
use steadfast_runtime::{audit, remedied};
use steadfast_store::{BlobHash, Record, RunFilter, Store, StoreError};

use super::super::{Exit, Output, output};
use super::transfer::Meter;

/// Runs read at once.
const PAGE: usize = 500;

pub(super) async fn check(store: &dyn Store, format: Output) -> anyhow::Result<Exit> {
    let mut meter = Meter::new("checked");
    let mut findings = store.examine().await?;
    bodies(store, &mut meter, &mut findings).await?;
    let runs = runs(store, &mut meter, &mut findings).await?;
    meter.finish();
    let ok = findings.is_empty();
    match format {
        Output::Json => output::json(&json!({ "ok": ok, "runs": runs, "findings": findings }))?,
        Output::Text => {
            for finding in &findings {
                output::data(finding)?;
            }
            if ok {
                let runs = counted(runs, "run");
                output::data(&format!("ok: {}, {runs}", store.describe()))?;
            } else {
                let found = counted(findings.len() as u64, "finding");
                output::talk(&format!("{found} in {}", store.describe()));
            }
        }
    }
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

/// Reads every record; blobs must have their hashes.
async fn bodies(
    store: &dyn Store,
    meter: &mut Meter,
    findings: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut dump = store.dump().await?;
    loop {
        let records = match dump.next().await {
            Ok(records) if records.is_empty() => return Ok(()),
            Ok(records) => records,
            Err(error @ StoreError::Damaged { .. }) => {
                findings.push(remedied(&error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        meter.add(records.len());
        for record in records {
            if let Record::Blob { hash, body } = record
                && BlobHash::of(&body) != hash
            {
                findings.push(StoreError::Corrupt { hash }.to_string());
            }
        }
    }
}

/// Folds every run; how many there are.
async fn runs(
    store: &dyn Store,
    meter: &mut Meter,
    findings: &mut Vec<String>,
) -> anyhow::Result<u64> {
    let mut filter = RunFilter { limit: PAGE, ..RunFilter::default() };
    let mut runs = 0;
    loop {
        let page = match store.list(filter.clone()).await {
            Ok(page) => page,
            Err(error @ StoreError::Damaged { .. }) => {
                findings.push(remedied(&error.to_string()));
                return Ok(runs);
            }
            Err(error) => return Err(error.into()),
        };
        for head in &page.runs {
            runs += 1;
            meter.add(1);
            match audit(store, head).await {
                Ok(flaws) => {
                    findings.extend(flaws.iter().map(|flaw| format!("run {}: {flaw}", head.id)));
                }
                Err(error @ StoreError::Unavailable { .. }) => return Err(error.into()),
                Err(error) => findings.push(remedied(&format!("run {}: {error}", head.id))),
            }
        }
        if page.next.is_none() {
            return Ok(runs);
        }
        filter.before = page.next;
    }
}
