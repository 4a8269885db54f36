//! Path discovery: whether datagrams arrive at each member, up to which size, or not at all.
//!
//! Firewalls drop UDP and let TCP pass, in one direction or in both; tunnels drop large packets and tell nobody (RFC 2923).
//! Members stay alive all the same, as pings then go over TCP, but messages do not arrive. What a path carries is found out as
//! in packetization-layer path MTU discovery for datagrams (RFC 8899), but only where something does not work: for a member
//! that is well reached there is no [`Path`], and no packet.
//!
//! # On the wire
//!
//! These are control messages, and go only to nodes that [understand them](probes_paths).
//!
//! | message | says |
//! |---|---|
//! | `Probe` | a nonce, the probe's own size, who asks, whether the reply is wanted over a stream as well; then padding |
//! | `ProbeReply` | the nonce, and the size of the probe that has arrived |
//! | `Bundle` | over a stream: who sends it, and messages as they would stand in packets |
//!
//! # States of a path
//!
//! ```text
//!   (well) ────────────► searching       ┌──────────────────► (well)
//!   (well) ────────────► searching       ┌──────────────────► (well)
//!                         ▲     │        │
//!           pause is over │     ▼        │
//!                         └── resting ───┘
//! ```
//!
//! *A path is suspected* when a member acknowledges nothing after several reminders, or acks pings over TCP only. Or the member
//! asks for a reply over a stream, or sends a bundle, since this node's packets do not arrive there. In that case messages go
//! over streams during the search, as a reply is wanted now.
//!
//! *Searching* takes [`ROUNDS`]: first with a probe of the full size and one of the least; once one was answered, with one of
//! each size between that and the full one. From the third round on, the reply is wanted over a stream, too, and probes also
//! go over streams until anything is answered. Only if streams reach the member is it taken for one that packets do not
//! reach. A member that is stopped or cut off is neither.
//!
//! *Resting*: packets are as large as was answered, and larger messages go over streams. If no size was answered, everything
//! goes over streams, in bundles. The path is searched again after a pause that doubles up to [`MAX_PAUSE`], so that packets
//! are used again soon after they can be. A path that is well rests, too, before it is forgotten: on a link so slow that
//! replies come late, constant searches would keep it slow.
//!
//! # What can go wrong
//!
//! - *Loss* looks like a blocked path if some eight probes in a row get lost. Messages then go over TCP until the next search.
//! - *A forged reply* has to know the nonce. *A forged probe* has a member answered with less than it took to ask, and once
//!   over a stream.
//! - *A bundle in another's name* counts only from the address that the other announces. From elsewhere its messages are a
//!   stranger's.

mod message;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::Rng;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::message::parts_of;
use self::message::{PathMessage, is_bundle};
pub(super) use self::message::{first_bundled, is_path_message};
use super::{Event, Node, Reach, RejectionCause, Timer};
use crate::{
    dissemination::{Route, probes_paths},
    membership::{Record, Target},
    wire::{Message, packet},
};

/// The sizes of packets that are tried, in bytes: what common links and tunnels leave for UDP, over IPv4 or IPv6. RFC 1191 has
/// such a table. The last one arrives wherever IPv4 does.
const PLATEAUS: [usize; 12] = [32_000, 16_000, 8_900, 4_300, 2_000, 1_452, 1_392, 1_352, 1_232, 1_132, 1_006, MIN_SIZE];
const MIN_SIZE: usize = 508;
/// How many rounds of probes are sent in vain before the path is judged, and after a first reply.
const ROUNDS: u32 = 4;
/// From which round on replies over a stream are wanted.
const STREAM_ROUND: u32 = 2;
/// The length of a round, as a fraction of a ping's timeout.
const ROUND: u32 = 4;
/// For how long a path that was found well is not searched again: its member is only slow. It doubles if there is a reason to
/// search again soon after.
const WELL_PAUSE: Duration = Duration::from_secs(4);
/// How long a path rests. It doubles each time the path is no better.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The longest rest of a path of which nothing is known. UDP may have been blocked meanwhile.
const DOUBT_PAUSE: Duration = Duration::from_secs(8);
/// The most parts of a bundle.
const MAX_PARTS: usize = 1 << 14;

