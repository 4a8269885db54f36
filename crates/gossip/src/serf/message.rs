//! Serf's messages (`messages.go`): a type byte, and a MessagePack map in memberlist's dialect.
//!
//! One field is this crate's own, [`FIELD_BROADCAST`]: in an event it says that a node of this crate published it as a
//! message, in a push/pull it holds the state that only nodes of this crate exchange. Serf ignores fields it does not know.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::{MAX_ENTRIES, SerfError, clock::LATEST};
use crate::{
    membership::NodeName,
    wire::{
        self, MsgpackError,
        msgpack::{Decoder, put_array, put_bool, put_bytes, put_large_map, put_map, put_str, put_u64, put_uint},
    },
};

/// The type bytes.
pub(super) mod kind {
    pub(in crate::serf) const LEAVE: u8 = 0;
    pub(in crate::serf) const JOIN: u8 = 1;
    pub(in crate::serf) const PUSH_PULL: u8 = 2;
    pub(in crate::serf) const EVENT: u8 = 3;
    pub(in crate::serf) const QUERY: u8 = 4;
    pub(in crate::serf) const RESPONSE: u8 = 5;
    pub(in crate::serf) const CONFLICT: u8 = 6;
    pub(in crate::serf) const KEYS: u8 = 8;
    pub(in crate::serf) const RELAY: u8 = 9;
}

/// The field that only nodes of this crate read.
const FIELD_BROADCAST: &str = "Broadcast";
/// How many events one push/pull can have.
const MAX_EVENTS: usize = 65_536;

/// A node has joined, or is about to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) time: u64,
    pub(super) node: NodeName,
}

/// A user event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserEvent {
    pub(super) time: u64,
    pub(super) name: Bytes,
    pub(super) payload: Bytes,
    /// A node of this crate published it as a message.
    pub(super) is_broadcast: bool,
}

/// A query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) time: u64,
    pub(super) id: u32,
    addr: Bytes,
    port: u16,
    pub(super) filters: Vec<Bytes>,
    pub(super) flags: u32,
    pub(super) name: Bytes,
    pub(super) payload: Bytes,
}

impl Query {
    /// An acknowledgement is wanted.
    pub(super) const ACK: u32 = 1;
    /// It is not to be passed on.
    pub(super) const NO_BROADCAST: u32 = 2;

    /// Where to answer.
    pub(super) fn asker(&self) -> Option<SocketAddr> {
        wire::decode_ip(&self.addr).map(|ip| SocketAddr::new(ip.to_canonical(), self.port))
    }
}

/// A message of serf's, in a user message of memberlist's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SerfMessage {
    Leave(Intent),
    Join(Intent),
    Event(UserEvent),
    Query(Query),
    /// An answer to a query. This node makes no queries.
    Response,
    /// A message to be passed on as it is.
    Relay {
        to: SocketAddr,
        message: Bytes,
    },
}

/// The state of one node, which nodes exchange with their views.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SerfPushPull {
    pub(super) time: u64,
    pub(super) statuses: Vec<(NodeName, u64)>,
    pub(super) left: Vec<NodeName>,
    pub(super) event_time: u64,
    pub(super) events: Vec<UserEvent>,
    pub(super) query_time: u64,
    /// The state that only nodes of this crate exchange.
    pub(super) broadcast_state: Option<Bytes>,
}

impl SerfMessage {
    pub(super) fn decode(data: &Bytes) -> Result<Self, SerfError> {
        let kind = *data.first().ok_or(SerfError::UnknownType(None))?;
        let (name, decode): (_, DecodeFn) = match kind {
            kind::LEAVE => ("leave", |decoder, _| Ok(Self::Leave(decode_intent(decoder)?))),
            kind::JOIN => ("join", |decoder, _| Ok(Self::Join(decode_intent(decoder)?))),
            kind::EVENT => ("user event", |decoder, _| Ok(Self::Event(decode_event(decoder)?))),
            kind::QUERY => ("query", |decoder, _| Ok(Self::Query(decode_query(decoder)?))),
            kind::RESPONSE => return Ok(Self::Response),
            kind::RELAY => ("relay", decode_relay),
            kind => return Err(SerfError::UnknownType(Some(kind))),
        };
        let mut decoder = Decoder::new(data, 1..data.len(), name);
        decode(&mut decoder, data).map_err(|error| error.into_serf_error(name))
    }
}

