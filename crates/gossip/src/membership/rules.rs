//! The rules of belief: how alive, suspect and dead messages, and whole views, change the table of members.
//!
//! SWIM section 4.2, with memberlist's additions (`state.go`): leaving on purpose, addresses that change, versions.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    Event, LeaveState, MemberState, Membership, MembershipError, MembershipOutput, NodeName, PROTOCOLS, Record,
    Suspicion, Target, Timer, encode_alive, rtt::Rtt,
};
use crate::config::{Candidate, Claim};
use crate::wire::{Alive, Dead, Message, NodeState, PushPull, PushPullState, Suspect, packet};

/// How far above the known incarnation another one is believed. A node raises its own by one with each refutation, so a liar
/// needs thousands of packets to use incarnations up, and the node has to get each of them.
const MAX_INCARNATION_LEAP: u32 = 1 << 20;

impl Membership {
    /// Takes an "alive" message: memberlist's `aliveNode`. `from` is its sender, if it came by itself and not in a view.
    pub(super) fn alive_node(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        alive: &Alive,
    ) -> Result<(), MembershipError> {
        let name = NodeName::from(&*alive.node);
        let of_me = name == self.me;
        if of_me && self.leave_state != LeaveState::Active {
            return Ok(());
        }
        // Nobody could overrule this incarnation, not even its owner: it would stay for ever.
        if alive.incarnation == u32::MAX {
            return Ok(());
        }
        // A member with another version, or none, would make every later exchange of views fail.
        let [min, max, current, ..] = alive.versions.unwrap_or_default();
        let overlap = min <= max && min <= *PROTOCOLS.end() && max >= *PROTOCOLS.start();
        if min == 0 || !overlap || !PROTOCOLS.contains(&current) {
            return Err(MembershipError::ProtocolVersion { name, min, max, current });
        }
        let addr = alive.address.socket_addr();
        if alive.node.is_empty() {
            return Err(MembershipError::NoName(addr));
        }
        if addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast() {
            return Err(MembershipError::UnusableAddress(name, addr));
        }
        // Views are checked as a whole.
        if from.is_some() {
            self.check_compatible(&alive.node, alive.versions.unwrap_or_default())?;
        }
        let Some(record) = self.members.get(&alive.node) else {
            return self.add_member(now, from, name, alive);
        };
        if !is_credible(alive.incarnation, record) {
            return Err(MembershipError::IncarnationLeap {
                name,
                incarnation: alive.incarnation,
                known: record.incarnation,
            });
        }
        let moved = record.addr() != addr;
        if moved && of_me && self.is_former_address(alive) {
            self.correct_former_address(now, alive);
            return Ok(());
        }
        if moved && !self.is_up_for_reclaim(now, record) {
            self.report_conflict(now, &name, alive);
            return Ok(());
        }
        if of_me {
            // No news, unless somebody knows a former run of this node, or another node with its name.
            let news = alive.incarnation > record.incarnation
                || (alive.incarnation == record.incarnation
                    && (alive.meta != record.meta()
                        || alive.versions.is_some_and(|versions| versions != record.versions)));
            if news {
                self.refute(alive.incarnation);
            }
            return Ok(());
        }
        if alive.incarnation <= record.incarnation && !moved {
            self.answer_stale_alive(from, alive);
            return Ok(());
        }
        self.check_admission(&name, alive, moved)?;
        if alive.incarnation <= record.incarnation {
            // Others would take what was said about the name's former owner for its own: it needs a higher incarnation.
            self.answer_stale_alive(from, alive);
        }
        self.apply_alive(now, &name, alive);
        let first_hand = is_from_own_address(from, alive);
        if moved {
            self.mark_unproven(now, &name, first_hand);
        } else if self.members.get(&alive.node).is_some_and(|record| !record.is_proven()) {
            self.schedule_greeting(now, &name, first_hand);
        }
        Ok(())
    }

