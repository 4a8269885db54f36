//! One node's membership under a virtual clock: memberlist's own cases for its probe, local health and
//! suspicion (`memberlist_test.go`, `state_test.go`), restated.

use std::time::Duration;

use super::super::*;
use crate::wire::{Ack, IndirectPing, Nack, Suspect};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NEW: Versions = [1, 5, 2, 0, 0, 0];

/// A node called `me` that knows some others, and what it sends.
struct ProbingNode {
    now: Instant,
    membership: Membership,
}

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 7946))
}

fn name(host: u8) -> String {
    format!("n{host}")
}

impl ProbingNode {
    /// It knows `n1`, `n2`, … with these versions, each at the address of its number.
    fn with(tuning: Tuning, others: &[Versions]) -> Self {
        let now = Instant::now();
        let membership = Membership::new(now, &Config::new("me").tuning(tuning), addr(0).into(), NEW, 1);
        let mut this = Self { now, membership };
        for (host, versions) in (1..).zip(others) {
            let (node, address) = (Bytes::from(name(host)), addr(host).into());
            let alive = Alive { incarnation: 1, node, address, meta: Bytes::new(), versions: Some(*versions) };
            this.receive(host, Message::Alive(alive));
            this.membership.mark_proven(&name(host).as_str().into());
        }
        this.sent();
        this
    }

    fn lan(others: u8) -> Self {
        Self::with(crate::config::Profile::Lan.tuning(), &vec![NEW; others.into()])
    }

    fn receive(&mut self, from: u8, message: Message) {
        self.membership.handle(self.now, addr(from), message).expect("it is believed");
    }

    /// Lets time pass, doing what is due when it is due.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.membership.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.membership.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// What it wants done since the last time.
    fn outputs(&mut self) -> Vec<MembershipOutput> {
        std::iter::from_fn(|| self.membership.poll_output()).collect()
    }

    /// The messages it sends since the last time, and to whom.
    fn sent(&mut self) -> Vec<(SocketAddr, Vec<Message>)> {
        let packets = self.outputs().into_iter().filter_map(|output| match output {
            MembershipOutput::Packet { to, messages, .. } => {
                let mut decoded = Vec::new();
                for message in messages {
                    packet::decode(&message, &mut decoded).expect("it sends what can be read");
                }
                Some((to.addr, decoded))
            }
            _ => None,
        });
        packets.collect()
    }

    /// Waits for the next probe: whom it pings, and its number.
    fn next_probe(&mut self) -> (u8, u32) {
        for _ in 0..10_000 {
            self.advance(MS);
            for (to, messages) in self.sent() {
                if let Some(Message::Ping(ping)) = messages.first() {
                    let host = (1..=9).find(|host| addr(*host) == to).expect("one of the others");
                    return (host, ping.seq);
                }
            }
        }
        panic!("it does not probe");
    }

    /// Fails the next probe; each of the first few helpers answers with a nack. Gives the new score.
    fn fail_probe(&mut self, nacks: u32) -> u32 {
        let (target, seq) = self.next_probe();
        self.advance(900 * MS);
        for _ in 0..nacks {
            self.receive(9, Message::Nack(Nack { seq }));
        }
        let held_up = SECOND * self.membership.health_score();
        self.advance(99 * MS + held_up);
        assert_eq!(self.state(target), MemberState::Alive, "it is suspected too early");
        self.advance(2 * MS);
        assert_eq!(self.state(target), MemberState::Suspect);
        self.membership.health_score()
    }

    fn acknowledge(&mut self, from: u8, seq: u32, payload: &'static [u8]) {
        self.receive(from, Message::Ack(Ack { seq, payload: Bytes::from_static(payload) }));
    }

    fn state(&self, host: u8) -> MemberState {
        self.membership.get(name(host).as_bytes()).expect("it is known").state()
    }

    fn rtt(&self, host: u8) -> Option<Duration> {
        self.membership.get(name(host).as_bytes()).expect("it is known").to_member().rtt
    }

    fn suspect(&mut self, host: u8, from: &str) {
        let (node, from) = (Bytes::from(name(host)), Bytes::copy_from_slice(from.as_bytes()));
        self.receive(9, Message::Suspect(Suspect { incarnation: 1, node, from }));
    }
}

#[test]
fn views_are_exchanged_more_rarely_in_large_clusters() {
    for (n, scale) in [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3), (128, 3), (256, 4), (1000, 6), (10_000, 10)] {
        assert_eq!(push_pull_scale(n), scale, "n {n}");
    }
}

