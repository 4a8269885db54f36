//! Encodings compared with bytes that the Go library emitted (memberlist v0.6.0, go-msgpack v2.1.5).

use broadcast_wire::{
    Ack, Alive, Dead, IndirectPing, Message, Nack, NodeState, Ping, PushPull, PushPullState, Source, Suspect, compress,
    limits, packet,
    stream::{self, StreamMessage, StreamReader},
};
use bytes::Bytes;

use super::{address, bytes::hex, decoded};

fn source(ip: &str, port: u16, node: &'static str) -> Option<Source> {
    Some(Source { address: address(ip, port), node: node.into() })
}

/// A packet that Go reads and sends the same.
#[track_caller]
fn same(message: Message, text: &str) {
    assert_eq!(packet::encode_message(&message), hex(text), "{message:?}");
    let mut appended = vec![0xaa];
    packet::encode_message_into(&message, &mut appended);
    assert_eq!(appended[1..], hex(text));
    assert_eq!(decoded(&hex(text)), [message], "{text}");
}

#[test]
fn pings() {
    let plain = |seq, node: &'static str| Ping { seq, node: node.into(), source: None };
    same(Message::Ping(plain(1, "n1")), "0082a44e6f6465a26e31a55365714e6f01");
    same(
        Message::Ping(Ping { source: source("10.0.0.1", 7946, "node2"), ..plain(42, "node1") }),
        "0085a44e6f6465a56e6f646531a55365714e6f2aaa536f7572636541646472a40a000001aa536f757263654e6f6465a56e6f646532aa536f75726365506f7274cd1f0a",
    );
    same(
        Message::Ping(Ping { source: source("::ffff:10.0.0.1", 7946, "node2"), ..plain(42, "node1") }),
        "0085a44e6f6465a56e6f646531a55365714e6f2aaa536f7572636541646472b000000000000000000000ffff0a000001aa536f757263654e6f6465a56e6f646532aa536f75726365506f7274cd1f0a",
    );
    same(Message::Ping(plain(300, "")), "0082a44e6f6465a0a55365714e6fcd012c");
}

#[test]
fn indirect_pings() {
    same(
        Message::IndirectPing(IndirectPing {
            seq: 1,
            target: address("10.0.0.1", 7946),
            node: "n1".into(),
            nack: false,
            source: None,
        }),
        "0185a44e61636bc2a44e6f6465a26e31a4506f7274cd1f0aa55365714e6f01a6546172676574a40a000001",
    );
    same(
        Message::IndirectPing(IndirectPing {
            seq: 100_000,
            target: address("2001:db8::1", 80),
            node: "n1".into(),
            nack: true,
            source: source("10.0.0.1", 7946, "n2"),
        }),
        "0188a44e61636bc3a44e6f6465a26e31a4506f727450a55365714e6fce000186a0aa536f7572636541646472a40a000001aa536f757263654e6f6465a26e32aa536f75726365506f7274cd1f0aa6546172676574b020010db8000000000000000000000001",
    );
}

#[test]
fn acks_and_nacks() {
    let ack = |seq, payload: &'static str| Message::Ack(Ack { seq, payload: payload.into() });
    same(ack(1, ""), "0282a75061796c6f6164c0a55365714e6f01");
    same(ack(300, ""), "0282a75061796c6f6164c0a55365714e6fcd012c");
    same(ack(255, "hi"), "0282a75061796c6f6164a26869a55365714e6fccff");
    // Empty where we and most of Go send nil.
    assert_eq!(decoded(&hex("0282a75061796c6f6164a0a55365714e6f01")), [ack(1, "")]);

    for (seq, value) in [
        (0, "00"),
        (127, "7f"),
        (128, "cc80"),
        (255, "ccff"),
        (256, "cd0100"),
        (65535, "cdffff"),
        (65536, "ce00010000"),
        (u32::MAX, "ceffffffff"),
    ] {
        same(Message::Nack(Nack { seq }), &format!("0b81a55365714e6f{value}"));
    }
}

#[test]
fn suspect_and_dead() {
    same(
        Message::Suspect(Suspect { incarnation: 5, node: "a".into(), from: "b".into() }),
        "0383a446726f6da162ab496e6361726e6174696f6e05a44e6f6465a161",
    );
    same(
        Message::Dead(Dead { incarnation: 70_000, node: "a".into(), from: "a".into() }),
        "0583a446726f6da161ab496e6361726e6174696f6ece00011170a44e6f6465a161",
    );
}

