//! What to believe: the rules by which alive, suspect and dead messages, and whole views, are merged.
//!
//! SWIM section 4.2, with memberlist's additions: leaving on purpose, addresses that move, versions.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    Event, MemberState, Membership, NodeName, Output, PROTOCOLS, Presence, Record, Refusal, Suspicion, Target, Timer,
    encode_alive, rtt::Rtt,
};
use crate::config::{Candidate, Claim};
use crate::wire::{Alive, Dead, Message, NodeState, PushPull, PushPullState, Suspect, packet};

/// How much higher than what is known an incarnation is believed. A node raises its own by one each time it refutes
/// something; so made-up ones use them up only by thousands of packets, each of which it has to hear.
const LEAP: u32 = 1 << 20;

impl Membership {
    /// `from` is who sent it, if it came by itself and not with a whole view.
    pub(super) fn alive(&mut self, now: Instant, from: Option<SocketAddr>, alive: &Alive) -> Result<(), Refusal> {
        let name = NodeName::from(&*alive.node);
        let of_me = name == self.me;
        if of_me && self.presence != Presence::Here {
            return Ok(());
        }
        // Nothing could be said against such a life, nor could its owner say anything more: it would stay for ever.
        if alive.incarnation == u32::MAX {
            return Ok(());
        }
        // A member of another version, or of none, would make every later exchange of views fail.
        let [min, max, current, ..] = alive.versions.unwrap_or_default();
        let overlap = min <= max && min <= *PROTOCOLS.end() && max >= *PROTOCOLS.start();
        if min == 0 || !overlap || !PROTOCOLS.contains(&current) {
            return Err(Refusal::Protocol { name, min, max, current });
        }
        let addr = alive.address.socket_addr();
        if alive.node.is_empty() {
            return Err(Refusal::NoName(addr));
        }
        if addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast() {
            return Err(Refusal::NoAddress(name, addr));
        }
        // A view was checked as a whole.
        if from.is_some() {
            self.check_compatible(&alive.node, alive.versions.unwrap_or_default())?;
        }
        let Some(record) = self.members.get(&alive.node) else {
            return self.admit(now, from, name, alive);
        };
        if !is_credible(alive.incarnation, record) {
            return Err(Refusal::Leap { name, incarnation: alive.incarnation, known: record.incarnation });
        }
        let moved = record.addr() != addr;
        if moved && of_me && self.is_outdated(alive) {
            self.correct_outdated(now, alive);
            return Ok(());
        }
        if moved && !self.is_up_for_reclaim(now, record) {
            self.report_conflict(now, &name, alive);
            return Ok(());
        }
        if of_me {
            // Not news, unless somebody knows a former life of this node, or another "me".
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
            self.answer_stale(from, alive);
            return Ok(());
        }
        self.check_admission(&name, alive, moved)?;
        if alive.incarnation <= record.incarnation {
            // What is said of the name's former life will be taken for its own, unless it goes beyond it.
            self.answer_stale(from, alive);
        }
        self.believe_alive(now, &name, alive);
        let by_itself = speaks_for_itself(from, alive);
        if moved {
            self.unprove(now, &name, by_itself);
        } else if self.members.get(&alive.node).is_some_and(|record| !record.is_proven()) {
            self.meet(now, &name, by_itself);
        }
        Ok(())
    }

    /// Whether a name may go to who comes with it from a new address.
    fn is_up_for_reclaim(&self, now: Instant, record: &Record) -> bool {
        let since = self.members.in_state(record, now);
        record.name != self.me
            && match record.state() {
                MemberState::Alive => false,
                MemberState::Suspect => since >= self.tuning.dead_node_reclaim,
                MemberState::Dead | MemberState::Left => true,
            }
    }

    /// Whether a member may be believed: one that is new, or `moved`, or says something new.
    fn check_admission(&self, name: &NodeName, alive: &Alive, moved: bool) -> Result<(), Refusal> {
        let addr = alive.address.socket_addr();
        if moved && !self.admission.allows(addr.ip()) {
            return Err(Refusal::Outside { name: name.clone(), addr });
        }
        let claim = Claim::new(&alive.node, addr, &alive.meta, alive.versions.unwrap_or_default(), true);
        self.admission
            .ask(Candidate::Member(claim))
            .map_err(|reason| Refusal::NotAdmitted { name: name.clone(), reason })
    }

