//! Streams: exchanges of views, pings and large messages over TCP (PROTOCOL of memberlist: one request,
//! at most one answer, then the end).
//!
//! # States of a stream
//!
//! | it is | it waits for | then |
//! |---|---|---|
//! | `Serving` | a request | answers if the request wants it, and closes |
//! | `Asking` | the answer to our view | merges it, and closes |
//! | `Pinging` | the answer | closes |
//! | `Telling` | the end, with which the other side says that it has read the message | closes |
//!
//! A stream ends when it makes no progress: when not even another [`PROGRESS`] bytes have come within
//! `tcp_timeout`. A large message may so take its time on a slow link, and who sends a byte now and then holds
//! nothing for long. What this node tells has the time that so slow a stream would need.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Action, Cause, Node, StreamId, StreamInput, Timer, send_queue::Load};
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

/// What a stream has to bring within each `tcp_timeout`, in bytes.
const PROGRESS: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Stream {
    peer: SocketAddr,
    /// Which of this node's addresses the other side reached it at.
    reached_at: Option<IpAddr>,
    role: Role,
    reader: EnvelopeReader,
    began: Instant,
    received: usize,
    /// The other side will send no more.
    ended: bool,
    /// The member of ours that it comes from, once it has brought more than fits in a packet.
    bringer: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Serving,
    /// For a seed, by its place, or in the ordinary course.
    Asking {
        seed: Option<usize>,
    },
    /// For an acknowledgement of this number.
    Pinging {
        seq: u32,
    },
    /// Nothing is wanted from the other side.
    Telling,
}

impl Role {
    /// What comes from the other side.
    fn hears(self) -> Direction {
        if self == Self::Serving { Direction::Request } else { Direction::Answer }
    }
}

impl Node {
    /// A stream was opened from outside; `None` refuses it.
    pub fn handle_accept(&mut self, now: Instant, from: SocketAddr) -> Option<StreamId> {
        let served = self.streams.values().filter(|stream| stream.role == Role::Serving).count();
        let max = self.resource_limits.max_streams;
        if served >= max {
            self.metrics.over_limit.streams += 1;
            self.reject(
                now,
                from,
                Cause::Stream,
                &format_args!("{max} streams are open already; a new one was refused"),
            );
            return None;
        }
        Some(self.open(now, from, Role::Serving))
    }

    /// A connection from outside was closed before it became a stream, as nothing came: for so long, or until there were
    /// too many others like it.
    pub(crate) fn handle_silent_connection(&mut self, now: Instant, from: SocketAddr, after: Option<Duration>) {
        let reason = if let Some(after) = after {
            self.metrics.over_limit.stream_times += 1;
            format!("the stream was still incomplete after {after:?}, with 0 bytes")
        } else {
            self.metrics.over_limit.streams += 1;
            "too many connections say nothing; the oldest was closed".into()
        };
        self.reject(now, from, Cause::Stream, &reason);
    }

