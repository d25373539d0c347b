//! Who is let in: the one check in front of every call with a key.
//!
//! What the store says of a key is remembered for a few seconds, also that there is none, in as many places as
//! there are, so that guessing fills nothing. What this node changes it forgets at once: a remembered answer
//! counts only if nothing was changed here since before the store was asked for it.
//!
//! However the check ends, it hashes what was shown and compares with as many hashes, each in constant time.
//! Only who shows a right secret is told that the key is expired, disabled or revoked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use blake3::Hash;
use moka::sync::Cache;
use parking_lot::Mutex;
use steadfast_guard::{Admitted, OverLimit};
use steadfast_store::{Store, StoreError, Timestamp};
use tokio::time::Instant;

use super::book::{self, Kept, OLD_SECRETS_MAX};
use super::key::{AccessKey, KeyState};
use super::limits::KeyLimiters;
use super::secret;
use crate::error::RuntimeError;

/// By when every node heeds what one has changed, while the store answers.
pub const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// For how long an answer of the store is remembered: less, so that asking may take a while.
const REMEMBERED: Duration = Duration::from_secs(4);

/// Keys that are remembered.
const KNOWN_MAX: u64 = 10_000;

/// Ids that are no key's and are remembered as such.
const UNKNOWN_MAX: u64 = 4_096;

/// Questions to the store at once. An id is asked about in the place that its last letter names, so that of
/// many who show the same key one asks.
const DESKS: usize = 16;

/// How much time passes between two notes that a key was used.
const USED_EVERY_MS: i64 = 10 * 60 * 1000;

/// Why a secret lets nobody in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefused {
    /// It has not the form of a secret.
    #[error(
        "this is no key of Steadfast: one begins with `sk-steadfast-`, and is shown once when it is made"
    )]
    Malformed,
    /// It is nobody's: of no key, or not this key's any more.
    #[error("this key is not known: it was mistyped, or rotated away; make another one")]
    Unknown,
    /// Its time is over.
    #[error("key `{id}` has expired: ask for a later end, or for another key")]
    Expired {
        /// The key.
        id: String,
    },
    /// It is disabled.
    #[error("key `{id}` is disabled: ask for it to be enabled, or for another key")]
    Disabled {
        /// The key.
        id: String,
    },
    /// It was taken back.
    #[error("key `{id}` was revoked: ask for another key")]
    Revoked {
        /// The key.
        id: String,
    },
    /// The store could not be asked, and what is remembered is too old: nobody knows.
    #[error("whether this key is good cannot be told: the store did not answer; try again")]
    Unavailable(#[source] StoreError),
}

impl KeyRefused {
    /// The refusal's stable code; each has a page in `docs/errors/`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Unknown => "invalid_key",
            Self::Expired { .. } => "key_expired",
            Self::Disabled { .. } => "key_disabled",
            Self::Revoked { .. } => "key_revoked",
            Self::Unavailable(_) => "store_unavailable",
        }
    }
}

/// What was remembered of an id.
struct Entry {
    /// Before the store was asked.
    asked_at: Instant,
    /// How many changes this node had made before the store was asked.
    changes: u64,
    found: Found,
}

/// A secret's hash and until when it lets in. A blank one never does.
type Slot = (Hash, Timestamp);

const BLANK: Slot = (Hash::from_bytes([0; 32]), Timestamp(i64::MIN));

/// A key, or none, with as many slots in either case.
struct Found {
    slots: [Slot; 1 + OLD_SECRETS_MAX],
    key: Option<Arc<AccessKey>>,
    used_at: AtomicI64,
}

impl Found {
    fn of(kept: Option<Kept>) -> Self {
        let mut slots = [BLANK; 1 + OLD_SECRETS_MAX];
        let (key, secrets) = kept.map_or((None, Vec::new()), |kept| (Some(kept.key), kept.secrets));
        slots.iter_mut().zip(secrets).for_each(|(slot, secret)| *slot = secret);
        let used_at = key.as_ref().and_then(|key| key.last_used_at).map_or(i64::MIN, |at| at.0);
        Self { slots, key: key.map(Arc::new), used_at: AtomicI64::new(used_at) }
    }

    /// Whether a secret of this hash lets in now. Looks at every slot, whichever fits.
    fn fits(&self, shown: &Hash, now: Timestamp) -> bool {
        // The comparison of two hashes takes the same time wherever they differ.
        self.slots
            .iter()
            .fold(false, |fits, (hash, until)| fits | ((hash == shown) & (*until > now)))
    }
}

/// The keys of a store: who is let in, and how they are managed. Shared by reference; one a node.
pub struct KeyRing {
    pub(super) store: Arc<dyn Store>,
    /// Held while a key is changed: each change begins with what the one before has left.
    pub(super) changing: tokio::sync::Mutex<()>,
    known: Cache<String, Arc<Entry>>,
    unknown: Cache<String, Arc<Entry>>,
    changes: AtomicU64,
    desks: [tokio::sync::Mutex<()>; DESKS],
    /// Uses that are not noted in the store yet: of keys that were let in, so as many as there are.
    used: Mutex<BTreeMap<String, Timestamp>>,
    limiters: KeyLimiters,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").field("known", &self.known.entry_count()).finish_non_exhaustive()
    }
}

