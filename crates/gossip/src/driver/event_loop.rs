//! The one task that owns a node and its sockets.
//!
//! It waits for whatever comes first: datagrams, a command, a report of a stream or a lookup, a new connection, the node's
//! next deadline. It hands that to the [`Node`] with the time, and performs the node's actions. It never waits for anything
//! else: a datagram that the socket does not take goes to a bounded backlog, a write to the stream's bounded queue, an event
//! to bounded queues that drop their oldest entry.
//!
//! It runs until the node has left. On [`EventLoop::leave`], or when the last handle is gone, the node tells the others, and
//! ends with [`Event::LeaveComplete`]. The loop ends [`LEAVE_LIMIT`] later at the latest.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    pin, select,
    sync::{mpsc, oneshot, watch},
    time::sleep_until,
};
use tracing::debug;

use super::{
    advertise,
    fault_injector::FaultInjector,
    lookup,
    outbox::Outbox,
    pending::{PendingConnections, PendingOutcome},
    sockets::{Acceptor, DatagramSocket, Sockets},
    streams::{StreamEvent, StreamReport, Streams},
    subscription::Feed,
    zones::{Zones, without_zone},
};
use crate::{
    Acks, Event, Message, PublishError, Seed,
    dissemination::{Draft, Progress},
    node::{Action, AddressGuess, Node, StreamInput},
};

/// Commands that wait for the event loop, at most.
const MAX_COMMANDS: usize = 256;
/// Datagrams read before anything else gets its turn.
const BATCH: usize = 512;
/// Results of lookups that wait, at most; further lookups wait for room.
const MAX_LOOKUPS: usize = 16;
/// How long leaving may take.
const LEAVE_LIMIT: Duration = Duration::from_millis(1800);

/// What the event loop runs for a handle at its next turn.
pub(super) type Command = Box<dyn FnOnce(&mut EventLoop) + Send>;

/// The channel by which handles and receipts send commands to the event loop.
#[derive(Clone, Debug)]
pub(super) struct Commands(mpsc::Sender<Command>);

impl Commands {
    /// The channel, and its end in the event loop.
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(MAX_COMMANDS);
        (Self(commands), received)
    }

    /// Runs a command in the event loop and returns its result; `None` when the node has stopped.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut EventLoop) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let run = move |event_loop: &mut EventLoop| {
            // The caller may have been cancelled.
            let _ = reply.send(command(event_loop));
        };
        self.0.send(Box::new(run)).await.ok()?;
        answer.await.ok()
    }

    /// Whether the node has stopped.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Resolves when the node has stopped.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The event loop's ends of the channels that it shares with the handles.
pub(super) struct ApplicationChannels {
    pub(super) outbox: Arc<Outbox>,
    pub(super) addr: watch::Sender<SocketAddr>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) joined: watch::Sender<bool>,
    pub(super) member_changes: watch::Sender<u64>,
    pub(super) key_changes: watch::Sender<u64>,
    pub(super) messages: Feed<Message>,
    /// This node's own messages as well.
    pub(super) everything: Feed<Message>,
    pub(super) events: Feed<Event>,
    pub(super) acks: Feed<Acks>,
}

type LookupResult = (Seed, Result<Vec<SocketAddr>, String>);

/// See the [module](self).
pub(super) struct EventLoop {
    pub(super) node: Node,
    datagrams: DatagramSocket,
    pub(super) zones: Zones,
    /// Whether the sockets take IPv6.
    ipv6: bool,
    pub(super) faults: Option<FaultInjector>,
    acceptor: Acceptor,
    pub(super) pending: PendingConnections,
    pub(super) streams: Streams,
    reports: mpsc::Receiver<StreamReport>,
    lookups: mpsc::Sender<LookupResult>,
    lookup_results: mpsc::Receiver<LookupResult>,
    pub(super) application: ApplicationChannels,
    /// Taken from the outbox, and waiting for room in the log.
    drafts: VecDeque<Draft>,
    /// How many events subscribers got. An event may concern a member whose record has not changed.
    events_sent: u64,
    /// What the subscribers get next. Empty between two turns, and kept for its allocation.
    unsent: (VecDeque<Message>, VecDeque<Event>),
    /// When the gossip round that is being sent began.
    gossip_since: Option<Instant>,
    /// Once the node leaves: when to stop at the latest.
    stop_at: Option<Instant>,
    /// The others know that the node has left.
    has_left: bool,
}

impl EventLoop {
    pub(super) fn new(
        node: Node,
        sockets: Sockets,
        zones: Zones,
        faults: Option<FaultInjector>,
        (tcp_timeout, max_streams): (Duration, usize),
        application: ApplicationChannels,
    ) -> Self {
        let Sockets { datagrams, acceptor, addr } = sockets;
        let (streams, reports) = Streams::new(tcp_timeout, max_streams);
        let (lookups, found) = mpsc::channel(MAX_LOOKUPS);
        Self {
            node,
            datagrams,
            zones,
            ipv6: addr.is_ipv6(),
            faults,
            acceptor,
            pending: PendingConnections::new(tcp_timeout),
            streams,
            reports,
            lookups,
            lookup_results: found,
            application,
            drafts: VecDeque::new(),
            events_sent: 0,
            unsent: Default::default(),
            gossip_since: None,
            stop_at: None,
            has_left: false,
        }
    }

