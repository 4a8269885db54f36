//! A message on the wire: JSON that any Go program in the cluster can read.
//!
//! ```json
//! {"key":"I am node2","value":0,"broadcast":{"origin":"node2","epoch":1764000000000000,"seq":0}}
//! ```
//!
//! `key` and `value` are the application's. `broadcast` is the message's identity, which plain memberlist programs ignore.
//! A message without it comes from such a program. If that sends anything but such JSON, it is passed on as `raw`: the key
//! is empty, and the value stands for the bytes ([`raw_value`]).
//!
//! Parsing is lenient, by serde_json. But this crate always writes the identity last and in this order, so [`parse`] has a
//! fast path for its own messages, which is several times as fast and gives the same.

use std::{borrow::Cow, ops::Range, str};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::membership::NodeName;

/// A parsed message: its parts point into its JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed<'a> {
    pub(super) key: Cow<'a, str>,
    /// JSON.
    pub(super) value: Range<usize>,
    pub(super) identity: Option<Identity<'a>>,
}

impl Parsed<'_> {
    /// Where the parts are in `json`, the text that was parsed.
    pub(super) fn content(&self, json: &[u8]) -> Content {
        let identity = self.identity.as_ref();
        let plain = identity.and_then(|identity| identity.plain.as_deref()).map(NodeName::from);
        Content {
            key: self.key_range(json).map_or_else(|| Key::Text((*self.key).into()), Key::At),
            value: self.value.start as u32..self.value.end as u32,
            raw: plain.is_some() && identity.is_some_and(|identity| identity.raw),
            plain,
            event: identity.and_then(|identity| identity.event),
        }
    }

    /// Where the key is in `json`; `None` if it is escaped there.
    fn key_range(&self, json: &[u8]) -> Option<Range<usize>> {
        let Cow::Borrowed(key) = self.key else { return None };
        let start = key.as_ptr().addr().checked_sub(json.as_ptr().addr())?;
        (start + key.len() <= json.len()).then(|| start..start + key.len())
    }
}

/// The parts of a message, as positions in its JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) key: Key,
    /// 32 bits, as many messages are kept.
    pub(super) value: Range<u32>,
    /// The plain memberlist node that sent it, if its origin is that node's proxy.
    pub(super) plain: Option<NodeName>,
    /// The Lamport time of the user event that it is to serf's agents.
    pub(super) event: Option<u64>,
    /// Whether the value stands for bytes that the plain node sent.
    pub(super) raw: bool,
}

impl Content {
    pub(super) fn key<'a>(&'a self, json: &'a [u8]) -> &'a str {
        match &self.key {
            Key::At(range) => text(json, range),
            Key::Text(text) => text,
        }
    }

    pub(super) fn value<'a>(&self, json: &'a [u8]) -> &'a str {
        text(json, &(self.value.start as usize..self.value.end as usize))
    }
}

fn text<'a>(json: &'a [u8], range: &Range<usize>) -> &'a str {
    str::from_utf8(&json[range.clone()]).expect("the JSON is text, and this between quotes")
}

/// The key: its position in the JSON, or its text if it is escaped there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    At(Range<usize>),
    Text(Box<str>),
}

/// The identity of a message, as its JSON has it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Identity<'a> {
    #[serde(borrow)]
    pub(super) origin: Cow<'a, str>,
    /// The plain memberlist node that sent it, if `origin` is that node's proxy.
    #[serde(borrow, default)]
    pub(super) plain: Option<Cow<'a, str>>,
    /// Whether the value stands for bytes that the plain node sent.
    #[serde(default)]
    pub(super) raw: bool,
    /// In a serf cluster, the Lamport time of the user event that it is to serf's agents.
    #[serde(default)]
    pub(super) event: Option<u64>,
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// Bytes as JSON: UTF-8 as a text, anything else as an array of numbers.
pub(super) fn raw_value(bytes: &[u8]) -> String {
    let value = match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::to_string(text),
        Err(_) => serde_json::to_string(bytes),
    };
    value.expect("text and numbers always serialise")
}

/// The bytes from which [`raw_value`] made a value.
pub(super) fn raw_bytes(value: &str) -> Option<Vec<u8>> {
    let text = || serde_json::from_str(value).map(String::into_bytes);
    text().or_else(|_| serde_json::from_str(value)).ok()
}

/// Why a user message has not this form.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("a user message of {len} bytes is not a JSON object with a text \"key\" and a \"value\": {source}")]
    Json { len: usize, source: serde_json::Error },
    #[error("a user message of {0} bytes is not text")]
    Text(usize),
}

/// Parses a message that arrived; gives its text, too.
pub(super) fn read(payload: &[u8]) -> Result<(&str, Parsed<'_>), PayloadError> {
    let len = payload.len();
    let text = str::from_utf8(payload).map_err(|_| PayloadError::Text(len))?;
    let parsed = parse(text).map_err(|source| PayloadError::Json { len, source })?;
    Ok((text, parsed))
}

