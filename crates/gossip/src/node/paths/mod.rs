//! What datagrams can do on the way to each member: arrive, arrive up to a size, or not at all.
//!
//! Firewalls drop UDP and let TCP pass, in one direction or in both; tunnels drop large packets and tell
//! nobody (RFC 2923). Either way members stay alive, as pings go over TCP then, and messages do not arrive.
//! What a path carries is found out as in packetization-layer path MTU discovery for datagrams (RFC 8899),
//! but only where something does not work: there is no [`Path`], and no packet, for a member that is well.
//!
//! # On the wire
//!
//! These are control messages, and go only to nodes that [understand them](probes_paths).
//!
//! | message | says |
//! |---|---|
//! | `Probe` | a nonce, the probe's own size, who asks, whether the answer is wanted over a stream as well; then nothing, to fill the packet |
//! | `Answer` | the nonce, and the size of the probe that has arrived |
//! | `Bundle` | over a stream: who sends it, and messages as they would stand in packets |
//!
//! # States of a path
//!
//! ```text
//!            suspicion                     calm for a while
//!   (well) ────────────► searching       ┌──────────────────► (well)
//!                         ▲     │        │
//!           pause is over │     ▼        │
//!                         └── resting ───┘
//! ```
//!
//! *Suspicion*: a member is reminded several times of what it does not acknowledge; its answer to a ping came
//! over TCP alone; it asks for an answer over a stream, or sends a bundle, as packets of this node do not arrive
//! there. In the last case what is sent meanwhile goes over streams, as an answer is wanted now.
//!
//! *Searching* goes in [`ROUNDS`]: a probe of the full size and one of the least; once one was answered, one of
//! each size between that and the full one. From the third round on the answer is wanted over a stream, too,
//! and probes go over streams until anything is answered: only where that is answered do streams reach the member,
//! and is it taken for one that packets do not reach. One that is stopped, or cut off, is neither.
//!
//! *Resting*: packets are as large as was answered, and what does not fit goes over streams; if no size was,
//! everything goes over streams, in bundles. After a pause that doubles up to [`LONGEST_PAUSE`] it is searched
//! again, so that packets are used again soon after they can be. One that is well rests, too, before it is
//! forgotten: where a link is so slow that answers come late, searches would keep it so.
//!
//! # What can go wrong
//!
//! - *Loss* looks like a path that is blocked, where some eight probes in a row get lost. Messages go over TCP
//!   then until the next search.
//! - *A forged answer* has to know the nonce. *A forged probe* has a member answered with less than it took to
//!   ask, and once over a stream.
//! - *A bundle in another's name* counts only from the address which that one advertises; from elsewhere its
//!   messages are those of a stranger.

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
pub(super) use self::message::{is_one, talk_of};
use super::{Cause, Event, Node, Reach, Timer};
use crate::{
    dissemination::{Route, probes_paths},
    membership::{Record, Target},
    wire::{Message, packet},
};

/// Sizes of packets that are tried, in bytes: what the usual links and tunnels leave of a packet for UDP, over
/// IPv4 or IPv6. RFC 1191 has such a table. The last one arrives wherever IPv4 does.
const PLATEAUS: [usize; 12] = [32_000, 16_000, 8_900, 4_300, 2_000, 1_452, 1_392, 1_352, 1_232, 1_132, 1_006, LEAST];
const LEAST: usize = 508;
/// Rounds of probes that are not answered before that is believed, and that follow a first answer.
const ROUNDS: u32 = 4;
/// In which round answers over a stream are asked for.
const STREAM_ROUND: u32 = 2;
/// How much longer a round is than this part of the time a ping may take.
const ROUND: u32 = 4;
/// How long one that was found to be well is not searched again: the member is slow. If there is reason to soon
/// after, twice as long the next time.
const WELL_PAUSE: Duration = Duration::from_secs(4);
/// How long a path rests; each time it is no better, twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The same where nothing is known to be wrong: UDP may be blocked meanwhile.
const DOUBT_PAUSE: Duration = Duration::from_secs(8);
/// Parts of a bundle at most.
const MAX_PARTS: usize = 1 << 14;

/// See the [module](self).
#[derive(Debug)]
struct Path {
    /// Packets may be that large; 0 if none go.
    max: usize,
    phase: Phase,
    /// Of the last search: what answers have to know, the largest size answered, and whether anything was.
    nonce: u64,
    best: usize,
    answered: bool,
    /// Whether the member said that it does not get packets, as it may go on doing for reasons of its own.
    by_member: bool,
    pause: Duration,
    told: Reach,
}