type DecodeFn = fn(&mut Decoder<'_>, &Bytes) -> Result<SerfMessage, DecodeError>;

/// What is wrong with a message whose type is known.
enum DecodeError {
    Malformed(MsgpackError),
    Refused(SerfError),
}

impl From<MsgpackError> for DecodeError {
    fn from(error: MsgpackError) -> Self {
        Self::Malformed(error)
    }
}

impl DecodeError {
    fn into_serf_error(self, kind: &'static str) -> SerfError {
        match self {
            Self::Malformed(source) => SerfError::Malformed { kind, source },
            Self::Refused(error) => error,
        }
    }
}

fn check_time(time: u64) -> Result<u64, DecodeError> {
    if time > LATEST { Err(DecodeError::Refused(SerfError::TimeTooLarge(time))) } else { Ok(time) }
}

fn decode_intent(decoder: &mut Decoder<'_>) -> Result<Intent, DecodeError> {
    let (mut time, mut node) = (0, Bytes::new());
    decoder.fields(&["LTime", "Node"], |decoder, field| {
        match field {
            0 => time = decoder.u64()?,
            _ => node = decoder.str()?,
        }
        Ok(())
    })?;
    Ok(Intent { time: check_time(time)?, node: NodeName::from(&*node) })
}

fn decode_event(decoder: &mut Decoder<'_>) -> Result<UserEvent, DecodeError> {
    let (mut time, mut name, mut payload, mut is_broadcast) = (0, Bytes::new(), Bytes::new(), false);
    decoder.fields(&["LTime", "Name", "Payload", "CC", FIELD_BROADCAST], |decoder, field| {
        match field {
            0 => time = decoder.u64()?,
            1 => name = decoder.str()?,
            2 => payload = decoder.bytes()?,
            3 => decoder.skip()?,
            _ => is_broadcast = decoder.bool()?,
        }
        Ok(())
    })?;
    Ok(UserEvent { time: check_time(time)?, name, payload, is_broadcast })
}

fn decode_query(decoder: &mut Decoder<'_>) -> Result<Query, DecodeError> {
    const FIELDS: [&str; 11] =
        ["LTime", "ID", "Addr", "Port", "SourceNode", "Filters", "Flags", "RelayFactor", "Timeout", "Name", "Payload"];
    let mut query = Query::default();
    decoder.fields(&FIELDS, |decoder, field| {
        match field {
            0 => query.time = decoder.u64()?,
            1 => query.id = decoder.u32()?,
            2 => query.addr = decoder.bytes()?,
            3 => query.port = decoder.u16()?,
            5 => {
                query.filters.clear();
                for _ in 0..decoder.array()? {
                    query.filters.push(decoder.bytes()?);
                }
            }
            6 => query.flags = decoder.u32()?,
            9 => query.name = decoder.str()?,
            10 => query.payload = decoder.bytes()?,
            _ => decoder.skip()?,
        }
        Ok(())
    })?;
    check_time(query.time)?;
    Ok(query)
}

fn decode_relay(decoder: &mut Decoder<'_>, data: &Bytes) -> Result<SerfMessage, DecodeError> {
    let (mut ip, mut port) = (Bytes::new(), 0);
    decoder.fields(&["DestAddr", "DestName"], |decoder, field| {
        if field != 0 {
            return decoder.skip();
        }
        decoder.fields(&["IP", "Port", "Zone"], |decoder, field| {
            match field {
                0 => ip = decoder.bytes()?,
                1 => port = decoder.u16()?,
                _ => decoder.skip()?,
            }
            Ok(())
        })
    })?;
    let ip: IpAddr = wire::decode_ip(&ip).ok_or(DecodeError::Refused(SerfError::BadAddress(ip.len())))?;
    let message = data.slice(decoder.position()..);
    Ok(SerfMessage::Relay { to: SocketAddr::new(ip.to_canonical(), port), message })
}

impl SerfPushPull {
    /// Decodes a state with its type byte.
    pub(super) fn decode(data: &Bytes) -> Result<Self, SerfError> {
        match data.first() {
            Some(&kind::PUSH_PULL) => {}
            other => return Err(SerfError::NotAState(other.copied())),
        }
        let mut decoder = Decoder::new(data, 1..data.len(), "push/pull");
        decode_push_pull(&mut decoder).map_err(|error| error.into_serf_error("push/pull"))
    }

    /// Encodes the state, with its type byte.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = vec![kind::PUSH_PULL];
        put_map(&mut out, 6 + u8::from(self.broadcast_state.is_some()));
        if let Some(broadcast_state) = &self.broadcast_state {
            put_str(&mut out, FIELD_BROADCAST.as_bytes());
            put_bytes(&mut out, broadcast_state);
        }
        put_str(&mut out, b"EventLTime");
        put_u64(&mut out, self.event_time);
        put_str(&mut out, b"Events");
        let slots: Vec<&[UserEvent]> = self.events.chunk_by(|one, other| one.time == other.time).collect();
        put_array(&mut out, slots.len());
        for slot in slots {
            put_map(&mut out, 2);
            put_str(&mut out, b"Events");
            put_array(&mut out, slot.len());
            for event in slot {
                put_map(&mut out, 2 + u8::from(event.is_broadcast));
                if event.is_broadcast {
                    put_str(&mut out, FIELD_BROADCAST.as_bytes());
                    put_bool(&mut out, true);
                }
                put_str(&mut out, b"Name");
                put_str(&mut out, &event.name);
                put_str(&mut out, b"Payload");
                put_bytes(&mut out, &event.payload);
            }
            put_str(&mut out, b"LTime");
            put_u64(&mut out, slot[0].time);
        }
        put_str(&mut out, b"LTime");
        put_u64(&mut out, self.time);
        put_str(&mut out, b"LeftMembers");
        put_array(&mut out, self.left.len());
        for name in &self.left {
            put_str(&mut out, name.as_bytes());
        }
        put_str(&mut out, b"QueryLTime");
        put_u64(&mut out, self.query_time);
        put_str(&mut out, b"StatusLTimes");
        put_large_map(&mut out, self.statuses.len());
        for (name, time) in &self.statuses {
            put_str(&mut out, name.as_bytes());
            put_u64(&mut out, *time);
        }
        out.into()
    }
}

