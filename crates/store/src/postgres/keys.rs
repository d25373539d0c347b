//! Operations that are to be done once. An operation is found by a hash of its name, which has a fixed
//! length and can be put in order, so that nodes never wait for each other in a ring.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::link::{Failure, Link, step};
use super::schema::{self, now_ms};
use super::task::{Refusal, Write, Written};
use crate::clock::millis;
use crate::rules::{self, SettledKey, StoredKey};
use crate::{BlobHash, KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding, NodeId, Timestamp};

type Name = [u8; 32];

pub(super) fn name_hash(name: &KeyName) -> Name {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(name.scope.len() as u64).to_le_bytes());
    hasher.update(name.scope.as_bytes()).update(name.key.as_bytes());
    *hasher.finalize().as_bytes()
}

const NOW: &str = concat!("SELECT ", now_ms!());
const CLAIM: &str = concat!(
    "INSERT INTO operation (name, scope, key, digest, owner, node, since) \
     SELECT name, scope, key, digest, owner, node, ",
    now_ms!(),
    " FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::text[]) \
     AS new (name, scope, key, digest, owner, node) ORDER BY name \
     ON CONFLICT DO NOTHING RETURNING name"
);
const STORED: &str = concat!(
    "SELECT name, digest, operation.owner, operation.node, since, answer, settled_at, \
     operation.expires_at, EXISTS (SELECT 1 FROM node WHERE node.id = operation.node \
     AND node.expires_at > ",
    now_ms!(),
    ") FROM operation WHERE name = ANY($1::bytea[]) ORDER BY name FOR UPDATE OF operation"
);
const CLAIM_AGAIN: &str = concat!(
    "UPDATE operation SET digest = new.digest, owner = new.owner, node = new.node, since = ",
    now_ms!(),
    ", answer = NULL, settled_at = NULL, expires_at = NULL \
     FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::text[]) \
     AS new (name, digest, owner, node) WHERE operation.name = new.name"
);

impl Write for KeyClaim {
    type Answer = KeyStanding;

    const STATEMENTS: &'static [&'static str] = &[NOW, CLAIM, STORED, CLAIM_AGAIN];
    /// The same owner may claim again what it has claimed.
    const REPEATABLE: bool = true;

    fn place(&self) -> Option<[u8; 32]> {
        Some(name_hash(&self.name))
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<KeyStanding>, Failure> {
        let names: Vec<Name> = batch.iter().map(|claim| name_hash(&claim.name)).collect();
        let hashes: Vec<&[u8]> = names.iter().map(|name| &name[..]).collect();
        let (new, stored, now) = insert(batch, &hashes, link).await?;
        let mut again = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for (claim, name) in batch.iter().zip(&names) {
            if new.contains(&name[..]) {
                answers.push(Ok(KeyStanding::Claimed));
                continue;
            }
            let (stored, alive) = match stored.get(&name[..]) {
                Some(Ok((stored, alive))) => (Some(stored.clone()), *alive),
                Some(Err(problem)) => {
                    answers.push(Err(Refusal::Damaged(problem.clone())));
                    continue;
                }
                None => (None, false),
            };
            let standing = rules::claim_key(claim, stored, now, |_| alive);
            if standing == KeyStanding::Claimed {
                again.push((*claim, &name[..]));
            }
            answers.push(Ok(standing));
        }
        claim_again(&again, link).await?;
        Ok(Written::quietly(answers))
    }
}

type StoredKeys = BTreeMap<Vec<u8>, Result<(StoredKey, bool), String>>;

/// Claims what nobody has claimed: those names, and how the others stand.
async fn insert(
    batch: &[&KeyClaim],
    names: &[&[u8]],
    link: &Link,
) -> Result<(BTreeSet<Vec<u8>>, StoredKeys, Timestamp), Failure> {
    let scopes: Vec<&[u8]> = batch.iter().map(|claim| claim.name.scope.as_bytes()).collect();
    let keys: Vec<&[u8]> = batch.iter().map(|claim| claim.name.key.as_bytes()).collect();
    let digests: Vec<&[u8]> = batch.iter().map(|claim| &claim.digest.0[..]).collect();
    let owners: Vec<&[u8]> = batch.iter().map(|claim| claim.owner.as_bytes()).collect();
    let nodes: Vec<&str> = batch.iter().map(|claim| claim.node.as_str()).collect();
    let [new, stored, now] = link
        .begin([
            step(CLAIM, &[&names, &scopes, &keys, &digests, &owners, &nodes]),
            step(STORED, &[&names]),
            step(NOW, &[]),
        ])
        .await?;
    let new = new.iter().map(|row| row.try_get(0)).collect::<Result<BTreeSet<Vec<u8>>, _>>()?;
    let mut found = BTreeMap::new();
    for row in &stored {
        let key = stored_key(row).map_err(|failure| failure.problem().to_owned());
        found.insert(row.try_get(0)?, key);
    }
    Ok((new, found, schema::time(&now)?))
}

fn stored_key(row: &Row) -> Result<(StoredKey, bool), Failure> {
    let damaged = |what: &str| Failure::Damaged(format!("an operation has no {what}"));
    let digest: Vec<u8> = row.try_get(1)?;
    let settled = match row.try_get::<_, Option<Vec<u8>>>(5)? {
        None => None,
        Some(answer) => Some(SettledKey {
            answer: answer.into(),
            at: Timestamp(row.try_get(6)?),
            expires_at: Timestamp(row.try_get(7)?),
        }),
    };
    let stored = StoredKey {
        digest: BlobHash(digest.try_into().map_err(|_| damaged("hash of its request"))?),
        owner: String::from_utf8(row.try_get(2)?).map_err(|_| damaged("readable owner"))?,
        node: NodeId::from(row.try_get::<_, String>(3)?),
        since: Timestamp(row.try_get(4)?),
        settled,
    };
    Ok((stored, row.try_get(8)?))
}