#[test]
fn alive() {
    let alive = |ip, versions| Alive {
        incarnation: 1,
        node: "n1".into(),
        address: address(ip, 7946),
        meta: Bytes::new(),
        versions,
    };
    same(
        Message::Alive(alive("10.0.0.1", Some([1, 5, 2, 0, 0, 0]))),
        "0486a441646472a40a000001ab496e6361726e6174696f6e01a44d657461c0a44e6f6465a26e31a4506f7274cd1f0aa356736ea6010502000000",
    );
    // Meta is empty here, not nil.
    assert_eq!(
        decoded(&hex(
            "0486a441646472b000000000000000000000ffff0a000001ab496e6361726e6174696f6e01a44d657461a0a44e6f6465a26e31a4506f7274cd1f0aa356736ea6010502020504"
        )),
        [Message::Alive(alive("::ffff:10.0.0.1", Some([1, 5, 2, 2, 5, 4])))]
    );
    let meta = "6d".repeat(40);
    same(
        Message::Alive(Alive {
            incarnation: u32::MAX,
            address: address("10.0.0.1", 1),
            meta: hex(&meta),
            ..alive("10.0.0.1", None)
        }),
        &format!(
            "0486a441646472a40a000001ab496e6361726e6174696f6eceffffffffa44d657461da0028{meta}a44e6f6465a26e31a4506f727401a356736ec0"
        ),
    );
}

#[test]
fn the_length_of_a_string() {
    for (len, head) in
        [(31, "bf"), (32, "da0020"), (255, "da00ff"), (256, "da0100"), (65535, "daffff"), (65536, "db00010000")]
    {
        let data = Bytes::from(vec![b'x'; len]);
        let text = format!("0282a75061796c6f6164{head}{}a55365714e6f01", "78".repeat(len));
        same(Message::Ack(Ack { seq: 1, payload: data }), &text);
    }
}

#[test]
fn packets() {
    let hello = packet::encode_message(&Message::User("hello".into()));
    let hi = packet::encode_message(&Message::User("hi".into()));
    let compound = hex("0702000600030868656c6c6f086869");
    assert_eq!(packet::encode(&[hello.clone(), hi], false, false), compound);
    assert_eq!(decoded(&compound), [Message::User("hello".into()), Message::User("hi".into())]);

    assert_eq!(packet::encode(&[], false, false), hex("0700"));
    assert_eq!(decoded(&hex("0700")), []);

    assert_eq!(packet::encode(std::slice::from_ref(&hello), false, false), hello);
    let summed = hex("0cada372550868656c6c6f");
    assert_eq!(packet::encode(&[hello], false, true), summed);
    assert_eq!(decoded(&summed), [Message::User("hello".into())]);

    let ping = Message::Ping(Ping { seq: 1, node: "n1".into(), source: None });
    let summed = hex("0c752fdf220082a44e6f6465a26e31a55365714e6f01");
    assert_eq!(packet::encode(&[packet::encode_message(&ping)], false, true), summed);
    assert_eq!(decoded(&summed), [ping]);
}

#[test]
fn compressed_packets() {
    let message = Message::User(vec![b'a'; 200].into());
    let packed = hex("0982a4416c676f00a3427566ba0011841948b0a0c18308132a5cc8b0a1c38710234a9c48716140");
    assert_eq!(packet::encode(&[packet::encode_message(&message)], true, false), packed);
    assert_eq!(decoded(&packed), [message]);
    // What does not shrink is sent as it is.
    let short = packet::encode_message(&Message::User("A".into()));
    assert_eq!(packet::encode(std::slice::from_ref(&short), true, false), short);
}

#[test]
fn lzw() {
    for (plain, packed) in [
        ("", "000302"),
        ("A", "00830404"),
        ("AB", "0083080908"),
        ("AAAAAAAAAA", "0083081c483020"),
        ("TOBEORNOTTOBEORTOBEORNOT", "00a93c1152e48914274fa80824687061c183090302"),
    ] {
        assert_eq!(compress::compress(plain.as_bytes()), hex(packed));
        assert_eq!(compress::decompress(&hex(packed), 100).unwrap(), plain.as_bytes());
    }
}

/// A stream that Go reads and sends the same.
#[track_caller]
fn same_stream(message: StreamMessage, compress: bool, text: &str) {
    assert_eq!(stream::encode(&message, compress), hex(text), "{message:?}");
    assert_eq!(StreamReader::new().push(&hex(text)), Ok(Some(message)));
}