fn decode_push_pull(decoder: &mut Decoder<'_>) -> Result<SerfPushPull, DecodeError> {
    const FIELDS: [&str; 7] =
        ["LTime", "StatusLTimes", "LeftMembers", "EventLTime", "Events", "QueryLTime", FIELD_BROADCAST];
    let mut state = SerfPushPull::default();
    let mut too_many = false;
    decoder
        .fields(&FIELDS, |decoder, field| {
            match field {
                0 => state.time = decoder.u64()?,
                1 => {
                    let count = decoder.map()?;
                    too_many |= count > MAX_ENTRIES as u64;
                    for _ in 0..count.min(MAX_ENTRIES as u64) {
                        state.statuses.push((NodeName::from(&*decoder.str()?), decoder.u64()?));
                    }
                }
                2 => {
                    let count = decoder.array()?;
                    too_many |= count > MAX_ENTRIES as u64;
                    for _ in 0..count.min(MAX_ENTRIES as u64) {
                        state.left.push(NodeName::from(&*decoder.str()?));
                    }
                }
                3 => state.event_time = decoder.u64()?,
                4 => {
                    for _ in 0..decoder.array()? {
                        decode_slot(decoder, &mut state.events)?;
                    }
                }
                5 => state.query_time = decoder.u64()?,
                _ => state.broadcast_state = Some(decoder.bytes()?),
            }
            if too_many || state.events.len() > MAX_EVENTS {
                too_many = true;
                // The rest is not read.
                return Err(MsgpackError::Truncated);
            }
            Ok(())
        })
        .map_err(|error| if too_many { DecodeError::Refused(SerfError::TooManyEntries) } else { error.into() })?;
    let times = [state.time, state.event_time, state.query_time];
    let statuses = state.statuses.iter().map(|(_, time)| *time);
    let events = state.events.iter().map(|event| event.time);
    for time in times.into_iter().chain(statuses).chain(events) {
        check_time(time)?;
    }
    Ok(state)
}