    /// A stream that was accepted was opened to this address.
    pub fn set_reached_at(&mut self, id: StreamId, ip: IpAddr) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.reached_at = Some(ip);
        }
    }

    /// Sends a message that does not fit in a packet, unless it is on its way there.
    pub(super) fn tell_over_stream(&mut self, now: Instant, to: SocketAddr, message: Bytes) {
        if self.send_queues.push_large(to, message) {
            self.send_waiting(now, to);
        }
    }

    /// Sends of what waits for a member as much as may be under way.
    pub(super) fn send_waiting(&mut self, now: Instant, to: SocketAddr) {
        while let Some(load) = self.send_queues.next(to) {
            let (payload, large) = match load {
                Load::Large(message) => (message.slice(1..), Some(message)),
                Load::Bundle(messages) => (self.bundle(&messages), None),
            };
            let id = self.open(now, to, Role::Telling);
            let patience = u32::try_from(1 + payload.len() / PROGRESS).unwrap_or(u32::MAX);
            self.timers.set(Timer::Stream(id), now + self.tuning.tcp_timeout.saturating_mul(patience));
            self.send_queues.begin(to, id, large);
            self.actions.push_back(Action::Connect { id, to });
            self.write(id, &StreamMessage::User(payload));
        }
    }

    /// Exchanges views with a node, as a way to join through a seed or in the ordinary course.
    pub(super) fn push_pull(&mut self, now: Instant, to: SocketAddr, seed: Option<usize>) {
        let id = self.open(now, to, Role::Asking { seed });
        self.actions.push_back(Action::Connect { id, to });
        let mut view = self.membership.local_state(seed.is_some());
        let is_ours = self.membership.find_addr(to).is_some_and(|record| dissemination::is_ours(record.versions));
        view.user_state = self.user_state(is_ours.then(|| self.dissemination_state()));
        self.write(id, &StreamMessage::PushPull(view));
    }

    /// Pings a member whose answers to packets do not come.
    pub(super) fn ping_over_stream(&mut self, now: Instant, to: SocketAddr, ping: Ping, until: Instant) {
        let id = self.open(now, to, Role::Pinging { seq: ping.seq });
        self.timers.set(Timer::Stream(id), until);
        self.actions.push_back(Action::Connect { id, to });
        self.write(id, &StreamMessage::Ping(ping));
    }

    /// What this node has of what is said. In a name that is another's it says nothing.
    fn dissemination_state(&self) -> Bytes {
        if self.seeds.name_taken() { Bytes::new() } else { self.dissemination.state() }
    }

    /// Whether an answer from a seed is awaited.
    pub(super) fn is_joining(&self) -> bool {
        self.streams.values().any(|stream| matches!(stream.role, Role::Asking { seed: Some(_) }))
    }

    fn open(&mut self, now: Instant, peer: SocketAddr, role: Role) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let traffic = &mut self.metrics.traffic;
        let opened = if role == Role::Serving { &mut traffic.tcp_accept } else { &mut traffic.tcp_connect };
        *opened += 1;
        let reader = EnvelopeReader::with_limits(role.hears(), self.resource_limits.stream_limits());
        let stream =
            Stream { peer, reached_at: None, role, began: now, reader, received: 0, ended: false, bringer: None };
        self.streams.insert(id, stream);
        self.timers.set(Timer::Stream(id), now + self.tuning.tcp_timeout);
        id
    }

    fn write(&mut self, id: StreamId, message: &StreamMessage) {
        let Some(stream) = self.streams.get(&id) else { return };
        let direction = match stream.role.hears() {
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

    /// What is held of all streams that have not come to an end, in bytes.
    pub(super) fn buffered(&self) -> usize {
        self.streams.values().map(|stream| stream.reader.held()).sum()
    }

    /// Takes what happened on a stream.
    pub fn handle_stream(&mut self, now: Instant, id: StreamId, input: StreamInput<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match input {
            StreamInput::Data(data) => {
                let before = stream.received;
                stream.received += data.len();
                if stream.received / PROGRESS > before / PROGRESS && !matches!(stream.role, Role::Pinging { .. }) {
                    self.timers.set(Timer::Stream(id), now + self.tuning.tcp_timeout);
                }
                self.metrics.traffic.tcp_received += data.len() as u64;
                let was_busy = stream.reader.is_busy();
                let read = stream.reader.feed(&self.sealer.envelope, data);
                if stream.reader.is_busy() && !was_busy {
                    self.busy.push_back(id);
                }
                self.take(now, id, read);
                self.note_bringer(now, id, before);
            }
            StreamInput::Closed if stream.reader.is_busy() => stream.ended = true,
            StreamInput::Closed => self.end_early(now, id),
            StreamInput::Failed(reason) => self.break_off(now, id, reason, false),
        }
        self.settle(now);
    }

    /// Parses one slice of what has arrived on one of the streams that brought more than that at once: whatever else
    /// happens has its turn in between.
    pub(super) fn work_on_streams(&mut self, now: Instant) {
        let Some(id) = self.busy.pop_front() else { return };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let read = stream.reader.work();
        if stream.reader.is_busy() {
            self.busy.push_back(id);
        }
        self.take(now, id, read);
        if self.streams.get(&id).is_some_and(|stream| stream.ended && !stream.reader.is_busy()) {
            self.end_early(now, id);
        }
        self.settle(now);
    }

    /// Takes what was read from a stream.
    fn take(&mut self, now: Instant, id: StreamId, read: Result<Option<StreamMessage>, StreamError>) {
        let max = self.resource_limits.max_stream_bytes;
        match read {
            Ok(None) if self.buffered() > max => {
                self.metrics.over_limit.stream_bytes += 1;
                let reason = format!("streams hold {max} bytes already; one was cut off");
                self.break_off(now, id, reason, true);
            }
            Ok(None) => {}
            Ok(Some(message)) => {
                let Some(stream) = self.streams.get(&id) else { return };
                if let Some(skipped) = stream.reader.skipped_records() {
                    let peer = stream.peer;
                    let reason =
                        format!("{} records of a view were left out; the first: {}", skipped.count, skipped.first);
                    self.reject(now, peer, Cause::View, &reason);
                }
                self.receive(now, id, message);
            }
            Err(error) => {
                self.metrics.stream_error(&error);
                let too_small =
                    matches!(error, StreamError::LimitExceeded { max, .. } if max == self.resource_limits.max_members);
                let hint = if too_small { "; is `max_members` too small?" } else { "" };
                self.break_off(now, id, format!("{error}{hint}"), true);
            }
        }
    }

    /// The other side sends no more, and nothing complete has come.
    fn end_early(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        // Connections that are opened and closed again, as port checks do, are no error.
        let untouched = stream.received == 0 && stream.role == Role::Serving;
        let reason = format!("the stream ended within a message, after {} bytes", stream.received);
        self.break_off(now, id, reason, !untouched);
    }

    /// More came of what is not complete yet: while something large comes from a member, what is missing is
    /// not asked of others.
    fn note_bringer(&mut self, now: Instant, id: StreamId, before: usize) {
        let limit = self.tuning.udp_buffer_size;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.role == Role::Serving) else { return };
        if stream.received <= limit {
            return;
        }
        if before <= limit {
            let ip = stream.peer.ip();
            let at_peer = |record: &&Record| {
                record.is_live() && record.addr().ip() == ip && dissemination::is_ours(record.versions)
            };
            let mut at_peer = self.membership.others().filter(at_peer).map(Record::addr);
            // Where several are at one address, nobody knows which it is.
            stream.bringer = at_peer.next().filter(|_| at_peer.next().is_none());
        }
        if let Some(bringer) = stream.bringer {
            self.dissemination.note_bringer(Some((bringer, now)));
        }
    }

    pub(super) fn time_out_stream(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        self.metrics.over_limit.stream_times += 1;
        let served = stream.role == Role::Serving;
        let reason = match stream.role {
            Role::Serving => {
                format!(
                    "the stream was still incomplete after {:?}, with {} bytes",
                    self.tuning.tcp_timeout, stream.received
                )
            }
            Role::Asking { .. } | Role::Pinging { .. } | Role::Telling => {
                format!("{} did not answer within {:?}", stream.peer, self.tuning.tcp_timeout)
            }
        };
        // A member that hangs has sent nothing to be dropped; that it does not answer is for the probes to find.
        self.break_off(now, id, reason, served);
    }

    fn receive(&mut self, now: Instant, id: StreamId, message: StreamMessage) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (peer, role, began, reached_at) = (stream.peer, stream.role, stream.began, stream.reached_at);
        // Who only asks shows no view of its own.
        if matches!(&message, StreamMessage::PushPull(view) if !view.nodes.is_empty()) {
            self.metrics.gauges.view_received = stream.received;
        }
        match (role, message) {
            (Role::Serving, StreamMessage::PushPull(_)) if !self.membership.allows(peer) => {
                let reason = format!("{peer} is in none of the networks of `allow`");
                self.break_off(now, id, reason, true);
            }
            (Role::Serving, StreamMessage::PushPull(remote)) => {
                // The answer is the view before the merge, as memberlist has it.
                let mut view = self.membership.local_state(remote.join);
                let ours = match (self.ours_in(&remote.user_state), newcomer_of_ours(&remote)) {
                    (Some(_), _) => Some(self.dissemination_state()),
                    (None, Some(name)) => Some(self.dissemination.state_of(name)),
                    (None, None) => None,
                };
                view.user_state = self.user_state(ours);
                self.write(id, &StreamMessage::PushPull(view));
                self.close(id);
                // A refusal has been told; the asker finds the same by itself.
                let merged = self.merge(now, peer, &remote, None);
                self.membership.prioritize_greetings(now, peer.ip(), &remote);
                if merged.is_ok() && !remote.nodes.is_empty() {
                    self.guess_where_reached(now, reached_at, peer);
                }
            }
            (Role::Asking { seed }, StreamMessage::PushPull(remote)) => {
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
            (Role::Pinging { seq }, StreamMessage::Ack(ack)) if ack.seq == seq => {
                self.close(id);
                // Its answer to a packet has not come for a while.
                self.suspect_path(now, peer);
                // An acknowledgement is never refused.
                let _ = self.membership.handle(now, peer, wire::Message::Ack(ack));
            }
            (Role::Serving, StreamMessage::Ping(ping)) => {
                let name = self.me().name.clone();
                if ping.node.is_empty() || *ping.node == *name.as_bytes() {
                    let health = serde_json::to_vec(&self.health());
                    let payload = health.expect("bools and a number always serialise").into();
                    self.write(id, &StreamMessage::Ack(Ack { seq: ping.seq, payload }));
                    self.close(id);
                } else {
                    let wanted = String::from_utf8_lossy(&ping.node);
                    self.break_off(now, id, format!("a ping for \"{wanted}\" arrived at \"{name}\""), true);
                }
            }
            (Role::Serving, StreamMessage::User(payload)) => {
                self.close(id);
                if !payload.is_empty() {
                    self.hear_over_stream(now, peer, &payload);
                }
            }
            (Role::Asking { .. }, StreamMessage::Error(error)) => {
                let error = String::from_utf8_lossy(&error).into_owned();
                self.break_off(now, id, format!("{peer} could not read this node's view: {error}"), true);
            }
            (_, message) => {
                let reason = format!("an unexpected {} came over a stream", kind(&message));
                self.break_off(now, id, reason, true);
            }
        }
    }

    /// Merges a view. What is wrong with it is told, and returned if nothing could be merged.
    fn merge(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        remote: &PushPull,
        askable: Option<SocketAddr>,
    ) -> Result<(), String> {
        let merged = self.membership.merge(now, remote);
        self.settle(now);
        if merged.is_ok() {
            let ours = self.ours_in(&remote.user_state).unwrap_or_default();
            if let Err(unusable) = self.dissemination.merge(now, askable, &ours, &self.membership) {
                self.reject(now, peer, Cause::Message, &unusable);
            }
            self.merge_serf(now, peer, remote, askable.is_some());
            self.settle(now);
        }
        let (refusal, result) = match merged {
            Ok(refusal) => (refusal, Ok(())),
            Err(refusal) => {
                let reason = refusal.to_string();
                (Some(refusal), Err(reason))
            }
        };
        if let Some(refusal) = refusal {
            self.reject(now, peer, Cause::View, &refusal);
        }
        result
    }

    fn close(&mut self, id: StreamId) {
        let ended = self.streams.remove(&id);
        self.timers.cancel(&Timer::Stream(id));
        self.actions.push_back(Action::Close { id });
        let Some(Stream { peer, role, bringer, .. }) = ended else { return };
        if bringer.is_some() {
            self.dissemination.note_bringer(None);
        }
        if role == Role::Telling {
            self.send_queues.end(peer, id);
            self.send_waiting(self.now, peer);
        }
    }

    /// Ends a stream that did not come to its proper end, and says why if that is `telling`.
    fn break_off(&mut self, now: Instant, id: StreamId, reason: String, telling: bool) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (peer, role) = (stream.peer, stream.role);
        match role {
            Role::Serving if telling => {
                // The other side learns what was wrong, as with memberlist.
                self.write(id, &StreamMessage::Error(Bytes::from(reason.clone())));
                self.reject(now, peer, Cause::Stream, &reason);
            }
            Role::Asking { seed: None } if telling => self.reject(now, peer, Cause::Stream, &reason),
            _ => {}
        }
        self.close(id);
        if let Role::Asking { seed: Some(index) } = role {
            self.end_join(now, index, Err(reason));
        }
    }
}

/// The name of a node of ours that knows nobody yet, if this is its view. It cannot know whom it asks, so
/// it has told no state; but it needs to hear of its former life before it says anything.
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
