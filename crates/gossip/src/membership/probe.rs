//! Probing: one member each interval, first directly, then through others and over a stream, which gets
//! through where many packets are lost.
//!
//! SWIM section 3.1, with Lifeguard's nacks (section IV-A) and its buddy rule (section IV-C: a suspected
//! member is told of the suspicion in the very packet that probes it).
//!
//! There are two rounds of probes: one over the members that are proven, and one, as fast and beside it, over those that
//! have never answered ([`newcomers`](super::newcomers)). What comes of the second says nothing of this node's health.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{Event, MemberState, Membership, NodeName, Output, Record, Refusal, Target, Timer};
use crate::wire::{Ack, IndirectPing, Message, Nack, Ping, Source, Suspect, limits, packet};

/// From this protocol version on a peer sends nacks.
const NACK_PROTOCOL: u8 = 4;
/// From this protocol version on a peer answers pings over streams.
pub(super) const STREAM_PING_PROTOCOL: u8 = 3;
/// How many indirect pings are under way for others at most.
const MAX_RELAYS: usize = 1024;

/// Whose turns follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Round {
    Proven,
    Newcomers,
}

const ROUNDS: [Round; 2] = [Round::Proven, Round::Newcomers];

/// The probe under way in a round.
#[derive(Debug)]
pub(super) struct Probe {
    target: NodeName,
    /// The life of the target that is probed.
    incarnation: u32,
    seq: u32,
    sent: Instant,
    /// Whether others, and a stream, have been tried as well.
    is_indirect: bool,
    nacks_expected: u32,
    nacks: u32,
}

/// Where a packet goes that is not of this node's own choice. One that is no member gets no more than it
/// asked for: what is queued is told so often and no more, and must not be spent on strangers.
#[derive(Clone, Copy, Debug)]
struct Peer {
    to: Target,
    is_member: bool,
}

/// A ping sent for another node.
#[derive(Debug)]
pub(super) struct Relay {
    asker: Peer,
    seq: u32,
    nack: bool,
}

impl Peer {
    fn stranger(addr: SocketAddr) -> Self {
        Self { to: Target::unknown(addr), is_member: false }
    }
}

impl Membership {
    pub(super) fn next_probe(&mut self, now: Instant) {
        self.timers.set(Timer::Probe, now + self.tuning.probe_interval);
        for round in ROUNDS {
            // A probe that takes longer than its interval, because this node is slow, delays the next.
            if self.probes[round as usize].is_none()
                && let Some(name) = self.next_in(now, round)
            {
                self.start_probe(now, round, &name);
            }
        }
    }

    /// Whose turn it is in a round.
    fn next_in(&mut self, now: Instant, round: Round) -> Option<NodeName> {
        if let Some(name) = self.next_of_rest(round) {
            return Some(name);
        }
        self.probe_places[round as usize] = 0;
        if round == Round::Proven {
            self.begin_round(now);
        }
        self.next_of_rest(round)
    }

    /// The same, as far as the round under way still goes.
    fn next_of_rest(&mut self, round: Round) -> Option<NodeName> {
        let (proven, all) = (self.members.proven(), self.members.len());
        let range = if round == Round::Proven { 0..proven } else { proven..all };
        let place = &mut self.probe_places[round as usize];
        *place = (*place).max(range.start);
        while *place < range.end {
            let record = self.members.at(*place)?;
            *place += 1;
            if record.name != self.me && record.is_live() {
                return Some(record.name.clone());
            }
        }
        None
    }

    /// All proven members have been probed: forget those long gone, and take a new random order.
    fn begin_round(&mut self, now: Instant) {
        let remember = self.tuning.gossip_to_the_dead;
        // A node that leaves goes on knowing itself.
        let me = &self.me;
        let keep = |record: &Record, gone_for| record.name == *me || record.is_live() || gone_for <= remember;
        self.members.retain_and_shuffle(now, keep, &mut self.rng);
    }

