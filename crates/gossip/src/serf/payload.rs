//! The conversion of an event's payload, which is bytes, to a message's value, which is JSON, and back.
//!
//! | payload | value |
//! |---|---|
//! | text (UTF-8) | a string |
//! | other bytes | `{"hex":"ff00"}` |
//! | JSON text (only from value to payload) | every other value |
//!
//! So every payload of serf's comes back as it was, and so does every string that a node of this crate publishes.

use std::fmt::Write as _;

/// The value of a payload.
pub(crate) fn to_json(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => serde_json::to_string(text).expect("text always serialises"),
        Err(_) => {
            let mut json = String::from(r#"{"hex":""#);
            for byte in payload {
                write!(json, "{byte:02x}").expect("memory takes all");
            }
            json + r#""}"#
        }
    }
}

/// The payload of a value.
pub(crate) fn from_json(value: &str) -> Vec<u8> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Hex {
        hex: String,
    }
    if let Ok(text) = serde_json::from_str::<String>(value) {
        return text.into_bytes();
    }
    let hex = serde_json::from_str::<Hex>(value).ok().and_then(|Hex { hex }| decode_hex(&hex));
    hex.unwrap_or_else(|| value.as_bytes().to_vec())
}

fn decode_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some((digit(high)? << 4 | digit(low)?) as u8);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_become_payloads() {
        assert_eq!(from_json(r#""v1 \u00e9\"""#), "v1 é\"".as_bytes());
        assert_eq!(from_json("42"), b"42");
        assert_eq!(from_json(r#"{"a":[1,null]}"#), br#"{"a":[1,null]}"#);
        assert_eq!(from_json(r#"{"hex":"ff00"}"#), [0xff, 0]);
        for none in [r#"{"hex":"f"}"#, r#"{"hex":"xy"}"#, r#"{"hex":"ff","a":1}"#, r#"{"hex":255}"#] {
            assert_eq!(from_json(none), none.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn a_payload_comes_back_as_it_was(payload: Vec<u8>) {
            prop_assert_eq!(from_json(&to_json(&payload)), payload);
        }

        #[test]
        fn a_string_comes_back_as_it_was(text: String) {
            let value = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(to_json(&from_json(&value)), value);
        }
    }
}
