//! Packets: datagrams ⇄ messages.

use bytes::Bytes;

use super::Message;

/// Why a packet, or a part of it, was dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// stub
    #[error("stub")]
    Stub,
}

/// Appends the messages in `datagram` to `out`, in order.
///
/// # Errors
///
/// The first thing wrong; what could be read before (and beside) it is in `out` all the same.
pub fn decode(_datagram: &Bytes, _out: &mut Vec<Message>) -> Result<(), PacketError> {
    todo!()
}

/// One message as it stands in a packet: its type byte and its body.
pub fn encode_message(_message: &Message) -> Bytes {
    todo!()
}

/// One datagram of already encoded messages: bare when there is one, a compound otherwise.
/// `parts` are at most 255. With `compress`, LZW is used when it makes the packet smaller; with
/// `checksum`, a CRC-32 header is put in front (for peers of protocol 5 and up).
pub fn encode(_parts: &[Bytes], _compress: bool, _checksum: bool) -> Bytes {
    todo!()
}

/// What a compound costs beyond its parts: type and count byte.
pub const COMPOUND_OVERHEAD: usize = 2;
/// What each part of a compound costs beyond itself: its length.
pub const PART_OVERHEAD: usize = 2;
