//! A node among peers that send anything at any time.
//!
//! Whatever they send, these properties must hold: nothing panics; everything that can grow keeps to its bound; whatever the
//! node sends can be decoded, and its datagrams keep to their size; its timers never spin; it never believes itself anything but
//! alive before it leaves; and what it believes of a member's identity, roles and endpoints was an answer in that member's name
//! to a question to that member.

mod messages;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;

use self::messages::{Packet, View};
use crate::{
    config::{Config, NodeId, NodeInfo, Profile, Retention, Seed},
    membership::MemberState,
    node::{Action, Event, Node, NodeConfig, StreamId, StreamInput, fuzzing::Transcript},
    wire::{
        Message, packet,
        stream::{self, StreamMessage, StreamReader},
    },
};

/// The name of the node under test, which is peer 0.
const ME: &str = "me";
/// When it started, in microseconds since 1970.
const EPOCH: u64 = 1_000_000_000_000_000;
/// The length of a checksum, which does not count when a packet is filled, as in memberlist.
const CHECKSUM_LEN: usize = 5;
/// How often in a row timers may be due at the same time.
const MAX_SPINS: u32 = 1000;

/// The next step of the input.
#[derive(Arbitrary, Debug)]
enum Step {
    Datagram {
        from: u8,
        packet: Packet,
    },
    Wait {
        millis: u16,
    },
    /// A peer announces itself, and answers pings for so many seconds.
    Introduce {
        peer: u8,
        seconds: u8,
    },
    /// The node under test changes its own info.
    UpdateInfo {
        id: u8,
        role: u8,
    },
    /// A peer opens a stream.
    Stream {
        from: u8,
        content: StreamContent,
        cut: Option<u8>,
    },
    /// What the oldest stream that the node has opened answers; `None` if it fails.
    Answer {
        content: Option<StreamContent>,
        cut: Option<u8>,
    },
    Publish {
        len: u16,
    },
    Leave,
}

/// What a peer sends over a stream.
#[derive(Arbitrary, Debug)]
enum StreamContent {
    View(View),
    Ack(u8),
    Ping(u8),
    User(messages::UserMessage),
    Error,
    Bytes(Vec<u8>),
}

/// Tests the state machine: valid messages of any peer, in any order and at any time.
pub fn node(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(seeds) = u8::arbitrary(&mut input) else { return };
    let mut harness = Harness::new(seeds % 3);
    while !input.is_empty() {
        let Ok(step) = Step::arbitrary(&mut input) else { return };
        harness.apply(step);
    }
}

/// Replays recorded network traffic: tests everything from the socket to the state machine.
///
/// The input is a list of records: a kind (a datagram, a stream from outside, the answer to the node's own oldest stream, or
/// time), the peer's number, a length in two bytes, and so many bytes. For time, the length is in milliseconds.
pub fn session(data: &[u8]) {
    let mut harness = Harness::new(1);
    let mut rest = data;
    while let Some((&[kind, from, high, low], tail)) = rest.split_first_chunk() {
        let len = u16::from_be_bytes([high, low]);
        if kind % 4 == 3 {
            harness.wait(Duration::from_millis(len.into()));
            rest = tail;
            continue;
        }
        let (bytes, tail) = tail.split_at(tail.len().min(len.into()));
        match kind % 4 {
            0 => harness.datagram(from, &Bytes::copy_from_slice(bytes)),
            1 => harness.stream(from, bytes, None),
            _ => harness.answer(Some(bytes), None),
        }
        rest = tail;
    }
}

fn addr(peer: u8) -> SocketAddr {
    (Ipv4Addr::new(10, 0, 0, peer), 7946).into()
}

fn name(peer: u8) -> Bytes {
    if peer == 0 { ME.into() } else { format!("node{peer}").into() }
}