/// The path to one member. See the [module](self).
#[derive(Debug)]
struct Path {
    /// The largest packets that go there; 0 if none do.
    max: usize,
    phase: PathPhase,
    /// Of the last search: the nonce that replies carry, the largest size that was answered, and whether anything was.
    nonce: u64,
    best: usize,
    answered: bool,
    /// Whether the member said that it does not get packets. It may go on saying so for reasons of its own.
    by_member: bool,
    pause: Duration,
    reported: Reach,
}

#[derive(Debug)]
enum PathPhase {
    Searching {
        /// How many rounds were sent, and how many are left.
        round: u32,
        left: u32,
        due: Instant,
    },
    Resting {
        until: Instant,
    },
}

/// Why a path is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchReason {
    /// What is sent there is not acknowledged, or not at once.
    Silence,
    /// The member avoids packets itself, or asks for a reply over a stream.
    Reported,
}

/// What is to be done about a path.
#[derive(Debug, Default, PartialEq, Eq)]
struct PathStep {
    /// Send probes of these sizes; `by_stream` asks for the replies over a stream as well.
    probes: Vec<usize>,
    by_stream: bool,
    /// Send a probe over a stream.
    stream_probe: bool,
    /// Tell the application that the member is reached differently.
    reported: Option<Reach>,
    /// Forget the path: it is well.
    done: bool,
}

impl Path {
    fn search(now: Instant, why: SearchReason, full: usize, nonce: u64) -> Self {
        Self {
            max: if why == SearchReason::Reported { 0 } else { full },
            by_member: why == SearchReason::Reported,
            phase: PathPhase::Searching { round: 0, left: ROUNDS, due: now },
            nonce,
            best: 0,
            answered: false,
            pause: FIRST_PAUSE,
            reported: Reach::Datagrams,
        }
    }

    fn due(&self) -> Instant {
        match self.phase {
            PathPhase::Searching { due, .. } => due,
            // A path that is well is remembered for a while.
            PathPhase::Resting { until } if self.reported == Reach::Datagrams => until + self.pause,
            PathPhase::Resting { until } => until,
        }
    }

    /// There is a reason to search while it rests.
    fn reconsider(&mut self, now: Instant, why: SearchReason, full: usize, nonce: u64) {
        let PathPhase::Resting { until } = self.phase else { return };
        match why {
            SearchReason::Silence if self.max >= full && until <= now => self.search_again(now, nonce),
            // If no packets arrive, or nothing was answered, the search waits for the end of the pause.
            SearchReason::Silence if (1..full).contains(&self.best) || (self.by_member && self.best > 0) => {
                self.by_member = false;
                self.search_again(now, nonce);
            }
            SearchReason::Reported if self.best == 0 && self.max >= full && until <= now => {
                (self.max, self.by_member) = (0, true);
                self.search_again(now, nonce);
            }
            _ => {}
        }
    }

    /// Searches again. What is known holds until the search ends.
    fn search_again(&mut self, now: Instant, nonce: u64) {
        (self.nonce, self.best, self.answered) = (nonce, 0, false);
        self.phase = PathPhase::Searching { round: 0, left: ROUNDS, due: now };
    }

    /// A probe of this size was answered; one over a stream has size 0.
    fn handle_reply(&mut self, size: usize) {
        self.answered = true;
        if self.best == 0
            && size > 0
            && let PathPhase::Searching { left, .. } = &mut self.phase
        {
            *left = ROUNDS;
        }
        self.best = self.best.max(size);
        // What is known to arrive may be used at once.
        self.max = self.max.max(self.best);
    }