    /// Whether the name of a member may go to a node that has it at a new address.
    fn is_up_for_reclaim(&self, now: Instant, record: &Record) -> bool {
        let since = self.members.time_in_state(record, now);
        record.name != self.me
            && match record.state() {
                MemberState::Alive => false,
                MemberState::Suspect => since >= self.tuning.dead_node_reclaim,
                MemberState::Dead | MemberState::Left => true,
            }
    }

    /// Asks the admission rules about a member that is new, has `moved`, or says something new.
    fn check_admission(&self, name: &NodeName, alive: &Alive, moved: bool) -> Result<(), MembershipError> {
        let addr = alive.address.socket_addr();
        if moved && !self.admission.allows(addr.ip()) {
            return Err(MembershipError::NetworkNotAllowed { name: name.clone(), addr });
        }
        let claim = Claim::new(&alive.node, addr, &alive.meta, alive.versions.unwrap_or_default(), true);
        self.admission
            .decide(Candidate::Member(claim))
            .map_err(|reason| MembershipError::NotAdmitted { name: name.clone(), reason })
    }

    /// Adds a member that is not known yet.
    fn add_member(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        name: NodeName,
        alive: &Alive,
    ) -> Result<(), MembershipError> {
        if alive.incarnation == 0 {
            return Ok(());
        }
        if self.members.len() >= self.max_members && !self.make_room(now) {
            self.recorder.overflow.members += 1;
            return Err(MembershipError::TooManyMembers { name, max: self.max_members });
        }
        self.check_admission(&name, alive, true)?;
        self.recorder.counts.alive += 1;
        let versions = alive.versions.unwrap_or_default();
        let record = self.members.insert(name.clone(), alive.address, versions, now, &mut self.rng);
        record.incarnation = alive.incarnation;
        record.set_meta(&alive.meta);
        let member = record.to_member();
        self.schedule_greeting(now, &name, is_from_own_address(from, alive));
        self.queue_broadcast(name, packet::encode_message(&Message::Alive(alive.clone())));
        self.emit(Event::Joined(member));
        Ok(())
    }

    /// Makes a known member alive as its message says.
    fn apply_alive(&mut self, now: Instant, name: &NodeName, alive: &Alive) {
        self.drop_suspicion(name);
        self.recorder.counts.alive += 1;
        self.queue_broadcast(name.clone(), packet::encode_message(&Message::Alive(alive.clone())));
        let Some(record) = self.members.get_mut(name.as_bytes()) else { return };
        let was = record.state();
        let moved = record.addr() != alive.address.socket_addr();
        let changed = record.meta() != alive.meta || moved;
        self.recorder.counts.false_alarms += u64::from(was == MemberState::Suspect && !moved);
        record.incarnation = alive.incarnation;
        if record.address() != alive.address {
            record.rtt = Rtt::default();
        }
        record.set_meta(&alive.meta);
        if let Some(versions) = alive.versions {
            record.versions = versions;
        }
        self.members.set_address(name.as_bytes(), alive.address);
        self.members.set_state(name.as_bytes(), MemberState::Alive, now);
        let member = self.members.get(name.as_bytes()).map(Record::to_member).expect("looked up above");
        if !was.is_live() {
            self.emit(Event::Joined(member));
        } else if changed {
            self.emit(Event::Updated(member));
        }
    }

    /// Answers an "alive" that has been overruled since. Its owner may not know, after a restart for example: it gets the
    /// accusation, so that it can refute.
    fn answer_stale_alive(&mut self, from: Option<SocketAddr>, alive: &Alive) {
        let Some(record) = self.members.get(&alive.node) else { return };
        let (incarnation, node) = (record.incarnation, alive.node.clone());
        let to = Target { addr: alive.address.socket_addr(), ..Target::from(record) };
        let accusation = match record.state() {
            // Others may send this while a newer incarnation is going round. Its owner does not know that there was one.
            MemberState::Alive if from == Some(to.addr) && alive.incarnation < incarnation => {
                let messages = vec![encode_alive(record)];
                self.outputs.push_back(MembershipOutput::Packet { to, messages, piggyback: false });
                return;
            }
            MemberState::Alive => return,
            MemberState::Suspect => {
                let from = Bytes::copy_from_slice(self.me.as_bytes());
                Message::Suspect(Suspect { incarnation, node, from })
            }
            MemberState::Dead => {
                let from = Bytes::copy_from_slice(self.me.as_bytes());
                Message::Dead(Dead { incarnation, node, from })
            }
            MemberState::Left => Message::Dead(Dead { incarnation, from: node.clone(), node }),
        };
        let messages = vec![packet::encode_message(&accusation)];
        self.outputs.push_back(MembershipOutput::Packet { to, messages, piggyback: false });
    }

