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
//! is owed in whole to who knows an earlier one, and opened as one that is over; to others it is a former life,
//! of which they want nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    ops::Range,
    time::Instant,
};

use super::{Message, control::Start, same_lane};
use crate::{config::Limits, membership::NodeName};

/// Origins that are remembered at most.
const MAX_ORIGINS: usize = 16_384;
/// Lives of one origin that are remembered at most, in both lanes.
const MAX_LIVES: usize = 8;
/// How far ahead of its turn a message is kept, in numbers.
pub(super) const MAX_AHEAD: u64 = 1 << 16;
/// Messages asked for at once at most.
const MAX_WANTED: u64 = 256;

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
    #[error("it is of a former life of its origin, which began at {0}")]
    FormerLife(u64),
    #[error("its origin's life is said to begin at {0}, in the future")]
    FutureLife(u64),
    #[error("its number {0} is beyond all that is expected")]
    FarAhead(u64),
    #[error("{MAX_ORIGINS} origins are remembered already")]
    Full,
}

/// How a stream began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// Not yet.
    No,
    /// With this number: the origin could not say it.
    Guessed(u64),
    /// As the origin says, or with all there is.
    Told,
}

/// A life has ended, or its origin seems to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) since: Instant,
    /// Whether the origin said good-bye.
    pub(super) left: bool,
}

/// One life of an origin.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its name, as it is remembered.
    pub(super) origin: NodeName,
    pub(super) epoch: u64,
    /// The number after the last one delivered; `None` while it is not known where to begin.
    pub(super) next: Option<u64>,
    begun: Begun,
    /// A former life is known here: unless the origin says otherwise, all of this one is for this node.
    pub(super) follows: bool,
    retained: VecDeque<Message>,
    bytes: usize,
    ahead: BTreeMap<u64, Message>,
    /// Where to begin should the origin not say it: what others retain.
    pub(super) fallback: Option<u64>,
    /// The number after the last one there is, as far as was heard.
    head: u64,
    /// Who said so last.
    told_by: Option<SocketAddr>,
    /// Who said so has less when asked: it was made up in its name.
    doubted: bool,
    /// Below this nobody needs anything any more.
    pub(super) floor: u64,
    /// The origin itself has nothing below this any more.
    pub(super) gone_below: u64,
    /// Who was the last to say that there is more.
    pub(super) hint: Option<SocketAddr>,
    /// How often was asked since something came.
    pub(super) attempts: u32,
    /// For how many rounds of gossip to tell what is here.
    pub(super) rounds: u32,
    /// The origin is gone, or has a newer life.
    pub(super) over: Option<Over>,
    /// What came has not been acknowledged yet.
    pub(super) ack_due: bool,
}

/// What all streams together keep.
#[derive(Debug, Default)]
struct Kept {
    /// Bytes and messages kept after their delivery.
    retained: (usize, usize),
    /// Bytes that wait for their turn.
    ahead: usize,
}

impl Stream {
    fn new(origin: NodeName, epoch: u64, next: Option<u64>) -> Self {
        Self {
            origin,
            epoch,
            next,
            begun: if next.is_some() { Begun::Told } else { Begun::No },
            follows: false,
            retained: VecDeque::new(),
            bytes: 0,
            ahead: BTreeMap::new(),
            fallback: None,
            head: next.unwrap_or_default(),
            told_by: None,
            doubted: false,
            floor: 0,
            gone_below: 0,
            hint: None,
            attempts: 0,
            rounds: 0,
            over: None,
            ack_due: false,
        }
    }

    /// The first number that can be given to others.
    pub(super) fn base(&self) -> u64 {
        self.next.unwrap_or_default() - self.retained.len() as u64
    }

    /// Whether it keeps something that was delivered.
    pub(super) fn retains(&self) -> bool {
        !self.retained.is_empty()
    }

    /// Whether something is missing, or it is not known what.
    pub(super) fn lacks(&self) -> bool {
        match self.next {
            Some(next) => next < self.end(),
            None => !self.ahead.is_empty() || self.fallback.is_some(),
        }
    }

    /// The number after the last one there is, as far as is known.
    pub(super) fn end(&self) -> u64 {
        self.ahead.last_key_value().map_or(self.head, |(last, _)| self.head.max(last + 1))
    }

    /// The origin has gone, or has begun another life.
    pub(super) fn end_life(&mut self, now: Instant, left: bool) {
        self.over.get_or_insert(Over { since: now, left });
    }

    /// Where this node begins is not known, or only guessed.
    pub(super) fn asks_for_start(&self) -> bool {
        self.begun != Begun::Told
    }

