//! The receive side of all streams: each origin's messages in order and once, and which of them are kept for others.
//!
//! # A stream
//!
//! One epoch of an origin is a stream of numbered messages.
//!
//! ```text
//!              next − retained            next                      head
//!   freed or evicted │ delivered, kept      │ missing, some ahead    │
//! ```
//!
//! The origin says where a stream starts for this node ([`StreamStart`](super::control::StreamStart)), unless its first
//! message comes straight from the origin. Until the start is known, messages are held back. A message ahead of its turn
//! waits until those before it have come or cannot be had any more.
//!
//! From then on, a stream continues where this node is, whatever the origin takes this node for. An origin that dropped
//! this node as a peer tells it to start later, but the node still requests what lies between. What nobody can give any
//! more is reported as missed, never skipped.
//!
//! # The epochs of an origin
//!
//! They are kept in the order in which the origin ran through them. When an origin begins a new epoch, what is still
//! missing of the previous one is repaired beside it. An epoch that this node hears of after a later one is opened as ended.
//! A node that knows an earlier epoch is owed all of it; a node that met the origin before the later epoch began is owed it
//! from the floor on; to other nodes it is a past epoch of which they are owed nothing.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
    time::{Duration, Instant},
};

use super::{
    lane::Lane,
    limits::MAX_ORIGINS,
    message::Message,
    origin_stream::{OriginStream, OriginStreamError, ReceiveBuffers, StartState},
};
use crate::{config::Retention, membership::NodeName};

/// The most epochs of one origin that are remembered, in both lanes. More repairs what was missed over more restarts.
const MAX_EPOCHS: usize = 8;

/// Whether two epochs are in the same lane of their origin.
fn same_lane(one: u64, other: u64) -> bool {
    Lane::of(one) == Lane::of(other)
}

fn find<'a>(
    streams: &'a mut BTreeMap<NodeName, Vec<OriginStream>>,
    origin: &[u8],
    epoch: u64,
) -> Option<&'a mut OriginStream> {
    streams.get_mut(origin)?.iter_mut().find(|stream| stream.epoch == epoch)
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct InboundStreams {
    limits: Retention,
    streams: BTreeMap<NodeName, Vec<OriginStream>>,
    buffers: ReceiveBuffers,
}

