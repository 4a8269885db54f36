//! The state rules, one by one: the cases of memberlist's own tests, restated.

mod probing;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::config::{Candidate, Config};

const SECOND: Duration = Duration::from_secs(1);
const VERSIONS: Versions = [1, 5, 2, 0, 0, 0];

fn addr(i: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, i], 7946))
}

/// A node "me" at address 1, and a clock.
struct Bench {
    now: Instant,
    membership: Membership,
}

impl Bench {
    fn new() -> Self {
        Self::with(&Config::new("me"))
    }

    fn with(config: &Config) -> Self {
        let now = Instant::now();
        let mut bench = Self { now, membership: Membership::new(now, config, addr(1).into(), VERSIONS, 1) };
        bench.queued();
        bench
    }

    /// One that knows "a" at address 2, alive with incarnation 1, and has had an answer from it.
    fn with_a() -> Self {
        let mut bench = Self::new();
        bench.alive("a", 1, 2).expect("it is let in");
        bench.membership.mark_proven(&"a".into());
        assert_eq!(bench.events(), ["a joined"]);
        assert_eq!(bench.queued(), ["alive a 1"]);
        bench
    }

    fn handle(&mut self, from: u8, message: Message) -> Result<(), MembershipError> {
        self.membership.handle(self.now, addr(from), message)
    }

    fn alive(&mut self, name: &str, incarnation: u32, at: u8) -> Result<(), MembershipError> {
        self.handle(9, Message::Alive(alive(name, incarnation, at)))
    }

    fn suspect(&mut self, name: &'static str, incarnation: u32, from: &'static str) {
        let suspect = Suspect { incarnation, node: name.into(), from: from.into() };
        self.handle(9, Message::Suspect(suspect)).expect("a suspicion is never refused");
    }

    fn dead(&mut self, name: &'static str, incarnation: u32, from: &'static str) {
        let dead = Dead { incarnation, node: name.into(), from: from.into() };
        self.handle(9, Message::Dead(dead)).expect("an accusation is never refused");
    }

