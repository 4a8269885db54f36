//! Every message survives a round trip, and no input panics.

use std::net::{Ipv4Addr, Ipv6Addr};

use broadcast_wire::{
    Ack, Address, Alive, Dead, IndirectPing, Message, Nack, NodeState, Ping, PushPull, PushPullState, Source, Suspect,
    Versions, limits,
    packet::{decode, encode, encode_message},
    stream::{self, StreamError, StreamMessage, StreamReader},
};
use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, sample::Index};

fn bytes(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), len).prop_map(Bytes::from)
}

fn name() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => bytes(1..20), 1 => bytes(1..=limits::NAME)]
}

fn meta() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => bytes(0..40), 1 => bytes(0..=limits::META)]
}

fn address() -> impl Strategy<Value = Address> {
    let v4 = any::<Ipv4Addr>;
    let ip = prop_oneof![
        v4().prop_map(Into::into),
        v4().prop_map(|ip| ip.to_ipv6_mapped().into()),
        any::<Ipv6Addr>().prop_map(Into::into)
    ];
    (ip, 1_u16..).prop_map(|(ip, port)| Address { ip, port })
}

fn source() -> impl Strategy<Value = Option<Source>> {
    option::of((address(), bytes(0..20)).prop_map(|(address, node)| Source { address, node }))
}

fn ping() -> impl Strategy<Value = Ping> {
    (any::<u32>(), bytes(0..300), source()).prop_map(|(seq, node, source)| Ping { seq, node, source })
}

fn ack() -> impl Strategy<Value = Ack> {
    (any::<u32>(), bytes(0..300)).prop_map(|(seq, payload)| Ack { seq, payload })
}

fn alive() -> impl Strategy<Value = Alive> {
    (any::<u32>(), name(), address(), meta(), option::of(any::<Versions>()))
        .prop_map(|(incarnation, node, address, meta, versions)| Alive { incarnation, node, address, meta, versions })
}

fn message() -> impl Strategy<Value = Message> {
    let seq = any::<u32>();
    prop_oneof![
        ping().prop_map(Message::Ping),
        (seq, address(), name(), any::<bool>(), source()).prop_map(|(seq, target, node, nack, source)| {
            Message::IndirectPing(IndirectPing { seq, target, node, nack, source })
        }),
        ack().prop_map(Message::Ack),
        seq.prop_map(|seq| Message::Nack(Nack { seq })),
        (seq, name(), name()).prop_map(|(incarnation, node, from)| Message::Suspect(Suspect {
            incarnation,
            node,
            from
        })),
        (seq, name(), name()).prop_map(|(incarnation, node, from)| Message::Dead(Dead { incarnation, node, from })),
        alive().prop_map(Message::Alive),
        bytes(0..600).prop_map(Message::User),
    ]
}

fn record() -> impl Strategy<Value = PushPullState> {
    let state =
        prop_oneof![Just(NodeState::Alive), Just(NodeState::Suspect), Just(NodeState::Dead), Just(NodeState::Left)];
    (alive(), state).prop_map(|(Alive { incarnation, node: name, address, meta, versions }, state)| PushPullState {
        name,
        address,
        meta,
        incarnation,
        state,
        versions,
    })
}

fn stream_message() -> impl Strategy<Value = StreamMessage> {
    prop_oneof![
        1 => ping().prop_map(StreamMessage::Ping),
        1 => ack().prop_map(StreamMessage::Ack),
        1 => bytes(0..400).prop_map(StreamMessage::User),
        1 => bytes(0..400).prop_map(StreamMessage::Error),
        4 => (any::<bool>(), vec(record(), 0..20), bytes(0..400))
            .prop_map(|(join, nodes, user_state)| StreamMessage::PushPull(PushPull { join, nodes, user_state })),
    ]
}

/// A corruption of bytes on their way.
#[derive(Clone, Debug)]
enum Corruption {
    Set(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index),
}