/// The node under test, and what it waits for.
struct Harness {
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

impl Harness {
    fn new(seeds: u8) -> Self {
        let now = Instant::now();
        let tuning = Profile::Lan.tuning();
        let packet_max = tuning.udp_buffer_size + CHECKSUM_LEN;
        let config = Config::new(ME)
            .join((1..=seeds).map(|peer| Seed { host: addr(peer).ip().to_string(), port: 7946 }))
            .tuning(tuning)
            .retention(Retention { retain_messages: 16, retain_bytes: 8 << 20, ..Retention::default() })
            .replay(true)
            .info(info(0, 0));
        let config = NodeConfig { epoch: EPOCH, ..NodeConfig::new(config, addr(0)) };
        let mut harness = Self {
            node: Node::new(now, config),
            now,
            packet_max,
            opened: VecDeque::new(),
            lookups: VecDeque::new(),
            pings: VecDeque::new(),
            transcript: Transcript::default(),
            leaving: false,
        };
        harness.drain();
        harness
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Datagram { from, packet } => {
                let packet = packet.encode(&self.pings, &self.transcript);
                self.datagram(from, &packet);
            }
            Step::Wait { millis } => self.wait(Duration::from_millis(millis.into())),
            Step::Introduce { peer, seconds } => self.introduce(peer, seconds % 8),
            Step::UpdateInfo { id, role } => {
                self.node.update_info(self.now, info(id, role));
                self.drain();
            }
            Step::Stream { from, content, cut } => {
                let bytes = self.encode_content(&content);
                self.stream(from, &bytes, cut);
            }
            Step::Answer { content, cut } => {
                let bytes = content.map(|content| self.encode_content(&content));
                self.answer(bytes.as_deref(), cut);
            }
            Step::Publish { len } => {
                let value = format!("\"{}\"", "x".repeat(len.into()));
                // It may be refused.
                let _ = self.node.publish(self.now, "key", &value);
                self.drain();
            }
            Step::Leave => {
                self.leaving = true;
                self.node.leave(self.now);
                self.drain();
            }
        }
    }

    fn encode_content(&self, content: &StreamContent) -> Vec<u8> {
        let message = match content {
            StreamContent::View(view) => StreamMessage::PushPull(view.build()),
            StreamContent::Ack(seq) => StreamMessage::Ack(messages::ack(*seq, &self.pings)),
            StreamContent::Ping(peer) => StreamMessage::Ping(messages::ping(1, *peer, None)),
            StreamContent::User(content) => StreamMessage::User(content.encode(&self.transcript).slice(1..)),
            StreamContent::Error => StreamMessage::Error("no".into()),
            StreamContent::Bytes(bytes) => return bytes.clone(),
        };
        stream::encode(&message, false)
    }

    fn introduce(&mut self, peer: u8, seconds: u8) {
        self.datagram(peer, &messages::alive(peer));
        for _ in 0..seconds {
            self.wait(Duration::from_secs(1));
            for seq in 0..self.pings.len().min(4) as u8 {
                let ack = packet::encode_message(&Message::Ack(messages::ack(seq, &self.pings)));
                self.datagram(peer, &ack);
            }
        }
    }

    fn datagram(&mut self, from: u8, data: &Bytes) {
        let mut messages = Vec::new();
        // The messages before an error are received.
        let _ = packet::decode(data, &mut messages);
        self.note_received(messages);
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

    /// Notes what the node is told about identities.
    fn note_received(&mut self, messages: Vec<Message>) {
        for message in messages {
            if let Message::User(payload) = message {
                self.transcript.heard(&payload);
            }
        }
    }

    /// Hands over a stream as a whole and with its end, or in two pieces, of which the second may never come.
    fn feed(&mut self, id: StreamId, bytes: &[u8], cut: Option<u8>) {
        if let Ok(Some(StreamMessage::User(payload))) = StreamReader::new().push(bytes) {
            self.note_received(unbundled(&payload));
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
            assert!(spins < MAX_SPINS, "a timer is due again and again");
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
                self.note_sent(Some(transmit.to), message);
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
                        // It may have waited, and its receiver may have moved.
                        unbundled(&payload).into_iter().for_each(|message| self.note_sent(None, message));
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

    fn note_sent(&mut self, to: Option<SocketAddr>, message: Message) {
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

/// The messages in a bundle, or the message itself.
fn unbundled(payload: &Bytes) -> Vec<Message> {
    let parts = crate::node::parts_of(payload);
    if parts.is_empty() {
        return vec![Message::User(payload.clone())];
    }
    let mut messages = Vec::new();
    for part in parts {
        // The messages before an error are received.
        let _ = packet::decode(&part, &mut messages);
    }
    messages
}
