//! What is done about the ledger from time to time: holds whose time is over are charged in full, and what
//! is old is forgotten.

use super::account::{KeptHold, hold_columns, hold_of, uuid};
use super::ledger::{INSERT_ENTRIES, LOCK, NOW, OPEN, SAVE, commit_entries, lock};
use super::link::{Failure, Link, step};
use super::schema::{self, now_ms, stored};
use super::task::{Write, Written};
use crate::clock::millis;
use crate::{Entry, EntryId, EntryKind, LATE, Timestamp};

const FORGET_HOLDS: &str = concat!(
    "DELETE FROM hold WHERE id IN (SELECT id FROM hold WHERE charged AND expires_at <= ",
    now_ms!(),
    " FOR UPDATE SKIP LOCKED)"
);
const OVERDUE: &str = concat!(
    "SELECT ",
    hold_columns!(),
    " FROM hold WHERE NOT charged AND expires_at <= ",
    now_ms!(),
    " ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED"
);
const CHARGE: &str = "UPDATE hold SET charged = true, expires_at = $2 WHERE id = ANY($1::uuid[])";
const PRUNE_ENTRIES: &str = "DELETE FROM entry WHERE id IN (SELECT id FROM entry \
     WHERE id < $2 AND at < $1 ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED) RETURNING 1";
const PRUNE_ACCOUNTS: &str = "DELETE FROM account WHERE (name, since) IN (SELECT name, since \
     FROM account WHERE at < $1 AND held_tokens = 0 AND held_money = 0 LIMIT $2 \
     FOR UPDATE SKIP LOCKED) RETURNING 1";

pub(super) struct Expire {
    pub(super) limit: usize,
}

impl Write for Expire {
    type Answer = Vec<Entry>;

    const STATEMENTS: &'static [&'static str] =
        &[FORGET_HOLDS, OVERDUE, NOW, OPEN, LOCK, CHARGE, INSERT_ENTRIES, SAVE];
    const REPEATABLE: bool = true;

    fn place(&self) -> Option<[u8; 32]> {
        Some([u8::MAX; 32])
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Vec<Entry>>, Failure> {
        let limit = stored(batch.iter().map(|expire| expire.limit).sum::<usize>() as u64);
        let [_, rows, now] =
            link.begin([step(FORGET_HOLDS, &[]), step(OVERDUE, &[&limit]), step(NOW, &[])]).await?;
        let now = schema::time(&now)?;
        let mut kept = Vec::with_capacity(rows.len());
        for row in &rows {
            match hold_of(row) {
                Ok(hold) => kept.push(hold),
                // The others do not wait for it.
                Err(Failure::Damaged(problem)) => {
                    tracing::error!(problem, "a hold whose time is over is not charged");
                }
                Err(failure) => return Err(failure),
            }
        }
        let accounts = kept.iter().flat_map(|(_, kept)| kept.open.accounts());
        let mut books = lock(accounts, now, link).await?;
        let mut expired = Vec::with_capacity(kept.len());
        for (id, KeptHold { open, subject, body }) in kept {
            books.expire(&open);
            let (kind, amounts) = (EntryKind::Expired, open.amounts);
            expired.push(Entry { id, at: now, kind, subject, amounts, body: body.into() });
        }
        let ids = expired.iter().map(|entry| uuid(entry.id)).collect();
        let late = Some(now.0.saturating_add(millis(Some(LATE))));
        commit_entries(&expired, &books, now, (CHARGE, ids, late), link).await?;
        let mut answers: Vec<_> = batch.iter().map(|_| Ok(Vec::new())).collect();
        if let Some(first) = answers.first_mut() {
            *first = Ok(expired);
        }
        Ok(Written::quietly(answers))
    }
}

pub(super) struct Prune {
    pub(super) before: Timestamp,
    pub(super) limit: usize,
}

/// How long after its id was made an entry may have been charged.
const DAY_MS: i64 = 24 * 3_600_000;

impl Write for Prune {
    type Answer = usize;

    const STATEMENTS: &'static [&'static str] = &[PRUNE_ENTRIES, PRUNE_ACCOUNTS];
    const REPEATABLE: bool = true;

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<usize>, Failure> {
        link.begin([]).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for Self { before, limit } in batch {
            let limit = stored(*limit as u64);
            let latest = EntryId::earliest(Timestamp(before.0.saturating_add(DAY_MS)));
            let [entries, accounts] = link
                .query([
                    step(PRUNE_ENTRIES, &[&before.0, &uuid(latest), &limit]),
                    step(PRUNE_ACCOUNTS, &[&before.0, &limit]),
                ])
                .await?;
            answers.push(Ok(entries.len() + accounts.len()));
        }
        link.commit(&[]).await?;
        Ok(Written::quietly(answers))
    }
}
