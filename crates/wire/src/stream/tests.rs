//! Streams that dribble, lie, or never end.

use super::{
    super::{
        Address, MsgpackError, NodeState, RecordError,
        compress::{DecompressError, compress},
        msgpack::HEADS_READ,
        test_bytes::hex,
    },
    *,
};

fn record(index: usize) -> PushPullState {
    PushPullState {
        name: format!("node-{index}").into(),
        address: Address { ip: "10.0.0.1".parse().expect("an address"), port: 7946 },
        meta: Bytes::from_static(&[b'm'; 20]),
        incarnation: index as u32,
        state: NodeState::Alive,
        versions: Some([1, 5, 2, 0, 0, 0]),
    }
}

fn push_pull(nodes: usize) -> StreamMessage {
    let nodes = (0..nodes).map(record).collect();
    StreamMessage::PushPull(PushPull { join: true, nodes, user_state: "state".into() })
}

#[track_caller]
fn error(stream: &[u8]) -> StreamError {
    let mut reader = StreamReader::new();
    let error = reader.push(stream).unwrap_err();
    assert_eq!(reader.push(b"more"), Ok(None), "it is over");
    error
}

fn malformed(name: &'static str, source: MsgpackError) -> StreamError {
    StreamError::Body { name, source: source.into() }
}

/// The message in a stream that comes byte by byte, and how many heads of values were read for it.
fn dribbled(stream: &[u8]) -> (Result<Option<StreamMessage>, StreamError>, usize) {
    let before = HEADS_READ.get();
    let mut reader = StreamReader::new();
    let mut result = Ok(None);
    for byte in stream {
        result = reader.push(&[*byte]);
        if result != Ok(None) {
            break;
        }
    }
    (result, HEADS_READ.get() - before)
}

#[test]
fn dribbling_costs_no_more_than_the_bytes() {
    let message = push_pull(2000);
    let before = HEADS_READ.get();
    let stream = encode(&message, false);
    assert_eq!(StreamReader::new().push(&stream), Ok(Some(message.clone())));
    let at_once = HEADS_READ.get() - before;
    let (result, heads) = dribbled(&stream);
    assert_eq!(result, Ok(Some(message.clone())));
    assert!(heads <= at_once + stream.len(), "{heads} heads for {} bytes, {at_once} at once", stream.len());

    let stream = encode(&message, true);
    let (result, heads) = dribbled(&stream);
    assert_eq!(result, Ok(Some(message)));
    assert!(heads <= at_once + stream.len(), "{heads} heads for {} bytes", stream.len());
}

#[test]
fn one_long_structure_that_dribbles_costs_no_more_either() {
    // A ping whose unknown field is an array of 60,000 nils.
    let mut stream = hex("0081a178dd0000ea60").to_vec();
    stream.resize(stream.len() + 60_000, 0xc0);
    let (result, heads) = dribbled(&stream);
    assert!(matches!(result, Ok(Some(StreamMessage::Ping(_)))));
    assert!(heads <= 3 * stream.len(), "{heads} heads for {} bytes", stream.len());
}

#[test]
fn room_is_made_for_what_is_there_only() {
    for head in [
        "06 83 a44a6f696ec3 a54e6f646573ce00100000 ac5573657253746174654c656ece01400000",
        "08 81 aa557365724d73674c656ece01400000",
        "09 82 a4416c676f00 a3427566db027fff00",
    ] {
        let mut reader = StreamReader::new();
        assert_eq!(reader.push(&hex(head)), Ok(None));
        assert_eq!(reader.push(&[0xc0; 100]), Ok(None));
        assert!(reader.buf.capacity() < 4096, "{head}: {}", reader.buf.capacity());
    }
}

