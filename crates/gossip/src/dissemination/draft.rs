//! A message on its way out: checked, written as JSON, and numbered last.
//!
//! Writing it tells where its key and its value are in the JSON, so that this node never has to parse its own messages.

use std::{fmt, io::Write as _, ops::Range};

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::{
    id::MessageId,
    payload::{self, Content, Identity, Key},
};
use crate::{membership::NodeName, wire::kind};

/// The largest message, as JSON with its identity, in bytes.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// How deep the arrays and objects of a value may nest: 64 with the message around it, the least that a common JSON parser
/// reads (.NET's; serde_json reads 127, Python's and Java's about 1000).
const MAX_DEPTH: usize = 63;
/// The most bytes that an identity takes in a message, besides its origin's name: field names and two 64-bit numbers.
const IDENTITY: usize = 96;
/// What may stand around a value without being part of it (RFC 8259, section 2).
const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// Why a message was not published.
///
/// ```
/// use std::{net::SocketAddr, time::Instant};
///
/// use broadcast::{
///     Config, PublishError,
///     node::{Node, NodeConfig},
/// };
///
/// let now = Instant::now();
/// let mut node = Node::new(now, NodeConfig::new(Config::new("node1"), SocketAddr::from(([127, 0, 0, 1], 7946))));
/// assert!(matches!(node.publish(now, "key", "no JSON"), Err(PublishError::Value(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The message is larger than the limit.
    #[error("the message takes {size} bytes on the wire; at most {max} are allowed: shorten its key or value")]
    TooLarge {
        /// Its length on the wire, in bytes.
        size: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The value is not JSON, or not JSON that everybody can read: it has a number beyond a double's range, a text with half
    /// a surrogate pair, or more than 63 nested arrays or objects.
    #[error("the value cannot be published as JSON: {0}")]
    Value(String),
    /// The log is full of messages that members still need. [`Event::PublishReady`](crate::Event::PublishReady) says when
    /// there is room again.
    #[error("the slowest members have not caught up yet; wait, or publish less")]
    WouldBlock,
    /// Another node in the cluster has this node's name.
    #[error("another node in the cluster has the same name as this one; give one of them another name")]
    NameTaken,
    /// The node has left.
    #[error("the node has stopped; start a new one to publish")]
    Stopped,
}

/// A message that is complete but for its number: a user message with its type byte in front.
#[derive(Debug)]
pub(crate) struct Draft {
    message: Vec<u8>,
    content: Content,
}

/// A message of this node with its number.
#[derive(Debug)]
pub(crate) struct PublishedMessage {
    pub(super) origin: NodeName,
    pub(super) id: MessageId,
    /// With its type byte in front.
    pub(super) message: Bytes,
    pub(super) content: Content,
}

impl PublishedMessage {
    /// Its identity.
    pub(crate) fn id(&self) -> MessageId {
        self.id
    }
}

impl Draft {
    /// Writes a message; `value` is JSON.
    pub(crate) fn new(key: &str, value: &str, origin: &str) -> Self {
        let mut message = Vec::with_capacity(key.len() + value.len() + origin.len() + IDENTITY);
        message.extend_from_slice(&[kind::USER, b'{']);
        let stood_as_is = put_field(&mut message, "\"key\":", key);
        message.extend_from_slice(b",\"value\":");
        // The JSON begins behind the type byte.
        let at = message.len() - 1 + value.len() - value.trim_start_matches(BLANKS).len();
        message.extend_from_slice(value.as_bytes());
        message.extend_from_slice(b",\"broadcast\":{");
        put_field(&mut message, "\"origin\":", origin);
        let key = stood_as_is.map_or_else(|| Key::Text(key.into()), Key::At);
        let value = at as u32..(at + value.trim_matches(BLANKS).len()) as u32;
        let content = Content { key, value, plain: None, event: None, raw: false };
        Self { message, content }
    }

    /// Writes a message, if it can be published.
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

    /// Marks it as a message of the plain node `plain`; `raw` if its value is from [`raw_value`](payload::raw_value).
    pub(super) fn on_behalf_of(mut self, plain: &str, raw: bool) -> Self {
        put_field(&mut self.message, ",\"plain\":", plain);
        if raw {
            self.message.extend_from_slice(b",\"raw\":true");
        }
        (self.content.plain, self.content.raw) = (Some(plain.into()), raw);
        self
    }

