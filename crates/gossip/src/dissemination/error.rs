//! What is wrong with messages that are dropped.

use super::{
    control::ControlError, dedup::Flooded, draft::MAX_MESSAGE, outbound::AckError, payload::PayloadError,
    stream::StreamError,
};
use crate::membership::NodeName;

/// Why a user message, or a control message, cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error("a message from \"{origin}\" was dropped: {error}")]
    Stream { origin: NodeName, error: StreamError },
    #[error("a message from the plain node \"{0}\" was dropped: {1}")]
    Plain(NodeName, Flooded),
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
