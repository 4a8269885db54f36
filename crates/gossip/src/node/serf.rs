//! A node in a serf cluster: how its [`Serf`] takes part in messages, views and leaving.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Event, MAX_PARTS, Node, RejectionCause, VERSIONS};
use crate::{
    config,
    dissemination::{Dissemination, Draft, Message, MessageCounts},
    membership::{Member, MemberState, NodeName, Record},
    serf::{self, Serf},
    wire::{PushPull, Versions},
};

/// How often the application is told at most of messages that did not become events.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How many members a leaving node tells so directly.
const LEAVE_FANOUT: usize = 64;

/// What a node has in addition in a serf cluster.
#[derive(Debug)]
pub(super) struct SerfLayer {
    inner: Serf,
    /// Serf's messages that could not be used, and messages that did not become events.
    unusable: u64,
    no_events: u64,
    /// How many of the latter were reported to the application, and when.
    reported: u64,
    reported_at: Option<Instant>,
}

/// The event that a message of this node is to become.
#[derive(Debug)]
pub(super) struct PlannedEvent {
    name: String,
    payload: Vec<u8>,
}

impl SerfLayer {
    /// Among serf's versions, the largest one is still this crate's mark.
    pub(super) const VERSIONS: Versions = {
        let [min, max, current, _, ours, _] = VERSIONS;
        [min, max, current, serf::DELEGATE_MIN, ours, serf::DELEGATE]
    };

    pub(super) fn new(me: NodeName, config: config::SerfConfig, tuning: &config::Tuning, replay: bool) -> Self {
        let serf = Serf::new(me, config.tags, replay, tuning.retransmit_mult, tuning.udp_buffer_size);
        Self { inner: serf, unusable: 0, no_events: 0, reported: 0, reported_at: None }
    }

    pub(super) fn count(&self, counters: &mut MessageCounts) {
        counters.unusable += self.unusable;
        counters.serf_events_dropped = self.no_events;
    }

    pub(super) fn sizes(&self) -> [(&'static str, usize, usize); 3] {
        self.inner.sizes()
    }
}

impl Node {
    /// Announces other tags from now on; gives whether the node still announces anything.
    pub(crate) fn update_tags(&mut self, now: Instant, serf: config::SerfConfig) -> bool {
        let meta = Bytes::from(serf.meta());
        if let Some(layer) = &mut self.serf {
            layer.inner.set_tags(serf.tags);
        }
        self.update_meta(now, &meta)
    }

    /// Handles a user message that is one of serf's; gives whether it was.
    pub(super) fn handle_serf_message(&mut self, now: Instant, from: SocketAddr, payload: &Bytes) -> bool {
        let Some(layer) = self.serf.as_mut().filter(|_| Serf::is_serf_message(payload)) else { return false };
        if let Err(error) = layer.inner.handle(now, payload, &self.membership) {
            layer.unusable += 1;
            self.reject(now, from, RejectionCause::Message, &error);
        }
        true
    }

    /// How many bytes of a packet with `budget` bytes left are for serf. Every other packet may be all serf's, since long
    /// messages would not fit otherwise.
    pub(super) fn serf_share(&self, budget: usize) -> usize {
        self.serf.as_ref().map_or(0, |layer| layer.inner.share(budget, self.membership_first))
    }

    pub(super) fn fill_serf(&mut self, budget: usize, parts: &mut Vec<Bytes>) {
        if let Some(layer) = self.serf.as_mut().filter(|_| parts.len() < MAX_PARTS) {
            layer.inner.take_broadcasts(self.membership.num_nodes(), budget, parts);
        }
    }

    /// Gives a message the time of an event, if agents are to receive it.
    pub(super) fn plan_event(&mut self, now: Instant, draft: Draft) -> (Draft, Option<PlannedEvent>) {
        let Some(layer) = self.serf.as_ref().filter(|_| self.dissemination.has_plain(&self.membership)) else {
            return (draft, None);
        };
        let (name, payload) = (draft.key().to_owned(), serf::from_json(draft.value()));
        let size = name.len() + payload.len();
        if size > serf::MAX_EVENT {
            let max = serf::MAX_EVENT;
            self.count_missed_event(now, 1, || {
                format!(
                    "the key and value of {name:?} take {size} bytes, more than the {max} that serf allows an event"
                )
            });
            return (draft, None);
        }
        (draft.with_event(layer.inner.next_event()), Some(PlannedEvent { name, payload }))
    }

    /// Emits the event of a message that has been published.
    pub(super) fn emit_event(&mut self, now: Instant, planned: Option<PlannedEvent>) {
        if let (Some(layer), Some(PlannedEvent { name, payload })) = (&mut self.serf, planned) {
            let lost = layer.inner.emit_event(&name, &payload) as u64;
            if lost > 0 {
                self.count_missed_event(now, lost, || "more is published than serf's gossip takes".into());
            }
        }
    }

