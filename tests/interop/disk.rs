//! Nodes whose disk gets full: the log's, and a voter's. Each is a small file system of its own, in a mount namespace.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Process,
    http::{Answer, ask},
    netns,
    require::{self, Case},
    wait,
};

/// What the file system holds, in bytes.
const SIZE: usize = 16 << 20;
/// What the log has of it until there is room again.
const ROOM: usize = 64 << 10;
/// Makes it in the folder `$0`, fills it but for the room `$1`, and runs a program whose output goes to a file there.
const SCRIPT: &str = r#"
    mount -t tmpfs -o size=$2 none "$0"
    head -c $(($2 - $1)) /dev/zero >"$0/others"
    out="$0/log"
    shift 2
    exec "$@" >>"$out"
"#;
/// More than waits to be written.
const MESSAGES: usize = 6000;

pub fn cases() -> Vec<Case> {
    require::cases(
        missing().as_ref(),
        &[
            ("disk/a_full_disk_tears_no_line_and_what_is_lost_is_told", full_disk),
            ("disk/voters_on_a_full_disk_refuse_changes_and_keep_leases", full_disk_of_voter),
            ("disk/voters_make_room_on_a_full_disk_by_a_snapshot", small_disk_of_voter),
            ("disk/no_identity_is_made_on_a_disk_that_is_full_or_read_only", no_room_for_an_identity),
        ],
    )
}

fn missing() -> Option<String> {
    (!require::answers(unshare().args(["sh", "-ec", "mount -t tmpfs -o size=64k none /mnt"]))).then(|| {
        "no file system can be mounted in a namespace: be root, or allow users to have their own namespaces \
         (kernel.unprivileged_userns_clone=1, user.max_user_namespaces)"
            .into()
    })
}

/// Runs a command that may mount, and is alone in seeing what it mounts.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !netns::is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--"]);
    command
}

/// A file in the folder that the node sees.
fn inside(node: &Process, folder: &Path, file: &str) -> PathBuf {
    let folder = folder.strip_prefix("/").expect("a temporary folder is named from the root");
    Path::new("/proc").join(node.pid().to_string()).join("root").join(folder).join(file)
}

