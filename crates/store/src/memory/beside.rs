//! What is kept beside the logs: letters to runs, and facts.

use async_trait::async_trait;

use super::{MemoryStore, Shelves};
use crate::clock::millis;
use crate::{
    Disposition, Fact, FactFilter, FactName, FactWrite, Facts, Letter, Mail, Mailbox, RunId, Sent,
    StoreError, Timestamp, rules,
};

impl Shelves {
    pub(super) fn send(&mut self, mail: Mail, now: Timestamp) -> Result<Sent, StoreError> {
        let number = self.letters + 1;
        let run = self.runs.get_mut(&mail.to).ok_or(StoreError::NotFound { run: mail.to })?;
        let (is_over, is_known) =
            (run.head.disposition == Disposition::Ended, run.known.contains(&mail.id));
        let sent = rules::admit_mail(is_over, is_known, run.letters.len())?;
        if sent == Sent::Kept {
            self.letters = number;
            run.known.insert(mail.id.clone());
            let Mail { to: _, id, kind, body } = mail;
            run.letters.push(Letter { number, id, kind, body, at: now });
            let disposition = rules::disposition(run.head.disposition, true);
            if disposition != run.head.disposition {
                run.wake(now, now);
            }
        }
        Ok(sent)
    }

    pub(super) fn write_facts(&mut self, facts: Vec<FactWrite>, now: Timestamp) {
        for FactWrite { name, value, keep } in facts {
            let version = self.facts.get(&name).filter(|fact| holds(fact, now));
            let version = version.map_or(0, |fact| fact.version) + 1;
            let Some(value) = value else {
                self.facts.remove(&name);
                continue;
            };
            let expires_at = keep.map(|keep| Timestamp(now.0.saturating_add(millis(Some(keep)))));
            let fact = Fact { key: name.key.clone(), value, version, at: now, expires_at };
            self.facts.insert(name, fact);
        }
    }
}

fn holds(fact: &Fact, now: Timestamp) -> bool {
    fact.expires_at.is_none_or(|expires_at| expires_at > now)
}

#[async_trait]
impl Mailbox for MemoryStore {
    async fn send(&self, mail: Mail) -> Result<Sent, StoreError> {
        rules::check_mail(&mail)?;
        self.open()?.send(mail, self.clock.now())
    }

    async fn letters(&self, run: RunId, limit: usize) -> Result<Vec<Letter>, StoreError> {
        let shelves = self.open()?;
        Ok(shelves.run(run)?.letters.iter().take(limit).cloned().collect())
    }
}

#[async_trait]
impl Facts for MemoryStore {
    async fn fact(&self, name: &FactName) -> Result<Option<Fact>, StoreError> {
        let now = self.clock.now();
        Ok(self.open()?.facts.get(name).filter(|fact| holds(fact, now)).cloned())
    }

    async fn facts(&self, filter: FactFilter) -> Result<Vec<Fact>, StoreError> {
        let (shelves, now) = (self.open()?, self.clock.now());
        let shown = shelves.facts.iter().filter(|(name, fact)| {
            name.scope == filter.scope
                && name.key.starts_with(&filter.prefix)
                && filter.after.as_ref().is_none_or(|after| name.key > *after)
                && holds(fact, now)
        });
        Ok(shown.map(|(_, fact)| fact.clone()).take(filter.page_size()).collect())
    }

    async fn write_facts(&self, facts: Vec<FactWrite>) -> Result<(), StoreError> {
        rules::check_facts(&facts)?;
        self.open()?.write_facts(facts, self.clock.now());
        Ok(())
    }

    async fn purge_facts(&self, limit: usize) -> Result<usize, StoreError> {
        let (mut shelves, now) = (self.open()?, self.clock.now());
        let over = shelves.facts.iter().filter(|(_, fact)| !holds(fact, now));
        let names: Vec<_> = over.map(|(name, _)| name.clone()).take(limit).collect();
        for name in &names {
            shelves.facts.remove(name);
        }
        Ok(names.len())
    }
}
