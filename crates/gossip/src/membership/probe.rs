//! Probing: one member in each interval, first directly, then through others and over a stream, which gets through where
//! many packets are lost.
//!
//! SWIM section 3.1, with Lifeguard's nacks (section IV-A) and its buddy system (section IV-C: the packet that probes a
//! suspect also tells it of the suspicion).
//!
//! There are two rounds of probes at the same pace: one of proven members, and one of newcomers
//! ([`newcomers`](super::newcomers)). Results of the second say nothing about this node's health.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{Event, MemberState, Membership, MembershipError, MembershipOutput, NodeName, Record, Target, Timer};
use crate::wire::{Ack, IndirectPing, Message, Nack, Ping, Source, Suspect, limits, packet};

/// From this protocol version on a peer sends nacks.
const NACK_PROTOCOL: u8 = 4;
/// From this protocol version on a peer answers pings over streams.
pub(super) const STREAM_PING_PROTOCOL: u8 = 3;
/// How many pings for other nodes can be in progress.
const MAX_RELAYS: usize = 1024;

/// The members that are probed in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProbeRound {
    Proven,
    Newcomers,
}

const ROUNDS: [ProbeRound; 2] = [ProbeRound::Proven, ProbeRound::Newcomers];

/// A probe in progress.
#[derive(Debug)]
pub(super) struct Probe {
    target: NodeName,
    /// The target's incarnation when the probe began.
    incarnation: u32,
    seq: u32,
    sent: Instant,
    /// Whether others were asked, and a stream was tried.
    is_indirect: bool,
    nacks_expected: u32,
    nacks: u32,
}

/// The recipient of a packet that another node has asked for. One that is no member gets no news on top: each piece is sent
/// only so often, which must not be spent on strangers.
#[derive(Clone, Copy, Debug)]
struct Recipient {
    to: Target,
    is_member: bool,
}

/// A ping in progress for another node: memberlist's indirect ping, at the helper.
#[derive(Debug)]
pub(super) struct RelayedPing {
    asker: Recipient,
    seq: u32,
    nack: bool,
}

impl Recipient {
    /// An address that is no member's.
    fn stranger(addr: SocketAddr) -> Self {
        Self { to: Target::unknown(addr), is_member: false }
    }
}

impl Membership {
    /// Begins the next probe of each round.
    pub(super) fn next_probe(&mut self, now: Instant) {
        self.timers.set(Timer::Probe, now + self.tuning.probe_interval);
        for round in ROUNDS {
            // A probe that takes longer than its interval, because this node is slow, delays the next.
            if self.probes[round as usize].is_none()
                && let Some(name) = self.next_target(now, round)
            {
                self.start_probe(now, round, &name);
            }
        }
    }

    /// The next member to probe in a round; at its end, a new one begins.
    fn next_target(&mut self, now: Instant, round: ProbeRound) -> Option<NodeName> {
        if let Some(name) = self.next_in_round(round) {
            return Some(name);
        }
        self.probe_positions[round as usize] = 0;
        if round == ProbeRound::Proven {
            self.begin_round(now);
        }
        self.next_in_round(round)
    }

    /// The next member to probe in the present round; `None` at its end.
    fn next_in_round(&mut self, round: ProbeRound) -> Option<NodeName> {
        let (proven, all) = (self.members.proven(), self.members.len());
        let range = if round == ProbeRound::Proven { 0..proven } else { proven..all };
        let position = &mut self.probe_positions[round as usize];
        *position = (*position).max(range.start);
        while *position < range.end {
            let record = self.members.at(*position)?;
            *position += 1;
            if record.name != self.me && record.is_live() {
                return Some(record.name.clone());
            }
        }
        None
    }

    /// Begins a round of proven members: forgets those that are long gone, and takes a new random order.
    fn begin_round(&mut self, now: Instant) {
        let remember = self.tuning.gossip_to_the_dead;
        // A node that leaves must not forget itself.
        let me = &self.me;
        let keep = |record: &Record, gone_for| record.name == *me || record.is_live() || gone_for <= remember;
        self.members.retain_and_shuffle(now, keep, &mut self.rng);
    }

