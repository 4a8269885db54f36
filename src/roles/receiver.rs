//! The receiver: logs what it hears, and what happens in the cluster.

use std::{collections::BTreeSet, future::Future, net::SocketAddr, time::Duration};

use broadcast::{Event, Handle, Lagged, Message, NodeName, Subscription};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Context, Ended, limit::Limiter, report};

/// One kind of complaint is logged at most this often, and one seed that does not answer.
const REJECTED: Duration = Duration::from_secs(10);
const UNREACHABLE: Duration = Duration::from_secs(60);

/// Logs until the node has stopped. It hears everything from this call on, whenever what it gives is polled first.
pub(crate) fn run(context: Context) -> impl Future<Output = Ended> {
    let mut receiver = Receiver::new(context.node);
    async move {
        receiver.begin();
        while let Some(news) = receiver.next().await {
            receiver.log(news).await;
        }
        Ok(())
    }
}

/// What there is to log.
pub(super) enum News {
    Message(Result<Message, Lagged>),
    Event(Result<Event, Lagged>),
    /// The node is reached at another address.
    Moved,
    /// What was only counted of complaints is to be told.
    ComplaintsDue,
}

/// What is logged, and what the next line depends on.
pub(super) struct Receiver {
    node: Handle,
    messages: Subscription<Message>,
    events: Subscription<Event>,
    addr: watch::Receiver<SocketAddr>,
    reached_at: SocketAddr,
    /// Who is live, as far as it was logged.
    live: BTreeSet<NodeName>,
    rejected: Limiter,
    unreachable: Limiter,
    conflicts: Limiter,
}

impl Receiver {
    /// Nobody may have asked for the node's events before, so that none since its start is missed.
    pub(super) fn new(node: Handle) -> Self {
        let mut addr = node.watch_addr();
        let reached_at = *addr.borrow_and_update();
        Self {
            messages: node.subscribe(),
            events: node.events(),
            addr,
            reached_at,
            live: BTreeSet::from([node.name().into()]),
            rejected: Limiter::new(REJECTED),
            unreachable: Limiter::new(UNREACHABLE),
            conflicts: Limiter::new(REJECTED),
            node,
        }
    }

    pub(super) fn begin(&self) {
        report::listening(self.node.name(), self.reached_at);
        self.report_count();
    }

    /// Waits for what comes next; nothing once the node has stopped. Nothing is lost if it is dropped meanwhile.
    pub(super) async fn next(&mut self) -> Option<News> {
        let complaints_due = self.rejected.next_due();
        tokio::select! {
            message = self.messages.recv() => message.map(News::Message),
            event = self.events.recv() => event.map(News::Event),
            Ok(()) = self.addr.changed() => Some(News::Moved),
            () = until(complaints_due) => Some(News::ComplaintsDue),
        }
    }

    pub(super) async fn log(&mut self, news: News) {
        match news {
            News::Message(Ok(message)) => report::received(self.node.name(), &message),
            News::Message(Err(Lagged { missed })) => report::lagged(self.node.name(), "messages", missed),
            News::Event(Ok(event)) => self.notice(event),
            News::Event(Err(Lagged { missed })) => {
                report::lagged(self.node.name(), "events", missed);
                self.count_anew().await;
            }
            News::Moved => {
                let before = std::mem::replace(&mut self.reached_at, *self.addr.borrow_and_update());
                report::moved(self.node.name(), before, self.reached_at);
            }
            News::ComplaintsDue => {
                for (kind, count) in self.rejected.expire(Instant::now()) {
                    report::rejected_more(self.node.name(), &kind, count, REJECTED);
                }
            }
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
            // Room, messages, its own start and end, answers to pings: others speak of these.
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

/// What complaints that differ only in their details have in common: the words before the first of them.
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
