//! Why a message of serf's is refused.

use std::net::SocketAddr;

use super::{MAX_ENTRIES, REPLIES_PER_SECOND};
use crate::wire::MsgpackError;

/// Why a message or a state of serf's was not used. The texts reach the application, as reasons of
/// [`Event::Rejected`](crate::Event::Rejected).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SerfError {
    #[error("{}", match .0 {
        None => "an empty message is not a serf message".to_owned(),
        Some(kind) => format!("serf has no message of type {kind} for this node"),
    })]
    UnknownType(Option<u8>),
    #[error("a serf {kind} cannot be read: {source}")]
    Malformed { kind: &'static str, source: MsgpackError },
    #[error("a serf message has the time {0}, which is beyond the maximum")]
    TimeTooLarge(u64),
    #[error("a serf message has the time {time}, far ahead of {clock}, the latest that is known")]
    ClockLeap { time: u64, clock: u64 },
    #[error("a serf message is to be relayed to an address of {0} bytes; IPv4 has 4 and IPv6 16")]
    BadAddress(usize),
    #[error("{}", match .0 {
        None => "the other node is in no serf cluster, this one is; set `serf` for all or none".to_owned(),
        Some(kind) => format!("a serf state begins with type 2, this one with {kind}"),
    })]
    NotAState(Option<u8>),
    #[error("a serf state has more entries than {MAX_ENTRIES} members and their events need")]
    TooManyEntries,
    #[error("a serf user event was dropped: there are too many with the same time")]
    TooManyEvents,
    #[error("the name of a serf user event, {0} bytes long, is not text")]
    NameNotText(usize),
    #[error("a serf message to {0} was dropped, because no member is there")]
    NotAMember(SocketAddr),
    #[error("more than {REPLIES_PER_SECOND} answers and relays were asked for within a second")]
    TooManyReplies,
}
