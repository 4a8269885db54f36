//! The infos of our nodes: identity, roles and endpoints ([`NodeInfo`]), beyond what memberlist tells of a member.
//!
//! Each node requests each other node's info from that node. Only what comes from a node itself, in response to a request,
//! is believed. What others passed on could not be told from forgeries, and would need an order of a node's infos over its
//! restarts, by whatever clock. A request costs two small packets for each pair of nodes, once. That is less than gossiping an
//! info until all have it for certain. At rest nothing is sent.
//!
//! # On the wire
//!
//! These are control messages, and go only to nodes that [understand them](tells_info). Nodes of earlier releases and plain
//! memberlist nodes never see one.
//!
//! | message | says |
//! |---|---|
//! | `Request` | a nonce, the tag of the requester's own info, the tag of the info that it has of the receiver, its name |
//! | `Response` | the nonce, the responder's name, its info with the tag; or that the info is unchanged; or that it has none |
//!
//! A *tag* is a random number that a node draws for its info when it starts and whenever its info changes. Like an HTTP entity
//! tag, it is compared for equality only, never for order.
//!
//! # Who requests what, and when
//!
//! - A node requests a member's info as soon as the member has answered a ping ([proven](crate::membership)), when it comes
//!   back, and when it answers at another address. A cluster that forms requests at the pace of its greetings.
//! - A request tells the tag of the requester's own info. A node that has another info of the requester requests it in turn;
//!   or once more, if the response to an earlier request may have been under way by then. So a node that restarts tells all
//!   others by its requests that its info has changed.
//! - A node whose info changes sends everybody a request, for the same reason.
//! - A request without a response is repeated, after a pause that doubles up to [`MAX_PAUSE`], while the member is live.
//!
//! So once two of our nodes know each other as members, and packets or streams pass between them, each knows the other's
//! present info: at the latest [`MAX_PAUSE`] and the pause for a lost packet later, whatever was lost before.
//!
//! The info of a member that has failed or left is forgotten. Names and addresses are the membership's; an info never changes
//! them.
//!
//! # Bounds
//!
//! An info has [`MAX_LEN`](crate::config::info::MAX_LEN) bytes at most, and is kept for live members only. A request gets at
//! most one response. A member gets one response per ping timeout, all members [`RESPONSES_PER_SECOND`], and those that have
//! not answered a ping yet [`UNPROVEN_RESPONSES_PER_SECOND`].
//!
//! # What can go wrong
//!
//! - *A forged request* has a member sent a response, at the address that it announces, and a request. Both are within the
//!   bounds above, and change nothing.
//! - *A forged response* has to know the nonce, which is drawn at random for each member.
//! - *A member that lies about itself* can claim any role, and the identity of another. Nothing here decides by it.
//! - *Two nodes with one identity*, as where a data directory was copied: a node that has the infos of both reports the names
//!   of both to its application, once the one that it knew before has responded again. A node that was killed and is back
//!   under another name is no such case.
//! - *Fields of later releases* are skipped.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod message;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng as _, RngExt as _};

pub(super) use self::message::is_info_message;
use self::message::{InfoMessage, InfoReply};
use super::{Event, Node, RejectionCause};
use crate::{
    config::{NodeId, NodeInfo},
    dissemination::tells_info,
    membership::{NodeName, Record, Target},
    rate::RateLimiter,
    timers::Timers,
};

/// The longest pause before a request is repeated.
const MAX_PAUSE: Duration = Duration::from_secs(16);
/// In a large cluster, requests are spread over time: so many are sent per second.
const REQUESTS_PER_SECOND: f64 = 2000.0;
/// How many responses are given per second to all; and to members that have not answered a ping yet, which may be made up,
/// with somebody else's addresses.
const RESPONSES_PER_SECOND: u32 = 2000;
const UNPROVEN_RESPONSES_PER_SECOND: u32 = 20;

/// Stands for an info in comparisons; 0 if there is none.
type InfoTag = u64;

