//! What all parts of the dissemination work with: who this node is, how large its cluster, and what it wants done.

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
    limits::{ACKS_PER_SECOND, SWEEP},
    me::Me,
    output::Output,
    revision::ours,
    ring::FANOUT,
    stream::Pace,
};
use crate::{
    config::Tuning,
    membership::{NodeName, Target, digits},
    timers::Timers,
    wire::packet,
};

/// The first answer to a request is waited for this part of the time a probe may take.
const PATIENCE: u32 = 20;

/// What is due at some time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Acknowledgements are sent.
    Acks,
    /// What is missing of a life of an origin is asked for.
    Ask(NodeName, u64),
    /// Who has not acknowledged is reminded.
    Remind(Lane),
    /// The voices of plain nodes are reminded.
    Plain,
    /// What is over is looked through.
    Sweep,
    /// Who watches is told what has changed.
    Tell,
    /// Who is watched is asked again.
    Watch,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Context {
    pub(super) me: Me,
    pub(super) tuning: Tuning,
    /// How many members are live and have answered this node, itself included.
    pub(super) live: usize,
    pub(super) rng: Xoshiro256PlusPlus,
    pub(super) counters: MessageCounts,
    pub(super) timers: Timers<Timer>,
    pub(super) outputs: VecDeque<Output>,
}

impl Context {
    /// How long an answer is waited for.
    pub(super) fn patience(&self) -> Duration {
        self.tuning.probe_timeout / PATIENCE
    }

    /// For how many rounds of gossip news is told: enough for everybody to hear it from somebody.
    pub(super) fn rounds(&self) -> u32 {
        digits(self.live)
    }

    pub(super) fn pace(&self) -> Pace {
        Pace { patience: self.patience(), rounds: self.rounds() }
    }

    /// Over how long acknowledgements are spread, in a cluster too large for all to acknowledge at once.
    pub(super) fn ack_spread(&self) -> Option<Duration> {
        (self.live > FANOUT + 1).then(|| Duration::from_secs_f64(self.live as f64 / ACKS_PER_SECOND))
    }

    /// The largest message that fits in a packet, with what may go in front of it.
    pub(super) fn max_in_packet(&self) -> usize {
        const ROUTE: usize = 16 + packet::PART_OVERHEAD;
        self.tuning.udp_buffer_size - packet::COMPOUND_OVERHEAD - packet::PART_OVERHEAD - ROUTE
    }

    /// What is missing is asked for by then at the latest.
    pub(super) fn ask_by(&mut self, at: Instant, origin: &NodeName, epoch: u64) {
        let timer = Timer::Ask(origin.clone(), epoch);
        if self.timers.get(&timer).is_none_or(|due| due > at) {
            self.timers.set(timer, at);
        }
    }

    /// What is over is to be looked through.
    pub(super) fn sweep_later(&mut self, now: Instant) {
        if self.timers.get(&Timer::Sweep).is_none() {
            self.timers.set(Timer::Sweep, now + SWEEP);
        }
    }

    /// Sends control messages to one of ours.
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
}
