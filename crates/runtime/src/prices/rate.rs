//! Amounts as whole numbers: what a token costs, and by how much a price is multiplied.
//!
//! Floating point has no place in a bill. An amount is read digit by digit from what is written: a text,
//! or a number of a configuration file, whose shortest form is what was written as long as it has no more
//! than 15 digits; longer ones are refused.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Digits that a binary floating-point number surely keeps.
const DIGITS_MAX: usize = 15;
/// Decimals of a rate: a millionth of a USD per million tokens is a pico-USD per token.
const RATE_DECIMALS: usize = 6;
/// Decimals of a factor.
const FACTOR_DECIMALS: usize = 3;
/// Largest numerator and denominator of a factor. With them the sum of a call stays within 128 bits for
/// 10^12 tokens at 10 000 USD a million.
const NUMERATOR_MAX: u64 = 100_000;
const DENOMINATOR_MAX: u64 = 1_000;

/// What is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{written}` is no {what}: {problem}")]
pub struct AmountError {
    written: String,
    what: &'static str,
    problem: &'static str,
}

/// What one token costs, in pico-USD (10^-12 USD). 1 USD per million tokens is 1 000 000.
///
/// Written as USD per million tokens, with at most six decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// A rate in pico-USD per token.
    #[must_use]
    pub const fn from_pico(pico: u64) -> Self {
        Self(pico)
    }

    /// In pico-USD per token.
    #[must_use]
    pub const fn pico(self) -> u64 {
        self.0
    }

    /// Reads USD per million tokens.
    ///
    /// # Errors
    /// It is no number, is negative, or has more than six decimals.
    pub fn parse(usd_per_million: &str) -> Result<Self, AmountError> {
        decimal(usd_per_million, RATE_DECIMALS, "price in USD per million tokens").map(Self)
    }

    /// So many times as much. Stays at the largest rate if there is none that large.
    #[must_use]
    pub(super) const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(self.0, RATE_DECIMALS))
    }
}

/// By how much a price is multiplied: `0.5`, `1.1`, or a fraction such as `5/3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    pub(super) numerator: u64,
    pub(super) denominator: u64,
}

impl Factor {
    /// Nothing changes.
    pub const ONE: Self = Self { numerator: 1, denominator: 1 };

