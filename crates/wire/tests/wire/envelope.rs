//! Labels and encryption: as Go has them, and against those who have no key.

use broadcast_wire::{
    KeyError, Keyring, Message, Nonce, Ping, SecretKey,
    envelope::{Direction, Envelope, EnvelopeError},
    envelope_reader::EnvelopeReader,
    limits, packet,
    stream::{self, StreamError, StreamMessage},
};
use bytes::Bytes;

use super::bytes::hex;

const GOLDEN: Nonce = *b"abcdefghijkl";

fn key(bytes: &[u8]) -> SecretKey {
    SecretKey::new(bytes).expect("a key's length")
}

fn golden_key() -> SecretKey {
    key(b"0123456789abcdef")
}

fn envelope(label: &str, keys: &[SecretKey]) -> Envelope {
    Envelope {
        label: label.into(),
        keyring: Keyring::new(keys.iter().cloned()).expect("few keys"),
        ..Envelope::default()
    }
}

fn ping() -> Bytes {
    hex("0082a44e6f6465a26e31a55365714e6f01")
}

fn ping_message() -> StreamMessage {
    StreamMessage::Ping(Ping { seq: 1, node: "n1".into(), source: None })
}

/// Packets of the Go library, with the key, nonce and ping above.
const PLAIN_LABEL: &str =
    "016162636465666768696a6b6ce550d8fb3cc13c0737011169934f91660b8ea6d302edc86b3271a71604bcc8d5bb";
const PLAIN_BARE: &str = "016162636465666768696a6b6ce550d8fb3cc13c0737011169934f91660b2716e1bec7ccd4f15e71a131cb8d4b8c";
const PADDED_BARE: &str = "006162636465666768696a6b6ce550d8fb3cc13c0737011169934f91660b1ae3e837f43c5d8bf3c2775d5847be710664638847a5726eb78552019fe260";
const PADDED_LABEL: &str = "006162636465666768696a6b6ce550d8fb3cc13c0737011169934f91660b1ae3e837f43c5d8bf3c2775d5847bed8b656dfa2431ab14161326776da7c57";

#[test]
fn packets_are_sealed_as_go_seals_them() {
    for (envelope, sealed) in [
        (envelope("", &[golden_key()]), PLAIN_BARE.into()),
        (envelope("prod", &[golden_key()]), format!("f40470726f64{PLAIN_LABEL}")),
        (
            envelope("", &[key(&[7; 32])]),
            "016162636465666768696a6b6c40d17075f52a23268af1dee6c61a94b045064eeb1f1058b2b2a238d98fc3e31ab2".into(),
        ),
        (envelope("prod", &[]), "f40470726f640082a44e6f6465a26e31a55365714e6f01".into()),
        (envelope("", &[]), "0082a44e6f6465a26e31a55365714e6f01".into()),
    ] {
        let sealed = hex(&sealed);
        assert_eq!(envelope.seal_packet(GOLDEN, ping()), sealed);
        assert_eq!(envelope.packet_overhead(), sealed.len() - ping().len());
        assert_eq!(envelope.open_packet(&sealed), Ok(ping()));
    }
}

#[test]
fn both_versions_are_read() {
    for (label, sealed) in [("", PADDED_BARE.into()), ("prod", format!("f40470726f64{PADDED_LABEL}"))] {
        assert_eq!(envelope(label, &[golden_key()]).open_packet(&hex(&sealed)), Ok(ping()));
    }
}

/// AES-GCM with 192 bits, from the vectors of the GCM specification (McGrew and Viega), test case 8.
#[test]
fn keys_of_192_bits_are_used_as_specified() {
    let sealed = hex("0100000000000000000000000098e7247c07f0fe411c267e4384b0f6002ff58d80033927ab8ef4d4587514f0fb");
    let envelope = envelope("", &[key(&[0; 24])]);
    assert_eq!(envelope.open_packet(&sealed), Ok(Bytes::from_static(&[0; 16])));
    assert_eq!(envelope.seal_packet([0; 12], Bytes::from_static(&[0; 16])), sealed);
}

#[test]
fn what_was_sealed_with_any_key_of_the_ring_is_read() {
    let keys = [key(&[1; 16]), key(&[2; 24]), key(&[3; 32])];
    let all = envelope("a", &keys);
    for one in &keys {
        let sealed = envelope("a", std::slice::from_ref(one)).seal_packet([9; 12], ping());
        assert_eq!(all.open_packet(&sealed), Ok(ping()));
    }
    let stranger = envelope("a", &[key(&[4; 32])]).seal_packet([9; 12], ping());
    assert_eq!(all.open_packet(&stranger), Err(EnvelopeError::Undecryptable { keys: 3 }));
}

