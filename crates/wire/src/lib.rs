//! Bytes ⇄ messages of the memberlist protocol.
//!
//! Pure functions and plain values: no clock, no state beyond a half-read stream, no I/O. No input
//! makes a decoder panic or allocate more than the limits in [`limits`] allow.
//!
//! From the outside in: [`envelope`] has the label and the encryption, [`packet`] and [`stream`] frame
//! messages for UDP and TCP, [`opener`] reads a stream in its envelope, [`compress`] is the LZW in
//! packets and streams, `body` knows each message's fields, [`msgpack`] the encoding of those. Bytes in
//! a decoded message are slices of what was decoded, and keep all of it in memory: copy what is kept
//! for long.

#![deny(missing_docs, unreachable_pub)]

mod body;
pub mod compress;
pub mod envelope;
mod keyring;
pub mod limits;
pub mod message;
pub mod msgpack;
pub mod opener;
pub mod packet;
pub mod stream;

// What the tests in here share with those of the public functions, in `tests/`.
#[cfg(test)]
#[path = "../tests/wire/bytes.rs"]
mod test_bytes;

pub use body::{BodyError, RecordError};
pub use body::{ip, kind};
pub use compress::DecompressError;
pub use keyring::{KeyError, Keyring, MAX_KEYS, Nonce, SEAL_OVERHEAD, SecretKey};
pub use message::{
    Ack, Address, Alive, Dead, IndirectPing, Message, Nack, NodeState, Ping, PushPull, PushPullState, Source, Suspect,
    Versions,
};
pub use msgpack::Malformed;
pub use packet::PacketError;

/// The first byte of a node's metadata when serf's tags follow.
pub const TAGS: u8 = 0xff;
