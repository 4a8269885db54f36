//! What comes of what has happened: the membership, the dissemination and serf say what is to be done, and the node
//! does it.

use std::time::Instant;

use super::{Event, Node};
use crate::{
    dissemination,
    member::{MemberState, NodeName},
    membership::MembershipOutput,
    wire::packet,
};

impl Node {
    /// Sends what came of all that has happened.
    pub(super) fn flush(&mut self) {
        if !self.seeds.name_taken() {
            self.dissemination.flush(self.now, &self.membership);
        }
        self.carry_out();
    }

    /// Carries out what the dissemination wants done.
    pub(super) fn carry_out(&mut self) {
        while let Some(output) = self.dissemination.poll_output() {
            match output {
                dissemination::Output::Packets { to, route, messages } => self.broadcast(&to, route, messages),
                dissemination::Output::Stream { to, message } => self.tell_over_stream(self.now, to, message),
                dissemination::Output::Deliver(message) => self.deliver(message),
                dissemination::Output::Missed { origin, epoch, seqs } => {
                    self.messages.push_back(Err(Event::Missed { origin, epoch, from: seqs.start, to: seqs.end }));
                }
                dissemination::Output::Acks(acks) => self.acks.push_back(acks),
                dissemination::Output::CutLoose(name) => self.events.push_back(Event::LagLimitExceeded(name)),
                dissemination::Output::Elsewhere { name, announced, from } => {
                    self.events.push_back(Event::AddressMismatch { name, announced, from });
                }
                dissemination::Output::Silent(addr) => self.suspect_path(self.now, addr),
            }
        }
        self.carry_out_serf();
        if self.held_back && self.dissemination.has_room() {
            self.held_back = false;
            self.events.push_back(Event::PublishReady);
        }
    }

    /// Carries out what the membership wants done.
    pub(super) fn settle(&mut self, now: Instant) {
        self.now = now;
        self.leave_if_ready(now);
        while let Some(output) = self.membership.poll_output() {
            match output {
                MembershipOutput::Packet { to, messages: mut parts, piggyback } => {
                    if piggyback {
                        let used: usize = parts.iter().map(|part| part.len() + packet::PART_OVERHEAD).sum();
                        let budget = self.packet_size(to.addr).saturating_sub(packet::COMPOUND_OVERHEAD + used);
                        self.fill(to, budget, &mut parts);
                    }
                    self.transmit(to, &parts);
                }
                MembershipOutput::PushPull { to } => self.push_pull(now, to, None),
                MembershipOutput::StreamPing { to, ping, until } => self.ping_over_stream(now, to, ping, until),
                MembershipOutput::Proven(name) => self.note_proven(now, &name),
                MembershipOutput::Event(event) => self.tell(now, event),
            }
        }
        self.carry_out();
        if !self.ready && self.membership.live() > 1 && !self.seeds.name_taken() {
            self.set_ready();
        }
    }

    pub(super) fn set_ready(&mut self) {
        self.ready = true;
        self.events.push_back(Event::Ready);
    }

    /// A member has answered this node for the first time.
    fn note_proven(&mut self, now: Instant, name: &NodeName) {
        if let Some(record) = self.membership.get(name.as_bytes()).filter(|record| record.is_live()) {
            self.dissemination.member_proven(now, record, &self.membership);
        }
        self.meet_for_info(now, name);
    }

    /// Tells the application what the membership has found out, after whoever else is to know.
    fn tell(&mut self, now: Instant, event: Event) {
        let event = match event {
            Event::Failed(member) => self.failed_or_left(member),
            event => event,
        };
        match &event {
            Event::Joined(member) | Event::Updated(member) => {
                if let Some(record) = self.membership.get(member.name.as_bytes()).filter(|record| record.is_live()) {
                    self.dissemination.member_up(now, record, &self.membership);
                }
                self.meet_serf(&member.name);
                self.meet_for_info(now, &member.name);
                self.gossip_soon(now);
            }
            Event::Left(member) | Event::Failed(member) => {
                let left = member.state == MemberState::Left;
                self.forget_path(member.addr);
                self.forget_info(&member.name);
                self.dissemination.member_down(now, &member.name, left, self.membership.proven_live());
                self.look_for_seeds(now);
            }
            _ => {}
        }
        self.events.push_back(event);
    }
}
