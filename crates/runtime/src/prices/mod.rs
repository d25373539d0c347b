//! What models cost (SCOPE P10).
//!
//! A price is a list of periods, each a list of tiers by the size of the prompt, each with a rate for every
//! kind of token; service tier and region multiply it. The table of this release lies in `table.json`
//! beside this file, one model a line, each with its source and the day it was looked up there; a
//! configuration puts its own over it. Nothing is fetched.
//!
//! Rates are whole pico-USD per token, sums are taken without rounding and rounded up once, to nano-USD.
//! Everything here is a pure function of its arguments.

mod cost;
mod diff;
mod listing;
mod names;
mod rate;
mod rules;
mod table;
#[cfg(test)]
mod tests;

pub use cost::{Ask, Certainty, Consumption, Cost, RateId, UnknownPrice};
pub use diff::{PriceChange, diff};
pub use listing::{Day, PeriodRule, PriceError, RateRule, Rates, ServiceRule};
pub use rate::{AmountError, Factor, Rate};
pub use rules::{PriceRule, PriceRules, PriceWarning};
pub use table::{OnUnknown, PriceTable};

pub(crate) use rate::{Written, decimal, written};
