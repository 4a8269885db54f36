//! What became of a command.

use bytes::Bytes;

use crate::{
    codec::{ByteReader, ByteWriter},
    error::{CodecError, Error},
    keys,
};

/// How outcomes of leases begin.
const GRANTED: u8 = 2;
const LEASE_ENDED: u8 = 3;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was refused, and has changed nothing.
    Refused(Error),
    /// One for keys.
    Keys(keys::KeysOutcome),
    /// A lease was granted.
    Granted {
        /// The newest revision of keys.
        revision: u64,
        /// Its id.
        lease: i64,
        /// How long it lives, in seconds.
        ttl: i64,
    },
    /// A lease has ended.
    LeaseEnded {
        /// The newest revision of keys: that at which its keys were deleted, if it had any.
        revision: u64,
        /// Its id.
        lease: i64,
    },
    /// A client was opened.
    Client {
        /// Its id.
        client: u64,
    },
    /// The quota of a machine was set.
    QuotaSet,
    /// One for another machine: what it answers.
    Machine(Bytes),
}

impl Outcome {
    /// At least how many bytes it is encoded, without encoding it.
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

    /// Whether these bytes say that a lease was granted or has ended, without reading the rest of them.
    pub fn is_of_lease(bytes: &[u8]) -> bool {
        matches!(bytes.first(), Some(&GRANTED | &LEASE_ENDED))
    }

    /// As bytes, for who asked through another node.
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

    /// From bytes.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
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
