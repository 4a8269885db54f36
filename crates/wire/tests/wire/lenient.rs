//! What Go's decoder accepts and refuses, accepted and refused here.

use broadcast_wire::{
    Ack, Alive, BodyError, Dead, IndirectPing, Message, MsgpackError, Nack, NodeState, Ping, PushPull, PushPullState,
    RecordError, Source, Suspect, limits,
    packet::{self, PacketError},
    stream,
};
use bytes::Bytes;

use super::{address, bytes::hex, decoded};

/// The body error of a packet that must be refused.
#[track_caller]
fn refused(text: &str) -> BodyError {
    let mut out = Vec::new();
    match packet::decode(&hex(text), &mut out) {
        Err(PacketError::Body { source, .. }) if out.is_empty() => source,
        other => panic!("{text}: {other:?}, {out:?}"),
    }
}

#[track_caller]
fn malformed(text: &str) -> MsgpackError {
    match refused(text) {
        BodyError::Malformed(error) => error,
        other => panic!("{text}: {other:?}"),
    }
}

#[track_caller]
fn ping(text: &str) -> Ping {
    match &decoded(&hex(text))[..] {
        [Message::Ping(ping)] => ping.clone(),
        other => panic!("{text}: {other:?}"),
    }
}

/// A nack's body from the bytes of its number.
fn nack(value: &str) -> String {
    format!("0b81a55365714e6f{value}")
}

const SEQ: &str = "a55365714e6f";
const NODE: &str = "a44e6f6465";

fn plain(seq: u32, node: &'static str) -> Ping {
    Ping { seq, node: node.into(), source: None }
}

#[test]
fn keys_come_in_any_order_and_may_be_missing() {
    assert_eq!(ping(&format!("0082{SEQ}07{NODE}a16e")), plain(7, "n"));
    assert_eq!(ping(&format!("0081{SEQ}07")), plain(7, ""));
    assert_eq!(ping("0080"), plain(0, ""));
}

#[test]
fn duplicate_keys_last_wins() {
    assert_eq!(ping(&format!("0082{SEQ}07{SEQ}08")), plain(8, ""));
    assert_eq!(ping(&format!("0082{SEQ}07{SEQ}c0")), plain(0, ""));
}

#[test]
fn unknown_keys_are_skipped_whatever_they_hold() {
    for value in [
        "c0",
        "c3",
        "05",
        "ff",
        "cc80",
        "cd0100",
        "ce00010000",
        "cf0000000100000000",
        "d080",
        "d18000",
        "d280000000",
        "d38000000000000000",
        "ca3f800000",
        "cb3ff0000000000000",
        "a161",
        "d90161",
        "da000161",
        "db0000000161",
        "c40161",
        "c5000161",
        "c60000000161",
        "920102",
        "dc000101",
        "dd0000000101",
        "81a16101",
        "8101 9103",
        "de0001a16101",
        "df00000001a16101",
        "d40161",
        "d5016161",
        "d60161616161",
        "d7016161616161616161",
        "d80161616161616161616161616161616161",
        "c7020161 62",
        "c800010161",
        "c9000000010161",
        "9381a16190c0 9191c70001",
    ] {
        assert_eq!(ping(&format!("0083a3466f6f{value}{SEQ}07{NODE}a16e")), plain(7, "n"), "{value}");
    }
    // Case counts.
    assert_eq!(ping("0081a57365716e6f07"), plain(0, ""));
}

#[test]
fn maps_and_keys_of_any_width() {
    for head in ["82", "de0002", "df00000002"] {
        for seq in ["a5", "d905", "da0005", "db00000005", "c405", "c50005", "c600000005"] {
            assert_eq!(ping(&format!("00{head}{seq}5365714e6f07{NODE}a16e")), plain(7, "n"), "{head} {seq}");
        }
    }
}

#[test]
fn strings_and_bytes_of_any_width() {
    for head in ["a2", "d902", "da0002", "db00000002", "c402", "c50002", "c600000002"] {
        assert_eq!(ping(&format!("0082{SEQ}07{NODE}{head}6e31")), plain(7, "n1"), "{head}");
        let ack = decoded(&hex(&format!("0281a75061796c6f6164{head}6869")));
        assert_eq!(ack, [Message::Ack(Ack { seq: 0, payload: "hi".into() })], "{head}");
    }
    // Names need not be UTF-8.
    assert_eq!(ping(&format!("0081{NODE}a2ff00")).node, Bytes::from_static(&[0xff, 0]));
}