    /// Takes a "suspect" message, or this node's own suspicion: memberlist's `suspectNode`.
    pub(super) fn suspect_node(&mut self, now: Instant, suspect: &Suspect) {
        let Some(record) = self.members.get(&suspect.node) else { return };
        if !is_current(suspect.incarnation, record) {
            return;
        }
        let name = record.name.clone();
        let from = NodeName::from(&*suspect.from);
        if let Some(suspicion) = self.suspicions.get_mut(&name) {
            if suspicion.confirm(&from) {
                self.timers.set(Timer::Suspicion(name.clone()), suspicion.deadline());
                self.queue_broadcast(name, packet::encode_message(&Message::Suspect(suspect.clone())));
            }
            return;
        }
        if record.state() != MemberState::Alive {
            return;
        }
        if name == self.me {
            self.refute(suspect.incarnation);
            return;
        }
        self.queue_broadcast(name.clone(), packet::encode_message(&Message::Suspect(suspect.clone())));
        if let Some(record) = self.members.get_mut(&suspect.node) {
            record.incarnation = suspect.incarnation;
        }
        self.recorder.counts.suspect += 1;
        self.members.set_state(&suspect.node, MemberState::Suspect, now);
        let suspicion = Suspicion::new(now, from, self.members.proven_live(), &self.tuning);
        self.timers.set(Timer::Suspicion(name.clone()), suspicion.deadline());
        self.suspicions.insert(name, suspicion);
    }

    /// Declares a suspect dead that did not refute in time.
    pub(super) fn expire_suspicion(&mut self, now: Instant, name: &NodeName) {
        let Some(record) = self.members.get(name.as_bytes()) else { return };
        if record.state() == MemberState::Suspect {
            let confirmed = self.suspicions.get(name).is_none_or(Suspicion::is_confirmed);
            self.recorder.counts.suspicions_expired += 1;
            self.recorder.counts.degraded_timeouts += u64::from(!confirmed);
            let node = Bytes::copy_from_slice(name.as_bytes());
            let from = Bytes::copy_from_slice(self.me.as_bytes());
            self.dead_node(now, &Dead { incarnation: record.incarnation, node, from });
        }
    }

    /// Takes a "dead" message, or this node's own verdict: memberlist's `deadNode`.
    pub(super) fn dead_node(&mut self, now: Instant, dead: &Dead) {
        let Some(record) = self.members.get(&dead.node) else { return };
        if !is_current(dead.incarnation, record) {
            return;
        }
        let name = record.name.clone();
        if name == self.me {
            if self.leave_state == LeaveState::Active {
                self.refute(dead.incarnation);
            }
            return;
        }
        if !record.is_live() {
            return;
        }
        self.drop_suspicion(&name);
        self.queue_broadcast(name.clone(), packet::encode_message(&Message::Dead(dead.clone())));
        if let Some(record) = self.members.get_mut(&dead.node) {
            record.incarnation = dead.incarnation;
        }
        self.recorder.counts.dead += 1;
        let left = dead.from == dead.node;
        self.members.set_state(&dead.node, if left { MemberState::Left } else { MemberState::Dead }, now);
        if let Some(member) = self.members.get(&dead.node).map(Record::to_member) {
            self.emit(if left { Event::Left(member) } else { Event::Failed(member) });
        }
    }

    /// Ends the suspicion of a member, if there is one.
    pub(super) fn drop_suspicion(&mut self, name: &NodeName) {
        if self.suspicions.remove(name).is_some() {
            self.timers.cancel(&Timer::Suspicion(name.clone()));
        }
    }

