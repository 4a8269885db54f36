//! Each configuration of each release of memberlist, once joined by our node and once joining it.
//!
//! In a cluster of two they find each other, exchange messages, change their metadata, refute wrong suspicions, leave and fail.
//! Our nodes run inside the test.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use broadcast::{
    Config, Envelope, MemberState, Profile, Tuning,
    wire::{Keyring, NodeState, PushPullState, SecretKey},
};
use serde_json::{Value, json};

use crate::support::{
    LIMIT, Process,
    cluster::{try_view, wait_believed},
    embedded::Embedded,
    go::Release,
    require::Case,
};

/// How often members are probed, on both sides. A suspect has three times that to object.
const PROBE: Duration = Duration::from_millis(500);
const LABEL: &str = "cluster 1";
/// Sizes of messages, in bytes: two that go by gossip, and one that needs a stream.
const SIZES: [usize; 3] = [1, 1000, 100_000];

/// How both sides are configured.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What the Go side is built with.
    pub release: Release,
    /// Whether packets and streams are compressed.
    pub compression: bool,
    /// The bytes of the secret key.
    pub key: Option<usize>,
    /// Whether there is a label.
    pub label: bool,
}

/// All configurations of a release.
fn setups(release: Release) -> Vec<Setup> {
    let plain = Setup { release, compression: false, key: None, label: false };
    let compressed = Setup { compression: true, ..plain };
    let labels: &[bool] = if release == Release::Old { &[false] } else { &[false, true] };
    let secured = labels
        .iter()
        .flat_map(|label| [None, Some(16), Some(24), Some(32)].map(|key| Setup { key, label: *label, ..compressed }));
    [plain].into_iter().chain(secured).collect()
}

impl Setup {
    fn name(self) -> String {
        let label = self.label.then(|| "labelled".to_owned());
        let key = self.key.map(|bytes| format!("encrypted-{bytes}"));
        let parts: Vec<_> = label.into_iter().chain(key).collect();
        match (&parts[..], self.compression) {
            ([], true) => "compressed".into(),
            ([], false) => "plain".into(),
            _ => parts.join("+"),
        }
    }

    /// A node of ours.
    fn ours(self, name: &str) -> Config {
        let tuning = Tuning {
            probe_interval: PROBE,
            probe_timeout: PROBE / 2,
            gossip_interval: Duration::from_millis(50),
            compression: self.compression,
            ..Profile::Local.tuning()
        };
        Config::new(name)
            .bind(([127, 0, 0, 1], 0).into())
            .tuning(tuning)
            .meta(format!("meta of {name}"))
            .envelope(self.envelope())
    }

    fn envelope(self) -> Envelope {
        let keys = self.key.map(|bytes| SecretKey::new(vec![7; bytes]).expect("a length that a key may have"));
        let label = if self.label { LABEL } else { "" };
        Envelope { label: label.into(), keyring: Keyring::new(keys).expect("one key at most"), ..Envelope::default() }
    }

