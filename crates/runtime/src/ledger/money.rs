//! Money as whole nano-USD.

use std::fmt;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use crate::prices::{AmountError, Written, decimal, written};

/// Decimals of a nano-USD.
const DECIMALS: usize = 9;

/// An amount of money, in nano-USD (10^-9 USD). Written in USD, with at most nine decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(u64);

impl Money {
    /// An amount in nano-USD.
    #[must_use]
    pub const fn from_nano(nano: u64) -> Self {
        Self(nano)
    }

    /// In nano-USD.
    #[must_use]
    pub const fn nano(self) -> u64 {
        self.0
    }

    /// Reads an amount in USD.
    ///
    /// # Errors
    /// It is no number, is negative, or has more than nine decimals.
    pub fn parse(usd: &str) -> Result<Self, AmountError> {
        decimal(usd, DECIMALS, "amount in USD").map(Self)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} USD", written(self.0, DECIMALS))
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Written::deserialize(deserializer)?.0).map_err(D::Error::custom)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&written(self.0, DECIMALS))
    }
}
