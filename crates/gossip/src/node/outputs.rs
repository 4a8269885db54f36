//! Outputs: membership, dissemination and serf give what is to be done, and the node does it.

use std::time::Instant;

use super::{Event, Node};
use crate::{
    dissemination,
    member::{MemberState, NodeName},
    membership::MembershipOutput,
    wire::packet,
};

impl Node {
    /// Sends all that came of the inputs so far.
    pub(super) fn flush(&mut self) {
        if !self.seeds.name_taken() {
            self.dissemination.flush(self.now, &self.membership);
        }
        self.process_dissemination_outputs();
    }

    /// Does what the dissemination asks for.
    pub(super) fn process_dissemination_outputs(&mut self) {
        while let Some(output) = self.dissemination.poll_output() {
            match output {
                dissemination::Output::Packets { to, route, messages } => self.broadcast(&to, route, messages),
                dissemination::Output::Stream { to, message } => self.send_large(self.now, to, message),
                dissemination::Output::Deliver(message) => self.deliver(message),
                dissemination::Output::Missed { origin, epoch, seqs } => {
                    self.messages.push_back(Err(Event::Missed { origin, epoch, from: seqs.start, to: seqs.end }));
                }
                dissemination::Output::Acks(acks) => self.acks.push_back(acks),
                dissemination::Output::CutLoose(name) => self.events.push_back(Event::LagLimitExceeded(name)),
                dissemination::Output::AddressMismatch { name, announced, from } => {
                    self.events.push_back(Event::AddressMismatch { name, announced, from });
                }
                dissemination::Output::Unresponsive(addr) => self.check_path(self.now, addr),
            }
        }
        self.process_serf_outputs();
        if self.publisher_waits && self.dissemination.has_room() {
            self.publisher_waits = false;
            self.events.push_back(Event::PublishReady);
        }
    }

    /// Does what the membership asks for, then what the dissemination asks for.
    pub(super) fn process_outputs(&mut self, now: Instant) {
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
                MembershipOutput::Event(event) => self.emit(now, event),
            }
        }
        self.process_dissemination_outputs();
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
        self.request_info(now, name);
    }

    /// Gives the application an event of the membership, after the other parts of the node have taken it.
    fn emit(&mut self, now: Instant, event: Event) {
        let event = match event {
            Event::Failed(member) => self.failed_or_left(member),
            event => event,
        };
        match &event {
            Event::Joined(member) | Event::Updated(member) => {
                if let Some(record) = self.membership.get(member.name.as_bytes()).filter(|record| record.is_live()) {
                    self.dissemination.member_up(now, record, &self.membership);
                }
                self.member_up_serf(&member.name);
                self.request_info(now, &member.name);
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
