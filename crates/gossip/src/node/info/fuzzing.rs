//! Questions and answers about nodes from few bytes, for [`crate::fuzzing`]; and what a node may believe of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arbitrary::Arbitrary;
use bytes::Bytes;

use super::message::{self, InfoMessage, Told as Tells, is_one};
use crate::{
    config::{NodeId, NodeInfo},
    wire::kind,
};

/// How many messages are remembered, to be said again.
const RECORDED: usize = 16;

/// One of them: asked or answered in anybody's name, or made of one that was said before.
#[derive(Arbitrary, Debug)]
pub(crate) enum Info {
    Ask {
        number: u8,
        mine: u8,
        knows: bool,
        from: u8,
    },
    Answer {
        to: To,
        from: u8,
        told: Told,
    },
    /// As it was said, by the node or to it.
    Again(u8),
    Cut {
        which: u8,
        len: u8,
    },
    Changed {
        which: u8,
        at: u8,
        to: u8,
    },
}

/// Which question is answered.
#[derive(Arbitrary, Debug)]
pub(crate) enum To {
    /// One of the latest of the node.
    Asked(u8),
    Other(u8),
}

#[derive(Arbitrary, Debug)]
pub(crate) enum Told {
    Nothing,
    AsKnown,
    Info { tag: u8, id: u8, roles: Vec<u8>, endpoints: Vec<u8> },
    Bytes { tag: u8, told: Vec<u8> },
}

impl Told {
    /// What is told, in bytes.
    fn info(&self) -> Vec<u8> {
        match self {
            Self::Info { id, roles, endpoints, .. } => {
                let info = NodeInfo::new(NodeId::from(u64::from(*id)));
                let info = roles.iter().fold(info, |info, role| info.role(format!("role{role}")));
                let addr = |number: u8| ([number, 0, 0, 1], 8946).into();
                let services = endpoints.iter().fold(info, |info, i| info.endpoint(format!("service{i}"), addr(*i)));
                message::encode_info(&services)
            }
            Self::Bytes { told, .. } => told.clone(),
            Self::Nothing | Self::AsKnown => Vec::new(),
        }
    }
}

/// What was said so far.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    recorded: VecDeque<Bytes>,
    /// The numbers of the node's questions, with the names of whom it may have asked.
    asked: BTreeMap<u64, BTreeSet<Bytes>>,
    latest: VecDeque<u64>,
    own_tag: u64,
    /// What was told in answer to one of them, by whom.
    answered: BTreeSet<(Bytes, Vec<u8>)>,
}

impl Talk {
    /// A user message, its type byte included.
    pub(crate) fn encode(&self, info: &Info, name: impl Fn(u8) -> Bytes) -> Bytes {
        let said = |which: u8| self.recorded.get(usize::from(which)).cloned().unwrap_or_default();
        let user = |payload: Bytes| [&[kind::USER], &payload[..]].concat().into();
        match info {
            Info::Ask { number, mine, knows, from } => {
                let (number, mine, yours) = (u64::from(*number), u64::from(*mine), self.own_tag * u64::from(*knows));
                InfoMessage::Ask { number, mine, yours, from: &name(*from) }.encode()
            }
            Info::Answer { to, from, told } => {
                let number = match to {
                    To::Asked(which) => self.latest.get(usize::from(*which)).copied().unwrap_or_default(),
                    To::Other(number) => (*number).into(),
                };
                let info = told.info();
                let told = match told {
                    Told::Nothing => Tells::Nothing,
                    Told::AsKnown => Tells::AsKnown,
                    Told::Info { tag, .. } | Told::Bytes { tag, .. } => Tells::Info { tag: (*tag).into(), told: &info },
                };
                InfoMessage::Answer { number, from: &name(*from), told }.encode()
            }
            Info::Again(which) => user(said(*which)),
            Info::Cut { which, len } => {
                let said = said(*which);
                user(said.slice(..said.len().min((*len).into())))
            }
            Info::Changed { which, at, to } => {
                let mut said = said(*which).to_vec();
                if let Some(byte) = said.get_mut(usize::from(*at)) {
                    *byte = *to;
                }
                user(said.into())
            }
        }
    }

    /// The node has sent a user message to an address, where members of these names are.
    pub(crate) fn sent(&mut self, payload: &Bytes, names: impl Iterator<Item = Bytes>) {
        match read(payload) {
            Some(InfoMessage::Ask { number, .. }) => {
                self.asked.entry(number).or_default().extend(names);
                self.latest.push_front(number);
                self.latest.truncate(RECORDED);
            }
            Some(InfoMessage::Answer { told: Tells::Info { tag, .. }, .. }) => self.own_tag = tag,
            Some(InfoMessage::Answer { .. }) => {}
            None => return,
        }
        self.record(payload);
    }

    /// The node was sent a user message.
    pub(crate) fn heard(&mut self, payload: &Bytes) {
        match read(payload) {
            Some(InfoMessage::Answer { number, from, told: Tells::Info { told, .. } }) => {
                if self.asked.get(&number).is_some_and(|names| names.contains(from)) {
                    self.answered.insert((Bytes::copy_from_slice(from), told.to_vec()));
                }
            }
            Some(_) => {}
            None => return,
        }
        self.record(payload);
    }

    fn record(&mut self, payload: &Bytes) {
        self.recorded.push_front(payload.clone());
        self.recorded.truncate(RECORDED);
    }

    /// Whether a member has told this of itself when it was asked.
    pub(crate) fn is_told(&self, name: &[u8], info: &NodeInfo) -> bool {
        let mut told = self.answered.iter().filter(|(from, _)| **from == *name);
        told.any(|(_, told)| message::decode_info(told).as_ref() == Ok(info))
    }
}

fn read(payload: &Bytes) -> Option<InfoMessage<'_>> {
    is_one(payload).then(|| InfoMessage::decode(payload)).flatten()
}