    fn count_missed_event(&mut self, now: Instant, count: u64, reason: impl FnOnce() -> String) {
        let Some(layer) = &mut self.serf else { return };
        layer.no_events += count;
        if layer.reported_at.is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL) {
            layer.reported_at = Some(now);
            let count = layer.no_events - std::mem::replace(&mut layer.reported, layer.no_events);
            self.events.push_back(Event::SerfEventDropped { count, reason: reason() });
        }
    }

    /// Delivers a message to the application, unless it was delivered already as an event.
    pub(super) fn deliver(&mut self, message: Message) {
        if let (Some(layer), Some(time)) = (&mut self.serf, message.event())
            && !layer.inner.claim_event(time, message.key(), &serf::from_json(message.value()))
        {
            return;
        }
        self.messages.push_back(Ok(message));
    }

    /// This node's state in a push/pull exchange. `ours` is what our nodes tell each other in it.
    pub(super) fn user_state(&self, ours: Option<Bytes>) -> Bytes {
        match &self.serf {
            Some(layer) => layer.inner.state(&self.membership, ours),
            None => ours.unwrap_or_default(),
        }
    }

    /// What our nodes tell each other in another node's state, if it has that.
    pub(super) fn ours_in(&self, state: &Bytes) -> Option<Bytes> {
        match &self.serf {
            // Errors are reported when the state is merged.
            Some(_) => Serf::broadcast_state_in(state).ok().flatten().filter(|ours| Dissemination::is_state(ours)),
            None => Dissemination::is_state(state).then(|| state.clone()),
        }
    }

    /// Merges the state of another node of the serf cluster. `asked` says that this node began the exchange.
    pub(super) fn merge_serf(&mut self, now: Instant, peer: SocketAddr, remote: &PushPull, asked: bool) {
        let Some(layer) = &mut self.serf else { return };
        // Tools that only look at the members send no state.
        if !remote.user_state.is_empty()
            && let Err(error) = layer.inner.merge(now, &remote.user_state, (remote.join, asked), &self.membership)
        {
            layer.unusable += 1;
            self.reject(now, peer, RejectionCause::Message, &error);
        }
    }

    /// This node has joined through another.
    pub(super) fn join_serf(&mut self, now: Instant) {
        if let Some(layer) = &mut self.serf {
            layer.inner.join(now);
        }
    }

    /// This node is about to leave; gives whether others are to hear that before they hear that it has left.
    pub(super) fn leave_serf(&mut self, now: Instant) -> bool {
        let others = self.membership.live() > 1;
        if let Some(layer) = self.serf.as_mut().filter(|_| others) {
            let told = self.membership.others().filter(|record: &&Record| record.is_live()).take(LEAVE_FANOUT);
            layer.inner.leave(now, told);
            return true;
        }
        false
    }

    /// A member is up.
    pub(super) fn member_up_serf(&mut self, node: &NodeName) {
        if let Some(layer) = &mut self.serf {
            layer.inner.member_up(node, &self.membership);
        }
    }

    /// Does what serf asks for.
    pub(super) fn process_serf_outputs(&mut self) {
        while let Some(output) = self.serf.as_mut().and_then(|layer| layer.inner.poll_output()) {
            match output {
                serf::SerfOutput::Deliver { name, payload } => {
                    let message = Message::of_others(serf::SOURCE, &name, &serf::to_json(&payload));
                    self.messages.push_back(Ok(message));
                }
                serf::SerfOutput::Left(name) => {
                    if let Some(record) = self.membership.get(name.as_bytes()) {
                        self.events.push_back(Event::Left(self.member(record)));
                    }
                }
                serf::SerfOutput::Send { to, message } => self.transmit(to, &[message]),
            }
        }
    }

    /// The state of a member. Serf may know more than memberlist's messages say; other nodes are still told what those say.
    pub(super) fn state_of(&self, record: &Record) -> MemberState {
        self.serf.as_ref().map_or_else(|| record.state(), |layer| layer.inner.state_of(record))
    }

    pub(super) fn failed_or_left(&self, member: Member) -> Event {
        match self.membership.get(member.name.as_bytes()).map(|record| self.state_of(record)) {
            Some(state @ MemberState::Left) => Event::Left(Member { state, ..member }),
            _ => Event::Failed(member),
        }
    }

