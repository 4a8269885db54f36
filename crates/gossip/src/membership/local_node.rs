//! What a node says about itself: that it is alive, its metadata, its address, that it leaves.
//!
//! # How a node changes its address
//!
//! Members do not believe that a live member is at another address: a second node with its name looks the same, and Go nodes
//! would only report a conflict. So a node whose address changes first leaves at the old one. When that has gone round, it
//! is alive at the new one, with a higher incarnation. If it hears of itself at the old address, somebody has missed the
//! goodbye, and it says so again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Event, LeaveState, MemberState, Membership, MembershipOutput, Record, Timer, encode_alive, queue::retransmit_limit,
};
use crate::wire::{Address, Alive, Dead, Message, PushPull, packet};

/// How long a leaving node goes on saying so.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// To how many members a node says directly that it leaves or has a new address.
const FANOUT: usize = 64;
/// How many of its former addresses a node remembers.
const MAX_FORMER_ADDRESSES: usize = 8;

/// The former addresses of this node, the latest last.
pub(super) type FormerAddresses = VecDeque<Address>;

impl Membership {
    /// Queues this node's own "alive".
    pub(super) fn announce(&mut self) {
        let alive = encode_alive(self.me());
        self.queue_broadcast(self.me.clone(), alive);
    }

    /// This node is accused in the incarnation `accused`: it announces itself with a higher one.
    pub(super) fn refute(&mut self, accused: u32) {
        if self.raise_incarnation_above(accused) {
            self.recorder.counts.refutations += 1;
            self.awareness.apply(1);
            self.announce();
        }
    }

    /// Raises this node's incarnation above its own and `other`. Gives whether that was possible: there may be no higher one
    /// that others believe.
    fn raise_incarnation_above(&mut self, other: u32) -> bool {
        let Some(next) = self.incarnation.max(other).checked_add(1).filter(|next| *next < u32::MAX) else {
            return false;
        };
        self.incarnation = next;
        if let Some(record) = self.members.get_mut(self.me.as_bytes()) {
            record.incarnation = next;
        }
        true
    }

    /// Changes this node's metadata, and announces it. Gives whether anything is announced: not if this node has left, nor
    /// if the metadata is the same.
    pub(crate) fn update_meta(&mut self, meta: &[u8]) -> bool {
        if self.has_left() || self.me().meta() == meta || !self.raise_incarnation_above(0) {
            return false;
        }
        if let Some(record) = self.members.get_mut(self.me.as_bytes()) {
            record.set_meta(meta);
        }
        self.announce();
        true
    }

    /// Changes this node's address: see the [module](self).
    pub(crate) fn change_address(&mut self, now: Instant, address: Address) {
        let old = self.me().address();
        if self.has_left() || old == address {
            return;
        }
        let before = self.incarnation;
        if !self.raise_incarnation_above(0) {
            return;
        }
        self.members.set_address(self.me.as_bytes(), address);
        self.former_addresses.retain(|former| *former != address && *former != old);
        self.former_addresses.push_back(old);
        if self.former_addresses.len() > MAX_FORMER_ADDRESSES {
            self.former_addresses.pop_front();
        }
        if self.members.live() == 1 {
            // Nobody knows the old address.
            return self.announce();
        }
        self.leave_former_address(now, before);
    }

    /// Leaves at a former address, in the incarnation that it had there; the rest follows by [`Timer::AnnounceMove`].
    fn leave_former_address(&mut self, now: Instant, incarnation: u32) {
        let message = self.encode_leave(incarnation);
        self.send_to_some(&message);
        self.queue_broadcast(self.me.clone(), message);
        let rounds = retransmit_limit(self.tuning.retransmit_mult, self.num_nodes());
        self.timers.set(Timer::AnnounceMove, now + self.tuning.gossip_interval * rounds);
    }

    /// Announces the new address, now that the goodbye has gone round.
    pub(super) fn announce_new_address(&mut self) {
        let alive = encode_alive(self.me());
        self.send_to_some(&alive);
        self.announce();
    }

    /// Whether this "alive" is about this node at a former address: its sender does not know the new one.
    pub(super) fn is_former_address(&self, alive: &Alive) -> bool {
        self.was_at(&alive.address, alive.incarnation)
    }

    fn was_at(&self, address: &Address, incarnation: u32) -> bool {
        let addr = address.socket_addr();
        incarnation <= self.incarnation && self.former_addresses.iter().any(|former| former.socket_addr() == addr)
    }

    /// Leaves at a former address again, unless that is in progress.
    pub(super) fn correct_former_address(&mut self, now: Instant, alive: &Alive) {
        if self.timers.get(&Timer::AnnounceMove).is_none() && alive.incarnation < self.incarnation {
            self.leave_former_address(now, alive.incarnation);
        }
    }

    /// Whether another live node has this node's name, according to another node's view.
    pub(crate) fn name_is_taken(&self, remote: &PushPull) -> bool {
        use crate::wire::NodeState::{Alive, Suspect};

        let mine = self.me().addr();
        remote.nodes.iter().any(|node| {
            *node.name == *self.me.as_bytes()
                && matches!(node.state, Alive | Suspect)
                && node.address.socket_addr() != mine
                && !self.was_at(&node.address, node.incarnation)
        })
    }

    /// Whether this node has begun to leave.
    pub(crate) fn has_left(&self) -> bool {
        self.leave_state != LeaveState::Active
    }

    /// Leaves the cluster: says so to the others, unless `silent`. [`Event::LeaveComplete`] follows.
    pub(crate) fn leave(&mut self, now: Instant, silent: bool) {
        if self.leave_state != LeaveState::Active {
            return;
        }
        self.leave_state = LeaveState::Leaving;
        let message = self.encode_leave(self.incarnation);
        let me = self.me.clone();
        self.members.set_state(me.as_bytes(), MemberState::Left, now);
        for timer in [Timer::Probe, Timer::PushPull, Timer::AnnounceMove, Timer::Greet] {
            self.timers.cancel(&timer);
        }
        // Directly to some, before all that is queued; the rest hear it by gossip.
        if silent || self.members.live() == 0 {
            self.leave_state = LeaveState::Left;
            self.outputs.push_back(MembershipOutput::Event(Event::LeaveComplete));
            return;
        }
        self.send_to_some(&message);
        self.queue_broadcast(me, message);
        self.timers.set(Timer::Leave, now + LEAVE_TIMEOUT);
    }

    /// This node's own "dead": it leaves.
    fn encode_leave(&self, incarnation: u32) -> Bytes {
        let name = Bytes::copy_from_slice(self.me.as_bytes());
        packet::encode_message(&Message::Dead(Dead { incarnation, node: name.clone(), from: name }))
    }

    /// Sends a message directly to some live members.
    fn send_to_some(&mut self, message: &Bytes) {
        let me = &self.me;
        let allowed = |record: &Record| record.is_live() && record.name != *me;
        for record in self.members.random(FANOUT, &mut self.rng, allowed) {
            let messages = vec![message.clone()];
            self.outputs.push_back(MembershipOutput::Packet { to: record.into(), messages, piggyback: false });
        }
    }

    /// To be called after each round of gossip: notices when the goodbye has been sent often enough.
    pub(crate) fn after_gossip(&mut self) {
        if self.leave_state == LeaveState::Leaving && !self.queue.contains(&self.me) {
            self.finish_leave();
        }
    }

    pub(super) fn finish_leave(&mut self) {
        self.leave_state = LeaveState::Left;
        self.timers.cancel(&Timer::Leave);
        self.outputs.push_back(MembershipOutput::Event(Event::LeaveComplete));
    }
}
