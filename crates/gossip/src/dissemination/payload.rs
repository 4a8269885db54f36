//! A message as it travels: JSON that any Go program in the cluster can read.
//!
//! ```json
//! {"key":"I am node2","value":0,"broadcast":{"origin":"node2","epoch":1764000000000000,"seq":0}}
//! ```
//!
//! `key` and `value` are the application's. `broadcast` is the message's identity, which plain
//! memberlist programs ignore; a message without it comes from one of those. What those say in any other
//! form is passed on as `raw`: the key is empty, and the value has the bytes ([`raw_value`]).
//!
//! Reading is lenient, through serde_json; but what this crate writes has the identity last and in this
//! very order, and is read without it, several times as fast ([`parse`]'s fast path gives the same).

use std::{borrow::Cow, fmt, io::Write as _, ops::Range};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{MAX_MESSAGE, PublishError};
use crate::wire::kind;

/// How deep the arrays and objects of a value may nest: 64 with the message around it, the least that a common
/// JSON parser reads (.NET's; serde_json reads 127, Python's and Java's about 1000).
const MAX_DEPTH: usize = 63;

/// What an identity can take in a message, its origin's name apart: the words and two 64-bit numbers.
const IDENTITY: usize = 96;

/// A message's parts, where they stand in its JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed<'a> {
    pub(super) key: Cow<'a, str>,
    /// JSON.
    pub(super) value: Range<usize>,
    pub(super) identity: Option<Identity<'a>>,
}

impl Parsed<'_> {
    /// Where the key stands in `payload`, the text this was made from; `None` if it is escaped there.
    pub(super) fn key_range(&self, payload: &[u8]) -> Option<Range<usize>> {
        let Cow::Borrowed(key) = self.key else { return None };
        let start = key.as_ptr().addr().checked_sub(payload.as_ptr().addr())?;
        (start + key.len() <= payload.len()).then(|| start..start + key.len())
    }
}

/// What tells a message apart from every other.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity<'a> {
    #[serde(borrow)]
    pub(super) origin: Cow<'a, str>,
    /// The plain memberlist node that said it, if `origin` only passes it on.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) plain: Option<Cow<'a, str>>,
    /// Whether that one said bytes of its own kind, which are the value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) raw: bool,
    /// In a serf cluster, the time of the event that it is to serf's agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<u64>,
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// A message that has everything but its number: a user message with its type byte in front.
#[derive(Debug)]
pub(crate) struct Draft(Vec<u8>);

impl Draft {
    /// `value` is JSON.
    pub(crate) fn new(key: &str, value: &str, origin: &str) -> Self {
        let mut draft = Self(Vec::with_capacity(key.len() + value.len() + origin.len() + IDENTITY));
        draft.0.extend_from_slice(&[kind::USER, b'{']);
        draft.field("\"key\":", key);
        draft.0.extend_from_slice(b",\"value\":");
        draft.0.extend_from_slice(value.as_bytes());
        draft.0.extend_from_slice(b",\"broadcast\":{");
        draft.field("\"origin\":", origin);
        draft
    }

    /// The same, if it can be published.
    ///
    /// # Errors
    ///
    /// `value` is not JSON that everybody can read, or all together is too large.
    pub(crate) fn checked(key: &str, value: &str, origin: &str) -> Result<Self, PublishError> {
        check_readable(value).map_err(|error| PublishError::Value(error.to_string()))?;
        let draft = Self::new(key, value, origin);
        let size = draft.max_len();
        if size > MAX_MESSAGE { Err(PublishError::TooLarge { size, max: MAX_MESSAGE }) } else { Ok(draft) }
    }

    /// A message that another, plain node said; `raw` if its value is from [`raw_value`].
    pub(super) fn on_behalf_of(mut self, plain: &str, raw: bool) -> Self {
        self.field(",\"plain\":", plain);
        if raw {
            self.0.extend_from_slice(b",\"raw\":true");
        }
        self
    }

    /// A message that is an event to serf's agents, of that time.
    pub(crate) fn with_event(mut self, time: u64) -> Self {
        write!(self.0, ",\"event\":{time}").expect("memory takes all");
        self
    }

    /// Its key and value.
    pub(crate) fn content(&self) -> (String, String) {
        let text = [&self.0[1..], b"}}"].concat();
        let text = String::from_utf8(text).expect("a draft is made of text");
        let parsed = parse(&text).expect("a draft is JSON");
        (parsed.key.into(), text[parsed.value].into())
    }

    fn field(&mut self, name: &str, text: &str) {
        self.0.extend_from_slice(name.as_bytes());
        serde_json::to_writer(&mut self.0, text).expect("text always serialises, and memory takes all");
    }

    /// How long the message can become, as JSON.
    pub(crate) fn max_len(&self) -> usize {
        self.0.len() - 1 + "\"epoch\":,\"seq\":,}}".len() + 2 * "18446744073709551615".len()
    }