    /// Merges another node's view into this one: memberlist's `mergeState`.
    ///
    /// A member that the other node believes dead is only suspected, so that it can refute. Records that are not believed
    /// are passed over; the reason for the last of them is returned.
    ///
    /// # Errors
    ///
    /// The two views have no protocol version in common, or the application refuses the view. Nothing has changed.
    pub(crate) fn merge(
        &mut self,
        now: Instant,
        remote: &PushPull,
    ) -> Result<Option<MembershipError>, MembershipError> {
        let misfits = self.check_versions(remote)?;
        self.check_merge(remote)?;
        let me = Bytes::copy_from_slice(self.me.as_bytes());
        let mut refused = None;
        for node in &remote.nodes {
            match node.state {
                NodeState::Alive if self.is_no_news(node) => {}
                NodeState::Alive => refused = self.alive_node(now, None, &alive_from(node)).err().or(refused),
                NodeState::Left => {
                    let (incarnation, node) = (node.incarnation, node.name.clone());
                    self.dead_node(now, &Dead { incarnation, from: node.clone(), node });
                }
                NodeState::Suspect | NodeState::Dead => {
                    // A suspect is a member, even if this node hears of it for the first time.
                    if node.state == NodeState::Suspect && self.members.get(&node.name).is_none() {
                        let fits = misfits.get(&*node.name).map_or(Ok(()), |error| Err(error.clone()));
                        refused = fits.and_then(|()| self.alive_node(now, None, &alive_from(node))).err().or(refused);
                    }
                    let (incarnation, node) = (node.incarnation, node.name.clone());
                    self.suspect_node(now, &Suspect { incarnation, node, from: me.clone() });
                }
            }
        }
        Ok(refused)
    }

    /// Whether an "alive" record of a view is no news, as almost all are. A short cut: [`alive_node`](Self::alive_node) would
    /// find the same.
    fn is_no_news(&self, node: &PushPullState) -> bool {
        self.members.get(&node.name).is_some_and(|record| {
            record.state() == MemberState::Alive
                && node.incarnation <= record.incarnation
                && node.versions == Some(record.versions)
                && node.address.socket_addr() == record.addr()
                && !std::ptr::eq(record, self.me())
        })
    }

    /// Asks the application about the view of a node that joins, or that this node joins through.
    fn check_merge<'a>(&self, remote: &'a PushPull) -> Result<(), MembershipError> {
        if !remote.join || !self.admission.has_filter() {
            return Ok(());
        }
        let claim = |node: &'a PushPullState| {
            let live = matches!(node.state, NodeState::Alive | NodeState::Suspect);
            let (addr, versions) = (node.address.socket_addr(), node.versions.unwrap_or_default());
            Claim::new(&node.name, addr, &node.meta, versions, live)
        };
        let claims: Vec<_> = remote.nodes.iter().map(claim).collect();
        self.admission
            .decide(Candidate::View(&claims))
            .map_err(|reason| MembershipError::ViewNotAdmitted { nodes: claims.len(), reason })
    }
}

/// Whether an "alive" came from the address that it announces.
fn is_from_own_address(from: Option<SocketAddr>, alive: &Alive) -> bool {
    from.is_some_and(|from| from.ip() == alive.address.socket_addr().ip())
}

/// Whether an accusation is about the known incarnation of a node, or a credible later one.
fn is_current(incarnation: u32, record: &Record) -> bool {
    incarnation >= record.incarnation && is_credible(incarnation, record)
}

/// Whether a known node can have this incarnation by now. One that is far above is made up, and near the highest nobody could
/// refute (memberlist wraps around, and the node is lost for good).
fn is_credible(incarnation: u32, record: &Record) -> bool {
    incarnation < u32::MAX && incarnation <= record.incarnation.saturating_add(MAX_INCARNATION_LEAP)
}

/// The "alive" message that says the same as a record.
fn alive_from(node: &PushPullState) -> Alive {
    Alive {
        incarnation: node.incarnation,
        node: node.name.clone(),
        address: node.address,
        meta: node.meta.clone(),
        versions: node.versions,
    }
}
