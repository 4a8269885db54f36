//! Secret keys, and AES-GCM with them, as in memberlist's `keyring.go` and `security.go`.
//!
//! A sealed message is `version | nonce (12) | ciphertext | tag (16)`. Version 1, which is sent, encrypts the plaintext as it
//! is; version 0, which is only read, pads it to 16 bytes (PKCS #7).

use std::{fmt, str::FromStr};

use aes_gcm::{
    Aes128Gcm, Aes256Gcm, AesGcm, KeyInit,
    aead::{AeadInOut, consts::U12},
    aes::Aes192,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// How many bytes sealing adds to the plaintext: version, nonce and tag.
pub const SEAL_OVERHEAD: usize = 1 + NONCE + TAG;
/// How many keys a keyring can hold. With each, a message that cannot be decrypted costs one try more.
pub const MAX_KEYS: usize = 16;

/// A number used once: with one key, no two messages may ever have the same.
pub type Nonce = [u8; NONCE];

const NONCE: usize = 12;
const TAG: usize = 16;
const PADDED: u8 = 0;
const PLAIN: u8 = 1;
const BLOCK: usize = 16;

/// A secret key: 16, 24 or 32 bytes, for AES-128, AES-192 or AES-256.
///
/// It is written and read as standard base64. It is wiped from memory when dropped, and `Debug` does not show it.
///
/// ```
/// use broadcast_wire::SecretKey;
///
/// let key: SecretKey = "MDEyMzQ1Njc4OWFiY2RlZg==".parse()?;
/// assert_eq!(format!("{key:?}"), "SecretKey(128 bits)");
/// # Ok::<(), broadcast_wire::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Zeroizing<Vec<u8>>);

/// Why a key is not valid, or a change of the keyring is refused. The text never shows a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key has the wrong length.
    #[error("a key of {len} bytes is not valid: a key is 16, 24 or 32 bytes long, in base64")]
    Length {
        /// Its length.
        len: usize,
    },
    /// A key is not written as base64.
    #[error("a key is not base64: write its 16, 24 or 32 bytes so")]
    Base64,
    /// There is no room for another key.
    #[error("{MAX_KEYS} keys are installed already, the limit; remove those that are no longer used")]
    Full,
    /// The node was started without a key.
    #[error("encryption cannot be turned on or off while a node runs; start it with a key, or without one")]
    Off,
    /// A key that is to be used has not been installed.
    #[error("the key is not installed; install it at every node first, then use it")]
    Unknown,
    /// The key that encrypts cannot be removed.
    #[error("the key is in use; use another one first, then remove it")]
    InUse,
}

impl SecretKey {
    /// A key of these bytes.
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(bytes.into());
        match bytes.len() {
            16 | 24 | 32 => Ok(Self(bytes)),
            len => Err(KeyError::Length { len }),
        }
    }

    /// The key's 16, 24 or 32 bytes. Use them for nothing but to derive keys of other protocols.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key in base64. Show it only to those who have asked for it.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(&*self.0))
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(STANDARD.decode(text).map_err(|_| KeyError::Base64)?)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({} bits)", self.0.len() * 8)
    }
}

/// A key that is ready for use: with its round keys, which are wiped when dropped.
#[derive(Clone)]
enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

impl Cipher {
    fn new(SecretKey(key): &SecretKey) -> Self {
        const LENGTH: &str = "a secret key is 16, 24 or 32 bytes long";
        match key.len() {
            16 => Self::Aes128(Box::new(Aes128Gcm::new_from_slice(key).expect(LENGTH))),
            24 => Self::Aes192(Box::new(AesGcm::new_from_slice(key).expect(LENGTH))),
            _ => Self::Aes256(Box::new(Aes256Gcm::new_from_slice(key).expect(LENGTH))),
        }
    }

    fn encrypt(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8]) -> [u8; TAG] {
        let (nonce, text) = (nonce.into(), text.into());
        let tag = match self {
            Self::Aes128(cipher) => cipher.encrypt_inout_detached(nonce, aad, text),
            Self::Aes192(cipher) => cipher.encrypt_inout_detached(nonce, aad, text),
            Self::Aes256(cipher) => cipher.encrypt_inout_detached(nonce, aad, text),
        };
        tag.expect("GCM takes 64 GiB, which no message has").into()
    }

    /// Decrypts `text`. Gives whether this is the key that encrypted it.
    fn decrypt(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8], tag: &[u8; TAG]) -> bool {
        let (nonce, text, tag) = (nonce.into(), text.into(), tag.into());
        match self {
            Self::Aes128(cipher) => cipher.decrypt_inout_detached(nonce, aad, text, tag),
            Self::Aes192(cipher) => cipher.decrypt_inout_detached(nonce, aad, text, tag),
            Self::Aes256(cipher) => cipher.decrypt_inout_detached(nonce, aad, text, tag),
        }
        .is_ok()
    }
}

