//! Backups of the store, and founding it anew: the commands, with real nodes.

use std::{
    fs,
    io::{BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tempfile::TempDir;

use super::store::{Cluster, command, put, put_24_mib, put_until_stopped, single_voter_with_data};
use crate::support::{
    Process,
    http::{ask, connect, read_head, request},
    program, refusal, stdout, wait, wait_for,
};

/// The first revision of a store that was founded anew, from a command's output.
#[track_caller]
fn first_revision(told: &str, former: u64) -> u64 {
    let first = told.split_once(", from revision ").and_then(|(_, rest)| rest.split_once(" on, with "));
    let first = first.and_then(|(first, _)| first.parse::<u64>().ok()).unwrap_or_else(|| panic!("no revision: {told}"));
    // It is as late as it is.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than that").as_micros();
    assert!(first > former && u128::from(first) <= now && now < u128::from(first) + 60_000_000, "{former}: {told}");
    first
}

fn run(args: &[&str]) -> Output {
    program(args).output().expect("it runs")
}

fn restore(file: &Path, data: &Path) -> Output {
    let [file, data] = [file, data].map(|path| path.to_str().expect("text"));
    run(&["store", "restore", file, "--name", "node1", "--data", data])
}

fn recover(data: &Path) -> Output {
    run(&["store", "recover", "--force-new-cluster", "--data", data.to_str().expect("text")])
}

/// The numbers that were put under a prefix.
fn numbers(at: SocketAddr, prefix: &str) -> Vec<u64> {
    let list = ask(at, "GET", &format!("/v1/kv?prefix={prefix}/&limit=100000"), &[], b"").json();
    let kvs = list["kvs"].as_array().unwrap_or_else(|| panic!("no keys: {list}"));
    kvs.iter().map(|kv| kv["value"].as_str().expect("text").parse().expect("a number")).collect()
}

#[track_caller]
fn wait_more(at: SocketAddr, prefix: &str, than: u64) {
    wait("more is put", || put(at, &format!("{prefix}/0"), b"0").1["revision"].as_u64().expect("a revision") >= than);
}

impl Cluster {
    fn data(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("node{}", at + 1))
    }

    /// Kills all voters at once. These lose their data.
    fn lose(&mut self, disks: &[usize]) {
        for voter in &self.voters {
            voter.signal("KILL");
        }
        for voter in &mut self.voters {
            voter.wait();
        }
        disks.iter().for_each(|at| fs::remove_dir_all(self.data(*at)).expect("it is there"));
    }

    /// Adds a voter that is not part of the store yet.
    #[track_caller]
    fn add(&self, name: &str) {
        // It may not have been seen yet.
        wait_for(&format!("{name} is added"), || {
            let added = command(self.other.http(), &["voters", "add", name]).output().expect("it runs");
            if added.status.success() { Ok(()) } else { Err(added) }
        });
    }

    /// Starts one voter that has a store, and adds the others to it.
    fn take_in(&mut self, first: usize) {
        self.restart(first);
        // Nobody founds another beside it, whoever is there first.
        let others: Vec<usize> = (0..3).filter(|at| *at != first).collect();
        others.iter().for_each(|at| self.restart(*at));
        assert_eq!(self.wait_led(1), first);
        others.iter().for_each(|at| self.add(&format!("node{}", at + 1)));
        self.wait_led(3);
    }
}

#[test]
fn what_was_saved_under_load_is_there_in_another_store_and_the_former_one_is_named_in_vain() {
    let mut cluster = Cluster::start();
    let at = cluster.other.http();
    let lease =
        ask(at, "POST", "/v1/leases", &[], b"{\"ttl\": 300}").json()["lease"].as_str().expect("text").to_owned();
    assert_eq!(ask(at, "PUT", &format!("/v1/kv/held?lease={lease}"), &[], b"x").status, 200);
    let stop = Arc::new(AtomicBool::new(false));
    let writers = [put_until_stopped(at, "a", &stop), put_until_stopped(cluster.voters[1].http(), "b", &stop)];
    wait_more(at, "c", 60);
    // What is there now was acknowledged before.
    let before = ["a", "b"].map(|prefix| numbers(at, prefix));
    let file = cluster.folder.path().join("backup");
    fs::write(&file, "an older one").expect("it can be written");
    let path = file.to_str().expect("text");
    let saved = stdout(command(at, &["store", "snapshot", "save", path, "--json"]).output().expect("it runs"));
    let saved: Value = serde_json::from_str(&saved).expect("JSON");
    let revision = saved["revision"].as_u64().expect("a revision");
    wait_more(at, "c", revision + 20);
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| drop(writer.join().expect("it puts")));
    // Also what another node gives is whole.
    let second = cluster.folder.path().join("second");
    let line = stdout(
        command(cluster.voters[2].http(), &["store", "snapshot", "save", second.to_str().expect("text")])
            .output()
            .expect("it runs"),
    );
    assert!(
        line.starts_with(&format!("saved store {} at revision ", saved["cluster"].as_str().expect("text"))),
        "{line}"
    );
    let last = put(at, "lost", b"x").1["revision"].as_u64().expect("a revision");
    let names: Vec<_> =
        fs::read_dir(cluster.folder.path()).expect("a folder").map(|file| file.expect("a file").file_name()).collect();
    assert_eq!(names.len(), 5, "three directories and two files: {names:?}");

    cluster.lose(&[0, 1, 2]);
    let told = stdout(restore(&file, &cluster.data(0)));
    let [cluster_id, index, term] = ["cluster", "index", "term"].map(|field| saved[field].to_string().replace('"', ""));
    let former = format!("restored store {cluster_id} at revision {revision}, entry {index} of term {term}\n");
    assert!(told.starts_with(&former), "{told}");
    assert!(told.ends_with(" on, with node1 as its only voter\n"), "{told}");
    let first = first_revision(&told, revision);
    cluster.take_in(0);
    for node in [cluster.other.http(), cluster.voters[2].http()] {
        for (prefix, before) in ["a", "b"].into_iter().zip(&before) {
            let there = numbers(node, prefix);
            let missing: Vec<_> = before.iter().filter(|number| !there.contains(number)).collect();
            assert!(missing.is_empty(), "{prefix}: acknowledged, saved and lost: {missing:?}");
        }
        assert_eq!(ask(node, "GET", "/v1/kv/lost", &[], b"").status, 404);
        assert_eq!(ask(node, "GET", "/v1/kv/held", &[], b"").header("kv-lease"), Some(&*lease));
        assert_eq!(ask(node, "PUT", &format!("/v1/leases/{lease}"), &[], b"").status, 200);
        // Revisions of the former store, one that it told after the backup among them.
        for (path, header) in [
            (format!("/v1/watch?after={last}"), String::new()),
            (format!("/v1/watch?prefix=a/&after={}", revision - 1), String::new()),
            ("/v1/watch".into(), format!("last-event-id: {last}")),
            (format!("/v1/kv/held?revision={last}"), String::new()),
        ] {
            let headers: Vec<&str> = Some(&*header).filter(|header| !header.is_empty()).into_iter().collect();
            let gone = ask(node, "GET", &path, &headers, b"");
            assert_eq!((gone.status, &gone.json()["compacted"]), (410, &first.into()), "{path}");
        }
        let lost = format!("if-match: \"{last}\"");
        assert_eq!(ask(node, "PUT", "/v1/kv/held", &[&lost], b"y").status, 412);
    }
    assert!(put(at, "after", b"x").1["revision"].as_u64() > Some(first));
}

