//! What a disk can hold after a power cut, by what was done to it before.
//!
//! What was synced is there. Of what was written to a file since its last sync, any part may be there, in
//! sectors; the last write may be torn anywhere. A file that grew may be as long as it became and hold
//! something else where its data was not written. Names that were made or removed since the folder was last
//! synced may be so or not, in the order in which it was done.

use std::collections::BTreeMap;
use std::path::Path;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Create {
        name: String,
    },
    Remove {
        name: String,
    },
    Write {
        name: String,
        offset: usize,
        data: Vec<u8>,
    },
    Resize {
        name: String,
        size: usize,
    },
    Sync {
        name: String,
    },
    SyncFolder,
    /// The process told somebody something, on standard output or standard error.
    Say {
        text: String,
    },
}

/// The records of `shim/medium.c`. The last one may be cut off, if the process was killed.
pub(super) fn read_log(mut log: &[u8]) -> Vec<Deed> {
    let mut deeds = Vec::new();
    while let Some((head, rest)) = log.split_at_checked(14) {
        let name_length = usize::from(head[1]);
        let length = u32::from_le_bytes(head[2..6].try_into().expect("four bytes")) as usize;
        let offset = u64::from_le_bytes(head[6..14].try_into().expect("eight bytes"));
        let offset = usize::try_from(offset).expect("fits in memory");
        let Some((name, rest)) = rest.split_at_checked(name_length) else { break };
        let Some((data, rest)) = rest.split_at_checked(length) else { break };
        log = rest;
        let name = String::from_utf8(name.to_vec()).expect("names here are UTF-8");
        deeds.push(match head[0] {
            b'C' => Deed::Create { name },
            b'U' => Deed::Remove { name },
            b'W' => Deed::Write { name, offset, data: data.to_vec() },
            b'T' => Deed::Resize { name, size: offset },
            b'S' => Deed::Sync { name },
            b'D' => Deed::SyncFolder,
            b'A' => Deed::Say { text: String::from_utf8_lossy(data).into_owned() },
            other => panic!("{name} ({other}) is not in the model: add it"),
        });
    }
    deeds
}

/// A seed for [`Dice`], another one each time.
pub(crate) fn seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), "power")
}

/// Where to cut the power, sorted: half of the places are right before or after a sync, where something is
/// decided; the others are anywhere, where something may be torn.
pub(crate) fn places(deeds: &[Deed], count: usize, dice: &mut Dice) -> Vec<usize> {
    let is_sync = |at: &usize| matches!(deeds[*at], Deed::Sync { .. } | Deed::SyncFolder);
    let near_syncs: Vec<usize> =
        (0..deeds.len()).filter(is_sync).flat_map(|at| [at, at + 1]).collect();
    let mut places = Vec::new();
    for number in 0..count {
        let anywhere = dice.below(deeds.len() + 1);
        let near = near_syncs.get(dice.below(near_syncs.len().max(1)));
        places.push(near.copied().filter(|_| number % 2 == 0).unwrap_or(anywhere));
    }
    places.sort_unstable();
    places
}

/// Numbers that look random and follow from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One step of `SplitMix64`.
    pub(crate) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.throw() % end as u64).expect("below a usize")
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize { size: usize },
}

#[derive(Clone, Debug, Default)]
struct File {
    synced: Vec<u8>,
    since: Vec<Change>,
}

fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(offset + data.len()), 0);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

/// How much of what was not synced is lost.
#[derive(Clone, Copy)]
enum Loss {
    All,
    Nothing,
    /// Each sector for itself.
    Some,
}

impl File {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.since) {
            match change {
                Change::Write { offset, data } => write(&mut self.synced, offset, &data),
                Change::Resize { size } => self.synced.resize(size, 0),
            }
        }
    }

    fn left(&self, loss: Loss, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let mut longest = bytes.len();
        let last = self.since.len().saturating_sub(1);
        for (number, change) in self.since.iter().enumerate() {
            let is_there = |dice: &mut Dice| match loss {
                Loss::All => false,
                Loss::Nothing => true,
                Loss::Some => dice.below(2) == 0,
            };
            match change {
                Change::Resize { size } if is_there(dice) => bytes.resize(*size, 0),
                Change::Resize { .. } => {}
                Change::Write { offset, data } => {
                    longest = longest.max(offset + data.len());
                    // The last write is torn anywhere: a prefix of it may have arrived.
                    let torn = number == last && matches!(loss, Loss::Some);
                    let length = if torn { dice.below(data.len() + 1) } else { data.len() };
                    let mut from = *offset;
                    while from < offset + length {
                        let end = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(offset + length);
                        if torn || is_there(dice) {
                            write(&mut bytes, from, &data[from - offset..end - offset]);
                        }
                        from = end;
                    }
                }
            }
        }
        if matches!(loss, Loss::Some) && longest > bytes.len() && dice.below(2) == 0 {
            // The length arrived before the data: what is there is what the sectors held before.
            let filler = [0, dice.throw().to_le_bytes()[0]][dice.below(2)];
            bytes.resize(longest, filler);
        }
        bytes
    }
}

/// The folder of a store on a disk, up to some deed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    renamed: Vec<(String, Option<usize>)>,
}

impl Disk {
    pub(crate) fn perform(&mut self, deed: &Deed) {
        match deed {
            Deed::Create { name } => {
                self.files.push(File::default());
                self.name(name, Some(self.files.len() - 1));
            }
            Deed::Remove { name } => self.name(name, None),
            Deed::Write { name, offset, data } => {
                let change = Change::Write { offset: *offset, data: data.clone() };
                self.file(name).since.push(change);
            }
            Deed::Resize { name, size } => {
                self.file(name).since.push(Change::Resize { size: *size });
            }
            Deed::Sync { name } => self.file(name).sync(),
            Deed::SyncFolder => {
                self.synced_names = self.names.clone();
                self.renamed.clear();
            }
            Deed::Say { .. } => {}
        }
    }

    fn name(&mut self, name: &str, file: Option<usize>) {
        match file {
            Some(file) => self.names.insert(name.to_owned(), file),
            None => self.names.remove(name),
        };
        self.renamed.push((name.to_owned(), file));
    }

    fn file(&mut self, name: &str) -> &mut File {
        let file = self.names.get(name).copied();
        &mut self.files[file.expect("a file is made before it is written")]
    }

    /// Writes into an empty folder what a power cut now could leave. One throw in four loses everything that
    /// was not synced, one in four nothing.
    pub(crate) fn cut_power(&self, dice: &mut Dice, folder: &Path) {
        let loss = match dice.below(4) {
            0 => Loss::All,
            1 => Loss::Nothing,
            _ => Loss::Some,
        };
        let arrived = match loss {
            Loss::All => 0,
            Loss::Nothing => self.renamed.len(),
            Loss::Some => dice.below(self.renamed.len() + 1),
        };
        let mut names = self.synced_names.clone();
        for (name, file) in &self.renamed[..arrived] {
            match file {
                Some(file) => names.insert(name.clone(), *file),
                None => names.remove(name),
            };
        }
        for (name, file) in names {
            let bytes = self.files[file].left(loss, dice);
            std::fs::write(folder.join(name), bytes).expect("written");
        }
    }
}
