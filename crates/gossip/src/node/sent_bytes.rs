//! Bytes sent, by purpose: what a cluster's traffic is for.

use bytes::Bytes;

use super::{info, paths};
use crate::{
    dissemination::TrafficClass,
    serf::Serf,
    wire::{kind, stream::StreamMessage},
};

/// Bytes sent, by purpose: [`Metrics::sent`](crate::Metrics::sent). Those in packets are counted without framing and before
/// encryption; those on streams as they are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentBytes {
    /// Failure detection: pings and their acks.
    pub probes: u64,
    /// News of members: alive, suspect, dead; and the infos of our nodes.
    pub members: u64,
    /// Published messages, each time that they are sent.
    pub messages: u64,
    /// Acknowledgements.
    pub receipts: u64,
    /// Digests and repair requests.
    pub repair: u64,
    /// What only serf's agents need.
    pub serf: u64,
    /// Push/pull exchanges of whole views, and what goes with them.
    pub views: u64,
}

impl SentBytes {
    /// Counts the messages of a packet that goes to so many receivers.
    pub(super) fn packet(&mut self, parts: &[Bytes], receivers: usize) {
        for part in parts {
            let count = match part.split_first() {
                Some((&kind::USER, payload)) if Serf::is_serf_message(payload) => &mut self.serf,
                Some((&kind::USER, payload)) => self.count_of(payload),
                Some((&kind, _)) if kind::is_of_probes(kind) => &mut self.probes,
                _ => &mut self.members,
            };
            *count += (part.len() * receivers) as u64;
        }
    }

    /// Counts a message that takes `len` bytes on a stream.
    pub(super) fn stream(&mut self, message: &StreamMessage, len: usize) {
        let count = match message {
            StreamMessage::User(payload) => self.count_of(payload),
            StreamMessage::Ping(_) | StreamMessage::Ack(_) => &mut self.probes,
            StreamMessage::PushPull(_) | StreamMessage::Error(_) => &mut self.views,
        };
        *count += len as u64;
    }

    fn count_of(&mut self, payload: &[u8]) -> &mut u64 {
        let payload = match paths::first_bundled(payload) {
            _ if !paths::is_path_message(payload) => payload,
            Some(bundled) if !paths::is_path_message(bundled) => bundled,
            _ => return &mut self.probes,
        };
        if info::is_info_message(payload) {
            return &mut self.members;
        }
        match TrafficClass::of(payload) {
            TrafficClass::Message => &mut self.messages,
            TrafficClass::Ack => &mut self.receipts,
            TrafficClass::Repair => &mut self.repair,
        }
    }
}
