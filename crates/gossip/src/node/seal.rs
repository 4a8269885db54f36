//! Closing what a node sends, and the keys it does that with.

use bytes::Bytes;

use super::Node;
use crate::wire::{
    KeyError, Keyring, Nonce, SecretKey,
    envelope::{Direction, Envelope},
};

/// A change to a node's keys.
#[derive(Clone, Debug)]
pub enum KeyChange {
    /// From now on what is encrypted with this key can be read.
    Install(SecretKey),
    /// From now on this key, which is installed, encrypts.
    Use(SecretKey),
    /// From now on what is encrypted with this key cannot be read.
    Remove(SecretKey),
    /// From now on these are the keys, the first of which encrypts.
    Replace(Vec<SecretKey>),
}

/// An envelope, and a nonce for each time it is closed.
///
/// Nonces count up from a random place, so that two nodes, or two lives of one, use the same one as good as
/// never: fewer collisions are to be expected of it than of a random nonce a message (NIST SP 800-38D,
/// section 8.3, bounds those to 2^32 messages a key).
#[derive(Debug)]
pub(super) struct Sealer {
    pub(super) envelope: Envelope,
    next: u128,
}

impl Sealer {
    pub(super) fn new(envelope: Envelope, first: Nonce) -> Self {
        let mut next = [0; 16];
        next[4..].copy_from_slice(&first);
        Self { envelope, next: u128::from_be_bytes(next) }
    }

    pub(super) fn packet(&mut self, plain: Bytes) -> Bytes {
        let nonce = self.nonce();
        self.envelope.seal_packet(nonce, plain)
    }

    pub(super) fn stream(&mut self, plain: Vec<u8>, direction: Direction) -> Vec<u8> {
        let nonce = self.nonce();
        self.envelope.seal_stream(nonce, plain, direction)
    }

    fn nonce(&mut self) -> Nonce {
        self.next = self.next.wrapping_add(1);
        let [_, _, _, _, nonce @ ..] = self.next.to_be_bytes();
        nonce
    }
}

impl Node {
    /// Changes the keys. What is on its way, sealed with any key that stays, is still read.
    ///
    /// # Errors
    ///
    /// See [`KeyError`]; nothing is changed then.
    pub fn change_keys(&mut self, change: KeyChange) -> Result<(), KeyError> {
        let ring = &mut self.sealer.envelope.keyring;
        match change {
            KeyChange::Install(key) => ring.install(key),
            KeyChange::Use(key) => ring.use_key(&key),
            KeyChange::Remove(key) => ring.remove(&key),
            KeyChange::Replace(keys) => {
                let keys = Keyring::new(keys)?;
                // What room a packet has was settled when the node started.
                if ring.is_empty() != keys.is_empty() {
                    return Err(KeyError::Off);
                }
                *ring = keys;
                Ok(())
            }
        }
    }

    /// The keys, the one that encrypts first.
    pub fn keys(&self) -> Vec<SecretKey> {
        self.sealer.envelope.keyring.keys().cloned().collect()
    }
}
