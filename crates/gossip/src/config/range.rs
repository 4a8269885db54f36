//! What the values of settings may be, which is said as one may write it.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use super::{ByteSize, ConfigError};

/// Refuses a value that is out of its range.
pub(super) fn check<T: Display + PartialOrd>(
    setting: &'static str,
    value: T,
    range: &RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let allowed = format!("between {} and {}", range.start(), range.end());
    Err(ConfigError::Range { setting, value: value.to_string(), allowed })
}

/// The same, of a number of bytes.
pub(super) fn check_size(
    setting: &'static str,
    value: usize,
    range: &RangeInclusive<usize>,
) -> Result<(), ConfigError> {
    check(setting, ByteSize(value), &(ByteSize(*range.start())..=ByteSize(*range.end())))
}

/// The same, of a duration.
pub(super) fn check_duration(
    setting: &'static str,
    value: Duration,
    range: &RangeInclusive<Duration>,
) -> Result<(), ConfigError> {
    check::<humantime::Duration>(setting, value.into(), &((*range.start()).into()..=(*range.end()).into()))
}
