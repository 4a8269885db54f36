//! Retransmission of requested messages: no faster than the receiver can use them, and no more than a forged request is
//! worth.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{context::Context, control::Route, origin_stream::MAX_REQUESTED, quota::Quota};
use crate::membership::{NodeName, Record, Target};

/// How much one request is answered with, in bytes. More repairs faster; less has a forged request cost less.
const MAX_BATCH_BYTES: usize = 64 << 10;
/// How long a large message may be under way before it is sent again.
const STREAM_RESEND_AFTER: Duration = Duration::from_secs(1);
/// How much a member is retransmitted per second, and at once, of what it is not known to lack, in bytes. More repairs
/// faster what a member has lost track of; less makes forged requests cheaper.
const REPEAT_BYTES_PER_SECOND: f64 = (1 << 20) as f64;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Retransmitter {
    /// What was sent over a stream lately: to whom, which epoch and number, and when.
    streamed: BTreeMap<(SocketAddr, u64, u64), Instant>,
    /// How much each member was retransmitted that it may have had.
    repeated: Quota,
}

/// The messages that a member requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetransmitRequest<'a> {
    pub(super) epoch: u64,
    /// First numbers and counts.
    pub(super) ranges: &'a [(u64, u64)],
    /// The member is known to lack everything from this number on.
    pub(super) missing_from: Option<u64>,
}

/// The messages to retransmit.
#[derive(Debug, Default)]
pub(super) struct Retransmit {
    /// Some are not kept here, though later ones may be.
    pub(super) incomplete: bool,
    /// By the hops that they took to this node.
    messages: BTreeMap<u8, Vec<Bytes>>,
}

impl Retransmit {
    pub(super) fn send(self, cx: &mut Context, to: Target) {
        for (hops, messages) in self.messages {
            cx.multicast(vec![to], (hops > 0).then_some(Route { hops, until: None }), messages);
        }
    }
}

impl Retransmitter {
    /// Collects what a member requests. `find` gives a message, and the hops that it took to this node. What the member is not
    /// known to lack is limited per second: a forged request must not get it flooded.
    pub(super) fn collect(
        &mut self,
        cx: &mut Context,
        now: Instant,
        record: &Record,
        request: RetransmitRequest<'_>,
        find: impl Fn(u64) -> Option<(u8, Bytes)>,
    ) -> Retransmit {
        let RetransmitRequest { epoch, ranges, missing_from } = request;
        let (max, mut bytes) = (cx.max_in_packet(), 0);
        let mut retransmit = Retransmit::default();
        for &(first, count) in ranges {
            for seq in first..first.saturating_add(count.min(MAX_REQUESTED)) {
                let Some((hops, message)) = find(seq) else {
                    retransmit.incomplete = true;
                    continue;
                };
                if message.len() > max && !self.allow_stream(now, (record.addr(), epoch, seq)) {
                    continue;
                }
                let is_missing = missing_from.is_some_and(|from| from <= seq);
                if !is_missing && !self.allow_repeat(now, &record.name, message.len()) {
                    return retransmit;
                }
                bytes += message.len();
                cx.counters.retransmitted += 1;
                retransmit.messages.entry(hops).or_default().push(message);
                if bytes >= MAX_BATCH_BYTES {
                    return retransmit;
                }
            }
        }
        retransmit
    }

    /// Whether a large message may be sent to an address again; it takes a while to get there.
    fn allow_stream(&mut self, now: Instant, what: (SocketAddr, u64, u64)) -> bool {
        self.forget_streamed(now);
        if self.streamed.contains_key(&what) {
            return false;
        }
        self.streamed.insert(what, now);
        true
    }

    /// Notes that a message is sent to all these addresses over streams.
    pub(super) fn note_streamed(
        &mut self,
        now: Instant,
        to: impl Iterator<Item = SocketAddr>,
        (epoch, seq): (u64, u64),
    ) {
        self.streamed.extend(to.map(|addr| ((addr, epoch, seq), now)));
    }

    /// Forgets what was sent so long ago that it may be sent again.
    pub(super) fn forget_streamed(&mut self, now: Instant) {
        self.streamed.retain(|_, at| now.saturating_duration_since(*at) < STREAM_RESEND_AFTER);
    }

    /// Whether a member may be retransmitted so many bytes that it is not known to lack.
    fn allow_repeat(&mut self, now: Instant, name: &NodeName, bytes: usize) -> bool {
        let cost = Duration::from_secs_f64(bytes as f64 / REPEAT_BYTES_PER_SECOND);
        self.repeated.take(now, name, cost, Duration::from_secs(1))
    }

    /// Forgets a member that is gone.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.repeated.forget(name);
    }
}