fn full_disk() {
    let folder = TempDir::new().expect("a temporary folder");
    let sender = Process::node(&["--name", "node2", "--http", "127.0.0.1:0"]);
    let seed = sender.addr().to_string();
    let settings = ["--name", "node1", "--join", &seed, "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let mut command = unshare();
    command.args(["sh", "-ec", SCRIPT]).arg(folder.path()).args([ROOM, SIZE].map(|size| size.to_string()));
    command.args([env!("CARGO_BIN_EXE_broadcast"), "node", "--profile", "local", "--log-format", "json"]);
    let node =
        Process::spawn(command.args(settings).env_clear().env("PATH", std::env::var_os("PATH").expect("it is set")));
    // Its output ends once the shell has become the node, whose own goes to the file.
    node.log.wait_end();
    let log = inside(&node, folder.path(), "log");
    let follow = ["--lines=+1", "--follow", "--sleep-interval=0.05"];
    let followed = Process::spawn(Command::new("tail").args(follow).arg(&log));
    let at = followed.http();
    followed.log.wait_line(0, &json!({ "event": "joined", "member": "node2" }));

    let publish = |count: usize| {
        let line = format!("{{\"key\":\"k\",\"value\":\"{}\"}}\n", "x".repeat(500));
        let kind = ["content-type: application/x-ndjson"];
        let answer =
            ask(sender.http(), "POST", "/v1/messages?ack=all&timeout=60s", &kind, line.repeat(count).as_bytes());
        assert_eq!((answer.status, &answer.json()["delivered"]), (200, &json!(1)), "{}", answer.text());
    };
    // Each is logged, twice as long as it is.
    publish(MESSAGES);
    assert_eq!(fs::metadata(&log).expect("it is there").len(), ROOM as u64, "the disk is full");
    assert_eq!(ask(at, "GET", "/readyz", &[], b"").status, 200, "that is no matter to the node");

    fs::remove_file(inside(&node, folder.path(), "others")).expect("it is there");
    let told = followed.log.wait("the number of lost lines", |lines| {
        lines.iter().position(|line| line["event"] == "log_lost").map(|place| (place, lines[place].clone()))
    });
    publish(1);
    followed.log.wait_line(told.0, &json!({ "event": "received", "seq": MESSAGES }));
    let lines = followed.log.lines();
    assert!(lines.iter().all(Value::is_object), "no line is torn: {:?}", lines.iter().find(|line| !line.is_object()));
    let missed = told.1["missed"].as_u64().expect("a number") as usize;
    assert!(told.1["error"].as_str().is_some_and(|error| error.contains("No space left")), "{}", told.1);
    let heard = lines.iter().filter(|line| line["event"] == "received").count();
    assert!(missed > MESSAGES / 2, "{}", told.1);
    // Others than messages were lost as well, if something else happened meanwhile.
    assert!((MESSAGES + 1..MESSAGES + 50).contains(&(heard + missed)), "{heard} are there, and {}", told.1);
}

/// A disk of this size, in MiB, with files of others.
const VOTER: &str = r#"
    mount -t tmpfs -o size=$1m none "$0"
    head -c 100M /dev/zero >"$0/others"
    shift
    exec "$@"
"#;

/// Starts a voter in this folder, and waits until it leads.
fn start_voter(folder: &TempDir, size: usize) -> Process {
    let mut command = unshare();
    command.args(["sh", "-ec", VOTER]).arg(folder.path()).arg(size.to_string()).arg(env!("CARGO_BIN_EXE_broadcast"));
    command.args(["node", "--profile", "local", "--log-format", "json", "--name", "node1", "--bind", "127.0.0.1:0"]);
    command.args(["--http", "127.0.0.1:0", "--etcd", "off", "--role", "voter", "--voters", "node1", "--data"]);
    command.arg(folder.path().join("data"));
    let voter = Process::spawn(command.env_clear().env("PATH", std::env::var_os("PATH").expect("it is set")));
    voter.log.wait_line(0, &json!({"event": "store_leads"}));
    voter
}

/// Writes one of eight keys, with a value of 1 MiB.
fn put(at: SocketAddr, key: usize) -> Answer {
    ask(at, "PUT", &format!("/v1/kv/large{}", key % 8), &[], &vec![b'x'; 1 << 20])
}

fn full_disk_of_voter() {
    let folder = TempDir::new().expect("a temporary folder");
    // There is room for its log, what it has ready behind that, and nothing more.
    let voter = start_voter(&folder, 232);
    let at = voter.http();
    let lease =
        ask(at, "POST", "/v1/leases", &[], br#"{"ttl": 10}"#).json()["lease"].as_str().expect("text").to_owned();
    let kept = ask(at, "PUT", &format!("/v1/kv/kept?lease={lease}"), &[], b"x");
    assert_eq!(kept.status, 200, "{}", kept.text());
    let keep_alive = || assert_eq!(ask(at, "PUT", &format!("/v1/leases/{lease}"), &[], b"").status, 200);
    let mut written = 0;
    let refused = loop {
        keep_alive();
        let answer = put(at, written);
        if answer.status != 200 {
            break answer;
        }
        written += 1;
        assert!(written < 160, "there is no more room than the disk has");
    };
    // What the log has ready is used up first.
    assert!(written > 60, "{written} are written");
    let why = "the disk of the leader is full, and nothing is written until there is room";
    assert_eq!((refused.status, &refused.json()["detail"]), (503, &json!(why)));
    let status = ask(at, "GET", "/v1/store", &[], b"").json();
    assert!(status["problems"][0].as_str().is_some_and(|problem| problem.contains("disk is full")), "{status}");
    // For longer than it lives, the lease is kept alive, and what there is can be read.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(12) {
        keep_alive();
        assert_eq!(ask(at, "GET", "/v1/kv/kept", &[], b"").status, 200);
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(put(at, 0).status, 503);
    fs::remove_file(inside(&voter, folder.path(), "others")).expect("it is there");
    wait("there is room again", || {
        keep_alive();
        put(at, 0).status == 200
    });
    wait("the lease ends with its key", || ask(at, "GET", "/v1/kv/kept", &[], b"").status == 404);
}

/// Fills a file system but for its folders, or makes it read-only, and runs a program that is to keep its data there.
const FULL: &str = r#"
    mount -t tmpfs -o size=64k none "$0"
    mkdir "$0/data"
    head -c 1M /dev/zero >"$0/others" 2>/dev/null || true
    exec "$@"
"#;
const READ_ONLY: &str = r#"
    mount -t tmpfs -o ro,size=64k none "$0"
    exec "$@"
"#;

fn no_room_for_an_identity() {
    let folder = TempDir::new().expect("a temporary folder");
    let data = folder.path().join("data");
    for (script, refused, remedy) in [
        (FULL, format!("cannot write {}/id.new: No space left on device", data.display()), "make room there"),
        (
            READ_ONLY,
            format!("cannot make the directory {}: Read-only file system", data.display()),
            "mount it for writing",
        ),
    ] {
        let mut command = unshare();
        command.args(["sh", "-ec", script]).arg(folder.path()).arg(env!("CARGO_BIN_EXE_broadcast"));
        command.args(["node", "--name", "node1", "--bind", "127.0.0.1:0", "--http", "off", "--data"]).arg(&data);
        let output =
            command.env_clear().env("PATH", std::env::var_os("PATH").expect("it is set")).output().expect("it runs");
        let line = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(
            line.starts_with(&format!("error: BROADCAST_DATA (--data): {refused}")) && line.contains(remedy),
            "{line}"
        );
    }
}

fn small_disk_of_voter() {
    let folder = TempDir::new().expect("a temporary folder");
    // There is room for a snapshot, too, but not for a third segment of the log.
    let voter = start_voter(&folder, 256);
    let at = voter.http();
    let (value, mut refused) = (vec![b'x'; 1 << 20], 0);
    // They fill the log, and leave nothing in the state: the key is not there.
    for _ in 0..100 {
        wait("there is room for the next", || {
            let answer = ask(at, "PUT", "/v1/kv/none", &["if-match: \"1\""], &value);
            assert!([412, 503].contains(&answer.status), "{}", answer.text());
            refused += usize::from(answer.status == 503);
            answer.status == 412
        });
    }
    assert!(refused > 0, "the disk was never full");
}
