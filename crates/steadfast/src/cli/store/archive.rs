//! The file that `export` writes and `import` reads: JSON lines. The first names the format, each that
//! follows is one record, the last one says how many of each kind there are and what everything before it
//! hashes to, so that a file that was cut or changed is noticed.

use std::collections::BTreeMap;
use std::io::{BufRead, Read as _, Write};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use steadfast_store::Record;

/// The version of the format. One that is raised can still read the earlier ones. Since 2 there are accounts,
/// holds and entries.
const VERSION: u32 = 2;

/// Longest line that is read: the largest value, with every byte escaped.
const LINE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// How many records of each kind.
pub(super) type Counts = BTreeMap<String, u64>;

#[derive(Serialize, Deserialize)]
struct Header {
    steadfast_archive: u32,
    release: String,
    store: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    records: Counts,
    blake3: String,
}

/// Adds records to the counts.
pub(super) fn count(counts: &mut Counts, records: &[Record]) {
    for record in records {
        *counts.entry(record.kind().to_owned()).or_default() += 1;
    }
}

/// Writes an archive.
pub(super) struct Writer<W> {
    to: W,
    hash: blake3::Hasher,
    pub(super) counts: Counts,
}

impl<W: Write> Writer<W> {
    /// Begins with the header; `store` is the id of the store.
    pub(super) fn begin(to: W, store: String) -> anyhow::Result<Self> {
        let mut writer = Self { to, hash: blake3::Hasher::new(), counts: Counts::new() };
        let release = env!("CARGO_PKG_VERSION").to_owned();
        writer.line(&Header { steadfast_archive: VERSION, release, store })?;
        Ok(writer)
    }

    fn line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.to.write_all(&line).context("cannot write the archive")
    }

    pub(super) fn records(&mut self, records: &[Record]) -> anyhow::Result<()> {
        count(&mut self.counts, records);
        records.iter().try_for_each(|record| self.line(record))
    }

    /// Ends with the trailer.
    pub(super) fn finish(mut self) -> anyhow::Result<(W, Counts)> {
        let blake3 = self.hash.finalize().to_hex().to_string();
        self.line(&Trailer { records: self.counts.clone(), blake3 })?;
        self.to.flush().context("cannot write the archive")?;
        Ok((self.to, self.counts))
    }
}

/// Reads an archive.
pub(super) struct Reader<R> {
    from: R,
    line: Vec<u8>,
    number: u64,
    hash: blake3::Hasher,
    pub(super) counts: Counts,
    is_over: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    pub(super) fn begin(from: R) -> anyhow::Result<Self> {
        let (hash, counts) = (blake3::Hasher::new(), Counts::new());
        let mut reader = Self { from, line: Vec::new(), number: 0, hash, counts, is_over: false };
        ensure!(
            reader.next_line()?,
            "it is empty: name a file that `steadfast store export` wrote"
        );
        let header: Header = serde_json::from_slice(&reader.line).context(
            "line 1 is not the header of an archive: name a file that `steadfast store \
                      export` wrote",
        )?;
        let version = header.steadfast_archive;
        ensure!(
            version <= VERSION,
            "it is an archive of format {version} and this release knows formats up to {VERSION}: \
             use the release that wrote it ({}), or a newer one",
            header.release
        );
        reader.hash.update(&reader.line);
        Ok(reader)
    }

    /// Reads the next line; whether there is one.
    fn next_line(&mut self) -> anyhow::Result<bool> {
        self.line.clear();
        self.number += 1;
        let mut limited = (&mut self.from).take(LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut self.line).context("cannot read the archive")?;
        ensure!((read as u64) < LINE_BYTES_MAX, "line {} is longer than 512 MiB", self.number);
        Ok(read > 0)
    }

    /// The next records, at most some hundred; empty once the trailer has been read and fits.
    pub(super) fn records(&mut self) -> anyhow::Result<Vec<Record>> {
        let (mut records, mut size_bytes) = (Vec::new(), 0);
        while !self.is_over && records.len() < 512 && size_bytes < 4 * 1024 * 1024 {
            if !self.next_line()? || self.line.last() != Some(&b'\n') {
                bail!(
                    "it ends at line {}, before its trailer: it was cut; export again",
                    self.number
                );
            }
            if let Ok(trailer) = serde_json::from_slice::<Trailer>(&self.line) {
                count(&mut self.counts, &records);
                self.check(&trailer)?;
                return Ok(records);
            }
            let record: Record = serde_json::from_slice(&self.line)
                .with_context(|| format!("line {} is no record", self.number))?;
            self.hash.update(&self.line);
            size_bytes += record.size_bytes();
            records.push(record);
        }
        count(&mut self.counts, &records);
        Ok(records)
    }

    fn check(&mut self, trailer: &Trailer) -> anyhow::Result<()> {
        self.is_over = true;
        ensure!(
            trailer.records == self.counts && trailer.blake3 == self.hash.finalize().to_hex()[..],
            "its trailer does not fit what comes before it: it was changed; export again"
        );
        ensure!(!self.next_line()?, "something follows its trailer at line {}", self.number);
        Ok(())
    }
}
