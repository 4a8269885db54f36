//! Streams between hosts: pieces keep their order, what is lost is sent again, and a stream that gets
//! nothing through for long enough breaks, as TCP's do.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    agenda::Time,
    network::{Due, HostId, Network, Step},
    paths,
};
use crate::node::{StreamId, StreamInput};

/// A stream, by the order in which they were opened.
pub(super) type LineId = u64;

/// How often a stream that gets nothing through tries again.
const RETRY: Duration = Duration::from_millis(250);

/// One end of a stream, by where it was opened; and what flows towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Opener = 0,
    Acceptor = 1,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }
}

#[derive(Debug)]
enum Segment {
    Open,
    Data(Bytes),
    Close,
    Reset,
}

impl Segment {
    /// Its bytes on the wire, with TCP's own.
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
    segments: VecDeque<(Time, Segment)>,
    /// When the last piece arrives.
    last: Time,
    blocked_since: Option<Time>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Line {
    to: SocketAddr,
    /// The host at each end, as far as it is known, and what its node calls the stream while it wants
    /// something from it.
    hosts: [Option<HostId>; 2],
    ends: [Option<StreamId>; 2],
    flows: [Flow; 2],
}

impl Network {
    pub(super) fn connect(&mut self, host: HostId, id: StreamId, to: SocketAddr) {
        let line = self.next_line;
        self.next_line += 1;
        let hosts = [Some(host), None];
        self.lines.insert(line, Line { to, hosts, ends: [Some(id), None], flows: Default::default() });
        self.hosts[host].streams.insert(id, (line, Way::Opener));
        self.push(line, Way::Acceptor, Segment::Open);
    }

    pub(super) fn write(&mut self, host: HostId, id: StreamId, data: Bytes) {
        if let Some(&(line, way)) = self.hosts[host].streams.get(&id) {
            self.hosts[host].traffic.stream_bytes += data.len() as u64;
            self.push(line, way.other(), Segment::Data(data));
        }
    }

    pub(super) fn close(&mut self, host: HostId, id: StreamId) {
        if let Some((line, way)) = self.hosts[host].streams.remove(&id) {
            self.push(line, way.other(), Segment::Close);
            self.end(line, way);
        }
    }

    /// A host's node is gone: its host says so to whoever sends to it.
    pub(super) fn reset_streams(&mut self, host: HostId) {
        for (_, (line, way)) in std::mem::take(&mut self.hosts[host].streams) {
            self.push(line, way.other(), Segment::Reset);
            self.end(line, way);
        }
    }

    /// The address of a host has gone: what it has open leads nowhere, which neither end is told.
    pub(super) fn abandon_streams(&mut self, host: HostId) {
        for (_, (id, way)) in std::mem::take(&mut self.hosts[host].streams) {
            let Some(line) = self.lines.remove(&id) else { continue };
            let other = way.other() as usize;
            if let (Some(host), Some(stream)) = (line.hosts[other], line.ends[other]) {
                self.hosts[host].streams.remove(&stream);
            }
        }
    }

    fn push(&mut self, id: LineId, way: Way, segment: Segment) {
        let delay = self.link.segment(&mut self.rng);
        let is_clear = self.paths.are_clear();
        let Some(line) = self.lines.get_mut(&id) else { return };
        let flow = &mut line.flows[way as usize];
        let was_empty = flow.segments.is_empty();
        let at = flow.last.max(self.now + delay.as_nanos() as u64);
        flow.last = at;
        match segment {
            // On a slow link its pieces come one by one.
            Segment::Data(mut data) if !is_clear => {
                while data.len() > paths::SEGMENT {
                    flow.segments.push_back((at, Segment::Data(data.split_to(paths::SEGMENT))));
                }
                flow.segments.push_back((at, Segment::Data(data)));
            }
            segment => flow.segments.push_back((at, segment)),
        }
        if was_empty {
            self.send_next(id, way);
        }
    }

    /// Puts the next piece of a flow on its way, if there is one.
    fn send_next(&mut self, id: LineId, way: Way) {
        let Some(line) = self.lines.get(&id) else { return };
        let Some((at, segment)) = line.flows[way as usize].segments.front() else { return };
        let (mut at, len) = ((*at).max(self.now), segment.len());
        if !self.paths.are_clear() {
            let target = match way {
                Way::Opener => line.hosts[way as usize],
                Way::Acceptor => line.hosts[way as usize].or_else(|| self.host_at(line.to)),
            };
            if let Some(source) = line.hosts[way.other() as usize] {
                at = at.max(self.paths.segment(self.now, source, target, len));
            }
        }
        self.at(at, Due::Flow { line: id, way });
    }

