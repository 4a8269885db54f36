//! What a node says of itself: that it is there, what it tells, where it is, that it leaves.
//!
//! # How a node moves
//!
//! Members do not believe that a live one is at another address: that is how a second node with its name
//! looks, too, and Go nodes would only report a conflict. So a node whose address changes says good-bye at
//! the old one and, when that has gone round, is there at the new one with a higher incarnation. Who has
//! missed the good-bye, and still speaks of the old address, makes it say so again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Event, MemberState, Membership, Output, Presence, Record, Timer, encode_alive, queue::retransmit_limit};
use crate::wire::{Address, Alive, Dead, Message, PushPull, packet};

/// How long a leaving node goes on telling so.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many members are told directly that a node leaves or moves.
const FANOUT: usize = 64;
/// How many of its former addresses a node remembers.
const MAX_FORMER: usize = 8;

/// Where a node was, the latest last.
pub(super) type FormerAddresses = VecDeque<Address>;

impl Membership {
    /// Queues this node's own "alive".
    pub(super) fn announce(&mut self) {
        let alive = encode_alive(self.me());
        self.enqueue(self.me.clone(), alive);
    }

    /// Something wrong is said of a life of this node: it begins a new one, and says so.
    pub(super) fn refute(&mut self, accused: u32) {
        if self.begin_life_after(accused) {
            self.counting.counts.refutations += 1;
            self.awareness.apply(1);
            self.announce();
        }
    }

    /// Raises the incarnation above this node's own and another one, as long as there is a higher one that
    /// others believe.
    fn begin_life_after(&mut self, other: u32) -> bool {
        let Some(next) = self.incarnation.max(other).checked_add(1).filter(|next| *next < u32::MAX) else {
            return false;
        };
        self.incarnation = next;
        if let Some(record) = self.members.get_mut(self.me.as_bytes()) {
            record.incarnation = next;
        }
        true
    }

    /// Tells something else about this node from now on. Whether anything is told: not by a node that has
    /// left, nor if it is nothing new.
    pub(crate) fn update_meta(&mut self, meta: &[u8]) -> bool {
        if self.has_left() || self.me().meta() == meta || !self.begin_life_after(0) {
            return false;
        }
        if let Some(record) = self.members.get_mut(self.me.as_bytes()) {
            record.set_meta(meta);
        }
        self.announce();
        true
    }

    /// This node is reached at another address from now on.
    pub(crate) fn move_to(&mut self, now: Instant, address: Address) {
        let old = self.me().address();
        if self.has_left() || old == address {
            return;
        }
        let before = self.incarnation;
        if !self.begin_life_after(0) {
            return;
        }
        self.members.set_address(self.me.as_bytes(), address);
        self.former.retain(|former| *former != address && *former != old);
        self.former.push_back(old);
        if self.former.len() > MAX_FORMER {
            self.former.pop_front();
        }
        if self.members.live() == 1 {
            // Nobody to say good-bye to.
            return self.announce();
        }
        self.say_moved(now, before);
    }

    /// Says good-bye in a life at a former address; the rest follows by [`Timer::Hello`].
    fn say_moved(&mut self, now: Instant, incarnation: u32) {
        let message = self.good_bye(incarnation);
        self.tell_some(&message);
        self.enqueue(self.me.clone(), message);
        let rounds = retransmit_limit(self.tuning.retransmit_mult, self.audience());
        self.timers.set(Timer::Hello, now + self.tuning.gossip_interval * rounds);
    }

    /// The good-bye has gone round.
    pub(super) fn say_hello(&mut self) {
        let alive = encode_alive(self.me());
        self.tell_some(&alive);
        self.announce();
    }

    /// Whether this is what somebody says of this node who has not heard that it moved.
    pub(super) fn is_outdated(&self, alive: &Alive) -> bool {
        self.was_at(&alive.address, alive.incarnation)
    }

    fn was_at(&self, address: &Address, incarnation: u32) -> bool {
        let addr = address.socket_addr();
        incarnation <= self.incarnation && self.former.iter().any(|former| former.socket_addr() == addr)
    }

    /// Tells it again, unless that is under way.
    pub(super) fn correct_outdated(&mut self, now: Instant, alive: &Alive) {
        if self.timers.get(&Timer::Hello).is_none() && alive.incarnation < self.incarnation {
            self.say_moved(now, alive.incarnation);
        }
    }

    /// Whether another live node has this node's name, as a view that was just received says.
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
        self.presence != Presence::Here
    }

    /// Tells the others that this node leaves, unless it is to be `silent`. [`Event::LeaveComplete`]
    /// follows.
    pub(crate) fn leave(&mut self, now: Instant, silent: bool) {
        if self.presence != Presence::Here {
            return;
        }
        self.presence = Presence::Leaving;
        let message = self.good_bye(self.incarnation);
        let me = self.me.clone();
        self.members.set_state(me.as_bytes(), MemberState::Left, now);
        for timer in [Timer::Probe, Timer::PushPull, Timer::Hello, Timer::Greet] {
            self.timers.cancel(&timer);
        }
        // At once to as many as reasonable, ahead of whatever else is queued; the rest hear by gossip.
        if silent || self.members.live() == 0 {
            self.presence = Presence::Gone;
            self.outputs.push_back(Output::Event(Event::LeaveComplete));
            return;
        }
        self.tell_some(&message);
        self.enqueue(me, message);
        self.timers.set(Timer::Leave, now + LEAVE_TIMEOUT);
    }

    fn good_bye(&self, incarnation: u32) -> Bytes {
        let name = Bytes::copy_from_slice(self.me.as_bytes());
        packet::encode_message(&Message::Dead(Dead { incarnation, node: name.clone(), from: name }))
    }

    /// Sends a message straight to some live members.
    fn tell_some(&mut self, message: &Bytes) {
        let me = &self.me;
        let allowed = |record: &Record| record.is_live() && record.name != *me;
        for record in self.members.random(FANOUT, &mut self.rng, allowed) {
            let messages = vec![message.clone()];
            self.outputs.push_back(Output::Packet { to: record.into(), messages, piggyback: false });
        }
    }

    /// To be called after each round of gossip: notices when a leave has been told often enough.
    pub(crate) fn after_gossip(&mut self) {
        if self.presence == Presence::Leaving && !self.queue.contains(&self.me) {
            self.finish_leave();
        }
    }

    pub(super) fn finish_leave(&mut self) {
        self.presence = Presence::Gone;
        self.timers.cancel(&Timer::Leave);
        self.outputs.push_back(Output::Event(Event::LeaveComplete));
    }
}