/// Forgets when it is dropped, so also if the write before was.
pub(super) struct Forgetting<'a>(&'a AtomicU64);

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl KeyRing {
    /// The keys of a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            changing: tokio::sync::Mutex::default(),
            known: Cache::new(KNOWN_MAX),
            unknown: Cache::new(UNKNOWN_MAX),
            changes: AtomicU64::new(0),
            desks: Default::default(),
            used: Mutex::default(),
            limiters: KeyLimiters::default(),
        }
    }

    /// The key that a secret opens at a moment of the store's clock. While the key is remembered, nothing is
    /// asked or waited for.
    ///
    /// # Errors
    /// Why it lets nobody in. Nothing of the secret is in it.
    pub async fn check(&self, shown: &str, now: Timestamp) -> Result<Arc<AccessKey>, KeyRefused> {
        let id = secret::id_in(shown).ok_or(KeyRefused::Malformed)?;
        let hash = secret::hash(shown);
        let entry = match self.remembered(id) {
            Some(entry) => entry,
            None => self.ask(id).await.map_err(KeyRefused::Unavailable)?,
        };
        let fits = entry.found.fits(&hash, now);
        let Some(key) = entry.found.key.as_ref().filter(|_| fits) else {
            return Err(KeyRefused::Unknown);
        };
        let id = || key.id.clone();
        match key.state_at(now) {
            KeyState::Active => {}
            KeyState::Disabled => return Err(KeyRefused::Disabled { id: id() }),
            KeyState::Expired => return Err(KeyRefused::Expired { id: id() }),
            KeyState::Revoked => return Err(KeyRefused::Revoked { id: id() }),
        }
        self.note_use(&entry.found, key, now);
        Ok(Arc::clone(key))
    }

    /// Lets one call of a key go that expects to cost so many tokens, or says when to come again. `None` if
    /// the key has no limits. The call is over when the answer is dropped.
    ///
    /// # Errors
    /// The limit that was met; nothing was taken then.
    pub fn admit(&self, key: &AccessKey, tokens: u64) -> Result<Option<Admitted>, OverLimit> {
        self.limiters.admit(key, tokens)
    }

    /// What is remembered of an id and still counts.
    fn remembered(&self, id: &str) -> Option<Arc<Entry>> {
        let entry = self.known.get(id).or_else(|| self.unknown.get(id))?;
        let current = entry.changes == self.changes.load(Ordering::Acquire);
        (current && entry.asked_at.elapsed() < REMEMBERED).then_some(entry)
    }

    /// Asks the store, unless somebody has done so meanwhile.
    async fn ask(&self, id: &str) -> Result<Arc<Entry>, StoreError> {
        let place = usize::from(id.as_bytes().last().copied().unwrap_or_default()) % DESKS;
        let _turn = match self.desks.get(place) {
            Some(desk) => Some(desk.lock().await),
            None => None,
        };
        if let Some(entry) = self.remembered(id) {
            return Ok(entry);
        }
        let (asked_at, changes) = (Instant::now(), self.changes.load(Ordering::Acquire));
        let kept = book::look_up(self.store.as_ref(), id).await?;
        let (into, out_of) = match kept {
            Some(_) => (&self.known, &self.unknown),
            None => (&self.unknown, &self.known),
        };
        let entry = Arc::new(Entry { asked_at, changes, found: Found::of(kept) });
        into.insert(id.to_owned(), Arc::clone(&entry));
        out_of.invalidate(id);
        Ok(entry)
    }

    /// What is remembered counts no more once this is dropped.
    pub(super) const fn forgetting(&self) -> Forgetting<'_> {
        Forgetting(&self.changes)
    }

    fn note_use(&self, found: &Found, key: &AccessKey, now: Timestamp) {
        let before = found.used_at.load(Ordering::Relaxed);
        if now.0.saturating_sub(before) < USED_EVERY_MS {
            return;
        }
        found.used_at.store(now.0, Ordering::Relaxed);
        self.used.lock().insert(key.id.clone(), now);
    }

    /// Writes down which keys were used since it was last called. Until then a crash forgets it.
    ///
    /// # Errors
    /// The store failed; it is tried again with the next call.
    pub async fn write_uses(&self) -> Result<(), RuntimeError> {
        let uses = self.used.lock().clone();
        if uses.is_empty() {
            return Ok(());
        }
        let facts = uses.iter().map(|(id, at)| book::used(id, *at)).collect::<Result<_, _>>()?;
        self.store.write_facts(facts).await?;
        self.used.lock().retain(|id, at| uses.get(id) != Some(at));
        Ok(())
    }

    /// Ids that are remembered: of keys, and of none.
    #[cfg(test)]
    pub(super) fn remembers(&self) -> (u64, u64) {
        self.known.run_pending_tasks();
        self.unknown.run_pending_tasks();
        (self.known.entry_count(), self.unknown.entry_count())
    }
}
