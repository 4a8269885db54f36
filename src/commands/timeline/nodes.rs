//! Follows running nodes over HTTP, and makes entries of what each has sent and received.
//!
//! A node's `/v1/events` has its messages in the order in which they came: its own, which it sent, and those of others, which
//! it received. It also has acknowledgements: how far other members are with the messages of an origin. So for a member that
//! is not followed, it is known what it sent, since others have that, and what it acknowledged, but not when, nor in which
//! order. A node that is followed speaks for itself.
//!
//! What is remembered is bounded: the last messages, and the positions of members.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Barrier, mpsc},
    time::timeout,
};

use super::{
    draw::Input,
    entry::{Entry, EntryKind, MessageText, name},
    line::time,
    order::{MAX_NODES, Witness},
};
use crate::{
    commands::{client::ApiClient, follow::Follower, output::warn, sse::ServerEvent},
    failure::Failure,
};

/// How long to wait until all nodes have told their names.
const NAMES_TIMEOUT: Duration = Duration::from_secs(3);
/// How many messages are remembered for their acknowledgements.
const MAX_RECENT: usize = 1000;
/// How many messages wait until the node has told its name.
const MAX_EARLY: usize = 1000;
/// How many positions of members are remembered.
const MAX_POSITIONS: usize = 100_000;

/// The names of the nodes that are followed.
#[derive(Debug)]
pub(super) struct FollowedNodes(Mutex<HashSet<String>>, Barrier);

impl FollowedNodes {
    pub(super) fn new(count: usize) -> Self {
        Self(Mutex::default(), Barrier::new(count))
    }

    /// Waits until all nodes have told their names, so that none is taken for one that is not followed; but not for ever.
    async fn all_named(&self) {
        let _ = timeout(NAMES_TIMEOUT, self.1.wait()).await;
    }

    /// Adds a name. Gives false if that node is followed already.
    fn add(&self, node: &str) -> bool {
        // A panic elsewhere cannot have left the set half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned())
    }
}

/// Follows one node until that fails.
pub(super) async fn follow(
    client: ApiClient,
    last: u32,
    followed: Arc<FollowedNodes>,
    inputs: mpsc::Sender<Input>,
) -> Failure {
    let shown = client.node.to_string();
    let mut follower = Follower::new(client, format!("/v1/events?messages={last}"));
    let (mut view, mut is_named) = (NodeView::default(), false);
    loop {
        let events = match follower.next().await {
            Ok(events) => events,
            Err(failure) => return failure,
        };
        for event in events {
            if let Some(notice) = event.notice() {
                warn(&format!("{shown}: {notice}"));
            }
            let new = view.take(&event);
            if let Some(Input::Node { name, witness: Witness::Itself }) = new.first()
                && !followed.add(name)
            {
                return Failure::usage(format!(
                    "{name} is asked twice, at {shown} and elsewhere: leave one --node out"
                ));
            }
            for input in new {
                let is_name = matches!(input, Input::Node { witness: Witness::Itself, .. });
                if inputs.send(input).await.is_err() {
                    return Failure::other("the picture is not drawn any longer");
                }
                if is_name && !std::mem::replace(&mut is_named, true) {
                    followed.all_named().await;
                }
            }
        }
    }
}

/// What is known from the events of one node.
#[derive(Debug, Default)]
struct NodeView {
    /// The node's name, once it is known.
    name: Option<String>,
    /// Messages that came before the name.
    early: VecDeque<String>,
    /// The last messages, which may still be acknowledged.
    recent: VecDeque<RecentMessage>,
    /// How far members are with each origin.
    positions: HashMap<String, OriginPositions>,
    /// How many positions there are in all.
    position_count: usize,
    /// The members, and whether each is alive.
    is_alive: HashMap<String, bool>,
}

#[derive(Debug)]
struct RecentMessage {
    origin: String,
    epoch: u64,
    seq: u64,
    entry: Entry,
}

#[derive(Debug, Default)]
struct OriginPositions {
    epoch: u64,
    members: BTreeMap<String, u64>,
}

/// The data of the event `members`.
#[derive(Deserialize)]
struct MembersEvent {
    node: String,
    members: Vec<MemberInfo>,
}

#[derive(Deserialize)]
struct MemberInfo {
    name: String,
    state: String,
    kind: String,
}

/// The data of the event `acks`.
#[derive(Deserialize)]
struct AcksEvent {
    origin: String,
    epoch: u64,
    members: BTreeMap<String, u64>,
}

/// The data of the event `message`.
#[derive(Deserialize)]
struct MessageEvent<'a> {
    id: Option<String>,
    origin: String,
    epoch: Option<u64>,
    seq: Option<u64>,
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
    received: String,
}