    /// Marks it as a user event of serf's agents, of that Lamport time.
    pub(crate) fn with_event(mut self, time: u64) -> Self {
        write!(self.message, ",\"event\":{time}").expect("memory takes all");
        self.content.event = Some(time);
        self
    }

    /// Its key.
    pub(crate) fn key(&self) -> &str {
        self.content.key(&self.message[1..])
    }

    /// Its value, as JSON.
    pub(crate) fn value(&self) -> &str {
        self.content.value(&self.message[1..])
    }

    /// The most bytes that the message can take, as JSON.
    pub(crate) fn max_len(&self) -> usize {
        self.message.len() - 1 + "\"epoch\":,\"seq\":,}}".len() + 2 * "18446744073709551615".len()
    }

    /// The message with its number, as it goes in a packet.
    pub(crate) fn finish(self, epoch: u64, seq: u64) -> Bytes {
        close(self.message, epoch, seq)
    }

    /// The same for the origin, which also delivers it itself. `origin` is the one it was written for.
    pub(super) fn publish(self, origin: NodeName, id: MessageId) -> PublishedMessage {
        PublishedMessage { origin, id, message: close(self.message, id.epoch, id.seq), content: self.content }
    }
}

fn close(mut message: Vec<u8>, epoch: u64, seq: u64) -> Bytes {
    write!(message, ",\"epoch\":{epoch},\"seq\":{seq}}}}}").expect("memory takes all");
    message.into()
}

/// Writes a field; gives where its text is behind the type byte, unless some of it is escaped.
fn put_field(message: &mut Vec<u8>, name: &str, text: &str) -> Option<Range<usize>> {
    message.extend_from_slice(name.as_bytes());
    let quote = message.len() - 1;
    serde_json::to_writer(&mut *message, text).expect("text always serialises, and memory takes all");
    let stands_at = quote + 1..quote + 1 + text.len();
    (message.len() == stands_at.end + 2).then_some(stands_at)
}

/// Rewrites a finished message of this node with another epoch and number.
pub(super) fn renumber(message: &[u8], origin: &str, epoch: u64, seq: u64) -> Bytes {
    let text = std::str::from_utf8(&message[1..]).expect("a draft is made of text");
    let parsed = payload::parse(text).expect("a draft is JSON");
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

/// Checks that everybody can read a value. Common parsers need not take all that JSON allows: a number may be too large for
/// them (RFC 8259, section 6), an escaped text may not be Unicode (section 8.2), and they follow arrays and objects only so
/// deep.
fn check_readable(value: &str) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(value);
    Readable { depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Checks a value at some depth without keeping anything of it.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::{
        super::payload::{parse, parse_any, parse_ours, raw_bytes, raw_value},
        *,
    };

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
        assert!(draft.max_len() >= draft.message.len());
        let text = String::from_utf8(draft.finish(2, 3)[1..].into()).unwrap();
        assert_eq!(text, r#"{"key":"k","value":1,"broadcast":{"origin":"node2","plain":"go\"1","epoch":2,"seq":3}}"#);
        assert_eq!(parse(&text).unwrap().identity.unwrap().plain.unwrap(), "go\"1");
        let draft = Draft::new("k\n", "[1]", "node2").with_event(42);
        assert_eq!((draft.key(), draft.value()), ("k\n", "[1]"));
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
        fn what_is_published_is_known_as_whoever_reads_it_knows_it(
            key in any::<String>(), value in "[ \t\r\n]{0,2}(1|\"é\"|\\{ \\})[ \t\r\n]{0,2}",
            plain in any::<Option<(String, bool)>>(), event: Option<u64>,
        ) {
            let mut draft = Draft::new(&key, &value, "node1");
            if let Some((plain, raw)) = plain {
                draft = draft.on_behalf_of(&plain, raw);
            }
            if let Some(event) = event {
                draft = draft.with_event(event);
            }
            prop_assert_eq!(draft.key(), key);
            let published = draft.publish("node1".into(), MessageId { epoch: 1, seq: 2 });
            let json = &published.message[1..];
            let read = parse(std::str::from_utf8(json).unwrap()).unwrap();
            prop_assert_eq!(&published.content, &read.content(json));
        }
    }
}