    /// The message, ready for a packet.
    pub(crate) fn finish(mut self, epoch: u64, seq: u64) -> bytes::Bytes {
        write!(self.0, ",\"epoch\":{epoch},\"seq\":{seq}}}}}").expect("memory takes all");
        self.0.into()
    }
}

/// A finished message of this node, in another life or at another place.
pub(super) fn renumber(message: &[u8], origin: &str, epoch: u64, seq: u64) -> bytes::Bytes {
    let text = std::str::from_utf8(&message[1..]).expect("a draft is made of text");
    let parsed = parse(text).expect("a draft is JSON");
    let mut draft = Draft::new(&parsed.key, &text[parsed.value], origin);
    if let Some(Identity { plain, raw, event, .. }) = parsed.identity {
        if let Some(plain) = plain {
            draft = draft.on_behalf_of(&plain, raw);
        }
        if let Some(time) = event {
            draft = draft.with_event(time);
        }
    }
    draft.finish(epoch, seq)
}

/// Bytes as JSON: text as a text, anything else as an array of numbers.
pub(super) fn raw_value(bytes: &[u8]) -> String {
    let value = match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::to_string(text),
        Err(_) => serde_json::to_string(bytes),
    };
    value.expect("text and numbers always serialise")
}

/// The bytes that [`raw_value`] made this of.
pub(super) fn raw_bytes(value: &str) -> Option<Vec<u8>> {
    let text = || serde_json::from_str(value).map(String::into_bytes);
    text().or_else(|_| serde_json::from_str(value)).ok()
}

/// Reads a message. The parts point into `text`.
pub(super) fn parse(text: &str) -> Result<Parsed<'_>, serde_json::Error> {
    match parse_ours(text) {
        Some(parsed) => Ok(parsed),
        None => parse_any(text),
    }
}

/// Reads a message as this crate writes it, with nothing in it that would have to be unescaped.
fn parse_ours(text: &str) -> Option<Parsed<'_>> {
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
    // Nor does what this crate writes have blanks around it, which are no part of the value.
    if value.trim_ascii().len() != value.len() {
        return None;
    }
    check_json(value).ok()?;
    let identity = Identity { origin: origin.into(), plain: None, raw: false, event: None, epoch, seq };
    Some(Parsed { key: key.into(), value: rest.len() - value.len()..rest.len(), identity: Some(identity) })
}

/// Panics unless both ways of reading find the same, and a message can be given another number.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_reading(text: &str) {
    let slow = parse_any(text).ok();
    if let Some(fast) = parse_ours(text) {
        assert_eq!(Some(&fast), slow.as_ref());
    }
    if let Some(parsed) = slow {
        let (key, value) = (parsed.key, &text[parsed.value]);
        let draft = Draft::new(&key, value, "origin");
        let message = renumber(&draft.finish(1, 2), "other", 3, 4);
        let again = std::str::from_utf8(&message[1..]).expect("a draft is made of text");
        let again_parsed = parse(again).expect("a draft is JSON");
        assert_eq!((&again_parsed.key, &again[again_parsed.value]), (&key, value));
        let identity = Identity { origin: "other".into(), plain: None, raw: false, epoch: 3, seq: 4, event: None };
        assert_eq!(again_parsed.identity, Some(identity));
    }
}

/// Text that stands in JSON as it is.
fn plain_text(text: &str) -> Option<&str> {
    text.bytes().all(|byte| byte >= 0x20 && byte != b'\\' && byte != b'"').then_some(text)
}

/// Whether this is JSON, as a [`RawValue`] would find out, but cheaper.
fn check_json(value: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<IgnoredAny>(value).map(|IgnoredAny| ())
}

/// Checks that everybody can read a value: what JSON allows, common parsers need not take. A number may be too
/// large for them (RFC 8259, section 6), an escaped text may be none of Unicode's (section 8.2), and they follow
/// arrays and objects only so deep.
fn check_readable(value: &str) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(value);
    Readable { depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// A value at some depth, of which nothing is kept.
#[derive(Clone, Copy)]
struct Readable {
    depth: usize,
}

impl Readable {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH {
            Err(E::custom(format_args!("it nests more than {MAX_DEPTH} deep")))
        } else {
            Ok(Self { depth })
        }
    }
}

impl<'de> DeserializeSeed<'de> for Readable {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while array.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while object.next_key_seed(deeper)?.is_some() {
            object.next_value_seed(deeper)?;
        }
        Ok(())
    }
}

/// Splits off a number without leading zeros.
fn number_at_end(text: &str) -> Option<(&str, u64)> {
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (rest, number) = text.split_at(text.len() - digits);
    (digits == 1 || !number.starts_with('0')).then(|| Some((rest, number.parse().ok()?)))?
}