    /// An end wants nothing more. The stream is gone when nobody wants anything from it: neither an end,
    /// nor one to come.
    fn end(&mut self, id: LineId, way: Way) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.ends[way as usize] = None;
        let opening =
            line.hosts[Way::Acceptor as usize].is_none() && !line.flows[Way::Acceptor as usize].segments.is_empty();
        if line.ends == [None, None] && !opening {
            self.lines.remove(&id);
        }
    }

    /// Lets the next piece of a flow arrive.
    pub(super) fn flow(&mut self, id: LineId, way: Way) -> Option<Step> {
        let line = self.lines.get(&id)?;
        let target = match way {
            Way::Opener => line.hosts[way as usize],
            Way::Acceptor => line.hosts[way as usize].or_else(|| self.host_at(line.to)),
        };
        let source = line.hosts[way.other() as usize];
        if let (Some(source), Some(target)) = (source, target) {
            if !self.passes(source, target) {
                return self.block(id, way);
            }
            if self.hosts[target].holds() {
                self.hosts[target].held.push_back(Due::Flow { line: id, way });
                return None;
            }
        }
        let line = self.lines.get_mut(&id)?;
        let flow = &mut line.flows[way as usize];
        flow.blocked_since = None;
        let (_, segment) = flow.segments.pop_front()?;
        self.send_next(id, way);
        self.arrive(id, way, target, segment)
    }

    fn arrive(&mut self, id: LineId, way: Way, target: Option<HostId>, segment: Segment) -> Option<Step> {
        if let Segment::Open = segment {
            let line = self.lines.get_mut(&id)?;
            let opener = line.hosts[Way::Opener as usize]?;
            let running = target.filter(|target| self.hosts[*target].node.is_some());
            let from = self.hosts[opener].sends_from();
            let Some(target) = running else {
                self.push(id, Way::Opener, Segment::Reset);
                return None;
            };
            line.hosts[way as usize] = Some(target);
            self.record("connection", target, &[]);
            match self.with(target, |node, now| node.handle_accept(now, from)).flatten() {
                Some(stream) => {
                    self.hosts[target].streams.insert(stream, (id, way));
                    if let Some(line) = self.lines.get_mut(&id) {
                        line.ends[way as usize] = Some(stream);
                    }
                }
                None => self.push(id, Way::Opener, Segment::Reset),
            }
            return Some(Step::Host(target));
        }
        let line = self.lines.get(&id)?;
        let (Some(target), Some(stream)) = (target, line.ends[way as usize]) else {
            // Nobody listens, and an opener that has gone waits for nothing: the last piece ends it.
            if line.ends == [None, None] && line.flows[way as usize].segments.is_empty() {
                self.lines.remove(&id);
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
            self.end(id, way);
        }
        Some(Step::Host(target))
    }

    /// The network is cut in the way of a flow: it tries again, until it gives up.
    fn block(&mut self, id: LineId, way: Way) -> Option<Step> {
        let (now, limit) = (self.now, self.link.stream_timeout.as_nanos() as u64);
        let line = self.lines.get_mut(&id)?;
        let flow = &mut line.flows[way as usize];
        let since = *flow.blocked_since.get_or_insert(now);
        if now - since < limit {
            self.after(RETRY, Due::Flow { line: id, way });
            return None;
        }
        // The sending side notices; what it had to say is lost. The other end waits on by itself.
        flow.segments.clear();
        let sender = way.other();
        let line = self.lines.get(&id)?;
        let told = line.hosts[sender as usize].zip(line.ends[sender as usize]);
        if let Some((host, stream)) = told {
            self.record("stream timeout", host, &[]);
            let reason = "connection timed out".to_owned();
            self.with(host, |node, now| node.handle_stream(now, stream, StreamInput::Failed(reason)));
            self.hosts[host].streams.remove(&stream);
        }
        self.end(id, sender);
        told.map(|(host, _)| Step::Host(host))
    }
}
