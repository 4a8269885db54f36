//! Follows running nodes over their HTTP APIs, and tells what each has sent and received.
//!
//! A node's `/v1/events` has its messages in the order in which they came there: its own, which it has sent, and those of
//! others, which it has received. And it has acknowledgements: how far other members are with the messages of an origin, as
//! they have told it. So of a member that is not asked itself it is known what it has sent, since others have it, and what
//! it has acknowledged, though not when, nor in which order. A node asked speaks for itself.
//!
//! What is kept for that is bounded: the last messages, and the positions of members.

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
    entry::{Entry, Message, What, name},
    order::{MAX_NODES, Voice},
};
use crate::{
    commands::{
        client::Client,
        follow::{Event, Follower, warn},
    },
    failure::Failure,
};

/// How long the others' names are waited for.
const FIRST: Duration = Duration::from_secs(3);
/// Messages whose acknowledgements are told.
const MAX_RECENT: usize = 1000;
/// Messages that wait until the node has said its name.
const MAX_EARLY: usize = 1000;
/// Positions of members that are known.
const MAX_POSITIONS: usize = 100_000;

/// The names of those who are asked.
#[derive(Debug)]
pub(super) struct Asked(Mutex<HashSet<String>>, Barrier);

impl Asked {
    pub(super) fn new(count: usize) -> Self {
        Self(Mutex::default(), Barrier::new(count))
    }

    /// Waits until all have said their names, so that none is taken for one that is not asked; but not for ever.
    async fn all(&self) {
        let _ = timeout(FIRST, self.1.wait()).await;
    }

    /// Adds one that has said its name, unless it is asked already.
    fn add(&self, node: &str) -> bool {
        // Whoever panicked has left a whole set behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned())
    }
}

/// Follows one node for as long as it takes.
pub(super) async fn follow(client: Client, last: u32, asked: Arc<Asked>, inputs: mpsc::Sender<Input>) -> Failure {
    let shown = client.node.to_string();
    let mut follower = Follower::new(client, format!("/v1/events?messages={last}"));
    let (mut node, mut named) = (Told::default(), false);
    loop {
        let events = match follower.next().await {
            Ok(events) => events,
            Err(failure) => return failure,
        };
        for event in events {
            if let Some(notice) = event.notice() {
                warn(&format!("{shown}: {notice}"));
            }
            let told = node.take(&event);
            if let Some(Input::Node { name, voice: Voice::Own }) = told.first()
                && !asked.add(name)
            {
                return Failure::usage(format!(
                    "{name} is asked twice, at {shown} and elsewhere: leave one --node out"
                ));
            }
            for input in told {
                let is_name = matches!(input, Input::Node { voice: Voice::Own, .. });
                if inputs.send(input).await.is_err() {
                    return Failure::other("the picture is not drawn any longer");
                }
                if is_name && !std::mem::replace(&mut named, true) {
                    asked.all().await;
                }
            }
        }
    }
}

/// What one node has told.
#[derive(Debug, Default)]
struct Told {
    /// Its name.
    me: Option<String>,
    /// Messages that came before that.
    early: VecDeque<String>,
    /// The last messages, whose acknowledgements may still come.
    recent: VecDeque<Recent>,
    /// How far members are with each origin.
    positions: HashMap<String, Positions>,
    count: usize,
    /// Whether members are there.
    there: HashMap<String, bool>,
}

#[derive(Debug)]
struct Recent {
    origin: String,
    epoch: u64,
    seq: u64,
    entry: Entry,
}

