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
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Instant,
};

use super::{
    Message,
    control::Start,
    same_lane,
    stream::{Begun, Kept, Stream},
};
use crate::{config::Limits, membership::NodeName};

/// Origins that are remembered at most.
pub(super) const MAX_ORIGINS: usize = 16_384;
/// Lives of one origin that are remembered at most, in both lanes.
const MAX_LIVES: usize = 8;
/// How far ahead of its turn a message is kept, in numbers.
pub(super) const MAX_AHEAD: u64 = 1 << 16;

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is here for the first time.
    New,
    /// It was here before.
    Known,
    /// It is new, but there is no room to keep it until its turn comes; it is asked for again.
    NoRoom,
}

/// Why a message or what is said of a stream is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("it is from an earlier epoch of its origin, which began at {0}")]
    FormerLife(u64),
    #[error("its origin's epoch begins at {0}, in the future")]
    FutureLife(u64),
    #[error("its number {0} is too far ahead")]
    FarAhead(u64),
    #[error("this node already remembers {MAX_ORIGINS} origins, the limit")]
    Full,
}

fn find<'a>(streams: &'a mut BTreeMap<NodeName, Vec<Stream>>, origin: &[u8], epoch: u64) -> Option<&'a mut Stream> {
    streams.get_mut(origin)?.iter_mut().find(|stream| stream.epoch == epoch)
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Inbound {
    limits: Limits,
    streams: BTreeMap<NodeName, Vec<Stream>>,
    kept: Kept,
    /// What is delivered, in order.
    pub(super) delivered: VecDeque<Message>,
    /// What will not be delivered: of whose which life, and which numbers.
    pub(super) lost: Vec<(NodeName, u64, Range<u64>)>,
}

