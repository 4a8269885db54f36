//! The wire protocol from outside: what Go emits and accepts, what survives, and what is refused.

mod bytes;
mod envelope;
mod golden;
mod hostile;
mod lenient;
mod round_trip;

use std::net::IpAddr;

use ::bytes::Bytes;
use broadcast_wire::{Address, Message, packet};

/// An address from its parts.
fn address(ip: &str, port: u16) -> Address {
    Address { ip: ip.parse::<IpAddr>().expect("an address"), port }
}

/// What a packet holds, which must be all right.
#[track_caller]
fn decoded(datagram: &Bytes) -> Vec<Message> {
    let mut out = Vec::new();
    packet::decode(datagram, &mut out).expect("a good packet");
    out
}
