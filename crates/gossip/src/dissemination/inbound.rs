//! What other nodes say: each origin's messages in order and once, and what of them is kept for others.
//!
//! # A stream
//!
//! One life of an origin is a stream of numbered messages.
//!
//! ```text
//!              next − retained            next                      head
//!   freed or evicted │ delivered, kept      │ missing, some ahead    │
//! ```
//!
//! Where a stream begins for this node the origin says ([`Start`]), unless it is the first there is that
//! comes from the origin. Until that is known, messages are held. What comes ahead of its turn waits
//! until what is missing has come, too, or cannot be had any more.
//!
//! From then on a stream goes on where this node is, whatever the origin takes this node for: one that was
//! forgotten meanwhile is told to begin later, and asks for what lies between all the same. What nobody can
//! give any more is told as missed, never skipped.
//!
//! # The lives of an origin
//!
//! They stand in the order in which they were lived. When an origin begins a new life, what is still missing
//! of the former one is fetched all the same, beside the new stream. A life that is heard of after a later one
//! is opened as one that is over. It is owed in whole to who knows an earlier one, and from the floor on to who met
//! the origin before the later one began; to others it is a former life, of which they want nothing.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use super::{
    lane::Lane,
    limits::MAX_ORIGINS,
    message::Message,
    stream::{Begun, Store, Stream, StreamError},
};
use crate::{config::Retention, membership::NodeName};

/// Lives of one origin that are remembered at most, in both lanes.
const MAX_LIVES: usize = 8;

/// Whether two lives are of the same stream of a node.
fn same_lane(one: u64, other: u64) -> bool {
    Lane::of(one) == Lane::of(other)
}

fn find<'a>(streams: &'a mut BTreeMap<NodeName, Vec<Stream>>, origin: &[u8], epoch: u64) -> Option<&'a mut Stream> {
    streams.get_mut(origin)?.iter_mut().find(|stream| stream.epoch == epoch)
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Inbound {
    limits: Retention,
    streams: BTreeMap<NodeName, Vec<Stream>>,
    store: Store,
}

impl Inbound {
    pub(super) fn new(limits: Retention, replay: bool) -> Self {
        Self { limits, streams: BTreeMap::new(), store: Store::new(limits.retain_bytes / 4, replay) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.streams.values().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.streams.values_mut().flatten()
    }

    /// The streams of an origin, in the order of its lives.
    pub(super) fn lives(&self, origin: &[u8]) -> impl Iterator<Item = &Stream> {
        self.streams.get(origin).into_iter().flatten()
    }

    /// The same.
    pub(super) fn lives_mut(&mut self, origin: &[u8]) -> impl Iterator<Item = &mut Stream> {
        self.streams.get_mut(origin).into_iter().flatten()
    }

    /// The latest lives of an origin that is there go on.
    pub(super) fn revive(&mut self, origin: &[u8]) {
        let Some(lives) = self.streams.get_mut(origin) else { return };
        for lane in Lane::ALL {
            let latest = lives.iter_mut().rfind(|life| Lane::of(life.epoch) == lane);
            latest.into_iter().for_each(|life| life.over = None);
        }
    }

    pub(super) fn get(&self, origin: &[u8], epoch: u64) -> Option<&Stream> {
        self.streams.get(origin)?.iter().find(|stream| stream.epoch == epoch)
    }

    /// The latest life of an origin in the lane of that one, as far as is known.
    pub(super) fn latest_life(&self, origin: &[u8], epoch: u64) -> Option<&Stream> {
        let lives = self.streams.get(origin)?;
        lives.iter().rfind(|life| same_lane(life.epoch, epoch))
    }

    /// Whether another life of an origin is taken for later than this one.
    pub(super) fn is_doubtful(&self, origin: &[u8], epoch: u64) -> bool {
        let latest = self.latest_life(origin, epoch).map_or(epoch, |latest| latest.epoch);
        latest > epoch || (latest < epoch && self.get(origin, epoch).is_some())
    }

    /// Whether another life of an origin is known, in the same lane.
    pub(super) fn has_other_life(&self, origin: &[u8], epoch: u64) -> bool {
        let lives = self.streams.get(origin).into_iter().flatten();
        lives.filter(|life| same_lane(life.epoch, epoch)).any(|life| life.epoch != epoch)
    }

    /// A stream, and what it shares with all others.
    pub(super) fn stream(&mut self, origin: &[u8], epoch: u64) -> Option<(&mut Stream, &mut Store)> {
        Some((find(&mut self.streams, origin, epoch)?, &mut self.store))
    }

    /// Whether it begins with what others retain.
    pub(super) fn replays(&self) -> bool {
        self.store.replay
    }

    /// What cannot be had: of whose which life, and which numbers.
    pub(super) fn take_lost(&mut self) -> Vec<(NodeName, u64, Range<u64>)> {
        std::mem::take(&mut self.store.lost)
    }

    /// The next message to deliver.
    pub(super) fn poll_delivered(&mut self) -> Option<Message> {
        self.store.delivered.pop_front()
    }

    /// Bytes that are retained, bytes that wait for their turn, and messages that are retained.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        (self.store.retained.0, self.store.ahead, self.store.retained.1)
    }

