//! The keys in the store: made, listed, changed, rotated, revoked.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use blake3::Hash;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use steadfast_store::{Fact, FactFilter, FactName, FactWrite, Store, StoreError, Timestamp};

use super::key::{AccessKey, KeyEdit, KeySpec, KeyState};
use super::ring::KeyRing;
use super::secret::{KeySecret, fresh_id, fresh_secret, is_id};
use crate::error::RuntimeError;
use crate::journal::unwritable;

/// For how long the secret before lets in after a rotation, if nothing is said.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest grace: a year.
const GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Secrets before the current one that may still let in.
pub const OLD_SECRETS_MAX: usize = 4;

/// The scope of the facts. Scopes of tenants, agents and sessions begin with their kind and a `/`.
const SCOPE: &str = "access-keys";

/// Facts that are read at once.
const PAGE: usize = 1000;

/// Keys on a page if nothing is said, and at most.
const ROWS: (usize, usize) = (100, 500);

/// The entries of a key.
const KEY: &str = "key";
const SECRETS: &str = "secrets";
const REVOKED: &str = "revoked";
const USED: &str = "used";

/// What a key is, without what has entries of its own.
#[derive(Serialize, Deserialize)]
struct Record {
    spec: KeySpec,
    created_at: Timestamp,
}

/// What is kept of its secrets.
#[derive(Serialize, Deserialize)]
struct Secrets {
    current: String,
    /// The latest last.
    #[serde(default)]
    old: VecDeque<OldSecret>,
    #[serde(default)]
    rotated_at: Option<Timestamp>,
    /// How many there were.
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct OldSecret {
    hash: String,
    until: Timestamp,
}

/// When something happened.
#[derive(Serialize, Deserialize)]
struct At {
    at: Timestamp,
}

/// A key with a secret that nobody will see again.
#[derive(Clone, Debug)]
pub struct IssuedKey {
    /// The key.
    pub key: AccessKey,
    /// The secret, to be shown now.
    pub secret: KeySecret,
}

/// Which keys a list shows.
#[derive(Clone, Debug, Default)]
pub struct KeyQuery {
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only ids after this one: the cursor that the page before ended with.
    pub after: Option<String>,
    /// Rows on a page; 0 means 100, and more than 500 means 500.
    pub limit: usize,
}

/// A key and what is kept of its secrets: each with the first moment at which it lets in no more.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) key: AccessKey,
    pub(super) secrets: Vec<(Hash, Timestamp)>,
}

fn name(id: &str, entry: &str) -> FactName {
    FactName { scope: SCOPE.to_owned(), key: format!("{id}/{entry}") }
}

fn write(id: &str, entry: &str, value: &impl Serialize) -> Result<FactWrite, RuntimeError> {
    let value = serde_json::to_vec(value).map_err(unwritable)?;
    Ok(FactWrite { name: name(id, entry), value: Some(value.into()), keep: None })
}

/// That a key was used at a time.
pub(super) fn used(id: &str, at: Timestamp) -> Result<FactWrite, RuntimeError> {
    write(id, USED, &At { at })
}

fn damaged(id: &str, problem: String) -> StoreError {
    StoreError::Damaged { what: "an access key", place: format!("key `{id}`"), problem }
}

/// The entries of a key, by name.
type Entries = BTreeMap<String, Bytes>;

fn read<T: DeserializeOwned>(
    id: &str,
    entries: &Entries,
    entry: &str,
) -> Result<Option<T>, StoreError> {
    let bytes = entries.get(entry);
    let value = bytes.map(|bytes| serde_json::from_slice(bytes)).transpose();
    value.map_err(|error| damaged(id, format!("`{entry}`: {error}")))
}

/// A key, of its entries; `None` if they are not a key's, such as what is left of a use.
fn kept(id: &str, entries: &Entries, now: Timestamp) -> Result<Option<Kept>, StoreError> {
    let Some(Record { spec, created_at }) = read(id, entries, KEY)? else { return Ok(None) };
    let secrets: Option<Secrets> = read(id, entries, SECRETS)?;
    let secrets = secrets.ok_or_else(|| damaged(id, "its secrets are not there".to_owned()))?;
    let revoked: Option<At> = read(id, entries, REVOKED)?;
    let used: Option<At> = read(id, entries, USED)?;
    let hash = |text: &str| Hash::from_hex(text).map_err(|error| damaged(id, error.to_string()));
    let mut hashes = vec![(hash(&secrets.current)?, Timestamp(i64::MAX))];
    let old = secrets.old.iter().filter(|old| old.until > now);
    for OldSecret { hash: text, until } in old.clone() {
        hashes.push((hash(text)?, *until));
    }
    let mut key = AccessKey {
        id: id.to_owned(),
        state: KeyState::Active,
        spec,
        created_at,
        rotated_at: secrets.rotated_at,
        old_secrets_until: old.map(|old| old.until).collect(),
        revoked_at: revoked.map(|revoked| revoked.at),
        last_used_at: used.map(|used| used.at),
        secrets: secrets.count,
    };
    key.state = key.state_at(now);
    Ok(Some(Kept { key, secrets: hashes }))
}