#[derive(Debug)]
enum Phase {
    Searching {
        /// The rounds that were sent, and that are left.
        round: u32,
        left: u32,
        due: Instant,
    },
    Resting {
        until: Instant,
    },
}

/// Why a path is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// What is sent there is not acknowledged, or not at once.
    Silence,
    /// The member does without packets itself, or asks for an answer over a stream.
    Told,
}

/// What is to be done about a path.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    /// Probes of these sizes, and whether the answers are wanted over a stream as well.
    probes: Vec<usize>,
    by_stream: bool,
    /// A probe over a stream.
    stream_probe: bool,
    /// The application is to know that it is reached differently.
    told: Option<Reach>,
    /// The path is well.
    done: bool,
}

impl Path {
    fn search(now: Instant, why: Suspicion, full: usize, nonce: u64) -> Self {
        Self {
            max: if why == Suspicion::Told { 0 } else { full },
            by_member: why == Suspicion::Told,
            phase: Phase::Searching { round: 0, left: ROUNDS, due: now },
            nonce,
            best: 0,
            answered: false,
            pause: FIRST_PAUSE,
            told: Reach::Datagrams,
        }
    }

    fn due(&self) -> Instant {
        match self.phase {
            Phase::Searching { due, .. } => due,
            // One that is well is remembered for a while.
            Phase::Resting { until } if self.told == Reach::Datagrams => until + self.pause,
            Phase::Resting { until } => until,
        }
    }

    /// There is reason to look again while it rests.
    fn suspect(&mut self, now: Instant, why: Suspicion, full: usize, nonce: u64) {
        let Phase::Resting { until } = self.phase else { return };
        match why {
            Suspicion::Silence if self.max >= full && until <= now => self.search_again(now, nonce),
            // One that gets no packets is looked at when its pause is over; so is one that did not answer at all.
            Suspicion::Silence if (1..full).contains(&self.best) || (self.by_member && self.best > 0) => {
                self.by_member = false;
                self.search_again(now, nonce);
            }
            Suspicion::Told if self.best == 0 && self.max >= full && until <= now => {
                (self.max, self.by_member) = (0, true);
                self.search_again(now, nonce);
            }
            _ => {}
        }
    }

    /// Searches again, and keeps what is known until it knows more.
    fn search_again(&mut self, now: Instant, nonce: u64) {
        (self.nonce, self.best, self.answered) = (nonce, 0, false);
        self.phase = Phase::Searching { round: 0, left: ROUNDS, due: now };
    }

    /// A probe of this size was answered; over a stream it has none.
    fn answer(&mut self, size: usize) {
        self.answered = true;
        if self.best == 0
            && size > 0
            && let Phase::Searching { left, .. } = &mut self.phase
        {
            *left = ROUNDS;
        }
        self.best = self.best.max(size);
        // What is known to arrive may be used at once.
        self.max = self.max.max(self.best);
    }

    /// Does what is due. `full` is the size of packets, `round_time` how long an answer is waited for.
    fn step(&mut self, now: Instant, full: usize, round_time: Duration) -> Step {
        if self.best >= full && (matches!(self.phase, Phase::Searching { .. }) || self.told != Reach::Datagrams) {
            let told = (std::mem::take(&mut self.told) != Reach::Datagrams).then_some(Reach::Datagrams);
            self.max = full;
            // It is not to be searched with each reminder, nor with each bundle that comes.
            let (least, most) = if self.by_member { (LONGEST_PAUSE, LONGEST_PAUSE) } else { (WELL_PAUSE, DOUBT_PAUSE) };
            self.rest(now, least, most);
            return Step { told, ..Step::default() };
        }
        let (round, left, due) = match &mut self.phase {
            // An answer over a stream came after it had been given up: it takes two connections.
            Phase::Resting { .. } if self.answered && self.best == 0 && self.max >= full => {
                return self.judge(now, full);
            }
            Phase::Resting { until } => {
                let done = *until + self.pause <= now && self.max >= full;
                return Step { done, ..Step::default() };
            }
            Phase::Searching { round, left, due } => (round, left, due),
        };
        if *due > now {
            return Step::default();
        }
        if *left == 0 {
            return self.judge(now, full);
        }
        *left -= 1;
        *due = now + round_time;
        let number = std::mem::replace(round, *round + 1);
        // First whether anything arrives, then how much.
        let above = if self.best == 0 { LEAST } else { self.best + 1 };
        let wanted = |size: &usize| (above..full).contains(size) && (self.best > 0 || *size == LEAST);
        Step {
            probes: [full].into_iter().chain(PLATEAUS.into_iter().filter(wanted)).collect(),
            by_stream: number >= STREAM_ROUND && self.best == 0,
            stream_probe: number >= STREAM_ROUND && !self.answered,
            ..Step::default()
        }
    }

