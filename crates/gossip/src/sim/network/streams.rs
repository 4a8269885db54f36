//! Streams between hosts, as TCP has them: segments keep their order, lost ones are sent again, and a stream that gets nothing
//! through for long enough breaks.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    Network, Step,
    host::{ConnectionId, HostId, ScheduledEvent, Side},
    paths,
};
use crate::{
    node::{StreamId, StreamInput},
    sim::event_queue::{VirtualTime, nanos},
};

/// How often a blocked stream tries again.
const RETRY: Duration = Duration::from_millis(250);

#[derive(Debug)]
enum Segment {
    Open,
    Data(Bytes),
    Close,
    Reset,
}

impl Segment {
    /// Its bytes on the wire, with TCP's headers.
    fn len(&self) -> usize {
        const HEADER: usize = 40;
        match self {
            Self::Data(data) => HEADER + data.len(),
            Self::Open | Self::Close | Self::Reset => HEADER,
        }
    }
}

#[derive(Debug, Default)]
struct Flow {
    segments: VecDeque<(VirtualTime, Segment)>,
    /// When the last segment arrives.
    last: VirtualTime,
    blocked_since: Option<VirtualTime>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection {
    to: SocketAddr,
    /// The host at each end, as far as it is known, and the stream's number at its node, while the node uses it.
    hosts: [Option<HostId>; 2],
    ends: [Option<StreamId>; 2],
    flows: [Flow; 2],
}

impl Network {
    pub(super) fn connect(&mut self, host: HostId, id: StreamId, to: SocketAddr) {
        let connection = self.next_connection;
        self.next_connection += 1;
        let hosts = [Some(host), None];
        self.connections
            .insert(connection, Connection { to, hosts, ends: [Some(id), None], flows: Default::default() });
        self.hosts[host].streams.insert(id, (connection, Side::Opener));
        self.push(connection, Side::Acceptor, Segment::Open);
    }

    pub(super) fn write(&mut self, host: HostId, id: StreamId, data: Bytes) {
        if let Some(&(connection, side)) = self.hosts[host].streams.get(&id) {
            self.hosts[host].traffic.stream_bytes += data.len() as u64;
            self.push(connection, side.other(), Segment::Data(data));
        }
    }

    pub(super) fn close(&mut self, host: HostId, id: StreamId) {
        if let Some((connection, side)) = self.hosts[host].streams.remove(&id) {
            self.push(connection, side.other(), Segment::Close);
            self.end(connection, side);
        }
    }

    /// Resets all streams of a host, as its node is gone.
    pub(super) fn reset_streams(&mut self, host: HostId) {
        for (_, (connection, side)) in std::mem::take(&mut self.hosts[host].streams) {
            self.push(connection, side.other(), Segment::Reset);
            self.end(connection, side);
        }
    }

    /// Breaks all streams of a host, as its address is gone. Neither end is told.
    pub(super) fn abandon_streams(&mut self, host: HostId) {
        for (_, (id, side)) in std::mem::take(&mut self.hosts[host].streams) {
            let Some(connection) = self.connections.remove(&id) else { continue };
            let other = side.other() as usize;
            if let (Some(host), Some(stream)) = (connection.hosts[other], connection.ends[other]) {
                self.hosts[host].streams.remove(&stream);
            }
        }
    }

    fn push(&mut self, id: ConnectionId, side: Side, segment: Segment) {
        let delay = self.link.segment(&mut self.rng);
        let is_clear = self.paths.are_clear();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let flow = &mut connection.flows[side as usize];
        let was_empty = flow.segments.is_empty();
        let at = flow.last.max(self.now + nanos(delay));
        flow.last = at;
        match segment {
            // Shares a slow link segment by segment.
            Segment::Data(mut data) if !is_clear => {
                while data.len() > paths::SEGMENT {
                    flow.segments.push_back((at, Segment::Data(data.split_to(paths::SEGMENT))));
                }
                flow.segments.push_back((at, Segment::Data(data)));
            }
            segment => flow.segments.push_back((at, segment)),
        }
        if was_empty {
            self.send_next(id, side);
        }
    }

    /// Puts the next segment of a flow on its way, if there is one.
    fn send_next(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get(&id) else { return };
        let Some((at, segment)) = connection.flows[side as usize].segments.front() else { return };
        let (mut at, len) = ((*at).max(self.now), segment.len());
        if !self.paths.are_clear() {
            let target = self.target(connection, side);
            if let Some(source) = connection.hosts[side.other() as usize] {
                at = at.max(self.paths.segment(self.now, source, target, len));
            }
        }
        self.at(at, ScheduledEvent::Flow { connection: id, side });
    }