    /// Does what is due. `full` is the full size of packets, `round_time` the length of a round.
    fn step(&mut self, now: Instant, full: usize, round_time: Duration) -> PathStep {
        if self.best >= full && (matches!(self.phase, PathPhase::Searching { .. }) || self.reported != Reach::Datagrams)
        {
            let reported = (std::mem::take(&mut self.reported) != Reach::Datagrams).then_some(Reach::Datagrams);
            self.max = full;
            // Not every reminder, or bundle that comes, may start a search.
            let (least, most) = if self.by_member { (MAX_PAUSE, MAX_PAUSE) } else { (WELL_PAUSE, DOUBT_PAUSE) };
            self.rest(now, least, most);
            return PathStep { reported, ..PathStep::default() };
        }
        let (round, left, due) = match &mut self.phase {
            // The reply over a stream came after the search had ended: it takes two connections.
            PathPhase::Resting { .. } if self.answered && self.best == 0 && self.max >= full => {
                return self.conclude(now, full);
            }
            PathPhase::Resting { until } => {
                let done = *until + self.pause <= now && self.max >= full;
                return PathStep { done, ..PathStep::default() };
            }
            PathPhase::Searching { round, left, due } => (round, left, due),
        };
        if *due > now {
            return PathStep::default();
        }
        if *left == 0 {
            return self.conclude(now, full);
        }
        *left -= 1;
        *due = now + round_time;
        let number = std::mem::replace(round, *round + 1);
        // First find out whether anything arrives, then how much.
        let above = if self.best == 0 { MIN_SIZE } else { self.best + 1 };
        let wanted = |size: &usize| (above..full).contains(size) && (self.best > 0 || *size == MIN_SIZE);
        PathStep {
            probes: [full].into_iter().chain(PLATEAUS.into_iter().filter(wanted)).collect(),
            by_stream: number >= STREAM_ROUND && self.best == 0,
            stream_probe: number >= STREAM_ROUND && !self.answered,
            ..PathStep::default()
        }
    }

    /// Ends a search.
    fn conclude(&mut self, now: Instant, full: usize) -> PathStep {
        if !self.answered {
            // Nothing arrives there, or nobody is there: nothing new is known.
            if self.reported == Reach::Datagrams {
                self.max = full;
            }
            self.rest(now, FIRST_PAUSE, DOUBT_PAUSE);
            return PathStep::default();
        }
        self.max = self.best;
        let reach = if self.best == 0 { Reach::Streams } else { Reach::SmallDatagrams(self.best) };
        let reported = (std::mem::replace(&mut self.reported, reach) != reach).then_some(reach);
        self.rest(now, FIRST_PAUSE, MAX_PAUSE);
        PathStep { reported, ..PathStep::default() }
    }

    /// Rests, longer each time: searches must not keep busy a link that is slow already.
    fn rest(&mut self, now: Instant, least: Duration, most: Duration) {
        self.phase = PathPhase::Resting { until: now + self.pause.clamp(least, most) };
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }
}

/// The paths that are not known to be well, by their members' addresses.
#[derive(Debug, Default)]
pub(super) struct Paths(BTreeMap<SocketAddr, Path>);

impl Paths {
    /// The largest packets for an address, if the path there is not known to be well.
    fn limit(&self, to: SocketAddr) -> Option<usize> {
        // Practically always there is no path at all.
        if self.0.is_empty() { None } else { self.0.get(&to).map(|path| path.max) }
    }
}

impl Node {
    /// How a member is reached, as far as is certain.
    pub(super) fn reach(&self, to: SocketAddr) -> Reach {
        self.with_envelope(self.paths.0.get(&to).map(|path| path.reported).unwrap_or_default())
    }

    /// How many members are reached over streams only, and how many by small packets.
    pub(super) fn count_limited_paths(&self) -> (usize, usize) {
        let by = |wanted: fn(Reach) -> bool| self.paths.0.values().filter(|path| wanted(path.reported)).count();
        (by(|reach| reach == Reach::Streams), by(|reach| matches!(reach, Reach::SmallDatagrams(_))))
    }

    /// The same with the envelope's part of the size.
    fn with_envelope(&self, reach: Reach) -> Reach {
        match reach {
            Reach::SmallDatagrams(max) => Reach::SmallDatagrams(max + self.sealer.envelope.packet_overhead()),
            reach => reach,
        }
    }

    /// The size of packets to a member.
    pub(super) fn packet_size(&self, to: SocketAddr) -> usize {
        // Pings go out all the same: they tell whether packets arrive.
        let limit = self.paths.limit(to).filter(|limit| *limit > 0);
        limit.map_or(self.tuning.udp_buffer_size, |limit| limit.min(self.tuning.udp_buffer_size))
    }

