//! The one task that owns a node and its sockets.
//!
//! It waits for whatever comes first — datagrams, a command, a report of a stream or a lookup, a new
//! connection, the node's next deadline —, hands it to the [`Node`] with the time, and carries out
//! what comes of it. It waits for nothing else: a datagram the socket does not take goes to a bounded
//! backlog, a write to a stream's bounded queue, an event to bounded queues that lose their oldest.
//!
//! It runs until the node has left: on [`EventLoop::leave`] or when the last handle is gone, the node
//! tells the others and says [`Event::LeaveComplete`]. [`LEAVE_LIMIT`] later it ends regardless.

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
    arrivals::{Arrival, Arrivals},
    faults::Faulty,
    lookup,
    outbox::Outbox,
    sockets::{Acceptor, Datagrams, Sockets},
    streams::{Report, StreamEvent, Streams},
    subscription::Feed,
    zones::{Zones, without_zone},
};
use crate::{
    Acks, Event, Message, PublishError, Seed,
    dissemination::{Draft, Progress},
    node::{Action, GuessedBy, Node, StreamInput},
};

/// Commands that wait for the event loop, at most.
const COMMANDS: usize = 256;
/// Datagrams read before anything else gets its turn.
const BATCH: usize = 512;
/// Results of lookups that wait, at most; further lookups wait for room.
const LOOKUPS: usize = 16;
/// How long leaving may take.
const LEAVE_LIMIT: Duration = Duration::from_millis(1800);

/// What a handle has the event loop do at its next turn.
pub(super) type Command = Box<dyn FnOnce(&mut EventLoop) + Send>;

/// The way of handles and receipts to the event loop.
#[derive(Clone, Debug)]
pub(super) struct Commands(mpsc::Sender<Command>);

impl Commands {
    /// And where the event loop receives them.
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(COMMANDS);
        (Self(commands), received)
    }

    /// Has the event loop do this, and gives what came of it; `None` when the node has stopped.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut EventLoop) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let command = move |event_loop: &mut EventLoop| {
            // Whoever asked may have stopped waiting for the answer.
            let _ = reply.send(what(event_loop));
        };
        self.0.send(Box::new(command)).await.ok()?;
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

/// What the event loop shares with the handles: where it takes from, and where it tells.
pub(super) struct Application {
    pub(super) outbox: Arc<Outbox>,
    pub(super) reached_at: watch::Sender<SocketAddr>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) has_joined: watch::Sender<bool>,
    pub(super) changed_members: watch::Sender<u64>,
    pub(super) changed_keys: watch::Sender<u64>,
    pub(super) messages: Feed<Message>,
    /// This node's own messages as well.
    pub(super) everything: Feed<Message>,
    pub(super) events: Feed<Event>,
    pub(super) acks: Feed<Acks>,
}

type Found = (Seed, Result<Vec<SocketAddr>, String>);

/// See the [module](self).
pub(super) struct EventLoop {
    pub(super) node: Node,
    datagrams: Datagrams,
    pub(super) zones: Zones,
    /// Whether the sockets take IPv6.
    ipv6: bool,
    pub(super) faults: Option<Faulty>,
    acceptor: Acceptor,
    pub(super) arrivals: Arrivals,
    pub(super) streams: Streams,
    reports: mpsc::Receiver<Report>,
    lookups: mpsc::Sender<Found>,
    found: mpsc::Receiver<Found>,
    pub(super) application: Application,
    /// Taken from the outbox; they wait for room in the log.
    drafts: VecDeque<Draft>,
    /// Events that were told: what they tell of members may not be a change of their records.
    told: u64,
    /// What the subscribers are told next; empty in between, kept for its allocation.
    news: (VecDeque<Message>, VecDeque<Event>),
    /// When the round of gossip began that is being sent.
    gossip_since: Option<Instant>,
    /// Set when the node leaves: when to stop at the latest.
    stop_at: Option<Instant>,
    /// The others have been told.
    left: bool,
}

