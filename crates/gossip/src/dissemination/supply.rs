//! What is given to who asks for messages: no faster than it can use it, and no more than a forged request is worth.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{context::Context, control::Route, quota::Quota, stream::MAX_WANTED};
use crate::membership::{NodeName, Record, Target};

/// What is given at once, in bytes.
const GIVEN_AT_ONCE: usize = 64 << 10;
/// How long a large message may take to get to somebody before it is sent again.
const STREAM_PATIENCE: Duration = Duration::from_secs(1);
/// How much is given to a member in a second of what it is not known to lack, in bytes; and at once.
const REPEATED_IN_A_SECOND: f64 = (1 << 20) as f64;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Supply {
    /// What went to whom over a stream of late: who, which life and number, and when.
    streamed: BTreeMap<(SocketAddr, u64, u64), Instant>,
    /// How much each was given that it may have had.
    repeated: Quota,
}

/// What a member asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand<'a> {
    pub(super) epoch: u64,
    /// First numbers and counts.
    pub(super) ranges: &'a [(u64, u64)],
    /// It is known to lack everything from here on.
    pub(super) lacked_from: Option<u64>,
}

/// What it gets.
#[derive(Debug, Default)]
pub(super) struct Supplied {
    /// Something is not here, though what comes after it may be.
    pub(super) lacking: bool,
    /// By the hops over which it came here.
    messages: BTreeMap<u8, Vec<Bytes>>,
}

impl Supplied {
    pub(super) fn send(self, cx: &mut Context, to: Target) {
        for (hops, messages) in self.messages {
            cx.spread(vec![to], (hops > 0).then_some(Route { hops, until: None }), messages);
        }
    }
}

impl Supply {
    /// Looks for what a member asks for: `find` gives the hops over which a message came here, and the message. Of what
    /// it is not known to lack it gets so much in a second and no more: who asks in its name is not to have it flooded.
    pub(super) fn meet(
        &mut self,
        cx: &mut Context,
        now: Instant,
        record: &Record,
        demand: Demand<'_>,
        find: impl Fn(u64) -> Option<(u8, Bytes)>,
    ) -> Supplied {
        let Demand { epoch, ranges, lacked_from } = demand;
        let (max, mut bytes) = (cx.max_in_packet(), 0);
        let mut supplied = Supplied::default();
        for &(first, count) in ranges {
            for seq in first..first.saturating_add(count.min(MAX_WANTED)) {
                let Some((hops, message)) = find(seq) else {
                    supplied.lacking = true;
                    continue;
                };
                if message.len() > max && !self.may_stream(now, (record.addr(), epoch, seq)) {
                    continue;
                }
                let is_lacked = lacked_from.is_some_and(|from| from <= seq);
                if !is_lacked && !self.may_repeat(now, &record.name, message.len()) {
                    return supplied;
                }
                bytes += message.len();
                cx.counters.given += 1;
                supplied.messages.entry(hops).or_default().push(message);
                if bytes >= GIVEN_AT_ONCE {
                    return supplied;
                }
            }
        }
        supplied
    }

    /// Whether a message may be sent to somebody over a stream, again: it takes a while to get there.
    fn may_stream(&mut self, now: Instant, what: (SocketAddr, u64, u64)) -> bool {
        self.forget_streamed(now);
        if self.streamed.contains_key(&what) {
            return false;
        }
        self.streamed.insert(what, now);
        true
    }

    /// A message goes to all these over streams.
    pub(super) fn note_streamed(
        &mut self,
        now: Instant,
        to: impl Iterator<Item = SocketAddr>,
        (epoch, seq): (u64, u64),
    ) {
        self.streamed.extend(to.map(|addr| ((addr, epoch, seq), now)));
    }

    /// Forgets what was sent over streams so long ago that it may be sent again.
    pub(super) fn forget_streamed(&mut self, now: Instant) {
        self.streamed.retain(|_, at| now.saturating_duration_since(*at) < STREAM_PATIENCE);
    }

    /// Whether a member may be given so many bytes that it is not known to lack, as it asks for them; it has them then.
    fn may_repeat(&mut self, now: Instant, name: &NodeName, bytes: usize) -> bool {
        let cost = Duration::from_secs_f64(bytes as f64 / REPEATED_IN_A_SECOND);
        self.repeated.take(now, name, cost, Duration::from_secs(1))
    }

    /// A member is gone.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.repeated.forget(name);
    }
}
