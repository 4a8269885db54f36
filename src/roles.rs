//! What the `broadcast` program does with messages: a receiver logs what it hears, a sender says
//! something every interval as well.
//!
//! What is said is the value of a Lamport clock (Lamport, *Time, Clocks, and the Ordering of Events
//! in a Distributed System*, 1978): whoever hears a value goes on from a larger one. Only what senders say of
//! themselves counts for it, and not what is published through a node besides. Both roles are the one loop of [`run`];
//! a receiver is a sender whose first turn never comes.

mod limit;
mod report;

use std::{collections::BTreeSet, future::Future, pin::pin, time::Duration};

use broadcast::{Event, Handle, Lagged, Message, NodeName, PublishError, Subscription};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{Instrument as _, debug_span};

use self::limit::Limiter;
pub(crate) use self::report::leaving;

/// What the key under which a sender says its clock's value begins with, before its name.
const I_AM: &str = "I am ";
/// One kind of complaint is logged at most this often, and one seed that does not answer.
const REJECTED: Duration = Duration::from_secs(10);
const UNREACHABLE: Duration = Duration::from_secs(60);
/// A message that is not delivered to all by then is reported with those who lack it.
const DELIVERY_REPORTED: Duration = Duration::from_secs(10);

/// Plays a role on `node` until it stops: logs what happens and, from when `first_turn` is over,
/// sends the clock's value every `every`.
///
/// It hears everything from this call on, whenever what it gives is polled first. Nobody may have
/// asked for the node's events before, so that none since its start is missed.
pub(crate) fn run(node: Handle, every: Duration, first_turn: impl Future<Output = ()>) -> impl Future<Output = ()> {
    let (messages, events) = (node.subscribe(), node.events());
    async move { play(&node, messages, events, every, first_turn).await }
}

async fn play(
    node: &Handle,
    mut messages: Subscription<Message>,
    mut events: Subscription<Event>,
    every: Duration,
    first_turn: impl Future<Output = ()>,
) {
    report::listening(node.name(), node.addr());
    let mut role = Role::new(node);
    role.report_count();

    let mut addr = node.watch_addr();
    let mut reached_at = *addr.borrow_and_update();
    let mut first_turn = pin!(first_turn);
    let mut turns = Turns::Awaited;
    loop {
        let complaints_due = role.rejected.next_due();
        tokio::select! {
            message = messages.recv() => match message {
                Some(Ok(message)) => role.hear(&message),
                Some(Err(Lagged { missed })) => report::lagged(node.name(), "messages", missed),
                None => return,
            },
            event = events.recv() => match event {
                Some(Ok(event)) => role.notice(event),
                Some(Err(Lagged { missed })) => {
                    report::lagged(node.name(), "events", missed);
                    role.count_anew().await;
                }
                None => return,
            },
            Ok(()) = addr.changed() => {
                let before = std::mem::replace(&mut reached_at, *addr.borrow_and_update());
                report::moved(node.name(), before, reached_at);
            }
            () = &mut first_turn, if matches!(turns, Turns::Awaited) => {
                let mut ticks = interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                turns = Turns::Taken(ticks);
            }
            () = turns.next() => match role.send().await {
                // It leaves, and may still hear something meanwhile.
                Err(PublishError::Stopped) => turns = Turns::Over,
                // Told as a conflict of names, and not at every turn.
                Err(PublishError::NameTaken) => {}
                Err(error) => report::not_sent(node.name(), &error),
                Ok(()) => {}
            },
            () = until(complaints_due) => role.complain_of_the_rest(),
        }
    }
}

/// A sender's turns.
enum Turns {
    Awaited,
    Taken(Interval),
    Over,
}