    /// Reads a factor.
    ///
    /// # Errors
    /// It is no number with at most three decimals and no fraction, or is not between 0.01 and 100.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        let what = "factor";
        let wrong = |problem| AmountError { written: text.to_owned(), what, problem };
        let (numerator, denominator) = match text.split_once('/') {
            Some((above, below)) => (decimal(above, 0, what)?, decimal(below, 0, what)?),
            None => (decimal(text, FACTOR_DECIMALS, what)?, 10_u64.pow(3)),
        };
        let shared = greatest_common_divisor(numerator, denominator).max(1);
        let (numerator, denominator) = (numerator / shared, denominator / shared);
        if denominator == 0 || denominator > DENOMINATOR_MAX || numerator > NUMERATOR_MAX {
            return Err(wrong("write it as `0.5`, with at most three decimals, or as `5/3`"));
        }
        let hundredths = u128::from(numerator) * 100 / u128::from(denominator);
        if !(1..=10_000).contains(&hundredths) {
            return Err(wrong("it must be between 0.01 and 100"));
        }
        Ok(Self { numerator, denominator })
    }

    /// The larger of the two.
    #[must_use]
    pub(super) fn max(self, other: Self) -> Self {
        let this = u128::from(self.numerator) * u128::from(other.denominator);
        let that = u128::from(other.numerator) * u128::from(self.denominator);
        if this >= that { self } else { other }
    }

    /// A rate with the factor in it, rounded up.
    pub(super) fn of(self, rate: Rate) -> Rate {
        let product = u128::from(rate.pico()) * u128::from(self.numerator);
        let pico = product.div_ceil(u128::from(self.denominator));
        Rate::from_pico(u64::try_from(pico).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { numerator, denominator } = self;
        match denominator {
            1 => write!(f, "{numerator}"),
            _ if 1000 % denominator == 0 => {
                f.write_str(&written(numerator * (1000 / denominator), FACTOR_DECIMALS))
            }
            _ => write!(f, "{numerator}/{denominator}"),
        }
    }
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Reads a decimal number in units of its last place: `1.5` with three decimals is 1500.
pub(crate) fn decimal(text: &str, places: usize, what: &'static str) -> Result<u64, AmountError> {
    let wrong = |problem| AmountError { written: text.to_owned(), what, problem };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(part) || text.ends_with('.') {
        return Err(wrong("write digits with at most one point, such as `2.50`"));
    }
    let part = part.trim_end_matches('0');
    if part.len() > places {
        return Err(wrong(match places {
            0 => "it must be a whole number",
            3 => "it has more than three decimals",
            6 => "it has more than six decimals",
            _ => "it has more than nine decimals",
        }));
    }
    let digits = format!("{whole}{part:0<places$}");
    digits.parse().map_err(|_| wrong("it is too large"))
}

/// The opposite of [`decimal`].
pub(crate) fn written(amount: u64, places: usize) -> String {
    let digits = format!("{amount:0>width$}", width = places + 1);
    let (whole, part) = digits.split_at(digits.len() - places);
    let part = part.trim_end_matches('0');
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

/// What is written for an amount, be it a text or a number.
pub(crate) struct Written<'a>(pub(crate) Cow<'a, str>);

impl<'de> Deserialize<'de> for Written<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount, such as `2.50` or `\"2.50\"`")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Written(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Written(Cow::Owned(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Written(Cow::Owned(number.to_string())))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self::Value, E> {
        let text = number.to_string();
        if text.bytes().filter(u8::is_ascii_digit).count() > DIGITS_MAX {
            return Err(E::custom("the number has too many digits; write it as a text, in quotes"));
        }
        Ok(Written(Cow::Owned(text)))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Written::deserialize(deserializer)?.0).map_err(D::Error::custom)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Written::deserialize(deserializer)?.0).map_err(D::Error::custom)
    }
}

impl Serialize for Factor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p10_a_rate_is_read_digit_by_digit() {
        for (text, pico) in [
            ("0.006", 6_000),
            ("2", 2_000_000),
            ("2.50", 2_500_000),
            ("12.5", 12_500_000),
            ("0.000001", 1),
            ("0", 0),
        ] {
            assert_eq!(Rate::parse(text).map(Rate::pico), Ok(pico), "{text}");
        }
        for text in ["", "-1", "1e3", "1.", ".5", "1,5", "0.0000001", "99999999999999999999"] {
            let told = Rate::parse(text).expect_err(text).to_string();
            assert!(told.contains("USD per million tokens"), "{told}");
        }
    }

    #[test]
    fn a_factor_is_a_decimal_or_a_fraction() {
        for (text, numerator, denominator) in
            [("0.5", 1, 2), ("1.1", 11, 10), ("5/3", 5, 3), ("2", 2, 1), ("0.52", 13, 25)]
        {
            let factor = Factor::parse(text).expect(text);
            assert_eq!(factor, Factor { numerator, denominator });
            assert_eq!(factor.to_string(), text);
        }
        for text in ["0", "1/0", "101", "0.0001", "1/3000", "-1", "half"] {
            assert!(Factor::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// What was written as a number means the same as the text.
        #[test]
        fn a_number_and_its_text_are_the_same_rate(pico in 0..10_000_000_000_u64) {
            let text = Rate::from_pico(pico).to_string();
            let of_number: Rate = toml_rate(&text);
            let of_text: Rate = toml_rate(&format!("\"{text}\""));
            prop_assert_eq!(of_number.pico(), pico);
            prop_assert_eq!(of_text.pico(), pico);
        }
    }

    fn toml_rate(value: &str) -> Rate {
        #[derive(Deserialize)]
        struct Line {
            rate: Rate,
        }
        toml::from_str::<Line>(&format!("rate = {value}")).expect("a rate").rate
    }
}