    /// The host that a flow leads to, if there is one.
    fn target(&self, connection: &Connection, side: Side) -> Option<HostId> {
        match side {
            Side::Opener => connection.hosts[side as usize],
            Side::Acceptor => connection.hosts[side as usize].or_else(|| self.host_at(connection.to)),
        }
    }

    /// One end has closed. The stream is removed when both have, and none is about to be opened.
    fn end(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.ends[side as usize] = None;
        let opening = connection.hosts[Side::Acceptor as usize].is_none()
            && !connection.flows[Side::Acceptor as usize].segments.is_empty();
        if connection.ends == [None, None] && !opening {
            self.connections.remove(&id);
        }
    }

    /// Processes the arrival of the next segment of a flow.
    pub(super) fn flow(&mut self, id: ConnectionId, side: Side) -> Option<Step> {
        let connection = self.connections.get(&id)?;
        let target = self.target(connection, side);
        let source = connection.hosts[side.other() as usize];
        if let (Some(source), Some(target)) = (source, target) {
            if !self.is_connected(source, target) {
                return self.block(id, side);
            }
            if self.hosts[target].is_stalled() {
                self.hosts[target].inbox.push_back(ScheduledEvent::Flow { connection: id, side });
                return None;
            }
        }
        let connection = self.connections.get_mut(&id)?;
        let flow = &mut connection.flows[side as usize];
        flow.blocked_since = None;
        let (_, segment) = flow.segments.pop_front()?;
        self.send_next(id, side);
        self.arrive(id, side, target, segment)
    }

    fn arrive(&mut self, id: ConnectionId, side: Side, target: Option<HostId>, segment: Segment) -> Option<Step> {
        if let Segment::Open = segment {
            let connection = self.connections.get_mut(&id)?;
            let opener = connection.hosts[Side::Opener as usize]?;
            let running = target.filter(|target| self.hosts[*target].node.is_some());
            let from = self.hosts[opener].sends_from();
            let Some(target) = running else {
                self.push(id, Side::Opener, Segment::Reset);
                return None;
            };
            connection.hosts[side as usize] = Some(target);
            self.record("connection", target, &[]);
            match self.with(target, |node, now| node.handle_accept(now, from)).flatten() {
                Some(stream) => {
                    self.hosts[target].streams.insert(stream, (id, side));
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.ends[side as usize] = Some(stream);
                    }
                }
                None => self.push(id, Side::Opener, Segment::Reset),
            }
            return Some(Step::Host(target));
        }
        let connection = self.connections.get(&id)?;
        let (Some(target), Some(stream)) = (target, connection.ends[side as usize]) else {
            // Both ends have closed: the last segment removes the stream.
            if connection.ends == [None, None] && connection.flows[side as usize].segments.is_empty() {
                self.connections.remove(&id);
            }
            return None;
        };
        let done = match &segment {
            Segment::Data(data) => {
                self.record("stream data", target, data);
                self.with(target, |node, now| node.handle_stream(now, stream, StreamInput::Data(data)));
                false
            }
            Segment::Close => {
                self.record("stream end", target, &[]);
                self.with(target, |node, now| node.handle_stream(now, stream, StreamInput::Closed));
                true
            }
            Segment::Open | Segment::Reset => {
                self.record("stream reset", target, &[]);
                let reason = "connection refused or reset".to_owned();
                self.with(target, |node, now| node.handle_stream(now, stream, StreamInput::Failed(reason)));
                true
            }
        };
        if done {
            self.hosts[target].streams.remove(&stream);
            self.end(id, side);
        }
        Some(Step::Host(target))
    }

    /// A partition blocks a flow: it tries again, until it gives up.
    fn block(&mut self, id: ConnectionId, side: Side) -> Option<Step> {
        let (now, limit) = (self.now, nanos(self.link.stream_timeout));
        let connection = self.connections.get_mut(&id)?;
        let flow = &mut connection.flows[side as usize];
        let since = *flow.blocked_since.get_or_insert(now);
        if now - since < limit {
            self.after(RETRY, ScheduledEvent::Flow { connection: id, side });
            return None;
        }
        // Only the sending end notices. What it has sent is lost.
        flow.segments.clear();
        let sender = side.other();
        let connection = self.connections.get(&id)?;
        let noticed = connection.hosts[sender as usize].zip(connection.ends[sender as usize]);
        if let Some((host, stream)) = noticed {
            self.record("stream timeout", host, &[]);
            let reason = "connection timed out".to_owned();
            self.with(host, |node, now| node.handle_stream(now, stream, StreamInput::Failed(reason)));
            self.hosts[host].streams.remove(&stream);
        }
        self.end(id, sender);
        noticed.map(|(host, _)| Step::Host(host))
    }
}
