//! What a call costs, and what it may cost at most.
//!
//! Tokens times rates are added up in pico-USD with whole numbers, multiplied by what service tier and
//! region make of them, and rounded up once, to nano-USD. Nothing that is unknown counts as nothing: no
//! usage is no cost but a question, and a model without a price is counted at a ceiling.

use serde::{Deserialize, Serialize};
use steadfast_providers::model::Usage;

use super::listing::{Rates, ServiceRule};
use super::rate::{Factor, Rate};
use super::table::{Found, PriceTable};

/// Pico-USD in a nano-USD.
const PICO_IN_NANO: u128 = 1_000;

/// Words for the ordinary service tier.
const ORDINARY: [&str; 3] = ["default", "standard", "auto"];

/// What was used, of which model, when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consumption<'a> {
    /// The provider, as it is named in the configuration.
    pub provider: Option<&'a str>,
    /// The model, as the provider names it.
    pub model: &'a str,
    /// When the call began, in milliseconds since 1970: the prices of that moment count.
    pub at_ms: i64,
    /// The tokens.
    pub usage: Usage,
    /// How many of the uncached input tokens were sound.
    pub audio_input: u64,
    /// How many of the output tokens were sound.
    pub audio_output: u64,
    /// The service tier, as the provider reported it, or else as it was asked for.
    pub service: Option<&'a str>,
    /// Where it is computed, if that changes the price: `us`, `eu`.
    pub region: Option<&'a str>,
    /// The tokens are somebody's estimate, not the provider's count.
    pub estimated: bool,
}

/// A call that is about to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// The provider, as it is named in the configuration.
    pub provider: Option<&'a str>,
    /// The model, as the provider names it.
    pub model: &'a str,
    /// When it begins, in milliseconds since 1970.
    pub at_ms: i64,
    /// Input tokens at most, those in caches included.
    pub input_tokens: u64,
    /// Output tokens at most, reasoning included.
    pub output_max: u64,
    /// Whether it asks for cache entries that live an hour or longer.
    pub long_cache: bool,
    /// Whether sound goes in or comes out.
    pub audio: bool,
    /// The service tier that it asks for.
    pub service: Option<&'a str>,
    /// Where it is computed, if that changes the price.
    pub region: Option<&'a str>,
}

/// How sure a cost is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// The provider's count at the vendor's or the configured price.
    Exact,
    /// Some of it was guessed: the tokens, or that a reseller takes the vendor's price.
    Estimated,
    /// There is no price, so a ceiling was taken, or there is no usage, so there is no figure.
    Unknown,
}

/// By which rate something was counted, so that history can be priced anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateId {
    /// `table:gemini-4-argon@2026-12-01>200000`: where from, model, first day, size of prompt.
    pub id: String,
    /// Where the price was published.
    pub source: String,
    /// When it was looked up there, as `2026-11-20`.
    pub date: String,
}

/// What a call costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// In nano-USD (10^-9 USD), rounded up. `None`: the provider told no tokens. It is never 0 for want
    /// of a price.
    pub nano_usd: Option<u64>,
    /// How sure that is.
    pub certainty: Certainty,
    /// By which rate it was counted.
    pub rate: RateId,
}

/// A model without a price, where only models with a price may be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "model `{model}` has no price, so no budget can be kept with it; write its rates into \
     `[prices.models.\"{model}\"]`, or set `prices.unknown` to `\"ceiling\"`"
)]
pub struct UnknownPrice {
    /// The model.
    pub model: String,
    /// The provider.
    pub provider: Option<String>,
}

/// What service tier and region make of a price.
#[derive(Clone, Copy)]
struct Factors {
    service: Factor,
    cache_read: Factor,
    region: Factor,
    /// Both were known.
    sure: bool,
}

impl PriceTable {
    /// What a call has cost. A model without a price is counted at the ceiling, whatever the rule: the
    /// call has been made.
    #[must_use]
    pub fn cost(&self, used: &Consumption<'_>) -> Cost {
        let prompt = used.usage.input_total();
        let found = self.find(used.provider, used.model);
        let priced = found.and_then(|Found { price, resold }| {
            let period = price.period(used.at_ms)?;
            let tier = period.tiers.iter().rev().find(|tier| tier.above < prompt);
            let tier = tier.or_else(|| period.tiers.first())?;
            let factors = factors(&price.service, &price.region, used.service, used.region);
            Some((tier.rates, factors, resold, price.rate_id(period, tier.above)))
        });
        let is_told = used.usage.total().is_some();
        let Some((rates, factors, resold, rate)) = priced else {
            let nano_usd = is_told.then(|| bill(used, &self.ceiling, Factors::none()));
            return Cost { nano_usd, certainty: Certainty::Unknown, rate: self.ceiling_id.clone() };
        };
        let Usage { input_uncached, output, .. } = used.usage;
        let lacks_output = output.is_none() && rates.output > Rate::default();
        let guessed = used.estimated || resold || !factors.sure;
        let certainty = match () {
            () if !is_told => Certainty::Unknown,
            () if guessed || input_uncached.is_none() || lacks_output => Certainty::Estimated,
            () => Certainty::Exact,
        };
        let nano_usd = is_told.then(|| bill(used, &rates, factors));
        Cost { nano_usd, certainty, rate }
    }

