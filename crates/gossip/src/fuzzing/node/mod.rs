//! A node among peers that say anything at any time.
//!
//! What must hold whatever they say: nothing panics; everything that could grow stays within its bound;
//! whatever the node sends can be read, and datagrams keep to their size; its timers never spin; it
//! never takes itself for anything but alive before it leaves; and what it believes of a member's identity, roles and
//! endpoints was told in that member's name in answer to a question that it was asked.

mod said;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;

use self::said::{Packet, View};
use crate::{
    config::{Config, NodeId, NodeInfo, Profile, Retention, Seed},
    membership::MemberState,
    node::{Action, Event, Node, NodeConfig, StreamId, StreamInput, fuzzing::Transcript},
    wire::{
        Message, packet,
        stream::{self, StreamMessage, StreamReader},
    },
};

/// The name of the node under test, whose place is 0.
const ME: &str = "me";
/// When it started, in microseconds since 1970.
const EPOCH: u64 = 1_000_000_000_000_000;
/// The checksum's, which is not counted when a packet is filled, as in memberlist.
const CHECKSUM: usize = 5;
/// How often in a row timers may be due at the same moment.
const SPIN: u32 = 1000;

/// What happens next.
#[derive(Arbitrary, Debug)]
enum Op {
    Datagram {
        from: u8,
        packet: Packet,
    },
    Wait {
        millis: u16,
    },
    /// Somebody is there, and answers pings for so many seconds.
    Meet {
        place: u8,
        seconds: u8,
    },
    /// What the node tells of itself is something else from now on.
    Change {
        id: u8,
        role: u8,
    },
    /// Somebody opens a stream.
    Stream {
        from: u8,
        said: OverStream,
        cut: Option<u8>,
    },
    /// What becomes of the oldest stream that the node has opened.
    Answer {
        said: Option<OverStream>,
        cut: Option<u8>,
    },
    Publish {
        len: u16,
    },
    Leave,
}

#[derive(Arbitrary, Debug)]
enum OverStream {
    View(View),
    Ack(u8),
    Ping(u8),
    User(said::Said),
    Error,
    Bytes(Vec<u8>),
}

/// Valid messages in any order, from anybody, with time passing: the state machine.
pub fn node(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(seeds) = u8::arbitrary(&mut input) else { return };
    let mut world = World::new(seeds % 3);
    while !input.is_empty() {
        let Ok(op) = Op::arbitrary(&mut input) else { return };
        world.run(op);
    }
}

/// What came over the network, as it was recorded: everything from the socket to the state machine.
///
/// The input is a list of records: a kind (a datagram, a stream from outside, the answer to the node's own
/// oldest stream, time), the peer's place, a length in two bytes, and so many bytes; as time the length
/// counts milliseconds.
pub fn session(data: &[u8]) {
    let mut world = World::new(1);
    let mut rest = data;
    while let Some((&[kind, from, high, low], tail)) = rest.split_first_chunk() {
        let len = u16::from_be_bytes([high, low]);
        if kind % 4 == 3 {
            world.wait(Duration::from_millis(len.into()));
            rest = tail;
            continue;
        }
        let (bytes, tail) = tail.split_at(tail.len().min(len.into()));
        match kind % 4 {
            0 => world.datagram(from, &Bytes::copy_from_slice(bytes)),
            1 => world.stream(from, bytes, None),
            _ => world.answer(Some(bytes), None),
        }
        rest = tail;
    }
}

fn addr(place: u8) -> SocketAddr {
    (Ipv4Addr::new(10, 0, 0, place), 7946).into()
}

fn name(place: u8) -> Bytes {
    if place == 0 { ME.into() } else { format!("node{place}").into() }
}

/// A node, and what it waits for.
struct World {
    node: Node,
    now: Instant,
    packet_max: usize,
    /// Streams that the node has opened, with what has been written to them.
    opened: VecDeque<StreamId>,
    lookups: VecDeque<Seed>,
    /// The numbers of its latest pings.
    pings: VecDeque<u32>,
    transcript: Transcript,
    leaving: bool,
}

