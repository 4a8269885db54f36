//! What is sent at once: new messages, messages to pass on, acknowledgements.

use std::time::Instant;

use super::{Dissemination, lane::Lane};
use crate::membership::Membership;

impl Dissemination {
    /// The largest message that fits in a packet, with what may go in front of it.
    pub(crate) fn max_in_packet(&self) -> usize {
        self.cx.max_in_packet()
    }

    /// Sends what is to be sent: new messages, messages to pass on, acknowledgements. To be called when
    /// everything that has happened has been handled.
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
        let Self { cx, publisher, plain, tree, supply, .. } = self;
        let outbound = &mut publisher.lanes[lane].outbound;
        let (epoch, first) = (outbound.epoch, outbound.sent());
        let messages = outbound.take_unsent();
        if messages.is_empty() {
            return;
        }
        let max = cx.max_in_packet();
        if messages.iter().any(|message| message.len() > max) {
            supply.forget_streamed(now);
        }
        for (seq, _) in (first..).zip(&messages).filter(|(_, message)| message.len() > max) {
            supply.note_streamed(now, outbound.addrs(), (epoch, seq));
        }
        let named = tree.ring(membership).named;
        let mut for_ours = messages.clone();
        // A single message says itself that it is there. Told before, its receivers would prepare to ask for it.
        let next = if messages.len() == 1 { first } else { first + messages.len() as u64 };
        if let Some(have) = publisher.lanes[lane].floor_message(&cx.me, named, next) {
            for_ours.insert(0, have);
        }
        tree.send_all(cx, &for_ours, membership, |cx, to| publisher.greet(cx, to));
        let targets = &tree.ring(membership).plain;
        if lane == Lane::Own && plain.told && !targets.is_empty() {
            for message in messages.iter().filter(|message| message.len() <= max) {
                plain.queue.push(message.clone());
            }
            cx.spread(targets.clone(), None, messages);
        }
        publisher.note_sent(cx, now, lane);
    }
}