#[test]
fn bytes_as_an_array_of_integers() {
    let alive = |addr: &str| hex(&format!("0483a441646472{addr}a44e6f6465a16ea4506f727409"));
    for addr in ["940a000001", "dc00040a000001", "dd000000040acc00d00001", "94cd000ac0c001"] {
        match &decoded(&alive(addr))[..] {
            [Message::Alive(node)] => assert_eq!(node.address, address("10.0.0.1", 9), "{addr}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(malformed("0481a441646472940acd010000 01"), MsgpackError::Range { found: 256, .. }));
    assert!(matches!(malformed("0481a44164647291a161"), MsgpackError::Type { wanted: "an integer", .. }));
    assert!(matches!(malformed(&format!("0081{NODE}9161")), MsgpackError::Type { wanted: "a string", .. }));
}

#[test]
fn nil_for_any_field_and_for_the_whole() {
    assert_eq!(ping(&format!("0082{SEQ}c0{NODE}c0")), plain(0, ""));
    assert_eq!(ping("00c0"), plain(0, ""));
    let target = "a6546172676574a40a000001";
    let nils = "a44e61636bc0a4506f7274c0";
    match &decoded(&hex(&format!("0183{target}{nils}")))[..] {
        [Message::IndirectPing(ping)] => {
            assert_eq!((ping.target, ping.nack), (address("10.0.0.1", 0), false));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn integers_of_any_width() {
    for (value, seq) in [
        ("07", 7),
        ("cc07", 7),
        ("cd0007", 7),
        ("ce00000007", 7),
        ("cf0000000000000007", 7),
        ("d007", 7),
        ("d10007", 7),
        ("d200000007", 7),
        ("d30000000000000007", 7),
        ("cf00000000ffffffff", u32::MAX),
        ("d300000000ffffffff", u32::MAX),
    ] {
        assert_eq!(decoded(&hex(&nack(value))), [Message::Nack(Nack { seq })], "{value}");
    }
}

#[test]
fn bools_as_numbers() {
    for (value, wanted) in [("c2", false), ("c3", true), ("00", false), ("01", true)] {
        match &decoded(&hex(&format!("0182a6546172676574a40a000001a44e61636b{value}")))[..] {
            [Message::IndirectPing(ping)] => assert_eq!(ping.nack, wanted),
            other => panic!("{other:?}"),
        }
    }
    for value in ["02", "ff", "a0", "ca00000000"] {
        let error = malformed(&format!("0182a6546172676574a40a000001a44e61636b{value}"));
        assert!(matches!(error, MsgpackError::Type { field: "Nack", .. }), "{error:?}");
    }
}

#[test]
fn structs_as_arrays() {
    assert_eq!(ping("009207a16e"), plain(7, "n"));
    assert_eq!(ping("009107"), plain(7, ""));
    assert_eq!(ping("0090"), plain(0, ""));
    let full = ping("00dc000707a16ea40a000001cd1f0aa16dc39281a16101c0");
    let source = Some(Source { address: address("10.0.0.1", 7946), node: "m".into() });
    assert_eq!(full, Ping { source: source.clone(), ..plain(7, "n") });

    let all = [
        ("01 98 07 a47f000001 09 a16e c3 a40a000001 cd1f0a a16d", {
            let target = address("127.0.0.1", 9);
            Message::IndirectPing(IndirectPing { seq: 7, target, node: "n".into(), nack: true, source })
        }),
        ("02 92 07 a26869", Message::Ack(Ack { seq: 7, payload: "hi".into() })),
        ("0b 91 07", Message::Nack(Nack { seq: 7 })),
        ("03 93 07 a16e a16d", Message::Suspect(Suspect { incarnation: 7, node: "n".into(), from: "m".into() })),
        ("05 93 07 a16e a16d", Message::Dead(Dead { incarnation: 7, node: "n".into(), from: "m".into() })),
        ("04 96 07 a16e a47f000001 09 a14d a6010502000000", {
            let (node, address, meta) = ("n".into(), address("127.0.0.1", 9), "M".into());
            Message::Alive(Alive { incarnation: 7, node, address, meta, versions: Some([1, 5, 2, 0, 0, 0]) })
        }),
    ];
    for (text, message) in all {
        assert_eq!(decoded(&hex(text)), [message]);
    }
    let state =
        stream::StreamReader::new().push(&hex("06 93 01 02 c3 97 a16e a47f000001 09 a14d 07 03 c0 5354")).unwrap();
    let record = PushPullState {
        name: "n".into(),
        address: address("127.0.0.1", 9),
        meta: "M".into(),
        incarnation: 7,
        state: NodeState::Left,
        versions: None,
    };
    let push_pull = PushPull { join: true, nodes: vec![record], user_state: "ST".into() };
    assert_eq!(state, Some(stream::StreamMessage::PushPull(push_pull)));
}

#[test]
fn trailing_bytes_are_ignored() {
    assert_eq!(ping(&format!("0081{SEQ}07ffff")), plain(7, ""));
}

#[test]
fn numbers_out_of_range_are_refused() {
    for (value, found) in
        [("ff", -1), ("d0ff", -1), ("d1ffff", -1), ("d280000000", -0x8000_0000), ("cf0000000100000000", 1 << 32)]
    {
        let max = u64::from(u32::MAX);
        assert_eq!(malformed(&nack(value)), MsgpackError::Range { field: "SeqNo", found, max });
    }
    let error = malformed("0481a4506f7274ce00010000");
    assert_eq!(error.to_string(), "Port is 65536, not within 0 and 65535");
}

#[test]
fn other_types_are_refused() {
    for value in ["ca3f800000", "cb3ff0000000000000", "a137", "c3", "9107", "80", "d40107"] {
        assert!(matches!(malformed(&nack(value)), MsgpackError::Type { field: "SeqNo", .. }), "{value}");
    }
    for value in ["d40161", "c7010161", "05", "c3", "80", "ca3f800000"] {
        assert!(
            matches!(malformed(&format!("0081{NODE}{value}")), MsgpackError::Type { field: "Node", .. }),
            "{value}"
        );
        assert!(matches!(malformed(&format!("0281a75061796c6f6164{value}")), MsgpackError::Type { .. }), "{value}");
    }
    for whole in ["05", "a0", "c3", "d40161", "ca3f800000"] {
        assert!(matches!(malformed(&format!("0b{whole}")), MsgpackError::Type { wanted: "a struct", .. }), "{whole}");
    }
    assert_eq!(malformed("0b81c1"), MsgpackError::Marker(0xc1));
    for key in ["05", "c0", "c3", "90", "80", "d40161"] {
        assert!(matches!(malformed(&format!("0b81{key}05")), MsgpackError::Type { field: "a key", .. }), "{key}");
    }
}

#[test]
fn truncation_is_refused_wherever_it_falls() {
    let whole = hex(
        "0486a441646472a40a000001ab496e6361726e6174696f6e01a44d657461c0a44e6f6465a26e31a4506f7274cd1f0aa356736ea6010502000000",
    );
    for len in 1..whole.len() {
        let result = packet::decode(&whole.slice(..len), &mut Vec::new());
        let truncated = BodyError::Malformed(MsgpackError::Truncated);
        assert_eq!(result, Err(PacketError::Body { name: "alive", len, source: truncated }));
    }
}

#[test]
fn addresses_have_4_or_16_bytes() {
    for len in [0, 1, 3, 5, 15, 17] {
        let addr = format!("{:02x}{}", 0xa0 + len, "01".repeat(len));
        let address = BodyError::Record(RecordError::Address { name: "n".into(), len });
        assert_eq!(refused(&format!("0482{NODE}a16ea441646472{addr}")), address);
        assert_eq!(refused(&format!("0182{NODE}a16ea6546172676574{addr}")), address);
        // Who asks may stay unknown.
        let port = "aa536f75726365506f727409";
        assert_eq!(ping(&format!("0083{SEQ}07aa536f7572636541646472{addr}{port}")), plain(7, ""));
    }
    assert_eq!(ping(&format!("0082{SEQ}07aa536f7572636541646472a40a000001")), plain(7, ""), "no port, no source");
}

#[test]
fn alive_needs_a_name_and_a_moderate_one() {
    let alive = |name: usize, meta: usize| {
        let mut out = hex("0483a441646472a47f000001").to_vec();
        for (key, len) in [(hex("a44e6f6465"), name), (hex("a44d657461"), meta)] {
            out.extend_from_slice(&key);
            out.push(0xc5);
            out.extend_from_slice(&(len as u16).to_be_bytes());
            out.resize(out.len() + len, b'x');
        }
        let mut messages = Vec::new();
        packet::decode(&out.into(), &mut messages).map(|()| messages.len())
    };
    let record = |result: Result<usize, PacketError>| match result {
        Err(PacketError::Body { source: BodyError::Record(error), .. }) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(alive(limits::NAME, limits::META), Ok(1));
    assert_eq!(record(alive(0, 0)), RecordError::NoName);
    assert_eq!(record(alive(limits::NAME + 1, 0)), RecordError::Name { len: limits::NAME + 1 });
    assert_eq!(record(alive(1, limits::META + 1)), RecordError::Meta { name: "x".into(), len: limits::META + 1 });
}

#[test]
fn versions_are_six_bytes_or_none() {
    let versions = |bytes: &str| match &decoded(&hex(&format!("0483a441646472a47f000001{NODE}a16ea356736e{bytes}")))[..]
    {
        [Message::Alive(alive)] => alive.versions,
        other => panic!("{other:?}"),
    };
    assert_eq!(versions("c0"), None);
    assert_eq!(versions("a0"), None);
    assert_eq!(versions("a50105020000"), None);
    assert_eq!(versions("a6010502020504"), Some([1, 5, 2, 2, 5, 4]));
    assert_eq!(versions("a701050202050409"), Some([1, 5, 2, 2, 5, 4]));
    assert_eq!(versions("96010502020504"), Some([1, 5, 2, 2, 5, 4]));
}

#[test]
fn decoded_bytes_are_slices_of_the_datagram() {
    let datagram = hex("0892 6869");
    let within = datagram.as_ptr_range();
    match &decoded(&datagram)[..] {
        [Message::User(data)] => assert!(within.contains(&data.as_ptr())),
        other => panic!("{other:?}"),
    }
    let datagram = hex(&format!("0081{NODE}a26e31"));
    match &decoded(&datagram)[..] {
        [Message::Ping(ping)] => assert!(datagram.as_ptr_range().contains(&ping.node.as_ptr())),
        other => panic!("{other:?}"),
    }
}