impl World {
    fn new(seeds: u8) -> Self {
        let now = Instant::now();
        let tuning = Profile::Lan.tuning();
        let packet_max = tuning.udp_buffer_size + CHECKSUM;
        let config = Config::new(ME)
            .join((1..=seeds).map(|place| Seed { host: addr(place).ip().to_string(), port: 7946 }))
            .tuning(tuning)
            .retention(Retention { retain_messages: 16, retain_bytes: 8 << 20, ..Retention::default() })
            .replay(true)
            .info(info(0, 0));
        let config = NodeConfig { epoch: EPOCH, ..NodeConfig::new(config, addr(0)) };
        let mut world = Self {
            node: Node::new(now, config),
            now,
            packet_max,
            opened: VecDeque::new(),
            lookups: VecDeque::new(),
            pings: VecDeque::new(),
            transcript: Transcript::default(),
            leaving: false,
        };
        world.drain();
        world
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Datagram { from, packet } => {
                let packet = packet.encode(&self.pings, &self.transcript);
                self.datagram(from, &packet);
            }
            Op::Wait { millis } => self.wait(Duration::from_millis(millis.into())),
            Op::Meet { place, seconds } => self.meet(place, seconds % 8),
            Op::Change { id, role } => {
                self.node.update_info(self.now, info(id, role));
                self.drain();
            }
            Op::Stream { from, said, cut } => {
                let bytes = self.over_stream(&said);
                self.stream(from, &bytes, cut);
            }
            Op::Answer { said, cut } => {
                let bytes = said.map(|said| self.over_stream(&said));
                self.answer(bytes.as_deref(), cut);
            }
            Op::Publish { len } => {
                let value = format!("\"{}\"", "x".repeat(len.into()));
                // Refusals are to be expected.
                let _ = self.node.publish(self.now, "key", &value);
                self.drain();
            }
            Op::Leave => {
                self.leaving = true;
                self.node.leave(self.now);
                self.drain();
            }
        }
    }

    fn over_stream(&self, said: &OverStream) -> Vec<u8> {
        let message = match said {
            OverStream::View(view) => StreamMessage::PushPull(view.build()),
            OverStream::Ack(seq) => StreamMessage::Ack(said::ack(*seq, &self.pings)),
            OverStream::Ping(place) => StreamMessage::Ping(said::ping(1, *place, None)),
            OverStream::User(said) => StreamMessage::User(said.encode(&self.transcript).slice(1..)),
            OverStream::Error => StreamMessage::Error("no".into()),
            OverStream::Bytes(bytes) => return bytes.clone(),
        };
        stream::encode(&message, false)
    }

    fn meet(&mut self, place: u8, seconds: u8) {
        self.datagram(place, &said::alive(place));
        for _ in 0..seconds {
            self.wait(Duration::from_secs(1));
            for seq in 0..self.pings.len().min(4) as u8 {
                let ack = packet::encode_message(&Message::Ack(said::ack(seq, &self.pings)));
                self.datagram(place, &ack);
            }
        }
    }

    fn datagram(&mut self, from: u8, data: &Bytes) {
        let mut messages = Vec::new();
        // What can be read is heard, whatever comes behind it.
        let _ = packet::decode(data, &mut messages);
        self.heard(messages);
        self.node.handle_datagram(self.now, addr(from), data);
        self.drain();
    }

    fn stream(&mut self, from: u8, bytes: &[u8], cut: Option<u8>) {
        if let Some(id) = self.node.handle_accept(self.now, addr(from)) {
            self.feed(id, bytes, cut);
        }
        self.drain();
    }

    fn answer(&mut self, bytes: Option<&[u8]>, cut: Option<u8>) {
        if let Some(seed) = self.lookups.pop_front() {
            let ip = seed.host.parse().expect("all seeds are addresses");
            let result = if bytes.is_some() { Ok(vec![SocketAddr::new(ip, seed.port)]) } else { Err("no".into()) };
            self.node.handle_lookup(self.now, &seed, result);
            self.drain();
        }
        let Some(id) = self.opened.pop_front() else { return };
        match bytes {
            Some(bytes) => self.feed(id, bytes, cut),
            None => self.node.handle_stream(self.now, id, StreamInput::Failed("refused".into())),
        }
        self.drain();
    }

    /// What is said to the node of nodes.
    fn heard(&mut self, messages: Vec<Message>) {
        for message in messages {
            if let Message::User(payload) = message {
                self.transcript.heard(&payload);
            }
        }
    }

    /// Whole and to its end, or in two pieces, of which the second may never come.
    fn feed(&mut self, id: StreamId, bytes: &[u8], cut: Option<u8>) {
        if let Ok(Some(StreamMessage::User(payload))) = StreamReader::new().push(bytes) {
            self.heard(unbundled(&payload));
        }
        let (first, second) = bytes.split_at(cut.map_or(bytes.len(), usize::from).min(bytes.len()));
        self.node.handle_stream(self.now, id, StreamInput::Data(first));
        self.drain();
        if cut.is_none_or(|cut| cut % 2 == 0) {
            self.node.handle_stream(self.now, id, StreamInput::Data(second));
            self.drain();
            self.node.handle_stream(self.now, id, StreamInput::Closed);
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        let mut spins = 0;
        while let Some(due) = self.node.poll_timeout().filter(|due| *due <= end) {
            spins = if due > self.now { 0 } else { spins + 1 };
            assert!(spins < SPIN, "a timer is due again and again");
            self.now = self.now.max(due);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
        self.node.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.node.poll_transmit() {
            let len = transmit.payload.len();
            assert!(len <= self.packet_max, "a datagram of {len} bytes");
            let mut messages = Vec::new();
            packet::decode(&transmit.payload, &mut messages).expect("what a node sends can be read");
            for message in messages {
                self.sent(Some(transmit.to), message);
            }
        }
        self.pings.truncate(16);
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Connect { id, .. } => self.opened.push_back(id),
                Action::Write { data, .. } => {
                    let read = StreamReader::new().push(&data).expect("what a node sends can be read");
                    let message = read.expect("a message is written as a whole");
                    if let StreamMessage::User(payload) = message {
                        // It may have waited, and whom it is for may have moved.
                        unbundled(&payload).into_iter().for_each(|message| self.sent(None, message));
                    }
                }
                Action::Close { .. } => {}
                Action::Lookup { seed } => self.lookups.push_back(seed),
                Action::GuessAddress { .. } | Action::CheckAddress { .. } => {}
            }
        }
        while self.node.poll_message().is_some() {}
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::LeaveComplete => self.leaving = true,
                Event::InfoReceived { name, info } => {
                    assert!(self.transcript.is_told(name.as_bytes(), &info), "nobody has told {info:?} for {name}");
                }
                _ => {}
            }
        }
        self.check();
    }

    fn sent(&mut self, to: Option<SocketAddr>, message: Message) {
        match message {
            Message::Ping(ping) => self.pings.push_front(ping.seq),
            Message::User(payload) => {
                let there = self.node.records().filter(|record| to.is_none_or(|to| record.addr() == to));
                let names = there.map(|record| Bytes::copy_from_slice(record.name.as_bytes()));
                self.transcript.sent(&payload, names);
            }
            _ => {}
        }
    }

    fn check(&self) {
        for size in self.node.sizes() {
            assert!(size.held <= size.bound, "{size:?}");
        }
        let (state, _) = self.node.standing();
        assert!(state == MemberState::Alive || self.leaving, "it takes itself for {state:?}");
    }
}

fn info(id: u8, role: u8) -> NodeInfo {
    NodeInfo::new(NodeId::from(u64::from(id))).role(format!("role{role}"))
}

/// The messages that are in one, or that one.
fn unbundled(payload: &Bytes) -> Vec<Message> {
    let parts = crate::node::parts_of(payload);
    if parts.is_empty() {
        return vec![Message::User(payload.clone())];
    }
    let mut messages = Vec::new();
    for part in parts {
        // What can be read is heard.
        let _ = packet::decode(&part, &mut messages);
    }
    messages
}
