//! The handshake of a session: two nodes prove to each other that they have the cluster's key, and tell who they are. It is the
//! pattern `NNpsk0` of the [Noise protocol framework](https://noiseprotocol.org/noise.html), with one message each way. Pure:
//! bytes in, bytes out.
//!
//! | from | message | encrypted payload |
//! |---|---|---|
//! | the caller | `psk, e` | its name and id, the name of the callee |
//! | the callee | `e, ee` | its name and id; or why it refuses |
//!
//! [`MAGIC`] and [`VERSION`] precede the first message, and a length of two bytes precedes each. Everything after the handshake
//! is encrypted with keys that derive from `e` and `ee`, so a recorded connection stays secret even if the cluster's key becomes
//! known later (forward secrecy).
//!
//! # What can go wrong
//!
//! - *Another key*: the callee cannot decrypt the first message with any of its keys. It hangs up without an answer, which would
//!   tell a stranger that there is something to attack. The caller tries its other keys.
//! - *Too many handshakes at once*: the callee hangs up, too. The caller cannot tell this from another key.
//! - *The cluster's key becomes known*: the payload of a first message, names and ids, is encrypted with that key alone. Whoever
//!   has recorded it can read it then. Everything later needs `ee`, too.
//! - *Another label, another version*: as another key, since both are in the prologue.
//! - *A replayed first message*: the callee answers it, but nobody except its author can derive the keys for what follows. So a
//!   replay causes an answer, and nothing else.
//! - *A message reflected to its author*: it names the callee, which is not the author.
//! - *A replayed answer*: it belongs to another `e`.

use broadcast::{NodeId, NodeName};
use snow::{Error, TransportState};

use crate::noise::{self, Psk, TAG};

/// The first byte of a session's connection. No stream of memberlist begins with it.
pub const MAGIC: u8 = 0xb5;
/// The second byte: the version of the protocol that follows.
pub const VERSION: u8 = 1;

/// The length of an ephemeral key and a tag.
const OVERHEAD: usize = 32 + TAG;
/// The longest name, in bytes.
const NAME: usize = 255;
/// The longest message, in bytes: two names, an id, and their lengths.
pub(crate) const MAX_MESSAGE: usize = OVERHEAD + 2 * (1 + NAME) + 8;

/// The name and id that a node with the cluster's key claims. See [`Request::caller`](crate::Request::caller).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: NodeName,
    /// Its identity.
    pub id: NodeId,
}

/// Why a callee refuses a session with a caller that has the cluster's key. See
/// [`CallError::SessionRefused`](crate::CallError::SessionRefused).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum HandshakeRefusal {
    /// The callee has another name.
    #[error("another node is at that address; its name is not the one that was called")]
    Name = 1,
    /// The callee does not know the caller as a member.
    #[error("it does not know this node as a member yet")]
    Stranger = 2,
    /// The member of the caller's name has another id.
    #[error("it knows a node of this name by another id")]
    Id = 3,
    /// The callee has as many sessions as it may have.
    #[error("it has as many sessions as it may have")]
    Full = 4,
    /// Neither side has a key, and they are not on one host.
    #[error(
        "sessions without a key are refused from other hosts; give all nodes a key, or allow `insecure_sessions` there"
    )]
    Insecure = 5,
}

impl HandshakeRefusal {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Name, Self::Stranger, Self::Id, Self::Full, Self::Insecure].into_iter().find(|one| *one as u8 == byte)
    }
}

/// Why a handshake failed. Callers see it as the problem of
/// [`CallError::Unreachable`](crate::CallError::Unreachable).
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The message does not come from a node with the same key and label.
    #[error("the other side has another key or another label, or what it said was changed on its way")]
    Unreadable,
    /// The callee hung up: it cannot decrypt the first message, or has too many handshakes at once.
    #[error("the other side hung up: it has another key or another label, or as many handshakes at once as it may")]
    HungUp,
    /// The message comes from a node of this cluster, but its payload is invalid.
    #[error("the other side says what cannot be read: {0}")]
    Malformed(&'static str),
    /// A local error: there is no randomness, say.
    #[error("the ciphers fail: {0}")]
    Ciphers(Error),
}

/// What both sides have to agree on besides the key.
pub(crate) fn prologue(label: &str) -> Vec<u8> {
    [b"broadcast session ", &[VERSION][..], label.as_bytes()].concat()
}

fn put_name(out: &mut Vec<u8>, name: &NodeName) {
    let name = &name.as_bytes()[..name.as_bytes().len().min(NAME)];
    out.push(name.len() as u8);
    out.extend_from_slice(name);
}

fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    out.extend_from_slice(&identity.id.get().to_be_bytes());
    put_name(out, &identity.name);
}

fn take_name(from: &mut &[u8]) -> Option<NodeName> {
    let (len, rest) = from.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*len))?;
    *from = rest;
    (!name.is_empty()).then(|| NodeName::from(name))
}

fn take_identity(from: &mut &[u8]) -> Option<Identity> {
    let (id, rest) = from.split_first_chunk::<8>()?;
    *from = rest;
    Some(Identity { id: NodeId::from(u64::from_be_bytes(*id)), name: take_name(from)? })
}

/// The caller's side, waiting for the answer.
pub(crate) struct Initiator(snow::HandshakeState);

impl Initiator {
    /// A handshake with the node named `to`, and its first message, with everything that precedes it.
    pub(crate) fn new(psk: &Psk, label: &str, me: &Identity, to: &NodeName) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut state = noise::handshake(true, psk, &prologue(label)).map_err(HandshakeError::Ciphers)?;
        let mut hello = Vec::with_capacity(MAX_MESSAGE);
        put_identity(&mut hello, me);
        put_name(&mut hello, to);
        let mut message = vec![MAGIC, VERSION];
        message.extend(write(&mut state, &hello)?);
        Ok((Self(state), message))
    }

    /// Reads the answer, without its length.
    pub(crate) fn finish(
        mut self,
        message: &[u8],
    ) -> Result<Result<(Identity, TransportState), HandshakeRefusal>, HandshakeError> {
        let answer = read(&mut self.0, message)?;
        let malformed = HandshakeError::Malformed("its answer to a call");
        match answer.split_first() {
            Some((0, mut rest)) => match take_identity(&mut rest) {
                // Later releases may say more.
                Some(identity) => Ok(Ok((identity, self.0.into_transport_mode().map_err(HandshakeError::Ciphers)?))),
                None => Err(malformed),
            },
            Some((byte, _)) => HandshakeRefusal::from_byte(*byte).map(Err).ok_or(malformed),
            None => Err(malformed),
        }
    }
}

/// The callee's side, about to answer.
pub(crate) struct Responder {
    state: snow::HandshakeState,
    /// The caller.
    pub(crate) caller: Identity,
    /// The name of the node that it calls.
    pub(crate) to: NodeName,
    /// The index of the key that it uses.
    pub(crate) key: usize,
}

impl Responder {
    /// Reads the first message, without its length, with the first key that fits.
    pub(crate) fn new(psks: &[Psk], label: &str, message: &[u8]) -> Result<Self, HandshakeError> {
        let prologue = prologue(label);
        for (key, psk) in psks.iter().enumerate() {
            let mut state = noise::handshake(false, psk, &prologue).map_err(HandshakeError::Ciphers)?;
            let Ok(hello) = read(&mut state, message) else { continue };
            let mut rest = &hello[..];
            let names = take_identity(&mut rest).zip(take_name(&mut rest));
            let (caller, to) = names.ok_or(HandshakeError::Malformed("who calls whom"))?;
            return Ok(Self { state, caller, to, key });
        }
        Err(HandshakeError::Unreadable)
    }

    /// Accepts the session. Returns the answer, with its length in front.
    pub(crate) fn accept(mut self, me: &Identity) -> Result<(Vec<u8>, TransportState), HandshakeError> {
        let mut answer = vec![0];
        put_identity(&mut answer, me);
        let message = write(&mut self.state, &answer)?;
        Ok((message, self.state.into_transport_mode().map_err(HandshakeError::Ciphers)?))
    }

    /// Refuses the session. Returns the answer, with its length in front.
    pub(crate) fn refuse(mut self, why: HandshakeRefusal) -> Result<Vec<u8>, HandshakeError> {
        write(&mut self.state, &[why as u8])
    }
}

/// A message with its length in front.
fn write(state: &mut snow::HandshakeState, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut out = vec![0; 2 + OVERHEAD + payload.len()];
    let len = state.write_message(payload, &mut out[2..]).map_err(HandshakeError::Ciphers)?;
    out.truncate(2 + len);
    out[..2].copy_from_slice(&u16::try_from(len).expect("a message is short").to_be_bytes());
    Ok(out)
}

fn read(state: &mut snow::HandshakeState, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut payload = vec![0; message.len()];
    let len = state.read_message(message, &mut payload).map_err(|_| HandshakeError::Unreadable)?;
    payload.truncate(len);
    Ok(payload)
}
