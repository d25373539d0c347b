//! Prices in force, and which of them is a model's.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cost::{RateId, UnknownPrice};
use super::listing::{Listing, PeriodRule, PriceError, Rates, ServiceRule};
use super::names::candidates;
use super::rate::Factor;

/// The table of the repository: vendors' prices with source and date, one model a line.
const TABLE: &str = include_str!("table.json");

/// What is done about a model without a price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// It is counted at a ceiling: the configured rates, or the dearest of each kind that are known.
    #[default]
    Ceiling,
    /// It is not asked.
    Deny,
}

/// Rates by the size of the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tier {
    pub(super) above: u64,
    pub(super) rates: Rates,
}

/// Rates from a moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Period {
    /// Its first day as it is written, if it has one.
    pub(super) from: Option<String>,
    pub(super) from_ms: i64,
    /// The first counts from the first token on; each next one is for larger prompts.
    pub(super) tiers: Vec<Tier>,
}

/// The price of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Price {
    pub(super) model: String,
    /// Where it comes from: `table` or `config`.
    pub(super) origin: &'static str,
    pub(super) source: String,
    pub(super) date: String,
    pub(super) is_anthropic: bool,
    pub(super) output_max: Option<u64>,
    pub(super) periods: Vec<Period>,
    pub(super) service: BTreeMap<String, ServiceRule>,
    pub(super) region: BTreeMap<String, Factor>,
}

impl Price {
    /// The period of a moment; what lies before the first is counted by the first.
    pub(super) fn period(&self, at_ms: i64) -> Option<&Period> {
        let later = self.periods.iter().rposition(|period| period.from_ms <= at_ms);
        self.periods.get(later.unwrap_or(0))
    }

    pub(super) fn rate_id(&self, period: &Period, above: u64) -> RateId {
        let from = period.from.as_deref().unwrap_or("ever");
        let id = format!("{}:{}@{from}>{above}", self.origin, self.model);
        RateId { id, source: self.source.clone(), date: self.date.clone() }
    }

    /// The dearest rate of each kind that it ever has.
    fn dearest(&self) -> Rates {
        let tiers = self.periods.iter().flat_map(|period| &period.tiers);
        tiers.fold(Rates::default(), |dearest, tier| dearest.dearest(&tier.rates))
    }
}

/// A price that was found, and how sure it is.
pub(super) struct Found<'a> {
    pub(super) price: &'a Price,
    /// It is the vendor's, and somebody else sells the model.
    pub(super) resold: bool,
}

/// Prices of models. Immutable, and cheap to share.
#[derive(Clone, Debug)]
pub struct PriceTable {
    /// By each of their names.
    pub(super) listed: BTreeMap<String, Arc<Price>>,
    /// By model, or `provider/model`; these go first.
    pub(super) configured: BTreeMap<String, Arc<Price>>,
    pub(super) on_unknown: OnUnknown,
    pub(super) ceiling: Rates,
    /// What the ceiling is called in a bill.
    pub(super) ceiling_id: RateId,
}

impl PriceTable {
    /// The table of this release.
    ///
    /// # Errors
    /// The table is wrong, which the tests of this crate rule out.
    pub fn built_in() -> Result<Self, PriceError> {
        Self::parse(TABLE)
    }

    /// Reads a table in the form of the one that is built in.
    ///
    /// # Errors
    /// It is not JSON of that form; a model stands in it twice, has no rates or rates out of order.
    pub fn parse(json: &str) -> Result<Self, PriceError> {
        let wrong = |error: serde_json::Error| PriceError::new("models", error.to_string());
        let listing: Listing = serde_json::from_str(json).map_err(wrong)?;
        let mut listed = BTreeMap::new();
        let mut ceiling = Rates::default();
        for model in listing.models {
            let key = format!("models.{}", model.model);
            let is_anthropic = model.vendor == "anthropic";
            let price = Arc::new(Price {
                periods: resolve_periods(&key, &model.periods, is_anthropic)?,
                model: model.model.clone(),
                origin: "table",
                source: model.source,
                date: model.date.to_string(),
                is_anthropic,
                output_max: model.output_max,
                service: model.service,
                region: model.region,
            });
            ceiling = ceiling.dearest(&price.dearest());
            for name in model.names.into_iter().chain([model.model]) {
                if listed.insert(name.clone(), price.clone()).is_some() {
                    return Err(PriceError::new(key, format!("`{name}` is there twice")));
                }
            }
        }
        let date = listing.date.to_string();
        let source = "the dearest rate of each kind in the table".to_owned();
        let ceiling_id = RateId { id: "ceiling:table".to_owned(), source, date };
        let (configured, on_unknown) = (BTreeMap::new(), OnUnknown::default());
        Ok(Self { listed, configured, on_unknown, ceiling, ceiling_id })
    }

