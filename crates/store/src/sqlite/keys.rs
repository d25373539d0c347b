//! Operations that are to be done once, inside the writer's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::lease;
use super::seal::seal;
use super::writer::{Failure, Write};
use crate::clock::millis;
use crate::rules::{self, SettledKey, StoredKey};
use crate::{BlobHash, KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding, NodeId, Timestamp};

impl Write for KeyClaim {
    type Answer = KeyStanding;

    fn write(self, connection: &Connection, at: Timestamp) -> Result<KeyStanding, Failure> {
        let standing = match stored(connection, &self)? {
            None => rules::claim_key(&self, None, at, |_| false),
            Some(stored) => {
                let expires_at = lease::expires_at(connection, &stored.node)?;
                let alive = expires_at.is_some_and(|expires_at| expires_at > at.0);
                rules::claim_key(&self, Some(stored), at, |_| alive)
            }
        };
        if standing == KeyStanding::Claimed {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO operation (scope, key, digest, owner, node, since, seal) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    self.name.scope,
                    self.name.key,
                    self.digest.0,
                    self.owner,
                    self.node.as_str(),
                    at.0,
                    claim_seal(&self.name, &self.digest, (&self.owner, &self.node), at)
                ])?;
        }
        Ok(standing)
    }
}

fn claim_seal(
    name: &KeyName,
    digest: &BlobHash,
    (owner, node): (&str, &NodeId),
    since: Timestamp,
) -> i64 {
    let texts = [&name.scope, &name.key, owner, node.as_str()].map(str::as_bytes);
    seal(&[since.0], &[texts[0], texts[1], texts[2], texts[3], &digest.0])
}

fn answer_seal(name: &KeyName, answer: &[u8], at: Timestamp, expires_at: Timestamp) -> i64 {
    seal(&[at.0, expires_at.0], &[name.scope.as_bytes(), name.key.as_bytes(), answer])
}

fn stored(connection: &Connection, claim: &KeyClaim) -> Result<Option<StoredKey>, Failure> {
    let found = connection
        .prepare_cached(
            "SELECT digest, owner, since, answer, settled_at, expires_at, node, seal, answer_seal \
             FROM operation WHERE scope = ?1 AND key = ?2",
        )?
        .query_row(params![claim.name.scope, claim.name.key], |row| {
            let answer: Option<Vec<u8>> = row.get(3)?;
            let settled = match answer {
                None => None,
                Some(answer) => Some(SettledKey {
                    answer: answer.into(),
                    at: Timestamp(row.get(4)?),
                    expires_at: Timestamp(row.get(5)?),
                }),
            };
            let stored = StoredKey {
                digest: BlobHash(row.get(0)?),
                owner: row.get(1)?,
                node: NodeId::from(row.get::<_, String>(6)?),
                since: Timestamp(row.get(2)?),
                settled,
            };
            Ok((stored, row.get::<_, Option<i64>>(7)?, row.get::<_, Option<i64>>(8)?))
        })
        .optional()?;
    let Some((stored, claimed, answered)) = found else { return Ok(None) };
    let StoredKey { digest, owner, node, since, settled } = &stored;
    let is_claim = |seal| seal == claim_seal(&claim.name, digest, (owner, node), *since);
    let is_answer = match settled {
        None => answered.is_none(),
        Some(SettledKey { answer, at, expires_at }) => {
            answered.is_none_or(|seal| seal == answer_seal(&claim.name, answer, *at, *expires_at))
        }
    };
    if claimed.is_none_or(is_claim) && is_answer {
        return Ok(Some(stored));
    }
    Err(super::seal::broken(&format!("what is recorded under the key `{}`", claim.name.key)))
}

impl Write for KeySettlement {
    type Answer = ();

    fn size_bytes(&self) -> usize {
        match &self.end {
            KeyEnd::Recorded { answer, .. } => answer.len(),
            KeyEnd::Released => 0,
        }
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<(), Failure> {
        Ok(settle(connection, &self, at)?)
    }
}

pub(super) fn settle(
    connection: &Connection,
    settlement: &KeySettlement,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let KeySettlement { name, owner, end } = settlement;
    match end {
        KeyEnd::Recorded { answer, keep } => {
            let expires_at = Timestamp(at.0.saturating_add(millis(Some(*keep))));
            connection
                .prepare_cached(
                    "UPDATE operation SET answer = ?4, settled_at = ?5, expires_at = ?6, \
                 answer_seal = ?7 WHERE scope = ?1 AND key = ?2 AND owner = ?3 AND answer IS NULL",
                )?
                .execute(params![
                    name.scope,
                    name.key,
                    owner,
                    answer.as_ref(),
                    at.0,
                    expires_at.0,
                    answer_seal(name, answer, at, expires_at)
                ])?
        }
        KeyEnd::Released => connection
            .prepare_cached(
                "DELETE FROM operation \
                 WHERE scope = ?1 AND key = ?2 AND owner = ?3 AND answer IS NULL",
            )?
            .execute(params![name.scope, name.key, owner])?,
    };
    Ok(())
}

pub(super) struct Purge {
    pub(super) limit: usize,
}

impl Write for Purge {
    type Answer = usize;

    fn write(self, connection: &Connection, at: Timestamp) -> Result<usize, Failure> {
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let purged = connection
            .prepare_cached(
                "DELETE FROM operation WHERE (scope, key) IN (SELECT scope, key FROM operation \
                 WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            )?
            .execute(params![at.0, limit])?;
        Ok(purged)
    }
}
