//! Letters to runs. The row of the run that a letter is for is locked first: sending, taking and parking
//! stand in one line, so that no letter lies before a run that has just been put aside.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::append::{Card, LOCK};
use super::link::{Failure, Link, step};
use super::schema::{self, now_ms};
use super::task::{Refusal, Write, Written};
use crate::{
    Append, Changes, Disposition, MAIL_WAITING_MAX, Mail, RunId, Sent, StoreError, Timestamp, rules,
};

pub(super) const TAKE: &str = "UPDATE letter SET taken = true, body = '' \
     FROM unnest($1::bigint[], $2::bigint[]) AS gone (number, run) \
     WHERE letter.number = gone.number AND letter.run = gone.run";
pub(super) const SEND: &str = "INSERT INTO letter (run, id, kind, body, at) \
     SELECT run, id, kind, body, at FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], \
     $5::bigint[]) WITH ORDINALITY AS new (run, id, kind, body, at, place) ORDER BY place \
     ON CONFLICT (run, id) DO NOTHING";
/// A run that is parked while a letter waits for it becomes ready.
pub(super) const WAKE: &str = "UPDATE run SET disposition = 0, wake_at = NULL, \
     rank = $2 - 60000 * priority::bigint, updated_at = greatest($2, updated_at) \
     WHERE run = ANY($1::bigint[]) AND disposition = 2 \
     AND EXISTS (SELECT 1 FROM letter WHERE letter.run = run.run AND NOT taken) RETURNING run";
const NOW: &str = concat!("SELECT ", now_ms!());
/// Which of these letters are known already, and how many wait for each run.
const STANDING: &str = "SELECT EXISTS (SELECT 1 FROM letter WHERE letter.run = new.run \
     AND letter.id = new.id), (SELECT count(*) FROM letter WHERE letter.run = new.run AND NOT taken) \
     FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS new (run, id, place) ORDER BY place";

/// What the appends of a batch send and take, a column each.
#[derive(Default)]
pub(super) struct Post<'a> {
    taken: Vec<i64>,
    takers: Vec<i64>,
    letters: Vec<(&'a Mail, Timestamp)>,
    runs: Vec<i64>,
    ids: Vec<&'a str>,
    kinds: Vec<&'a str>,
    bodies: Vec<&'a [u8]>,
    ats: Vec<i64>,
    /// Runs that may have to be woken.
    pub(super) wake: Vec<i64>,
    latest: i64,
}

impl<'a> Post<'a> {
    pub(super) fn push(&mut self, append: &'a Append, run: i64, at: Timestamp) {
        self.taken.extend(&append.taken);
        self.takers.extend(append.taken.iter().map(|_| run));
        self.letters.extend(append.mail.iter().map(|mail| (mail, at)));
        self.latest = self.latest.max(at.0);
    }

    /// Finds the rows of those whom letters are for. Whom they cannot reach any more is no reason to refuse
    /// what their sender has done.
    pub(super) fn find(&mut self, cards: &HashMap<RunId, Result<Card, String>>) {
        for (mail, at) in std::mem::take(&mut self.letters) {
            let Some(Ok(card)) = cards.get(&mail.to) else { continue };
            if card.disposition != Disposition::Ended {
                self.letter(card.run, mail, at);
            }
        }
    }

    fn letter(&mut self, run: i64, mail: &'a Mail, at: Timestamp) {
        self.runs.push(run);
        self.ids.push(&mail.id);
        self.kinds.push(&mail.kind);
        self.bodies.push(&mail.body);
        self.ats.push(at.0);
        self.wake.push(run);
        self.latest = self.latest.max(at.0);
    }

    pub(super) fn takes(&self) -> bool {
        !self.taken.is_empty()
    }

    pub(super) fn sends(&self) -> bool {
        !self.runs.is_empty()
    }

    pub(super) fn taken(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.taken, &self.takers]
    }

    pub(super) fn sent(&self) -> [&(dyn ToSql + Sync); 5] {
        [&self.runs, &self.ids, &self.kinds, &self.bodies, &self.ats]
    }

    pub(super) fn woken(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.wake, &self.latest]
    }
}

impl Write for Mail {
    type Answer = Sent;

    const STATEMENTS: &'static [&'static str] = &[LOCK, NOW, STANDING, SEND, WAKE];
    /// Sent twice it is kept once; that it is then said to be known is the truth.
    const REPEATABLE: bool = true;

    fn size_bytes(&self) -> usize {
        self.body.len()
    }

    fn place(&self) -> Option<[u8; 32]> {
        let mut place = [0; 32];
        place[..16].copy_from_slice(self.to.as_bytes());
        Some(place)
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Sent>, Failure> {
        let ids: Vec<Uuid> = batch.iter().map(|mail| schema::uuid(mail.to)).collect();
        let [rows, now] = link.begin([step(LOCK, &[&ids]), step(NOW, &[])]).await?;
        let now = schema::time(&now)?;
        let mut cards = HashMap::new();
        for row in &rows {
            let card = Card::read(row).map_err(|failure| failure.problem().to_owned());
            cards.insert(schema::run_id(row, 0)?, card);
        }
        let number = |mail: &&Self| match cards.get(&mail.to) {
            Some(Ok(card)) => card.run,
            Some(Err(_)) | None => 0,
        };
        let runs: Vec<i64> = batch.iter().map(number).collect();
        let names: Vec<&str> = batch.iter().map(|mail| &*mail.id).collect();
        let [standing] = link.query([step(STANDING, &[&runs, &names])]).await?;
        let mut post = Post::default();
        let mut answers = Vec::with_capacity(batch.len());
        let mut changes = Changes::default();
        for (mail, row) in batch.iter().zip(&standing) {
            let card = match cards.get(&mail.to) {
                None => {
                    answers.push(Err(StoreError::NotFound { run: mail.to }.into()));
                    continue;
                }
                Some(Err(problem)) => {
                    answers.push(Err(Refusal::Damaged(problem.clone())));
                    continue;
                }
                Some(Ok(card)) => card,
            };
            let waiting = usize::try_from(row.try_get::<_, i64>(1)?).unwrap_or(MAIL_WAITING_MAX);
            let is_over = card.disposition == Disposition::Ended;
            let sent = rules::admit_mail(is_over, row.try_get(0)?, waiting);
            if matches!(sent, Ok(Sent::Kept)) {
                post.letter(card.run, mail, now);
                // Whoever executes it on another node is to look.
                changes.grown.insert(mail.to, 0);
            }
            answers.push(sent.map_err(Refusal::from));
        }
        let rows = link.commit(&[step(SEND, &post.sent()), step(WAKE, &post.woken())]).await?;
        changes.ready = rows.last().is_some_and(|woken| !woken.is_empty());
        Ok(Written { answers, changes })
    }
}
