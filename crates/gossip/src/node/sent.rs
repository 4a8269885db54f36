//! What is sent, by what it says: what a cluster's traffic is for.

use bytes::Bytes;

use super::{info, paths};
use crate::{
    dissemination::Talk,
    serf::Serf,
    wire::{kind, stream::StreamMessage},
};

/// Bytes that were sent, by what they say. Those of packets without what holds messages together in them, and
/// before encryption; those of streams as they travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentBytes {
    /// Whether members are there: pings and their answers.
    pub probes: u64,
    /// What became of members: alive, suspect, dead; and what our nodes tell each other about themselves.
    pub members: u64,
    /// What applications publish, each time it is sent.
    pub messages: u64,
    /// Who has which messages: acknowledgements.
    pub receipts: u64,
    /// Who could give messages, and who asks for them.
    pub repair: u64,
    /// What only serf's agents need.
    pub serf: u64,
    /// Whole views, in exchanges with one member, and what else goes with those.
    pub views: u64,
}

impl SentBytes {
    /// Counts the messages of a packet that goes to so many.
    pub(super) fn packet(&mut self, parts: &[Bytes], receivers: usize) {
        for part in parts {
            let count = match part.split_first() {
                Some((&kind::USER, payload)) if Serf::is_serf_message(payload) => &mut self.serf,
                Some((&kind::USER, payload)) => self.talk(payload),
                Some((&kind, _)) if kind::is_of_probes(kind) => &mut self.probes,
                _ => &mut self.members,
            };
            *count += (part.len() * receivers) as u64;
        }
    }

    /// Counts a message on a stream, which takes so many bytes there.
    pub(super) fn stream(&mut self, message: &StreamMessage, len: usize) {
        let count = match message {
            StreamMessage::User(payload) => self.talk(payload),
            StreamMessage::Ping(_) | StreamMessage::Ack(_) => &mut self.probes,
            StreamMessage::PushPull(_) | StreamMessage::Error(_) => &mut self.views,
        };
        *count += len as u64;
    }

    fn talk(&mut self, payload: &[u8]) -> &mut u64 {
        let payload = match paths::talk_of(payload) {
            _ if !paths::is_one(payload) => payload,
            Some(bundled) if !paths::is_one(bundled) => bundled,
            _ => return &mut self.probes,
        };
        if info::is_one(payload) {
            return &mut self.members;
        }
        match Talk::of(payload) {
            Talk::Message => &mut self.messages,
            Talk::Receipt => &mut self.receipts,
            Talk::Repair => &mut self.repair,
        }
    }
}