    /// The price of a model at a provider. Names are tried from the most to the least particular, and of
    /// each what is configured goes before what is listed.
    pub(super) fn find(&self, provider: Option<&str>, model: &str) -> Option<Found<'_>> {
        let names = candidates(model);
        if let Some(provider) = provider {
            let keys =
                names.iter().map(|name| format!("{}/{}", provider.to_ascii_lowercase(), name.name));
            if let Some(price) = keys.into_iter().find_map(|key| self.configured.get(&key)) {
                return Some(Found { price, resold: false });
            }
        }
        [&self.configured, &self.listed].into_iter().find_map(|prices| {
            names.iter().find_map(|name| {
                let price = prices.get(&name.name)?;
                Some(Found { price, resold: name.resold })
            })
        })
    }

    /// Whether a model has a price of its own.
    #[must_use]
    pub fn knows(&self, provider: Option<&str>, model: &str) -> bool {
        self.find(provider, model).is_some()
    }

    /// The longest answer that a model gives, in tokens, as far as the table says.
    #[must_use]
    pub fn output_max(&self, provider: Option<&str>, model: &str) -> Option<u64> {
        self.find(provider, model)?.price.output_max
    }

    /// Says that a model cannot be asked, if it has no price and that is the rule.
    ///
    /// # Errors
    /// [`UnknownPrice`].
    pub fn check(&self, provider: Option<&str>, model: &str) -> Result<(), UnknownPrice> {
        if self.on_unknown == OnUnknown::Ceiling || self.knows(provider, model) {
            return Ok(());
        }
        Err(UnknownPrice { model: model.to_owned(), provider: provider.map(str::to_owned) })
    }
}

/// Periods with every rate filled in, in order.
pub(super) fn resolve_periods(
    key: &str,
    rules: &[PeriodRule],
    is_anthropic: bool,
) -> Result<Vec<Period>, PriceError> {
    let mut periods: Vec<Period> = Vec::with_capacity(rules.len());
    for (number, rule) in rules.iter().enumerate() {
        let from_ms = rule.from.map_or(i64::MIN, super::listing::Day::begins_ms);
        if periods.last().is_some_and(|before| before.from_ms >= from_ms) {
            let problem =
                "periods must stand in order, each with a later first day than the one before";
            return Err(PriceError::new(format!("{key}.periods"), problem));
        }
        let place = if number == 0 { key.to_owned() } else { format!("{key}.periods") };
        let tiers = resolve_tiers(&place, rule, is_anthropic)?;
        periods.push(Period { from: rule.from.map(|day| day.to_string()), from_ms, tiers });
    }
    if periods.is_empty() {
        return Err(PriceError::new(key, "it has no rates: write `input` and `output`"));
    }
    Ok(periods)
}

fn resolve_tiers(
    key: &str,
    rule: &PeriodRule,
    is_anthropic: bool,
) -> Result<Vec<Tier>, PriceError> {
    let mut tiers: Vec<Tier> = Vec::with_capacity(rule.tiers.len());
    for tier in &rule.tiers {
        let is_in_order = match tiers.last() {
            None => tier.above == 0,
            Some(before) => before.above < tier.above,
        };
        if !is_in_order {
            let problem = "tiers must stand in order of `above`, the first without it";
            return Err(PriceError::new(format!("{key}.tiers"), problem));
        }
        tiers.push(Tier { above: tier.above, rates: tier.resolve(key, is_anthropic)? });
    }
    if tiers.is_empty() {
        return Err(PriceError::new(key, "it has no rates: write `input` and `output`"));
    }
    Ok(tiers)
}