    pub(super) fn member(&self, record: &Record) -> Member {
        Member { state: self.state_of(record), ..record.to_member() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config, Tags,
        node::{NodeConfig, identity::LEAVE_WAIT},
        wire::packet,
    };

    fn node(now: Instant) -> Node {
        let config = Config::new("n1").serf(config::SerfConfig { tags: Tags::new() });
        Node::new(now, NodeConfig::new(config, SocketAddr::from(([10, 0, 0, 1], 7946))))
    }

    fn meet_agent(node: &mut Node, now: Instant) {
        let addr = SocketAddr::from(([10, 0, 0, 2], 7946));
        let alive = crate::wire::Alive {
            incarnation: 1,
            node: "agent".into(),
            address: addr.into(),
            meta: Bytes::new(),
            versions: Some([1, 5, 2, 2, 5, 4]),
        };
        let parts = [packet::encode_message(&crate::wire::Message::Alive(alive))];
        node.handle_datagram(now, addr, &packet::encode(&parts, false, false));
        assert_eq!(node.members()[1].state, MemberState::Alive);
    }

    #[test]
    fn views_carry_what_serf_knows_and_what_ours_tell_each_other() {
        let now = Instant::now();
        let node = node(now);
        let ours = Bytes::from_static(b"\xb5\x02");
        let state = node.user_state(Some(ours.clone()));
        assert_eq!(state[0], 2, "it is serf's");
        assert_eq!(node.ours_in(&state), Some(ours));
        assert_eq!(node.ours_in(&node.user_state(None)), None);
    }

    #[test]
    fn what_is_no_event_is_counted_and_told_once_for_a_while() {
        let mut now = Instant::now();
        let mut node = node(now);
        let long = format!("\"{}\"", "x".repeat(512));
        node.publish(now, "k", &long).expect("there is room");
        assert_eq!(node.counters().serf_events_dropped, 0, "no agent is there to miss it");
        meet_agent(&mut node, now);
        let told = |node: &mut Node| {
            let events = std::iter::from_fn(|| node.poll_event());
            let told = events.filter_map(|event| match event {
                Event::SerfEventDropped { count, .. } => Some(count),
                _ => None,
            });
            told.collect::<Vec<_>>()
        };
        for _ in 0..3 {
            node.publish(now, "k", &long).expect("there is room");
        }
        assert_eq!((told(&mut node), node.counters().serf_events_dropped), (vec![1], 3));
        now += REPORT_INTERVAL;
        node.publish(now, "k", &long).expect("there is room");
        assert_eq!((told(&mut node), node.counters().serf_events_dropped), (vec![3], 4));
        // Messages that serf's gossip does not take count, too.
        for _ in 0..2000 {
            node.publish(now, "k", "1").expect("there is room");
        }
        assert!(node.counters().serf_events_dropped > 4);
        assert!(told(&mut node).is_empty());
    }

    #[test]
    fn who_fails_after_a_leave_was_said_of_it_has_left() {
        let now = Instant::now();
        let from = SocketAddr::from(([10, 0, 0, 2], 7946));
        let receive = |node: &mut Node, message: crate::wire::Message| {
            node.handle_datagram(now, from, &packet::encode(&[packet::encode_message(&message)], false, false));
        };
        // Time 7, of the member "agent".
        let intent = crate::wire::Message::User(Bytes::from_static(b"\x00\x82\xa5LTime\x07\xa4Node\xa5agent"));
        let (node_name, other) = (Bytes::from_static(b"agent"), Bytes::from_static(b"other"));
        let dead = crate::wire::Message::Dead(crate::wire::Dead { incarnation: 1, node: node_name, from: other });
        let told = |node: &mut Node| -> Vec<_> {
            let events = std::iter::from_fn(|| node.poll_event());
            let told = events.filter_map(|event| match event {
                Event::Left(member) => Some(("left", member.state)),
                Event::Failed(member) => Some(("failed", member.state)),
                _ => None,
            });
            told.collect()
        };

        let mut heard_before = node(now);
        meet_agent(&mut heard_before, now);
        receive(&mut heard_before, intent.clone());
        assert_eq!(told(&mut heard_before), [], "it is still there");
        receive(&mut heard_before, dead.clone());
        assert_eq!(told(&mut heard_before), [("left", MemberState::Left)]);

        // `serf force-leave`
        let mut heard_after = node(now);
        meet_agent(&mut heard_after, now);
        receive(&mut heard_after, dead);
        assert_eq!(told(&mut heard_after), [("failed", MemberState::Dead)]);
        receive(&mut heard_after, intent.clone());
        receive(&mut heard_after, intent);
        assert_eq!(told(&mut heard_after), [("left", MemberState::Left)], "once");

        for node in [heard_before, heard_after] {
            assert_eq!(node.overview().members[1].member.state, MemberState::Left);
            let gauges = node.metrics().gauges;
            assert_eq!((gauges.dead, gauges.left), (0, 1));
            // Other nodes are told what memberlist's messages said. That more is believed is serf's part.
            assert_eq!(node.view()[0].state, MemberState::Dead);
        }
    }

    #[test]
    fn a_good_bye_comes_after_the_intent() {
        let now = Instant::now();
        let mut node = node(now);
        meet_agent(&mut node, now);
        while node.poll_transmit().is_some() {}
        node.leave(now);
        let said = |node: &mut Node| {
            let mut messages = Vec::new();
            while let Some(transmit) = node.poll_transmit() {
                packet::decode(&transmit.payload, &mut messages).expect("it is a packet");
            }
            let intent =
                |message: &crate::wire::Message| matches!(message, crate::wire::Message::User(data) if data[0] == 0);
            let dead = |message: &crate::wire::Message| matches!(message, crate::wire::Message::Dead(_));
            (messages.iter().any(intent), messages.iter().any(dead))
        };
        assert_eq!(said(&mut node), (true, false));
        node.handle_timeout(now + LEAVE_WAIT);
        assert!(said(&mut node).1);
    }
}