impl Turns {
    async fn next(&mut self) {
        match self {
            Self::Taken(ticks) => ticks.tick().await,
            Self::Awaited | Self::Over => std::future::pending().await,
        };
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Role<'a> {
    node: &'a Handle,
    key: String,
    clock: Clock,
    /// Who is live, as far as it was logged.
    live: BTreeSet<NodeName>,
    rejected: Limiter,
    unreachable: Limiter,
    conflicts: Limiter,
}

impl<'a> Role<'a> {
    fn new(node: &'a Handle) -> Self {
        Self {
            node,
            key: format!("{I_AM}{}", node.name()),
            clock: Clock::default(),
            live: BTreeSet::from([node.name().into()]),
            rejected: Limiter::new(REJECTED),
            unreachable: Limiter::new(UNREACHABLE),
            conflicts: Limiter::new(REJECTED),
        }
    }

    async fn count_anew(&mut self) {
        let live: BTreeSet<_> = self.node.members().await.into_iter().map(|member| member.name).collect();
        let changed = live.len() != self.live.len();
        self.live = live;
        if changed {
            self.report_count();
        }
    }

    fn report_count(&self) {
        report::nodes(self.node.name(), self.live.len());
    }

    fn hear(&mut self, message: &Message) {
        // Anybody may publish a number under another key; the clock is the senders'.
        if is_of_sender(message.key(), message.id().map(|_| message.origin()))
            && let Ok(value) = message.value_as()
        {
            self.clock.witness(value);
        }
        report::received(self.node.name(), message);
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

    fn notice(&mut self, event: Event) {
        let node = self.node.name();
        match event {
            Event::Joined(member) => {
                report::member(node, "joined", &member);
                if self.live.insert(member.name) {
                    self.report_count();
                }
            }
            Event::Left(member) => {
                report::member(node, "left", &member);
                if self.live.remove(&member.name) {
                    self.report_count();
                }
            }
            Event::Failed(member) => {
                report::member(node, "failed", &member);
                if self.live.remove(&member.name) {
                    self.report_count();
                }
            }
            // Also one that has come back at another address before it was found to be gone.
            Event::Updated(member) => report::member(node, "updated", &member),
            Event::NameConflict { name, holder, claimant } => {
                let first = self.conflicts.admit(&name.to_string(), Instant::now());
                if first {
                    report::name_conflict(node, &name, holder, claimant);
                }
            }
            Event::SeedUnreachable { seed, reason } => {
                let first = self.unreachable.admit(&seed.to_string(), Instant::now());
                if first {
                    report::seed_unreachable(node, &seed, &reason);
                }
            }
            Event::Rejected { from, reason, untold } => {
                let now = Instant::now();
                self.rejected.count(untold, now);
                if self.rejected.admit(kind(&reason), now) {
                    report::rejected(node, from, &reason);
                }
            }
            Event::Missed { origin, epoch, from, to } => report::missed(node, (&origin, epoch), from, to),
            Event::NoSerfEvent { count, reason } => report::no_serf_event(node, count, &reason),
            Event::CutLoose(member) => report::cut_loose(node, &member),
            Event::HeardElsewhere { name, announced, from } => report::heard_elsewhere(node, &name, announced, from),
            Event::Reached { name, addr, reach } => report::reached(node, &name, addr, reach),
            // Room, messages, its own start and end, answers to pings: others speak of these.
            _ => {}
        }
    }

    fn complain_of_the_rest(&mut self) {
        for (kind, count) in self.rejected.expire(Instant::now()) {
            report::rejected_more(self.node.name(), &kind, count, REJECTED);
        }
    }
}

/// What complaints that differ only in their details have in common: the words before the first of them.
fn kind(reason: &str) -> &str {
    let details = |c: char| c.is_ascii_digit() || matches!(c, ':' | '"' | '`' | '(' | '=');
    let words = reason.split(details).next().unwrap_or_default().trim();
    words.char_indices().nth(80).map_or(words, |(end, _)| &words[..end])
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

    #[test]
    fn complaints_are_of_a_kind_when_only_their_details_differ() {
        assert_eq!(kind("unknown message type 99"), kind("unknown message type 100"));
        assert_eq!(kind("unexpected end: 3 bytes"), kind("unexpected end: 4 bytes"));
        assert_ne!(kind("unknown message type 99"), kind("unexpected end: 3 bytes"));
        assert_eq!(kind(&"é".repeat(200)).chars().count(), 80);
    }
}
