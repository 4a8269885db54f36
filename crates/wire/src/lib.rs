//! The wire protocol of [hashicorp/memberlist](https://github.com/hashicorp/memberlist): bytes to messages and back.
//!
//! Pure functions and plain values: no clock, no I/O, no state beyond a half-read stream. No input makes a decoder panic, or
//! allocate more than [`limits`] allow. Encoded messages are those of the Go library, byte for byte, but for the compression
//! (which both sides read).
//!
//! ```
//! use broadcast_wire::{Message, Ping, packet};
//!
//! // Two messages in one datagram, with a checksum.
//! let ping = Message::Ping(Ping { seq: 7, node: "node2".into(), source: None });
//! let parts = [packet::encode_message(&ping), packet::encode_message(&Message::User("hello".into()))];
//! let datagram = packet::encode(&parts, false, true);
//!
//! let mut messages = Vec::new();
//! packet::decode(&datagram, &mut messages)?;
//! assert_eq!(messages, [ping, Message::User("hello".into())]);
//! # Ok::<(), broadcast_wire::PacketError>(())
//! ```
//!
//! From the outside in:
//!
//! | module | has |
//! |---|---|
//! | [`envelope`] | the label and the encryption around packets and streams |
//! | [`packet`] | datagrams: compounds, checksums, compression |
//! | [`stream`] | what a TCP connection carries; [`envelope_reader`] reads it together with its envelope |
//! | [`compress`] | the LZW in packets and streams |
//! | [`message`] | the messages as plain values |
//! | [`msgpack`] | the encoding of their fields |
//!
//! Bytes in a decoded message are slices of the input, and keep all of it in memory: copy what you keep for long.

#![deny(missing_docs, unreachable_pub)]

mod body;
pub mod compress;
pub mod envelope;
pub mod envelope_reader;
mod keyring;
pub mod limits;
pub mod message;
pub mod msgpack;
pub mod packet;
pub mod stream;

// Shared with the tests of the public functions, in `tests/`.
#[cfg(test)]
#[path = "../tests/wire/bytes.rs"]
mod test_bytes;

pub use body::{BodyError, RecordError};
pub use body::{decode_ip, kind};
pub use compress::DecompressError;
pub use keyring::{KeyError, Keyring, MAX_KEYS, Nonce, SEAL_OVERHEAD, SecretKey};
pub use message::{
    Ack, Address, Alive, Dead, IndirectPing, Message, Nack, NodeState, Ping, PushPull, PushPullState, Source, Suspect,
    Versions,
};
pub use msgpack::MsgpackError;
pub use packet::PacketError;

/// The first byte of a node's metadata if serf's tags follow: serf's `tagMagicByte`.
pub const TAG_MAGIC_BYTE: u8 = 0xff;
