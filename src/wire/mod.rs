//! Bytes ⇄ messages of the memberlist protocol.
//!
//! Pure functions and plain values: no clock, no state beyond a half-read stream, no I/O. No input
//! makes a decoder panic or allocate more than the limits in [`limits`] allow.

pub mod compress;
pub mod limits;
pub mod message;
pub(crate) mod msgpack;
pub mod packet;
pub mod stream;

pub use message::{
    Ack, Address, Alive, Dead, IndirectPing, Message, Nack, NodeState, Ping, PushPull, PushPullState, Source, Suspect,
    Versions,
};