#[test]
fn nothing_that_was_altered_is_read() {
    let envelope = envelope("prod", &[golden_key()]);
    for text in [format!("f40470726f64{PLAIN_LABEL}"), format!("f40470726f64{PADDED_LABEL}")] {
        let sealed = hex(&text);
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            let opened = envelope.open_packet(&altered.into());
            // The version is not authenticated, in memberlist neither: padding can pass for content.
            if bit == 48 && sealed[6] == 0 {
                assert_eq!(opened.expect("the text is as it was")[..ping().len()], ping());
            } else {
                assert!(opened.is_err(), "bit {bit}");
            }
        }
        for len in 0..sealed.len() {
            assert!(envelope.open_packet(&sealed.slice(..len)).is_err(), "{len} bytes");
        }
    }
}

#[test]
fn only_nodes_of_one_label_hear_each_other() {
    let labels = ["", "a", "prod", &"x".repeat(255)];
    for ours in labels {
        for theirs in labels {
            let sealed = envelope(theirs, &[]).seal_packet([0; 12], ping());
            let opened = envelope(ours, &[]).open_packet(&sealed);
            let refused = EnvelopeError::WrongLabel { theirs: theirs.into(), ours: ours.into() };
            assert_eq!(opened, if ours == theirs { Ok(ping()) } else { Err(refused) });
            let request = envelope(theirs, &[]).seal_stream([0; 12], ping().to_vec(), Direction::Request);
            let read = EnvelopeReader::new(Direction::Request).push(&envelope(ours, &[]), &request);
            assert_eq!(read == Ok(Some(ping_message())), ours == theirs, "{ours:?} reads {theirs:?}: {read:?}");
        }
    }
    for cut in ["f4", "f400", "f40082", "f40561626364"] {
        let cut = hex(cut);
        assert_eq!(envelope("", &[]).open_packet(&cut), Err(EnvelopeError::LabelHeader { len: cut.len() }));
    }
    let behind_a_proxy = Envelope { skip_inbound_label_check: true, ..envelope("prod", &[golden_key()]) };
    assert_eq!(behind_a_proxy.open_packet(&hex(PLAIN_LABEL)), Ok(ping()));
    assert_eq!(
        behind_a_proxy.open_packet(&hex(&format!("f40470726f64{PLAIN_LABEL}"))),
        Err(EnvelopeError::DoubleLabel)
    );
}

#[test]
fn a_label_is_bound_to_what_it_seals() {
    let a = envelope("a", &[golden_key()]);
    let mut sealed = a.seal_packet([1; 12], ping()).to_vec();
    sealed[2] = b'b';
    let b = envelope("b", &[golden_key()]);
    assert_eq!(b.open_packet(&sealed.into()), Err(EnvelopeError::Undecryptable { keys: 1 }));
}

/// The four steps in which a cluster begins to encrypt, and nodes of each beside nodes of the next.
#[test]
fn a_cluster_goes_over_to_encryption_without_losing_anything() {
    let step = |keys: &[SecretKey], verify_incoming, verify_outgoing| Envelope {
        verify_incoming,
        verify_outgoing,
        ..envelope("", keys)
    };
    let keys = [golden_key()];
    let steps = [step(&[], true, true), step(&keys, false, false), step(&keys, false, true), step(&keys, true, true)];
    for pair in steps.windows(2) {
        for (from, to) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            assert_eq!(to.open_packet(&from.seal_packet([1; 12], ping())), Ok(ping()));
            for direction in [Direction::Request, Direction::Answer] {
                let data = from.seal_stream([2; 12], ping().to_vec(), direction);
                assert_eq!(EnvelopeReader::new(direction).push(to, &data), Ok(Some(ping_message())));
            }
        }
    }
    let [plain, .., strict] = &steps;
    assert_eq!(strict.open_packet(&plain.seal_packet([1; 12], ping())), Err(EnvelopeError::Undecryptable { keys: 1 }));
    let data = plain.seal_stream([2; 12], ping().to_vec(), Direction::Request);
    assert_eq!(EnvelopeReader::new(Direction::Request).push(strict, &data), Err(EnvelopeError::NotEncrypted.into()));
    let data = strict.seal_stream([2; 12], ping().to_vec(), Direction::Request);
    assert_eq!(EnvelopeReader::new(Direction::Request).push(plain, &data), Err(StreamError::Encrypted));
    let packet = strict.seal_packet([2; 12], ping());
    let opened = plain.open_packet(&packet).expect("a node without keys takes it for a packet");
    let mut messages: Vec<Message> = Vec::new();
    assert_eq!(packet::decode(&opened, &mut messages), Err(packet::PacketError::Encrypted { len: packet.len() }));
}

