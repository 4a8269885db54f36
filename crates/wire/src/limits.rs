//! What the decoders accept at most. Each is memberlist's own limit, or tighter.

/// A node's metadata, in bytes.
pub const META: usize = 512;
/// A node's name, in bytes. memberlist has no limit; serf's is 128.
pub const NAME: usize = 255;
/// What an acknowledgement carries for the application, in bytes. memberlist's only limit is the packet.
pub const ACK_PAYLOAD: usize = 512;
/// A cluster's label, in bytes.
pub const LABEL: usize = 255;
/// An encrypted stream message, in bytes.
pub const SEALED: usize = 20 << 20;
/// The records in one push/pull.
pub const PUSH_PULL_NODES: usize = 1 << 20;
/// The application's state in a push/pull, in bytes.
pub const USER_STATE: usize = 20 << 20;
/// A user message in a stream, in bytes.
pub const STREAM_USER_MESSAGE: usize = 20 << 20;
/// A whole stream message before decompression, in bytes.
pub const STREAM: usize = 40 << 20;
/// What one compressed stream message may grow to, in bytes.
pub const STREAM_DECOMPRESSED: usize = 40 << 20;
/// What one stream may carry, where it is to be less than these constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// The records in one push/pull.
    pub push_pull_nodes: usize,
    /// The application's state in a push/pull, in bytes.
    pub user_state: usize,
    /// A user message, in bytes.
    pub user_message: usize,
    /// A whole message before decompression, in bytes.
    pub whole: usize,
    /// What one compressed message may grow to, in bytes.
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
    /// The same, but no more records in a push/pull, and no more bytes of anything, than this.
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

/// One structure in a stream, in bytes: a header, a node's record, a ping, an ack, an error. (What a
/// compressed message holds is under [`STREAM`] instead.)
pub const STREAM_STRUCT: usize = 64 << 10;
/// What all the compressed messages in one datagram together may grow to, in bytes. A packet holds
/// 64 KiB before compression.
pub const PACKET_DECOMPRESSED: usize = 256 << 10;
/// The messages in one datagram, good and bad, empty parts included. A compound has at most 255, and
/// memberlist does not nest them.
pub const PACKET_MESSAGES: usize = 1024;
/// How deep compounds and compressed messages may nest in a packet.
pub const PACKET_DEPTH: usize = 4;