impl EventLoop {
    pub(super) fn new(
        node: Node,
        sockets: Sockets,
        zones: Zones,
        faults: Option<Faulty>,
        (tcp_timeout, max_streams): (Duration, usize),
        application: Application,
    ) -> Self {
        let Sockets { datagrams, acceptor, addr } = sockets;
        let (streams, reports) = Streams::new(tcp_timeout, max_streams);
        let (lookups, found) = mpsc::channel(LOOKUPS);
        Self {
            node,
            datagrams,
            zones,
            ipv6: addr.is_ipv6(),
            faults,
            acceptor,
            arrivals: Arrivals::new(tcp_timeout),
            streams,
            reports,
            lookups,
            found,
            application,
            drafts: VecDeque::new(),
            told: 0,
            news: Default::default(),
            gossip_since: None,
            stop_at: None,
            left: false,
        }
    }

    /// Runs. No `async fn`, as that would be compiled with whoever starts a node, instead of once with this crate.
    pub(super) fn begin(self, commands: mpsc::Receiver<Command>) {
        tokio::spawn(self.run(commands));
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.turn(&mut commands).await;
        self.application.outbox.set_next(self.node.next_id(), Some(PublishError::Stopped));
        // Frees the ports and ends the subscriptions …
        drop(self);
        // … before `Handle::leave`, which waits for this.
        drop(commands);
    }