/// This node's info, those of the others, and the requests under way.
#[derive(Debug)]
pub(super) struct InfoExchange {
    own: Option<OwnInfo>,
    known: BTreeMap<NodeName, MemberInfo>,
    /// Which members have told each identity.
    by_id: BTreeMap<NodeId, BTreeSet<NodeName>>,
    /// Members that have told the same identity as another: the first one is requested again, to see whether it still runs.
    same_id: BTreeMap<NodeName, NodeName>,
    pending: BTreeMap<NodeName, PendingRequest>,
    /// When each request is repeated.
    due: Timers<NodeName>,
    /// Until when each member gets no other response.
    responded: Timers<NodeName>,
    responses: RateLimiter,
    unproven_responses: RateLimiter,
}

/// This node's own info.
#[derive(Debug)]
struct OwnInfo {
    info: NodeInfo,
    bytes: Bytes,
    tag: InfoTag,
}

/// A member's info in its encoded form, as a node may know a hundred thousand of these.
#[derive(Debug)]
struct MemberInfo {
    id: NodeId,
    tag: InfoTag,
    bytes: Box<[u8]>,
}

/// A request under way.
#[derive(Debug)]
struct PendingRequest {
    nonce: u64,
    /// How often it was sent.
    tries: u32,
    /// The tag that the member has told meanwhile, or 0. A response with another tag may have been under way while the info
    /// changed.
    expected: InfoTag,
}

impl Default for InfoExchange {
    fn default() -> Self {
        Self {
            own: None,
            known: BTreeMap::new(),
            by_id: BTreeMap::new(),
            same_id: BTreeMap::new(),
            pending: BTreeMap::new(),
            due: Timers::new(),
            responded: Timers::new(),
            responses: RateLimiter::default(),
            unproven_responses: RateLimiter::default(),
        }
    }
}

impl InfoExchange {
    /// Sets this node's own info.
    pub(super) fn set_own(&mut self, info: NodeInfo, nonce: u64) {
        let bytes = message::encode_info(&info).into();
        self.own = Some(OwnInfo { info, bytes, tag: nonce.max(1) });
    }

    /// What a member has told about itself.
    pub(super) fn get(&self, name: &NodeName) -> Option<NodeInfo> {
        self.known.get(name).and_then(|known| message::decode_info(&known.bytes).ok())
    }

    /// When the next request is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.next()
    }

    /// How many infos are known, members requested, and members that were responded to lately.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn held(&self) -> (usize, usize, usize) {
        (self.known.len(), self.pending.len(), self.responded.len())
    }

    fn own_tag(&self) -> InfoTag {
        self.own.as_ref().map_or(0, |own| own.tag)
    }

    fn tag_of(&self, name: &NodeName) -> InfoTag {
        self.known.get(name).map_or(0, |known| known.tag)
    }

    /// Sees to it that a member's info is requested at that time.
    fn request_at(&mut self, at: Instant, name: &NodeName, nonce: u64) {
        self.pending.insert(name.clone(), PendingRequest { nonce, tries: 0, expected: 0 });
        self.due.set(name.clone(), at);
    }

    fn forget(&mut self, name: &NodeName) {
        self.unlearn(name);
        self.same_id.retain(|one, other| one != name && other != name);
        self.stop_requesting(name);
    }

    fn unlearn(&mut self, name: &NodeName) -> Option<MemberInfo> {
        let known = self.known.remove(name)?;
        if let Some(names) = self.by_id.get_mut(&known.id) {
            names.remove(name);
            if names.is_empty() {
                self.by_id.remove(&known.id);
            }
        }
        Some(known)
    }

    fn stop_requesting(&mut self, name: &NodeName) {
        self.pending.remove(name);
        self.due.cancel(name);
    }

    /// Forgets responses that are too old to matter.
    fn forget_responses(&mut self, now: Instant) {
        while self.responded.pop(now).is_some() {}
    }

    /// Whether a member may get a response now. If so, it gets no other within `pause`.
    fn may_respond(&mut self, now: Instant, name: &NodeName, is_proven: bool, pause: Duration) -> bool {
        self.forget_responses(now);
        let second = Duration::from_secs(1);
        let may = self.responded.get(name).is_none()
            && (is_proven || self.unproven_responses.take(now, second / UNPROVEN_RESPONSES_PER_SECOND, second))
            && self.responses.take(now, second / RESPONSES_PER_SECOND, second / 4);
        if may {
            self.responded.set(name.clone(), now + pause);
        }
        may
    }

    /// Stores a member's info; gives whether it is news.
    fn learn(&mut self, name: &NodeName, id: NodeId, (tag, bytes): (InfoTag, &[u8])) -> bool {
        let before = self.unlearn(name);
        self.by_id.entry(id).or_default().insert(name.clone());
        self.known.insert(name.clone(), MemberInfo { id, tag, bytes: bytes.into() });
        before.is_none_or(|before| *before.bytes != *bytes)
    }

    /// Another member that has told the same identity.
    fn other_with_id(&self, name: &NodeName, id: NodeId) -> Option<&NodeName> {
        self.by_id.get(&id)?.iter().find(|other| *other != name)
    }

    /// A member has just responded: gives the identity that it shares with another one, if it was requested for that reason.
    fn confirmed_same_id(&mut self, name: &NodeName) -> Option<(NodeId, NodeName)> {
        let other = self.same_id.remove(name)?;
        let id = self.known.get(name)?.id;
        (self.known.get(&other)?.id == id).then_some((id, other))
    }
}

