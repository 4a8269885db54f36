//! Whole nodes on loopback.

mod faults;
mod info;
mod view;

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use tokio::time::timeout;

use super::*;
use crate::{MemberOverview, NodeName, Profile, Seed};

const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("within {SOON:?}: {what}"))
}

fn seed(addr: SocketAddr) -> Seed {
    Seed { host: addr.ip().to_string(), port: addr.port() }
}

fn config(name: &str, seeds: &[SocketAddr]) -> Config {
    Config::new(name).bind("127.0.0.1:0".parse().unwrap()).profile(Profile::Local).join(seeds.iter().copied().map(seed))
}

async fn node(name: &str, seeds: &[SocketAddr]) -> Handle {
    start(config(name, seeds)).await.expect("starts")
}

/// Waits for an event that satisfies `wanted`.
async fn hear(events: &mut Subscription<Event>, what: &str, wanted: impl Fn(&Event) -> bool) {
    soon(what, async { while !wanted(&events.recv().await.expect("the node runs").expect("nothing missed")) {} }).await;
}

async fn next(messages: &mut Subscription<Message>) -> Message {
    soon("a message", messages.recv()).await.expect("the node runs").expect("nothing missed")
}

/// Two nodes that know each other, and their events.
async fn pair() -> (Handle, Subscription<Event>, Handle, Subscription<Event>) {
    let a = node("a", &[]).await;
    let b = node("b", &[a.addr()]).await;
    let (mut a_events, mut b_events) = (a.events(), b.events());
    hear(&mut a_events, "b joins", |event| matches!(event, Event::Joined(member) if member.name == *"b")).await;
    hear(&mut b_events, "b is ready", |event| matches!(event, Event::Ready)).await;
    (a, a_events, b, b_events)
}

#[tokio::test]
async fn what_one_node_publishes_the_other_hears_until_it_leaves() {
    let (a, mut a_events, b, _) = pair().await;
    let (mut to_a, mut to_b) = (a.subscribe(), b.subscribe());
    a.publish("I am a", &0).await.unwrap();
    b.publish("I am b", &["x", "y"]).await.unwrap();
    let message = next(&mut to_b).await;
    assert_eq!((message.key(), message.value()), ("I am a", "0"));
    assert_eq!(*message.origin(), *"a");
    let message = next(&mut to_a).await;
    assert_eq!(message.value_as::<Vec<String>>().unwrap(), ["x", "y"]);
    let metrics = a.metrics().await;
    assert_eq!((metrics.messages.copies, metrics.messages.missed), (1, 0));
    let traffic = metrics.traffic;
    assert!(traffic.udp_sent > 0 && traffic.udp_received > 0 && traffic.packets_sent > 0, "{traffic:?}");
    assert!(traffic.tcp_accept > 0 && traffic.tcp_sent > 0 && traffic.tcp_received > 0, "{traffic:?}");
    assert_eq!((metrics.gauges.alive, metrics.gauges.view_sent > 0), (2, true));
    assert_eq!((metrics.rejected, metrics.over_limit), Default::default());
    assert!(b.metrics().await.push_pull.count() > 0, "b has joined");

    let names = |members: Vec<Member>| members.iter().map(|member| member.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(a.members().await), ["a", "b"]);
    assert_eq!(names(b.members().await), ["b", "a"]);

    b.leave().await;
    hear(&mut a_events, "b leaves", |event| match event {
        Event::Left(member) => member.name == *"b",
        Event::Failed(member) => panic!("{member:?} failed"),
        _ => false,
    })
    .await;
    assert_eq!(names(a.members().await), ["a"]);
}