#[test]
fn a_missed_ack_costs_health_and_an_ack_restores_it() {
    // Nobody can be asked for help, so that there are no nacks to go by.
    let mut prober = ProbingNode::lan(1);
    assert_eq!(prober.fail_probe(0), 1);
    let (target, seq) = prober.next_probe();
    prober.acknowledge(target, seq, b"");
    assert_eq!(prober.membership.health_score(), 0);
}

#[test]
fn missed_nacks_cost_health_and_nacks_do_not() {
    for (nacks, score) in [(3, 0), (2, 1), (1, 2), (0, 3)] {
        assert_eq!(ProbingNode::lan(4).fail_probe(nacks), score, "{nacks} of 3 nacks");
    }
}

#[test]
fn helpers_that_know_no_nacks_are_not_expected_to_send_any() {
    let old = [1, 3, 2, 0, 0, 0];
    assert_eq!(ProbingNode::with(crate::config::Profile::Lan.tuning(), &[old; 4]).fail_probe(0), 1);
}

#[test]
fn a_refutation_costs_health() {
    let mut prober = ProbingNode::lan(2);
    let (node, from) = (Bytes::from_static(b"me"), Bytes::from_static(b"n1"));
    prober.receive(1, Message::Suspect(Suspect { incarnation: 1, node, from }));
    assert_eq!(prober.membership.health_score(), 1);
    assert_eq!(prober.membership.me().incarnation, 2);
}

#[test]
fn a_node_in_bad_health_gives_others_more_time() {
    let mut prober = ProbingNode::lan(2);
    let (node, from) = (Bytes::from_static(b"me"), Bytes::from_static(b"n1"));
    prober.receive(1, Message::Suspect(Suspect { incarnation: 1, node, from }));
    // That the target is not suspected before two seconds have passed, `fail_probe` checks.
    assert_eq!(prober.fail_probe(0), 2, "one helper, whose nack is missing");
}

#[test]
fn a_suspect_is_told_so_with_the_ping() {
    for (buddy, told) in [(true, vec!["ping", "suspect"]), (false, vec!["ping"])] {
        let tuning = Tuning { buddy, ..crate::config::Profile::Lan.tuning() };
        let mut prober = ProbingNode::with(tuning, &[NEW]);
        prober.suspect(1, "n2");
        let mut first = Vec::new();
        while first.is_empty() {
            prober.advance(MS);
            first = prober.sent();
        }
        let (to, messages) = &first[0];
        let words = messages.iter().map(|message| match message {
            Message::Ping(_) => "ping",
            Message::Suspect(suspect) if *suspect.from == *b"me" && suspect.incarnation == 1 => "suspect",
            other => panic!("{other:?}"),
        });
        assert_eq!((*to, words.collect::<Vec<_>>()), (addr(1), told));
    }
}

#[test]
fn a_ping_for_another_is_answered_with_its_ack_or_with_a_nack_in_time() {
    for answered in [true, false] {
        let mut prober = ProbingNode::lan(2);
        let ask = IndirectPing { seq: 77, target: addr(2).into(), node: "n2".into(), nack: true, source: None };
        prober.receive(1, Message::IndirectPing(ask));
        let sent = prober.sent();
        let [(to, messages)] = &sent[..] else { panic!("{sent:?}") };
        let Some(Message::Ping(ping)) = messages.first() else { panic!("{sent:?}") };
        assert_eq!(*to, addr(2));
        if answered {
            prober.acknowledge(2, ping.seq, b"not for the asker");
        }
        // Less than the asker waits for.
        prober.advance(450 * MS);
        let to_asker: Vec<_> = prober.sent().into_iter().filter(|(to, _)| *to == addr(1)).collect();
        let wanted = if answered {
            Message::Ack(Ack { seq: 77, payload: Bytes::new() })
        } else {
            Message::Nack(Nack { seq: 77 })
        };
        assert!(to_asker.iter().any(|(_, messages)| messages.first() == Some(&wanted)), "{to_asker:?}");
    }
}

