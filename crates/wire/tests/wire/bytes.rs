//! Bytes as the tests write them down.

use bytes::Bytes;

/// Bytes from hexadecimal digits; spaces are left out.
pub(crate) fn hex(text: &str) -> Bytes {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}
