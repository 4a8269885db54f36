//! What the fuzzers `handshake` and `frames` in `fuzz/` run, and what the tests replay of their corpora.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

use broadcast::{NodeId, NodeName};
use bytes::BytesMut;

use crate::{
    frames::Frames,
    handshake::{Identity, Initiator, Responder},
    noise::Psk,
};

/// How many frames of one direction a key encrypts here: few, so that keys are replaced.
const REKEY_AFTER: u64 = 4;

fn identity(name: &str) -> Identity {
    Identity { name: NodeName::from(name), id: NodeId::from(name.len() as u64) }
}

/// Both sides of a session after an undisturbed handshake: the caller's and the callee's.
#[must_use]
pub fn pair() -> (Endpoint, Endpoint) {
    let psk = Psk::derive(b"0123456789abcdef");
    let (caller, callee) = (identity("a"), identity("bb"));
    let (initiator, hello) = Initiator::new(&psk, "label", &caller, &callee.name).expect("there is randomness");
    let responder = Responder::new(&[psk], "label", &hello[4..]).expect("it has the key");
    assert_eq!((&responder.caller, &responder.to), (&caller, &callee.name));
    let (answer, theirs) = responder.accept(&callee).expect("it can be answered");
    let (identity, ours) = initiator.finish(&answer[2..]).expect("it has the key").expect("it is not refused");
    assert_eq!(identity, callee);
    (Endpoint::new(Frames::rekeying(ours, REKEY_AFTER)), Endpoint::new(Frames::rekeying(theirs, REKEY_AFTER)))
}

/// One side of a session.
#[allow(missing_debug_implementations)]
pub struct Endpoint {
    frames: Frames,
    inbound: BytesMut,
    /// All decrypted plaintext.
    pub received: BytesMut,
}

impl Endpoint {
    fn new(frames: Frames) -> Self {
        Self { frames, inbound: BytesMut::new(), received: BytesMut::new() }
    }

    /// A frame with this plaintext.
    pub fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.frames.seal(text, &mut out);
        out.to_vec()
    }

    /// Decrypts the frames in these bytes; `false` if one cannot be decrypted.
    pub fn receive(&mut self, bytes: &[u8]) -> bool {
        self.inbound.extend_from_slice(bytes);
        loop {
            match self.frames.open(&mut self.inbound, &mut self.received) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Whether the other side has sent its last frame.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.frames.has_ended()
    }
}

/// Takes the input for either message of a handshake, and for frames after one.
pub fn handshake(data: &[u8]) {
    let psks = [Psk::derive(b"0123456789abcdef"), Psk::keyless()];
    assert!(Responder::new(&psks, "label", data).is_err(), "nobody guesses a key");
    let (initiator, _) =
        Initiator::new(&psks[0], "label", &identity("a"), &identity("bb").name).expect("there is randomness");
    assert!(initiator.finish(data).is_err(), "nobody guesses a key");
    // A member that has the key may send anything.
    let mut member = crate::noise::handshake(true, &psks[0], &crate::handshake::prologue("label")).expect("ciphers");
    let mut message = vec![0; data.len() + 64];
    if let Ok(len) = member.write_message(&data[..data.len().min(2000)], &mut message)
        && let Ok(responder) = Responder::new(&psks, "label", &message[..len])
    {
        assert!(!responder.to.as_bytes().is_empty());
        let _ = responder.accept(&identity("bb")).expect("it can be answered");
    }
    let (mut caller, mut callee) = pair();
    assert!(caller.receive(data) || !callee.receive(data) || data.len() < 18);
    assert!(caller.received.is_empty() && callee.received.is_empty(), "nobody guesses a key");
}

/// A sequence of frames, and what a man in the middle does with it: each pair of bytes of `data` is a step.
pub fn man_in_the_middle(data: &[u8]) {
    let (mut caller, mut callee) = pair();
    let (mut other, _) = pair();
    let mut sent = Vec::new();
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for (number, byte) in data.iter().take(12).enumerate() {
        let text = vec![number as u8 + 1; usize::from(*byte) * 8 + 1];
        frames.push(caller.seal(&text));
        sent.extend_from_slice(&text);
    }
    frames.push(caller.seal(&[]));
    let (original, back) = (frames.clone(), callee.seal(b"what the callee says itself"));
    for step in data.chunks_exact(2).skip(6).take(8) {
        let at = usize::from(step[1]) % frames.len().max(1);
        match step[0] % 8 {
            0 if !frames.is_empty() => drop(frames.remove(at)),
            1 if !frames.is_empty() => frames.insert(at, frames[at].clone()),
            2 if !frames.is_empty() => frames.rotate_left(at),
            3 => frames.truncate(at),
            4 => frames.insert(at.min(frames.len()), other.seal(b"from another session")),
            5 => frames.insert(at.min(frames.len()), back.clone()),
            6 if !frames.is_empty() => {
                let frame = &mut frames[at];
                let place = usize::from(step[0] / 8) % frame.len().max(1);
                if let Some(byte) = frame.get_mut(place) {
                    *byte ^= 1 << (step[1] % 8);
                }
            }
            7 if !frames.is_empty() => {
                let frame = &mut frames[at];
                frame.truncate(usize::from(step[0] / 8) % frame.len().max(1));
            }
            _ => {}
        }
    }
    let undisturbed = frames == original;
    let stream = frames.concat();
    let readable = stream.chunks(7).all(|piece| callee.receive(piece));
    assert!(sent.starts_with(&callee.received), "what is heard is what was said, from its beginning");
    assert_eq!(readable && callee.has_ended(), undisturbed || stream == original.concat(), "only all is all");
    if readable && callee.has_ended() {
        assert_eq!(&callee.received[..], &sent[..]);
    }
}

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpora_hold() {
        replay("handshake", super::handshake);
        replay("frames", super::man_in_the_middle);
    }
}