impl InboundStreams {
    pub(super) fn new(limits: Retention, replay: bool) -> Self {
        Self { limits, streams: BTreeMap::new(), buffers: ReceiveBuffers::new(limits.retain_bytes / 4, replay) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &OriginStream> {
        self.streams.values().flatten()
    }

    /// The same, beginning behind this origin; those up to it come last.
    pub(super) fn iter_after(&self, origin: Option<&NodeName>) -> impl Iterator<Item = &OriginStream> {
        // No name is empty.
        let origin = origin.map_or(&[][..], NodeName::as_bytes);
        let behind = self.streams.range::<[u8], _>((Bound::Excluded(origin), Bound::Unbounded));
        let before = self.streams.range::<[u8], _>((Bound::Unbounded, Bound::Included(origin)));
        behind.chain(before).flat_map(|(_, streams)| streams)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut OriginStream> {
        self.streams.values_mut().flatten()
    }

    /// The streams of an origin, in the order of its epochs.
    pub(super) fn epochs(&self, origin: &[u8]) -> impl Iterator<Item = &OriginStream> {
        self.streams.get(origin).into_iter().flatten()
    }

    /// The same, to change.
    pub(super) fn epochs_mut(&mut self, origin: &[u8]) -> impl Iterator<Item = &mut OriginStream> {
        self.streams.get_mut(origin).into_iter().flatten()
    }

    /// An origin is back: its latest epochs have not ended.
    pub(super) fn revive(&mut self, origin: &[u8]) {
        let Some(streams) = self.streams.get_mut(origin) else { return };
        for lane in Lane::ALL {
            let latest = streams.iter_mut().rfind(|stream| Lane::of(stream.epoch) == lane);
            latest.into_iter().for_each(|stream| stream.ended = None);
        }
    }

    pub(super) fn get(&self, origin: &[u8], epoch: u64) -> Option<&OriginStream> {
        self.streams.get(origin)?.iter().find(|stream| stream.epoch == epoch)
    }

    /// The latest stream of an origin, as far as is known, in the lane of `epoch`.
    pub(super) fn latest_epoch(&self, origin: &[u8], epoch: u64) -> Option<&OriginStream> {
        let streams = self.streams.get(origin)?;
        streams.iter().rfind(|stream| same_lane(stream.epoch, epoch))
    }

    /// Whether the order of this epoch and another one of the origin is in dispute.
    pub(super) fn is_disputed(&self, origin: &[u8], epoch: u64) -> bool {
        let latest = self.latest_epoch(origin, epoch).map_or(epoch, |latest| latest.epoch);
        latest > epoch || (latest < epoch && self.get(origin, epoch).is_some())
    }

    /// Whether another epoch of the origin is known in the same lane.
    pub(super) fn has_other_epoch(&self, origin: &[u8], epoch: u64) -> bool {
        let streams = self.streams.get(origin).into_iter().flatten();
        streams.filter(|stream| same_lane(stream.epoch, epoch)).any(|stream| stream.epoch != epoch)
    }

    /// A stream, and what all streams share.
    pub(super) fn stream(&mut self, origin: &[u8], epoch: u64) -> Option<(&mut OriginStream, &mut ReceiveBuffers)> {
        Some((find(&mut self.streams, origin, epoch)?, &mut self.buffers))
    }

    /// Whether streams start with what others retain.
    pub(super) fn replays(&self) -> bool {
        self.buffers.replay
    }

    /// What cannot be had any more: origin, epoch and numbers.
    pub(super) fn take_missed(&mut self) -> Vec<(NodeName, u64, Range<u64>)> {
        std::mem::take(&mut self.buffers.missed)
    }

    /// The next message to deliver.
    pub(super) fn poll_delivered(&mut self) -> Option<Message> {
        self.buffers.delivered.pop_front()
    }

    /// The bytes retained, the bytes ahead of their turn, and the number of messages retained.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        (self.buffers.retained.0, self.buffers.ahead, self.buffers.retained.1)
    }

    /// Opens a stream, unless it is known. It starts at `next`, or with the first message if this node knows an earlier epoch.
    /// `latest` is the latest epoch that can be by this node's clock.
    pub(super) fn open(
        &mut self,
        now: Instant,
        origin: &[u8],
        epoch: u64,
        next: Option<u64>,
        latest: u64,
    ) -> Result<(), OriginStreamError> {
        if self.get(origin, epoch).is_some() {
            return Ok(());
        }
        let streams = self.streams.get(origin).map_or(&[][..], |streams| streams);
        let in_lane = |stream: &&OriginStream| same_lane(stream.epoch, epoch);
        // The same clock is trusted for this epoch if it was for a later one.
        if epoch > latest && streams.iter().filter(in_lane).all(|stream| stream.epoch < epoch) {
            return Err(OriginStreamError::FutureEpoch(epoch));
        }
        let follows = streams.iter().filter(in_lane).any(|stream| stream.epoch < epoch && stream.next.is_some());
        let is_latest = streams.iter().rfind(in_lane).is_none_or(|latest| latest.epoch < epoch);
        let successor = streams.iter().filter(in_lane).find(|stream| stream.epoch > epoch);
        let next = match next {
            next if is_latest => next,
            _ if self.is_forgotten(origin, epoch) => return Err(OriginStreamError::PastEpoch(epoch)),
            _ if follows => Some(0),
            Some(next) if successor.is_some_and(|later| later.follows) => Some(next),
            _ => return Err(OriginStreamError::PastEpoch(epoch)),
        };
        self.make_room_for(origin, epoch)?;
        let name = NodeName::from(origin);
        let streams = self.streams.entry(name.clone()).or_default();
        let mut stream = OriginStream::new(name, epoch, next);
        stream.follows = follows;
        if is_latest {
            streams
                .iter_mut()
                .filter(|stream| same_lane(stream.epoch, epoch))
                .for_each(|stream| stream.end_epoch(now, false));
            streams.push(stream);
        } else {
            stream.end_epoch(now, false);
            let later = streams.iter().position(|stream| same_lane(stream.epoch, epoch) && stream.epoch > epoch);
            streams.insert(later.unwrap_or(streams.len()), stream);
        }
        Ok(())
    }

    /// Whether this epoch, or one with a higher number, was dropped for want of room.
    fn is_forgotten(&self, origin: &[u8], epoch: u64) -> bool {
        let mut streams =
            self.streams.get(origin).into_iter().flatten().filter(|stream| same_lane(stream.epoch, epoch));
        streams.any(|stream| stream.forgotten >= Some(epoch))
    }

    /// Opens a stream whose epoch lies between an earlier one and the present one of its origin, though its number does not: a
    /// clock was wrong in one of them. Gives whether there are two such epochs.
    pub(super) fn open_between(&mut self, now: Instant, origin: &[u8], epoch: u64) -> Result<bool, OriginStreamError> {
        let streams = self.streams.get(origin).map_or(&[][..], |streams| streams);
        let in_lane = |stream: &&OriginStream| same_lane(stream.epoch, epoch);
        let is_present = |stream: &OriginStream| stream.follows && stream.ended.is_none();
        if self.is_forgotten(origin, epoch) || !streams.iter().rfind(in_lane).is_some_and(is_present) {
            return Ok(false);
        }
        self.make_room_for(origin, epoch)?;
        let name = NodeName::from(origin);
        let streams = self.streams.entry(name.clone()).or_default();
        let mut stream = OriginStream::new(name, epoch, Some(0));
        stream.follows = true;
        stream.end_epoch(now, false);
        let present = streams.iter().rposition(|stream| same_lane(stream.epoch, epoch));
        streams.insert(present.unwrap_or(streams.len()), stream);
        Ok(true)
    }

    /// Makes room for a stream: drops another origin, or an earlier epoch of this one, if there are too many.
    fn make_room_for(&mut self, origin: &[u8], epoch: u64) -> Result<(), OriginStreamError> {
        if self.streams.len() >= MAX_ORIGINS && !self.streams.contains_key(origin) {
            let over =
                |streams: &Vec<OriginStream>| streams.iter().all(|stream| stream.ended.is_some() && !stream.lacks());
            let old = self.streams.iter().find(|(_, streams)| over(streams)).map(|(name, _)| name.clone());
            self.remove(&old.ok_or(OriginStreamError::Full)?);
        }
        let streams = self.streams.get(origin).map_or(&[][..], |streams| streams);
        if streams.len() < MAX_EPOCHS {
            return Ok(());
        }
        let in_lane = |stream: &&OriginStream| same_lane(stream.epoch, epoch);
        let done = streams.iter().filter(in_lane).find(|stream| stream.ended.is_some() && !stream.lacks());
        if let Some(oldest) = done.or_else(|| streams.iter().find(in_lane)) {
            let (oldest, forgotten) = (oldest.epoch, oldest.forgotten.max(Some(oldest.epoch)));
            self.remove_epoch(origin, oldest);
            // It must not be opened again when somebody else tells of it.
            let other = self.epochs_mut(origin).find(|stream| same_lane(stream.epoch, epoch));
            other.into_iter().for_each(|stream| stream.forgotten = stream.forgotten.max(forgotten));
        }
        Ok(())
    }

    /// The origin says that this is its present epoch, which settles any dispute. An epoch of which nothing came, and before
    /// which none is known, was made up or had ended before this node was there.
    pub(super) fn confirm(&mut self, now: Instant, origin: &[u8], epoch: u64) -> Result<(), OriginStreamError> {
        let in_lane = |stream: &OriginStream| same_lane(stream.epoch, epoch);
        if self.latest_epoch(origin, epoch).is_some_and(|latest| latest.epoch == epoch && latest.ended.is_none()) {
            return Ok(());
        }
        if self.get(origin, epoch).is_none() {
            self.make_room_for(origin, epoch)?;
            let name = NodeName::from(origin);
            self.streams.entry(name.clone()).or_default().push(OriginStream::new(name, epoch, None));
        }
        let Some(streams) = self.streams.get_mut(origin) else { return Ok(()) };
        let Some(at) = streams.iter().position(|stream| stream.epoch == epoch) else { return Ok(()) };
        let mut present = streams.remove(at);
        let mut made_up = Vec::new();
        let mut follows = false;
        for stream in streams.iter_mut().filter(|stream| in_lane(stream)) {
            stream.end_epoch(now, false);
            stream.follows = follows;
            if stream.start_state == StartState::Unknown && !follows {
                made_up.push(stream.epoch);
            }
            follows |= stream.next.is_some();
        }
        present.ended = None;
        present.follows |= follows;
        streams.push(present);
        for stream in made_up {
            self.remove_epoch(origin, stream);
        }
        Ok(())
    }

    /// This node met the origin before this epoch began, even if it got nothing of an earlier one.
    pub(super) fn note_met_before(&mut self, origin: &[u8], epoch: u64) {
        if let Some((stream, _)) = self.stream(origin, epoch) {
            stream.follows = true;
        }
    }

    fn remove(&mut self, origin: &NodeName) {
        for stream in self.streams.remove(origin.as_bytes()).into_iter().flatten() {
            stream.forget(&mut self.buffers);
        }
    }

    /// Drops a stream with all that is kept of it.
    pub(super) fn remove_epoch(&mut self, origin: &[u8], epoch: u64) {
        let Some(streams) = self.streams.get_mut(origin) else { return };
        let Some(at) = streams.iter().position(|stream| stream.epoch == epoch) else { return };
        let stream = streams.remove(at);
        if streams.is_empty() {
            self.streams.remove(origin);
        }
        self.buffers.missed.extend(stream.lacking().map(|seqs| (stream.origin.clone(), epoch, seqs)));
        stream.forget(&mut self.buffers);
    }

    /// Frees what is kept of streams that ended at least `age` ago. How far they were delivered stays known, so that nothing is
    /// delivered again. Gives whether other ended streams still keep messages.
    pub(super) fn sweep(&mut self, now: Instant, age: Duration) -> bool {
        let mut left = false;
        for stream in self.streams.values_mut().flatten() {
            let Some(over) = stream.ended else { continue };
            if now.saturating_duration_since(over.since) >= age {
                stream.evict(stream.retained.len(), &mut self.buffers);
            }
            left |= stream.retains();
        }
        left
    }

    /// Evicts the oldest messages of the origin that has most, until what is kept is within its limits. While an origin lives,
    /// it keeps what is needed itself, so eviction costs only a detour.
    pub(super) fn make_room(&mut self) {
        while self.buffers.retained.0 > self.limits.retain_bytes / 2
            || self.buffers.retained.1 > self.limits.retain_messages
        {
            let streams = self.streams.values_mut().flatten();
            let fullest = streams.max_by_key(|stream| (stream.bytes, stream.retained.len()));
            let Some(fullest) = fullest.filter(|stream| stream.retains()) else { return };
            fullest.evict(fullest.retained.len().div_ceil(8), &mut self.buffers);
        }
    }
}