fn parse_any(text: &str) -> Result<Parsed<'_>, serde_json::Error> {
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
        // Some other program's field of that name is no error.
        identity: payload.broadcast.and_then(|raw| serde_json::from_str(raw.get()).ok()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(key: &str, value: &str, origin: &str, epoch: u64, seq: u64) -> String {
        let bytes = Draft::new(key, value, origin).finish(epoch, seq);
        assert_eq!(bytes[0], kind::USER);
        String::from_utf8(bytes[1..].into()).unwrap()
    }

    #[test]
    fn what_not_everybody_could_read_is_not_published() {
        let nested = |depth: usize| ["{\"a\":".repeat(depth - 1), "[]".into(), "}".repeat(depth - 1)].concat();
        let flat = format!("[{}\"\\\\\\\"{}\"]", "[],".repeat(200), "[{".repeat(200));
        let odd = r#"{"a":1,"a":[1.0,-0,12345678901234567890123,1e308],"\ud83d\ude00":"\u0000","":null,"b":true}"#;
        for value in [nested(MAX_DEPTH), flat, odd.into(), " 1 ".into()] {
            assert!(Draft::checked("k", &value, "n").is_ok(), "{value}");
            assert!(serde_json::from_str::<serde_json::Value>(&value).is_ok(), "{value}");
        }
        for (value, words) in [
            (&*nested(MAX_DEPTH + 1), "it nests more than 63 deep"),
            (&nested(10_000), "it nests more than 63 deep"),
            ("1e999", "number out of range"),
            (r#"["\ud800"]"#, "escape"),
            (r#"{"\ud800":1}"#, "escape"),
            ("1 2", "trailing characters"),
            ("", "EOF"),
        ] {
            let Err(PublishError::Value(why)) = Draft::checked("k", value, "n") else { panic!("{value} is published") };
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn is_written_as_documented() {
        let text = message("I am node2", "0", "node2", 1_764_000_000_000_000, 0);
        let expected =
            r#"{"key":"I am node2","value":0,"broadcast":{"origin":"node2","epoch":1764000000000000,"seq":0}}"#;
        assert_eq!(text, expected);
        assert!(parse_ours(&text).is_some(), "what this crate writes is read the fast way");
        let draft = Draft::new("k", "1", "node2").on_behalf_of("go\"1", false);
        assert!(draft.max_len() >= draft.0.len());
        let text = String::from_utf8(draft.finish(2, 3)[1..].into()).unwrap();
        assert_eq!(text, r#"{"key":"k","value":1,"broadcast":{"origin":"node2","plain":"go\"1","epoch":2,"seq":3}}"#);
        assert_eq!(parse(&text).unwrap().identity.unwrap().plain.unwrap(), "go\"1");
        let draft = Draft::new("k\n", "[1]", "node2").with_event(42);
        assert_eq!(draft.content(), ("k\n".into(), "[1]".into()));
        let message = draft.finish(2, 3);
        let again = renumber(&message, "node2", 4, 3);
        let text = String::from_utf8(again[1..].into()).unwrap();
        assert_eq!(text, r#"{"key":"k\n","value":[1],"broadcast":{"origin":"node2","event":42,"epoch":4,"seq":3}}"#);
        assert_eq!(parse(&text).unwrap().identity.unwrap().event, Some(42));
    }

    #[test]
    fn bytes_of_another_kind_come_back_as_they_were() {
        for bytes in [&b""[..], b"x", b"\"{}\n", "\u{fc}\0".as_bytes(), &[0xff], &[0, 0x80, 0xb5]] {
            let value = raw_value(bytes);
            assert_eq!(raw_bytes(&value).as_deref(), Some(bytes), "{value}");
            let message = Draft::new("", &value, "a").on_behalf_of("go", true).finish(1, 2);
            for message in [renumber(&message, "b", 3, 4), message] {
                let text = std::str::from_utf8(&message[1..]).unwrap();
                let parsed = parse(text).unwrap();
                assert_eq!(&text[parsed.value], value);
                assert!(parsed.identity.is_some_and(|identity| identity.raw && identity.plain.is_some()), "{text}");
            }
        }
        for value in ["1", "[256]", "[-1]", "null", "{}"] {
            assert_eq!(raw_bytes(value), None, "{value}");
        }
    }

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
        fn both_ways_of_reading_agree(
            key in any::<String>(), value in "[0-9]{1,3}|\"[a-z{}:,\\\\]*\"|\\[\"[a-z]\"\\]|\\{\"seq\":1\\}",
            origin in any::<String>(), epoch: u64, seq: u64,
        ) {
            prop_assume!(serde_json::from_str::<&RawValue>(&value).is_ok());
            let text = message(&key, &value, &origin, epoch, seq);
            prop_assert!(text.len() <= Draft::new(&key, &value, &origin).max_len());
            let parsed = parse(&text).unwrap();
            prop_assert_eq!(&*parsed.key, &*key);
            prop_assert_eq!(&text[parsed.value.clone()], &*value);
            prop_assert_eq!(parsed.identity.as_ref().unwrap(), &Identity { origin: origin.into(), plain: None, raw: false, event: None, epoch, seq });
            prop_assert_eq!(&parsed, &parse_any(&text).unwrap());
        }

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
