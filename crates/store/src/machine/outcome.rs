//! The outcomes of commands.

use bytes::Bytes;

use crate::{
    codec::{ByteReader, ByteWriter},
    error::{CodecError, Error},
    keys,
};

/// The first byte of an outcome of a lease.
const GRANTED: u8 = 2;
const LEASE_ENDED: u8 = 3;

/// The outcome of a [`Command`](super::Command). [`State::apply`](super::State::apply) returns it; see the example of
/// [`crate::machine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command was refused, and has changed nothing.
    Refused(Error),
    /// The outcome of a command for keys.
    Keys(keys::KeysOutcome),
    /// A lease was granted.
    Granted {
        /// The current revision.
        revision: u64,
        /// The lease's id.
        lease: i64,
        /// Its time to live, in seconds.
        ttl: i64,
    },
    /// A lease has ended.
    LeaseEnded {
        /// The current revision: the one at which its keys were deleted, if it had any.
        revision: u64,
        /// The lease's id.
        lease: i64,
    },
    /// A client was opened.
    Client {
        /// The client's id.
        client: u64,
    },
    /// The quota of a machine was set.
    QuotaSet,
    /// The outcome of another machine's command, in that machine's encoding.
    Machine(Bytes),
}

impl Outcome {
    /// A lower bound of its encoded size, without encoding it.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Keys(outcome) => outcome.size(),
            Self::Machine(bytes) => bytes.len() as u64,
            Self::Refused(_)
            | Self::Granted { .. }
            | Self::LeaseEnded { .. }
            | Self::Client { .. }
            | Self::QuotaSet => 0,
        }
    }

    /// Whether an encoded outcome says that a lease was granted or has ended; it looks at the first byte only.
    pub fn is_of_lease(bytes: &[u8]) -> bool {
        matches!(bytes.first(), Some(&GRANTED | &LEASE_ENDED))
    }

    /// Encodes it, as the answer to another node.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = ByteWriter::new();
        match self {
            Self::Refused(error) => {
                to.byte(0);
                error.write(&mut to);
            }
            Self::Keys(outcome) => {
                to.byte(1);
                keys::codec::write_outcome(&mut to, outcome);
            }
            Self::Granted { revision, lease, ttl } => {
                to.byte(GRANTED);
                to.number(*revision);
                to.signed(*lease);
                to.signed(*ttl);
            }
            Self::LeaseEnded { revision, lease } => {
                to.byte(LEASE_ENDED);
                to.number(*revision);
                to.signed(*lease);
            }
            Self::Client { client } => {
                to.byte(4);
                to.number(*client);
            }
            Self::QuotaSet => to.byte(5),
            Self::Machine(bytes) => {
                to.byte(6);
                to.bytes(bytes);
            }
        }
        to.finish()
    }

    /// Decodes an outcome.
    ///
    /// # Errors
    ///
    /// The bytes are malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = ByteReader::new(bytes);
        let outcome = match from.byte()? {
            0 => Self::Refused(Error::read(&mut from)?),
            1 => Self::Keys(keys::codec::read_outcome(&mut from)?),
            GRANTED => Self::Granted { revision: from.number()?, lease: from.signed()?, ttl: from.signed()? },
            LEASE_ENDED => Self::LeaseEnded { revision: from.number()?, lease: from.signed()? },
            4 => Self::Client { client: from.number()? },
            5 => Self::QuotaSet,
            6 => Self::Machine(from.bytes()?),
            tag => return Err(CodecError::Tag { what: "outcome", tag }),
        };
        from.end()?;
        Ok(outcome)
    }
}
