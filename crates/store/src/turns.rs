//! Who goes next: how runs that are ready share the places.
//!
//! Between tenants places are shared: the one with the fewest runs under way goes first, of those with
//! equally many the one that was served longest ago. A tenant with a thousand runs cannot keep another
//! one waiting.
//!
//! Within a tenant priority decides, and it ages: one step of priority is worth [`AGEING`] of waiting.
//! A run's place in the line is therefore fixed the moment it becomes ready: the time since when it has
//! waited, put forward by its priority. Nothing starves, and nothing has to be recomputed while it waits.
//!
//! A cap keeps runs back without keeping others back that stand behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Timestamp;
use crate::clock::millis;

/// The waiting that one step of priority is worth (one class per 60 s, as River's successor awa ages).
pub const AGEING: Duration = Duration::from_secs(60);

/// How many runs may be held at once, over all nodes of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Of each tenant that is not named in `tenants`.
    pub per_tenant: Option<usize>,
    /// Of these tenants.
    pub tenants: BTreeMap<String, usize>,
    /// Of these agents, whoever's runs they are.
    pub agents: BTreeMap<String, usize>,
}

impl Caps {
    /// Of this tenant; `None` if it has no limit of its own.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str) -> Option<usize> {
        self.tenants.get(tenant).copied().or(self.per_tenant)
    }

    /// Of this agent; `None` if it has no limit of its own.
    #[must_use]
    pub fn of_agent(&self, agent: &str) -> Option<usize> {
        self.agents.get(agent).copied()
    }
}

/// A run's place in its line: rank, then the order of creation.
pub(crate) type Place = (i64, i64);

/// The rank of a run that has waited since then. The smallest goes first.
pub(crate) fn rank(since: Timestamp, priority: i32) -> i64 {
    since.0.saturating_sub(i64::from(priority).saturating_mul(millis(Some(AGEING))))
}

/// The runs of one tenant and agent that are ready.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) tenant: String,
    pub(crate) agent: String,
    /// The first of them that has not been chosen.
    pub(crate) first: Option<Place>,
}

/// What is under way, and who was served when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    held_of_tenant: BTreeMap<String, usize>,
    held_of_agent: BTreeMap<String, usize>,
    served: BTreeMap<String, i64>,
    last: i64,
}

impl Turns {
    /// `count` runs of a tenant and agent are held.
    pub(crate) fn held(&mut self, tenant: &str, agent: &str, count: usize) {
        *self.held_of_tenant.entry(tenant.to_owned()).or_default() += count;
        *self.held_of_agent.entry(agent.to_owned()).or_default() += count;
    }

    /// A tenant was served at that turn; turns count up.
    pub(crate) fn served(&mut self, tenant: String, turn: i64) {
        self.last = self.last.max(turn);
        self.served.insert(tenant, turn);
    }

    /// Chooses up to `limit` runs; `next` gives the one behind a place in a line. The turns of the tenants
    /// that were served are returned beside them.
    pub(crate) fn choose<E>(
        mut self,
        mut lines: Vec<Line>,
        limit: usize,
        caps: &Caps,
        mut next: impl FnMut(&Line, Place) -> Result<Option<Place>, E>,
    ) -> Result<(Vec<i64>, BTreeMap<String, i64>), E> {
        let mut chosen = Vec::new();
        let mut turns = BTreeMap::new();
        while chosen.len() < limit {
            let open = lines.iter_mut().filter(|line| self.admits(line, caps));
            let Some(line) = open.min_by_key(|line| self.order(line)) else { break };
            let Some(place) = line.first else { break };
            self.held(&line.tenant, &line.agent, 1);
            let turn = self.last + 1;
            self.served(line.tenant.clone(), turn);
            turns.insert(line.tenant.clone(), turn);
            chosen.push(place.1);
            line.first = next(line, place)?;
        }
        Ok((chosen, turns))
    }

