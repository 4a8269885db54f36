//! What rides on gossip and on exchanges of views: how far everybody is.
//!
//! News is told for a few rounds by whoever has it, which is enough for everybody to hear it from
//! somebody (epidemic dissemination; Demers et al., "Epidemic Algorithms for Replicated Database
//! Maintenance", PODC 1987). At rest nothing is told.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    Dissemination,
    control::{self, Control, MAGIC},
    error::Unusable,
    questions::Teller,
    revision::{is_named, is_ours},
    stream::Stream,
};
use crate::{
    membership::{Membership, Target},
    wire::packet,
};

impl Dissemination {
    /// Whether there is something to tell in the next round of gossip.
    pub(crate) fn has_gossip(&self) -> bool {
        !self.plain.queue.is_empty()
            || self.publisher.lanes.iter().any(|own| own.rounds > 0)
            || self.receiver.inbound.iter().any(|stream| stream.rounds > 0)
    }

    /// Takes what is to be told in one packet of gossip with `budget` bytes left; gives the bytes used.
    pub(crate) fn fill(&mut self, target: Target, budget: usize, out: &mut Vec<Bytes>) -> usize {
        if !is_ours(target.versions) {
            let plain = self.tree.last_ring().map_or(0, |ring| ring.plain.len());
            return self.plain.queue.take_broadcasts(plain + 1, packet::PART_OVERHEAD, budget, out);
        }
        let mut haves = Vec::new();
        let by = if is_named(target.versions) { self.cx.me.by(None).max_len() } else { 0 };
        let mut left = budget.saturating_sub(packet::PART_OVERHEAD + 3 + by);
        let own = self.publisher.lanes.iter().filter(|own| own.rounds > 0).map(|own| own.have(&self.cx.me, None));
        let others = self.receiver.inbound.iter().filter(|stream| stream.rounds > 0 && stream.next.is_some());
        for have in own.chain(others.map(Stream::have)) {
            let Some(rest) = left.checked_sub(have.max_len()).filter(|_| haves.len() < control::MAX_HAVES) else {
                break;
            };
            left = rest;
            haves.push(have);
        }
        if haves.is_empty() {
            return 0;
        }
        let message = self.cx.me.encode_for(target.versions, &Control::Have(haves));
        let used = message.len() + packet::PART_OVERHEAD;
        out.push(message);
        used
    }

    /// To be called after each round of gossip.
    pub(crate) fn after_gossip(&mut self) {
        let own = self.publisher.lanes.iter_mut().map(|own| &mut own.rounds);
        for rounds in own.chain(self.receiver.inbound.iter_mut().map(|stream| &mut stream.rounds)) {
            *rounds = rounds.saturating_sub(1);
        }
    }

    /// What this node has, to exchange with another of ours.
    pub(crate) fn state(&self) -> Bytes {
        let own = self.publisher.lanes.iter().filter(|own| own.is_active()).map(|own| own.have(&self.cx.me, None));
        let others = self.receiver.inbound.iter().filter(|stream| stream.next.is_some());
        let haves = own.chain(others.map(Stream::have));
        let message = Control::Have(haves.take(control::MAX_HAVES).collect()).encode();
        message.slice(1..)
    }

    /// What this node has of one origin.
    pub(crate) fn state_of(&self, origin: &[u8]) -> Bytes {
        Control::Have(self.receiver.inbound.lives(origin).map(Stream::have).collect()).encode().slice(1..)
    }

    /// Whether another node's state is one of ours.
    pub(crate) fn is_state(state: &[u8]) -> bool {
        state.first() == Some(&MAGIC)
    }

    /// Takes another node's state. `from` is where it can be asked, if that is known.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(crate) fn merge(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        state: &[u8],
        membership: &Membership,
    ) -> Result<(), Unusable> {
        if let Some((&MAGIC, data)) = state.split_first()
            && let Control::Have(haves) = Control::decode(data)?
        {
            let teller = from.map(|addr| Teller { addr, certain: true, answers: None });
            for have in &haves {
                self.take_have(now, teller, have, membership);
            }
        }
        Ok(())
    }
}
