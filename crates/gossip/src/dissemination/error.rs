//! Why messages are dropped.

use super::{
    control::ControlError, dedup::DedupFull, draft::MAX_MESSAGE, origin_stream::OriginStreamError, outbound::AckError,
    payload::PayloadError,
};
use crate::membership::NodeName;

/// Why a message or a control message cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DisseminationError {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error("a message from \"{origin}\" was dropped: {error}")]
    Stream { origin: NodeName, error: OriginStreamError },
    #[error("a message from the plain node \"{0}\" was dropped: {1}")]
    PlainFlood(NodeName, DedupFull),
    #[error(
        "a message from the plain node \"{name}\" was dropped: as JSON it takes {size} bytes; at most {MAX_MESSAGE} are allowed"
    )]
    TooLarge { name: NodeName, size: usize },
    #[error("a message from the plain node \"{0}\" was dropped: slow members still need earlier messages")]
    NoRoom(NodeName),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Ack(#[from] AckError),
}