    /// What a call may cost at most: however its input falls to caches, and at the dearest tier that a
    /// prompt of this size or a smaller one may meet. It never falls as tokens rise, and
    /// [`PriceTable::cost`] of the call never exceeds it, as long as the provider keeps to both limits and
    /// to the service tier that was asked for.
    ///
    /// # Errors
    /// The model has no price, and such models are not to be asked.
    pub fn upper_bound(&self, ask: &Ask<'_>) -> Result<Cost, UnknownPrice> {
        self.check(ask.provider, ask.model)?;
        let found = self.find(ask.provider, ask.model);
        let priced = found.and_then(|Found { price, resold }| {
            let period = price.period(ask.at_ms)?;
            let first = period.tiers.first()?;
            let within = period.tiers.iter().take_while(|tier| tier.above < ask.input_tokens);
            let (rates, above) = within.fold((first.rates, 0), |(dearest, _), tier| {
                (dearest.dearest(&tier.rates), tier.above)
            });
            let factors = factors(&price.service, &price.region, ask.service, ask.region);
            let certainty = if resold { Certainty::Estimated } else { Certainty::Exact };
            Some((rates, factors, certainty, price.rate_id(period, above)))
        });
        let (rates, factors, certainty, rate) = priced.unwrap_or_else(|| {
            (self.ceiling, Factors::none(), Certainty::Unknown, self.ceiling_id.clone())
        });
        // A provider may serve a cheap tier at the ordinary one, and cache reads have their own factor.
        let service = factors.service.max(factors.cache_read).max(Factor::ONE);
        let factors = Factors { service, cache_read: service, ..factors };
        let mut input = rates.input.max(rates.cache_read).max(rates.cache_write);
        let mut output = rates.output.max(rates.reasoning);
        if ask.long_cache {
            input = input.max(rates.cache_write_1h);
        }
        if ask.audio {
            (input, output) = (input.max(rates.audio_input), output.max(rates.audio_output));
        }
        let pico = times(ask.input_tokens, input).saturating_add(times(ask.output_max, output));
        Ok(Cost { nano_usd: Some(nano(pico, 0, factors)), certainty, rate })
    }
}

impl Factors {
    const fn none() -> Self {
        let one = Factor::ONE;
        Self { service: one, cache_read: one, region: one, sure: true }
    }
}

/// The factors of a call. A service tier that is not listed counts like the dearest that is.
fn factors(
    services: &std::collections::BTreeMap<String, ServiceRule>,
    regions: &std::collections::BTreeMap<String, Factor>,
    service: Option<&str>,
    region: Option<&str>,
) -> Factors {
    let mut factors = Factors::none();
    if let Some(name) = service.filter(|name| !ORDINARY.contains(name)) {
        let rule = services.get(name);
        factors.sure = rule.is_some();
        factors.service = rule.map_or_else(
            || services.values().fold(Factor::ONE, |most, rule| most.max(rule.factor)),
            |rule| rule.factor,
        );
        factors.cache_read = rule.and_then(|rule| rule.cache_read).unwrap_or(factors.service);
    }
    if let Some(name) = region {
        let factor = regions.get(name);
        factors.sure &= factor.is_some() || regions.is_empty();
        factors.region = factor.copied().unwrap_or(Factor::ONE);
    }
    factors
}

fn times(tokens: u64, rate: Rate) -> u128 {
    u128::from(tokens) * u128::from(rate.pico())
}

/// The whole sum of a call, in nano-USD.
fn bill(used: &Consumption<'_>, rates: &Rates, factors: Factors) -> u64 {
    let usage = &used.usage;
    let part = |tokens: Option<u64>| tokens.unwrap_or(0);
    let uncached = part(usage.input_uncached);
    let audio_input = used.audio_input.min(uncached);
    // Reasoning is a part of the output; where it is told without, it is all there is.
    let output = part(usage.output).max(part(usage.output_reasoning));
    let reasoning = part(usage.output_reasoning);
    let audio_output = used.audio_output.min(output - reasoning);
    let sum = [
        times(uncached - audio_input, rates.input),
        times(audio_input, rates.audio_input),
        times(part(usage.cache_write), rates.cache_write),
        times(part(usage.cache_write_1h), rates.cache_write_1h),
        times(output - reasoning - audio_output, rates.output),
        times(audio_output, rates.audio_output),
        times(reasoning, rates.reasoning),
    ];
    let sum = sum.into_iter().fold(0, u128::saturating_add);
    nano(sum, times(part(usage.cache_read), rates.cache_read), factors)
}

/// Pico-USD with their factors, in nano-USD. The only place where anything is rounded.
fn nano(pico: u128, of_cache_reads: u128, factors: Factors) -> u64 {
    let Factors { service, cache_read, region, .. } = factors;
    let below = |factor: Factor| u128::from(factor.denominator);
    let scaled = |pico: u128, factor: Factor, other: Factor| {
        pico.saturating_mul(u128::from(factor.numerator)).saturating_mul(below(other))
    };
    let sum = scaled(pico, service, cache_read)
        .saturating_add(scaled(of_cache_reads, cache_read, service))
        .saturating_mul(u128::from(region.numerator));
    let unit = below(service) * below(cache_read) * below(region) * PICO_IN_NANO;
    u64::try_from(sum.div_ceil(unit)).unwrap_or(u64::MAX)
}
