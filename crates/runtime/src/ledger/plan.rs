//! Which accounts a call falls on.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use steadfast_store::{Account, Timestamp};

use super::account::account_name;
use super::payer::{Payer, Scope};
use super::refusal::{Measure, OverBudget};
use super::rule::BudgetRule;
use super::window::Window;

/// What is added up for reports, whether or not it is limited.
const REPORTED: [(Scope, Window); 8] = [
    (Scope::Tenant, Window::Day),
    (Scope::Tenant, Window::Month),
    (Scope::User, Window::Day),
    (Scope::Key, Window::Day),
    (Scope::Agent, Window::Day),
    (Scope::Model, Window::Day),
    (Scope::Session, Window::Whole),
    (Scope::Run, Window::Whole),
];

/// Where a call is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the call may use by itself.
    pub calls: Vec<CallLimit>,
    /// Accounts with a limit, in the order of their names, each once. All must have room for the call.
    pub limited: Vec<Limited>,
    /// Accounts without a limit that are added up for reports, each once and none of the above.
    pub tallies: Vec<Account>,
}

/// A limit, and the rule that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The limit: tokens, or nano-USD.
    pub limit: u64,
    /// The index of the rule.
    pub rule: usize,
}

/// Whose a limit is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whose {
    scope: Scope,
    name: String,
    operations: Vec<String>,
}

/// An account with a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The account.
    pub account: Account,
    /// Tokens that it may use.
    pub tokens: Option<Limit>,
    /// Nano-USD that it may use.
    pub money: Option<Limit>,
    whose: Whose,
    window: Window,
    until: Option<i64>,
}

/// What one call may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallLimit {
    /// Tokens at most.
    pub tokens: Option<Limit>,
    /// Nano-USD at most.
    pub money: Option<Limit>,
    whose: Whose,
}

impl Limited {
    /// What a caller is told if there is no room: figures are in the unit of `measure`.
    #[must_use]
    pub fn refusal(&self, measure: Measure, spent: u64, reserved: u64, needed: u64) -> OverBudget {
        let limit = match measure {
            Measure::Tokens => self.tokens,
            Measure::NanoUsd => self.money,
        };
        OverBudget {
            limit: limit.map_or(u64::MAX, |limit| limit.limit),
            spent,
            reserved,
            resets_at: self.until,
            ..self.whose.refusal(self.window, measure, needed)
        }
    }
}

impl CallLimit {
    /// Whether a call may use so much.
    ///
    /// # Errors
    /// [`OverBudget`], with what it may use.
    pub fn check(&self, tokens: u64, nano_usd: u64) -> Result<(), OverBudget> {
        let measured =
            [(Measure::Tokens, self.tokens, tokens), (Measure::NanoUsd, self.money, nano_usd)];
        for (measure, limit, needed) in measured {
            if let Some(Limit { limit, .. }) = limit.filter(|limit| needed > limit.limit) {
                let refusal = self.whose.refusal(Window::Call, measure, needed);
                return Err(OverBudget { limit, ..refusal });
            }
        }
        Ok(())
    }
}

impl Whose {
    fn refusal(&self, window: Window, measure: Measure, needed: u64) -> OverBudget {
        OverBudget {
            scope: self.scope,
            name: self.name.clone(),
            operations: self.operations.clone(),
            window,
            measure,
            limit: 0,
            spent: 0,
            reserved: 0,
            needed,
            resets_at: None,
        }
    }
}

/// What the rules say about one account.
struct Found {
    whose: Whose,
    window: Window,
    tokens: Option<(u8, Limit)>,
    money: Option<(u8, Limit)>,
}

/// Where a call of this payer is counted at this moment. Days, weeks and months are those of the time zone.
///
/// The same arguments give the same plan, so a call is settled on the accounts that it was reserved on if
/// the plan is kept, or made again for the moment of the reservation.
#[must_use]
pub fn plan(rules: &[BudgetRule], payer: &Payer, now: Timestamp, zone: &TimeZone) -> Plan {
    let mut plan = Plan::default();
    for (name, found) in found(rules, payer) {
        let [tokens, money] =
            [found.tokens, found.money].map(|found| found.map(|(_, limit)| limit));
        let Found { whose, window, .. } = found;
        if window == Window::Call {
            plan.calls.push(CallLimit { tokens, money, whose });
        } else {
            let bounds = window.bounds(now, zone);
            let account = Account { name, since: bounds.since };
            let until = bounds.until;
            plan.limited.push(Limited { account, tokens, money, whose, window, until });
        }
    }
    let limited: BTreeSet<&str> =
        plan.limited.iter().map(|limited| limited.account.name.as_str()).collect();
    let mut tallies = BTreeSet::new();
    for (scope, window) in REPORTED {
        let since = window.bounds(now, zone).since;
        for party in scope.parties(payer) {
            let name = account_name(scope, &party, window, &[]);
            if !limited.contains(name.as_str()) {
                tallies.insert(Account { name, since });
            }
        }
    }
    plan.tallies = tallies.into_iter().collect();
    plan
}

/// The accounts with a limit, by name: of rules for the same account the most particular counts.
fn found(rules: &[BudgetRule], payer: &Payer) -> BTreeMap<String, Found> {
    let mut all: BTreeMap<String, Found> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        for party in rule.scope.parties(payer) {
            if !rule.covers(&party, payer) {
                continue;
            }
            let operations = rule.operations_in_order();
            let name = account_name(rule.scope, &party, rule.window, &operations);
            let found = all.entry(name).or_insert_with(|| Found {
                whose: Whose { scope: rule.scope, name: party.join("/"), operations },
                window: rule.window,
                tokens: None,
                money: None,
            });
            let limit = |limit: u64| (rule.particular(), Limit { limit, rule: index });
            replace(&mut found.tokens, rule.tokens.map(limit));
            replace(&mut found.money, rule.usd.map(|usd| limit(usd.nano())));
        }
    }
    all
}

/// Takes over a limit that is more particular than the one that is there.
fn replace(old: &mut Option<(u8, Limit)>, new: Option<(u8, Limit)>) {
    let Some(new) = new else { return };
    if old.is_none_or(|old| new.0 > old.0) {
        *old = Some(new);
    }
}

#[cfg(test)]
mod tests;