    fn start_probe(&mut self, now: Instant, round: Round, name: &NodeName) {
        self.counting.begin_probe(self.awareness.score() > 0);
        let seq = self.next_seq();
        let source = Some(self.source());
        let Some(record) = self.members.get(name.as_bytes()) else { return };
        let node = Bytes::copy_from_slice(name.as_bytes());
        let incarnation = record.incarnation;
        let ping = Message::Ping(Ping { seq, node: node.clone(), source });
        let mut messages = vec![packet::encode_message(&ping)];
        let told = record.state() != MemberState::Alive && self.tuning.buddy;
        if told {
            let from = Bytes::copy_from_slice(self.me.as_bytes());
            messages.push(packet::encode_message(&Message::Suspect(Suspect { incarnation, node, from })));
        }
        let piggyback = !told && round == Round::Proven;
        self.outputs.push_back(Output::Packet { to: record.into(), messages, piggyback });
        self.probes[round as usize] = Some(Probe {
            target: name.clone(),
            incarnation,
            seq,
            sent: now,
            is_indirect: false,
            nacks_expected: 0,
            nacks: 0,
        });
        self.timers.set(Timer::ProbeTimeout(round), now + self.tuning.probe_timeout);
        self.timers.set(Timer::ProbeEnd(round), now + self.awareness.scale(self.tuning.probe_interval));
    }

    /// No answer yet: asks others to try.
    pub(super) fn probe_others(&mut self, round: Round) {
        let source = self.source();
        let Some(probe) = &mut self.probes[round as usize] else { return };
        probe.is_indirect = true;
        let Some(target) = self.members.get(probe.target.as_bytes()) else { return };
        let (me, target_name) = (&self.me, &probe.target);
        let allowed =
            |record: &Record| record.name != *me && record.name != *target_name && record.state() == MemberState::Alive;
        for helper in self.members.random(self.tuning.indirect_checks, &mut self.rng, allowed) {
            let nack = helper.versions[1] >= NACK_PROTOCOL;
            probe.nacks_expected += u32::from(nack);
            let ping = IndirectPing {
                seq: probe.seq,
                target: target.address(),
                node: Bytes::copy_from_slice(target.name.as_bytes()),
                nack,
                source: Some(source.clone()),
            };
            let messages = vec![packet::encode_message(&Message::IndirectPing(ping))];
            self.outputs.push_back(Output::Packet { to: helper.into(), messages, piggyback: true });
        }
        if let Some(until) = self.timers.get(&Timer::ProbeEnd(round))
            && target.versions[1] >= STREAM_PING_PROTOCOL
        {
            let node = Bytes::copy_from_slice(target.name.as_bytes());
            let ping = Ping { seq: probe.seq, node, source: Some(source) };
            self.outputs.push_back(Output::StreamPing { to: target.addr(), ping, until });
        }
    }

    pub(super) fn fail_probe(&mut self, now: Instant, round: Round) {
        let Some(probe) = self.probes[round as usize].take() else { return };
        self.counting.end_probe(now, probe.sent, false);
        if round == Round::Proven {
            // Nacks that did not come say that this node, not the target, is cut off.
            let missed = probe.nacks_expected.saturating_sub(probe.nacks);
            let delta = if probe.nacks_expected > 0 { i32::try_from(missed).unwrap_or(i32::MAX) } else { 1 };
            self.awareness.apply(delta);
        }
        let node = Bytes::copy_from_slice(probe.target.as_bytes());
        let from = Bytes::copy_from_slice(self.me.as_bytes());
        self.suspect(now, &Suspect { incarnation: probe.incarnation, node, from });
    }

    pub(super) fn handle_ping(&mut self, from: SocketAddr, ping: &Ping) -> Result<(), Refusal> {
        if !ping.node.is_empty() && *ping.node != *self.me.as_bytes() {
            return Err(Refusal::NotMe(NodeName::from(&*ping.node)));
        }
        let ack = Message::Ack(Ack { seq: ping.seq, payload: self.ack_payload.clone() });
        self.send(self.asker(from, ping.source.as_ref()), &ack);
        Ok(())
    }

    pub(super) fn handle_indirect_ping(
        &mut self,
        now: Instant,
        from: SocketAddr,
        ask: &IndirectPing,
    ) -> Result<(), Refusal> {
        let asker = self.asker(from, ask.source.as_ref());
        let target = self.member_at(&ask.node, ask.target.socket_addr());
        // Strangers do not get packets sent to whomever they name.
        let target = match target {
            None if !asker.is_member => return Err(Refusal::Errand(ask.target.socket_addr())),
            target => target.unwrap_or_else(|| Peer::stranger(ask.target.socket_addr())),
        };
        if self.relays.len() >= MAX_RELAYS {
            self.counting.overflow.relays += 1;
            return Ok(());
        }
        let seq = self.next_seq();
        self.relays.insert(seq, Relay { asker, seq: ask.seq, nack: ask.nack });
        // The asker waits for as long as it waited itself; a nack on the last moment would be late.
        self.timers.set(Timer::Relay(seq), now + self.tuning.probe_timeout.mul_f64(0.8));
        let ping = Message::Ping(Ping { seq, node: ask.node.clone(), source: Some(self.source()) });
        self.send(target, &ping);
        Ok(())
    }

