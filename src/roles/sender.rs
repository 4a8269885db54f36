//! The sender: says the value of a Lamport clock every interval, and logs what a receiver does.
//!
//! Whoever hears a value goes on from a larger one (Lamport, *Time, Clocks, and the Ordering of Events in a
//! Distributed System*, 1978). Only what senders say of themselves counts for it, and not what is published through a
//! node besides. Hearing and sending is one loop, so that the log has them in the order in which they happened.

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
    Context, Ended,
    receiver::{News, Receiver},
    report,
};

/// What the key under which a sender says its clock's value begins with, before its name.
const I_AM: &str = "I am ";
/// A message that is not delivered to all by then is reported with those who lack it.
const DELIVERY_REPORTED: Duration = Duration::from_secs(10);

/// Sends the clock's value every `every`, from when `first_turn` is over until the node is to stop, and logs until it
/// has stopped. It hears everything from this call on, whenever what it gives is polled first.
pub(crate) fn run(
    context: Context,
    every: Duration,
    first_turn: impl Future<Output = ()>,
) -> impl Future<Output = Ended> {
    let Context { node, mut shutdown, .. } = context;
    let mut receiver = Receiver::new(node.clone());
    let mut sender = Sender { key: format!("{I_AM}{}", node.name()), node, clock: Clock::default() };
    async move {
        receiver.begin();
        let mut turns = Turns::Awaited(pin!(first_turn));
        loop {
            tokio::select! {
                news = receiver.next() => {
                    let Some(news) = news else { return Ok(()) };
                    if let News::Message(Ok(message)) = &news {
                        sender.hear(message);
                    }
                    receiver.log(news).await;
                }
                () = turns.next(every) => match sender.send().await {
                    // It leaves, and may still hear something meanwhile.
                    Err(PublishError::Stopped) => turns = Turns::Over,
                    // Told as a conflict of names, and not at every turn.
                    Err(PublishError::NameTaken) => {}
                    Err(error) => report::not_sent(sender.node.name(), &error),
                    Ok(()) => {}
                },
                () = shutdown.begun(), if !matches!(turns, Turns::Over) => turns = Turns::Over,
            }
        }
    }
}

/// A random part of an interval: senders that are started together shall not all send at once.
pub(super) fn part_of(every: Duration) -> Duration {
    let part = SysRng.try_next_u32().unwrap_or_default();
    every.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

/// A sender's turns.
enum Turns<'a, F> {
    Awaited(Pin<&'a mut F>),
    Taken(Interval),
    Over,
}

impl<F: Future<Output = ()>> Turns<'_, F> {
    /// Waits for the next one. It is not lost if this is dropped meanwhile.
    async fn next(&mut self, every: Duration) {
        if let Self::Awaited(first) = self {
            first.await;
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            *self = Self::Taken(ticks);
        }
        match self {
            Self::Taken(ticks) => _ = ticks.tick().await,
            Self::Awaited(_) | Self::Over => std::future::pending().await,
        }
    }
}

struct Sender {
    node: Handle,
    key: String,
    clock: Clock,
}

impl Sender {
    fn hear(&mut self, message: &Message) {
        // Anybody may publish a number under another key; the clock is the senders'.
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
            let delivery = async move { report::delivered(&node, receipt.delivered_within(DELIVERY_REPORTED).await) };
            tokio::spawn(delivery.instrument(span));
        }
        Ok(())
    }
}

/// Whether a sender says its clock's value under this key. Plain memberlist nodes pass on what others said, without a
/// word of who that was: with them the key is believed.
fn is_of_sender(key: &str, origin: Option<&NodeName>) -> bool {
    key.strip_prefix(I_AM).is_some_and(|sender| origin.is_none_or(|origin| *origin == *sender))
}

/// A Lamport clock.
#[derive(Debug, Default)]
struct Clock(u64);

impl Clock {
    /// The value to send.
    fn now(&self) -> u64 {
        self.0
    }

    /// Goes on from a larger value than the one sent or heard.
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
        let parts: std::collections::BTreeSet<_> = (0..100).map(|_| part_of(whole)).collect();
        assert!(parts.iter().all(|part| *part <= whole));
        assert!(parts.len() > 1, "it is random");
    }

    #[test]
    fn two_clocks_that_take_turns_count_on() {
        let mut clocks = [Clock::default(), Clock::default()];
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
        let mut clock = Clock::default();
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
