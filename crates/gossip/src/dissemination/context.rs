//! What all parts of the dissemination share: this node, the size of its cluster, timers and outputs.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    control::{Control, Route},
    counters::MessageCounts,
    lane::Lane,
    limits::{ACKS_PER_SECOND, SWEEP_INTERVAL},
    local_node::LocalNode,
    origin_stream::RepairTiming,
    output::Output,
    revision::target_of_ours,
    ring::FANOUT,
};
use crate::{
    config::Tuning,
    membership::{NodeName, Target, digits},
    timers::Timers,
    wire::packet,
};

/// The response to a request is first awaited for this fraction of a probe's timeout. A larger divisor repairs faster, and
/// repeats more requests in vain where the network is slow.
const RESPONSE_TIMEOUT_DIVISOR: u32 = 20;

/// What is due at some time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Send acknowledgements.
    SendAcks,
    /// Take the next step of repair of this epoch of an origin.
    Repair(NodeName, u64),
    /// Remind the peers that have not acknowledged.
    Remind(Lane),
    /// Repeat messages of plain nodes to their proxies.
    RetryProxies,
    /// Look through the epochs that have ended.
    Sweep,
    /// Report changed positions to watchers.
    ReportAcks,
    /// Ask again to be reported positions.
    RenewWatch,
}

/// See the [module](self). Also written `cx`.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) local: LocalNode,
    pub(super) tuning: Tuning,
    /// How many members are live and proven, this node included.
    pub(super) live: usize,
    pub(super) rng: Xoshiro256PlusPlus,
    pub(super) counters: MessageCounts,
    pub(super) timers: Timers<Timer>,
    pub(super) outputs: VecDeque<Output>,
}

impl Context {
    /// How long the response to a request is awaited at first.
    pub(super) fn response_timeout(&self) -> Duration {
        self.tuning.probe_timeout / RESPONSE_TIMEOUT_DIVISOR
    }

    /// For how many rounds of gossip news is told: enough for all to hear it from somebody.
    pub(super) fn gossip_rounds(&self) -> u32 {
        digits(self.live)
    }

    pub(super) fn repair_timing(&self) -> RepairTiming {
        RepairTiming { response_timeout: self.response_timeout(), gossip_rounds: self.gossip_rounds() }
    }

    /// Over what time acknowledgements are spread, in a cluster that is too large for all to acknowledge at once.
    pub(super) fn ack_jitter(&self) -> Option<Duration> {
        (self.live > FANOUT + 1).then(|| Duration::from_secs_f64(self.live as f64 / ACKS_PER_SECOND))
    }

    /// The largest message that fits in a packet, with what may stand in front of it.
    pub(super) fn max_in_packet(&self) -> usize {
        const ROUTE: usize = 16 + packet::PART_OVERHEAD;
        self.tuning.udp_buffer_size - packet::COMPOUND_OVERHEAD - packet::PART_OVERHEAD - ROUTE
    }

    /// Sees to it that the next step of repair is taken by then at the latest.
    pub(super) fn repair_by(&mut self, at: Instant, origin: &NodeName, epoch: u64) {
        let timer = Timer::Repair(origin.clone(), epoch);
        if self.timers.get(&timer).is_none_or(|due| due > at) {
            self.timers.set(timer, at);
        }
    }

    /// Sees to it that ended epochs are looked through.
    pub(super) fn sweep_later(&mut self, now: Instant) {
        if self.timers.get(&Timer::Sweep).is_none() {
            self.timers.set(Timer::Sweep, now + SWEEP_INTERVAL);
        }
    }

    /// Sends control messages to one of our nodes, in packets: none may be larger than
    /// [`max_in_packet`](Self::max_in_packet). For what may be, there is [`multicast`](Self::multicast).
    pub(super) fn send(&mut self, to: SocketAddr, messages: Vec<Bytes>) {
        self.outputs.push_back(Output::Packets { to: vec![target_of_ours(to)], route: None, messages });
    }

    /// Sends messages on a route to some nodes: small ones in packets, each large one over a stream.
    pub(super) fn multicast(&mut self, to: Vec<Target>, route: Option<Route>, messages: Vec<Bytes>) {
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
}