#[tokio::test]
async fn a_node_can_wait_until_it_has_joined_and_says_what_it_published_before() {
    let a = node("a", &[]).await;
    assert_eq!(soon("who has no seeds has joined", a.joined()).await, Ok(()));
    let early = a.publish("k", &0).await.expect("it runs");
    assert!(early.joined(), "alone, as it is meant to be");
    assert!(soon("nobody", early.delivered()).await.expect("it runs").joined);

    // Nothing listens on a port that was just given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports").local_addr().expect("bound");
    let b = node("b", &[free, a.addr()]).await;
    soon("one of the seeds answers", b.joined()).await.expect("it runs");
    let mut to_a = a.subscribe();
    let done = soon("a has it", b.publish("k", &1).await.expect("it runs").delivered()).await.expect("it runs");
    assert_eq!((done.delivered, done.members, done.joined), (1, 1, true));
    assert_eq!(next(&mut to_a).await.value(), "1");
    assert_eq!(b.joined().await, Ok(()), "at once");

    let lost = node("lost", &[free]).await;
    let early = lost.publish("k", &2).await.expect("it runs");
    assert!(!early.joined() && !lost.try_publish("k", &3).expect("it runs").joined());
    let done = soon("nobody", early.delivered()).await.expect("it runs");
    assert_eq!((done.delivered, done.members, done.joined), (0, 0, false));
    let again = lost.clone();
    let (waiting, ()) = soon("it stops", async { tokio::join!(again.joined(), lost.leave()) }).await;
    assert_eq!(waiting, Err(JoinError::Stopped));

    // Who is joined by another has joined.
    let lost = node("lost", &[free]).await;
    let _other = node("other", &[lost.addr()]).await;
    soon("another joins it", lost.joined()).await.expect("it runs");
    b.leave().await;
    assert_eq!(b.joined().await, Err(JoinError::Stopped), "joined or not");
}

#[tokio::test]
async fn what_a_node_tells_of_itself_can_change_while_it_runs() {
    let (_a, mut a_events, b, _) = pair().await;
    b.update_meta("role=web").await.expect("it runs");
    hear(&mut a_events, "b has changed", |event| match event {
        Event::Updated(member) => member.name == *"b" && member.meta == "role=web",
        _ => false,
    })
    .await;
    assert_eq!(b.members().await[0].meta, "role=web");
    let too_long = ConfigError::MetaTooLong { size: 513 };
    assert_eq!(b.update_meta(vec![0; 513]).await, Err(UpdateError::Config(too_long)));
    b.leave().await;
    assert_eq!(b.update_meta("too late").await, Err(UpdateError::Stopped));
}

#[tokio::test]
async fn nodes_meet_over_ipv6_and_on_sockets_for_both() {
    let on = |name: &str, bind: &str, seeds: &[SocketAddr]| config(name, seeds).bind(bind.parse().unwrap());
    if UdpSocket::bind("[::1]:0").is_err() {
        return eprintln!("skipped: this machine has no IPv6");
    }
    let a = start(on("a", "[::1]:0", &[])).await.expect("starts");
    assert!(a.addr().is_ipv6(), "{}", a.addr());
    let both =
        start(on("both", "[::]:0", &[a.addr()]).advertise(Seed::parse("::1", 0).unwrap())).await.expect("starts");
    let mut heard = both.subscribe();
    hear(&mut both.events(), "both joins", |event| matches!(event, Event::Ready)).await;
    a.publish("k", &6).await.unwrap();
    assert_eq!(next(&mut heard).await.value(), "6");

    // The same kind of socket speaks IPv4, to one that has nothing else.
    let dual =
        start(on("dual", "0.0.0.0:0", &[]).advertise(Seed::parse("127.0.0.1", 0).unwrap())).await.expect("starts");
    let old = start(on("old", "127.0.0.1:0", &[dual.addr()])).await.expect("starts");
    let mut heard = old.subscribe();
    hear(&mut old.events(), "old joins", |event| matches!(event, Event::Ready)).await;
    dual.publish("k", &4).await.unwrap();
    assert_eq!(next(&mut heard).await.value(), "4");
    assert!(dual.addr().is_ipv4());
}

