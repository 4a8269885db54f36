//! Encryption of what a node sends, and its keys.

use bytes::Bytes;

use super::Node;
use crate::wire::{
    KeyError, Keyring, Nonce, SecretKey,
    envelope::{Direction, Envelope},
};

/// A change to a node's keys, for [`Node::change_keys`](super::Node::change_keys).
#[derive(Clone, Debug)]
pub enum KeyChange {
    /// Decrypt with this key, too, from now on.
    Install(SecretKey),
    /// Encrypt with this key, which is installed, from now on.
    Use(SecretKey),
    /// Do not decrypt with this key any more.
    Remove(SecretKey),
    /// Use these keys from now on, the first one to encrypt.
    Replace(Vec<SecretKey>),
}

/// An envelope, and a new nonce for each time that it is sealed.
///
/// Nonces count up from a random start. Two nodes, or two runs of one, so use the same nonce with a probability that is
/// practically zero, and lower than with a random nonce for each message (for which NIST SP 800-38D, section 8.3, allows
/// 2^32 messages per key).
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
    /// Changes the keys. What is under way is still decrypted if its key stays.
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
                // The size of packets depends on whether there are keys, and was settled when the node started.
                if ring.is_empty() != keys.is_empty() {
                    return Err(KeyError::Off);
                }
                *ring = keys;
                Ok(())
            }
        }
    }

    /// The keys. The first one encrypts.
    pub fn keys(&self) -> Vec<SecretKey> {
        self.sealer.envelope.keyring.keys().cloned().collect()
    }
}