#[test]
fn announced_numbers_have_limits() {
    let announced = |what, found, max| StreamError::LimitExceeded { what, found, max };
    for (stream, wanted) in [
        ("0681a54e6f646573ce00100001", announced("records in a push/pull", 1 << 20 | 1, limits::PUSH_PULL_NODES)),
        (
            "0681ac5573657253746174654c656ece01400001",
            announced("bytes of user state", (20 << 20) + 1, limits::USER_STATE),
        ),
        (
            "0881aa557365724d73674c656ece01400001",
            announced("bytes of user message", (20 << 20) + 1, limits::STREAM_USER_MESSAGE),
        ),
        (
            "0881aa557365724d73674c656ed37fffffffffffffff",
            announced("bytes of user message", i64::MAX as u64, limits::STREAM_USER_MESSAGE),
        ),
    ] {
        assert_eq!(error(&hex(stream)), wanted);
    }
    let range = |field, found| MsgpackError::Range { field, found, max: i64::MAX as u64 };
    assert_eq!(error(&hex("0681a54e6f646573ff")), malformed("push/pull", range("Nodes", -1)));
    assert_eq!(
        error(&hex("0881aa557365724d73674c656ecfffffffffffffffff")),
        malformed("user message", range("UserMsgLen", i128::from(u64::MAX)))
    );
}

#[test]
fn lying_lengths_end_at_once() {
    let too_long = MsgpackError::TooLong { max: limits::STREAM_STRUCT };
    for body in
        ["df7fffffff", "dd7fffffff", "81db7fffffff", "81a178c67fffffff", "81a178dd00010000", "81a178c9ffffffff00"]
    {
        assert_eq!(error(&hex(&format!("00{body}"))), malformed("ping", too_long.clone()), "{body}");
        // So for a record.
        let stream = hex(&format!("0681a54e6f64657301{body}"));
        assert_eq!(error(&stream), malformed("push/pull", too_long.clone()), "{body}");
    }
    let too_long = MsgpackError::TooLong { max: limits::STREAM };
    assert_eq!(error(&hex("0981a3427566db02800000")), malformed("compressed message", too_long));
    assert_eq!(error(&[&[0][..], &[0x91; 100]].concat()), malformed("ping", MsgpackError::TooDeep));
}

#[test]
fn what_is_no_stream() {
    assert_eq!(
        error(b"GET / HTTP/1.1\r\n").to_string(),
        "stream begins with the unknown type 71; is another program connecting to this port?"
    );
    for (kind, name) in
        [(1, "indirect ping"), (3, "suspect"), (4, "alive"), (7, "compound"), (11, "nack"), (12, "checksum")]
    {
        assert_eq!(error(&[kind, 0x80]), StreamError::Misplaced(name));
    }
    let wrong = MsgpackError::Type { field: "the ping", wanted: "a struct", found: "a string" };
    assert_eq!(error(&hex("00a0")), malformed("ping", wrong));
}

#[test]
fn a_stream_without_end_is_given_up() {
    // Records of 60 KiB, of which a push/pull may have a million.
    let mut record = hex("88 a141c5ee00").to_vec();
    record.resize(record.len() + 0xee00, 0);
    record.extend_from_slice(&record_fields());
    let mut reader = StreamReader::new();
    assert_eq!(reader.push(&hex("0681a54e6f646573ce00100000")), Ok(None));
    let mut pushed = 0;
    let result = loop {
        pushed += record.len();
        match reader.push(&record) {
            Ok(None) => assert!(pushed <= limits::STREAM && reader.buf.len() < record.len()),
            other => break other,
        }
    };
    assert_eq!(result, Err(StreamError::TooLong { max: limits::STREAM }));
    assert!(pushed > limits::STREAM - 100);
    assert_eq!(reader.buf.capacity(), 0);
}

/// The seven fields of a record, without the map's head.
fn record_fields() -> Vec<u8> {
    let mut out = Vec::new();
    record(1).encode(&mut out);
    out.split_off(1)
}

#[test]
fn the_end_of_the_limit_is_still_in_it() {
    let data = Bytes::from(vec![1; limits::STREAM_USER_MESSAGE]);
    let stream = encode(&StreamMessage::User(data.clone()), false);
    let read = StreamReader::new().push(&stream);
    assert!(read == Ok(Some(StreamMessage::User(data))));
    // What lies behind the message is ignored, however much.
    let behind = [encode(&push_pull(1), false), vec![0; limits::STREAM]].concat();
    assert_eq!(StreamReader::new().push(&behind), Ok(Some(push_pull(1))));
}