    /// Starts the task. Not an `async fn`: that would be compiled in every crate that starts a node, not once in this one.
    pub(super) fn spawn(self, commands: mpsc::Receiver<Command>) {
        tokio::spawn(self.run(commands));
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.run_until_left(&mut commands).await;
        self.application.outbox.set_next(self.node.next_id(), Some(PublishError::Stopped));
        // Frees the ports and ends the subscriptions …
        drop(self);
        // … before `Handle::leave`, which waits for this.
        drop(commands);
    }

    async fn run_until_left(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let timer = sleep_until(Instant::now().into());
        pin!(timer);
        let mut handles_left = true;
        self.drain();
        while !self.is_done() {
            let held = self.faults.as_ref().and_then(FaultInjector::poll_timeout);
            let deadline = self.node.poll_timeout().into_iter().chain(self.stop_at).chain(held).min();
            if let Some(deadline) = deadline.map(Into::into).filter(|deadline| *deadline != timer.deadline()) {
                timer.as_mut().reset(deadline);
            }
            select! {
                () = &mut timer, if deadline.is_some() => self.time_out(),
                () = self.datagrams.ready() => {
                    self.datagrams.flush();
                    self.receive();
                }
                (stream, from) = self.acceptor.accept(), if self.pending.has_room() => self.accept(stream, from),
                Some(outcome) = self.pending.next() => self.handle_pending(outcome),
                () = self.application.outbox.filled() => {}
                () = self.application.acks.changed() => self.node.watch(Instant::now(), self.application.acks.has_subscribers()),
                Some(report) = self.reports.recv() => self.handle_report(report),
                Some((seed, result)) = self.lookup_results.recv() => self.handle_lookup(&seed, result),
                command = commands.recv(), if handles_left => match command {
                    Some(command) => command(self),
                    None => {
                        handles_left = false;
                        self.leave();
                    }
                },
            }
            self.publish();
            if self.notify_subscribers() {
                // The subscribers may share this thread, and go first: acknowledgements can wait.
                tokio::task::yield_now().await;
            }
            self.drain();
        }
    }

    /// Publishes what is in the outbox, as far as the log has room.
    fn publish(&mut self) {
        let now = Instant::now();
        let mut own = self.application.everything.has_subscribers().then(VecDeque::new);
        loop {
            if self.drafts.is_empty() {
                self.application.outbox.take(&mut self.drafts);
            }
            if !self.node.has_room() {
                break;
            }
            let Some(draft) = self.drafts.pop_front() else {
                self.application.outbox.set_next(self.node.next_id(), self.node.refusal());
                break;
            };
            match self.node.publish_draft(now, draft) {
                Ok(published) => {
                    if let Some(own) = &mut own {
                        own.push_back(published.into());
                    }
                }
                Err(refusal) => debug!(%refusal, "what was published is not sent"),
            }
        }
        if let Some(own) = own {
            self.application.everything.send(&own);
        }
    }

    fn is_done(&self) -> bool {
        let held = self.faults.as_ref().and_then(FaultInjector::poll_timeout);
        let told = self.has_left && !self.datagrams.has_backlog() && held.is_none();
        told || self.stop_at.is_some_and(|at| at <= Instant::now())
    }

    /// Begins to leave, if it has not yet.
    pub(super) fn leave(&mut self) {
        if self.stop_at.is_none() {
            // What has been published goes out before the node leaves.
            self.publish();
            let now = Instant::now();
            self.stop_at = Some(now + LEAVE_LIMIT);
            self.node.leave(now);
        }
    }

    fn receive(&mut self) {
        let mut failed = 0;
        for _ in 0..BATCH {
            match self.datagrams.receive() {
                Ok(Some((from, data))) => self.node.handle_datagram(Instant::now(), without_zone(from), &data),
                Ok(None) => return,
                Err(error) => {
                    failed += 1;
                    debug!(%error, "while receiving datagrams");
                }
            }
        }
        if failed == BATCH {
            self.datagrams.back_off();
        }
    }

    fn time_out(&mut self) {
        let (now, rounds) = (Instant::now(), self.node.gossip_rounds());
        self.node.handle_timeout(now);
        if self.node.gossip_rounds() > rounds {
            self.gossip_since = Some(now);
        }
    }

    fn accept(&mut self, stream: TcpStream, from: SocketAddr) {
        if let Some(evicted) = self.pending.push(stream, from) {
            self.node.handle_silent_connection(Instant::now(), without_zone(evicted), None);
        }
    }

    fn handle_pending(&mut self, outcome: PendingOutcome) {
        let (stream, from) = match outcome {
            PendingOutcome::Stream(stream, from) => (stream, from),
            PendingOutcome::Silent(from, after) => {
                return self.node.handle_silent_connection(Instant::now(), without_zone(from), Some(after));
            }
        };
        let Some(permit) = self.streams.admit() else {
            self.node.count_refused_stream();
            return debug!(%from, "refused a connection: too many are open");
        };
        if let Some(id) = self.node.handle_accept(Instant::now(), without_zone(from)) {
            if let Ok(addr) = stream.local_addr() {
                self.node.set_reached_at(id, addr.ip().to_canonical());
            }
            self.streams.accepted(id, stream, permit);
        }
    }

