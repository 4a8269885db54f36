//! Packets meant to harm, or harmed on their way.

use broadcast_wire::{
    BodyError, DecompressError, Message, MsgpackError, compress, limits,
    packet::{COMPOUND_PARTS, PacketError, decode, encode, encode_message},
};
use bytes::Bytes;

use super::bytes::hex;

fn user(data: impl Into<Bytes>) -> Bytes {
    encode_message(&Message::User(data.into()))
}

/// The error of a packet that must have one, and the messages that are read all the same.
#[track_caller]
fn broken(datagram: impl Into<Bytes>) -> (PacketError, Vec<Message>) {
    let mut out = Vec::new();
    let error = decode(&datagram.into(), &mut out).unwrap_err();
    (error, out)
}

#[track_caller]
fn error(datagram: impl Into<Bytes>) -> PacketError {
    let (error, out) = broken(datagram);
    assert_eq!(out, [], "{error}");
    error
}

/// A compressed message with `data` as its LZW.
fn compressed(data: &[u8]) -> Bytes {
    let len = match u8::try_from(data.len()) {
        Ok(len) if len < 32 => vec![0xa0 | len],
        _ => [&[0xdb][..], &(data.len() as u32).to_be_bytes()].concat(),
    };
    [&hex("0982a4416c676f00a3427566"), &len[..], data].concat().into()
}

#[test]
fn no_message_or_no_such_message() {
    assert_eq!(error(Bytes::new()), PacketError::Empty);
    assert_eq!(
        error(hex("c80000")).to_string(),
        "message of 3 bytes has the unknown type 200; is another program sending to this port?"
    );
    for (kind, name) in [(6, "push/pull"), (10, "encrypted stream"), (13, "error")] {
        assert_eq!(error(vec![kind, 0x80]), PacketError::Misplaced { name, len: 2 });
    }
}

#[test]
fn checksums() {
    let good = encode(&[user("hello")], false, true);
    for index in 1..good.len() {
        let mut bad = good.to_vec();
        bad[index] ^= 0x10;
        assert!(matches!(error(bad), PacketError::Checksum { len: 11, .. }));
    }
    for len in 1..5 {
        assert_eq!(error(good.slice(..len)), PacketError::Header { name: "checksum", len });
    }
    assert_eq!(error(hex("0c00000000")), PacketError::Empty);
    // Checksums and labels belong on the outside.
    let part = |part: &Bytes| encode(&[user("before"), part.clone(), user("after")], false, false);
    let beside = [Message::User("before".into()), Message::User("after".into())];
    let (misplaced, out) = broken(part(&good));
    assert_eq!((misplaced, &out[..]), (PacketError::Misplaced { name: "checksum", len: 11 }, &beside[..]));
    let (misplaced, out) = broken(part(&hex("f401610800")));
    assert_eq!((misplaced, &out[..]), (PacketError::Misplaced { name: "label", len: 5 }, &beside[..]));
}

#[test]
fn lying_compounds() {
    let good = encode(&[user("one"), user("two"), user("three")], false, false);
    let lengths_end = 2 + 2 * 3;
    assert_eq!(error(good.slice(..1)), PacketError::Header { name: "compound", len: 1 });
    for len in 2..lengths_end {
        assert_eq!(error(good.slice(..len)), PacketError::Header { name: "compound", len });
    }
    let (cut, out) = broken(good.slice(..good.len() - 1));
    assert_eq!(cut, PacketError::Parts { parts: 3, missing: 1 });
    assert_eq!(out, [Message::User("one".into()), Message::User("two".into())]);

    let mut long = good.to_vec();
    long[4..6].copy_from_slice(&[0xff, 0xff]);
    let (lie, out) = broken(long);
    assert_eq!(lie, PacketError::Parts { parts: 3, missing: 2 });
    assert_eq!(out, [Message::User("one".into())]);

    // Bytes behind the last part are nobody's.
    let mut out = Vec::new();
    decode(&[&good[..], b"xyz"].concat().into(), &mut out).unwrap();
    assert_eq!(out.len(), 3);

    // An empty part, and the first of two errors.
    let (empty, out) = broken(encode(&[Bytes::new(), hex("c8"), user("good")], false, false));
    assert_eq!((empty, out), (PacketError::Empty, vec![Message::User("good".into())]));
}

