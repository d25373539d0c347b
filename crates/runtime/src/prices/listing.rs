//! A price as it is written: in the table of the repository and, in the same words, in a configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use super::rate::{Factor, Rate};

/// Something about a price that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {problem}")]
pub struct PriceError {
    /// Where, as a dotted key below `prices`: `models.gpt-4.1.input`.
    pub key: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl PriceError {
    pub(super) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

/// A day, as `2026-12-01`. It begins at midnight UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(Date);

impl Day {
    /// When it begins, in milliseconds since 1970.
    pub(super) fn begins_ms(self) -> i64 {
        let start = self.0.to_zoned(TimeZone::UTC);
        start.map_or(i64::MIN, |start| start.timestamp().as_millisecond())
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Date::from_str(&text).map(Self).map_err(|_| {
            D::Error::custom(format!("`{text}` is no day; write it as \"2026-12-01\", in quotes"))
        })
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A whole table as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    pub(super) date: Day,
    pub(super) models: Vec<ListedModel>,
}

/// A model of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListedModel {
    pub(super) model: String,
    pub(super) vendor: String,
    /// More names of the same model.
    #[serde(default)]
    pub(super) names: Vec<String>,
    /// Where the vendor says it.
    pub(super) source: String,
    /// When it was looked up.
    pub(super) date: Day,
    /// The longest answer, in tokens.
    pub(super) output_max: Option<u64>,
    pub(super) periods: Vec<PeriodRule>,
    #[serde(default)]
    pub(super) service: BTreeMap<String, ServiceRule>,
    #[serde(default)]
    pub(super) region: BTreeMap<String, Factor>,
    /// For whoever reads the table.
    #[serde(default, rename = "note")]
    pub(super) _note: Option<String>,
}

/// Rates from a day on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeriodRule {
    /// The first day. Without it: from ever. Only the first period may be without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Day>,
    /// The rates, by the size of the prompt. The first counts from the first token on.
    pub tiers: Vec<RateRule>,
}

/// Rates for prompts that are larger than something, in USD per million tokens. All input counts for the
/// size, what was read from a cache included; the rates then hold for the whole call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateRule {
    /// For prompts of more tokens than this. Default 0.
    pub above: u64,
    /// Input that a cache has no part in. Required.
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
    /// Output. Required.
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
}

/// What a service tier does to a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRule {
    /// By how much every rate is multiplied.
    pub factor: Factor,
    /// By how much that of cache reads is instead. Default: as `factor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<Factor>,
}

/// Rates in force for a call, everything filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Input that a cache has no part in.
    pub input: Rate,
    /// Input read from a prompt cache.
    pub cache_read: Rate,
    /// Input written to a prompt cache for minutes.
    pub cache_write: Rate,
    /// Input written to a prompt cache for an hour or longer.
    pub cache_write_1h: Rate,
    /// Output.
    pub output: Rate,
    /// Output that was reasoning.
    pub reasoning: Rate,
    /// Input that was sound.
    pub audio_input: Rate,
    /// Output that was sound.
    pub audio_output: Rate,
}

impl Rates {
    /// Each rate with its name.
    pub(super) const fn named(&self) -> [(&'static str, Rate); 8] {
        [
            ("input", self.input),
            ("cache_read", self.cache_read),
            ("cache_write", self.cache_write),
            ("cache_write_1h", self.cache_write_1h),
            ("output", self.output),
            ("reasoning", self.reasoning),
            ("audio_input", self.audio_input),
            ("audio_output", self.audio_output),
        ]
    }

    /// Every rate changed in the same way.
    pub(super) fn map(&self, change: impl Fn(Rate) -> Rate) -> Self {
        self.join(self, |rate, _| change(rate))
    }

    /// Of each two rates, the dearer.
    pub(super) fn dearest(&self, other: &Self) -> Self {
        self.join(other, Rate::max)
    }

    fn join(&self, other: &Self, choose: impl Fn(Rate, Rate) -> Rate) -> Self {
        Self {
            input: choose(self.input, other.input),
            cache_read: choose(self.cache_read, other.cache_read),
            cache_write: choose(self.cache_write, other.cache_write),
            cache_write_1h: choose(self.cache_write_1h, other.cache_write_1h),
            output: choose(self.output, other.output),
            reasoning: choose(self.reasoning, other.reasoning),
            audio_input: choose(self.audio_input, other.audio_input),
            audio_output: choose(self.audio_output, other.audio_output),
        }
    }
}

impl RateRule {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The rates with their defaults. `long_is_double`: an entry of an hour costs twice the input.
    pub(super) fn resolve(&self, key: &str, long_is_double: bool) -> Result<Rates, PriceError> {
        let missing = |name: &str| {
            PriceError::new(
                format!("{key}.{name}"),
                format!("`{name}` is missing beside the others"),
            )
        };
        let input = self.input.ok_or_else(|| missing("input"))?;
        let output = self.output.ok_or_else(|| missing("output"))?;
        let cache_write = self.cache_write.unwrap_or(input);
        let long = if long_is_double { input.times(2) } else { cache_write };
        Ok(Rates {
            input,
            cache_read: self.cache_read.unwrap_or(input),
            cache_write,
            cache_write_1h: self.cache_write_1h.unwrap_or(long),
            output,
            reasoning: self.reasoning.unwrap_or(output),
            audio_input: self.audio_input.unwrap_or(input),
            audio_output: self.audio_output.unwrap_or(output),
        })
    }
}
