//! The cryptography that Noise needs, by `ring`, which the program links for TLS anyway.

use std::sync::{Mutex, PoisonError};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    digest::{self, SHA256},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom as _, SystemRandom},
};
use snow::{
    Builder, Error, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::{Zeroize as _, Zeroizing};

/// Both sides have the cluster's key, and draw an ephemeral key for each connection. There are no static keys.
const PARAMS: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// The length of an authentication tag, in bytes.
pub(crate) const TAG: usize = 16;

/// A pre-shared key, derived from one of the cluster's keys.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Psk(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk(…)")
    }
}

impl Psk {
    /// Derives a key of its own for sessions from one that gossip encrypts with (HKDF, RFC 5869).
    pub(crate) fn derive(key: &[u8]) -> Self {
        let mut psk = Zeroizing::new([0; 32]);
        let derived = Salt::new(HKDF_SHA256, b"broadcast session").extract(key);
        let info: [&[u8]; 1] = [b"pre-shared key"];
        derived
            .expand(&info, HKDF_SHA256)
            .and_then(|expanded| expanded.fill(&mut *psk))
            .expect("HKDF with SHA-256 gives 32 bytes at once");
        Self(psk)
    }

    /// The key of clusters without one. Everybody knows it: it keeps nobody out, but lets their sessions work like all others.
    pub(crate) fn keyless() -> Self {
        Self::derive(&[])
    }
}

/// One side of a handshake.
pub(crate) fn handshake(initiates: bool, psk: &Psk, prologue: &[u8]) -> Result<HandshakeState, Error> {
    let params: NoiseParams = PARAMS.parse()?;
    let builder = Builder::with_resolver(params, Box::new(Resolver)).prologue(prologue)?.psk(0, &psk.0)?;
    if initiates { builder.build_initiator() } else { builder.build_responder() }
}

struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Rng(SystemRandom::new())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519Key::default()) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::new(Sha256(digest::Context::new(&SHA256))) as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::AESGCM).then(|| Box::new(AesGcm::new(&[0; 32])) as _)
    }
}

struct Rng(SystemRandom);

impl Random for Rng {
    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Error> {
        self.0.fill(to).map_err(|_| Error::Rng)
    }
}

/// The length of a Diffie-Hellman key, private or public, and of the shared secret.
const DH_LEN: usize = 32;

/// An ephemeral key for one connection. `ring` lets it be used once.
#[derive(Default)]
struct X25519Key {
    private: Mutex<Option<EphemeralPrivateKey>>,
    public: [u8; DH_LEN],
}

impl Dh for X25519Key {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        DH_LEN
    }

    fn priv_len(&self) -> usize {
        DH_LEN
    }

    fn set(&mut self, _private: &[u8]) {
        unreachable!("in NN nobody has a key from before");
    }

    fn generate(&mut self, _: &mut dyn Random) -> Result<(), Error> {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(|_| Error::Rng)?;
        let public = private.compute_public_key().map_err(|_| Error::Rng)?;
        self.public.copy_from_slice(public.as_ref());
        *self.private.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        unreachable!("in NN nobody keeps a key");
    }

    /// Refuses a public key that gives the same secret with every private key.
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let private = self.private.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(Error::Dh)?;
        // snow passes a buffer of the length of its longest kind of key.
        let public = UnparsedPublicKey::new(&X25519, public.get(..DH_LEN).ok_or(Error::Dh)?);
        agree_ephemeral(private, &public, |secret| out[..DH_LEN].copy_from_slice(secret)).map_err(|_| Error::Dh)
    }
}

struct Sha256(digest::Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        SHA256.block_len()
    }

    fn hash_len(&self) -> usize {
        SHA256.output_len()
    }

    fn reset(&mut self) {
        self.0 = digest::Context::new(&SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = self.0.clone().finish();
        out[..hash.as_ref().len()].copy_from_slice(hash.as_ref());
        self.reset();
    }
}

/// AES-256-GCM. The nonce is a counter, big-endian as Noise has it.
struct AesGcm(LessSafeKey);

impl AesGcm {
    fn new(key: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes")))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        *self = Self::new(key);
    }

    fn encrypt(&self, counter: u64, authtext: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plain.len());
        text.copy_from_slice(plain);
        let tag = self.0.seal_in_place_separate_tag(nonce(counter), Aad::from(authtext), text);
        rest[..TAG].copy_from_slice(tag.expect("GCM takes 64 GiB, which no frame has").as_ref());
        plain.len() + TAG
    }

    fn decrypt(&self, counter: u64, authtext: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (text, tag) = sealed.split_last_chunk::<TAG>().ok_or(Error::Decrypt)?;
        let out = &mut out[..text.len()];
        let opened = self.0.open_in_place_separate_tag(
            nonce(counter),
            Aad::from(authtext),
            (*tag).into(),
            {
                out.copy_from_slice(text);
                out
            },
            0..,
        );
        opened.map(|plain| plain.len()).map_err(|_| {
            out.zeroize();
            Error::Decrypt
        })
    }
}