#[test]
fn streams_are_sealed_as_go_seals_them() {
    let envelope = envelope("prod", &[golden_key()]);
    let frame =
        "0a0000002e016162636465666768696a6b6ce550d8fb3cc13c0737011169934f91660ba65c24a6bdfb4f1062139f4c03fd28ba";
    let answer = hex(frame);
    let request = hex(&format!("f40470726f64{frame}"));
    assert_eq!(envelope.seal_stream(GOLDEN, ping().to_vec(), Direction::Answer), answer);
    assert_eq!(envelope.seal_stream(GOLDEN, ping().to_vec(), Direction::Request), request);
    for (direction, data) in [(Direction::Answer, answer), (Direction::Request, request)] {
        for size in 1..=data.len() {
            let mut reader = EnvelopeReader::new(direction);
            let mut read = Vec::new();
            for piece in data.chunks(size) {
                read.extend(reader.push(&envelope, piece).expect("it is sound"));
            }
            assert_eq!(read, [ping_message()], "in pieces of {size}");
        }
        for bit in 0..data.len() * 8 {
            let mut altered = data.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            let read = EnvelopeReader::new(direction).push(&envelope, &altered);
            assert!(!matches!(read, Ok(Some(_))), "bit {bit}: {read:?}");
        }
    }
}

#[test]
fn a_stream_that_announces_too_much_is_not_waited_for() {
    let envelope = envelope("", &[golden_key()]);
    let announced =
        |len: u32| EnvelopeReader::new(Direction::Request).push(&envelope, &[&[10][..], &len.to_be_bytes()].concat());
    assert_eq!(announced(limits::ENCRYPTED_STREAM as u32), Ok(None));
    let (what, max) = ("bytes of encrypted message", limits::ENCRYPTED_STREAM);
    for len in [limits::ENCRYPTED_STREAM as u32 + 1, u32::MAX] {
        assert_eq!(announced(len), Err(StreamError::LimitExceeded { what, found: len.into(), max }));
    }
    assert_eq!(announced(0), Err(EnvelopeError::Undecryptable { keys: 1 }.into()));
    // What is sealed well is all of a message, or none.
    let cut = envelope.seal_stream([0; 12], ping()[..5].to_vec(), Direction::Request);
    assert_eq!(EnvelopeReader::new(Direction::Request).push(&envelope, &cut), Err(StreamError::CutOff(5)));
}

#[test]
fn large_streams_go_through() {
    let envelope = envelope("prod", &[golden_key()]);
    let message = StreamMessage::User(vec![b'x'; 1 << 20].into());
    for compress in [false, true] {
        let data = envelope.seal_stream([0; 12], stream::encode(&message, compress), Direction::Request);
        let mut reader = EnvelopeReader::new(Direction::Request);
        let read: Vec<_> =
            data.chunks(16 << 10).filter_map(|piece| reader.push(&envelope, piece).expect("sound")).collect();
        assert_eq!(read, std::slice::from_ref(&message));
    }
}

#[test]
fn a_keyring_has_one_key_in_use() {
    let [a, b, c] = [key(&[1; 16]), key(&[2; 24]), key(&[3; 32])];
    let mut ring = Keyring::new([a.clone(), b.clone(), a.clone()]).expect("two keys");
    let keys = |ring: &Keyring| ring.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&ring), [a.clone(), b.clone()]);
    assert_eq!(ring.install(b.clone()), Ok(()));
    assert_eq!(ring.install(c.clone()), Ok(()));
    assert_eq!(ring.use_key(&c), Ok(()));
    assert_eq!(keys(&ring), [c.clone(), a.clone(), b.clone()]);
    assert_eq!(ring.remove(&c), Err(KeyError::InUse));
    assert_eq!(ring.remove(&a), Ok(()));
    assert_eq!(ring.remove(&a), Ok(()));
    assert_eq!(ring.use_key(&a), Err(KeyError::Unknown));
    assert_eq!(keys(&ring), [c, b]);
    for n in 0..14 {
        assert_eq!(ring.install(key(&[100 + n; 16])), Ok(()));
    }
    assert_eq!(ring.install(a.clone()), Err(KeyError::Full));
    let mut none = Keyring::default();
    assert_eq!(none.install(a.clone()), Err(KeyError::Off));
    assert_eq!(none.use_key(&a), Err(KeyError::Off));
    assert_eq!(none.remove(&a), Err(KeyError::Off));
}

#[test]
fn a_key_is_written_in_base64_and_never_shown() {
    for len in [16, 24, 32] {
        let made = key(&vec![0xA5; len]);
        assert_eq!(made.reveal().parse(), Ok(made.clone()));
        let shown = format!("{made:?} {:?}", Keyring::new([made.clone()]));
        assert!(!shown.contains("165") && !shown.contains("a5") && !shown.contains(made.reveal().as_str()), "{shown}");
    }
    assert_eq!("".parse::<SecretKey>(), Err(KeyError::Length { len: 0 }));
    assert_eq!("AAAA".parse::<SecretKey>(), Err(KeyError::Length { len: 3 }));
    assert_eq!("not base64!".parse::<SecretKey>(), Err(KeyError::Base64));
    assert_eq!("MDEyMzQ1Njc4OWFiY2RlZg".parse::<SecretKey>(), Err(KeyError::Base64), "the padding lacks");
}
