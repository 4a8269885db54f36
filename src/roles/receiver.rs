//! The role `receiver`: logs the messages it receives, and what happens in the cluster.

use std::{collections::BTreeSet, future::Future, net::SocketAddr, time::Duration};

use broadcast::{Event, Handle, Lagged, Message, NodeName, Subscription};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Context, RoleResult, rate_limit::RateLimiter, report};

/// How often one kind of rejected packet is logged, and how often a seed that does not answer.
const REJECTED_PERIOD: Duration = Duration::from_secs(10);
const UNREACHABLE_PERIOD: Duration = Duration::from_secs(60);

/// Logs until the node has stopped. It misses nothing from this call on, even before the future is first polled.
pub(crate) fn run(context: Context) -> impl Future<Output = RoleResult> {
    let mut receiver = Receiver::new(context.node);
    async move {
        receiver.begin();
        while let Some(event) = receiver.next().await {
            receiver.log(event).await;
        }
        Ok(())
    }
}

/// What a receiver logs.
pub(super) enum ReceiverEvent {
    Message(Result<Message, Lagged>),
    Event(Result<Event, Lagged>),
    /// The node's address has changed.
    Moved,
    /// The count of rejected packets is due.
    RejectedDue,
}

/// The subscriptions of a receiver, and what it remembers of what it logged.
pub(super) struct Receiver {
    node: Handle,
    messages: Subscription<Message>,
    events: Subscription<Event>,
    addr: watch::Receiver<SocketAddr>,
    /// The node's address that was logged last.
    reached_at: SocketAddr,
    /// The live members that were logged.
    live: BTreeSet<NodeName>,
    rejected: RateLimiter,
    unreachable: RateLimiter,
    conflicts: RateLimiter,
}

impl Receiver {
    /// Must be the first subscriber to the node's events, so that it gets all since the start.
    pub(super) fn new(node: Handle) -> Self {
        let mut addr = node.watch_addr();
        let reached_at = *addr.borrow_and_update();
        Self {
            messages: node.subscribe(),
            events: node.events(),
            addr,
            reached_at,
            live: BTreeSet::from([node.name().into()]),
            rejected: RateLimiter::new(REJECTED_PERIOD),
            unreachable: RateLimiter::new(UNREACHABLE_PERIOD),
            conflicts: RateLimiter::new(REJECTED_PERIOD),
            node,
        }
    }

    pub(super) fn begin(&self) {
        report::listening(self.node.name(), self.reached_at);
        self.report_count();
    }

    /// The next event; nothing, once the node has stopped. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<ReceiverEvent> {
        let rejected_due = self.rejected.next_due();
        tokio::select! {
            message = self.messages.recv() => message.map(ReceiverEvent::Message),
            event = self.events.recv() => event.map(ReceiverEvent::Event),
            Ok(()) = self.addr.changed() => Some(ReceiverEvent::Moved),
            () = until(rejected_due) => Some(ReceiverEvent::RejectedDue),
        }
    }

    pub(super) async fn log(&mut self, event: ReceiverEvent) {
        match event {
            ReceiverEvent::Message(Ok(message)) => report::received(self.node.name(), &message),
            ReceiverEvent::Message(Err(Lagged { missed })) => report::lagged(self.node.name(), "messages", missed),
            ReceiverEvent::Event(Ok(event)) => self.log_event(event),
            ReceiverEvent::Event(Err(Lagged { missed })) => {
                report::lagged(self.node.name(), "events", missed);
                self.recount().await;
            }
            ReceiverEvent::Moved => {
                let before = std::mem::replace(&mut self.reached_at, *self.addr.borrow_and_update());
                report::moved(self.node.name(), before, self.reached_at);
            }
            ReceiverEvent::RejectedDue => {
                for (kind, count) in self.rejected.expire(Instant::now()) {
                    report::rejected_more(self.node.name(), &kind, count, REJECTED_PERIOD);
                }
            }
        }
    }

    async fn recount(&mut self) {
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

    fn log_event(&mut self, event: Event) {
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
            // Also a member that came back at another address before it was found to be gone.
            Event::Updated(member) => report::member(node, "updated", &member),
            Event::NameConflict { name, holder, claimant } => {
                let first = self.conflicts.admit(&name.to_string(), Instant::now());
                if first {
                    report::name_conflict(node, &name, holder, claimant);
                }
            }
            Event::IdConflict { id, names } => {
                let first = self.conflicts.admit(&id.to_string(), Instant::now());
                if first {
                    report::id_conflict(node, id, &names);
                }
            }
            Event::SeedUnreachable { seed, reason } => {
                let first = self.unreachable.admit(&seed.to_string(), Instant::now());
                if first {
                    report::seed_unreachable(node, &seed, &reason);
                }
            }
            Event::Rejected { from, reason, suppressed } => {
                let now = Instant::now();
                self.rejected.count(suppressed, now);
                if self.rejected.admit(kind(&reason), now) {
                    report::rejected(node, from, &reason);
                }
            }
            Event::Missed { origin, epoch, from, to } => report::missed(node, (&origin, epoch), from, to),
            Event::SerfEventDropped { count, reason } => report::no_serf_event(node, count, &reason),
            Event::LagLimitExceeded(member) => report::cut_loose(node, &member),
            Event::AddressMismatch { name, announced, from } => report::heard_elsewhere(node, &name, announced, from),
            Event::ReachChanged { name, addr, reach } => report::reached(node, &name, addr, reach),
            // The rest is logged elsewhere: room, messages, its own start and end, answers to pings.
            _ => {}
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The kind of a rejection: the words before its details.
fn kind(reason: &str) -> &str {
    let details = |c: char| c.is_ascii_digit() || matches!(c, ':' | '"' | '`' | '(' | '=');
    let words = reason.split(details).next().unwrap_or_default().trim();
    words.char_indices().nth(80).map_or(words, |(end, _)| &words[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_of_a_kind_when_only_their_details_differ() {
        assert_eq!(kind("unknown message type 99"), kind("unknown message type 100"));
        assert_eq!(kind("unexpected end: 3 bytes"), kind("unexpected end: 4 bytes"));
        assert_ne!(kind("unknown message type 99"), kind("unexpected end: 3 bytes"));
        assert_eq!(kind(&"é".repeat(200)).chars().count(), 80);
    }
}