impl Inbound {
    pub(super) fn new(limits: Limits) -> Self {
        let (streams, kept) = (BTreeMap::new(), Kept::default());
        Self { limits, streams, kept, delivered: VecDeque::new(), lost: Vec::new() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Stream)> {
        self.streams.iter().flat_map(|(origin, lives)| lives.iter().map(move |life| (origin, life)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&NodeName, &mut Stream)> {
        self.streams.iter_mut().flat_map(|(origin, lives)| lives.iter_mut().map(move |life| (origin, life)))
    }

    /// The streams of an origin, in the order of its lives.
    pub(super) fn lives_mut(&mut self, origin: &[u8]) -> impl Iterator<Item = &mut Stream> {
        self.streams.get_mut(origin).into_iter().flatten()
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

    pub(super) fn get_mut(&mut self, origin: &[u8], epoch: u64) -> Option<&mut Stream> {
        find(&mut self.streams, origin, epoch)
    }

    /// Bytes that are retained, bytes that wait for their turn, and messages that are retained.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        (self.kept.retained.0, self.kept.ahead, self.kept.retained.1)
    }

    /// The stream of one life of an origin, which begins at `next` if it is new here, or with all there is if a
    /// former one is known.
    pub(super) fn open(
        &mut self,
        now: Instant,
        origin: &[u8],
        epoch: u64,
        next: Option<u64>,
        latest: u64,
    ) -> Result<&mut Stream, StreamError> {
        self.begin_life(now, origin, epoch, next, latest)?;
        Ok(self.get_mut(origin, epoch).expect("it was there, or was just added"))
    }

    /// Remembers a life of an origin, unless it is known.
    fn begin_life(
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
        if let Some(stream) = self.get_mut(origin, epoch) {
            stream.follows = true;
        }
    }

    fn remove(&mut self, origin: &NodeName) {
        for stream in self.streams.remove(origin.as_bytes()).into_iter().flatten() {
            self.uncount(&stream);
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
        self.uncount(&stream);
        self.lost.extend(stream.lacking().map(|seqs| (stream.origin.clone(), epoch, seqs)));
    }

    fn uncount(&mut self, stream: &Stream) {
        self.kept.retained.0 -= stream.bytes;
        self.kept.retained.1 -= stream.retained.len();
        self.kept.ahead -= stream.ahead.values().map(Message::len).sum::<usize>();
    }

    /// Takes a message. `begins` says that this node begins with it, unless it is known to begin
    /// elsewhere. `build` makes it, with its origin's name, if it is new.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        origin: &[u8],
        (epoch, seq): (u64, u64),
        begins: bool,
        latest: u64,
        build: impl FnOnce(NodeName) -> Message,
    ) -> Result<Taken, StreamError> {
        self.begin_life(now, origin, epoch, begins.then_some(seq), latest)?;
        let stream = find(&mut self.streams, origin, epoch).expect("it was there, or was just added");
        if begins && stream.next.is_none() {
            (stream.next, stream.begun) = (Some(seq), Begun::Told);
        }
        let expected = stream.next.or_else(|| stream.first_ahead()).unwrap_or(seq);
        if seq == u64::MAX || seq > expected.saturating_add(MAX_AHEAD) {
            return Err(StreamError::FarAhead(seq));
        }
        if stream.next.is_some_and(|next| seq < next) || stream.ahead.contains_key(&seq) {
            return Ok(Taken::Known);
        }
        stream.head = stream.head.max(seq + 1);
        let message = build(stream.origin.clone());
        if stream.next == Some(seq) {
            stream.ask_afresh();
            stream.deliver(message, &mut self.kept, &mut self.delivered);
            self.make_room();
        } else if self.kept.ahead + message.len() > self.limits.retain_bytes / 4 {
            return Ok(Taken::NoRoom);
        } else {
            self.kept.ahead += message.len();
            stream.ahead.insert(seq, message);
        }
        Ok(Taken::New)
    }

    /// Goes on from `next`, since what comes before is not for this node, or cannot be had.
    pub(super) fn skip_to(&mut self, origin: &[u8], epoch: u64, next: u64) {
        let Some(stream) = find(&mut self.streams, origin, epoch) else { return };
        let later = stream.ahead.split_off(&next);
        let dropped = std::mem::replace(&mut stream.ahead, later);
        stream.next = Some(next);
        stream.head = stream.head.max(next);
        stream.ask_afresh();
        // What is kept would no longer reach up to `next`.
        let (bytes, messages) = (std::mem::take(&mut stream.bytes), stream.retained.len());
        stream.retained.clear();
        let due = stream.ahead.remove(&next);
        self.kept.retained.0 -= bytes;
        self.kept.retained.1 -= messages;
        self.kept.ahead -= dropped.values().chain(&due).map(Message::len).sum::<usize>();
        if let Some(message) = due {
            // What was taken out of `ahead` is counted out already.
            stream.deliver(message, &mut self.kept, &mut self.delivered);
            self.make_room();
        }
    }

    /// Where this node begins in a stream, as its origin says, which still has what is from `base` on, up to `head`.
    /// What comes before it is not owed, also where this node had guessed that it would begin earlier; where it
    /// began later, it has missed something. Who has begun goes on from where it is, unless that was made up: a
    /// number far beyond all that the origin has said.
    pub(super) fn start(&mut self, origin: &[u8], epoch: u64, start: Start, (base, head): (u64, u64), replay: bool) {
        let Some(stream) = self.get_mut(origin, epoch) else { return };
        let begun = std::mem::replace(&mut stream.begun, Begun::Told);
        let at = if replay { base.min(start.at) } else { start.at };
        match (begun, stream.next) {
            (Begun::Told, Some(_)) => {}
            (Begun::Guessed(guess), Some(next)) if next > guess && guess < head.saturating_add(MAX_AHEAD) => {
                let lost = (start.at < guess).then(|| (stream.origin.clone(), epoch, start.at..guess));
                self.lost.extend(lost);
            }
            _ => self.skip_to(origin, epoch, at),
        }
    }

    /// Begins a stream whose origin does not say where.
    pub(super) fn guess(&mut self, origin: &[u8], epoch: u64, next: u64) {
        let Some(stream) = self.get_mut(origin, epoch) else { return };
        stream.begun = Begun::Guessed(next);
        self.skip_to(origin, epoch, next);
    }

    /// Forgets what is here ahead of its turn from `end` on: its origin knows of no such numbers.
    pub(super) fn forget_ahead(&mut self, origin: &[u8], epoch: u64, end: u64) {
        let Some(stream) = find(&mut self.streams, origin, epoch) else { return };
        let made_up = stream.ahead.split_off(&end);
        self.kept.ahead -= made_up.values().map(Message::len).sum::<usize>();
    }

    /// Nobody needs anything below `floor` any more.
    pub(super) fn free(&mut self, origin: &[u8], epoch: u64, floor: u64) -> bool {
        let Some(stream) = self.get_mut(origin, epoch) else { return false };
        // Nobody can do without what this node has not had itself.
        let floor = floor.min(stream.next.unwrap_or_default());
        if floor <= stream.floor {
            return false;
        }
        stream.floor = floor;
        let n = floor.saturating_sub(stream.base()).min(stream.retained.len() as u64) as usize;
        self.evict(origin, epoch, n);
        true
    }

    /// Frees all that was delivered of a stream.
    pub(super) fn release(&mut self, origin: &[u8], epoch: u64) {
        let n = self.get(origin, epoch).map_or(0, |stream| stream.retained.len());
        self.evict(origin, epoch, n);
    }

    fn evict(&mut self, origin: &[u8], epoch: u64, n: usize) {
        let Some(stream) = self.get_mut(origin, epoch) else { return };
        let bytes: usize = stream.retained.drain(..n).map(|message| message.len()).sum();
        stream.bytes -= bytes;
        if stream.retained.is_empty() {
            stream.retained.shrink_to(16);
        }
        self.kept.retained.0 -= bytes;
        self.kept.retained.1 -= n;
    }

    /// Evicts the oldest of the origin that has most, until what is kept is within its bounds. Origins
    /// keep what is needed themselves, so this costs nothing but a detour, as long as they live.
    fn make_room(&mut self) {
        while self.kept.retained.0 > self.limits.retain_bytes / 2 || self.kept.retained.1 > self.limits.retain_messages
        {
            let fullest = self.iter().max_by_key(|(_, stream)| (stream.bytes, stream.retained.len()));
            let Some((origin, stream)) = fullest.filter(|(_, stream)| !stream.retained.is_empty()) else { return };
            let (origin, epoch, n) = (origin.clone(), stream.epoch, stream.retained.len().div_ceil(8));
            self.evict(origin.as_bytes(), epoch, n);
        }
    }
}