#[tokio::test]
async fn a_node_that_is_reached_by_name_moves_with_it() {
    lookup::fake_names::set("gateway.test", &["127.0.0.1"]);
    let anywhere = || "0.0.0.0:0".parse().unwrap();
    let a = start(config("a", &[]).bind(anywhere()).advertise(Seed::parse("gateway.test", 0).unwrap())).await.unwrap();
    assert_eq!(a.addr().ip().to_string(), "127.0.0.1");
    let b = start(config("b", &[a.addr()])).await.expect("starts");
    let mut events = b.events();
    hear(&mut events, "b is ready", |event| matches!(event, Event::Ready)).await;

    lookup::fake_names::set("gateway.test", &["127.0.0.2", "127.0.0.3"]);
    let new = SocketAddr::new("127.0.0.2".parse().unwrap(), a.addr().port());
    hear(&mut events, "a comes at its new address", |event| match event {
        Event::Joined(member) => member.name == *"a" && member.addr == new,
        Event::NameConflict { .. } | Event::Failed(_) => panic!("{event:?}"),
        _ => false,
    })
    .await;
    assert_eq!(a.addr(), new);
    let mut messages = a.subscribe();
    b.publish("k", &1).await.unwrap();
    assert_eq!(next(&mut messages).await.value(), "1");
}