    fn go(self, name: &str, join: Option<&Embedded>) -> Process {
        let mut args = vec![
            format!("-name={name}"),
            "-bind=127.0.0.1:0".into(),
            format!("-meta=meta of {name}"),
            format!("-compression={}", self.compression),
            format!("-probe-interval={PROBE:?}"),
            "-gossip-interval=50ms".into(),
        ];
        args.extend(self.key.map(|bytes| format!("-keys={}", STANDARD.encode(vec![7; bytes]))));
        args.extend(self.label.then(|| format!("-label={LABEL}")));
        args.extend(join.map(|ours| format!("-join={}", ours.addr())));
        self.release.node(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// A cell for each.
pub fn cases(missing: Option<&String>, old: Option<&String>) -> Vec<Case> {
    let releases = [(Release::Current, missing), (Release::Old, old)].into_iter();
    let setups = releases.flat_map(|(release, missing)| setups(release).into_iter().map(move |s| (s, missing)));
    let cells = setups.flat_map(|(setup, missing)| [true, false].map(|we_join| (setup, missing, we_join)));
    let page = Case { name: "the_page_has_the_matrix".into(), missing: None, test: Box::new(the_page_has_it) };
    let case = |(setup, missing, we_join): (Setup, Option<&String>, bool)| Case {
        name: cell_name(setup, we_join),
        missing: missing.cloned(),
        test: Box::new(move || cell(setup, we_join)),
    };
    cells.map(case).chain([page]).collect()
}

fn the_page_has_it() {
    let releases = [Release::Current, Release::Old];
    let mut table =
        format!("| | {} |\n|---|---|---|\n", releases.map(|r| format!("memberlist {}", r.version())).join(" | "));
    for setup in setups(Release::Current) {
        let run = |release| setups(release).iter().any(|other| other.name() == setup.name());
        let cells = releases.map(|release| if run(release) { "we join, they join" } else { "has no labels" });
        table += &format!("| {} | {} |\n", setup.name(), cells.join(" | "));
    }
    let page = include_str!("../../docs/memberlist.md");
    assert!(page.contains(&table), "the table in docs/memberlist.md is not what is run:\n{table}");
}

fn cell_name(setup: Setup, we_join: bool) -> String {
    let who = if we_join { "we-join" } else { "they-join" };
    format!("memberlist-{}/{}/{who}", setup.release.version(), setup.name())
}

fn cell(setup: Setup, we_join: bool) {
    let (ours, mut go) = if we_join {
        let go = setup.go("go", None);
        (we_join_through(setup, "ours", &go), go)
    } else {
        let ours = Embedded::start(setup.ours("ours"));
        let go = setup.go("go", Some(&ours));
        (ours, go)
    };
    agree(&ours, &mut go, "go");
    if setup.key.is_some() || setup.label {
        for addr in [ours.addr(), go.addr()] {
            assert_eq!(try_view(&Envelope::default(), addr), None, "{addr} tells it to everybody");
        }
    }
    ours_speaks(&ours, &go);
    go_speaks(&ours, &mut go);
    metadata_changes(&ours, &mut go);
    both_refute(setup, &ours, &go);
    for (log, event) in [(&ours.log, "failed"), (&go.log, "gone")] {
        let lines: Vec<_> = log.lines().into_iter().filter(|line| line["event"] != "received").collect();
        assert_eq!(log.count(&json!({"event": event})), 0, "{lines:#?}");
    }

    ours.leave();
    go.log.wait_line(0, &json!({"event": "gone", "member": "ours"}));
    believed(setup, go.addr(), "ours", |of| of.state == NodeState::Left);
    let ours = we_join_through(setup, "ours2", &go);
    go.log.wait_line(0, &json!({"event": "joined", "member": "ours2"}));
    assert_eq!(told(&ours, &go, MemberState::Left), ["ours"]);
    go.kill();
    ours.log.wait_line(0, &json!({"event": "failed", "member": "go"}));

    let mut go = setup.go("go2", Some(&ours));
    agree(&ours, &mut go, "go2");
    go.send_line("leave");
    ours.log.wait_line(0, &json!({"event": "left", "member": "go2"}));
    let mut go = setup.go("go3", Some(&ours));
    agree(&ours, &mut go, "go3");
    drop(ours);
    go.log.wait_line(0, &json!({"event": "gone", "member": "ours2"}));
    believed(setup, go.addr(), "ours2", |of| of.state == NodeState::Dead);
}

fn we_join_through(setup: Setup, name: &str, go: &Process) -> Embedded {
    Embedded::start(setup.ours(name).join([go.addr().to_string().parse().expect("an address")]))
}

/// Each sees the other, with its metadata, and nobody else.
#[track_caller]
fn agree(ours: &Embedded, go: &mut Process, name: &str) {
    let of = |name: &str| format!("meta of {name}");
    ours.log.wait_line(0, &json!({"event": "joined", "member": name, "meta": of(name)}));
    let me = ours.name();
    go.log.wait_line(0, &json!({"event": "joined", "member": me, "meta": of(me)}));

    let seen = ours.members().into_iter().map(|member| (member.name.to_string(), member.state));
    let mut seen: Vec<_> = seen.filter(|(_, state)| state.is_live()).collect();
    seen.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!(seen, [(name.to_owned(), MemberState::Alive), (me.to_owned(), MemberState::Alive)]);
    let from = go.log.len();
    go.send_line("members");
    let at = go.log.wait_line(from, &json!({"event": "members"}));
    assert_eq!(go.log.lines()[at]["members"], json!([name, me]));
    assert_eq!(told(ours, go, MemberState::Alive), [name, me]);
}

/// Of whom the Go node tells one of ours, when that asks it, that it believes this of them.
#[track_caller]
fn told(ours: &Embedded, go: &Process, state: MemberState) -> Vec<String> {
    let addr = go.addr();
    let view = ours.run(move |node| async move { node.view_of(addr, LIMIT).await }).expect("it tells its view");
    view.into_iter().filter(|belief| belief.state == state).map(|belief| belief.name.to_string()).collect()
}

/// The values of our messages are JSON.
fn ours_speaks(ours: &Embedded, go: &Process) {
    for size in SIZES {
        let value = if size == 1 { json!(7) } else { Value::from("ü".repeat((size - 2) / 2)) };
        assert_eq!(value.to_string().len(), size);
        ours.publish("from ours", &value);
        go.log.wait_line(0, &json!({"event": "received", "key": "from ours", "value": value}));
    }
}

fn go_speaks(ours: &Embedded, go: &mut Process) {
    for size in SIZES {
        let bytes: Vec<u8> = (0..size).map(|i| 255 - (i ^ i >> 8) as u8).collect();
        let bytes = STANDARD.encode(bytes);
        go.send_line(&format!("{} {bytes}", if size < 1400 { "gossip" } else { "reliable" }));
        let heard = json!({"event": "raw", "from": "go", "bytes": bytes});
        ours.log.wait_line(0, &heard);
        assert_eq!(ours.log.count(&heard), 1, "{size} bytes");
    }
    go.send_line("best-effort aGVsbG8=");
    ours.log.wait_line(0, &json!({"event": "raw", "from": "go", "bytes": "aGVsbG8="}));
    go.send_line("send from go 8");
    ours.log.wait_line(0, &json!({"event": "received", "from": "go", "key": "from go", "value": 8}));
}

fn metadata_changes(ours: &Embedded, go: &mut Process) {
    go.send_line("meta changed");
    ours.log.wait_line(0, &json!({"event": "updated", "member": "go", "meta": "changed"}));
    ours.run(|node| async move { node.update_meta("changed, too").await }).expect("it is short");
    go.log.wait_line(0, &json!({"event": "updated", "member": "ours", "meta": "changed, too"}));
}

/// Each does nothing until the other suspects it, and then says otherwise, in a later incarnation.
fn both_refute(setup: Setup, ours: &Embedded, go: &Process) {
    let known = believed(setup, go.addr(), "ours", |_| true).incarnation;
    let paused = ours.pause();
    believed(setup, go.addr(), "ours", |of| of.state == NodeState::Suspect);
    drop(paused);
    believed(setup, go.addr(), "ours", |of| of.state == NodeState::Alive && of.incarnation > known);

    let known = believed(setup, ours.addr(), "go", |_| true).incarnation;
    go.signal("STOP");
    believed(setup, ours.addr(), "go", |of| of.state == NodeState::Suspect);
    go.signal("CONT");
    believed(setup, ours.addr(), "go", |of| of.state == NodeState::Alive && of.incarnation > known);
}

/// Waits until a node believes of another what `wanted` asks for; gives it.
#[track_caller]
fn believed(setup: Setup, by: SocketAddr, name: &str, wanted: impl Fn(&PushPullState) -> bool) -> PushPullState {
    wait_believed(&setup.envelope(), by, name, wanted)
}