    fn handle_report(&mut self, StreamReport { id, event }: StreamReport) {
        if !self.streams.is_open(id) {
            return;
        }
        let now = Instant::now();
        match event {
            StreamEvent::Data(data) => self.node.handle_stream(now, id, StreamInput::Data(&data)),
            StreamEvent::Closed => self.node.handle_stream(now, id, StreamInput::Closed),
            StreamEvent::Failed(reason) => {
                self.streams.close(id);
                self.node.handle_stream(now, id, StreamInput::Failed(reason));
            }
        }
    }

    fn handle_lookup(&mut self, seed: &Seed, result: Result<Vec<SocketAddr>, String>) {
        if let Ok(found) = &result {
            found.iter().for_each(|addr| self.zones.learn(*addr));
            // Before this node advertises an address that it would have to take back.
            if self.node.may_guess_address() {
                self.apply_guess(advertise::guess_by_route(found, self.ipv6), AddressGuess::Interfaces);
            }
        }
        let result = result.map(|found| found.into_iter().map(without_zone).collect());
        self.node.handle_lookup(Instant::now(), seed, result);
    }

    fn apply_guess(&mut self, guess: Option<IpAddr>, by: AddressGuess) {
        if let Some(ip) = guess {
            self.node.set_guess(Instant::now(), ip, by);
        }
    }

    /// Sends and performs everything that the last change of the node has produced.
    fn drain(&mut self) {
        loop {
            while let Some(mut transmit) = self.node.poll_transmit() {
                transmit.to = self.zones.with_zone(transmit.to);
                match self.faults.as_mut().filter(|injector| injector.faults().is_some()) {
                    None => self.datagrams.send(transmit),
                    Some(faults) => faults.send(Instant::now(), transmit),
                }
            }
            let Some(action) = self.node.poll_action() else { break };
            self.perform(action);
        }
        while let Some(transmit) = self.faults.as_mut().and_then(|faults| faults.poll(Instant::now())) {
            self.datagrams.send(transmit);
        }
        self.datagrams.flush();
        if let Some(since) = self.gossip_since.take() {
            self.node.record_gossip_time(since.elapsed());
        }
        let addr = self.node.addr();
        self.application.addr.send_if_modified(|known| std::mem::replace(known, addr) != addr);
        let progress = self.node.progress();
        self.application.progress.send_if_modified(|known| std::mem::replace(known, progress) != progress);
        let joined = self.node.has_joined();
        self.application.joined.send_if_modified(|known| std::mem::replace(known, joined) != joined);
        self.notify_subscribers();
        let changes = self.node.member_changes().wrapping_add(self.events_sent);
        self.application.member_changes.send_if_modified(|known| std::mem::replace(known, changes) != changes);
    }

    /// Hands messages and events to the subscribers. Returns whether there were messages.
    fn notify_subscribers(&mut self) -> bool {
        let (messages, events) = &mut self.unsent;
        while let Some(message) = self.node.poll_message() {
            match message {
                Ok(message) => messages.push_back(message),
                Err(missed) => events.push_back(missed),
            }
        }
        while let Some(event) = self.node.poll_event() {
            self.has_left |= matches!(event, Event::LeaveComplete);
            events.push_back(event);
        }
        self.events_sent += events.len() as u64;
        let told = !messages.is_empty();
        self.application.messages.send(messages);
        self.application.everything.send(messages);
        self.application.events.send(events);
        messages.clear();
        events.clear();
        let acks: VecDeque<_> = std::iter::from_fn(|| self.node.poll_acks()).collect();
        self.application.acks.send(&acks);
        told
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Connect { id, to } => self.streams.connect(id, self.zones.with_zone(to)),
            Action::Write { id, data } => {
                if let Err(reason) = self.streams.write(id, data) {
                    self.node.handle_stream(Instant::now(), id, StreamInput::Failed(reason));
                }
            }
            Action::Close { id } => self.streams.close(id),
            Action::GuessAddress { peer } => {
                let guess = advertise::guess_by_route(&[self.zones.with_zone(peer)], self.ipv6);
                self.apply_guess(guess, AddressGuess::Seed);
            }
            Action::CheckAddress { peers } => {
                let peers: Vec<_> = peers.into_iter().map(|peer| self.zones.with_zone(peer)).collect();
                let guess = advertise::guess_again(self.node.addr().ip(), &peers, self.ipv6);
                self.apply_guess(guess, AddressGuess::Interfaces);
            }
            Action::Lookup { seed } => {
                let lookups = self.lookups.clone();
                tokio::spawn(async move {
                    let result = lookup::resolve(&seed, lookup::TIMEOUT).await;
                    // Fails only once the loop has ended.
                    let _ = lookups.send((seed, result)).await;
                });
            }
        }
    }
}
