//! What a caller is told whose call does not fit.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::money::Money;
use super::payer::Scope;
use super::window::Window;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Tokens.
    Tokens,
    /// Nano-USD.
    NanoUsd,
}

impl Measure {
    pub(super) fn amount(self, figure: u64) -> String {
        match self {
            Self::Tokens => format!("{figure} tokens"),
            Self::NanoUsd => Money::from_nano(figure).to_string(),
        }
    }
}

/// A call that does not fit into a budget. To try it again before `resets_at` is in vain, unless something
/// that is reserved is given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct OverBudget {
    /// Whose budget.
    pub scope: Scope,
    /// The name of whose it is, with the tenant in front; empty for everybody's.
    pub name: String,
    /// The operations that it is for; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
    /// For how long it holds.
    pub window: Window,
    /// What is measured; the figures below are in its unit.
    pub measure: Measure,
    /// The limit.
    pub limit: u64,
    /// What has been used of it.
    pub spent: u64,
    /// What calls under way may still use.
    pub reserved: u64,
    /// What this call may use at most.
    pub needed: u64,
    /// When the budget begins anew, in milliseconds since 1970; `None` if it never does.
    pub resets_at: Option<i64>,
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |figure| self.measure.amount(figure);
        let whose = match self.scope {
            Scope::All => "everybody".to_owned(),
            scope => format!("{} `{}`", scope.word(), self.name),
        };
        let what = match self.operations.as_slice() {
            [] => String::new(),
            operations => format!(" for {}", operations.join(", ")),
        };
        let (limit, needed) = (amount(self.limit), amount(self.needed));
        if self.window == Window::Call {
            return write!(
                f,
                "a call{what} of {whose} may use {limit} and this one could use {needed}: shorten it, \
                 or lower its longest answer"
            );
        }
        let per = match self.window {
            Window::Whole | Window::Call => String::new(),
            window => format!(" a {}", window.word()),
        };
        write!(f, "the budget of {whose}{what} is {limit}{per}: {} are used", amount(self.spent))?;
        if self.reserved > 0 {
            write!(f, ", {} are reserved by calls under way", amount(self.reserved))?;
        }
        write!(f, ", and this call could use {needed}")?;
        let resets = self.resets_at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        match resets {
            Some(time) => write!(f, "; it begins anew at {time}"),
            None => write!(f, "; it does not begin anew by itself: raise the limit to go on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> OverBudget {
        OverBudget {
            scope: Scope::Tenant,
            name: "acme".to_owned(),
            operations: Vec::new(),
            window: Window::Day,
            measure: Measure::NanoUsd,
            limit: 10_000_000_000,
            spent: 9_500_000_000,
            reserved: 400_000_000,
            needed: 123_456_000,
            resets_at: Some(1_764_115_200_000),
        }
    }

    #[test]
    fn g9_a_refusal_says_whose_limit_how_much_is_left_and_until_when() {
        assert_eq!(
            refusal().to_string(),
            "the budget of tenant `acme` is 10 USD a day: 9.5 USD are used, 0.4 USD are reserved by calls \
             under way, and this call could use 0.123456 USD; it begins anew at 2025-11-26T00:00:00Z"
        );
        let session = OverBudget {
            scope: Scope::Session,
            name: "acme/s1".to_owned(),
            operations: vec!["planning".to_owned()],
            window: Window::Whole,
            measure: Measure::Tokens,
            limit: 5_000,
            spent: 4_000,
            reserved: 0,
            needed: 1_200,
            resets_at: None,
        };
        assert_eq!(
            session.to_string(),
            "the budget of session `acme/s1` for planning is 5000 tokens: 4000 tokens are used, and this \
             call could use 1200 tokens; it does not begin anew by itself: raise the limit to go on"
        );
        let call = OverBudget { window: Window::Call, ..session };
        let told = call.to_string();
        assert!(
            told.starts_with("a call for planning of session `acme/s1` may use 5000"),
            "{told}"
        );
    }

    #[test]
    fn g9_a_refusal_goes_into_a_body_and_comes_back() {
        let json = serde_json::to_value(refusal()).expect("serializes");
        assert_eq!(json["scope"], "tenant");
        assert_eq!(json["window"], "day");
        assert_eq!(json["measure"], "nano_usd");
        assert_eq!(serde_json::from_value::<OverBudget>(json).expect("reads"), refusal());
    }
}