    /// Sends messages to each of some nodes as the path there allows, with `route` in front of each packet.
    pub(super) fn broadcast(&mut self, to: &[Target], route: Option<Bytes>, messages: Vec<Bytes>) {
        let full = self.tuning.udp_buffer_size;
        let limited = |target: &Target| self.paths.limit(target.addr).is_some_and(|limit| limit < full);
        if !to.iter().any(limited) {
            return self.send_packets(to, full, route, messages);
        }
        let (limited, well): (Vec<_>, Vec<_>) = to.iter().copied().partition(limited);
        for target in limited {
            let max = self.paths.limit(target.addr).unwrap_or(full);
            let room = max.saturating_sub(full - self.dissemination.max_in_packet());
            let (small, large): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(|message| message.len() <= room);
            if !large.is_empty() {
                // They get their own route, or an empty one, whatever stands before them in the queue.
                let route = route.clone().unwrap_or_else(Route::none);
                self.send_queues.push_small(target.addr, [route].into_iter().chain(large));
                self.send_queued(self.now, target.addr);
            }
            if !small.is_empty() {
                self.send_packets(&[target], max, route.clone(), small);
            }
        }
        if !well.is_empty() {
            self.send_packets(&well, full, route, messages);
        }
    }

    /// A member of ours does not seem to get packets, or its packets do not arrive here.
    pub(super) fn check_path(&mut self, now: Instant, to: SocketAddr) {
        // A large message takes its time, and everything after it waits.
        if !self.send_queues.is_sending_large(to) {
            self.search_path(now, to, SearchReason::Silence);
        }
    }

    /// Begins a search, unless one is under way or was done lately.
    fn search_path(&mut self, now: Instant, to: SocketAddr, why: SearchReason) {
        let known = self.membership.find_addr(to);
        if !known.is_some_and(|record| record.is_live() && probes_paths(record.versions)) {
            return;
        }
        let (full, nonce) = (self.tuning.udp_buffer_size, self.rng.next_u64());
        match self.paths.0.entry(to) {
            Entry::Vacant(entry) => _ = entry.insert(Path::search(now, why, full, nonce)),
            Entry::Occupied(mut entry) => entry.get_mut().reconsider(now, why, full, nonce),
        }
        self.step_path(now, to);
    }

    /// Does what is due for all paths.
    pub(super) fn step_paths(&mut self, now: Instant) {
        let due = self.paths.0.iter().filter(|(_, path)| path.due() <= now).map(|(addr, _)| *addr);
        for addr in due.collect::<Vec<_>>() {
            let nonce = self.rng.next_u64();
            if let Some(path) = self.paths.0.get_mut(&addr)
                && matches!(path.phase, PathPhase::Resting { .. })
                && path.max < self.tuning.udp_buffer_size
            {
                path.search_again(now, nonce);
            }
            self.step_path(now, addr);
        }
    }

    fn step_path(&mut self, now: Instant, to: SocketAddr) {
        let full = self.tuning.udp_buffer_size;
        let round_time = self.tuning.probe_timeout / ROUND;
        let Some(path) = self.paths.0.get_mut(&to) else { return };
        let (step, nonce) = (path.step(now, full, round_time), path.nonce);
        if step.done {
            self.paths.0.remove(&to);
        }
        let (name, target) = match self.membership.find_addr(to) {
            Some(record) => (record.name.clone(), Target::from(record)),
            None => return self.forget_path(to),
        };
        if let Some(reach) = step.reported {
            self.events.push_back(Event::ReachChanged { name, addr: to, reach: self.with_envelope(reach) });
        }
        let me = self.me().name.clone();
        let probe = |size| PathMessage::Probe { nonce, size, by_stream: step.by_stream, from: me.as_bytes() }.encode();
        for size in step.probes {
            self.transmit(target, &[probe(size)]);
        }
        if step.stream_probe {
            self.send_queues.push_small(to, [probe(0)]);
            self.send_queued(now, to);
        }
        self.schedule_paths();
    }

    fn schedule_paths(&mut self) {
        match self.paths.0.values().map(Path::due).min() {
            Some(due) => self.timers.set(Timer::Paths, due),
            None => self.timers.cancel(&Timer::Paths),
        }
    }