    fn admits(&self, line: &Line, caps: &Caps) -> bool {
        let of_agent = self.held_of_agent.get(&line.agent).copied().unwrap_or(0);
        line.first.is_some()
            && caps.of_tenant(&line.tenant).is_none_or(|cap| self.of_tenant(&line.tenant) < cap)
            && caps.of_agent(&line.agent).is_none_or(|cap| of_agent < cap)
    }

    fn of_tenant(&self, tenant: &str) -> usize {
        self.held_of_tenant.get(tenant).copied().unwrap_or(0)
    }

    fn order(&self, line: &Line) -> (usize, i64, Option<Place>) {
        let served = self.served.get(&line.tenant).copied().unwrap_or(0);
        (self.of_tenant(&line.tenant), served, line.first)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Chooses from lines of `(tenant, agent, ranks)`; each run is shown as `tenant/agent/rank`.
    fn choose(
        turns: Turns,
        lines: &[(&str, &str, &[i64])],
        limit: usize,
        caps: &Caps,
    ) -> Vec<String> {
        let place = |line: usize, at: usize| {
            let number = i64::try_from(line * 100 + at).unwrap();
            lines[line].2.get(at).map(|rank| (*rank, number))
        };
        let waiting = lines.iter().enumerate().map(|(index, (tenant, agent, _))| Line {
            tenant: (*tenant).to_owned(),
            agent: (*agent).to_owned(),
            first: place(index, 0),
        });
        let next = |_: &Line, (_, number): Place| {
            let number = usize::try_from(number).unwrap();
            Ok::<_, Infallible>(place(number / 100, number % 100 + 1))
        };
        let (chosen, _) = turns.choose(waiting.collect(), limit, caps, next).unwrap();
        let show = |number: i64| {
            let number = usize::try_from(number).unwrap();
            let (tenant, agent, ranks) = lines[number / 100];
            format!("{tenant}/{agent}/{}", ranks[number % 100])
        };
        chosen.into_iter().map(show).collect()
    }

    #[test]
    fn c5_a_step_of_priority_is_worth_a_minute_of_waiting() {
        assert!(rank(Timestamp(59_999), 0) > rank(Timestamp(119_998), 1));
        assert!(rank(Timestamp(59_999), 0) < rank(Timestamp(120_000), 1));
        assert_eq!(rank(Timestamp(i64::MIN), i32::MAX), i64::MIN);
    }

    #[test]
    fn c5_a_long_line_keeps_no_other_tenant_waiting() {
        let lines: &[(&str, &str, &[i64])] =
            &[("big", "a", &[1, 2, 3, 4, 5]), ("small", "a", &[90]), ("tiny", "b", &[80])];
        let chosen = choose(Turns::default(), lines, 5, &Caps::default());
        assert_eq!(chosen, ["big/a/1", "tiny/b/80", "small/a/90", "big/a/2", "big/a/3"]);
    }

    #[test]
    fn c5_of_tenants_with_equally_many_the_one_served_longest_ago_goes_first() {
        let mut turns = Turns::default();
        turns.served("old".to_owned(), 7);
        turns.served("new".to_owned(), 3);
        let lines: &[(&str, &str, &[i64])] = &[("old", "a", &[1]), ("new", "a", &[9])];
        assert_eq!(choose(turns, lines, 1, &Caps::default()), ["new/a/9"]);
    }

    #[test]
    fn a_cap_keeps_back_only_what_it_is_for() {
        let caps = Caps {
            per_tenant: Some(2),
            tenants: [("big".to_owned(), 3)].into(),
            agents: [("slow".to_owned(), 1)].into(),
        };
        let lines: &[(&str, &str, &[i64])] = &[
            ("big", "slow", &[1, 2, 3]),
            ("big", "quick", &[10, 11, 12, 13]),
            ("small", "quick", &[20, 21, 22]),
        ];
        let mut turns = Turns::default();
        turns.held("small", "quick", 1);
        let chosen = choose(turns, lines, 99, &caps);
        assert_eq!(chosen, ["big/slow/1", "small/quick/20", "big/quick/10", "big/quick/11"]);
    }
}