#[test]
fn who_does_not_answer_packets_is_pinged_over_a_stream_as_long_as_the_probe_lasts() {
    for (max_version, streams) in [(5, 1), (2, 0)] {
        let mut prober = ProbingNode::with(crate::config::Profile::Lan.tuning(), &[[1, max_version, 2, 0, 0, 0]]);
        let (target, seq) = prober.next_probe();
        prober.advance(600 * MS);
        let pings = prober.outputs().into_iter().filter_map(|output| match output {
            MembershipOutput::StreamPing { to, ping, until } => Some((to, ping.seq, until)),
            _ => None,
        });
        let pings: Vec<_> = pings.collect();
        assert_eq!(pings.len(), streams, "{pings:?}");
        if let [(to, over_stream, until)] = pings[..] {
            assert_eq!((to, over_stream), (addr(target), seq));
            let left = until.saturating_duration_since(prober.now);
            assert!((390 * MS..=400 * MS).contains(&left), "{left:?}");
            prober.acknowledge(target, seq, b"");
        }
        prober.advance(SECOND / 2);
        let state = if streams > 0 { MemberState::Alive } else { MemberState::Suspect };
        assert_eq!(prober.state(target), state);
    }
}

/// memberlist's `TestMemberList_ProbeNode_Suspect_Dogpile`.
#[test]
fn suspicion_lasts_as_long_as_the_size_and_the_confirmations_say() {
    for (members, confirmations, millis) in [
        (2, 0, 500),
        (3, 0, 500),
        (4, 0, 500),
        (5, 0, 1000),
        (6, 0, 1000),
        (6, 1, 750),
        (6, 2, 604),
        (6, 3, 500),
        (6, 4, 500),
    ] {
        let tuning = Tuning {
            probe_interval: 100 * MS,
            probe_timeout: 10 * MS,
            suspicion_mult: 5,
            suspicion_max_timeout_mult: 2,
            ..crate::config::Profile::Lan.tuning()
        };
        let mut prober = ProbingNode::with(tuning, &vec![NEW; members - 1]);
        // Its own probes of the suspect confirm nothing.
        prober.suspect(1, "me");
        for confirmation in 0..confirmations {
            prober.suspect(1, &name(20 + confirmation));
        }
        prober.advance(Duration::from_millis(millis - 2));
        assert_eq!(prober.state(1), MemberState::Suspect, "{members} members, {confirmations} confirmations");
        prober.advance(4 * MS);
        assert_eq!(prober.state(1), MemberState::Dead, "{members} members, {confirmations} confirmations");
    }
}

#[test]
fn how_long_an_answer_took_is_known_and_told_to_who_wants_it() {
    for wanted in [false, true] {
        let mut prober = ProbingNode::lan(1);
        if wanted {
            prober.membership.report_probes = true;
        }
        assert_eq!(prober.rtt(1), None);
        let (target, seq) = prober.next_probe();
        prober.advance(20 * MS);
        prober.acknowledge(target, seq, b"here");
        let rtt = prober.rtt(1).expect("it was measured");
        assert!((19 * MS..=21 * MS).contains(&rtt), "{rtt:?}");
        let told = prober.outputs().into_iter().filter_map(|output| match output {
            MembershipOutput::Event(Event::Probed { name, rtt, payload }) => {
                Some((name.to_string(), rtt.as_millis(), payload))
            }
            _ => None,
        });
        let told: Vec<_> = told.collect();
        let expected = ("n1".to_owned(), 20, Bytes::from_static(b"here"));
        assert_eq!(told, if wanted { vec![expected] } else { vec![] });

        // Too much of a payload costs the payload.
        let (target, seq) = prober.next_probe();
        let ack = Message::Ack(Ack { seq, payload: vec![0; 513].into() });
        let refused = prober.membership.handle(prober.now, addr(target), ack).err();
        assert_eq!(refused, wanted.then(|| MembershipError::AckPayloadTooLong { name: "n1".into(), size: 513 }));

        // Whose answer this is, and which way it went, is not known.
        let before = prober.rtt(1);
        let (target, seq) = prober.next_probe();
        prober.advance(700 * MS);
        prober.acknowledge(target, seq, b"");
        assert_eq!((prober.rtt(1), prober.state(1)), (before, MemberState::Alive));
    }
}

#[test]
fn what_acknowledgements_are_to_carry_they_carry() {
    let mut prober = ProbingNode::lan(1);
    for payload in [&b""[..], b"coordinates"] {
        prober.membership.set_ack_payload(Bytes::from_static(payload));
        prober.receive(1, Message::Ping(Ping { seq: 5, node: "me".into(), source: None }));
        let ack = Message::Ack(Ack { seq: 5, payload: Bytes::from_static(payload) });
        assert_eq!(prober.sent(), [(addr(1), vec![ack])]);
    }
}