    /// Forgets the path to a member that is gone or has moved.
    pub(super) fn forget_path(&mut self, to: SocketAddr) {
        self.send_queues.drop_waiting(to);
        if self.paths.0.remove(&to).is_some() {
            self.schedule_paths();
        }
    }

    /// Handles a user message that came over a stream.
    pub(super) fn handle_stream_user_message(&mut self, now: Instant, peer: SocketAddr, payload: &Bytes) {
        if !is_bundle(payload) {
            return self.handle_user_message(now, peer, payload, &mut Route::default());
        }
        let (from, parts) = match PathMessage::decode(payload) {
            Some(PathMessage::Bundle { from, parts }) => (from, parts),
            _ => return self.reject_path_message(now, peer, payload),
        };
        let sender = self.member_of_paths(from).map(Record::addr).filter(|addr| addr.ip() == peer.ip());
        if let Some(addr) = sender {
            self.search_path(now, addr, SearchReason::Reported);
        }
        let (from, mut route, mut messages) = (sender.unwrap_or(peer), Route::default(), Vec::new());
        for part in parts {
            if let Err(error) = packet::decode(&payload.slice_ref(part), &mut messages) {
                self.reject(now, from, RejectionCause::Message, &error);
            }
            for message in messages.drain(..) {
                self.handle_bundled(now, from, message, &mut route);
            }
        }
    }

    /// Handles one message of a bundle.
    fn handle_bundled(&mut self, now: Instant, from: SocketAddr, message: Message, route: &mut Route) {
        match message {
            Message::User(payload) if is_path_message(&payload) => self.handle_path_message(now, from, &payload, true),
            Message::User(payload) => self.handle_user_message(now, from, &payload, route),
            // These ask for packets, which are not expected over streams.
            Message::Ping(_) | Message::IndirectPing(_) => self.metrics.over_limit.pings += 1,
            message => {
                // A sender that introduces itself first is a member for what follows.
                if let Err(refusal) = self.membership.handle(now, from, message) {
                    self.reject(now, from, RejectionCause::Member, &refusal);
                }
                self.process_outputs(now);
            }
        }
    }

    /// Handles a probe or a reply.
    pub(super) fn handle_path_message(&mut self, now: Instant, from: SocketAddr, payload: &Bytes, over_stream: bool) {
        match PathMessage::decode(payload) {
            Some(PathMessage::Probe { nonce, size, by_stream, from: name }) => {
                // A sender that is not known yet as a member asks again.
                let Some(record) = self.member_of_paths(name) else { return };
                let (target, addr) = (Target::from(record), record.addr());
                let answer = PathMessage::ProbeReply { nonce, size }.encode();
                if !over_stream {
                    self.transmit(target, std::slice::from_ref(&answer));
                }
                if over_stream || by_stream {
                    self.search_path(now, addr, SearchReason::Reported);
                    self.send_queues.push_small(addr, [answer]);
                    self.send_queued(now, addr);
                }
            }
            Some(PathMessage::ProbeReply { nonce, size }) => {
                let found = self.paths.0.iter_mut().find(|(_, path)| path.nonce == nonce);
                let Some((&addr, path)) = found else { return };
                path.handle_reply(size.min(self.tuning.udp_buffer_size));
                self.step_path(now, addr);
            }
            Some(PathMessage::Bundle { .. }) | None => self.reject_path_message(now, from, payload),
        }
    }

    fn member_of_paths(&self, name: &[u8]) -> Option<&Record> {
        let record = self.membership.get(name).filter(|record| record.is_live() && probes_paths(record.versions))?;
        (record.name != self.me().name).then_some(record)
    }

    fn reject_path_message(&mut self, now: Instant, from: SocketAddr, payload: &Bytes) {
        let reason = format_args!("a message of {} bytes about the path to here cannot be read", payload.len());
        self.reject(now, from, RejectionCause::Message, &reason);
    }

    /// Bundles messages into one.
    pub(super) fn bundle(&self, messages: &[Bytes]) -> Bytes {
        let parts = messages.iter().map(|message| &message[..]).collect();
        PathMessage::Bundle { from: self.me().name.as_bytes(), parts }.encode().slice(1..)
    }
}

#[cfg(test)]
mod tests;