#[test]
fn one_voter_that_is_left_goes_on_with_all_that_it_had() {
    let mut cluster = Cluster::start();
    let at = cluster.other.http();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = put_until_stopped(at, "a", &stop);
    wait_more(at, "c", 60);
    stop.store(true, Ordering::Relaxed);
    let (done, _) = writer.join().expect("it puts");
    let last = put(at, "last", b"x").1["revision"].as_u64().expect("a revision");
    // Whoever leads has all that was acknowledged.
    let left = cluster.wait_led(3);
    let line = refusal(recover(&cluster.data(left)), 1);
    assert!(line.starts_with("BROADCAST_DATA (--data): another process uses "), "{line}");
    let lost: Vec<usize> = (0..3).filter(|at| *at != left).collect();
    cluster.lose(&lost);
    let told = stdout(recover(&cluster.data(left)));
    assert!(told.contains(&format!(" at revision {last}, entry ")), "{told}");
    assert!(told.ends_with(&format!(" on, with node{} as its only voter\n", left + 1)), "{told}");
    assert!(cluster.data(left).join("store.former").is_dir());
    cluster.take_in(left);
    let there = numbers(at, "a");
    let missing: Vec<_> = done.iter().filter(|number| !there.contains(number)).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    assert_eq!(ask(at, "GET", &format!("/v1/watch?after={last}"), &[], b"").status, 410);
    assert!(put(at, "after", b"x").1["revision"].as_u64() > Some(first_revision(&told, last)));
}

