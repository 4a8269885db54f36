//! What is sent at once: new messages, messages to pass on, acknowledgements.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    Dissemination, LANES, Lane, Timer,
    control::{Control, Route},
    output::Output,
    revision::ours,
    ring::{self, Branch, Ring},
};
use crate::{
    membership::{Membership, Target},
    wire::packet,
};

impl Dissemination {
    pub(super) fn ring(&mut self, membership: &Membership) -> &Ring {
        self.ring.get_or_insert_with(|| Ring::new(membership))
    }

    pub(super) fn send(&mut self, to: SocketAddr, messages: Vec<Bytes>) {
        self.outputs.push_back(Output::Packets { to: vec![ours(to)], route: None, messages });
    }

    /// Sends messages on a route to some nodes: those that are small in packets, the others each over a
    /// stream.
    pub(super) fn spread(&mut self, to: Vec<Target>, route: Option<Route>, messages: Vec<Bytes>) {
        let max = self.max_in_packet();
        let (small, large): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.len() <= max);
        for message in large {
            for target in &to {
                let message = match route {
                    Some(route) => Control::Relay { route, message: &message[1..] }.encode(),
                    None => message.clone(),
                };
                self.outputs.push_back(Output::Stream { to: target.addr, message });
            }
        }
        if !small.is_empty() {
            let route = route.map(|route| Control::Relay { route, message: &[] }.encode());
            self.outputs.push_back(Output::Packets { to, route, messages: small });
        }
    }

    /// The largest message that fits in a packet, with what may go in front of it.
    pub(crate) fn max_in_packet(&self) -> usize {
        const ROUTE: usize = 16 + packet::PART_OVERHEAD;
        self.tuning.udp_buffer_size - packet::COMPOUND_OVERHEAD - packet::PART_OVERHEAD - ROUTE
    }

    /// Sends what is to be sent: new messages, messages to pass on, acknowledgements. To be called when
    /// everything that has happened has been handled.
    pub(crate) fn flush(&mut self, now: Instant, membership: &Membership) {
        for lane in LANES {
            if self.outbound[lane as usize].has_unsent() {
                self.send_unsent(now, lane, membership);
            }
        }
        let me = ring::place(self.me.as_bytes());
        for ((until, hops), messages) in std::mem::take(&mut self.relays) {
            self.send_along(me, until, hops, &messages, membership);
        }
        if !self.acks.is_empty() && self.timers.get(&Timer::Acks).is_none() {
            self.send_acks(now, membership);
        }
    }

    pub(super) fn send_unsent(&mut self, now: Instant, lane: Lane, membership: &Membership) {
        let at = lane as usize;
        let (epoch, first) = (self.outbound[at].epoch, self.outbound[at].sent());
        let messages = self.outbound[at].take_unsent();
        if messages.is_empty() {
            return;
        }
        let max = self.max_in_packet();
        if messages.iter().any(|message| message.len() > max) {
            self.forget_streamed(now);
        }
        for (seq, _) in (first..).zip(&messages).filter(|(_, message)| message.len() > max) {
            self.streamed.extend(self.outbound[at].addrs().map(|addr| ((addr, epoch, seq), now)));
        }
        let named = self.ring(membership).named;
        let mut for_ours = messages.clone();
        let floor = self.outbound[at].floor();
        if floor > std::mem::replace(&mut self.told_floor[at], floor) {
            let have = Control::Have(vec![self.own_have(lane, None)]);
            for_ours.insert(0, if named { have.encode_by(self.by(None)) } else { have.encode() });
        }
        let me = ring::place(self.me.as_bytes());
        self.send_along(me, me, 0, &for_ours, membership);
        if let (Lane::Own, Some(ring)) = (lane, &self.ring)
            && self.tells_plain
            && !ring.plain.is_empty()
        {
            let plain = ring.plain.clone();
            for message in messages.iter().filter(|message| message.len() <= max) {
                self.queue.push(message.clone());
            }
            self.spread(plain, None, messages);
        }
        self.rounds[at] = self.telling_rounds();
        self.watch(now, lane);
    }

    /// Sends messages to those on an arc of the ring who are next.
    pub(super) fn send_along(&mut self, from: u64, until: u64, hops: u8, messages: &[Bytes], membership: &Membership) {
        let ring = self.ring(membership);
        let mut branches = ring.branches(from, until);
        if hops == 0 {
            branches.extend(ring.newcomers.iter().map(|&to| Branch { to, until: None }));
        }
        let mut leaves = Vec::new();
        for branch in branches {
            if hops == 0 {
                for lane in LANES {
                    let outbound = &self.outbound[lane as usize];
                    if let Some(name) = outbound.name_at(branch.to).filter(|_| outbound.is_new(branch.to)).cloned() {
                        self.tell_start(lane, name.as_bytes(), None);
                    }
                }
            }
            match branch.until {
                None => leaves.push(ours(branch.to)),
                until => self.spread(vec![ours(branch.to)], Some(Route { hops, until }), messages.to_vec()),
            }
        }
        if !leaves.is_empty() {
            self.spread(leaves, (hops > 0).then_some(Route { hops, until: None }), messages.to_vec());
        }
    }

    pub(super) fn send_acks(&mut self, now: Instant, membership: &Membership) {
        for (origin, epoch) in std::mem::take(&mut self.acks) {
            let Some((stream, _)) = self.inbound.stream(origin.as_bytes(), epoch) else { continue };
            stream.ack_due = false;
            let Some(record) = membership.get(origin.as_bytes()).filter(|record| record.is_live()) else { continue };
            let Some(ack) = self.acknowledgement(now, record, epoch) else { continue };
            self.send(record.addr(), vec![ack]);
        }
    }
}
