//! Streams: push/pull exchanges, pings and large messages over TCP. As memberlist has it, each carries one request and at most
//! one answer, and ends.
//!
//! # Roles of a stream
//!
//! | role | waits for | then |
//! |---|---|---|
//! | `Serving` | a request | answers if the request wants it, and closes |
//! | `PushPull` | the other side's view | merges it, and closes |
//! | `Ping` | the ack | closes |
//! | `Send` | the end, by which the other side says that it has read the message | closes |
//!
//! A stream is ended when it makes no progress: when fewer than [`PROGRESS`] more bytes have come within `tcp_timeout`. So a
//! large message may take its time on a slow link, and a sender of one byte now and then holds nothing for long. What this
//! node sends has the time that such a slow stream would need. The time that this node takes to parse what has come is not the
//! other side's: it does not count.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Action, Node, RejectionCause, StreamId, StreamInput, Timer, send_queue::StreamPayload};
use crate::{
    dissemination,
    membership::Record,
    wire::{
        self, Ack, Ping, PushPull,
        envelope::Direction,
        envelope_reader::EnvelopeReader,
        stream::{self, StreamError, StreamMessage},
    },
};

/// How many bytes a stream has to bring within each `tcp_timeout`. More ends slow streams sooner; less lets idle ones hold
/// memory for longer.
const PROGRESS: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Stream {
    peer: SocketAddr,
    /// At which of this node's addresses the other side reached it.
    reached_at: Option<IpAddr>,
    role: StreamRole,
    reader: EnvelopeReader,
    began: Instant,
    received: usize,
    /// The other side will send no more.
    ended: bool,
    /// The member of ours that sends on it, once it has brought more than fits in a packet.
    bulk_sender: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamRole {
    Serving,
    /// A push/pull exchange: with the seed of that index to join, or a regular one.
    PushPull {
        seed: Option<usize>,
    },
    /// A ping with this sequence number.
    Ping {
        seq: u32,
    },
    /// Nothing is needed from the other side.
    Send,
}

impl StreamRole {
    /// The direction of what comes from the other side.
    fn incoming(self) -> Direction {
        if self == Self::Serving { Direction::Request } else { Direction::Answer }
    }
}

impl Node {
    /// Handles a stream that another node opened; `None` refuses it.
    pub fn handle_accept(&mut self, now: Instant, from: SocketAddr) -> Option<StreamId> {
        let served = self.streams.values().filter(|stream| stream.role == StreamRole::Serving).count();
        let max = self.resource_limits.max_streams;
        if served >= max {
            self.metrics.over_limit.streams += 1;
            self.reject(
                now,
                from,
                RejectionCause::Stream,
                &format_args!("{max} streams are open already; a new one was refused"),
            );
            return None;
        }
        Some(self.open(now, from, StreamRole::Serving))
    }

    /// A connection from outside was closed before it became a stream, as nothing came on it: for so long, or until there were
    /// too many such connections.
    pub(crate) fn handle_silent_connection(&mut self, now: Instant, from: SocketAddr, after: Option<Duration>) {
        let reason = if let Some(after) = after {
            self.metrics.over_limit.stream_times += 1;
            format!("the stream was still incomplete after {after:?}, with 0 bytes")
        } else {
            self.metrics.over_limit.streams += 1;
            "too many connections say nothing; the oldest was closed".into()
        };
        self.reject(now, from, RejectionCause::Stream, &reason);
    }

    /// Notes to which of this node's addresses a stream was opened.
    pub fn set_reached_at(&mut self, id: StreamId, ip: IpAddr) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.reached_at = Some(ip);
        }
    }

    /// Sends a message that does not fit in a packet, unless it is under way to that member.
    pub(super) fn send_large(&mut self, now: Instant, to: SocketAddr, message: Bytes) {
        if self.send_queues.push_large(to, message) {
            self.send_queued(now, to);
        }
    }

    /// Sends as much of what waits for a member as may be under way.
    pub(super) fn send_queued(&mut self, now: Instant, to: SocketAddr) {
        while let Some(load) = self.send_queues.next(to) {
            let (payload, large) = match load {
                StreamPayload::Large(message) => (message.slice(1..), Some(message)),
                StreamPayload::Bundle(messages) => (self.bundle(&messages), None),
            };
            let id = self.open(now, to, StreamRole::Send);
            let patience = u32::try_from(1 + payload.len() / PROGRESS).unwrap_or(u32::MAX);
            self.timers.set(Timer::Stream(id), now + self.tuning.tcp_timeout.saturating_mul(patience));
            self.send_queues.begin(to, id, large);
            self.actions.push_back(Action::Connect { id, to });
            self.write(id, &StreamMessage::User(payload));
        }
    }

    /// Begins a push/pull exchange with a node: to join through a seed, or a regular one.
    pub(super) fn push_pull(&mut self, now: Instant, to: SocketAddr, seed: Option<usize>) {
        let id = self.open(now, to, StreamRole::PushPull { seed });
        self.actions.push_back(Action::Connect { id, to });
        let mut view = self.membership.local_state(seed.is_some());
        let is_ours = self.membership.find_addr(to).is_some_and(|record| dissemination::is_ours(record.versions));
        let digests = is_ours.then(|| self.dissemination_state());
        view.user_state = self.user_state(digests);
        self.write(id, &StreamMessage::PushPull(view));
    }

    /// Pings a member whose acks do not arrive in packets.
    pub(super) fn ping_over_stream(&mut self, now: Instant, to: SocketAddr, ping: Ping, until: Instant) {
        let id = self.open(now, to, StreamRole::Ping { seq: ping.seq });
        self.timers.set(Timer::Stream(id), until);
        self.actions.push_back(Action::Connect { id, to });
        self.write(id, &StreamMessage::Ping(ping));
    }

    /// The dissemination's digest. A node whose name is another's tells nothing.
    fn dissemination_state(&mut self) -> Bytes {
        if self.seeds.name_taken() { Bytes::new() } else { self.dissemination.state() }
    }

    /// Whether an answer from a seed is awaited.
    pub(super) fn is_joining(&self) -> bool {
        self.streams.values().any(|stream| matches!(stream.role, StreamRole::PushPull { seed: Some(_) }))
    }

    fn open(&mut self, now: Instant, peer: SocketAddr, role: StreamRole) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let traffic = &mut self.metrics.traffic;
        let opened = if role == StreamRole::Serving { &mut traffic.tcp_accept } else { &mut traffic.tcp_connect };
        *opened += 1;
        let reader = EnvelopeReader::with_limits(role.incoming(), self.resource_limits.stream_limits());
        let stream =
            Stream { peer, reached_at: None, role, began: now, reader, received: 0, ended: false, bulk_sender: None };
        self.streams.insert(id, stream);
        self.timers.set(Timer::Stream(id), now + self.tuning.tcp_timeout);
        id
    }

    fn write(&mut self, id: StreamId, message: &StreamMessage) {
        let Some(stream) = self.streams.get(&id) else { return };
        let direction = match stream.role.incoming() {
            Direction::Request => Direction::Answer,
            Direction::Answer => Direction::Request,
        };
        let data = stream::encode(message, self.tuning.compression);
        let data = Bytes::from(self.sealer.stream(data, direction));
        self.metrics.traffic.tcp_sent += data.len() as u64;
        self.metrics.sent.stream(message, data.len());
        if matches!(message, StreamMessage::PushPull(_)) {
            self.metrics.gauges.view_sent = data.len();
        }
        self.actions.push_back(Action::Write { id, data });
    }

    /// The bytes that all streams hold.
    pub(super) fn buffered(&self) -> usize {
        self.streams.values().map(|stream| stream.reader.held()).sum()
    }

    /// Handles what happened on a stream.
    pub fn handle_stream(&mut self, now: Instant, id: StreamId, input: StreamInput<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match input {
            StreamInput::Data(data) => {
                let before = stream.received;
                stream.received += data.len();
                if stream.received / PROGRESS > before / PROGRESS && !matches!(stream.role, StreamRole::Ping { .. }) {
                    self.timers.set(Timer::Stream(id), now + self.tuning.tcp_timeout);
                }
                self.metrics.traffic.tcp_received += data.len() as u64;
                let was_busy = stream.reader.is_busy();
                let read = stream.reader.feed(&self.sealer.envelope, data);
                if stream.reader.is_busy() && !was_busy {
                    self.backlog.push_back(id);
                }
                self.handle_parsed(now, id, read);
                self.note_bulk_sender(now, id, before);
            }
            StreamInput::Closed if stream.reader.is_busy() => stream.ended = true,
            StreamInput::Closed => self.handle_early_end(now, id),
            StreamInput::Failed(reason) => self.abort_stream(now, id, reason, false),
        }
        self.process_outputs(now);
    }

    /// Parses a slice of what has arrived on a stream that brought more than was parsed at once. Everything else has its turn in
    /// between.
    pub(super) fn parse_backlog(&mut self, now: Instant) {
        let Some(id) = self.backlog.pop_front() else { return };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let read = stream.reader.work();
        if stream.reader.is_busy() {
            self.backlog.push_back(id);
        }
        self.handle_parsed(now, id, read);
        if self.streams.get(&id).is_some_and(|stream| stream.ended && !stream.reader.is_busy()) {
            self.handle_early_end(now, id);
        }
        self.process_outputs(now);
    }

    /// Handles what was parsed from a stream.
    fn handle_parsed(&mut self, now: Instant, id: StreamId, read: Result<Option<StreamMessage>, StreamError>) {
        let max = self.resource_limits.max_stream_bytes;
        match read {
            Ok(None) if self.buffered() > max => {
                self.metrics.over_limit.stream_bytes += 1;
                let reason = format!("streams hold {max} bytes already; one was cut off");
                self.abort_stream(now, id, reason, true);
            }
            Ok(None) => {}
            Ok(Some(message)) => {
                let Some(stream) = self.streams.get(&id) else { return };
                if let Some(skipped) = stream.reader.skipped_records() {
                    let peer = stream.peer;
                    let reason =
                        format!("{} records of a view were left out; the first: {}", skipped.count, skipped.first);
                    self.reject(now, peer, RejectionCause::View, &reason);
                }
                self.handle_message(now, id, message);
            }
            Err(error) => {
                self.metrics.stream_error(&error);
                let too_small =
                    matches!(error, StreamError::LimitExceeded { max, .. } if max == self.resource_limits.max_members);
                let hint = if too_small { "; is `max_members` too small?" } else { "" };
                self.abort_stream(now, id, format!("{error}{hint}"), true);
            }
        }
    }

    /// The other side sends no more, and nothing complete has come.
    fn handle_early_end(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        // Connections that are opened and closed again, as by port checks, are no error.
        let untouched = stream.received == 0 && stream.role == StreamRole::Serving;
        let reason = format!("the stream ended within a message, after {} bytes", stream.received);
        self.abort_stream(now, id, reason, !untouched);
    }

    /// More of something large has come. While it comes from a member, others are not asked for what is missing.
    fn note_bulk_sender(&mut self, now: Instant, id: StreamId, before: usize) {
        let limit = self.tuning.udp_buffer_size;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.role == StreamRole::Serving) else {
            return;
        };
        if stream.received <= limit {
            return;
        }
        if before <= limit {
            let ip = stream.peer.ip();
            let at_peer = |record: &&Record| {
                record.is_live() && record.addr().ip() == ip && dissemination::is_ours(record.versions)
            };
            let mut at_peer = self.membership.others().filter(at_peer).map(Record::addr);
            // If several members are at one address, nobody knows which it is.
            stream.bulk_sender = at_peer.next().filter(|_| at_peer.next().is_none());
        }
        if let Some(bulk_sender) = stream.bulk_sender {
            self.dissemination.note_bulk_sender(Some((bulk_sender, now)));
        }
    }

    pub(super) fn time_out_stream(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        if stream.reader.is_busy() {
            return self.timers.set(Timer::Stream(id), now + self.tuning.tcp_timeout);
        }
        self.metrics.over_limit.stream_times += 1;
        let served = stream.role == StreamRole::Serving;
        let reason = match stream.role {
            StreamRole::Serving => {
                format!(
                    "the stream was still incomplete after {:?}, with {} bytes",
                    self.tuning.tcp_timeout, stream.received
                )
            }
            StreamRole::PushPull { .. } | StreamRole::Ping { .. } | StreamRole::Send => {
                format!("{} did not answer within {:?}", stream.peer, self.tuning.tcp_timeout)
            }
        };
        // A member that hangs has sent nothing to be dropped. The probes will find that it does not answer.
        self.abort_stream(now, id, reason, served);
    }

    fn handle_message(&mut self, now: Instant, id: StreamId, message: StreamMessage) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (peer, role, began, reached_at) = (stream.peer, stream.role, stream.began, stream.reached_at);
        // A sender that only asks shows no view of its own.
        if matches!(&message, StreamMessage::PushPull(view) if !view.nodes.is_empty()) {
            self.metrics.gauges.view_received = stream.received;
        }
        match (role, message) {
            (StreamRole::Serving, StreamMessage::PushPull(_)) if !self.membership.allows(peer) => {
                let reason = format!("{peer} is in none of the networks of `allow`");
                self.abort_stream(now, id, reason, true);
            }
            (StreamRole::Serving, StreamMessage::PushPull(remote)) => {
                // As memberlist has it, the answer is the view before the merge.
                let mut view = self.membership.local_state(remote.join);
                let ours = match (self.ours_in(&remote.user_state), newcomer_of_ours(&remote)) {
                    (Some(_), _) => Some(self.dissemination_state()),
                    (None, Some(name)) => Some(self.dissemination.state_of(name)),
                    (None, None) => None,
                };
                view.user_state = self.user_state(ours);
                self.write(id, &StreamMessage::PushPull(view));
                self.close(id);
                // A refusal was reported here; the asker will find the same.
                let merged = self.merge(now, peer, &remote, None);
                self.membership.prioritize_greetings(now, peer.ip(), &remote);
                if merged.is_ok() && !remote.nodes.is_empty() {
                    self.guess_where_reached(now, reached_at, peer);
                }
            }
            (StreamRole::PushPull { seed }, StreamMessage::PushPull(remote)) => {
                self.close(id);
                self.metrics.push_pull.record(now.saturating_duration_since(began));
                let taken = self.membership.name_is_taken(&remote);
                self.seeds.set_name_taken(taken);
                let merged = self.merge(now, peer, &remote, Some(peer));
                self.membership.mark_proven_at(peer);
                if let Some(index) = seed {
                    if merged.is_ok() && !taken {
                        self.guess_by_seed(peer);
                        self.join_serf(now);
                    }
                    let result = match merged {
                        Err(reason) => Err(reason),
                        Ok(()) if taken => Err(format!("{peer} knows another live node of this node's name")),
                        Ok(()) => Ok(()),
                    };
                    self.end_join(now, index, result);
                }
            }
            (StreamRole::Ping { seq }, StreamMessage::Ack(ack)) if ack.seq == seq => {
                self.close(id);
                // Its acks to packets have not come for a while.
                self.check_path(now, peer);
                // An ack is never refused.
                let _ = self.membership.handle(now, peer, wire::Message::Ack(ack));
            }
            (StreamRole::Serving, StreamMessage::Ping(ping)) => {
                let name = self.me().name.clone();
                if ping.node.is_empty() || *ping.node == *name.as_bytes() {
                    let health = serde_json::to_vec(&self.health());
                    let payload = health.expect("bools and a number always serialise").into();
                    self.write(id, &StreamMessage::Ack(Ack { seq: ping.seq, payload }));
                    self.close(id);
                } else {
                    let wanted = String::from_utf8_lossy(&ping.node);
                    self.abort_stream(now, id, format!("a ping for \"{wanted}\" arrived at \"{name}\""), true);
                }
            }
            (StreamRole::Serving, StreamMessage::User(payload)) => {
                self.close(id);
                if !payload.is_empty() {
                    self.handle_stream_user_message(now, peer, &payload);
                }
            }
            (StreamRole::PushPull { .. }, StreamMessage::Error(error)) => {
                let error = String::from_utf8_lossy(&error).into_owned();
                self.abort_stream(now, id, format!("{peer} could not read this node's view: {error}"), true);
            }
            (_, message) => {
                let reason = format!("an unexpected {} came over a stream", kind(&message));
                self.abort_stream(now, id, reason, true);
            }
        }
    }

    /// Merges a view. What is wrong with it is reported, and returned if nothing could be merged.
    fn merge(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        remote: &PushPull,
        askable: Option<SocketAddr>,
    ) -> Result<(), String> {
        let merged = self.membership.merge(now, remote);
        self.process_outputs(now);
        if merged.is_ok() {
            let ours = self.ours_in(&remote.user_state).unwrap_or_default();
            if let Err(error) = self.dissemination.merge(now, askable, &ours, &self.membership) {
                self.reject(now, peer, RejectionCause::Message, &error);
            }
            self.merge_serf(now, peer, remote, askable.is_some());
            self.process_outputs(now);
        }
        let (refusal, result) = match merged {
            Ok(refusal) => (refusal, Ok(())),
            Err(refusal) => {
                let reason = refusal.to_string();
                (Some(refusal), Err(reason))
            }
        };
        if let Some(refusal) = refusal {
            self.reject(now, peer, RejectionCause::View, &refusal);
        }
        result
    }

    fn close(&mut self, id: StreamId) {
        let ended = self.streams.remove(&id);
        self.timers.cancel(&Timer::Stream(id));
        self.actions.push_back(Action::Close { id });
        let Some(Stream { peer, role, bulk_sender, .. }) = ended else { return };
        if bulk_sender.is_some() {
            self.dissemination.note_bulk_sender(None);
        }
        if role == StreamRole::Send {
            self.send_queues.end(peer, id);
            self.send_queued(self.now, peer);
        }
    }

    /// Ends a stream early, and says why if that is to be reported.
    fn abort_stream(&mut self, now: Instant, id: StreamId, reason: String, report: bool) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (peer, role) = (stream.peer, stream.role);
        match role {
            StreamRole::Serving if report => {
                // As with memberlist, the other side learns what was wrong.
                self.write(id, &StreamMessage::Error(Bytes::from(reason.clone())));
                self.reject(now, peer, RejectionCause::Stream, &reason);
            }
            StreamRole::PushPull { seed: None } if report => self.reject(now, peer, RejectionCause::Stream, &reason),
            _ => {}
        }
        self.close(id);
        if let StreamRole::PushPull { seed: Some(index) } = role {
            self.end_join(now, index, Err(reason));
        }
    }
}

/// The name of a joining node of ours, if this view is of nobody but it. It cannot know whom it asks, so it sends no state.
/// But it needs to hear of its previous epoch before it publishes anything.
fn newcomer_of_ours(remote: &PushPull) -> Option<&[u8]> {
    match &remote.nodes[..] {
        [only] if remote.join && only.versions.is_some_and(dissemination::is_ours) => Some(&only.name),
        _ => None,
    }
}

fn kind(message: &StreamMessage) -> &'static str {
    match message {
        StreamMessage::Ping(_) => "ping",
        StreamMessage::Ack(_) => "ack",
        StreamMessage::PushPull(_) => "view of the cluster",
        StreamMessage::User(_) => "user message",
        StreamMessage::Error(_) => "error",
    }
}