    fn merge(
        &mut self,
        join: bool,
        nodes: &[(&'static str, u32, u8, NodeState)],
    ) -> Result<Option<MembershipError>, MembershipError> {
        let record = |&(name, incarnation, at, state): &(&'static str, _, _, _)| PushPullState {
            name: name.into(),
            address: addr(at).into(),
            meta: Bytes::new(),
            incarnation,
            state,
            versions: Some(VERSIONS),
        };
        let view = PushPull { join, nodes: nodes.iter().map(record).collect(), user_state: Bytes::new() };
        self.membership.merge(self.now, &view)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.membership.handle_timeout(self.now);
    }

    /// State, incarnation and address.
    fn record(&self, name: &str) -> Option<(MemberState, u32, u8)> {
        let record = self.membership.get(name.as_bytes())?;
        let std::net::IpAddr::V4(ip) = record.addr().ip() else { panic!("an IPv4 address") };
        Some((record.state(), record.incarnation, ip.octets()[3]))
    }

    fn outputs(&mut self) -> Vec<MembershipOutput> {
        std::iter::from_fn(|| self.membership.poll_output()).collect()
    }

    fn events(&mut self) -> Vec<String> {
        let words = |output| match output {
            MembershipOutput::Event(Event::Joined(member)) => Some(format!("{} joined", member.name)),
            MembershipOutput::Event(Event::Left(member)) => Some(format!("{} left", member.name)),
            MembershipOutput::Event(Event::Failed(member)) => Some(format!("{} failed", member.name)),
            MembershipOutput::Event(Event::Updated(member)) => Some(format!("{} updated", member.name)),
            MembershipOutput::Event(Event::NameConflict { name, .. }) => Some(format!("{name} twice")),
            MembershipOutput::Event(Event::LeaveComplete) => Some("left".into()),
            _ => None,
        };
        self.outputs().into_iter().filter_map(words).collect()
    }

    /// The packets to an address, in words, without pings; everything else is dropped.
    fn sent_to(&mut self, at: u8) -> Vec<String> {
        let to = |output| match output {
            MembershipOutput::Packet { to, messages, .. } if to.addr == addr(at) => messages,
            _ => Vec::new(),
        };
        self.outputs().into_iter().flat_map(to).filter_map(|message| in_words(&message)).collect()
    }

    /// What is queued to be told; it is taken out.
    fn queued(&mut self) -> Vec<String> {
        let mut parts = Vec::new();
        while self.membership.has_queued() {
            self.membership.take_broadcasts(1400, &mut parts);
        }
        parts.dedup();
        parts.iter().filter_map(in_words).collect()
    }
}

fn alive(name: &str, incarnation: u32, at: u8) -> Alive {
    Alive {
        incarnation,
        node: name.to_owned().into(),
        address: addr(at).into(),
        meta: Bytes::new(),
        versions: Some(VERSIONS),
    }
}

fn in_words(message: &Bytes) -> Option<String> {
    let mut messages = Vec::new();
    packet::decode(message, &mut messages).expect("this node's own");
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    match messages.pop()? {
        Message::Alive(alive) => Some(format!("alive {} {}", text(&alive.node), alive.incarnation)),
        Message::Suspect(suspect) => Some(format!("suspect {} {}", text(&suspect.node), suspect.incarnation)),
        Message::Dead(dead) if dead.from == dead.node => {
            Some(format!("left {} {}", text(&dead.node), dead.incarnation))
        }
        Message::Dead(dead) => Some(format!("dead {} {}", text(&dead.node), dead.incarnation)),
        _ => None,
    }
}

use MemberState::{Alive as IsAlive, Dead as IsDead, Left as HasLeft, Suspect as IsSuspect};

#[test]
fn alive_of_a_new_node() {
    let mut bench = Bench::with_a();
    assert_eq!(bench.record("a"), Some((IsAlive, 1, 2)));
    // memberlist would keep a hidden dead record of it.
    bench.alive("zero", 0, 3).expect("ignored");
    assert_eq!(bench.record("zero"), None);
}

#[test]
fn alive_of_a_suspect_needs_a_higher_incarnation() {
    let mut bench = Bench::with_a();
    bench.suspect("a", 1, "b");
    assert_eq!(bench.queued(), ["suspect a 1"]);
    bench.alive("a", 1, 2).expect("ignored");
    assert_eq!(bench.record("a"), Some((IsSuspect, 1, 2)));
    assert_eq!(bench.queued(), Vec::<String>::new(), "what is old is not passed on");
    bench.alive("a", 2, 2).expect("news");
    assert_eq!(bench.record("a"), Some((IsAlive, 2, 2)));
    assert_eq!(bench.queued(), ["alive a 2"]);
    assert_eq!(bench.events(), Vec::<String>::new(), "the application hears nothing of a refuted suspicion");
    bench.wait(60 * SECOND);
    assert_ne!(bench.record("a").map(|a| a.0), Some(IsDead), "and its time is not up later");
}

#[test]
fn alive_again_changes_nothing() {
    let mut bench = Bench::with_a();
    for incarnation in [0, 1] {
        bench.alive("a", incarnation, 2).expect("ignored");
        assert_eq!(bench.queued(), Vec::<String>::new());
    }
    assert_eq!(bench.events(), Vec::<String>::new());
}

#[test]
fn alive_with_other_metadata_is_an_update() {
    let mut bench = Bench::with_a();
    let changed = |incarnation| Alive { meta: Bytes::from_static(b"new"), ..alive("a", incarnation, 2) };
    bench.handle(9, Message::Alive(changed(1))).expect("old news");
    assert_eq!(bench.events(), Vec::<String>::new());
    bench.handle(9, Message::Alive(changed(2))).expect("news");
    assert_eq!(bench.events(), ["a updated"]);
    assert_eq!(bench.membership.get(b"a").map(Record::meta), Some(Bytes::from_static(b"new")));
}

#[test]
fn what_is_said_of_another_life_of_this_node_is_refuted_above_it() {
    let mut bench = Bench::new();
    bench.alive("me", 1, 1).expect("no news");
    assert_eq!(bench.queued(), Vec::<String>::new());
    bench.alive("me", 7, 1).expect("a former life");
    assert_eq!(bench.queued(), ["alive me 8"]);
    let other = Alive { meta: Bytes::from_static(b"not mine"), ..alive("me", 8, 1) };
    bench.handle(9, Message::Alive(other)).expect("another me");
    assert_eq!(bench.queued(), ["alive me 9"]);
    bench.suspect("me", 20, "b");
    assert_eq!(bench.queued(), ["alive me 21"]);
    bench.dead("me", 21, "b");
    assert_eq!(bench.queued(), ["alive me 22"]);
    bench.suspect("me", 21, "b");
    bench.dead("me", 21, "b");
    assert_eq!(bench.queued(), Vec::<String>::new(), "old accusations are refuted already");
    for accused in [u32::MAX, u32::MAX - 1] {
        bench.suspect("me", accused, "b");
        bench.dead("me", accused, "b");
        assert_eq!(bench.record("me"), Some((IsAlive, 22, 1)), "there is nothing above it that others believe");
    }
}

#[test]
fn a_live_members_name_is_not_given_away_and_both_are_told() {
    let mut bench = Bench::with_a();
    bench.alive("a", 5, 3).expect("a conflict is no error");
    assert_eq!(bench.record("a"), Some((IsAlive, 1, 2)));
    assert_eq!(bench.sent_to(3), ["alive a 1"]);
    bench.wait(31 * SECOND);
    bench.outputs();
    bench.alive("a", 5, 4).expect("a conflict is no error");
    assert_eq!(bench.sent_to(2), ["alive a 5"]);
    bench.wait(31 * SECOND);
    bench.outputs();
    bench.alive("a", 5, 4).expect("a conflict is no error");
    assert_eq!(bench.events(), ["a twice"]);
    bench.alive("a", 5, 4).expect("a conflict is no error");
    assert_eq!(bench.events(), Vec::<String>::new(), "it is told once");
}

#[test]
fn the_name_of_one_that_left_or_is_dead_is_free_at_once() {
    for from in ["a", "b"] {
        let mut bench = Bench::with_a();
        bench.dead("a", 1, from);
        bench.outputs();
        bench.alive("a", 1, 3).expect("a new holder");
        assert_eq!(bench.record("a"), Some((IsAlive, 1, 3)));
        assert_eq!(bench.events(), ["a joined"]);
    }
}

#[test]
fn who_takes_a_name_over_is_told_what_is_said_of_its_former_holder() {
    let mut bench = Bench::with_a();
    bench.dead("a", 9, "b");
    bench.outputs();
    bench.alive("a", 1, 3).expect("a new holder");
    assert_eq!(bench.sent_to(3), ["dead a 9"]);
    // It knows by then, and goes beyond it: what still goes round does not count.
    bench.alive("a", 10, 3).expect("refuted");
    bench.dead("a", 9, "b");
    assert_eq!(bench.record("a"), Some((IsAlive, 10, 3)));
}

#[test]
fn the_name_of_a_suspect_is_free_after_the_reclaim_time() {
    let mut bench = Bench::with_a();
    bench.suspect("a", 1, "b");
    bench.now += 2 * SECOND - Duration::from_millis(1);
    bench.alive("a", 1, 3).expect("a conflict is no error");
    assert_eq!(bench.record("a"), Some((IsSuspect, 1, 2)));
    bench.outputs();
    bench.now += Duration::from_millis(1);
    bench.alive("a", 1, 3).expect("a new holder");
    assert_eq!(bench.record("a"), Some((IsAlive, 1, 3)));
    assert_eq!(bench.events(), ["a updated"]);
}

#[test]
fn suspicions_count_from_the_known_incarnation_on() {
    let mut bench = Bench::with_a();
    bench.suspect("nobody", 1, "b");
    assert_eq!(bench.record("nobody"), None);
    bench.alive("a", 3, 2).expect("news");
    bench.queued();
    bench.suspect("a", 2, "b");
    assert_eq!(bench.record("a"), Some((IsAlive, 3, 2)), "an old one");
    bench.suspect("a", 4, "b");
    assert_eq!(bench.record("a"), Some((IsSuspect, 4, 2)));
    assert_eq!(bench.queued(), ["suspect a 4"]);
    bench.suspect("a", 4, "b");
    assert_eq!(bench.queued(), Vec::<String>::new(), "the same accuser says nothing new");
    bench.wait(4 * SECOND);
    assert_eq!(bench.record("a"), Some((IsDead, 4, 2)), "in so small a cluster nobody else is waited for");
    assert_eq!(bench.events(), ["a failed"]);
    bench.suspect("a", 5, "c");
    assert_eq!(bench.record("a"), Some((IsDead, 4, 2)), "the dead are not suspected");
}

#[test]
fn the_dead_stay_so_until_a_higher_incarnation() {
    let mut bench = Bench::with_a();
    bench.dead("nobody", 1, "b");
    assert_eq!(bench.record("nobody"), None);
    bench.alive("a", 3, 2).expect("news");
    bench.queued();
    bench.dead("a", 2, "b");
    assert_eq!(bench.record("a"), Some((IsAlive, 3, 2)), "an old one");
    bench.dead("a", 3, "b");
    assert_eq!((bench.record("a"), bench.events()), (Some((IsDead, 3, 2)), vec!["a failed".into()]));
    assert_eq!(bench.queued(), ["dead a 3"]);
    bench.dead("a", 4, "c");
    assert_eq!(bench.queued(), Vec::<String>::new(), "twice dead is no news");
    bench.alive("a", 3, 2).expect("a replay");
    assert_eq!(bench.record("a"), Some((IsDead, 3, 2)));
    bench.alive("a", 4, 2).expect("news");
    assert_eq!((bench.record("a"), bench.events()), (Some((IsAlive, 4, 2)), vec!["a joined".into()]));
    bench.dead("a", 4, "a");
    assert_eq!((bench.record("a"), bench.events()), (Some((HasLeft, 4, 2)), vec!["a left".into()]));
}

#[test]
fn a_restarted_node_hears_at_once_what_is_said_of_its_former_life() {
    for (accuse, heard) in [
        ((|bench| bench.suspect("a", 6, "b")) as fn(&mut Bench), "suspect a 6"),
        (|bench| bench.dead("a", 6, "b"), "dead a 6"),
        (|bench| bench.dead("a", 6, "a"), "left a 6"),
        (|bench| bench.alive("a", 6, 2).expect("news"), "alive a 6"),
    ] {
        let mut bench = Bench::with_a();
        accuse(&mut bench);
        bench.outputs();
        bench.handle(2, Message::Alive(alive("a", 1, 2))).expect("ignored");
        assert_eq!(bench.sent_to(2), [heard]);
    }
    // An old "alive" of a member that is alive is answered only if the member itself has sent it.
    let mut bench = Bench::with_a();
    bench.alive("a", 6, 2).expect("news");
    bench.outputs();
    bench.alive("a", 1, 2).expect("ignored");
    assert_eq!(bench.sent_to(2), Vec::<String>::new());
}

#[test]
fn a_view_is_merged_and_the_dead_of_others_are_only_suspected() {
    use NodeState::{Alive, Dead, Left, Suspect};

    let mut bench = Bench::new();
    for (name, at) in [("a", 2), ("b", 3), ("c", 4), ("d", 5)] {
        bench.alive(name, 1, at).expect("let in");
    }
    bench.outputs();
    let view = [("a", 2, 2, Alive), ("b", 1, 3, Suspect), ("c", 1, 4, Dead), ("d", 1, 5, Left), ("e", 1, 6, Alive)];
    assert_eq!(bench.merge(false, &view), Ok(None));
    assert_eq!(bench.record("a"), Some((IsAlive, 2, 2)));
    assert_eq!(bench.record("b"), Some((IsSuspect, 1, 3)));
    assert_eq!(bench.record("c"), Some((IsSuspect, 1, 4)));
    assert_eq!(bench.record("d"), Some((HasLeft, 1, 5)));
    assert_eq!(bench.events(), ["d left", "e joined"]);
    // The dead and the gone that are not known are not remembered either.
    assert_eq!(bench.merge(false, &[("f", 1, 7, Dead), ("g", 1, 8, Left)]), Ok(None));
    assert_eq!((bench.record("f"), bench.record("g")), (None, None));
    assert_eq!(bench.merge(false, &[("me", 4, 1, Dead)]), Ok(None));
    assert_eq!(bench.record("me"), Some((IsAlive, 5, 1)));
}

#[test]
fn gossip_goes_to_the_dead_of_late_and_not_to_who_left() {
    let mut bench = Bench::with_a();
    let targets = |bench: &mut Bench| -> Vec<_> {
        bench.membership.gossip_targets(bench.now).into_iter().map(|target| target.addr).collect()
    };
    assert_eq!(targets(&mut bench), [addr(2)]);
    bench.dead("a", 1, "b");
    assert_eq!(targets(&mut bench), [addr(2)]);
    bench.now += 30 * SECOND;
    assert_eq!(targets(&mut bench), []);
    bench.alive("a", 2, 2).expect("back");
    bench.dead("a", 2, "a");
    assert_eq!(targets(&mut bench), []);
}

/// memberlist's `TestMemberlist_VerifyProtocol`: ranges of protocol and of delegate protocol of the members
/// here and there, each with the version it speaks.
#[test]
fn views_without_a_common_version_are_not_merged() {
    type Node = ([u8; 3], [u8; 3]);
    let table: [(&str, &[Node], &[Node], bool); 7] = [
        ("all alike", &[([1, 5, 2], [0, 0, 0])], &[([1, 5, 2], [0, 0, 0])], true),
        ("a wider range", &[([1, 5, 2], [0, 0, 0])], &[([1, 3, 2], [0, 4, 0])], true),
        ("they speak what is not understood here", &[([1, 2, 2], [0, 0, 0])], &[([1, 5, 3], [0, 0, 0])], false),
        ("here is spoken what they do not understand", &[([1, 5, 5], [0, 0, 0])], &[([1, 3, 2], [0, 0, 0])], false),
        ("ranges that touch", &[([1, 5, 2], [0, 0, 0])], &[([2, 5, 2], [0, 1, 0])], true),
        ("a delegate version too high", &[([1, 5, 2], [0, 0, 0])], &[([1, 5, 2], [0, 4, 4])], false),
        ("a delegate range that begins too high", &[([1, 5, 2], [0, 0, 0])], &[([1, 5, 2], [2, 5, 4])], false),
    ];
    for (what, here, there, fits) in table {
        let mut bench = Bench::new();
        for (i, (protocol, delegate)) in (2..).zip(here) {
            let versions = [protocol[0], protocol[1], protocol[2], delegate[0], delegate[1], delegate[2]];
            let member = Alive { versions: Some(versions), ..alive(&format!("here{i}"), 1, i) };
            // Where even that is refused, there is no such cluster.
            let _ = bench.handle(9, Message::Alive(member));
        }
        bench.outputs();
        let nodes = (20..).zip(there).map(|(i, (protocol, delegate))| PushPullState {
            name: format!("there{i}").into(),
            address: addr(i).into(),
            meta: Bytes::new(),
            incarnation: 1,
            state: NodeState::Alive,
            versions: Some([protocol[0], protocol[1], protocol[2], delegate[0], delegate[1], delegate[2]]),
        });
        let view = PushPull { join: true, nodes: nodes.collect(), user_state: Bytes::new() };
        let merged = bench.membership.merge(bench.now, &view);
        assert_eq!(merged.is_ok(), fits, "{what}: {merged:?}");
        assert_eq!(bench.events().len(), usize::from(fits), "{what}: nothing is merged, or all");
    }
}

#[test]
fn only_allowed_networks_are_let_in() {
    let networks = ["10.0.0.0/30", "10.0.0.9/32"].map(|text| text.parse().expect("a network"));
    let mut bench = Bench::with(&Config::new("me").allow(networks));
    bench.alive("near", 1, 2).expect("in the network");
    assert!(matches!(bench.alive("far", 1, 4), Err(MembershipError::NetworkNotAllowed { .. })), "what it announces");
    let near = Message::Alive(alive("near", 2, 2));
    assert!(matches!(bench.handle(4, near), Err(MembershipError::NetworkNotAllowed { .. })), "who says it");
    let dead = Dead { incarnation: 1, node: "near".into(), from: "me".into() };
    assert!(
        matches!(bench.handle(4, Message::Dead(dead)), Err(MembershipError::NetworkNotAllowed { .. })),
        "nor are they heard of others"
    );
    assert_eq!(bench.record("near"), Some((IsAlive, 1, 2)));
    // One outside does not keep the rest of a view out.
    let view = [("far", 1, 4, NodeState::Alive), ("three", 1, 3, NodeState::Alive)];
    assert!(matches!(bench.merge(true, &view), Ok(Some(MembershipError::NetworkNotAllowed { .. }))));
    assert_eq!((bench.record("far"), bench.record("three")), (None, Some((IsAlive, 1, 3))));
    bench.dead("near", 1, "near");
    assert!(
        matches!(bench.alive("near", 2, 5), Err(MembershipError::NetworkNotAllowed { .. })),
        "nor may one move out of them"
    );
}

#[test]
fn the_application_has_its_say_of_members_and_views() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let config = Config::new("me").admit(move |candidate| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (what, refused) = match candidate {
            Candidate::Member(claim) => (text(claim.name), claim.name == b"bad"),
            Candidate::View(claims) => (format!("{} nodes", claims.len()), claims.iter().any(|c| c.name == b"worse")),
        };
        log.lock().expect("no panic under it").push(what);
        if refused { Err("not that one".into()) } else { Ok(()) }
    });
    let mut bench = Bench::with(&config);
    let asked = || std::mem::take(&mut *asked.lock().expect("no panic under it"));
    bench.alive("good", 1, 2).expect("admitted");
    bench.alive("good", 1, 2).expect("no news, so no question");
    let refusal = bench.alive("bad", 1, 3).expect_err("refused").to_string();
    assert!(refusal.contains("\"bad\"") && refusal.contains("not that one"), "{refusal}");
    assert_eq!(asked(), ["good", "bad"]);

