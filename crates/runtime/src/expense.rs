//! Tools that cost with every call: how often, checked by what, told to whom (SCOPE R15).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steadfast_guard::{
    Alert, Anomaly, AnomalyPolicy, BudgetPolicy, CallBudget, PolicyError, PreCheck, PreCheckPolicy,
};

/// How an expensive tool is protected, beside its guard's policy. Something cheaper instead is the tool's
/// [`FallbackRule::to`](crate::FallbackRule).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpenseRule {
    /// Calls that one run may make, by its log: a crash gives none back. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_run: Option<u32>,
    /// What one call costs, in the unit of `budget.cost` and `anomaly.max_cost`. Default 0.
    pub cost_per_call: u64,
    /// Calls and cost of all runs in a sliding window. Each node counts its own, from its start on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetPolicy>,
    /// A tool that only reads and is called with the same arguments first; if it reports a failure, the
    /// call is not made, and the model is told what it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_check_tool: Option<String>,
    /// How long the check may take, and what its failure means.
    pub pre_check: PreCheckPolicy,
    /// When calls or cost are out of the ordinary: somebody is told, nothing is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<AnomalyPolicy>,
}

/// Told when calls or cost run away, and when that is over. To be quick: it runs within the call.
pub(crate) type AlertHook = Arc<dyn Fn(&Alert) + Send + Sync>;

/// A rule in force. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct Expense {
    pub(crate) rule: Arc<ExpenseRule>,
    pub(crate) budget: Option<CallBudget>,
    pub(crate) check: PreCheck,
    pub(crate) anomaly: Option<Anomaly>,
}

impl Expense {
    /// # Errors
    /// The key of the rule that cannot be kept.
    pub(crate) fn new(
        tool: &str,
        rule: ExpenseRule,
        alert: AlertHook,
    ) -> Result<Self, PolicyError> {
        let budget = rule.budget.map(|policy| CallBudget::new(tool, policy)).transpose()?;
        let name = rule.pre_check_tool.as_deref().unwrap_or_default();
        let check = PreCheck::new(name, rule.pre_check)?;
        let watch = |policy| Anomaly::new(tool, policy, move |told: &Alert| alert(told));
        let anomaly = rule.anomaly.map(watch).transpose()?;
        if rule.calls_per_run == Some(0) {
            let problem = "the tool could never be called; remove it from the agents instead";
            return Err(PolicyError { key: "calls_per_run", value: "0".to_owned(), problem });
        }
        Ok(Self { rule: Arc::new(rule), budget, check, anomaly })
    }
}
