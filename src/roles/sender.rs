//! The role `sender`: publishes the value of a Lamport clock every interval, and logs what a receiver does.
//!
//! A sender that receives a value goes on from a larger one (Lamport, *Time, Clocks, and the Ordering of Events in a
//! Distributed System*, 1978). Only the values that senders publish under their own names count. Receiving and sending are
//! one loop, so that the log has both in the order in which they happened.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use broadcast::{Handle, Message, NodeName, PublishError};
use rand::{TryRng as _, rngs::SysRng};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{Instrument as _, debug_span};

use super::{
    Context, RoleResult,
    receiver::{Receiver, ReceiverEvent},
    report,
};

/// How the key of a sender begins, before its name.
const KEY_PREFIX: &str = "I am ";
/// When to log which members lack a message.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends once every `every`, from the end of `first_turn` until the node is about to leave, and logs until the node has
/// stopped. It misses nothing from this call on, even before the future is first polled.
pub(crate) fn run(
    context: Context,
    every: Duration,
    first_turn: impl Future<Output = ()>,
) -> impl Future<Output = RoleResult> {
    let Context { node, mut shutdown, .. } = context;
    let mut receiver = Receiver::new(node.clone());
    let mut sender = Sender { key: format!("{KEY_PREFIX}{}", node.name()), node, clock: LamportClock::default() };
    async move {
        receiver.begin();
        let mut schedule = Schedule::Waiting(pin!(first_turn));
        loop {
            tokio::select! {
                event = receiver.next() => {
                    let Some(event) = event else { return Ok(()) };
                    if let ReceiverEvent::Message(Ok(message)) = &event {
                        sender.receive(message);
                    }
                    receiver.log(event).await;
                }
                () = schedule.next(every) => match sender.send().await {
                    // The node leaves, and may still receive messages meanwhile.
                    Err(PublishError::Stopped) => schedule = Schedule::Over,
                    // Logged once as a conflict of names, and not every time.
                    Err(PublishError::NameTaken) => {}
                    Err(error) => report::not_sent(sender.node.name(), &error),
                    Ok(()) => {}
                },
                () = shutdown.begun(), if !matches!(schedule, Schedule::Over) => schedule = Schedule::Over,
            }
        }
    }
}

/// A random part of an interval, so that senders that start together do not all send at once.
pub(super) fn random_part(every: Duration) -> Duration {
    let part = SysRng.try_next_u32().unwrap_or_default();
    every.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

/// When a sender sends.
enum Schedule<'a, F> {
    /// Until the first turn begins.
    Waiting(Pin<&'a mut F>),
    Ticking(Interval),
    /// The node is about to leave.
    Over,
}

impl<F: Future<Output = ()>> Schedule<'_, F> {
    /// Waits for the next turn. Cancel-safe.
    async fn next(&mut self, every: Duration) {
        if let Self::Waiting(first) = self {
            first.await;
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            *self = Self::Ticking(ticks);
        }
        match self {
            Self::Ticking(ticks) => _ = ticks.tick().await,
            Self::Waiting(_) | Self::Over => std::future::pending().await,
        }
    }
}

struct Sender {
    node: Handle,
    key: String,
    clock: LamportClock,
}

impl Sender {
    fn receive(&mut self, message: &Message) {
        // Other keys may have numbers too, but those are no clock's values.
        if is_of_sender(message.key(), message.id().map(|_| message.origin()))
            && let Ok(value) = message.value_as()
        {
            self.clock.witness(value);
        }
    }

    async fn send(&mut self) -> Result<(), PublishError> {
        let value = self.clock.now();
        let receipt = self.node.publish(&self.key, &value).await?;
        self.clock.witness(value);
        let (node, id) = (self.node.name().to_owned(), receipt.id());
        report::sent(&node, &self.key, value, id);
        let span = debug_span!("publish", node, id = id.of(&node));
        if !span.is_disabled() {
            let delivery = async move { report::delivered(&node, receipt.delivered_within(DELIVERY_TIMEOUT).await) };
            tokio::spawn(delivery.instrument(span));
        }
        Ok(())
    }
}

/// Whether the key is that of a sender. Plain memberlist nodes pass messages on without their origin: then the key is
/// believed.
fn is_of_sender(key: &str, origin: Option<&NodeName>) -> bool {
    key.strip_prefix(KEY_PREFIX).is_some_and(|sender| origin.is_none_or(|origin| *origin == *sender))
}

/// A Lamport clock.
#[derive(Debug, Default)]
struct LamportClock(u64);

impl LamportClock {
    /// The value to send.
    fn now(&self) -> u64 {
        self.0
    }

    /// Goes on from a larger value than one that was sent or received.
    fn witness(&mut self, value: u64) {
        self.0 = self.0.max(value.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_no_more_than_the_whole() {
        let whole = Duration::from_secs(3);
        let parts: std::collections::BTreeSet<_> = (0..100).map(|_| random_part(whole)).collect();
        assert!(parts.iter().all(|part| *part <= whole));
        assert!(parts.len() > 1, "it is random");
    }

    #[test]
    fn two_clocks_that_take_turns_count_on() {
        let mut clocks = [LamportClock::default(), LamportClock::default()];
        let mut said = Vec::new();
        for turn in 0..6 {
            let value = clocks[turn % 2].now();
            said.push((["node2", "node3"][turn % 2], value));
            // One has sent it, the other hears it.
            clocks.iter_mut().for_each(|clock| clock.witness(value));
        }
        assert_eq!(said, [("node2", 0), ("node3", 1), ("node2", 2), ("node3", 3), ("node2", 4), ("node3", 5)]);
    }

    #[test]
    fn a_clock_never_goes_back_and_ends_at_its_largest_value() {
        let mut clock = LamportClock::default();
        clock.witness(7);
        clock.witness(3);
        assert_eq!(clock.now(), 8);
        clock.witness(u64::MAX);
        assert_eq!(clock.now(), u64::MAX);
        clock.witness(u64::MAX);
        assert_eq!(clock.now(), u64::MAX);
    }

    #[test]
    fn only_what_a_sender_says_of_itself_is_a_clocks_value() {
        let node2 = NodeName::from("node2");
        assert!(is_of_sender("I am node2", Some(&node2)) && is_of_sender("I am node2", None));
        for key in ["greeting", "", "I am node3", "I am node2 ", "I am"] {
            assert!(!is_of_sender(key, Some(&node2)), "{key:?}");
        }
        assert!(!is_of_sender("greeting", None));
    }
}