/// Parses a message. The parts point into `text`.
pub(super) fn parse(text: &str) -> Result<Parsed<'_>, serde_json::Error> {
    match parse_ours(text) {
        Some(parsed) => Ok(parsed),
        None => parse_any(text),
    }
}

/// Parses a message as this crate writes it, with nothing escaped in it.
pub(super) fn parse_ours(text: &str) -> Option<Parsed<'_>> {
    let (rest, seq) = number_at_end(text.strip_suffix("}}")?)?;
    let (rest, epoch) = number_at_end(rest.strip_suffix(",\"seq\":")?)?;
    let rest = rest.strip_suffix("\",\"epoch\":")?;
    let quote = rest.rfind('"')?;
    let origin = plain_text(&rest[quote + 1..])?;
    let rest = rest[..quote].strip_suffix(",\"broadcast\":{\"origin\":")?;
    let start = rest.strip_prefix("{\"key\":\"")?;
    let key = plain_text(&start[..start.find('"')?])?;
    let at = rest.len() - start.len() + key.len();
    let value = text.get(at..rest.len())?.strip_prefix("\",\"value\":")?;
    // This crate writes no blanks around a value, which are no part of it.
    if value.trim_ascii().len() != value.len() {
        return None;
    }
    check_json(value).ok()?;
    let identity = Identity { origin: origin.into(), plain: None, raw: false, event: None, epoch, seq };
    Some(Parsed { key: key.into(), value: rest.len() - value.len()..rest.len(), identity: Some(identity) })
}

/// The text, if it is not escaped in JSON.
fn plain_text(text: &str) -> Option<&str> {
    text.bytes().all(|byte| byte >= 0x20 && byte != b'\\' && byte != b'"').then_some(text)
}

/// Checks that this is JSON, as parsing a [`RawValue`] would, but cheaper.
fn check_json(value: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<IgnoredAny>(value).map(|IgnoredAny| ())
}

/// Splits off a number without leading zeros.
fn number_at_end(text: &str) -> Option<(&str, u64)> {
    let (mut number, mut unit, mut at) = (0u64, Some(1u64), text.len());
    for byte in text.bytes().rev().take_while(u8::is_ascii_digit) {
        let digit = u64::from(byte - b'0');
        // Beyond the largest unit there is nothing but zeros, which may not lead.
        number = number.checked_add(digit.checked_mul(unit?)?)?;
        unit = unit.and_then(|unit| unit.checked_mul(10));
        at -= 1;
    }
    let (rest, digits) = text.split_at(at);
    (digits.len() == 1 || digits.starts_with(|first| first > '0')).then_some((rest, number))
}

pub(super) fn parse_any(text: &str) -> Result<Parsed<'_>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        #[serde(borrow)]
        key: Cow<'a, str>,
        #[serde(borrow)]
        value: &'a RawValue,
        #[serde(borrow, default)]
        broadcast: Option<&'a RawValue>,
    }
    let payload: Payload<'_> = serde_json::from_str(text)?;
    let value = payload.value.get();
    let start = value.as_ptr().addr() - text.as_ptr().addr();
    Ok(Parsed {
        key: payload.key,
        value: start..start + value.len(),
        // Another program's field of that name is no error.
        identity: payload.broadcast.and_then(|raw| serde_json::from_str(raw.get()).ok()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_go_writes_has_no_identity() {
        for text in [
            r#"{"key":"I am node2","value":0}"#,
            r#" { "value" : 0 , "other": [{}], "key":"I am node2" } "#,
            r#"{"key":"I am node2","value":0,"broadcast":"mine"}"#,
            r#"{"key":"I am node2","value":0,"broadcast":{"origin":"a","epoch":-1,"seq":0}}"#,
        ] {
            let parsed = parse(text).expect(text);
            assert_eq!((&*parsed.key, &text[parsed.value.clone()]), ("I am node2", "0"), "{text}");
            assert_eq!(parsed.identity, None, "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for text in ["", "null", "[]", "{}", r#"{"key":1,"value":2}"#, r#"{"key":"k"}"#, r#"{"key":"k","value":}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
        // As ours, but the value is none.
        for value in ["", "x", "1,2", "\"", "\"a\",\"b\":\"c\"", "1}"] {
            let text = format!(r#"{{"key":"k","value":{value},"broadcast":{{"origin":"a","epoch":1,"seq":2}}}}"#);
            assert_eq!(parse_ours(&text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_way_reads_nothing_that_serde_reads_otherwise(text in "\\{\"key\":\"[a-z\"\\\\,]{0,3}\",\"value\":[0-9a-z\"{},:\\\\]{0,9},\"broadcast\":\\{\"origin\":\"[a-z\"\\\\]{0,3}\",\"epoch\":[0-9]{1,3},\"seq\":[0-9]{1,3}\\}{1,3}") {
            if let Some(parsed) = parse_ours(&text) {
                let slow = parse_any(&text);
                prop_assert!(slow.is_ok(), "{}", text);
                prop_assert_eq!(parsed, slow.unwrap());
            }
        }
    }
}
