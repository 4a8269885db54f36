//! Messages about infos from few bytes, for [`crate::fuzzing`]; and what a node may believe of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arbitrary::Arbitrary;
use bytes::Bytes;

use super::message::{self, InfoMessage, InfoReply as Reply, is_info_message};
use crate::{
    config::{NodeId, NodeInfo},
    wire::kind,
};

/// How many messages are remembered, to be sent again.
const RECORDED: usize = 16;

/// One message: a request or a response in anybody's name, or one that was made of an earlier one.
#[derive(Arbitrary, Debug)]
pub(crate) enum Info {
    Ask {
        nonce: u8,
        mine: u8,
        knows: bool,
        from: u8,
    },
    Answer {
        to: AnsweredNonce,
        from: u8,
        told: InfoReply,
    },
    /// An earlier message, of the node or to it.
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

/// Which request is answered.
#[derive(Arbitrary, Debug)]
pub(crate) enum AnsweredNonce {
    /// One of the latest of the node.
    Asked(u8),
    Other(u8),
}

#[derive(Arbitrary, Debug)]
pub(crate) enum InfoReply {
    Nothing,
    AsKnown,
    Info { tag: u8, id: u8, roles: Vec<u8>, endpoints: Vec<u8> },
    Bytes { tag: u8, told: Vec<u8> },
}

impl InfoReply {
    /// The info in bytes.
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

/// The messages so far.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    recorded: VecDeque<Bytes>,
    /// The nonces of the node's requests, with the names of those that it may have asked.
    asked: BTreeMap<u64, BTreeSet<Bytes>>,
    latest: VecDeque<u64>,
    own_tag: u64,
    /// The infos that were told in response to one of them, with the names of their nodes.
    answered: BTreeSet<(Bytes, Vec<u8>)>,
}

impl Transcript {
    /// A user message with its type byte.
    pub(crate) fn encode(&self, info: &Info, name: impl Fn(u8) -> Bytes) -> Bytes {
        let said = |which: u8| self.recorded.get(usize::from(which)).cloned().unwrap_or_default();
        let user = |payload: Bytes| [&[kind::USER], &payload[..]].concat().into();
        match info {
            Info::Ask { nonce, mine, knows, from } => {
                let (nonce, mine, yours) = (u64::from(*nonce), u64::from(*mine), self.own_tag * u64::from(*knows));
                InfoMessage::Request { nonce, own_tag: mine, known_tag: yours, from: &name(*from) }.encode()
            }
            Info::Answer { to, from, told } => {
                let nonce = match to {
                    AnsweredNonce::Asked(which) => self.latest.get(usize::from(*which)).copied().unwrap_or_default(),
                    AnsweredNonce::Other(nonce) => (*nonce).into(),
                };
                let info = told.info();
                let reply = match told {
                    InfoReply::Nothing => Reply::Nothing,
                    InfoReply::AsKnown => Reply::Unchanged,
                    InfoReply::Info { tag, .. } | InfoReply::Bytes { tag, .. } => {
                        Reply::Info { tag: (*tag).into(), bytes: &info }
                    }
                };
                InfoMessage::Response { nonce, from: &name(*from), reply }.encode()
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

    /// The node has sent a user message to an address where members of these names are.
    pub(crate) fn sent(&mut self, payload: &Bytes, names: impl Iterator<Item = Bytes>) {
        match read(payload) {
            Some(InfoMessage::Request { nonce, .. }) => {
                self.asked.entry(nonce).or_default().extend(names);
                self.latest.push_front(nonce);
                self.latest.truncate(RECORDED);
            }
            Some(InfoMessage::Response { reply: Reply::Info { tag, .. }, .. }) => self.own_tag = tag,
            Some(InfoMessage::Response { .. }) => {}
            None => return,
        }
        self.record(payload);
    }

    /// The node was sent a user message.
    pub(crate) fn heard(&mut self, payload: &Bytes) {
        match read(payload) {
            Some(InfoMessage::Response { nonce, from, reply: Reply::Info { bytes, .. } }) => {
                if self.asked.get(&nonce).is_some_and(|names| names.contains(from)) {
                    self.answered.insert((Bytes::copy_from_slice(from), bytes.to_vec()));
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

    /// Whether a member has told this about itself in response to a request.
    pub(crate) fn is_told(&self, name: &[u8], info: &NodeInfo) -> bool {
        let mut told = self.answered.iter().filter(|(from, _)| **from == *name);
        told.any(|(_, told)| message::decode_info(told).as_ref() == Ok(info))
    }
}

fn read(payload: &Bytes) -> Option<InfoMessage<'_>> {
    is_info_message(payload).then(|| InfoMessage::decode(payload)).flatten()
}