    pub(super) fn handle_ack(&mut self, now: Instant, ack: &Ack) -> Result<(), Refusal> {
        if let Some(relay) = self.relays.remove(&ack.seq) {
            self.timers.cancel(&Timer::Relay(ack.seq));
            let ack = Message::Ack(Ack { seq: relay.seq, payload: Bytes::new() });
            self.send(relay.asker, &ack);
            return Ok(());
        }
        if let Some(name) = self.newcomers.answered(ack.seq) {
            self.prove(&name);
            return Ok(());
        }
        let Some(round) = self.probed_with(ack.seq) else { return Ok(()) };
        let Some(probe) = self.probes[round as usize].take() else { return Ok(()) };
        self.timers.cancel(&Timer::ProbeTimeout(round));
        self.timers.cancel(&Timer::ProbeEnd(round));
        self.prove(&probe.target);
        if round == Round::Proven {
            self.awareness.apply(-1);
        }
        self.counting.end_probe(now, probe.sent, true);
        // Once others have been asked, nobody knows which way the answer went.
        if probe.is_indirect { Ok(()) } else { self.measure(now, probe, &ack.payload) }
    }

    /// In which round a probe of this number is under way.
    fn probed_with(&self, seq: u32) -> Option<Round> {
        let is_it = |round: &Round| self.probes[*round as usize].as_ref().is_some_and(|probe| probe.seq == seq);
        ROUNDS.into_iter().find(is_it)
    }

    /// A member has answered at once.
    fn measure(
        &mut self,
        now: Instant,
        Probe { target: name, sent, .. }: Probe,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let rtt = now.saturating_duration_since(sent);
        if let Some(record) = self.members.get_mut(name.as_bytes()) {
            record.rtt = rtt.into();
        }
        if !self.report_probes {
            return Ok(());
        }
        let fits = payload.len() <= limits::ACK_PAYLOAD;
        // A copy of its own, lest it keep a whole packet in memory.
        let kept = Bytes::copy_from_slice(if fits { payload } else { &[] });
        self.outputs.push_back(Output::Event(Event::Probed { name: name.clone(), rtt, payload: kept }));
        if fits { Ok(()) } else { Err(Refusal::AckPayload { name, size: payload.len() }) }
    }

    pub(super) fn handle_nack(&mut self, seq: u32) {
        for probe in self.probes.iter_mut().flatten().filter(|probe| probe.seq == seq) {
            probe.nacks += 1;
        }
    }

    pub(super) fn give_up_relay(&mut self, seq: u32) {
        let Some(relay) = self.relays.remove(&seq) else { return };
        if relay.nack {
            self.send(relay.asker, &Message::Nack(Nack { seq: relay.seq }));
        }
    }

    fn send(&mut self, Peer { to, is_member }: Peer, message: &Message) {
        let messages = vec![packet::encode_message(message)];
        self.outputs.push_back(Output::Packet { to, messages, piggyback: is_member });
    }

    /// Who asks: the member it says it is, if it also claims that one's address; else whoever the packet
    /// came from, since anybody can claim an address to have a third party flooded.
    fn asker(&self, from: SocketAddr, source: Option<&Source>) -> Peer {
        let member = source.and_then(|source| self.member_at(&source.node, source.address.socket_addr()));
        member.unwrap_or_else(|| Peer::stranger(from))
    }

    fn member_at(&self, name: &[u8], addr: SocketAddr) -> Option<Peer> {
        let record = self.members.get(name).filter(|record| record.addr() == addr)?;
        Some(Peer { to: record.into(), is_member: true })
    }

    pub(super) fn source(&self) -> Source {
        Source { address: self.me().address(), node: Bytes::copy_from_slice(self.me.as_bytes()) }
    }

    pub(super) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }
}