    /// Remembers one life of an origin, unless it is known, which begins at `next`, or with all there is if a former one
    /// is known.
    pub(super) fn open(
        &mut self,
        now: Instant,
        origin: &[u8],
        epoch: u64,
        next: Option<u64>,
        latest: u64,
    ) -> Result<(), StreamError> {
        if self.get(origin, epoch).is_some() {
            return Ok(());
        }
        let lives = self.streams.get(origin).map_or(&[][..], |lives| lives);
        let in_lane = |life: &&Stream| same_lane(life.epoch, epoch);
        // A clock that was right about a later life was right about this one.
        if epoch > latest && lives.iter().filter(in_lane).all(|life| life.epoch < epoch) {
            return Err(StreamError::FutureLife(epoch));
        }
        let follows = lives.iter().filter(in_lane).any(|life| life.epoch < epoch && life.next.is_some());
        let is_latest = lives.iter().rfind(in_lane).is_none_or(|latest| latest.epoch < epoch);
        let successor = lives.iter().filter(in_lane).find(|life| life.epoch > epoch);
        let next = match next {
            next if is_latest => next,
            _ if self.is_forgotten(origin, epoch) => return Err(StreamError::FormerLife(epoch)),
            _ if follows => Some(0),
            Some(next) if successor.is_some_and(|later| later.follows) => Some(next),
            _ => return Err(StreamError::FormerLife(epoch)),
        };
        self.make_room_for(origin, epoch)?;
        let name = NodeName::from(origin);
        let lives = self.streams.entry(name.clone()).or_default();
        let mut stream = Stream::new(name, epoch, next);
        stream.follows = follows;
        if is_latest {
            lives.iter_mut().filter(|life| same_lane(life.epoch, epoch)).for_each(|life| life.end_life(now, false));
            lives.push(stream);
        } else {
            stream.end_life(now, false);
            let later = lives.iter().position(|life| same_lane(life.epoch, epoch) && life.epoch > epoch);
            lives.insert(later.unwrap_or(lives.len()), stream);
        }
        Ok(())
    }

    /// Whether a life was forgotten for want of room, or one with a later number.
    fn is_forgotten(&self, origin: &[u8], epoch: u64) -> bool {
        let mut lives = self.streams.get(origin).into_iter().flatten().filter(|life| same_lane(life.epoch, epoch));
        lives.any(|life| life.forgotten >= Some(epoch))
    }

    /// Remembers a life that lies between the present one of an origin and a former one that is known here, though its number
    /// does not: a clock was wrong in one of them. Gives whether there are two such.
    pub(super) fn open_between(&mut self, now: Instant, origin: &[u8], epoch: u64) -> Result<bool, StreamError> {
        let lives = self.streams.get(origin).map_or(&[][..], |lives| lives);
        let in_lane = |life: &&Stream| same_lane(life.epoch, epoch);
        let is_present = |life: &Stream| life.follows && life.over.is_none();
        if self.is_forgotten(origin, epoch) || !lives.iter().rfind(in_lane).is_some_and(is_present) {
            return Ok(false);
        }
        self.make_room_for(origin, epoch)?;
        let name = NodeName::from(origin);
        let lives = self.streams.entry(name.clone()).or_default();
        let mut stream = Stream::new(name, epoch, Some(0));
        stream.follows = true;
        stream.end_life(now, false);
        let present = lives.iter().rposition(|life| same_lane(life.epoch, epoch));
        lives.insert(present.unwrap_or(lives.len()), stream);
        Ok(true)
    }