/// Passes on what comes to a port of its own, UDP and TCP, as a NAT does for a node behind it.
async fn nat(to: SocketAddr) -> SocketAddr {
    let (udp, tcp) = loop {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = tokio::net::UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let addr = tcp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, _)) = udp.recv_from(&mut buffer).await {
            let _ = udp.send_to(&buffer[..len], to).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let mut inside = tokio::net::TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_node_behind_a_nat_is_reached_at_the_port_it_advertises() {
    // A port that is free now, and may be taken by another test by then: it is tried again.
    let (inside, outside, a) = loop {
        let inside = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let outside = nat(inside).await;
        if let Ok(a) = start(config("a", &[]).bind(inside).advertise(seed(outside))).await {
            break (inside, outside, a);
        }
    };
    assert_eq!(a.addr(), outside);
    assert_ne!(inside.port(), outside.port());
    let b = start(config("b", &[outside])).await.expect("starts");
    let mut events = b.events();
    hear(&mut events, "b joins", |event| matches!(event, Event::Ready)).await;
    let mut to_a = a.subscribe();
    b.publish("k", &1).await.unwrap();
    assert_eq!(next(&mut to_a).await.value(), "1");
    // Probes get through, too.
    soon("a answers b's probes", async {
        while b.metrics().await.membership.probes_ok < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let metrics = b.metrics().await;
    assert_eq!((metrics.membership.suspect, metrics.membership.dead), (0, 0));
    assert_eq!(b.members().await[1].addr, outside);
}

#[tokio::test]
async fn a_node_outside_the_allowed_networks_is_not_let_in_and_does_not_start_with_them() {
    let network = || ["127.0.0.1/32".parse().unwrap()];
    let a = start(config("a", &[]).allow(network())).await.expect("starts");
    let mut events = a.events();
    let outside = start(config("outside", &[a.addr()]).bind("127.0.0.2:0".parse().unwrap())).await.expect("starts");
    hear(&mut events, "one is outside", |event| match event {
        Event::Rejected { reason, .. } => reason.contains("127.0.0.2") && reason.contains("`allow`"),
        _ => false,
    })
    .await;
    assert_eq!(a.members().await.len(), 1);
    assert!(a.metrics().await.rejected.views > 0, "what it announces; its connection comes from an allowed address");
    drop(outside);
    let error = start(config("b", &[]).bind("127.0.0.2:0".parse().unwrap()).allow(network())).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.2") && error.to_string().contains("`allow`"), "{error}");
}

#[tokio::test]
async fn who_asks_for_it_hears_how_fast_others_answer_and_what_they_say() {
    let a = node("a", &[]).await;
    a.set_ack_payload(b"here I am").await.unwrap();
    let error = a.set_ack_payload(&[0; 513]).await.unwrap_err().to_string();
    assert!(error.starts_with("513 bytes are too many"), "{error}");
    let b = start(config("b", &[a.addr()]).report_probes()).await.expect("starts");
    let wanted = |event: &Event| matches!(event, Event::Probed { name, payload, .. } if *name == *"a" && **payload == *b"here I am");
    hear(&mut b.events(), "a answers", wanted).await;
    let rtt = b.members().await.into_iter().find(|member| member.name == *"a").and_then(|member| member.rtt);
    assert!(rtt.is_some_and(|rtt| rtt < SOON), "{rtt:?}");
    assert!(b.metrics().await.gauges.health_score < 8);
}

#[tokio::test]
async fn a_stopped_node_says_so_and_its_address_is_free() {
    let (a, _a_events, b, mut b_events) = pair().await;
    let mut messages = b.subscribe();
    let began = std::time::Instant::now();
    let other = b.clone();
    tokio::join!(b.leave(), other.leave(), b.leave());
    assert!(began.elapsed() < Duration::from_secs(2), "left after {:?}", began.elapsed());
    b.leave().await;

    assert!(matches!(b.publish("key", &1).await, Err(PublishError::Stopped)));
    assert_eq!(b.members().await, []);
    assert!(messages.recv().await.is_none());
    hear(&mut b_events, "the last event", |event| matches!(event, Event::LeaveComplete)).await;
    assert!(b_events.recv().await.is_none());
    assert!(b.subscribe().recv().await.is_none());
    assert!(b.events().recv().await.is_none());

    let again = start(config("c", &[a.addr()]).bind(b.addr())).await.expect("the address is free");
    assert_eq!(again.addr(), b.addr());
}

#[tokio::test]
async fn a_node_leaves_when_its_last_handle_is_dropped_whoever_still_listens() {
    let (_a, mut a_events, b, mut b_events) = pair().await;
    let mut messages = b.subscribe();
    let clone = b.clone();
    drop(b);
    clone.publish("key", &1).await.expect("a handle is left");
    drop(clone);
    hear(&mut a_events, "b leaves", |event| matches!(event, Event::Left(member) if member.name == *"b")).await;
    assert!(soon("the messages end", messages.recv()).await.is_none());
    soon("the events end", async { while b_events.recv().await.is_some() {} }).await;
}

#[tokio::test]
async fn the_first_to_ask_for_events_hears_all_since_the_start() {
    let node = node("alone", &[]).await;
    // Once it answers, it has long been ready.
    assert_eq!(node.members().await.len(), 1);
    hear(&mut node.events(), "readiness", |event| matches!(event, Event::Ready)).await;
}

#[tokio::test]
async fn a_subscriber_that_sleeps_is_told_what_it_missed_and_holds_nobody_up() {
    let a = node("a", &[]).await;
    let b = node("b", &[a.addr()]).await;
    hear(&mut b.events(), "b meets a", |event| matches!(event, Event::Joined(_))).await;
    let (mut slow, mut quick, mut other) = (a.subscribe(), a.subscribe(), a.subscribe());
    let (missed, batch) = (500, 250);
    for first in (0..MESSAGE_BUFFER.count + missed).step_by(batch) {
        let values = first..(first + batch).min(MESSAGE_BUFFER.count + missed);
        for value in values.clone() {
            b.publish("k", &value).await.unwrap();
        }
        for value in values {
            assert_eq!(next(&mut quick).await.value(), value.to_string());
            assert_eq!(next(&mut other).await.value(), value.to_string());
        }
    }
    assert_eq!(slow.recv().await.unwrap().unwrap_err(), Lagged { missed: missed as u64 });
    assert_eq!(next(&mut slow).await.value(), missed.to_string());
}

#[tokio::test]
async fn garbage_and_silence_and_closed_ports_do_not_end_a_node() {
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let a = node("a", &[closed]).await;
    let mut events = a.events();
    hear(&mut events, "the seed is closed", |event| matches!(event, Event::SeedUnreachable { .. })).await;

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(a.addr()).unwrap();
    let _silent = TcpStream::connect(a.addr()).unwrap();
    for byte in 0..=255 {
        socket.send_to(&[byte; 100], a.addr()).unwrap();
    }
    socket.send_to(&[], a.addr()).unwrap();
    stream.write_all(&[0xff; 1 << 10]).unwrap();
    // A ping from a port that is closed by the time the answer comes.
    let ping = b"\x00\x82\xa4Node\xa1a\xa5SeqNo\x01";
    for _ in 0..100 {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(ping, a.addr()).unwrap();
    }

    let b = node("b", &[a.addr()]).await;
    hear(&mut events, "b joins", |event| matches!(event, Event::Joined(member) if member.name == *"b")).await;
    let mut messages = b.subscribe();
    a.publish("key", &1).await.unwrap();
    assert_eq!(next(&mut messages).await.key(), "key");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let error = start(config("a", &[]).bind(addr)).await.unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("`bind`"), "{error}");
}

#[test]
fn at_the_port_of_docker_swarm_that_is_named() {
    let error = |addr: &str, kind: std::io::ErrorKind| {
        StartError::Bind { addr: addr.parse().unwrap(), source: kind.into() }.to_string()
    };
    use std::io::ErrorKind::{AddrInUse, PermissionDenied};
    assert!(
        error("0.0.0.0:7946", AddrInUse).contains("; stop what uses it (port 7946 is also Docker Swarm's), or set ")
    );
    for other in [error("0.0.0.0:7947", AddrInUse), error("0.0.0.0:7946", PermissionDenied)] {
        assert!(other.contains("; stop what uses it, or set "), "{other}");
    }
}

#[tokio::test]
async fn a_setting_that_cannot_be_is_an_error_before_anything_starts() {
    assert!(matches!(start(config("", &[])).await, Err(StartError::Config(ConfigError::Name { .. }))));
}

#[tokio::test]
async fn a_value_that_is_no_json_is_an_error() {
    let node = node("a", &[]).await;
    let value = std::collections::BTreeMap::from([(vec![0_u8], 1)]);
    assert!(matches!(node.publish("key", &value).await, Err(PublishError::Value(_))));
}

#[tokio::test]
async fn who_looks_from_outside_sees_own_messages_too_and_how_far_everybody_is() {
    let (a, _, b, _) = pair().await;
    let (mut all, mut to_b) = (a.subscribe_all(), b.subscribe());
    let receipts = [a.publish("k", &1).await.unwrap(), a.publish("k", &2).await.unwrap()];
    for (receipt, value) in receipts.into_iter().zip(["1", "2"]) {
        let own = next(&mut all).await;
        assert_eq!((own.origin(), own.id(), own.hops()), (&NodeName::from("a"), Some(receipt.id()), 0));
        assert_eq!((own.key(), own.value()), ("k", value));
        assert_eq!(next(&mut to_b).await.value(), value);
        soon("an acknowledgement", receipt.delivered()).await.unwrap();
    }
    b.publish("I am b", &3).await.unwrap();
    assert_eq!((*next(&mut all).await.origin()).to_string(), "b");

    let Metrics { messages, delivery, .. } = a.metrics().await;
    assert_eq!((messages.published, messages.delivered, messages.requested, delivery.count()), (2, 1, 0, 2));
    let overview = a.overview().await;
    assert!(overview.joined && !overview.leaving);
    let seen = |seen: &MemberOverview| (seen.member.name.to_string(), seen.acknowledges, seen.lag);
    let seen: Vec<_> = overview.members.iter().map(seen).collect();
    assert_eq!(seen, [("a".into(), true, None), ("b".into(), true, Some(0))]);
    let positions = overview.positions.iter().map(|at| (at.origin.to_string(), at.next, at.end));
    assert_eq!(positions.collect::<Vec<_>>(), [("a".into(), 2, 2), ("b".into(), 1, 1)]);

    a.leave().await;
    assert!(a.overview().await.members.is_empty());
    assert!(soon("the end", all.recv()).await.is_none());
}

#[tokio::test]
async fn any_node_sees_who_has_acknowledged_what_of_whose_messages() {
    let (a, mut a_events, b, _) = pair().await;
    let c = node("c", &[a.addr()]).await;
    hear(&mut a_events, "c joins", |event| matches!(event, Event::Joined(member) if member.name == *"c")).await;
    let mut acks = a.acks();
    for value in 0..5 {
        b.publish("k", &value).await.unwrap();
        a.publish("k", &value).await.unwrap();
    }
    let mut left: std::collections::BTreeSet<_> = [("b", "a"), ("b", "c"), ("a", "b"), ("a", "c")].into();
    soon("all is acknowledged", async {
        while !left.is_empty() {
            let Acks { origin, members, .. } = acks.recv().await.expect("the node runs").expect("nothing missed");
            let has_all = |who: &str| members.iter().any(|(name, next)| *name == *who && *next == 5);
            left.retain(|(of, who)| origin != **of || !has_all(who));
        }
    })
    .await;
    drop(acks);
    assert_eq!(c.members().await.len(), 3);
}
