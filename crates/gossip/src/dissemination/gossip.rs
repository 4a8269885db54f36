//! Anti-entropy: digests that travel with gossip and with push/pull exchanges.
//!
//! Whoever has news tells it for a few rounds of gossip, which is enough for all to hear it from somebody (Demers et al.:
//! "Epidemic Algorithms for Replicated Database Maintenance", PODC 1987). A digest says how far a node is with each origin,
//! like Scuttlebutt's (van Renesse et al.: "Efficient Reconciliation and Flow Control for Anti-Entropy Protocols", LADIS
//! 2008). At rest nothing is told.
//!
//! Where not all fits, digests go on behind the origin that was told last ([`Cursors`]), and in such a round of gossip only
//! what was told counts as told: no name is too late in the alphabet to be heard of.

use std::{mem, net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    Dissemination,
    challenges::Attribution,
    control::{self, Control, MAGIC},
    error::DisseminationError,
    origin_stream::OriginStream,
    revision::{is_named, is_ours},
};
use crate::{
    membership::{Membership, NodeName, Target},
    wire::packet,
};

/// The origins behind which the next digests begin, where the last ones had no room for all.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    /// Of gossip, in this round, and in the next one.
    gossip: Option<NodeName>,
    next_gossip: Option<NodeName>,
    exchange: Option<NodeName>,
}

impl Dissemination {
    /// Whether there are digests or messages for the next round of gossip.
    pub(crate) fn has_gossip(&self) -> bool {
        !self.plain.queue.is_empty()
            || self.publisher.lanes.iter().any(|own| own.rounds > 0)
            || self.receiver.inbound.iter().any(|stream| stream.rounds > 0)
    }

    /// Fills a packet of gossip with what is to be told, in at most `budget` bytes; gives the bytes used.
    pub(crate) fn fill(&mut self, target: Target, budget: usize, out: &mut Vec<Bytes>) -> usize {
        if !is_ours(target.versions) {
            let plain = self.tree.cached_ring().map_or(0, |ring| ring.plain.len());
            return self.plain.queue.take_broadcasts(plain + 1, packet::PART_OVERHEAD, budget, out);
        }
        let mut digests = Vec::new();
        // What any release understands goes to those that may be of another one by now.
        let header = (target.is_live && is_named(target.versions)).then(|| self.cx.local.header(None));
        let by = header.map_or(0, |header| header.max_len());
        let mut left = budget.saturating_sub(packet::PART_OVERHEAD + 3 + by);
        let own = self.publisher.lanes.iter().filter(|own| own.rounds > 0).map(|own| own.digest(&self.cx.local, None));
        let others = self.receiver.inbound.iter_after(self.cursors.gossip.as_ref()).filter(|stream| stream.is_news());
        let mut told = Vec::new();
        for (digest, stream) in own.map(|own| (own, None)).chain(others.map(|other| (other.digest(), Some(other)))) {
            let Some(rest) = left.checked_sub(digest.max_len()).filter(|_| digests.len() < control::MAX_DIGESTS) else {
                self.cursors.next_gossip = told.last().map(|(origin, _): &(NodeName, u64)| origin.clone());
                break;
            };
            left = rest;
            digests.push(digest);
            told.extend(stream.map(|stream| (stream.origin.clone(), stream.epoch)));
        }
        if digests.is_empty() {
            return 0;
        }
        let digests = Control::Digest(digests);
        let message = header.map_or_else(|| digests.encode(), |header| digests.encode_from(header));
        for (origin, epoch) in told {
            if let Some((stream, _)) = self.receiver.inbound.stream(origin.as_bytes(), epoch) {
                stream.told = true;
            }
        }
        let used = message.len() + packet::PART_OVERHEAD;
        out.push(message);
        used
    }

    /// To be called after each round of gossip.
    pub(crate) fn after_gossip(&mut self) {
        for own in self.publisher.lanes.iter_mut() {
            own.rounds = own.rounds.saturating_sub(1);
        }
        let next = self.cursors.next_gossip.take();
        for stream in self.receiver.inbound.iter_mut() {
            // What nobody was there to hear does not wait.
            if mem::take(&mut stream.told) || next.is_none() || !stream.is_news() {
                stream.rounds = stream.rounds.saturating_sub(1);
            }
        }
        if next.is_some() {
            self.cursors.gossip = next;
        }
    }

    /// This node's digest of all streams, for a push/pull exchange with another of our nodes; of those for which there is
    /// room, if there are too many, and of the others at the next call.
    pub(crate) fn state(&mut self) -> Bytes {
        let own = self.publisher.lanes.iter().filter(|own| own.is_active()).map(|own| own.digest(&self.cx.local, None));
        let others = self.receiver.inbound.iter_after(self.cursors.exchange.as_ref());
        let others = others.filter(|stream| stream.next.is_some());
        let digests: Vec<_> = own.chain(others.map(OriginStream::digest)).take(control::MAX_DIGESTS).collect();
        let last = digests.last().filter(|_| digests.len() == control::MAX_DIGESTS);
        let last = last.map(|digest| NodeName::from(digest.origin));
        let message = Control::Digest(digests).encode();
        self.cursors.exchange = last;
        message.slice(1..)
    }

    /// This node's digest of the streams of one origin.
    pub(crate) fn state_of(&self, origin: &[u8]) -> Bytes {
        Control::Digest(self.receiver.inbound.epochs(origin).map(OriginStream::digest).collect()).encode().slice(1..)
    }

    /// Whether another node's state is such a digest.
    pub(crate) fn is_state(state: &[u8]) -> bool {
        state.first() == Some(&MAGIC)
    }

    /// Merges another node's digest. `from` is where that node can be asked, if that is known.
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
    ) -> Result<(), DisseminationError> {
        if let Some((&MAGIC, data)) = state.split_first()
            && let Control::Digest(digests) = Control::decode(data)?
        {
            let sender = from.map(|addr| Attribution { addr, is_verified: true, response_age: None });
            for digest in &digests {
                self.handle_digest(now, sender, digest, membership);
            }
        }
        Ok(())
    }
}
