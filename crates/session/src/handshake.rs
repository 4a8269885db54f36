//! How two nodes prove to each other that they have the cluster's key, and who they are: Noise's `NNpsk0`, in one message
//! each way. Bytes in, bytes out.
//!
//! | from | message | in it, encrypted |
//! |---|---|---|
//! | the caller | `psk, e` | its name and id, the name of whom it calls |
//! | the callee | `e, ee` | its name and id; or why it refuses |
//!
//! In front of the first stand [`FIRST`] and [`VERSION`], in front of both their length in two bytes. What either side sends
//! afterwards is encrypted with keys that come from `e` and `ee`, which no recorded connection has, and nobody who learns
//! the cluster's key later.
//!
//! # What can go wrong
//!
//! - *Another key*: the callee cannot read the first message with any of its keys. It says nothing: an answer would tell a
//!   stranger that there is something to try. The caller tries its other keys.
//! - *Too many handshakes at once*: as with another key. The caller cannot tell these apart.
//! - *The cluster's key becomes known*: what a first message says, names and ids, is encrypted with a key that comes from that
//!   key alone. Whoever has recorded it can read it then. Everything after it needs `ee`, too.
//! - *Another label, another version*: as with another key, since both stand in the prologue.
//! - *A first message that was recorded*: the callee answers it, and cannot read what follows, as only who made it can
//!   work out the keys. So a first message makes nobody do anything but answer.
//! - *A message sent back to who made it*: it names the one who is called, who is not the caller.
//! - *An answer that was recorded*: it belongs to another `e`.

use broadcast::{NodeId, NodeName};
use snow::{Error, TransportState};

use crate::noise::{self, Psk, TAG};

/// The first byte of a connection, which no stream of memberlist begins with.
pub const FIRST: u8 = 0xb5;
/// The second: which protocol follows.
pub const VERSION: u8 = 1;

/// An ephemeral key, and a tag.
const OVERHEAD: usize = 32 + TAG;
/// The longest name, in bytes.
const NAME: usize = 255;
/// The longest message, in bytes: two names, an id, and their lengths.
pub(crate) const MAX_MESSAGE: usize = OVERHEAD + 2 * (1 + NAME) + 8;

/// Who a node says that it is, having the cluster's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: NodeName,
    /// Its identity.
    pub id: NodeId,
}

/// Why a callee refuses a caller that has the cluster's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refused {
    /// It has another name.
    #[error("another node is at that address; its name is not the one that was called")]
    Name = 1,
    /// It does not know the caller as a member.
    #[error("it does not know this node as a member yet")]
    Stranger = 2,
    /// The member of the caller's name has another id.
    #[error("it knows a node of this name by another id")]
    Id = 3,
    /// It has as many sessions as it may.
    #[error("it has as many sessions as it may have")]
    Full = 4,
    /// Neither side has a key, and they are not on one host.
    #[error(
        "sessions without a key are refused from other hosts; give all nodes a key, or allow `insecure_sessions` there"
    )]
    Insecure = 5,
}

impl Refused {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Name, Self::Stranger, Self::Id, Self::Full, Self::Insecure].into_iter().find(|one| *one as u8 == byte)
    }
}

/// Why a handshake comes to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// What came is not what a node of this cluster says.
    #[error("the other side has another key or another label, or what it said was changed on its way")]
    Unreadable,
    /// Whoever cannot read a first message says nothing; nor does who has too many of them at once.
    #[error("the other side hung up: it has another key or another label, or as many handshakes at once as it may")]
    HungUp,
    /// It is a node of this cluster, and what it says makes no sense.
    #[error("the other side says what cannot be read: {0}")]
    Malformed(&'static str),
    /// There is no randomness, or something else that has nothing to do with the other side.
    #[error("the ciphers fail: {0}")]
    Ciphers(Error),
}

/// What both sides have to agree on, but for the key.
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

/// A caller that waits for the answer.
pub(crate) struct Initiator(snow::HandshakeState);

impl Initiator {
    /// Calls the node named `to`. Gives the first message, with all that stands in front of it.
    pub(crate) fn new(psk: &Psk, label: &str, me: &Identity, to: &NodeName) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut state = noise::handshake(true, psk, &prologue(label)).map_err(HandshakeError::Ciphers)?;
        let mut hello = Vec::with_capacity(MAX_MESSAGE);
        put_identity(&mut hello, me);
        put_name(&mut hello, to);
        let mut message = vec![FIRST, VERSION];
        message.extend(write(&mut state, &hello)?);
        Ok((Self(state), message))
    }

    /// Takes the answer, without its length.
    pub(crate) fn finish(
        mut self,
        message: &[u8],
    ) -> Result<Result<(Identity, TransportState), Refused>, HandshakeError> {
        let answer = read(&mut self.0, message)?;
        let malformed = HandshakeError::Malformed("its answer to a call");
        match answer.split_first() {
            Some((0, mut rest)) => match take_identity(&mut rest) {
                // Later releases may say more.
                Some(identity) => Ok(Ok((identity, self.0.into_transport_mode().map_err(HandshakeError::Ciphers)?))),
                None => Err(malformed),
            },
            Some((byte, _)) => Refused::from_byte(*byte).map(Err).ok_or(malformed),
            None => Err(malformed),
        }
    }
}

/// A caller that is to be answered.
pub(crate) struct Responder {
    state: snow::HandshakeState,
    /// Who calls.
    pub(crate) caller: Identity,
    /// Whom it calls.
    pub(crate) to: NodeName,
    /// By which key, by its place.
    pub(crate) key: usize,
}

impl Responder {
    /// Reads the first message, from behind its length, with the first of the keys that fits.
    pub(crate) fn new(psks: &[Psk], label: &str, message: &[u8]) -> Result<Self, HandshakeError> {
        let prologue = prologue(label);
        for (key, psk) in psks.iter().enumerate() {
            let mut state = noise::handshake(false, psk, &prologue).map_err(HandshakeError::Ciphers)?;
            let Ok(hello) = read(&mut state, message) else { continue };
            let mut rest = &hello[..];
            let said = take_identity(&mut rest).zip(take_name(&mut rest));
            let (caller, to) = said.ok_or(HandshakeError::Malformed("who calls whom"))?;
            return Ok(Self { state, caller, to, key });
        }
        Err(HandshakeError::Unreadable)
    }

    /// Answers; gives the message with its length in front.
    pub(crate) fn accept(mut self, me: &Identity) -> Result<(Vec<u8>, TransportState), HandshakeError> {
        let mut answer = vec![0];
        put_identity(&mut answer, me);
        let message = write(&mut self.state, &answer)?;
        Ok((message, self.state.into_transport_mode().map_err(HandshakeError::Ciphers)?))
    }

    /// The same, for who is not to be served.
    pub(crate) fn refuse(mut self, why: Refused) -> Result<Vec<u8>, HandshakeError> {
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
