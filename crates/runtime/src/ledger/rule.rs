//! `[[budget]]`: how much somebody may use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::money::Money;
use super::payer::{Payer, Scope};
use super::window::Window;

/// The name that means each.
const EACH: &str = "*";

/// How much somebody may use in a window. At least one of `tokens` and `usd` is set.
///
/// Of rules that differ in whom they name only, the most particular counts, for tokens and for money by
/// itself: one for `acme` goes before one for each tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetRule {
    /// What kind of party it is for.
    pub scope: Scope,
    /// Which of them; `*` (default) is each, with a budget of its own.
    #[serde(default = "each")]
    pub name: String,
    /// Only parties of this tenant. Default: of every tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// When it begins anew. Default `whole`: never.
    #[serde(default)]
    pub window: Window,
    /// Input and output tokens together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Money, in USD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<Money>,
    /// Percentages of the limit at which somebody is told, and nothing refused. Default 80.
    #[serde(default = "default_soft")]
    pub soft: Vec<u8>,
    /// Only calls for one of these operations; they share the budget. Default: every call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
}

fn each() -> String {
    EACH.to_owned()
}

fn default_soft() -> Vec<u8> {
    vec![80]
}

/// A rule that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("budget {}: `{key}`: {problem}", .rule + 1)]
pub struct BudgetError {
    /// Which rule, counted from 0.
    pub rule: usize,
    /// The key.
    pub key: &'static str,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl BudgetRule {
    /// Whether it is for a party, which has its tenant in front.
    pub(super) fn covers(&self, party: &[&str], payer: &Payer) -> bool {
        let of_tenant = self.tenant.as_ref().is_none_or(|tenant| *tenant == payer.tenant);
        let named = self.name == EACH || party.last().is_some_and(|name| *name == self.name);
        let operation = payer.operation.as_ref();
        let for_it = self.operations.is_empty()
            || operation.is_some_and(|operation| self.operations.contains(operation));
        of_tenant && named && for_it
    }

    /// How particular it is about whom it is for.
    pub(super) fn particular(&self) -> u8 {
        u8::from(self.name != EACH) * 2 + u8::from(self.tenant.is_some())
    }

    /// Its operations in the order of their names, each once.
    pub(super) fn operations_in_order(&self) -> Vec<String> {
        let mut operations = self.operations.clone();
        operations.sort();
        operations.dedup();
        operations
    }

    /// The highest percentage of `soft` that is passed when use rises from one figure to another.
    #[must_use]
    pub fn passed(&self, limit: u64, before: u64, after: u64) -> Option<u8> {
        let reached = |used: u64, percent: u8| {
            u128::from(used) * 100 >= u128::from(limit) * u128::from(percent)
        };
        let passed = self.soft.iter().filter(|p| !reached(before, **p) && reached(after, **p));
        passed.max().copied()
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let wrong = |key, problem: &str| Err((key, problem.to_owned()));
        if self.tokens.is_none() && self.usd.is_none() {
            return wrong("tokens", "it limits nothing: set `tokens`, `usd` or both");
        }
        if self.scope == Scope::All && self.name != EACH {
            return wrong("name", "`scope = \"all\"` is everybody together: remove `name`");
        }
        if matches!(self.scope, Scope::All | Scope::Tenant) && self.tenant.is_some() {
            return wrong("tenant", "name the tenant by `scope = \"tenant\"` and `name`");
        }
        if self.name.is_empty() {
            return wrong("name", "it is empty: name one, or write `*` for each");
        }
        if let Some(percent) = self.soft.iter().find(|percent| !(1..=100).contains(*percent)) {
            return Err(("soft", format!("{percent} is no percentage from 1 to 100")));
        }
        if self.operations.iter().any(String::is_empty) {
            return wrong("operations", "an operation has no name");
        }
        Ok(())
    }
}

/// Whether every rule can be kept, and no two are for the same.
///
/// # Errors
/// [`BudgetError`]: the first that cannot.
pub fn check_budgets(rules: &[BudgetRule]) -> Result<(), BudgetError> {
    let mut seen = BTreeMap::new();
    for (number, rule) in rules.iter().enumerate() {
        rule.check().map_err(|(key, problem)| BudgetError { rule: number, key, problem })?;
        let BudgetRule { scope, name, tenant, window, .. } = rule;
        let whom = (*scope, name, tenant, *window, rule.operations_in_order());
        if let Some(first) = seen.insert(whom, number) {
            let problem = format!(
                "budget {} is for the same: put `tokens` and `usd` into one, or remove one",
                first + 1
            );
            return Err(BudgetError { rule: number, key: "scope", problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<BudgetRule> {
        #[derive(Deserialize)]
        struct Rules {
            budget: Vec<BudgetRule>,
        }
        toml::from_str::<Rules>(text).expect("rules").budget
    }

    #[test]
    fn p7_a_rule_has_what_is_written_and_defaults_for_the_rest() {
        let rules = rules("[[budget]]\nscope = \"session\"\ntokens = 5000\nusd = 0.25");
        let rule = &rules[0];
        assert_eq!((rule.name.as_str(), rule.window), ("*", Window::Whole));
        assert_eq!((rule.tokens, rule.usd.map(Money::nano)), (Some(5_000), Some(250_000_000)));
        assert_eq!(rule.soft, [80]);
        assert_eq!(check_budgets(&rules), Ok(()));
    }

    #[test]
    fn what_cannot_be_kept_is_told() {
        for (written, key, told) in [
            ("scope = \"tenant\"", "tokens", "set `tokens`, `usd` or both"),
            ("scope = \"all\"\nname = \"acme\"\ntokens = 1", "name", "remove `name`"),
            ("scope = \"tenant\"\ntenant = \"acme\"\ntokens = 1", "tenant", "`name`"),
            ("scope = \"user\"\nname = \"\"\ntokens = 1", "name", "for each"),
            ("scope = \"user\"\nsoft = [120]\ntokens = 1", "soft", "120"),
            ("scope = \"user\"\noperations = [\"\"]\ntokens = 1", "operations", "no name"),
            (
                "scope = \"user\"\noperations = [\"a\", \"b\"]\ntokens = 1\n[[budget]]\n\
                 scope = \"user\"\noperations = [\"b\", \"a\"]\nusd = 1",
                "scope",
                "budget 1 is for the same",
            ),
        ] {
            let error =
                check_budgets(&rules(&format!("[[budget]]\n{written}"))).expect_err(written);
            assert_eq!(error.key, key, "{error}");
            assert!(error.problem.contains(told), "{error}");
        }
    }

    #[test]
    fn p7_a_share_of_a_limit_is_told_when_it_is_passed_and_not_again() {
        let mut rule = rules("[[budget]]\nscope = \"all\"\ntokens = 1000").remove(0);
        rule.soft = vec![50, 80, 100];
        let passed = |before, after| rule.passed(1_000, before, after);
        assert_eq!(passed(0, 499), None);
        assert_eq!(passed(499, 500), Some(50));
        assert_eq!(passed(500, 700), None);
        assert_eq!(passed(400, 900), Some(80));
        assert_eq!(passed(999, 1_000), Some(100));
        assert_eq!(passed(1_000, 2_000), None);
    }
}