#[test]
fn streams() {
    same_stream(StreamMessage::Error("EOF".into()), false, "0d81a54572726f72a3454f46");
    same_stream(
        StreamMessage::Ack(Ack { seq: 300, payload: Bytes::new() }),
        false,
        "0282a75061796c6f6164c0a55365714e6fcd012c",
    );
    same_stream(StreamMessage::User("hello".into()), false, "0881aa557365724d73674c656e0568656c6c6f");
    same_stream(
        StreamMessage::User("hello".into()),
        true,
        "0982a4416c676f00a3427566b80011045255654e19394de69c6152c64d013465d8b0791310",
    );
    same_stream(
        StreamMessage::PushPull(PushPull {
            join: true,
            nodes: vec![PushPullState {
                name: "go1".into(),
                address: address("127.0.0.1", 43045),
                meta: "M".into(),
                incarnation: 1,
                state: NodeState::Alive,
                versions: Some([1, 5, 2, 0, 0, 0]),
            }],
            user_state: "ST".into(),
        }),
        false,
        "0683a44a6f696ec3a54e6f64657301ac5573657253746174654c656e0287a441646472a47f000001ab496e6361726e6174696f6e01a44d657461a14da44e616d65a3676f31a4506f7274cda825a5537461746500a356736ea60105020000005354",
    );
}

#[test]
fn push_pull_records() {
    for (state, byte) in
        [(NodeState::Alive, "00"), (NodeState::Suspect, "01"), (NodeState::Dead, "02"), (NodeState::Left, "03")]
    {
        let record = PushPullState {
            name: "n1".into(),
            address: address("10.0.0.1", 7946),
            meta: Bytes::new(),
            incarnation: 1,
            state,
            versions: Some([1, 5, 2, 0, 0, 0]),
        };
        same_stream(
            StreamMessage::PushPull(PushPull { join: true, nodes: vec![record], user_state: Bytes::new() }),
            false,
            &format!(
                "06 83a44a6f696ec3a54e6f64657301ac5573657253746174654c656e00 \
                 87a441646472a40a000001ab496e6361726e6174696f6e01a44d657461c0a44e616d65a26e31a4506f7274cd1f0aa55374617465{byte}a356736ea6010502000000"
            ),
        );
    }
}

#[test]
fn lengths_in_streams() {
    // The numbers as go-msgpack 2 sends them, signed, and as 0.5 does, unsigned.
    for (len, new, old) in [
        (0, "00", "00"),
        (127, "7f", "7f"),
        (128, "d10080", "cc80"),
        (32767, "d17fff", "cd7fff"),
        (32768, "d200008000", "cd8000"),
        (limits::STREAM_USER_MESSAGE, "d201400000", "ce01400000"),
    ] {
        let data = Bytes::from(vec![7; len]);
        let head = |value: &str| hex(&format!("0881aa557365724d73674c656e{value}"));
        assert_eq!(stream::encode(&StreamMessage::User(data.clone()), false), [head(new), data.clone()].concat());
        for value in [new, old] {
            let mut reader = StreamReader::new();
            let early = reader.push(&head(value)).unwrap();
            let message = early.or_else(|| reader.push(&data).unwrap());
            assert!(message == Some(StreamMessage::User(data.clone())), "{len}");
        }
    }
    let push_pull = PushPull {
        join: false,
        nodes: vec![
            PushPullState {
                name: "n".into(),
                address: address("::1", 1),
                meta: Bytes::new(),
                incarnation: 0,
                state: NodeState::Left,
                versions: None,
            };
            200
        ],
        user_state: vec![0; 1000].into(),
    };
    let bytes = stream::encode(&StreamMessage::PushPull(push_pull.clone()), false);
    let new = hex("0683a44a6f696ec2a54e6f646573d100c8ac5573657253746174654c656ed103e8");
    let old = hex("0683a44a6f696ec2a54e6f646573ccc8ac5573657253746174654c656ecd03e8");
    assert_eq!(bytes[..new.len()], new);
    let old = [&old, &bytes[new.len()..]].concat();
    assert_eq!(StreamReader::new().push(&old), Ok(Some(StreamMessage::PushPull(push_pull))));
}

#[test]
fn a_captured_ack_with_piggyback() {
    let ack = hex("0282a75061796c6f6164c0a55365714e6f07");
    let alive = hex(
        "0486a441646472a40a000001ab496e6361726e6174696f6e01a44d657461a14da44e6f6465a26e31a4506f7274cd1f0aa356736ea6010502000000",
    );
    assert_eq!(alive.len(), 0x3b);
    let packet = [&hex("07020012003b")[..], &ack, &alive].concat();
    assert_eq!(packet::encode(&[ack, alive], false, false), packet);
    let messages = decoded(&packet.into());
    assert!(matches!(&messages[..], [Message::Ack(Ack { seq: 7, .. }), Message::Alive(_)]), "{messages:?}");
}