impl Node {
    /// What this node tells other nodes of this crate about itself, if it tells anything.
    pub fn info(&self) -> Option<&NodeInfo> {
        self.info_exchange.own.as_ref().map(|own| &own.info)
    }

    /// What a live member, or this node, tells about itself. Plain memberlist nodes tell nothing.
    pub fn info_of(&self, name: &NodeName) -> Option<NodeInfo> {
        if *name == self.me().name { self.info().cloned() } else { self.info_exchange.get(name) }
    }

    /// Tells something else about this node from now on; gives whether the node still tells anything.
    pub fn update_info(&mut self, now: Instant, info: NodeInfo) -> bool {
        if self.refusal() == Some(crate::PublishError::Stopped) {
            return false;
        }
        self.info_exchange.set_own(info, self.rng.next_u64());
        // All members hear by the request that there is something new. In a large cluster they respond, and request it, one after
        // the other.
        let time = Duration::from_secs_f64(self.membership.live() as f64 / REQUESTS_PER_SECOND);
        let all: Vec<_> =
            self.membership.others().filter(|record| can_be_requested(record)).map(|r| r.name.clone()).collect();
        for name in all {
            let (at, nonce) = (now + time.mul_f64(self.rng.random()), self.rng.next_u64());
            self.info_exchange.request_at(at, &name, nonce);
        }
        self.process_outputs(now);
        true
    }

    /// A member is proven, has come back or has moved: its info is requested, if it can be.
    pub(super) fn request_info(&mut self, now: Instant, name: &NodeName) {
        if self.info_exchange.own.is_some() && self.membership.get(name.as_bytes()).is_some_and(can_be_requested) {
            let nonce = self.rng.next_u64();
            self.info_exchange.request_at(now, name, nonce);
        }
    }

    /// Forgets the info of a member that is gone.
    pub(super) fn forget_info(&mut self, name: &NodeName) {
        self.info_exchange.forget(name);
    }

    /// Sends the requests that are due.
    pub(super) fn send_info_requests(&mut self, now: Instant) {
        self.info_exchange.forget_responses(now);
        while let Some(name) = self.info_exchange.due.pop(now) {
            let record = self.membership.get(name.as_bytes()).filter(|record| can_be_requested(record));
            let Some(record) = record.filter(|_| !self.membership.has_left()) else {
                self.info_exchange.stop_requesting(&name);
                continue;
            };
            let (own_tag, known_tag) = (self.info_exchange.own_tag(), self.info_exchange.tag_of(&name));
            let Some(request) = self.info_exchange.pending.get_mut(&name) else { continue };
            let pause = 2 * self.tuning.probe_timeout;
            let pause = pause.saturating_mul(1 << request.tries.min(16)).min(MAX_PAUSE);
            request.tries += 1;
            let from = self.membership.me().name.as_bytes();
            let message = InfoMessage::Request { nonce: request.nonce, own_tag, known_tag, from }.encode();
            let to = Target::from(record);
            self.info_exchange.due.set(name, now + pause);
            // A node whose name is another's sends nothing.
            if !self.seeds.name_taken() {
                self.broadcast(&[to], None, vec![message]);
            }
        }
    }

