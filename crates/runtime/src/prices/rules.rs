//! `[prices]`: what a configuration says over the table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cost::RateId;
use super::listing::{PeriodRule, PriceError, RateRule, Rates, ServiceRule};
use super::names::candidates;
use super::rate::{Factor, Rate};
use super::table::{OnUnknown, Period, Price, PriceTable, Tier, resolve_periods};

/// Nothing that is sold by the token costs less a million tokens, and above 0; the cheapest of the table
/// is six times as much. Prices per token and per thousand tokens are found by it.
const CHEAPEST: Rate = Rate::from_pico(1_000);
/// Nothing costs more a million tokens than 10 000 USD.
const DEAREST: Rate = Rate::from_pico(10_000_000_000);
/// A configured rate this many times larger or smaller than the table's is told.
const STRANGE_RATIO: u64 = 20;

/// Prices as a configuration has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceRules {
    /// What is done about a model without a price: `ceiling` (default) or `deny`.
    pub unknown: OnUnknown,
    /// The ceiling. Default: of each kind the dearest rate in the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<RateRule>,
    /// Prices by model, or by `PROVIDER/MODEL` for one provider. Each replaces that of the table whole.
    pub models: BTreeMap<String, PriceRule>,
}

/// The price of one model: rates, or rates by day, or a share of the table's price.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceRule {
    /// In USD per million tokens: input that a cache has no part in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Rate>,
    /// Input read from a prompt cache. Default: as `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<Rate>,
    /// Input written to a prompt cache for minutes. Default: as `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Rate>,
    /// Input written to a prompt cache for an hour or longer. Default: twice `input` for Anthropic's
    /// models, as `cache_write` for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<Rate>,
    /// Output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Rate>,
    /// Output that was reasoning. Default: as `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Rate>,
    /// Input that was sound. Default: as `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_input: Option<Rate>,
    /// Output that was sound. Default: as `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_output: Option<Rate>,
    /// Other rates for prompts that are larger than `above` tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<RateRule>,
    /// Rates from a day on, instead of the rates above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub periods: Vec<PeriodRule>,
    /// By how much the table's price is multiplied, instead of rates: `0.8` with a discount of a fifth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<Factor>,
    /// Service tiers. Default: the table's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub service: BTreeMap<String, ServiceRule>,
    /// Factors by region. Default: the table's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub region: BTreeMap<String, Factor>,
    /// The longest answer, in tokens. Default: the table's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_max: Option<u64>,
}

/// A configured rate that is hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceWarning {
    /// Where, as a dotted key below `prices`.
    pub key: String,
    /// What is strange about it.
    pub problem: String,
}

impl fmt::Display for PriceWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`prices.{}`: {}", self.key, self.problem)
    }
}

impl PriceTable {
    /// The table with what a configuration says over it, and what is strange about that.
    ///
    /// # Errors
    /// A rate is missing, out of order, or such that it must have been meant per token.
    pub fn with(mut self, rules: &PriceRules) -> Result<(Self, Vec<PriceWarning>), PriceError> {
        let mut warnings = Vec::new();
        self.on_unknown = rules.unknown;
        if let Some(ceiling) = &rules.ceiling {
            if ceiling.above != 0 {
                return Err(PriceError::new(
                    "ceiling.above",
                    "the ceiling has one tier: remove it",
                ));
            }
            self.ceiling = ceiling.resolve("ceiling", true)?;
            refuse_absurd("ceiling", &self.ceiling)?;
            let (id, source) = ("ceiling:config".to_owned(), "the configuration".to_owned());
            self.ceiling_id = RateId { id, source, date: String::new() };
        }
        for (name, rule) in &rules.models {
            let key = format!("models.{name}");
            let price = self.configure(&key, name, rule)?;
            if let Some(listed) = self.listed_as(name) {
                compare(&key, listed, &price, &mut warnings);
            }
            self.configured.insert(name.to_ascii_lowercase(), Arc::new(price));
        }
        Ok((self, warnings))
    }

    /// What the table has under a name that may have a provider in front.
    fn listed_as(&self, name: &str) -> Option<&Price> {
        let bare = name.rsplit('/').next().unwrap_or(name);
        let names = candidates(bare);
        names.iter().find_map(|name| self.listed.get(&name.name)).map(AsRef::as_ref)
    }