    fn start_probe(&mut self, now: Instant, round: ProbeRound, name: &NodeName) {
        self.recorder.record_probe_start(self.awareness.score() > 0);
        let seq = self.next_seq();
        let source = Some(self.source());
        let Some(record) = self.members.get(name.as_bytes()) else { return };
        let node = Bytes::copy_from_slice(name.as_bytes());
        let incarnation = record.incarnation;
        let ping = Message::Ping(Ping { seq, node: node.clone(), source });
        let mut messages = vec![packet::encode_message(&ping)];
        let tells_suspicion = record.state() != MemberState::Alive && self.tuning.buddy;
        if tells_suspicion {
            let from = Bytes::copy_from_slice(self.me.as_bytes());
            messages.push(packet::encode_message(&Message::Suspect(Suspect { incarnation, node, from })));
        }
        let piggyback = !tells_suspicion && round == ProbeRound::Proven;
        self.outputs.push_back(MembershipOutput::Packet { to: record.into(), messages, piggyback });
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

    /// Asks others to ping a member that has not answered in time, and tries a stream.
    pub(super) fn probe_indirectly(&mut self, round: ProbeRound) {
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
            self.outputs.push_back(MembershipOutput::Packet { to: helper.into(), messages, piggyback: true });
        }
        if let Some(until) = self.timers.get(&Timer::ProbeEnd(round))
            && target.versions[1] >= STREAM_PING_PROTOCOL
        {
            let node = Bytes::copy_from_slice(target.name.as_bytes());
            let ping = Ping { seq: probe.seq, node, source: Some(source) };
            self.outputs.push_back(MembershipOutput::StreamPing { to: target.addr(), ping, until });
        }
    }

    /// Ends a probe without an answer: its target is suspected.
    pub(super) fn fail_probe(&mut self, now: Instant, round: ProbeRound) {
        let Some(probe) = self.probes[round as usize].take() else { return };
        self.recorder.record_probe_end(now, probe.sent, false);
        if round == ProbeRound::Proven {
            // If nacks are missing, this node is cut off, not the target.
            let missed = probe.nacks_expected.saturating_sub(probe.nacks);
            let delta = if probe.nacks_expected > 0 { i32::try_from(missed).unwrap_or(i32::MAX) } else { 1 };
            self.awareness.apply(delta);
        }
        let node = Bytes::copy_from_slice(probe.target.as_bytes());
        let from = Bytes::copy_from_slice(self.me.as_bytes());
        self.suspect_node(now, &Suspect { incarnation: probe.incarnation, node, from });
    }

    pub(super) fn handle_ping(&mut self, from: SocketAddr, ping: &Ping) -> Result<(), MembershipError> {
        if !ping.node.is_empty() && *ping.node != *self.me.as_bytes() {
            return Err(MembershipError::PingForOther(NodeName::from(&*ping.node)));
        }
        let ack = Message::Ack(Ack { seq: ping.seq, payload: self.ack_payload.clone() });
        self.send_message(self.reply_recipient(from, ping.source.as_ref()), &ack);
        Ok(())
    }

    pub(super) fn handle_indirect_ping(
        &mut self,
        now: Instant,
        from: SocketAddr,
        ask: &IndirectPing,
    ) -> Result<(), MembershipError> {
        let asker = self.reply_recipient(from, ask.source.as_ref());
        let target = self.member_at(&ask.node, ask.target.socket_addr());
        // A stranger could have packets sent to any address.
        let target = match target {
            None if !asker.is_member => return Err(MembershipError::RelayForStranger(ask.target.socket_addr())),
            target => target.unwrap_or_else(|| Recipient::stranger(ask.target.socket_addr())),
        };
        if self.relays.len() >= MAX_RELAYS {
            self.recorder.overflow.relays += 1;
            return Ok(());
        }
        let seq = self.next_seq();
        self.relays.insert(seq, RelayedPing { asker, seq: ask.seq, nack: ask.nack });
        // The asker waits as long again; a nack at the last moment would be late.
        self.timers.set(Timer::Relay(seq), now + self.tuning.probe_timeout.mul_f64(0.8));
        let ping = Message::Ping(Ping { seq, node: ask.node.clone(), source: Some(self.source()) });
        self.send_message(target, &ping);
        Ok(())
    }