impl NodeView {
    /// The inputs that follow from an event.
    fn take(&mut self, event: &ServerEvent) -> Vec<Input> {
        match &*event.name {
            "members" => serde_json::from_str(&event.data).map_or_else(|_| Vec::new(), |members| self.members(members)),
            "acks" => serde_json::from_str(&event.data).map_or_else(|_| Vec::new(), |acks| self.acks(acks)),
            "message" if self.name.is_none() => {
                self.early.push_back(event.data.clone());
                if self.early.len() > MAX_EARLY {
                    self.early.pop_front();
                }
                Vec::new()
            }
            "message" => self.message(&event.data),
            _ => Vec::new(),
        }
    }

    fn members(&mut self, MembersEvent { node, members }: MembersEvent) -> Vec<Input> {
        let mut inputs = Vec::new();
        if self.name.as_ref() != Some(&node) {
            inputs.push(Input::Node { name: name(&node), witness: Witness::Itself });
            self.name = Some(node.clone());
        }
        for MemberInfo { name: member, state, kind } in members {
            let is_alive = state == "alive" || state == "suspect";
            // Nobody knows what a plain memberlist node has received, and nodes that were gone from the start do not matter.
            let is_new = !self.is_alive.contains_key(&member);
            if kind != "broadcast" || is_new && (!is_alive || self.is_alive.len() >= MAX_NODES) {
                continue;
            }
            if is_new && member != node {
                inputs.push(Input::Node { name: name(&member), witness: Witness::Others });
            }
            if self.is_alive.insert(member.clone(), is_alive).is_some_and(|before| before != is_alive) {
                inputs.push(Input::Expect { name: name(&member), is_there: is_alive });
            }
        }
        let early = std::mem::take(&mut self.early);
        inputs.extend(early.iter().flat_map(|data| self.message(data)));
        inputs
    }

    fn message(&mut self, data: &str) -> Vec<Input> {
        let (Ok(event), Some(me)) = (serde_json::from_str::<MessageEvent>(data), &self.name) else { return Vec::new() };
        let kind = if event.origin == *me { EntryKind::Sent } else { EntryKind::Received };
        let message = MessageText::new(&event.key, event.value.get());
        let entry = Entry::new(me, kind, message, time(&event.received).unwrap_or_default());
        let entry = entry.of(Some(&event.origin), event.id.as_deref());
        let mut inputs = vec![Input::Entry(entry.clone())];
        if let (Some(epoch), Some(seq)) = (event.epoch, event.seq) {
            let recent = RecentMessage { origin: event.origin, epoch, seq, entry };
            // Members may have acknowledged it before it came here.
            if let Some(positions) = self.positions.get(&recent.origin).filter(|positions| positions.epoch == epoch) {
                let have = positions.members.iter().filter(|(_, next)| **next > seq).map(|(member, _)| member);
                inputs.extend(have.filter_map(|member| recent.acknowledged(member, me)));
            }
            self.recent.push_back(recent);
            if self.recent.len() > MAX_RECENT {
                self.recent.pop_front();
            }
        }
        inputs
    }

    fn acks(&mut self, AcksEvent { origin, epoch, members }: AcksEvent) -> Vec<Input> {
        let Some(me) = &self.name else { return Vec::new() };
        if !self.positions.contains_key(&origin) && self.positions.len() >= MAX_NODES {
            return Vec::new();
        }
        let positions = self.positions.entry(origin.clone()).or_default();
        if positions.epoch != epoch {
            self.position_count -= positions.members.len();
            *positions = OriginPositions { epoch, members: BTreeMap::new() };
        }
        let mut inputs = Vec::new();
        for (member, next) in members {
            let before = match positions.members.get_mut(&member) {
                Some(before) => std::mem::replace(before, next),
                None if self.position_count < MAX_POSITIONS => {
                    self.position_count += 1;
                    positions.members.insert(member.clone(), next);
                    0
                }
                None => continue,
            };
            let of = |recent: &&RecentMessage| recent.epoch == epoch && recent.origin == origin;
            let news = self.recent.iter().filter(of).filter(|recent| (before..next).contains(&recent.seq));
            inputs.extend(news.filter_map(|recent| recent.acknowledged(&member, me)));
        }
        inputs
    }
}

impl RecentMessage {
    /// The input that a member has acknowledged it; nothing, if that member reports for itself, or sent it.
    fn acknowledged(&self, member: &str, me: &str) -> Option<Input> {
        let is_known = member == me || member == self.origin;
        let entry = Entry { node: name(member), kind: EntryKind::Acknowledged, ..self.entry.clone() };
        (!is_known).then_some(Input::Entry(entry))
    }
}