/// Decodes the events of one time; nil if there are none.
fn decode_slot(decoder: &mut Decoder<'_>, events: &mut Vec<UserEvent>) -> Result<(), MsgpackError> {
    let (first, mut time) = (events.len(), 0);
    decoder.fields(&["LTime", "Events"], |decoder, field| {
        if field == 0 {
            time = decoder.u64()?;
            return Ok(());
        }
        for _ in 0..decoder.array()? {
            let (mut name, mut payload, mut is_broadcast) = (Bytes::new(), Bytes::new(), false);
            decoder.fields(&["Name", "Payload", FIELD_BROADCAST], |decoder, field| {
                match field {
                    0 => name = decoder.str()?,
                    1 => payload = decoder.bytes()?,
                    _ => is_broadcast = decoder.bool()?,
                }
                Ok(())
            })?;
            if events.len() > MAX_EVENTS {
                return Ok(());
            }
            events.push(UserEvent { time: 0, name, payload, is_broadcast });
        }
        Ok(())
    })?;
    events[first..].iter_mut().for_each(|event| event.time = time);
    Ok(())
}

/// The intent of a node that has joined.
pub(super) fn encode_join(time: u64, node: &NodeName) -> Bytes {
    let mut out = vec![kind::JOIN];
    put_map(&mut out, 2);
    put_intent(&mut out, time, node);
    out.into()
}

/// The intent of a node that is about to leave.
pub(super) fn encode_leave(time: u64, node: &NodeName) -> Bytes {
    let mut out = vec![kind::LEAVE];
    put_map(&mut out, 3);
    put_intent(&mut out, time, node);
    put_str(&mut out, b"Prune");
    put_bool(&mut out, false);
    out.into()
}

fn put_intent(out: &mut Vec<u8>, time: u64, node: &NodeName) {
    put_str(out, b"LTime");
    put_u64(out, time);
    put_str(out, b"Node");
    put_str(out, node.as_bytes());
}

/// A user event that is also a message of this node. It is not to be coalesced with others that have its name.
pub(super) fn encode_user_event(time: u64, name: &[u8], payload: &[u8]) -> Bytes {
    let mut out = vec![kind::EVENT];
    put_map(&mut out, 5);
    put_str(&mut out, FIELD_BROADCAST.as_bytes());
    put_bool(&mut out, true);
    put_str(&mut out, b"CC");
    put_bool(&mut out, false);
    put_str(&mut out, b"LTime");
    put_u64(&mut out, time);
    put_str(&mut out, b"Name");
    put_str(&mut out, name);
    put_str(&mut out, b"Payload");
    put_bytes(&mut out, payload);
    out.into()
}

/// The answer to a query, or its acknowledgement.
pub(super) fn encode_response(query: &Query, from: &NodeName, flags: u32, payload: &[u8]) -> Bytes {
    let mut out = vec![kind::RESPONSE];
    put_map(&mut out, 5);
    put_str(&mut out, b"Flags");
    put_uint(&mut out, flags);
    put_str(&mut out, b"From");
    put_str(&mut out, from.as_bytes());
    put_str(&mut out, b"ID");
    put_uint(&mut out, query.id);
    put_str(&mut out, b"LTime");
    put_u64(&mut out, query.time);
    put_str(&mut out, b"Payload");
    put_bytes(&mut out, payload);
    out.into()
}

