//! What differs between two tables, for whoever updates one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::table::{Price, PriceTable};

/// One difference between two tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PriceChange {
    /// The model.
    pub model: String,
    /// What of it: `input`, `input above 200000 from 2026-12-01`, `service batch`.
    pub what: String,
    /// As it was, in USD per million tokens or as a factor; `None` if it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// As it is now; `None` if it is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

impl fmt::Display for PriceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "none".to_owned());
        write!(f, "{}: {}: {} -> {}", self.model, self.what, side(&self.old), side(&self.new))
    }
}

/// What differs between two tables, by model. What is configured over them takes part; rates that are the
/// same by default and as written do not differ.
#[must_use]
pub fn diff(old: &PriceTable, new: &PriceTable) -> Vec<PriceChange> {
    let (old, new) = (told(old), told(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let change = |key: &(String, String)| PriceChange {
        model: key.0.clone(),
        what: key.1.clone(),
        old: old.get(key).cloned(),
        new: new.get(key).cloned(),
    };
    changed.map(change).collect()
}

/// Everything that a table says, by model and kind.
fn told(table: &PriceTable) -> BTreeMap<(String, String), String> {
    let mut told = BTreeMap::new();
    let configured = table.configured.values().map(|price| (&price.model, price));
    for (model, price) in table.listed.iter().chain(configured) {
        for (what, value) in lines(price) {
            told.insert((model.clone(), what), value);
        }
    }
    told
}

fn lines(price: &Price) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for period in &price.periods {
        for tier in &period.tiers {
            let above =
                if tier.above > 0 { format!(" above {}", tier.above) } else { String::new() };
            let from = period.from.as_ref().map(|day| format!(" from {day}")).unwrap_or_default();
            for (name, rate) in tier.rates.named() {
                lines.push((format!("{name}{above}{from}"), rate.to_string()));
            }
        }
    }
    for (name, rule) in &price.service {
        let cache_read = rule.cache_read.unwrap_or(rule.factor);
        lines.push((format!("service {name}"), rule.factor.to_string()));
        lines.push((format!("service {name} for cache reads"), cache_read.to_string()));
    }
    for (name, factor) in &price.region {
        lines.push((format!("region {name}"), factor.to_string()));
    }
    if let Some(tokens) = price.output_max {
        lines.push(("output_max".to_owned(), tokens.to_string()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(models: &str) -> PriceTable {
        let json = format!(r#"{{"date": "2026-11-20", "models": [{models}]}}"#);
        PriceTable::parse(&json).expect("a table")
    }

    fn model(name: &str, tiers: &str) -> String {
        format!(
            r#"{{"model": "{name}", "vendor": "v", "source": "s", "date": "2026-11-20",
                "periods": [{{"tiers": [{tiers}]}}]}}"#
        )
    }

    #[test]
    fn what_differs_is_told_by_model_and_rate_and_nothing_else() {
        let same = model("same", r#"{"input": "1", "output": "2"}"#);
        let old = model("changed", r#"{"input": "1", "output": "2", "cache_read": "0.1"}"#);
        let new = model(
            "changed",
            r#"{"input": "1", "output": "2.5", "cache_read": "0.1", "reasoning": "2"}"#,
        );
        let gone = model("gone", r#"{"input": "3", "output": "4"}"#);
        let (before, after) =
            (table(&format!("{same},{old},{gone}")), table(&format!("{same},{new}")));
        let told: Vec<_> = diff(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(told[..2], ["changed: audio_output: 2 -> 2.5", "changed: output: 2 -> 2.5"]);
        assert!(told[2..].iter().all(|line| line.starts_with("gone: ")), "{told:?}");
        assert!(told.contains(&"gone: input: 3 -> none".to_owned()), "{told:?}");
        assert!(diff(&after, &after).is_empty());
    }
}