    async fn turn(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let timer = sleep_until(Instant::now().into());
        pin!(timer);
        let mut handles_left = true;
        self.drain();
        while !self.is_done() {
            let held = self.faults.as_ref().and_then(Faulty::poll_timeout);
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
                (stream, from) = self.acceptor.accept(), if self.arrivals.has_room() => self.accept(stream, from),
                Some(arrival) = self.arrivals.next() => self.handle_arrival(arrival),
                () = self.application.outbox.filled() => {}
                () = self.application.acks.changed() => self.node.watch(Instant::now(), self.application.acks.is_heard()),
                Some(report) = self.reports.recv() => self.handle_report(report),
                Some((seed, result)) = self.found.recv() => self.handle_lookup(&seed, result),
                command = commands.recv(), if handles_left => match command {
                    Some(command) => command(self),
                    None => {
                        handles_left = false;
                        self.leave();
                    }
                },
            }
            self.publish();
            if self.tell() {
                // Acknowledgements can wait for what the subscribers do, who may share this thread.
                tokio::task::yield_now().await;
            }
            self.drain();
        }
    }

    /// Publishes what the application has, as far as the log has room.
    fn publish(&mut self) {
        let now = Instant::now();
        let mut own = self.application.everything.is_heard().then(VecDeque::new);
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
        let held = self.faults.as_ref().and_then(Faulty::poll_timeout);
        let told = self.left && !self.datagrams.has_backlog() && held.is_none();
        told || self.stop_at.is_some_and(|at| at <= Instant::now())
    }

    /// Begins to leave, if it has not yet.
    pub(super) fn leave(&mut self) {
        if self.stop_at.is_none() {
            // What has been published is to be said before the good-bye.
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
            self.datagrams.rest();
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
        if let Some(closed) = self.arrivals.take(stream, from) {
            self.node.handle_silence(Instant::now(), without_zone(closed), None);
        }
    }

    fn handle_arrival(&mut self, arrival: Arrival) {
        let (stream, from) = match arrival {
            Arrival::Stream(stream, from) => (stream, from),
            Arrival::Silent(from, after) => {
                return self.node.handle_silence(Instant::now(), without_zone(from), Some(after));
            }
        };
        let Some(permit) = self.streams.admit() else {
            self.node.refused_stream();
            return debug!(%from, "refused a connection: too many are open");
        };
        if let Some(id) = self.node.handle_accept(Instant::now(), without_zone(from)) {
            if let Ok(addr) = stream.local_addr() {
                self.node.set_reached_at(id, addr.ip().to_canonical());
            }
            self.streams.accepted(id, stream, permit);
        }
    }

    fn handle_report(&mut self, Report { id, what }: Report) {
        if !self.streams.is_open(id) {
            return;
        }
        let now = Instant::now();
        match what {
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
            // Before anybody is told of an address that has to be taken back.
            if self.node.is_free_to_guess() {
                self.take_guess(advertise::by_route(found, self.ipv6), GuessedBy::Interfaces);
            }
        }
        let result = result.map(|found| found.into_iter().map(without_zone).collect());
        self.node.handle_lookup(Instant::now(), seed, result);
    }

    fn take_guess(&mut self, guess: Option<IpAddr>, by: GuessedBy) {
        if let Some(ip) = guess {
            self.node.set_guess(Instant::now(), ip, by);
        }
    }

    /// Carries out all that came of the last change.
    fn drain(&mut self) {
        loop {
            while let Some(mut transmit) = self.node.poll_transmit() {
                transmit.to = self.zones.with_zone(transmit.to);
                match self.faults.as_mut().filter(|faulty| faulty.faults().is_some()) {
                    None => self.datagrams.send(transmit),
                    Some(faults) => faults.send(Instant::now(), transmit),
                }
            }
            let Some(action) = self.node.poll_action() else { break };
            self.act(action);
        }
        while let Some(transmit) = self.faults.as_mut().and_then(|faults| faults.poll(Instant::now())) {
            self.datagrams.send(transmit);
        }
        self.datagrams.flush();
        if let Some(since) = self.gossip_since.take() {
            self.node.gossip_took(since.elapsed());
        }
        let addr = self.node.addr();
        self.application.reached_at.send_if_modified(|known| std::mem::replace(known, addr) != addr);
        let progress = self.node.progress();
        self.application.progress.send_if_modified(|known| std::mem::replace(known, progress) != progress);
        let joined = self.node.has_joined();
        self.application.has_joined.send_if_modified(|known| std::mem::replace(known, joined) != joined);
        self.tell();
        let changes = self.node.member_changes().wrapping_add(self.told);
        self.application.changed_members.send_if_modified(|known| std::mem::replace(known, changes) != changes);
    }

    /// Tells the subscribers what has happened; gives whether that was a message.
    fn tell(&mut self) -> bool {
        let (messages, events) = &mut self.news;
        while let Some(message) = self.node.poll_message() {
            match message {
                Ok(message) => messages.push_back(message),
                Err(missed) => events.push_back(missed),
            }
        }
        while let Some(event) = self.node.poll_event() {
            self.left |= matches!(event, Event::LeaveComplete);
            events.push_back(event);
        }
        self.told += events.len() as u64;
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

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { id, to } => self.streams.connect(id, self.zones.with_zone(to)),
            Action::Write { id, data } => {
                if let Err(reason) = self.streams.write(id, data) {
                    self.node.handle_stream(Instant::now(), id, StreamInput::Failed(reason));
                }
            }
            Action::Close { id } => self.streams.close(id),
            Action::GuessAddress { peer } => {
                let guess = advertise::by_route(&[self.zones.with_zone(peer)], self.ipv6);
                self.take_guess(guess, GuessedBy::Seed);
            }
            Action::CheckAddress { peers } => {
                let peers: Vec<_> = peers.into_iter().map(|peer| self.zones.with_zone(peer)).collect();
                let guess = advertise::anew(self.node.addr().ip(), &peers, self.ipv6);
                self.take_guess(guess, GuessedBy::Interfaces);
            }
            Action::Lookup { seed } => {
                let lookups = self.lookups.clone();
                tokio::spawn(async move {
                    let result = lookup::resolve(&seed, lookup::TIMEOUT).await;
                    // Nobody waits for it once the loop has ended.
                    let _ = lookups.send((seed, result)).await;
                });
            }
        }
    }
}