    /// Forgets another origin, or an earlier life of this one, if there are too many.
    fn make_room_for(&mut self, origin: &[u8], epoch: u64) -> Result<(), StreamError> {
        if self.streams.len() >= MAX_ORIGINS && !self.streams.contains_key(origin) {
            let over = |lives: &Vec<Stream>| lives.iter().all(|life| life.over.is_some() && !life.lacks());
            let old = self.streams.iter().find(|(_, lives)| over(lives)).map(|(name, _)| name.clone());
            self.remove(&old.ok_or(StreamError::Full)?);
        }
        let lives = self.streams.get(origin).map_or(&[][..], |lives| lives);
        if lives.len() < MAX_LIVES {
            return Ok(());
        }
        let in_lane = |life: &&Stream| same_lane(life.epoch, epoch);
        let done = lives.iter().filter(in_lane).find(|life| life.over.is_some() && !life.lacks());
        if let Some(oldest) = done.or_else(|| lives.iter().find(in_lane)) {
            let (oldest, forgotten) = (oldest.epoch, oldest.forgotten.max(Some(oldest.epoch)));
            self.remove_life(origin, oldest);
            // It is not to be opened again when somebody else tells of it.
            let other = self.lives_mut(origin).find(|life| same_lane(life.epoch, epoch));
            other.into_iter().for_each(|life| life.forgotten = life.forgotten.max(forgotten));
        }
        Ok(())
    }

    /// An origin says that this is its present life, whatever was thought of it. A life that nothing came of,
    /// and before which none is known, was made up, or was over before this node was there.
    pub(super) fn confirm(&mut self, now: Instant, origin: &[u8], epoch: u64) -> Result<(), StreamError> {
        let in_lane = |life: &Stream| same_lane(life.epoch, epoch);
        if self.latest_life(origin, epoch).is_some_and(|latest| latest.epoch == epoch && latest.over.is_none()) {
            return Ok(());
        }
        if self.get(origin, epoch).is_none() {
            self.make_room_for(origin, epoch)?;
            let name = NodeName::from(origin);
            self.streams.entry(name.clone()).or_default().push(Stream::new(name, epoch, None));
        }
        let Some(lives) = self.streams.get_mut(origin) else { return Ok(()) };
        let Some(at) = lives.iter().position(|life| life.epoch == epoch) else { return Ok(()) };
        let mut present = lives.remove(at);
        let mut made_up = Vec::new();
        let mut follows = false;
        for life in lives.iter_mut().filter(|life| in_lane(life)) {
            life.end_life(now, false);
            life.follows = follows;
            if life.begun == Begun::No && !follows {
                made_up.push(life.epoch);
            }
            follows |= life.next.is_some();
        }
        present.over = None;
        present.follows |= follows;
        lives.push(present);
        for life in made_up {
            self.remove_life(origin, life);
        }
        Ok(())
    }

    /// The origin was met before this life of it began, though nothing of a former one may have come.
    pub(super) fn note_met_before(&mut self, origin: &[u8], epoch: u64) {
        if let Some((stream, _)) = self.stream(origin, epoch) {
            stream.follows = true;
        }
    }

    fn remove(&mut self, origin: &NodeName) {
        for stream in self.streams.remove(origin.as_bytes()).into_iter().flatten() {
            stream.forget(&mut self.store);
        }
    }

    /// Forgets a life of an origin, with all that is kept of it.
    pub(super) fn remove_life(&mut self, origin: &[u8], epoch: u64) {
        let Some(lives) = self.streams.get_mut(origin) else { return };
        let Some(at) = lives.iter().position(|life| life.epoch == epoch) else { return };
        let stream = lives.remove(at);
        if lives.is_empty() {
            self.streams.remove(origin);
        }
        self.store.lost.extend(stream.lacking().map(|seqs| (stream.origin.clone(), epoch, seqs)));
        stream.forget(&mut self.store);
    }

    /// Frees what was delivered of streams that have been over for so long. How far they came stays known, so that
    /// nothing of them is delivered again. Gives whether others are over that keep something.
    pub(super) fn sweep(&mut self, now: Instant, age: Duration) -> bool {
        let mut left = false;
        for stream in self.streams.values_mut().flatten() {
            let Some(over) = stream.over else { continue };
            if now.saturating_duration_since(over.since) >= age {
                stream.evict(stream.retained.len(), &mut self.store);
            }
            left |= stream.retains();
        }
        left
    }

    /// Evicts the oldest of the origin that has most, until what is kept is within its bounds. Origins
    /// keep what is needed themselves, so this costs nothing but a detour, as long as they live.
    pub(super) fn make_room(&mut self) {
        while self.store.retained.0 > self.limits.retain_bytes / 2
            || self.store.retained.1 > self.limits.retain_messages
        {
            let streams = self.streams.values_mut().flatten();
            let fullest = streams.max_by_key(|stream| (stream.bytes, stream.retained.len()));
            let Some(fullest) = fullest.filter(|stream| stream.retains()) else { return };
            fullest.evict(fullest.retained.len().div_ceil(8), &mut self.store);
        }
    }
}