    let view = [("worse", 1, 3, NodeState::Alive), ("fine", 1, 4, NodeState::Alive)];
    assert!(matches!(bench.merge(true, &view), Err(MembershipError::ViewNotAdmitted { nodes: 2, .. })));
    assert_eq!((bench.record("fine"), asked()), (None, vec!["2 nodes".into()]));
    assert_eq!(bench.merge(false, &view), Ok(None), "only who joins is asked about as a whole");
    assert_eq!(asked(), ["worse", "fine"]);
}

#[test]
fn made_up_members_fill_the_table_and_no_more() {
    let mut config = Config::new("me");
    config.resource_limits.max_members = 100;
    let mut bench = Bench::with(&config);
    let nodes = (0..10_000_u32).map(|i| PushPullState {
        name: format!("fake{i}").into(),
        address: SocketAddr::from(([10, 9, (i >> 8) as u8, i as u8], 7946)).into(),
        meta: Bytes::new(),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Some(VERSIONS),
    });
    let view = PushPull { join: false, nodes: nodes.collect(), user_state: Bytes::new() };
    let merged = bench.membership.merge(bench.now, &view);
    assert!(matches!(merged, Ok(Some(MembershipError::TooManyMembers { max: 100, .. }))), "{merged:?}");
    assert_eq!(bench.membership.records().len(), 100);
    assert!(bench.membership.queued() <= 100);
}