    /// The search is over.
    fn judge(&mut self, now: Instant, full: usize) -> Step {
        if !self.answered {
            // Nothing arrives there, or nobody is: what was known goes on, and else there is nothing to know.
            if self.told == Reach::Datagrams {
                self.max = full;
            }
            self.rest(now, FIRST_PAUSE, DOUBT_PAUSE);
            return Step::default();
        }
        self.max = self.best;
        let reach = if self.best == 0 { Reach::Streams } else { Reach::SmallDatagrams(self.best) };
        let told = (std::mem::replace(&mut self.told, reach) != reach).then_some(reach);
        self.rest(now, FIRST_PAUSE, LONGEST_PAUSE);
        Step { told, ..Step::default() }
    }

    /// The next rest is longer: searches are not to keep a link busy that is slow already.
    fn rest(&mut self, now: Instant, least: Duration, most: Duration) {
        self.phase = Phase::Resting { until: now + self.pause.clamp(least, most) };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// The paths that are not known to be well, by where they lead.
#[derive(Debug, Default)]
pub(super) struct Paths(BTreeMap<SocketAddr, Path>);

impl Paths {
    /// How large packets there may be, if they may not have the full size.
    fn limit(&self, to: SocketAddr) -> Option<usize> {
        // As good as always nothing is remembered.
        if self.0.is_empty() { None } else { self.0.get(&to).map(|path| path.max) }
    }
}

impl Node {
    /// How a member is reached, as far as that is certain.
    pub(super) fn reach(&self, to: SocketAddr) -> Reach {
        self.outwardly(self.paths.0.get(&to).map(|path| path.told).unwrap_or_default())
    }

    /// How many members are reached over streams only, and how many by small packets.
    pub(super) fn unusually_reached(&self) -> (usize, usize) {
        let by = |wanted: fn(Reach) -> bool| self.paths.0.values().filter(|path| wanted(path.told)).count();
        (by(|reach| reach == Reach::Streams), by(|reach| matches!(reach, Reach::SmallDatagrams(_))))
    }

    /// With the envelope's part of the size.
    fn outwardly(&self, reach: Reach) -> Reach {
        match reach {
            Reach::SmallDatagrams(max) => Reach::SmallDatagrams(max + self.sealer.envelope.packet_overhead()),
            reach => reach,
        }
    }

    /// How large the packets are that a member gets.
    pub(super) fn packet_size(&self, to: SocketAddr) -> usize {
        // Pings go all the same: they tell whether packets arrive.
        let limit = self.paths.limit(to).filter(|limit| *limit > 0);
        limit.map_or(self.tuning.udp_buffer_size, |limit| limit.min(self.tuning.udp_buffer_size))
    }

    /// Sends messages to each of some nodes, `route` in front of each packet, in the way each is reached.
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
                // Whatever came before them in the queue, these have their own route, or none.
                let route = route.clone().unwrap_or_else(Route::none);
                self.send_queues.push_small(target.addr, [route].into_iter().chain(large));
                self.send_waiting(self.now, target.addr);
            }
            if !small.is_empty() {
                self.send_packets(&[target], max, route.clone(), small);
            }
        }
        if !well.is_empty() {
            self.send_packets(&well, full, route, messages);
        }
    }

    /// A member of ours does not seem to get packets, or this node not to get its.
    pub(super) fn suspect_path(&mut self, now: Instant, to: SocketAddr) {
        // What is large takes its time, and all that comes after it waits.
        if !self.send_queues.is_bringing(to) {
            self.search_path(now, to, Suspicion::Silence);
        }
    }

    /// Begins a search, unless there is one or has been of late.
    fn search_path(&mut self, now: Instant, to: SocketAddr, why: Suspicion) {
        let known = self.membership.find_addr(to);
        if !known.is_some_and(|record| record.is_live() && probes_paths(record.versions)) {
            return;
        }
        let (full, nonce) = (self.tuning.udp_buffer_size, self.rng.next_u64());
        match self.paths.0.entry(to) {
            Entry::Vacant(entry) => _ = entry.insert(Path::search(now, why, full, nonce)),
            Entry::Occupied(mut entry) => entry.get_mut().suspect(now, why, full, nonce),
        }
        self.step_path(now, to);
    }

    /// Does what is due for all paths.
    pub(super) fn step_paths(&mut self, now: Instant) {
        let due = self.paths.0.iter().filter(|(_, path)| path.due() <= now).map(|(addr, _)| *addr);
        for addr in due.collect::<Vec<_>>() {
            let nonce = self.rng.next_u64();
            if let Some(path) = self.paths.0.get_mut(&addr)
                && matches!(path.phase, Phase::Resting { .. })
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
        if let Some(reach) = step.told {
            self.events.push_back(Event::ReachChanged { name, addr: to, reach: self.outwardly(reach) });
        }
        let me = self.me().name.clone();
        let probe = |size| PathMessage::Probe { nonce, size, by_stream: step.by_stream, from: me.as_bytes() }.encode();
        for size in step.probes {
            self.transmit(target, &[probe(size)]);
        }
        if step.stream_probe {
            self.send_queues.push_small(to, [probe(0)]);
            self.send_waiting(now, to);
        }
        self.schedule_paths();
    }

    fn schedule_paths(&mut self) {
        match self.paths.0.values().map(Path::due).min() {
            Some(due) => self.timers.set(Timer::Paths, due),
            None => self.timers.cancel(&Timer::Paths),
        }
    }

    /// A member is gone, or has moved: what comes next is looked at afresh.
    pub(super) fn forget_path(&mut self, to: SocketAddr) {
        self.send_queues.drop_waiting(to);
        if self.paths.0.remove(&to).is_some() {
            self.schedule_paths();
        }
    }

    /// Takes a user message that came over a stream.
    pub(super) fn hear_over_stream(&mut self, now: Instant, peer: SocketAddr, payload: &Bytes) {
        if !is_bundle(payload) {
            return self.hear(now, peer, payload, &mut Route::default());
        }
        let (from, parts) = match PathMessage::decode(payload) {
            Some(PathMessage::Bundle { from, parts }) => (from, parts),
            _ => return self.reject_path_message(now, peer, payload),
        };
        let sender = self.member_of_paths(from).map(Record::addr).filter(|addr| addr.ip() == peer.ip());
        if let Some(addr) = sender {
            self.search_path(now, addr, Suspicion::Told);
        }
        let (from, mut route, mut messages) = (sender.unwrap_or(peer), Route::default(), Vec::new());
        for part in parts {
            if let Err(error) = packet::decode(&payload.slice_ref(part), &mut messages) {
                self.reject(now, from, Cause::Message, &error);
            }
            for message in messages.drain(..) {
                self.hear_bundled(now, from, message, &mut route);
            }
        }
    }

    /// Takes what may stand in a packet.
    fn hear_bundled(&mut self, now: Instant, from: SocketAddr, message: Message, route: &mut Route) {
        match message {
            Message::User(payload) if is_one(&payload) => self.hear_of_path(now, from, &payload, true),
            Message::User(payload) => self.hear(now, from, &payload, route),
            // Those ask for packets, of which none are expected over streams.
            Message::Ping(_) | Message::IndirectPing(_) => self.metrics.over_limit.pings += 1,
            message => {
                // Who introduces itself, and goes on, is to be heard as the member it has become.
                if let Err(refusal) = self.membership.handle(now, from, message) {
                    self.reject(now, from, Cause::Member, &refusal);
                }
                self.settle(now);
            }
        }
    }

    /// Takes a probe or an answer.
    pub(super) fn hear_of_path(&mut self, now: Instant, from: SocketAddr, payload: &Bytes, over_stream: bool) {
        match PathMessage::decode(payload) {
            Some(PathMessage::Probe { nonce, size, by_stream, from: name }) => {
                // Who is not known yet as a member asks again.
                let Some(record) = self.member_of_paths(name) else { return };
                let (target, addr) = (Target::from(record), record.addr());
                let answer = PathMessage::Answer { nonce, size }.encode();
                if !over_stream {
                    self.transmit(target, std::slice::from_ref(&answer));
                }
                if over_stream || by_stream {
                    self.search_path(now, addr, Suspicion::Told);
                    self.send_queues.push_small(addr, [answer]);
                    self.send_waiting(now, addr);
                }
            }
            Some(PathMessage::Answer { nonce, size }) => {
                let found = self.paths.0.iter_mut().find(|(_, path)| path.nonce == nonce);
                let Some((&addr, path)) = found else { return };
                path.answer(size.min(self.tuning.udp_buffer_size));
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
        self.reject(now, from, Cause::Message, &reason);
    }

    /// One message of many.
    pub(super) fn bundle(&self, messages: &[Bytes]) -> Bytes {
        let parts = messages.iter().map(|message| &message[..]).collect();
        PathMessage::Bundle { from: self.me().name.as_bytes(), parts }.encode().slice(1..)
    }
}

#[cfg(test)]
mod tests;
