//! The decoders of packets and streams.

use bytes::Bytes;

use crate::wire::{
    Keyring, Message, SecretKey, compress,
    envelope::{Direction, Envelope},
    envelope_reader::EnvelopeReader,
    limits, packet,
    stream::{self, StreamError, StreamMessage, StreamReader},
};

/// Decodes a datagram. The messages must keep to the limits, and encode to what decodes to the same.
pub fn packet(data: &[u8]) {
    let mut messages = Vec::new();
    // The messages before an error count.
    let _ = packet::decode(&Bytes::copy_from_slice(data), &mut messages);
    assert!(messages.len() <= limits::PACKET_MESSAGES);
    for message in &messages {
        assert_eq!(read(&packet::encode_message(message)), std::slice::from_ref(message));
    }
    let parts: Vec<_> = messages.iter().take(packet::COMPOUND_PARTS).map(packet::encode_message).collect();
    if !parts.is_empty() && parts.iter().all(|part| part.len() <= usize::from(u16::MAX)) {
        // Beyond a datagram's size, a compressed packet may exceed what is decompressed of one.
        let compress = parts.iter().map(Bytes::len).sum::<usize>() < limits::PACKET_DECOMPRESSED / 2;
        assert_eq!(read(&packet::encode(&parts, compress, true)), messages[..parts.len()]);
    }
}

fn read(datagram: &Bytes) -> Vec<Message> {
    let mut messages = Vec::new();
    packet::decode(datagram, &mut messages).expect("what this crate writes can be read");
    messages
}

/// Decodes a stream in pieces, whose length is the first byte. The pieces must make no difference, and the message must encode to
/// what decodes to the same.
pub fn stream(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let whole = read_stream(data, data.len().max(1));
    let pieces = read_stream(data, usize::from(cut).max(1));
    assert_eq!(whole, pieces);
    if let Ok(Some(message)) = &whole {
        for compress in [false, true] {
            let encoded = stream::encode(message, compress);
            assert_eq!(read_stream(&encoded, encoded.len()), whole);
        }
    }
}

fn read_stream(data: &[u8], piece_len: usize) -> Result<Option<StreamMessage>, StreamError> {
    let mut reader = StreamReader::new();
    for piece in data.chunks(piece_len) {
        match reader.push(piece) {
            Ok(None) => {}
            result => return result,
        }
    }
    Ok(None)
}

/// Decompresses LZW. The output must keep to its limit, and compressed input must decompress to the same.
pub fn lzw(data: &[u8]) {
    const MAX: usize = 64 << 10;
    if let Ok(plain) = compress::decompress(data, MAX) {
        assert!(plain.len() <= MAX);
    }
    assert_eq!(compress::decompress(&compress::compress(data), data.len()).as_deref(), Ok(data));
}

/// Opens an envelope with two keys and a label. Nothing that was not sealed may open, and whatever is sealed must open again, in
/// whatever pieces a stream comes.
pub fn sealed(data: &[u8]) {
    let keys = [b"0123456789abcdef".to_vec(), vec![0xa5; 32]].map(|key| SecretKey::new(key).expect("a key's length"));
    let keyring = Keyring::new(keys).expect("two keys");
    let envelope = Envelope { label: "prod".into(), keyring, ..Envelope::default() };
    let packet = Bytes::copy_from_slice(data);
    if let Ok(plain) = envelope.open_packet(&packet) {
        // A key holder may seal anything.
        let _ = packet::decode(&plain, &mut Vec::new());
    }
    let sealed = envelope.seal_packet([7; 12], packet.clone());
    assert_eq!(sealed.len(), packet.len() + envelope.packet_overhead());
    assert_eq!(envelope.open_packet(&sealed), Ok(packet));

    let plain = read_stream(data, data.len().max(1));
    for direction in [Direction::Request, Direction::Answer] {
        let _ = EnvelopeReader::new(direction).push(&envelope, data);
        let sealed = envelope.seal_stream([7; 12], data.to_vec(), direction);
        let mut reader = EnvelopeReader::new(direction);
        let read = sealed.chunks(data.len() / 3 + 1).find_map(|piece| reader.push(&envelope, piece).transpose());
        match (read, &plain) {
            (Some(Ok(read)), Ok(Some(plain))) => assert_eq!(read, *plain),
            (Some(Err(_)), Err(_) | Ok(None)) => {}
            (read, plain) => panic!("sealed: {read:?}, plain: {plain:?}"),
        }
    }
}