#[test]
fn new_metadata_is_a_new_incarnation() {
    let mut bench = Bench::new();
    assert!(!bench.membership.update_meta(b""), "nothing new");
    assert!(bench.membership.update_meta(b"role=web"));
    assert_eq!(bench.queued(), ["alive me 2"]);
    assert_eq!(bench.membership.me().meta(), "role=web");
    // What was told before is an old life by now.
    bench.alive("me", 1, 1).expect("no news");
    assert_eq!(bench.queued(), Vec::<String>::new());
    bench.membership.leave(bench.now, false);
    assert!(!bench.membership.update_meta(b"too late"));
}

#[test]
fn a_node_that_moves_leaves_its_old_address_and_then_is_at_the_new_one() {
    let mut bench = Bench::with_a();
    bench.membership.change_address(bench.now, addr(7).into());
    assert_eq!(bench.record("me"), Some((IsAlive, 2, 7)));
    assert_eq!(bench.sent_to(2), ["left me 1"]);
    bench.now += Duration::from_millis(800);
    bench.membership.handle_timeout(bench.now);
    assert_eq!(bench.sent_to(2), ["alive me 2"]);
    // A view that still has it at its old address is no conflict, and is corrected.
    let view = [("me", 1, 1, NodeState::Alive)];
    assert_eq!(bench.merge(false, &view), Ok(None));
    assert_eq!(bench.sent_to(2), ["left me 1"]);
    assert_eq!(bench.events(), Vec::<String>::new());
    // Another node that has the name is one.
    bench.alive("me", 1, 8).expect("a conflict is no error");
    assert_eq!(bench.events(), ["me twice"]);
}

#[test]
fn views_are_exchanged_more_rarely_in_large_clusters() {
    for (n, scale) in [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3), (128, 3), (256, 4), (1000, 6), (10_000, 10)] {
        assert_eq!(push_pull_scale(n), scale, "n {n}");
    }
}