/// The answer to a query about encryption keys: none, and why.
pub(super) fn encode_no_keys(reason: &str) -> Bytes {
    let mut out = vec![kind::KEYS];
    put_map(&mut out, 4);
    put_str(&mut out, b"Keys");
    put_array(&mut out, 0);
    put_str(&mut out, b"Message");
    put_str(&mut out, reason.as_bytes());
    put_str(&mut out, b"PrimaryKey");
    put_str(&mut out, b"");
    put_str(&mut out, b"Result");
    put_bool(&mut out, false);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Bytes {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digit).collect::<Vec<_>>().into()
    }

    /// The bytes are what the real serf emits.
    #[test]
    fn serf_s_own_bytes_are_read() {
        let read = |text| SerfMessage::decode(&hex(text)).expect("serf wrote it");
        let intent = |time| Intent { time, node: "n1".into() };
        assert_eq!(read("0083a54c54696d6507a44e6f6465a26e31a55072756e65c2"), SerfMessage::Leave(intent(7)));
        assert_eq!(read("0182a54c54696d6502a44e6f6465a26e31"), SerfMessage::Join(intent(2)));
        let event = UserEvent { time: 3, name: "deploy".into(), payload: "v1".into(), is_broadcast: false };
        assert_eq!(
            read("0384a24343c3a54c54696d6503a44e616d65a66465706c6f79a75061796c6f6164a27631"),
            SerfMessage::Event(event)
        );
        let SerfMessage::Query(query) = read(
            "048ba441646472a40a000001a746696c7465727391a60092a161a162a5466c61677301a24944cd3039a54c54696d6509a44e616d65a67\
             57074696d65a75061796c6f6164c0a4506f7274cd1f0aab52656c6179466163746f7202aa536f757263654e6f6465a26e31a754696d656\
             f7574d3000000037e11d600",
        ) else {
            panic!("it is a query")
        };
        assert_eq!((query.time, query.id, query.flags, &*query.name), (9, 12345, Query::ACK, &b"uptime"[..]));
        assert_eq!(query.asker(), "10.0.0.1:7946".parse().ok());
        assert_eq!(query.filters, [hex("0092a161a162")]);
        let relayed = hex("0585a5466c61677300a446726f6da26e32a24944cd3039a54c54696d6509a75061796c6f6164a26f6b");
        let header = "0982a8446573744164647283a24950b000000000000000000000ffff0a000001a4506f7274d11f0aa45a6f6e65a0a8446\
                      573744e616d65a26e31";
        let relay = [hex(header), relayed.clone()].concat().into();
        let to = "10.0.0.1:7946".parse().expect("an address");
        assert_eq!(SerfMessage::decode(&relay).ok(), Some(SerfMessage::Relay { to, message: relayed }));
    }

    #[test]
    fn what_is_written_is_what_serf_writes() {
        let leave = hex("0083a54c54696d6507a44e6f6465a26e31a55072756e65c2");
        assert_eq!(super::encode_leave(7, &"n1".into()), leave);
        assert_eq!(encode_join(2, &"n1".into()), hex("0182a54c54696d6502a44e6f6465a26e31"));
        let query = Query { time: 9, id: 12345, ..Query::default() };
        assert_eq!(
            encode_response(&query, &"n2".into(), 0, b"ok"),
            hex("0585a5466c61677300a446726f6da26e32a24944cd3039a54c54696d6509a75061796c6f6164a26f6b")
        );
        let state = hex(
            "0286aa4576656e744c54696d6502a64576656e747392c082a64576656e74739182a44e616d65a165a75061796c6f6164a170a54c54696d\
             6501a54c54696d6505ab4c6566744d656d6265727390aa51756572794c54696d6501ac5374617475734c54696d657381a26e3101",
        );
        let read = SerfPushPull::decode(&state).expect("serf wrote it");
        let event = UserEvent { time: 1, name: "e".into(), payload: "p".into(), is_broadcast: false };
        let statuses = vec![("n1".into(), 1)];
        let expected = SerfPushPull {
            time: 5,
            statuses,
            event_time: 2,
            events: vec![event],
            query_time: 1,
            ..SerfPushPull::default()
        };
        assert_eq!(read, expected);
        assert_eq!(SerfPushPull::decode(&read.encode()).ok(), Some(read));
    }

    #[test]
    fn what_is_ours_is_read_by_ours() {
        let event = UserEvent { time: 3, name: "k".into(), payload: Bytes::new(), is_broadcast: true };
        assert_eq!(SerfMessage::decode(&encode_user_event(3, b"k", b"")).ok(), Some(SerfMessage::Event(event.clone())));
        let state =
            SerfPushPull { events: vec![event], broadcast_state: Some("state".into()), ..SerfPushPull::default() };
        assert_eq!(SerfPushPull::decode(&state.encode()).ok(), Some(state));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        let reason =
            |bytes: &[u8]| SerfMessage::decode(&Bytes::copy_from_slice(bytes)).expect_err("no message").to_string();
        assert_eq!(reason(&[]), "an empty message is not a serf message");
        assert_eq!(reason(&[7]), "serf has no message of type 7 for this node");
        assert!(reason(&[3, 0x81, 0xa4]).starts_with("a serf user event cannot be read: "));
        assert!(reason(&encode_user_event(LATEST + 1, b"k", b"")).contains("beyond the maximum"));
        assert!(reason(&[9, 0x80]).contains("0 bytes"));
        let mut many = vec![kind::PUSH_PULL, 0x81];
        put_str(&mut many, b"StatusLTimes");
        put_large_map(&mut many, MAX_ENTRIES + 1);
        assert!(matches!(
            SerfPushPull::decode(&many.into()),
            Err(SerfError::Malformed { .. } | SerfError::TooManyEntries)
        ));
        assert!(matches!(SerfPushPull::decode(&Bytes::from_static(b"\xb5x")), Err(SerfError::NotAState(Some(0xb5)))));
    }
}
