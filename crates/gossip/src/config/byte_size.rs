//! A number of bytes, as people write it.

use std::{fmt, str::FromStr};

/// The largest first, so that a size prints in the largest that divides it.
const BINARY: [(&str, usize); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, usize); 5] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000), ("B", 1)];

/// A number of bytes, which is read and printed with a unit: `64MiB`, `64MB`; without one, in bytes.
///
/// ```
/// use broadcast::config::ByteSize;
///
/// assert_eq!("64MiB".parse(), Ok(ByteSize(64 << 20)));
/// assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl FromStr for ByteSize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let units = BINARY.iter().chain(&DECIMAL).chain(&[("", 1)]);
        let bytes = units
            .copied()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))
            .and_then(|(_, bytes)| number.parse::<usize>().ok()?.checked_mul(bytes));
        bytes.map(Self).ok_or("not a size; write a whole number of bytes, alone or with a unit, like 64MiB or 64MB")
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BINARY.iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes)) {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_with_and_without_a_unit() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            (" 64 mib ", 64 << 20),
            ("64MB", 64_000_000),
            ("9000000", 9_000_000),
            ("9000000B", 9_000_000),
            ("1kB", 1000),
            ("1KiB", 1024),
            ("2GiB", 2 << 30),
            ("3TB", 3_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "64M", "1.5GiB", "-1", "64 MiB each", "99999999999999999999", "99999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_prints_as_it_is_read() {
        for text in ["64MiB", "1TiB", "3KiB", "1000", "0"] {
            assert_eq!(text.parse::<ByteSize>().expect("a size").to_string(), text);
        }
    }
}
