//! Keys and values as JSON: text is in `key` and `value`; other bytes are base64, in `key_base64` and `value_base64`. There
//! is always one of the two, and never both.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use broadcast_gateway::Problem;
use broadcast_store::keys::{KeyValue, RangeOutcome};
use bytes::Bytes;
use serde::Serialize;

/// A key with its value and revisions.
#[derive(Debug, Serialize)]
pub(super) struct KeyValueJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
}

/// The keys in a range.
#[derive(Debug, Serialize)]
pub(super) struct RangeJson {
    revision: u64,
    count: u64,
    more: bool,
    kvs: Vec<KeyValueJson>,
}

/// The values of the two fields: text, or base64 of other bytes.
pub(in crate::commands) fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

impl KeyValueJson {
    /// With its value, unless the request was for keys only.
    pub(super) fn new(kv: &KeyValue, has_value: bool) -> Self {
        let (key, key_base64) = text_or_base64(&kv.key);
        let (value, value_base64) = if has_value { text_or_base64(&kv.value) } else { (None, None) };
        let (create_revision, mod_revision, version) = (kv.create_revision, kv.mod_revision, kv.version);
        let lease = (kv.lease != 0).then(|| lease_text(kv.lease));
        Self { key, key_base64, value, value_base64, create_revision, mod_revision, version, lease }
    }

    pub(super) fn of(kv: &Arc<KeyValue>) -> Self {
        Self::new(kv, true)
    }
}

impl RangeJson {
    pub(super) fn new(range: &RangeOutcome, has_values: bool) -> Self {
        let RangeOutcome { revision, count, more, kvs } = range;
        let kvs = kvs.iter().map(|kv| KeyValueJson::new(kv, has_values)).collect();
        Self { revision: *revision, count: *count, more: *more, kvs }
    }
}

/// The bytes that a request has in one of the two fields; nothing, if it has neither.
pub(in crate::commands) fn bytes(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Bytes>, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => {
            Err(Problem::bad_request(format_args!("both {name} and {name}_base64 are given; give one of them")))
        }
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => STANDARD.decode(&base64).map(|bytes| Some(bytes.into())).map_err(|error| {
            Problem::bad_request(format_args!(
                "{name}_base64 is not base64: {error}; write it with A-Z, a-z, 0-9, + and /"
            ))
        }),
        (None, None) => Ok(None),
    }
}

/// The id of a lease or a session as text: 16 hex digits, since JavaScript cannot hold the number.
pub(in crate::commands) fn lease_text(lease: i64) -> String {
    format!("{lease:016x}")
}

/// The id of a store or a voter as text, in the same form.
pub(in crate::commands) fn id_text(id: u64) -> String {
    format!("{id:016x}")
}

/// Parses the id of a lease.
pub(in crate::commands) fn parse_lease(text: &str) -> Result<i64, Problem> {
    let digits = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lease = digits.then(|| i64::from_str_radix(text, 16).ok()).flatten().filter(|lease| *lease > 0);
    lease.ok_or_else(|| {
        let shown = broadcast::config::quote(text);
        Problem::bad_request(format_args!(
            "lease = {shown}: not a lease; write the digits that granting it has answered, like 7c3f09a1b2d4e5f6"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_written_as_it_is_read() {
        for number in [1, 0x7c3f_09a1_b2d4_e5f6, i64::MAX] {
            assert_eq!(parse_lease(&lease_text(number)).ok(), Some(number));
        }
        for bad in ["", "0", "g", "-1", "+1", "ffffffffffffffff", "00000000000000001"] {
            assert!(parse_lease(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let kv = KeyValue { key: Bytes::from_static(b"\xff"), value: "v".into(), version: 1, ..KeyValue::default() };
        let json = serde_json::to_value(KeyValueJson::new(&kv, true)).expect("JSON");
        assert_eq!((&json["key_base64"], &json["value"]), (&"/w==".into(), &"v".into()));
        assert!(json.get("key").is_none() && json.get("lease").is_none());
        assert_eq!(bytes("key", None, Some("/w==".into())).ok().flatten().as_deref(), Some(&b"\xff"[..]));
        assert!(bytes("key", None, Some("?".into())).is_err());
        assert!(bytes("key", Some("a".into()), Some("YQ==".into())).is_err());
    }
}