fn corruptions() -> impl Strategy<Value = Vec<Corruption>> {
    let index = any::<Index>;
    let byte = prop_oneof![any::<u8>(), 0x80_u8..0xe0];
    let corruption = prop_oneof![
        6 => (index(), byte).prop_map(|(at, byte)| Corruption::Set(at, byte)),
        1 => index().prop_map(Corruption::Cut),
        1 => (index(), vec(any::<u8>(), 1..10)).prop_map(|(at, bytes)| Corruption::Insert(at, bytes)),
        1 => (index(), index()).prop_map(|(from, to)| Corruption::Repeat(from, to)),
    ];
    vec(corruption, 1..6)
}

fn corrupt(mut bytes: Vec<u8>, corruptions: Vec<Corruption>) -> Vec<u8> {
    for corruption in corruptions {
        let len = bytes.len() + 1;
        match corruption {
            Corruption::Set(at, byte) => {
                if let Some(place) = bytes.get_mut(at.index(len)) {
                    *place = byte;
                }
            }
            Corruption::Cut(at) => bytes.truncate(at.index(len)),
            Corruption::Insert(at, more) => drop(bytes.splice(at.index(len)..at.index(len), more)),
            Corruption::Repeat(a, b) => {
                let (a, b) = (a.index(len), b.index(len));
                bytes.extend_from_within(a.min(b)..a.max(b));
            }
        }
    }
    bytes
}

/// Reads a stream in pieces of these lengths, over and over; `None` if the message is not complete.
fn read(stream: &[u8], pieces: &[usize]) -> Result<Option<StreamMessage>, StreamError> {
    let mut reader = StreamReader::new();
    let (mut rest, mut pieces) = (stream, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
        if let Some(message) = reader.push(piece)? {
            return Ok(Some(message));
        }
        rest = behind;
    }
    Ok(None)
}

fn decode_is_bounded(datagram: Vec<u8>) {
    let mut out = Vec::new();
    let _ = decode(&datagram.into(), &mut out);
    assert!(out.len() <= limits::PACKET_MESSAGES);
}

proptest! {
    #[test]
    fn packets(messages in vec(message(), 1..12), compress: bool, checksum: bool) {
        let parts: Vec<Bytes> = messages.iter().map(encode_message).collect();
        let mut out = Vec::new();
        let packet = encode(&parts, compress, checksum);
        prop_assert_eq!(decode(&packet, &mut out), Ok(()));
        prop_assert_eq!(out, messages);
        prop_assert!(!compress || packet.len() <= encode(&parts, false, checksum).len());
    }

    #[test]
    fn streams(message in stream_message(), compress: bool, behind in vec(any::<u8>(), 0..4), pieces in vec(1_usize..100, 1..5)) {
        let bytes = stream::encode(&message, compress);
        for len in [bytes.len() - 1, bytes.len() / 2] {
            prop_assert_eq!(read(&bytes[..len], &pieces), Ok(None));
        }
        let bytes = [bytes, behind].concat();
        prop_assert_eq!(read(&bytes, &pieces), Ok(Some(message)));
    }

    #[test]
    fn noise_as_packets(datagram in vec(any::<u8>(), 0..400), kind in 0_u8..15) {
        decode_is_bounded(datagram.clone());
        decode_is_bounded([vec![kind], datagram].concat());
    }

    #[test]
    fn corrupted_packets(messages in vec(message(), 1..6), compress: bool, checksum: bool, corruptions in corruptions()) {
        let parts: Vec<Bytes> = messages.iter().map(encode_message).collect();
        let mut inner = corrupt(encode(&parts, compress, false).to_vec(), corruptions.clone());
        if checksum {
            // A right checksum around it, or the corruption would go no further.
            inner = encode(&[inner.into()], false, true).to_vec();
        }
        decode_is_bounded(inner);
    }

    #[test]
    fn noise_as_streams(stream in vec(any::<u8>(), 0..400), kind in 0_u8..15, pieces in vec(1_usize..50, 1..4)) {
        let stream = [vec![kind], stream].concat();
        prop_assert_eq!(read(&stream, &pieces), read(&stream, &[stream.len()]));
    }

    #[test]
    fn corrupted_streams(
        message in stream_message(),
        compress: bool,
        corruptions in corruptions(),
        pieces in vec(1_usize..50, 1..4),
    ) {
        // However a stream is cut, it is read the same.
        let stream = corrupt(stream::encode(&message, compress), corruptions);
        prop_assert_eq!(read(&stream, &pieces), read(&stream, &[stream.len().max(1)]));
    }
}