async fn entries(store: &dyn Store, id: &str) -> Result<Entries, StoreError> {
    let filter =
        FactFilter { scope: SCOPE.to_owned(), prefix: format!("{id}/"), ..FactFilter::default() };
    let facts = store.facts(filter).await?;
    Ok(facts
        .into_iter()
        .filter_map(|fact| Some((split(&fact)?.1.to_owned(), fact.value)))
        .collect())
}

/// The id and the entry that a fact is about.
fn split(fact: &Fact) -> Option<(&str, &str)> {
    fact.key.split_once('/')
}

/// A key as it stands in the store.
pub(super) async fn look_up(store: &dyn Store, id: &str) -> Result<Option<Kept>, StoreError> {
    kept(id, &entries(store, id).await?, store.now())
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp(at.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

impl KeyRing {
    /// Makes a key. Once it has returned, the key is on disk; the secret is nowhere but in the answer. Other
    /// nodes let it in within [`SEEN_WITHIN`](super::SEEN_WITHIN).
    ///
    /// # Errors
    /// Something of it is not acceptable, the operating system gives no randomness, or the store failed.
    pub async fn create(&self, spec: KeySpec) -> Result<IssuedKey, RuntimeError> {
        spec.check()?;
        let now = self.store.now();
        if spec.expires_at.is_some_and(|end| end <= now) {
            let problem = "`expires_at` is over already: name a time to come".to_owned();
            return Err(RuntimeError::InvalidInput { problem });
        }
        let _alone = self.changing.lock().await;
        let id = loop {
            let id = fresh_id()?;
            if entries(self.store.as_ref(), &id).await?.is_empty() {
                break id;
            }
        };
        let (secret, hash) = fresh_secret(&id)?;
        let secrets = Secrets {
            current: hash.to_hex().to_string(),
            old: VecDeque::new(),
            rotated_at: None,
            count: 1,
        };
        let record = Record { spec, created_at: now };
        self.change(vec![write(&id, KEY, &record)?, write(&id, SECRETS, &secrets)?]).await?;
        Ok(IssuedKey { key: self.key(&id).await?, secret })
    }

    /// A key as it stands in the store.
    ///
    /// # Errors
    /// No such key, or the store failed.
    pub async fn key(&self, id: &str) -> Result<AccessKey, RuntimeError> {
        let kept = if is_id(id) { look_up(self.store.as_ref(), id).await? } else { None };
        kept.map(|kept| kept.key).ok_or_else(|| RuntimeError::UnknownKey { id: id.to_owned() })
    }

    /// Keys by id, one page, and the cursor of the next. Revoked ones stay listed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(
        &self,
        query: KeyQuery,
    ) -> Result<(Vec<AccessKey>, Option<String>), RuntimeError> {
        let limit = if query.limit == 0 { ROWS.0 } else { query.limit.min(ROWS.1) };
        // Behind every entry of the last key of the page before.
        let mut after = query.after.map(|id| format!("{id}/~"));
        let (mut keys, mut group) = (Vec::new(), (String::new(), Entries::new()));
        let wanted =
            |key: &AccessKey| query.tenant.as_ref().is_none_or(|name| *name == key.spec.tenant);
        loop {
            let filter = FactFilter {
                scope: SCOPE.to_owned(),
                after: after.take(),
                limit: PAGE,
                ..FactFilter::default()
            };
            let facts = self.store.facts(filter).await?;
            let (last, now) = (facts.len() < PAGE, self.store.now());
            after = facts.last().map(|fact| fact.key.clone());
            let mut done = Vec::new();
            for fact in facts {
                let Some((id, entry)) = split(&fact) else { continue };
                if id != group.0 {
                    done.push(std::mem::replace(&mut group, (id.to_owned(), Entries::new())));
                }
                group.1.insert(entry.to_owned(), fact.value.clone());
            }
            if last {
                done.push(std::mem::take(&mut group));
            }
            for (id, entries) in done {
                keys.extend(
                    kept(&id, &entries, now)?.map(|kept| kept.key).filter(|key| wanted(key)),
                );
            }
            if last || keys.len() > limit {
                break;
            }
        }
        let more = keys.len() > limit;
        keys.truncate(limit);
        let next = keys.last().filter(|_| more).map(|key| key.id.clone());
        Ok((keys, next))
    }

    /// Changes what a key is. Once it has returned, that is on disk and this node heeds it; other nodes do
    /// within [`SEEN_WITHIN`](super::SEEN_WITHIN). Of two nodes that edit at once, the last counts.
    ///
    /// # Errors
    /// No such key, it is revoked, something is not acceptable, or the store failed.
    pub async fn edit(&self, id: &str, edit: KeyEdit) -> Result<AccessKey, RuntimeError> {
        let _alone = self.changing.lock().await;
        let AccessKey { mut spec, created_at, .. } = self.usable(id).await?;
        edit.apply(&mut spec);
        spec.check()?;
        self.change(vec![write(id, KEY, &Record { spec, created_at })?]).await?;
        self.key(id).await
    }

    /// Gives a key another secret. The one before lets in for `grace` more; without grace, every one before
    /// ends at once. `seen` is how many secrets the key had when the caller decided on this: a rotation that
    /// was meant once is not done twice. Heeded as [`Self::edit`] is.
    ///
    /// # Errors
    /// No such key, it is revoked, it was rotated since, too many secrets before it still let in, `grace` is
    /// longer than a year, the operating system gives no randomness, or the store failed.
    pub async fn rotate(
        &self,
        id: &str,
        grace: Duration,
        seen: Option<u64>,
    ) -> Result<IssuedKey, RuntimeError> {
        if grace > GRACE_MAX {
            let problem = "`grace` is longer than a year: name 365 days or less".to_owned();
            return Err(RuntimeError::InvalidInput { problem });
        }
        let _alone = self.changing.lock().await;
        self.usable(id).await?;
        let kept = entries(self.store.as_ref(), id).await?;
        let mut secrets: Secrets = read(id, &kept, SECRETS)?
            .ok_or_else(|| RuntimeError::UnknownKey { id: id.to_owned() })?;
        if seen.is_some_and(|seen| seen != secrets.count) {
            return Err(RuntimeError::KeyRotated { id: id.to_owned() });
        }
        let now = self.store.now();
        let (secret, hash) = fresh_secret(id)?;
        let before = std::mem::replace(&mut secrets.current, hash.to_hex().to_string());
        secrets.old.push_back(OldSecret { hash: before, until: later(now, grace) });
        if grace.is_zero() {
            secrets.old.clear();
        }
        secrets.old.retain(|old| old.until > now);
        if secrets.old.len() > OLD_SECRETS_MAX {
            let problem = format!(
                "{OLD_SECRETS_MAX} earlier secrets of key `{id}` still let in: wait until one ends, or \
                 rotate without grace, which ends them all"
            );
            return Err(RuntimeError::InvalidInput { problem });
        }
        secrets.rotated_at = Some(now);
        secrets.count += 1;
        self.change(vec![write(id, SECRETS, &secrets)?]).await?;
        let stands = look_up(self.store.as_ref(), id).await?;
        let stands =
            stands.filter(|kept| kept.secrets.first().is_some_and(|(kept, _)| *kept == hash));
        // Another node rotated at the same moment, and its secret counts.
        let stands = stands.ok_or_else(|| RuntimeError::KeyRotated { id: id.to_owned() })?;
        Ok(IssuedKey { key: stands.key, secret })
    }

    /// Takes a key back for good, however often. Once it has returned, that is on disk, and this node lets
    /// nobody in with it; other nodes let nobody in within [`SEEN_WITHIN`](super::SEEN_WITHIN). The key stays
    /// listed, so that the books can name it.
    ///
    /// # Errors
    /// No such key, or the store failed.
    pub async fn revoke(&self, id: &str) -> Result<AccessKey, RuntimeError> {
        let _alone = self.changing.lock().await;
        let key = self.key(id).await?;
        if key.revoked_at.is_some() {
            return Ok(key);
        }
        self.change(vec![write(id, REVOKED, &At { at: self.store.now() })?]).await?;
        self.key(id).await
    }

    async fn usable(&self, id: &str) -> Result<AccessKey, RuntimeError> {
        let key = self.key(id).await?;
        match key.revoked_at {
            Some(_) => Err(RuntimeError::KeyRevoked { id: id.to_owned() }),
            None => Ok(key),
        }
    }

    /// Writes, and forgets what this node remembers: also if nobody knows whether it was written.
    async fn change(&self, facts: Vec<FactWrite>) -> Result<(), RuntimeError> {
        let _forget = self.forgetting();
        Ok(self.store.write_facts(facts).await?)
    }
}
