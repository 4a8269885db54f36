//! Sending: new messages, messages to pass on, acknowledgements.

use std::time::Instant;

use super::{Dissemination, lane::Lane};
use crate::membership::Membership;

impl Dissemination {
    /// The largest message that fits in a packet, with what may stand in front of it.
    pub(crate) fn max_in_packet(&self) -> usize {
        self.cx.max_in_packet()
    }

    /// Sends all that has come together: new messages, messages to pass on, acknowledgements. To be called when everything
    /// that has happened has been handled.
    pub(crate) fn flush(&mut self, now: Instant, membership: &Membership) {
        for lane in Lane::ALL {
            if self.publisher.lanes[lane].outbound.has_unsent() {
                self.send_unsent(now, lane, membership);
            }
        }
        self.tree.send_relays(&mut self.cx, membership);
        if self.receiver.acknowledges_now(&self.cx) {
            self.receiver.send_acks(&mut self.cx, now, membership);
        }
    }

    fn send_unsent(&mut self, now: Instant, lane: Lane, membership: &Membership) {
        let Self { cx, publisher, plain, tree, retransmitter, .. } = self;
        let outbound = &mut publisher.lanes[lane].outbound;
        let (epoch, first) = (outbound.epoch, outbound.sent());
        let messages = outbound.take_unsent();
        if messages.is_empty() {
            return;
        }
        let max = cx.max_in_packet();
        if messages.iter().any(|message| message.len() > max) {
            retransmitter.forget_streamed(now);
        }
        for (seq, _) in (first..).zip(&messages).filter(|(_, message)| message.len() > max) {
            retransmitter.note_streamed(now, outbound.addrs(), (epoch, seq));
        }
        let all_named = tree.ring(membership).all_named;
        let mut for_ours = messages.clone();
        // A single message speaks for itself. If its digest came first, receivers would prepare to request it.
        let next = if messages.len() == 1 { first } else { first + messages.len() as u64 };
        if let Some(digest) = publisher.lanes[lane].floor_message(&cx.local, all_named, next) {
            for_ours.insert(0, digest);
        }
        tree.send_all(cx, &for_ours, membership, |cx, to| publisher.send_start_if_new(cx, to));
        let targets = &tree.ring(membership).plain;
        if lane == Lane::Own && plain.enabled && !targets.is_empty() {
            for message in messages.iter().filter(|message| message.len() <= max) {
                plain.queue.push(message.clone());
            }
            cx.multicast(targets.clone(), None, messages);
        }
        publisher.note_sent(cx, now, lane);
    }
}