    fn admit(&mut self, now: Instant, from: Option<SocketAddr>, name: NodeName, alive: &Alive) -> Result<(), Refusal> {
        if alive.incarnation == 0 {
            return Ok(());
        }
        if self.members.len() >= self.max_members && !self.make_room(now) {
            self.counting.overflow.members += 1;
            return Err(Refusal::Full { name, max: self.max_members });
        }
        self.check_admission(&name, alive, true)?;
        self.counting.counts.alive += 1;
        let versions = alive.versions.unwrap_or_default();
        let record = self.members.insert(name.clone(), alive.address, versions, now, &mut self.rng);
        record.incarnation = alive.incarnation;
        record.set_meta(&alive.meta);
        let member = record.to_member();
        self.meet(now, &name, speaks_for_itself(from, alive));
        self.enqueue(name, packet::encode_message(&Message::Alive(alive.clone())));
        self.emit(Event::Joined(member));
        Ok(())
    }

    fn believe_alive(&mut self, now: Instant, name: &NodeName, alive: &Alive) {
        self.drop_suspicion(name);
        self.counting.counts.alive += 1;
        self.enqueue(name.clone(), packet::encode_message(&Message::Alive(alive.clone())));
        let Some(record) = self.members.get_mut(name.as_bytes()) else { return };
        let was = record.state();
        let moved = record.addr() != alive.address.socket_addr();
        let changed = record.meta() != alive.meta || moved;
        self.counting.counts.false_alarms += u64::from(was == MemberState::Suspect && !moved);
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

    /// Somebody believes in a life of a node that has been accused since, or that is over. The node itself
    /// may not have heard, having been restarted, say: it is told, so that it can refute.
    fn answer_stale(&mut self, from: Option<SocketAddr>, alive: &Alive) {
        let Some(record) = self.members.get(&alive.node) else { return };
        let (incarnation, node) = (record.incarnation, alive.node.clone());
        let to = Target { addr: alive.address.socket_addr(), ..Target::from(record) };
        let accusation = match record.state() {
            // Others say such things while a newer life is only going round; who says it of itself does
            // not know that there was one.
            MemberState::Alive if from == Some(to.addr) && alive.incarnation < incarnation => {
                let messages = vec![encode_alive(record)];
                self.outputs.push_back(Output::Packet { to, messages, piggyback: false });
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
        self.outputs.push_back(Output::Packet { to, messages, piggyback: false });
    }

    pub(super) fn suspect(&mut self, now: Instant, suspect: &Suspect) {
        let Some(record) = self.members.get(&suspect.node) else { return };
        if !counts(suspect.incarnation, record) {
            return;
        }
        let name = record.name.clone();
        let from = NodeName::from(&*suspect.from);
        if let Some(suspicion) = self.suspicions.get_mut(&name) {
            if suspicion.confirm(&from) {
                self.timers.set(Timer::Suspicion(name.clone()), suspicion.deadline());
                self.enqueue(name, packet::encode_message(&Message::Suspect(suspect.clone())));
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
        self.enqueue(name.clone(), packet::encode_message(&Message::Suspect(suspect.clone())));
        if let Some(record) = self.members.get_mut(&suspect.node) {
            record.incarnation = suspect.incarnation;
        }
        self.counting.counts.suspect += 1;
        self.members.set_state(&suspect.node, MemberState::Suspect, now);
        let suspicion = Suspicion::new(now, from, self.members.proven_live(), &self.tuning);
        self.timers.set(Timer::Suspicion(name.clone()), suspicion.deadline());
        self.suspicions.insert(name, suspicion);
    }

    /// Nobody refuted in time.
    pub(super) fn declare_dead(&mut self, now: Instant, name: &NodeName) {
        let Some(record) = self.members.get(name.as_bytes()) else { return };
        if record.state() == MemberState::Suspect {
            let confirmed = self.suspicions.get(name).is_none_or(Suspicion::is_confirmed);
            self.counting.counts.suspicions_expired += 1;
            self.counting.counts.degraded_timeouts += u64::from(!confirmed);
            let node = Bytes::copy_from_slice(name.as_bytes());
            let from = Bytes::copy_from_slice(self.me.as_bytes());
            self.dead(now, &Dead { incarnation: record.incarnation, node, from });
        }
    }

    pub(super) fn dead(&mut self, now: Instant, dead: &Dead) {
        let Some(record) = self.members.get(&dead.node) else { return };
        if !counts(dead.incarnation, record) {
            return;
        }
        let name = record.name.clone();
        if name == self.me {
            if self.presence == Presence::Here {
                self.refute(dead.incarnation);
            }
            return;
        }
        if !record.is_live() {
            return;
        }
        self.drop_suspicion(&name);
        self.enqueue(name.clone(), packet::encode_message(&Message::Dead(dead.clone())));
        if let Some(record) = self.members.get_mut(&dead.node) {
            record.incarnation = dead.incarnation;
        }
        self.counting.counts.dead += 1;
        let left = dead.from == dead.node;
        self.members.set_state(&dead.node, if left { MemberState::Left } else { MemberState::Dead }, now);
        if let Some(member) = self.members.get(&dead.node).map(Record::to_member) {
            self.emit(if left { Event::Left(member) } else { Event::Failed(member) });
        }
    }

    pub(super) fn drop_suspicion(&mut self, name: &NodeName) {
        if self.suspicions.remove(name).is_some() {
            self.timers.cancel(&Timer::Suspicion(name.clone()));
        }
    }

    /// Merges another node's view into this one.
    ///
    /// A node that the other believes dead is only suspected, so that it can refute. Records that are not
    /// believed are passed over; why the last of them was not is returned.
    ///
    /// # Errors
    ///
    /// The two views do not speak a common protocol version; nothing has changed.
    pub(crate) fn merge(&mut self, now: Instant, remote: &PushPull) -> Result<Option<Refusal>, Refusal> {
        let misfits = self.check_versions(remote)?;
        self.check_view(remote)?;
        let me = Bytes::copy_from_slice(self.me.as_bytes());
        let mut refused = None;
        for node in &remote.nodes {
            match node.state {
                NodeState::Alive if self.is_known(node) => {}
                NodeState::Alive => refused = self.alive(now, None, &alive_of(node)).err().or(refused),
                NodeState::Left => {
                    let (incarnation, node) = (node.incarnation, node.name.clone());
                    self.dead(now, &Dead { incarnation, from: node.clone(), node });
                }
                NodeState::Suspect | NodeState::Dead => {
                    // One that is only suspected is a member, also to who hears of it for the first time.
                    if node.state == NodeState::Suspect && self.members.get(&node.name).is_none() {
                        let fits = misfits.get(&*node.name).map_or(Ok(()), |refusal| Err(refusal.clone()));
                        refused = fits.and_then(|()| self.alive(now, None, &alive_of(node))).err().or(refused);
                    }
                    let (incarnation, node) = (node.incarnation, node.name.clone());
                    self.suspect(now, &Suspect { incarnation, node, from: me.clone() });
                }
            }
        }
        Ok(refused)
    }

    /// Whether a record of a view that says "alive" is no news, as almost all are: a short way to what
    /// [`alive`](Self::alive) would find.
    fn is_known(&self, node: &PushPullState) -> bool {
        self.members.get(&node.name).is_some_and(|record| {
            record.state() == MemberState::Alive
                && node.incarnation <= record.incarnation
                && node.versions == Some(record.versions)
                && node.address.socket_addr() == record.addr()
                && !std::ptr::eq(record, self.me())
        })
    }

    /// Whether the application wants to have to do with the cluster of a node that joins, or is joined.
    fn check_view<'a>(&self, remote: &'a PushPull) -> Result<(), Refusal> {
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
            .ask(Candidate::View(&claims))
            .map_err(|reason| Refusal::ViewNotAdmitted { nodes: claims.len(), reason })
    }
}

/// Whether an announcement came from the address that it names.
fn speaks_for_itself(from: Option<SocketAddr>, alive: &Alive) -> bool {
    from.is_some_and(|from| from.ip() == alive.address.socket_addr().ip())
}

/// Whether an accusation means the life of a node that is known, or a later one.
fn counts(incarnation: u32, record: &Record) -> bool {
    incarnation >= record.incarnation && is_credible(incarnation, record)
}

/// Whether a known node may be in this incarnation by now. What is far above is made up, and near the highest could
/// not be refuted (memberlist wraps around, and the node is lost for good).
fn is_credible(incarnation: u32, record: &Record) -> bool {
    incarnation < u32::MAX && incarnation <= record.incarnation.saturating_add(LEAP)
}

fn alive_of(node: &PushPullState) -> Alive {
    Alive {
        incarnation: node.incarnation,
        node: node.name.clone(),
        address: node.address,
        meta: node.meta.clone(),
        versions: node.versions,
    }
}