/// The keys of a node: the first encrypts, all decrypt.
///
/// Keys are changed while nodes run: install the new one at all nodes, use it at all nodes, then remove the old one.
///
/// ```
/// use broadcast_wire::{Keyring, SecretKey};
///
/// let old: SecretKey = "MDEyMzQ1Njc4OWFiY2RlZg==".parse()?;
/// let new = SecretKey::new(*b"fedcba9876543210")?;
/// let mut ring = Keyring::new([old.clone()])?;
/// ring.install(new.clone())?;
/// ring.use_key(&new)?;
/// ring.remove(&old)?;
/// assert!(ring.keys().eq([&new]));
/// # Ok::<(), broadcast_wire::KeyError>(())
/// ```
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Vec<(SecretKey, Cipher)>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys()).finish()
    }
}

impl Keyring {
    /// A ring of these keys, each once; the first encrypts.
    ///
    /// # Errors
    ///
    /// [`KeyError::Full`].
    pub fn new(keys: impl IntoIterator<Item = SecretKey>) -> Result<Self, KeyError> {
        let mut ring = Self::default();
        keys.into_iter().try_for_each(|key| ring.add(key))?;
        Ok(ring)
    }

    /// Whether there is no key, so that nothing is encrypted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys; the first one encrypts.
    pub fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        self.keys.iter().map(|(key, _)| key)
    }

    /// Installs a key: messages encrypted with it can then be read. A key that is installed already stays.
    ///
    /// # Errors
    ///
    /// [`KeyError::Full`]; [`KeyError::Off`] on an empty keyring, since its node runs without encryption.
    pub fn install(&mut self, key: SecretKey) -> Result<(), KeyError> {
        if self.is_empty() { Err(KeyError::Off) } else { self.add(key) }
    }

    /// Makes an installed key the one that encrypts.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unknown`], [`KeyError::Off`].
    pub fn use_key(&mut self, key: &SecretKey) -> Result<(), KeyError> {
        if self.is_empty() {
            return Err(KeyError::Off);
        }
        let at = self.keys().position(|other| other == key).ok_or(KeyError::Unknown)?;
        self.keys[..=at].rotate_right(1);
        Ok(())
    }

    /// Removes a key: messages encrypted with it can no longer be read. It is no error if the key is not installed.
    ///
    /// # Errors
    ///
    /// [`KeyError::InUse`], [`KeyError::Off`].
    pub fn remove(&mut self, key: &SecretKey) -> Result<(), KeyError> {
        let at = self.keys().position(|other| other == key);
        match at {
            None if self.is_empty() => Err(KeyError::Off),
            Some(0) => Err(KeyError::InUse),
            Some(at) => {
                self.keys.remove(at);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, key: SecretKey) -> Result<(), KeyError> {
        if self.keys().any(|other| *other == key) {
            return Ok(());
        }
        if self.keys.len() == MAX_KEYS {
            return Err(KeyError::Full);
        }
        let cipher = Cipher::new(&key);
        self.keys.push((key, cipher));
        Ok(())
    }

    /// Seals `plain` with the first key, and appends it to `out`. Without keys, appends it as it is.
    pub(super) fn seal(&self, nonce: Nonce, aad: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        let Some((_, cipher)) = self.keys.first() else { return out.extend_from_slice(plain) };
        out.reserve(SEAL_OVERHEAD + plain.len());
        out.push(PLAIN);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = cipher.encrypt(&nonce, aad, &mut out[start..]);
        out.extend_from_slice(&tag);
    }

    /// Opens `sealed`. Gives `None` if it is damaged, or no key of this ring sealed it.
    pub(super) fn open(&self, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (&version, rest) = sealed.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
        let (text, tag) = rest.split_last_chunk::<TAG>()?;
        // Version 0 consists of whole blocks, and has at least one of padding.
        let possible = match version {
            PLAIN => true,
            PADDED => !text.is_empty() && text.len().is_multiple_of(BLOCK),
            _ => false,
        };
        if !possible {
            return None;
        }
        let mut plain = Vec::with_capacity(text.len());
        let opened = self.keys.iter().any(|(_, cipher)| {
            plain.clear();
            plain.extend_from_slice(text);
            cipher.decrypt(nonce, aad, &mut plain, tag)
        });
        if !opened {
            return None;
        }
        if version == PADDED {
            let padding = usize::from(*plain.last()?);
            let whole = plain.len().checked_sub(padding).filter(|_| (1..=BLOCK).contains(&padding))?;
            plain[whole..].iter().all(|byte| usize::from(*byte) == padding).then_some(())?;
            plain.truncate(whole);
        }
        Some(plain)
    }
}