    pub(super) fn handle_ack(&mut self, now: Instant, ack: &Ack) -> Result<(), MembershipError> {
        if let Some(relay) = self.relays.remove(&ack.seq) {
            self.timers.cancel(&Timer::Relay(ack.seq));
            let ack = Message::Ack(Ack { seq: relay.seq, payload: Bytes::new() });
            self.send_message(relay.asker, &ack);
            return Ok(());
        }
        if let Some(name) = self.newcomers.take_answered(ack.seq) {
            self.mark_proven(&name);
            return Ok(());
        }
        let Some(round) = self.round_of_probe(ack.seq) else { return Ok(()) };
        let Some(probe) = self.probes[round as usize].take() else { return Ok(()) };
        self.timers.cancel(&Timer::ProbeTimeout(round));
        self.timers.cancel(&Timer::ProbeEnd(round));
        self.mark_proven(&probe.target);
        if round == ProbeRound::Proven {
            self.awareness.apply(-1);
        }
        self.recorder.record_probe_end(now, probe.sent, true);
        // Once others were asked, the answer may have come through them: it says nothing about the round-trip time.
        if probe.is_indirect { Ok(()) } else { self.record_rtt(now, probe, &ack.payload) }
    }

    /// The round whose probe in progress has this sequence number.
    fn round_of_probe(&self, seq: u32) -> Option<ProbeRound> {
        let matches = |round: &ProbeRound| self.probes[*round as usize].as_ref().is_some_and(|probe| probe.seq == seq);
        ROUNDS.into_iter().find(matches)
    }

    /// Records the round-trip time of a member that has answered at once.
    fn record_rtt(
        &mut self,
        now: Instant,
        Probe { target: name, sent, .. }: Probe,
        payload: &[u8],
    ) -> Result<(), MembershipError> {
        let rtt = now.saturating_duration_since(sent);
        if let Some(record) = self.members.get_mut(name.as_bytes()) {
            record.rtt = rtt.into();
        }
        if !self.report_probes {
            return Ok(());
        }
        let fits = payload.len() <= limits::ACK_PAYLOAD;
        // A copy: a slice would keep a whole packet in memory.
        let payload_copy = Bytes::copy_from_slice(if fits { payload } else { &[] });
        self.outputs.push_back(MembershipOutput::Event(Event::Probed {
            name: name.clone(),
            rtt,
            payload: payload_copy,
        }));
        if fits { Ok(()) } else { Err(MembershipError::AckPayloadTooLong { name, size: payload.len() }) }
    }

    pub(super) fn handle_nack(&mut self, seq: u32) {
        for probe in self.probes.iter_mut().flatten().filter(|probe| probe.seq == seq) {
            probe.nacks += 1;
        }
    }

    /// Gives up a ping for another node, which gets a nack if it wants one.
    pub(super) fn expire_relay(&mut self, seq: u32) {
        let Some(relay) = self.relays.remove(&seq) else { return };
        if relay.nack {
            self.send_message(relay.asker, &Message::Nack(Nack { seq: relay.seq }));
        }
    }

    fn send_message(&mut self, Recipient { to, is_member }: Recipient, message: &Message) {
        let messages = vec![packet::encode_message(message)];
        self.outputs.push_back(MembershipOutput::Packet { to, messages, piggyback: is_member });
    }

    /// Where to answer: to the member that the asker says it is, if its address is that member's. Otherwise to the packet's
    /// sender, since anybody could name an address to have it flooded.
    fn reply_recipient(&self, from: SocketAddr, source: Option<&Source>) -> Recipient {
        let member = source.and_then(|source| self.member_at(&source.node, source.address.socket_addr()));
        member.unwrap_or_else(|| Recipient::stranger(from))
    }

    /// The member with this name, if it has this address.
    fn member_at(&self, name: &[u8], addr: SocketAddr) -> Option<Recipient> {
        let record = self.members.get(name).filter(|record| record.addr() == addr)?;
        Some(Recipient { to: record.into(), is_member: true })
    }

    /// This node, as it names itself in its pings.
    pub(super) fn source(&self) -> Source {
        Source { address: self.me().address(), node: Bytes::copy_from_slice(self.me.as_bytes()) }
    }

    /// The sequence number of the next ping.
    pub(super) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }
}