#[test]
fn nesting_ends() {
    let mut compound = user("in the middle");
    let mut squeezed = compound.clone();
    for _ in 0..limits::PACKET_DEPTH {
        compound = encode(&[compound, user("beside")], false, false);
        squeezed = compressed(&compress::compress(&squeezed));
    }
    let mut out = Vec::new();
    decode(&compound, &mut out).unwrap();
    assert_eq!(out.len(), 1 + limits::PACKET_DEPTH);
    decode(&squeezed, &mut out).unwrap();

    let (deep, out) = broken(encode(&[compound, user("beside")], false, false));
    assert_eq!((deep, out.len()), (PacketError::TooDeep, limits::PACKET_DEPTH));
    assert_eq!(error(compressed(&compress::compress(&squeezed))), PacketError::TooDeep);
}

#[test]
fn a_packet_has_so_many_messages() {
    let inner = encode(&vec![user(""); COMPOUND_PARTS], false, false);
    let four = encode(&vec![inner.clone(); 4], false, false);
    let mut out = Vec::new();
    // With their containers, 1 + 4 + 4 * 255 = 1025.
    assert_eq!(decode(&four, &mut out), Err(PacketError::TooMany));
    assert_eq!(out.len(), limits::PACKET_MESSAGES - 5);
    out.clear();
    decode(&encode(&vec![inner.clone(); 3], false, false), &mut out).unwrap();
    assert_eq!(out.len(), 3 * COMPOUND_PARTS);
    // Empty parts cost two bytes, and work.
    let (first, out) = broken(encode(&vec![Bytes::new(); COMPOUND_PARTS], false, false));
    assert_eq!((first, out), (PacketError::Empty, vec![]));
}

#[test]
fn bombs() {
    let too_long = |error| match error {
        PacketError::Body { source: BodyError::Decompress(DecompressError::TooLong { max }), .. } => max,
        other => panic!("{other:?}"),
    };
    let of_zeros = |len| compressed(&compress::compress(&[&[8][..], &vec![0; len - 1]].concat()));
    let mut out = Vec::new();
    decode(&of_zeros(limits::PACKET_DECOMPRESSED), &mut out).unwrap();
    assert_eq!(too_long(error(of_zeros(limits::PACKET_DECOMPRESSED + 1))), limits::PACKET_DECOMPRESSED);
    assert_eq!(too_long(error(of_zeros(1 << 22))), limits::PACKET_DECOMPRESSED);
    // The limit is for the whole of the packet.
    let (several, out) = broken(encode(&vec![of_zeros(100_000); 4], false, false));
    assert_eq!(too_long(several), limits::PACKET_DECOMPRESSED - 200_000);
    assert_eq!(out.len(), 2);
    // A failure uses it up.
    let damaged = compressed(&compress::compress(&[0; 1000])[..10]);
    let (_, out) = broken(encode(&[damaged, of_zeros(10), user("plain")], false, false));
    assert_eq!(out, [Message::User("plain".into())]);
}

#[test]
fn bad_compression() {
    let of = |data: &[u8]| error(compressed(data)).to_string();
    assert_eq!(
        of(&hex("0083")),
        "compressed message of 15 bytes cannot be used: its LZW data has no end: it was cut off"
    );
    assert!(of(&[0xff; 8]).contains("it has an undefined code"));
    let other = error(hex("0982a4416c676f01a3427566a400830404")).to_string();
    assert!(other.ends_with("its compression algorithm is 1, and only 0 (LZW) is known"), "{other}");
    assert_eq!(error(compressed(&compress::compress(b""))), PacketError::Empty);
}

#[test]
fn deep_values_are_not_followed() {
    let too_deep = |head: u8| {
        let mut packet = hex("0b81a178").to_vec();
        packet.resize(60_000, head);
        match error(packet) {
            PacketError::Body { source, .. } => assert_eq!(source, MsgpackError::TooDeep.into()),
            other => panic!("{other:?}"),
        }
    };
    too_deep(0x91);
    too_deep(0x81);
    too_deep(0x9f);
}