#[test]
fn odd_records_are_left_out() {
    let good = {
        let mut out = Vec::new();
        record(1).encode(&mut out);
        out
    };
    let odd = [
        ("c0", RecordError::NoName),
        ("91 a0", RecordError::NoName),
        ("92 a16e a3010203", RecordError::Address { name: "n".into(), len: 3 }),
        ("96 a16e a47f000001 07 c0 07 04", RecordError::State { name: "n".into(), state: 4 }),
        (&format!("91 c5 0100 {}", "61".repeat(256)), RecordError::Name { len: 256 }),
        (
            &format!("94 a16e a47f000001 07 c5 0201 {}", "61".repeat(513)),
            RecordError::Meta { name: "n".into(), len: 513 },
        ),
    ];
    for (text, first) in odd {
        let stream = [&hex("0682a54e6f64657304a44a6f696ec3")[..], &good, &hex(text), &hex("c0"), &good].concat();
        let mut reader = StreamReader::new();
        let push_pull = PushPull { join: true, nodes: vec![record(1), record(1)], user_state: Bytes::new() };
        assert_eq!(reader.push(&stream), Ok(Some(StreamMessage::PushPull(push_pull))), "{text}");
        assert_eq!(reader.skipped_records(), Some(&SkippedRecords { count: 2, first }));
    }
    // What cannot be read at all is no record.
    let stream = [&hex("0681a54e6f64657302")[..], &good, &hex("9105")].concat();
    let wrong = MsgpackError::Type { field: "Name", wanted: "a string", found: "an integer" };
    assert_eq!(error(&stream), malformed("push/pull", wrong));
}

#[test]
fn compressed_streams() {
    let of = |plain: &[u8]| compressed_message(&compress(plain));
    assert_eq!(error(&of(b"")), StreamError::CutOff(0));
    let plain = encode(&push_pull(3), false);
    for len in [1, 2, plain.len() / 2, plain.len() - 1] {
        assert_eq!(error(&of(&plain[..len])), StreamError::CutOff(len));
    }
    assert_eq!(StreamReader::new().push(&of(&plain)), Ok(Some(push_pull(3))));
    assert_eq!(StreamReader::new().push(&of(&[&plain[..], b"behind"].concat())), Ok(Some(push_pull(3))));
    assert_eq!(error(&of(&of(&plain))), StreamError::Misplaced("compressed message"));
    assert_eq!(error(&of(&hex("f40161"))), StreamError::Misplaced("label"));
    assert_eq!(error(&of(&[200])), StreamError::UnknownType(200));

    let bad = |source: DecompressError| StreamError::Body { name: "compressed message", source: source.into() };
    assert_eq!(error(&compressed_message(&hex("0083"))), bad(DecompressError::Truncated));
    assert_eq!(error(&hex("0982a4416c676f07a3427566a400830404")), bad(DecompressError::Algorithm(7)));
    // Of a view without end, so much and no more.
    let header = hex("0682a54e6f646573ce000f0000ac5573657253746174654c656e00");
    let record = [&hex("88 a141c5 e000")[..], &[0; 0xe000], &record_fields()].concat();
    let bomb = of(&[&header[..], &record.repeat(1000)].concat());
    assert!(bomb.len() < 1 << 20);
    assert_eq!(error(&bomb), bad(DecompressError::TooLong { max: limits::STREAM_DECOMPRESSED }));
    // What lies behind the message is not even looked at.
    let behind = of(&[&plain[..], &vec![0; limits::STREAM_DECOMPRESSED]].concat());
    assert_eq!(StreamReader::new().push(&behind), Ok(Some(push_pull(3))));
}

#[test]
fn odd_records_in_a_compressed_stream_are_told() {
    let stream = compressed_message(&compress(&hex("0681a54e6f64657301c0")));
    let mut reader = StreamReader::new();
    assert_eq!(reader.push(&stream), Ok(Some(StreamMessage::PushPull(PushPull::default()))));
    assert_eq!(reader.skipped_records(), Some(&SkippedRecords { count: 1, first: RecordError::NoName }));
}
