//! What the decoders accept at most. Each limit is memberlist's own, or tighter.
//!
//! [`StreamLimits`] sets those of streams lower; the others are fixed.

/// The longest metadata of a node, in bytes.
pub const META: usize = 512;
/// The longest name of a node, in bytes. memberlist has no limit; serf's is 128.
pub const NAME: usize = 255;
/// The largest payload of an acknowledgement, in bytes. memberlist's only limit is the packet.
pub const ACK_PAYLOAD: usize = 512;
/// The longest label of a cluster, in bytes.
pub const LABEL: usize = 255;
/// The largest encrypted stream message, in bytes.
pub const ENCRYPTED_STREAM: usize = 20 << 20;
/// How many records one push/pull can have.
pub const PUSH_PULL_NODES: usize = 1 << 20;
/// The largest application state in a push/pull, in bytes.
pub const USER_STATE: usize = 20 << 20;
/// The largest user message in a stream, in bytes.
pub const STREAM_USER_MESSAGE: usize = 20 << 20;
/// The largest stream message before decompression, in bytes.
pub const STREAM: usize = 40 << 20;
/// The largest stream message after decompression, in bytes.
pub const STREAM_DECOMPRESSED: usize = 40 << 20;

/// What one stream may carry. The defaults are the constants of this module; each field can be lower.
///
/// Lower limits protect memory. A peer that sends more is refused: a node whose view has more records than
/// `push_pull_nodes` cannot join, for example.
///
/// ```
/// use broadcast_wire::{limits::StreamLimits, stream::StreamReader};
///
/// let limits = StreamLimits { push_pull_nodes: 100, ..StreamLimits::default() };
/// let reader = StreamReader::with_limits(limits);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// How many records one push/pull can have; by default [`PUSH_PULL_NODES`]. More of them allow larger clusters.
    pub push_pull_nodes: usize,
    /// The largest application state in a push/pull, in bytes; by default [`USER_STATE`].
    pub user_state: usize,
    /// The largest user message, in bytes; by default [`STREAM_USER_MESSAGE`].
    pub user_message: usize,
    /// The largest message before decompression, in bytes; by default [`STREAM`]. A reader holds up to this much.
    pub whole: usize,
    /// The largest message after decompression, in bytes; by default [`STREAM_DECOMPRESSED`].
    pub decompressed: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            push_pull_nodes: PUSH_PULL_NODES,
            user_state: USER_STATE,
            user_message: STREAM_USER_MESSAGE,
            whole: STREAM,
            decompressed: STREAM_DECOMPRESSED,
        }
    }
}

impl StreamLimits {
    /// These limits, but with at most so many records in a push/pull, and at most so many bytes of anything.
    pub fn at_most(self, records: usize, bytes: usize) -> Self {
        Self {
            push_pull_nodes: self.push_pull_nodes.min(records),
            user_state: self.user_state.min(bytes),
            user_message: self.user_message.min(bytes),
            whole: self.whole.min(bytes),
            decompressed: self.decompressed.min(bytes),
        }
    }
}

/// The largest structure in a stream, in bytes: a header, a node's record, a ping, an ack, an error. (For a compressed
/// message it is [`STREAM`].)
pub const STREAM_STRUCT: usize = 64 << 10;
/// The largest size of all compressed messages in one datagram together, after decompression, in bytes. A packet has at most
/// 64 KiB before.
pub const PACKET_DECOMPRESSED: usize = 256 << 10;
/// How many messages one datagram can have, good and bad, empty parts included. A compound has at most 255, and memberlist
/// does not nest them.
pub const PACKET_MESSAGES: usize = 1024;
/// How deep compounds and compressed messages can nest in a packet.
pub const PACKET_DEPTH: usize = 4;