#[test]
fn what_cannot_be_is_refused_in_one_line_and_nothing_is_written() {
    let folder = TempDir::new().expect("a folder");
    let (file, data) = (folder.path().join("backup"), folder.path().join("data"));
    let line = refusal(restore(&file, &data), 1);
    assert!(line.starts_with("cannot read ") && line.contains("/backup: No such file"), "{line}");
    for text in ["", "text", &"x".repeat(1000)] {
        fs::write(&file, text).expect("it can be written");
        let line = refusal(restore(&file, &data), 1);
        assert!(line.ends_with("/backup is no backup of a store; name a file that was saved as one"), "{line}");
    }
    let line = refusal(recover(&data), 1);
    assert!(line.ends_with("/data: there is no such directory; name that of a voter"), "{line}");
    assert!(!data.exists());
    fs::create_dir(&data).expect("it can be made");
    let line = refusal(recover(&data), 1);
    assert!(line.ends_with("/data/store has no store; name the folder of a voter whose store was founded"), "{line}");
    assert_eq!(fs::read_dir(&data).expect("a folder").count(), 0, "it stays as it is");

    let data = data.to_str().expect("text");
    assert_eq!(
        refusal(run(&["store", "recover", "--data", data]), 2),
        "--force-new-cluster must be given as well; see broadcast store recover --help"
    );
    let file = file.to_str().expect("text");
    assert_eq!(
        refusal(run(&["store", "restore", file]), 2),
        "--data <DIRECTORY> must be given as well; see broadcast store restore --help"
    );
    let line = refusal(run(&["store", "restore", file, "--data", data, "--name", ""]), 2);
    assert!(line.starts_with("BROADCAST_NAME (--name): "), "{line}");

    // Nobody votes, so there is nothing to save, and no file of it. Who may read keys may not have all of them.
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "look: read look-look-look\nops: operate ops-ops-ops\n").expect("it can be written");
    let node = Process::node(&["--http", "127.0.0.1:0", "--tokens-file", tokens.to_str().expect("text")]);
    let target = folder.path().join("target");
    let save = ["store", "snapshot", "save", target.to_str().expect("text")];
    let save = |token: &str| command(node.http(), &save).env("BROADCAST_TOKEN", token).output().expect("it runs");
    let line = refusal(save("look-look-look"), 1);
    assert!(line.starts_with("the token look does not have the scope operate, but read;"), "{line}");
    let line = refusal(save("ops-ops-ops"), 1);
    assert!(line.starts_with("this cluster has no store"), "{line}");
    assert!(!target.exists());
}

/// A server that answers once with `body`, and promises `length` bytes.
fn answers(length: usize, body: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n");
        // The head of a request is short.
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(&[head.as_bytes(), &body].concat()).expect("it reads");
        let _ = stream.shutdown(Shutdown::Write);
    });
    at
}

#[test]
fn a_backup_that_is_not_whole_leaves_the_former_one() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("backup");
    fs::write(&file, "the former one").expect("it can be written");
    let save = |at: SocketAddr| {
        let mut saving = command(at, &["store", "snapshot", "save", file.to_str().expect("text")]);
        let line = refusal(saving.output().expect("it runs"), 1);
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "the former one");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing else is left");
        line
    };
    let line = save(answers(1000, vec![7; 100]));
    assert!(line.contains(" broke off: "), "{line}");
    let line = save(answers(100, vec![7; 100]));
    assert!(line.contains(" is no whole backup: ") && line.ends_with("; save again"), "{line}");
}

/// Begins a backup, and reads only the head of the answer.
fn begin_backup(at: SocketAddr) -> (u16, BufReader<TcpStream>) {
    let mut stream = connect(at);
    stream.write_all(&request("GET", "/v1/store/snapshot", &[], b"")).expect("it reads");
    let mut stream = BufReader::new(stream);
    (read_head(&mut stream).expect("it answers").0, stream)
}

/// Reads part of a backup, then lets something happen to its writer: the rest is cut off, or at least does not end as a
/// body in chunks does (RFC 9112, section 7.1).
fn cut_off(at: SocketAddr, happens: impl FnOnce()) {
    let (status, mut stream) = begin_backup(at);
    assert_eq!(status, 200);
    let mut first = [0; 1 << 16];
    stream.read_exact(&mut first).expect("a part of it");
    happens();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 24 << 20, "all came, so this shows nothing");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a part of a backup looks whole");
}

#[test]
fn a_voter_that_stops_cuts_a_backup_off_visibly() {
    let mut node = single_voter_with_data();
    cut_off(node.http(), || node.signal("TERM"));
    node.wait();
}

#[test]
fn a_leader_that_is_lost_cuts_a_backup_off_visibly_and_the_next_one_gives_a_whole_one() {
    let mut cluster = Cluster::start();
    put_24_mib(cluster.other.http());
    let (leader, at) = (cluster.wait_led(3), cluster.other.http());
    cut_off(at, || cluster.voters[leader].signal("KILL"));
    cluster.voters[leader].wait();
    let file = cluster.folder.path().join("backup");
    let saved =
        program(&["store", "snapshot", "save", file.to_str().expect("text"), "--node", &at.to_string()]).output();
    assert!(stdout(saved.expect("it runs")).starts_with("saved store "));
    assert!(fs::metadata(file).expect("it is there").len() > 24 << 20);
}

#[test]
fn a_voter_writes_two_backups_at_once() {
    let node = single_voter_with_data();
    let save = || begin_backup(node.http());
    let [first, second] = [save(), save()];
    assert_eq!((first.0, second.0), (200, 200));
    let third = ask(node.http(), "GET", "/v1/store/snapshot", &[], b"");
    assert_eq!((third.status, third.header("retry-after")), (503, Some("1")));
    assert!(third.text().contains("node1 writes as many backups as it may already"), "{}", third.text());
    // Whoever goes makes room.
    drop(first);
    wait("it can be saved", || ask(node.http(), "GET", "/v1/store/snapshot", &[], b"").status == 200);
    drop(second);
}