    /// What it can acknowledge: nothing, as long as it does not know where it begins.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        self.next.filter(|_| self.begun == Begun::Told)
    }

    /// What it lacks as far as is known, all at once, should it be forgotten.
    fn lacking(&self) -> Option<Range<u64>> {
        let next = self.next.or(self.follows.then_some(0))?;
        (next < self.end() && !self.doubted).then(|| next..self.end())
    }

    /// Where to begin, when the origin cannot say it.
    pub(super) fn guessed_start(&self) -> u64 {
        if self.follows {
            return 0;
        }
        self.first_ahead().into_iter().chain(self.fallback).min().unwrap_or_default()
    }

    /// The first number that is here ahead of its turn.
    pub(super) fn first_ahead(&self) -> Option<u64> {
        self.ahead.first_key_value().map(|(first, _)| *first)
    }

    /// The messages to ask for: first numbers and counts.
    pub(super) fn missing(&self, max_ranges: usize) -> Vec<(u64, u64)> {
        let Some(mut at) = self.next else { return Vec::new() };
        let (mut ranges, mut left) = (Vec::new(), MAX_WANTED);
        let ends = self.ahead.keys().map(|seq| (*seq, seq + 1)).chain([(self.end(), self.end())]);
        for (end, after) in ends {
            if end > at {
                let count = (end - at).min(left);
                ranges.push((at, count));
                left -= count;
                if left == 0 || ranges.len() == max_ranges {
                    break;
                }
            }
            at = after;
        }
        ranges
    }

    /// A message that is kept, or waits for its turn.
    pub(super) fn get(&self, seq: u64) -> Option<&Message> {
        match seq.checked_sub(self.base()) {
            Some(i) if seq < self.next.unwrap_or_default() => self.retained.get(i as usize),
            _ => self.ahead.get(&seq),
        }
    }

    /// Somebody says that there are messages up to `head`, and can give those from `base` on. The origin itself
    /// is believed also when that is less than was heard from others.
    pub(super) fn learn_head(&mut self, base: u64, head: u64, by_origin: bool, hint: Option<SocketAddr>) {
        if by_origin {
            self.head = head;
        }
        if head > self.end() {
            (self.head, self.told_by, self.doubted) = (head, hint, false);
            self.hint = hint;
            self.attempts = 0;
        } else if self.hint.is_none()
            && (head == self.end() || self.next.is_some_and(|next| base <= next && next < head))
        {
            self.hint = hint;
            self.doubted = false;
        } else if head < self.head && hint.is_some() && hint == self.told_by && self.attempts > 0 {
            self.doubted = true;
        }
    }

    /// Delivers a message whose turn it is, and those that waited for it.
    fn deliver(&mut self, message: Message, kept: &mut Kept, delivered: &mut VecDeque<Message>) {
        let mut due = Some(message);
        let mut next = self.next.unwrap_or_default();
        while let Some(message) = due {
            if next >= self.floor {
                self.bytes += message.len();
                kept.retained.0 += message.len();
                kept.retained.1 += 1;
                self.retained.push_back(message.clone());
            }
            delivered.push_back(message);
            next += 1;
            due = if self.ahead.is_empty() { None } else { self.ahead.remove(&next) };
            kept.ahead -= due.as_ref().map_or(0, Message::len);
        }
        self.next = Some(next);
    }

    /// Nobody could give what is missing, and nothing is here ahead of it: up to where it is given up, if
    /// there is reason to believe that there was something.
    pub(super) fn give_up_head(&mut self) -> Option<u64> {
        let next = self.next.unwrap_or_default();
        let head = std::mem::replace(&mut self.head, next);
        (head > next && !self.doubted).then_some(head)
    }
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

    /// The stream of one life of an origin, which begins at `next` if it is new here.
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
        if epoch > latest {
            return Err(StreamError::FutureLife(epoch));
        }
        if self.streams.len() >= MAX_ORIGINS && !self.streams.contains_key(origin) {
            let over = |lives: &Vec<Stream>| lives.iter().all(|life| life.over.is_some() && !life.lacks());
            let old = self.streams.iter().find(|(_, lives)| over(lives)).map(|(name, _)| name.clone());
            self.remove(&old.ok_or(StreamError::Full)?);
        }
        let lives = self.streams.get(origin).map_or(&[][..], |lives| lives);
        let in_lane = |life: &&Stream| same_lane(life.epoch, epoch);
        let follows = lives.iter().filter(in_lane).any(|life| life.epoch < epoch && life.next.is_some());
        let is_latest = lives.iter().rfind(in_lane).is_none_or(|latest| latest.epoch < epoch);
        if !is_latest && !follows {
            return Err(StreamError::FormerLife(epoch));
        }
        if lives.len() >= MAX_LIVES
            && let Some(oldest) = lives.iter().find(in_lane).map(|oldest| oldest.epoch)
        {
            self.remove_life(origin, oldest);
        }
        let name = NodeName::from(origin);
        let lives = self.streams.entry(name.clone()).or_default();
        let mut stream = Stream::new(name, epoch, if is_latest { next } else { Some(0) });
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
            stream.attempts = 0;
            stream.deliver(message, &mut self.kept, &mut self.delivered);
            self.make_room();
        } else if self.kept.ahead + message.len() > self.limits.retain_bytes / 4 {
            return Ok(Taken::NoRoom);
        } else {
            stream.attempts = 0;
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
        stream.attempts = 0;
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

    /// Where this node begins in a stream, as its origin says; `base` is what the origin still has. What
    /// comes before it is not owed, also where this node had guessed that it would begin earlier; where it
    /// began later, it has missed something. Who has begun goes on from where it is.
    pub(super) fn start(&mut self, origin: &[u8], epoch: u64, start: Start, base: u64, replay: bool) {
        let Some(stream) = self.get_mut(origin, epoch) else { return };
        let begun = std::mem::replace(&mut stream.begun, Begun::Told);
        let at = if replay { base.min(start.at) } else { start.at };
        match (begun, stream.next) {
            (Begun::Told, Some(_)) => {}
            (Begun::Guessed(guess), Some(next)) if next > guess => {
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