async fn claim_again(again: &[(&KeyClaim, &[u8])], link: &Link) -> Result<(), Failure> {
    if again.is_empty() {
        return link.commit(&[]).await.map(drop);
    }
    let names: Vec<&[u8]> = again.iter().map(|(_, name)| *name).collect();
    let digests: Vec<&[u8]> = again.iter().map(|(claim, _)| &claim.digest.0[..]).collect();
    let owners: Vec<&[u8]> = again.iter().map(|(claim, _)| claim.owner.as_bytes()).collect();
    let nodes: Vec<&str> = again.iter().map(|(claim, _)| claim.node.as_str()).collect();
    link.commit(&[step(CLAIM_AGAIN, &[&names, &digests, &owners, &nodes])]).await.map(drop)
}

pub(super) const LOCK_NAMES: &str =
    "SELECT name FROM operation WHERE name = ANY($1::bytea[]) ORDER BY name FOR UPDATE";
pub(super) const RECORD: &str = "UPDATE operation SET answer = ended.answer, \
     settled_at = ended.at, expires_at = ended.expires_at \
     FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[]) \
     AS ended (name, owner, answer, at, expires_at) WHERE operation.name = ended.name \
     AND operation.owner = ended.owner AND operation.answer IS NULL";
pub(super) const FREE: &str = "DELETE FROM operation USING unnest($1::bytea[], $2::bytea[]) \
     AS ended (name, owner) WHERE operation.name = ended.name \
     AND operation.owner = ended.owner AND operation.answer IS NULL";

/// Settlements, a column each.
#[derive(Default)]
pub(super) struct Settling<'a> {
    names: Vec<Vec<u8>>,
    recorded: Vec<Vec<u8>>,
    owners: Vec<&'a [u8]>,
    answers: Vec<&'a [u8]>,
    ats: Vec<i64>,
    expiries: Vec<i64>,
    freed: Vec<Vec<u8>>,
    free_owners: Vec<&'a [u8]>,
}

impl<'a> Settling<'a> {
    /// Of several by one owner the first counts: after it the operation is no longer open.
    pub(super) fn of(settlements: &[&'a KeySettlement], at: Timestamp) -> Self {
        let mut settling = Self::default();
        let mut seen = BTreeSet::new();
        for KeySettlement { name, owner, end } in settlements {
            let name = name_hash(name);
            if !seen.insert((name, owner)) {
                continue;
            }
            settling.names.push(name.to_vec());
            match end {
                KeyEnd::Recorded { answer, keep } => {
                    settling.recorded.push(name.to_vec());
                    settling.owners.push(owner.as_bytes());
                    settling.answers.push(answer);
                    settling.ats.push(at.0);
                    settling.expiries.push(at.0.saturating_add(millis(Some(*keep))));
                }
                KeyEnd::Released => {
                    settling.freed.push(name.to_vec());
                    settling.free_owners.push(owner.as_bytes());
                }
            }
        }
        settling
    }

    pub(super) fn any(&self) -> bool {
        !self.names.is_empty()
    }

    pub(super) fn any_recorded(&self) -> bool {
        !self.recorded.is_empty()
    }

    pub(super) fn any_freed(&self) -> bool {
        !self.freed.is_empty()
    }

    pub(super) fn names(&self) -> [&(dyn ToSql + Sync); 1] {
        [&self.names]
    }

    pub(super) fn recorded(&self) -> [&(dyn ToSql + Sync); 5] {
        [&self.recorded, &self.owners, &self.answers, &self.ats, &self.expiries]
    }

    pub(super) fn freed(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.freed, &self.free_owners]
    }
}

impl Write for KeySettlement {
    type Answer = ();

    const STATEMENTS: &'static [&'static str] = &[NOW, LOCK_NAMES, RECORD, FREE];
    const REPEATABLE: bool = true;

    fn size_bytes(&self) -> usize {
        match &self.end {
            KeyEnd::Recorded { answer, .. } => answer.len(),
            KeyEnd::Released => 0,
        }
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<()>, Failure> {
        let names: Vec<Vec<u8>> =
            batch.iter().map(|settlement| name_hash(&settlement.name).to_vec()).collect();
        let [_, now] = link.begin([step(LOCK_NAMES, &[&names]), step(NOW, &[])]).await?;
        let settling = Settling::of(batch, schema::time(&now)?);
        let (recorded, freed) = (settling.recorded(), settling.freed());
        link.commit(&[step(RECORD, &recorded), step(FREE, &freed)]).await?;
        Ok(Written::quietly(batch.iter().map(|_| Ok(())).collect()))
    }
}

const PURGE: &str = concat!(
    "DELETE FROM operation WHERE name IN (SELECT name FROM operation WHERE expires_at <= ",
    now_ms!(),
    " ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING 1"
);

pub(super) struct Purge {
    pub(super) limit: usize,
}

impl Write for Purge {
    type Answer = usize;

    const STATEMENTS: &'static [&'static str] = &[PURGE];
    const REPEATABLE: bool = true;

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<usize>, Failure> {
        link.begin([]).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for Self { limit } in batch {
            let limit = schema::stored(*limit as u64);
            let [purged] = link.query([step(PURGE, &[&limit])]).await?;
            answers.push(Ok(purged.len()));
        }
        link.commit(&[]).await?;
        Ok(Written::quietly(answers))
    }
}
