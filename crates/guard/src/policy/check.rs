//! What every policy checks of its values, and how it refuses them.

use std::time::Duration;

use super::PolicyError;

/// No duration may be longer: a year is a slip of the unit, and would overflow a clock sooner or later.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(crate) fn refuse(
    key: &'static str,
    value: &impl std::fmt::Debug,
    problem: &'static str,
) -> PolicyError {
    PolicyError { key, value: format!("{value:?}"), problem }
}

pub(crate) fn at_least_one<N: Default + PartialEq + std::fmt::Debug>(
    key: &'static str,
    value: &N,
) -> Result<(), PolicyError> {
    if *value == N::default() {
        return Err(refuse(
            key,
            value,
            "nothing would ever be called or counted; set it to 1 or more",
        ));
    }
    Ok(())
}

pub(crate) fn at_most_a_year(key: &'static str, value: Duration) -> Result<(), PolicyError> {
    if value > LONGEST {
        return Err(refuse(key, &value, "longer than a year; set it to 365 days or less"));
    }
    Ok(())
}