    fn configure(&self, key: &str, name: &str, rule: &PriceRule) -> Result<Price, PriceError> {
        let listed = self.listed_as(name);
        let is_anthropic =
            listed.map_or_else(|| name.contains("claude"), |listed| listed.is_anthropic);
        let periods = match (rule.factor, listed) {
            (Some(_), _) if rule.has_rates() => {
                return Err(PriceError::new(
                    format!("{key}.factor"),
                    "it multiplies the table's price: set it or rates, not both",
                ));
            }
            (Some(_), None) => {
                return Err(PriceError::new(
                    format!("{key}.factor"),
                    "the table has no such model to multiply the price of: write `input` and `output`",
                ));
            }
            (Some(factor), Some(listed)) => multiplied(&listed.periods, factor),
            (None, _) => resolve_periods(key, &rule.written_periods(key)?, is_anthropic)?,
        };
        for tier in periods.iter().flat_map(|period| &period.tiers) {
            refuse_absurd(key, &tier.rates)?;
        }
        let from_table = |listed: &Price| (listed.service.clone(), listed.region.clone());
        let (mut service, mut region) = listed.map(from_table).unwrap_or_default();
        service.extend(rule.service.clone());
        region.extend(rule.region.clone());
        Ok(Price {
            model: name.to_owned(),
            origin: "config",
            source: "the configuration".to_owned(),
            date: listed
                .filter(|_| rule.factor.is_some())
                .map_or_else(String::new, |listed| listed.date.clone()),
            is_anthropic,
            output_max: rule.output_max.or_else(|| listed?.output_max),
            periods,
            service,
            region,
        })
    }
}

impl PriceRule {
    fn first_tier(&self) -> RateRule {
        RateRule {
            above: 0,
            input: self.input,
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            cache_write_1h: self.cache_write_1h,
            output: self.output,
            reasoning: self.reasoning,
            audio_input: self.audio_input,
            audio_output: self.audio_output,
        }
    }

    fn has_rates(&self) -> bool {
        !self.first_tier().is_empty() || !self.tiers.is_empty() || !self.periods.is_empty()
    }

    /// The periods, as if they had been written so.
    fn written_periods(&self, key: &str) -> Result<Vec<PeriodRule>, PriceError> {
        let first = self.first_tier();
        if self.periods.is_empty() {
            let mut tiers = vec![first];
            tiers.extend(self.tiers.clone());
            return Ok(vec![PeriodRule { from: None, tiers }]);
        }
        if !first.is_empty() || !self.tiers.is_empty() {
            let problem = "rates stand in the periods or beside them, not both";
            return Err(PriceError::new(format!("{key}.periods"), problem));
        }
        Ok(self.periods.clone())
    }
}

fn multiplied(periods: &[Period], factor: Factor) -> Vec<Period> {
    let multiplied = |period: &Period| Period {
        tiers: (period.tiers.iter())
            .map(|tier| Tier { above: tier.above, rates: tier.rates.map(|rate| factor.of(rate)) })
            .collect(),
        ..period.clone()
    };
    periods.iter().map(multiplied).collect()
}

/// Finds rates that are meant per token or per thousand tokens.
fn refuse_absurd(key: &str, rates: &Rates) -> Result<(), PriceError> {
    for (name, rate) in rates.named() {
        let key = format!("{key}.{name}");
        if rate > Rate::default() && rate < CHEAPEST {
            let million = rate.times(1_000_000);
            let problem = format!(
                "{rate} USD per million tokens is next to nothing; rates are per million tokens: if \
                 {rate} is the price of one token, write {million}"
            );
            return Err(PriceError::new(key, problem));
        }
        if rate > DEAREST {
            let problem = format!(
                "{rate} USD per million tokens is more than anything costs (at most {DEAREST}); rates \
                 are in USD per million tokens"
            );
            return Err(PriceError::new(key, problem));
        }
    }
    Ok(())
}

/// Tells of rates that are far from the table's.
fn compare(key: &str, listed: &Price, configured: &Price, warnings: &mut Vec<PriceWarning>) {
    let first = |price: &Price| Some(price.periods.last()?.tiers.first()?.rates);
    let (Some(listed), Some(configured)) = (first(listed), first(configured)) else { return };
    for ((name, old), (_, new)) in listed.named().into_iter().zip(configured.named()) {
        let is_cheap = new > Rate::default() && new.times(STRANGE_RATIO) < old;
        let is_dear = old > Rate::default() && new > old.times(STRANGE_RATIO);
        if is_cheap || is_dear {
            let problem = format!(
                "it is {new} USD per million tokens, and the table has {old}: more than {STRANGE_RATIO} \
                 times off; rates are in USD per million tokens"
            );
            warnings.push(PriceWarning { key: format!("{key}.{name}"), problem });
        }
    }
}
