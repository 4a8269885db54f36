//! Assembling packets: as few as possible, each within the configured size.

use std::time::Instant;

use bytes::Bytes;

use super::{MAX_PARTS, Node, Timer, Transmit};
use crate::{membership::Target, wire::packet};

impl Node {
    pub(super) fn gossip(&mut self, now: Instant) {
        self.timers.set(Timer::Gossip, now + self.tuning.gossip_interval);
        self.gossip_rounds += 1;
        if self.membership.has_queued() || self.dissemination.has_gossip() || self.serf_share(1 << 10) > 0 {
            for target in self.membership.gossip_targets(now) {
                let mut parts = Vec::new();
                self.fill(target, self.packet_size(target.addr) - packet::COMPOUND_OVERHEAD, &mut parts);
                self.transmit(target, &parts);
            }
        }
        self.membership.after_gossip();
        self.dissemination.after_gossip();
    }

    /// Brings the next round of gossip forward, so that all hear at once of a new member.
    pub(super) fn gossip_soon(&mut self, now: Instant) {
        let soon = now + self.tuning.gossip_interval / 10;
        if self.timers.get(&Timer::Gossip).is_none_or(|at| at > soon) {
            self.timers.set(Timer::Gossip, soon);
        }
    }

    /// Fills a packet with queued messages. Membership and dissemination take turns to go first, and the first leaves a quarter
    /// to the second, so that neither starves the other.
    pub(super) fn fill(&mut self, target: Target, budget: usize, parts: &mut Vec<Bytes>) {
        let share = self.serf_share(budget);
        let used = self.fill_with_own(target, budget - share, parts);
        self.fill_serf(budget - used, parts);
    }

    fn fill_with_own(&mut self, target: Target, budget: usize, parts: &mut Vec<Bytes>) -> usize {
        self.membership_first = !self.membership_first;
        // What was published before the name was found to be another's is not told any more.
        if self.seeds.name_taken() || !self.dissemination.has_gossip() {
            return self.membership.take_broadcasts(budget, parts);
        }
        let share = if self.membership.has_queued() { budget - budget / 4 } else { budget };
        if self.membership_first {
            let mut used = self.membership.take_broadcasts(share, parts);
            if used == 0 {
                used = self.membership.take_broadcasts(budget, parts);
            }
            used + self.dissemination.fill(target, budget - used, parts)
        } else {
            let mut used = self.dissemination.fill(target, share, parts);
            if used == 0 {
                used = self.dissemination.fill(target, budget, parts);
            }
            used + self.membership.take_broadcasts(budget - used, parts)
        }
    }

    pub(super) fn transmit(&mut self, target: Target, parts: &[Bytes]) {
        self.metrics.sent.packet(parts, 1);
        for parts in parts.chunks(MAX_PARTS) {
            let payload = packet::encode(parts, false, self.has_checksum(target));
            let payload = self.sealer.packet(payload);
            self.transmits.push_back(Transmit { to: target.addr, payload });
        }
    }

    /// Whether a packet has a checksum: if its receiver reads one, unless it is encrypted, which does the same.
    fn has_checksum(&self, target: Target) -> bool {
        target.checksum && !self.sealer.envelope.encrypts()
    }

    /// Sends messages to each of some nodes, in as few packets of up to `size` bytes as possible, with `route` in front of each
    /// packet. A packet is assembled once for all its receivers.
    pub(super) fn send_packets(&mut self, to: &[Target], size: usize, route: Option<Bytes>, messages: Vec<Bytes>) {
        let budget = size - packet::COMPOUND_OVERHEAD;
        let cost = |part: &Bytes| part.len() + packet::PART_OVERHEAD;
        let head = route.as_ref().map_or(0, cost);
        let (mut packets, mut parts, mut used) = (Vec::new(), Vec::new(), 0);
        for message in messages {
            let message_cost = cost(&message);
            if used + message_cost > budget || parts.len() == MAX_PARTS {
                packets.push(std::mem::take(&mut parts));
            }
            if parts.is_empty() {
                parts.extend(route.clone());
                used = head;
            }
            used += message_cost;
            parts.push(message);
        }
        packets.push(parts);
        for parts in &packets {
            self.metrics.sent.packet(parts, to.len());
        }
        for checksum in [true, false] {
            let to: Vec<_> = to.iter().filter(|target| self.has_checksum(**target) == checksum).collect();
            if to.is_empty() {
                continue;
            }
            let close = |parts: &Vec<_>| self.sealer.packet(packet::encode(parts, false, checksum));
            let payloads: Vec<Bytes> = packets.iter().map(close).collect();
            for target in to {
                let datagrams = payloads.iter().map(|payload| Transmit { to: target.addr, payload: payload.clone() });
                self.transmits.extend(datagrams);
            }
        }
    }
}