#[derive(Debug, Default)]
struct Positions {
    epoch: u64,
    members: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Members {
    node: String,
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    name: String,
    state: String,
    kind: String,
}

#[derive(Deserialize)]
struct Acks {
    origin: String,
    epoch: u64,
    members: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Said<'a> {
    id: Option<String>,
    origin: String,
    epoch: Option<u64>,
    seq: Option<u64>,
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
    received: String,
}

impl Told {
    /// What follows from an event.
    fn take(&mut self, event: &Event) -> Vec<Input> {
        match &*event.name {
            "members" => serde_json::from_str(&event.data).map_or_else(|_| Vec::new(), |members| self.members(members)),
            "acks" => serde_json::from_str(&event.data).map_or_else(|_| Vec::new(), |acks| self.acks(acks)),
            "message" if self.me.is_none() => {
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

    fn members(&mut self, Members { node, members }: Members) -> Vec<Input> {
        let mut inputs = Vec::new();
        if self.me.as_ref() != Some(&node) {
            inputs.push(Input::Node { name: name(&node), voice: Voice::Own });
            self.me = Some(node.clone());
        }
        for Member { name: member, state, kind } in members {
            let is_there = state == "alive" || state == "suspect";
            // Nobody knows what a plain memberlist node has received, and it need not be known which are gone.
            let is_new = !self.there.contains_key(&member);
            if kind != "broadcast" || is_new && (!is_there || self.there.len() >= MAX_NODES) {
                continue;
            }
            if is_new && member != node {
                inputs.push(Input::Node { name: name(&member), voice: Voice::Others });
            }
            if self.there.insert(member.clone(), is_there).is_some_and(|before| before != is_there) {
                inputs.push(Input::Expect { name: name(&member), is_there });
            }
        }
        let early = std::mem::take(&mut self.early);
        inputs.extend(early.iter().flat_map(|data| self.message(data)));
        inputs
    }

    fn message(&mut self, data: &str) -> Vec<Input> {
        let (Ok(said), Some(me)) = (serde_json::from_str::<Said>(data), &self.me) else { return Vec::new() };
        let what = if said.origin == *me { What::Sent } else { What::Received };
        let time = humantime::parse_rfc3339(&said.received).ok();
        let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
        let message = Message::new(&said.key, said.value.get());
        let entry = Entry::new(me, what, message, time.as_millis().try_into().unwrap_or(u64::MAX));
        let entry = entry.of(Some(&said.origin), said.id.as_deref());
        let mut inputs = vec![Input::Entry(entry.clone())];
        if let (Some(epoch), Some(seq)) = (said.epoch, said.seq) {
            let recent = Recent { origin: said.origin, epoch, seq, entry };
            // They may have acknowledged it before it came here.
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

    fn acks(&mut self, Acks { origin, epoch, members }: Acks) -> Vec<Input> {
        let Some(me) = &self.me else { return Vec::new() };
        if !self.positions.contains_key(&origin) && self.positions.len() >= MAX_NODES {
            return Vec::new();
        }
        let positions = self.positions.entry(origin.clone()).or_default();
        if positions.epoch != epoch {
            self.count -= positions.members.len();
            *positions = Positions { epoch, members: BTreeMap::new() };
        }
        let mut inputs = Vec::new();
        for (member, next) in members {
            let before = match positions.members.get_mut(&member) {
                Some(before) => std::mem::replace(before, next),
                None if self.count < MAX_POSITIONS => {
                    self.count += 1;
                    positions.members.insert(member.clone(), next);
                    0
                }
                None => continue,
            };
            let of = |recent: &&Recent| recent.epoch == epoch && recent.origin == origin;
            let news = self.recent.iter().filter(of).filter(|recent| (before..next).contains(&recent.seq));
            inputs.extend(news.filter_map(|recent| recent.acknowledged(&member, me)));
        }
        inputs
    }
}

impl Recent {
    /// That a member has acknowledged it, unless it says so itself, or has sent it.
    fn acknowledged(&self, member: &str, me: &str) -> Option<Input> {
        let told_otherwise = member == me || member == self.origin;
        let entry = Entry { node: name(member), what: What::Acknowledged, ..self.entry.clone() };
        (!told_otherwise).then_some(Input::Entry(entry))
    }
}