    /// Handles a request or a response.
    pub(super) fn handle_info_message(&mut self, now: Instant, from: SocketAddr, payload: &Bytes) {
        match InfoMessage::decode(payload) {
            Some(InfoMessage::Request { nonce, own_tag, known_tag, from: name }) => {
                self.respond_with_info(now, name, nonce, (own_tag, known_tag))
            }
            Some(InfoMessage::Response { nonce, from: name, reply }) => {
                let name = NodeName::from(name);
                // A response without a request, or of a member that is gone, is not believed.
                let request = self.info_exchange.pending.get(&name).filter(|request| request.nonce == nonce);
                let Some(expected) = request.map(|request| request.expected) else { return };
                self.info_exchange.stop_requesting(&name);
                self.take_info(now, from, &name, reply);
                if let Some((id, other)) = self.info_exchange.confirmed_same_id(&name) {
                    self.events.push_back(Event::IdConflict { id, names: [name.clone(), other] });
                }
                if expected != 0 && expected != self.info_exchange.tag_of(&name) {
                    let (at, nonce) = (now + self.tuning.probe_timeout, self.rng.next_u64());
                    self.info_exchange.request_at(at, &name, nonce);
                }
            }
            None => {
                let reason = format_args!("a message of {} bytes about a node cannot be read", payload.len());
                self.reject(now, from, RejectionCause::Message, &reason);
            }
        }
    }

    /// Responds to a request. A requester that is not known yet as a member asks again.
    fn respond_with_info(&mut self, now: Instant, name: &[u8], nonce: u64, (their_tag, known_tag): (InfoTag, InfoTag)) {
        let me = &self.membership.me().name;
        let Some(record) = self.membership.get(name).filter(|record| is_live_of_ours(record) && record.name != *me)
        else {
            return;
        };
        let (name, is_proven, to) = (record.name.clone(), record.is_proven(), Target::from(record));
        if self.membership.has_left()
            || self.seeds.name_taken()
            || !self.info_exchange.may_respond(now, &name, is_proven, self.tuning.probe_timeout)
        {
            return;
        }
        let reply = match &self.info_exchange.own {
            None => InfoReply::Nothing,
            Some(own) if own.tag == known_tag => InfoReply::Unchanged,
            Some(own) => InfoReply::Info { tag: own.tag, bytes: &own.bytes },
        };
        let answer = InfoMessage::Response { nonce, from: me.as_bytes(), reply }.encode();
        self.broadcast(&[to], None, vec![answer]);
        if their_tag != self.info_exchange.tag_of(&name) {
            match self.info_exchange.pending.get_mut(&name) {
                Some(request) => request.expected = their_tag,
                None => self.request_info(now, &name),
            }
        }
    }

    fn take_info(&mut self, now: Instant, from: SocketAddr, name: &NodeName, reply: InfoReply<'_>) {
        let (tag, bytes) = match reply {
            InfoReply::Unchanged => return,
            InfoReply::Nothing => {
                self.info_exchange.unlearn(name);
                return;
            }
            InfoReply::Info { tag, bytes } => (tag, bytes),
        };
        let info = match message::decode_info(bytes) {
            Ok(info) => info,
            Err(problem) => {
                let reason =
                    format_args!("what {name} tells of itself, in {} bytes, cannot be used: {problem}", bytes.len());
                return self.reject(now, from, RejectionCause::Message, &reason);
            }
        };
        if !self.info_exchange.learn(name, info.id, (tag, bytes)) {
            return;
        }
        if self.info().is_some_and(|own| own.id == info.id) {
            let names = [self.me().name.clone(), name.clone()];
            self.events.push_back(Event::IdConflict { id: info.id, names });
        } else if let Some(other) = self.info_exchange.other_with_id(name, info.id).cloned() {
            // This may be an earlier run under another name, not yet found to have failed.
            self.info_exchange.same_id.insert(other.clone(), name.clone());
            self.request_info(now, &other);
        }
        self.events.push_back(Event::InfoReceived { name: name.clone(), info: Arc::new(info) });
    }
}

/// Whether a member's info can be requested. It must be proven: else an announcement alone could have anybody sent requests.
fn can_be_requested(record: &Record) -> bool {
    is_live_of_ours(record) && record.is_proven()
}

fn is_live_of_ours(record: &Record) -> bool {
    record.is_live() && tells_info(record.versions)
}

#[cfg(test)]
pub(super) use self::message::{test_request, test_response};
