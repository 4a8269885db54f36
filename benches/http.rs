//! Benchmarks of the HTTP API: the latency from a publisher at one node to a follower at another, the throughput of batches, and
//! the cost of a thousand followers.
//!
//! Three processes of the program run on loopback. `cargo bench --bench http` prints a table.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

/// The longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test --benches` passes no flag, and wants to know only that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the system allows what it says");
    }
    println!("| what | figure |\n|---|---|");
    latency(&Cluster::start().await).await;
    batches(&Cluster::start().await).await;
    followers(&Cluster::start().await).await;
}

/// Three nodes that know each other. They end when this is dropped.
struct Cluster([Node; 3]);

struct Node {
    process: Child,
    http: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    /// Starts a node, and returns it with the address that it listens on.
    fn start(name: &str, seed: Option<&str>) -> (Self, String) {
        let args = ["node", "--name", name, "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-format", "json"];
        let join = seed.iter().flat_map(|seed| ["--join", seed]);
        let mut process = Command::new(env!("CARGO_BIN_EXE_broadcast"))
            .args(args.into_iter().chain(join))
            .env("BROADCAST_LOG", "info")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut addr = |event: &str| loop {
            let line = lines.next().expect("it tells where it is").expect("it logs text");
            let line: Value = serde_json::from_str(&line).expect("it logs JSON");
            if line["event"] == event {
                return line["addr"].as_str().expect("an address").to_owned();
            }
        };
        let (http, listening) = (addr("http"), addr("listening"));
        // Reads the log away, so that the node never waits for this.
        std::thread::spawn(move || lines.for_each(drop));
        (Self { process, http }, listening)
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("proc(5) has it");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// Time on processors, in seconds.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("it runs, on Linux");
        let fields: Vec<_> = stat.rsplit(')').next().expect("proc(5)").split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
    }
}

impl Cluster {
    async fn start() -> Self {
        let (first, seed) = Node::start("node1", None);
        let [second, third] = ["node2", "node3"].map(|name| Node::start(name, Some(&seed)).0);
        let cluster = Self([first, second, third]);
        let settled = async {
            for node in &cluster.0 {
                while !ask(node, "GET /readyz", "", b"").await.contains("\"members\":3") {
                    sleep(Duration::from_millis(20)).await;
                }
                // Or else it would log each message that it hears.
                ask(node, "PUT /v1/log", "", br#"{"filter":"warn"}"#).await;
            }
        };
        timeout(LIMIT, settled).await.expect("the nodes find each other");
        cluster
    }
}

/// Sends one request, and gives all of the answer.
async fn ask(node: &Node, what: &str, headers: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(&node.http).await.expect("it listens");
    let (length, host) = (body.len(), &node.http);
    let head =
        format!("{what} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

/// Begins to follow a node; gives what it says, from the first thing on.
async fn follow(node: &Node) -> tokio::io::BufReader<TcpStream> {
    let mut stream = TcpStream::connect(&node.http).await.expect("it listens");
    let request = format!("GET /v1/messages HTTP/1.1\r\nhost: {}\r\n\r\n", node.http);
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut stream = tokio::io::BufReader::with_capacity(1 << 16, stream);
    let mut line = String::new();
    while !line.starts_with("id: ") {
        line.clear();
        stream.read_line(&mut line).await.expect("it tells the place it begins at");
    }
    stream
}

/// The message a line has; nothing for other lines.
fn message(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_prefix("data: ")?).ok()
}

async fn latency(cluster: &Cluster) {
    const MESSAGES: usize = 1000;
    let started = Instant::now();
    let mut stream = follow(&cluster.0[1]).await;
    let follower = tokio::spawn(async move {
        let (mut late, mut line) = (Vec::new(), String::new());
        while late.len() < MESSAGES {
            line.clear();
            stream.read_line(&mut line).await.expect("it goes on");
            let now = started.elapsed();
            late.extend(
                message(&line).map(|message| now - Duration::from_nanos(message["value"].as_u64().expect("its time"))),
            );
        }
        late.sort();
        late
    });
    let mut stream = TcpStream::connect(&cluster.0[0].http).await.expect("it listens");
    stream.set_nodelay(true).expect("it is a socket");
    let (mut ticks, mut answer) = (interval(Duration::from_millis(10)), [0; 4096]);
    for _ in 0..MESSAGES {
        ticks.tick().await;
        let body = format!(r#"{{"key":"k","value":{}}}"#, started.elapsed().as_nanos());
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n",
            cluster.0[0].http,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.expect("it reads");
        assert!(stream.read(&mut answer).await.expect("it answers") > 0 && answer.starts_with(b"HTTP/1.1 202"));
    }
    let late = timeout(LIMIT, follower).await.expect("all arrive").expect("it ends");
    let ms = |at: usize| late[at * late.len() / 1000].as_secs_f64() * 1000.0;
    println!("| HTTP publish to SSE at another node, 100 msg/s, p50 / p99 | {:.2} / {:.2} ms |", ms(500), ms(990));
}

async fn batches(cluster: &Cluster) {
    const LINES: u64 = 5000;
    const BATCHES: u64 = 40;
    // More than 65,536 behind, a follower would be cut off.
    const AHEAD: u64 = 50_000;
    let mut followers = JoinSet::new();
    let mut progress = Vec::new();
    for node in &cluster.0 {
        let mut stream = follow(node).await;
        let (sender, receiver) = watch::channel(0);
        progress.push(receiver);
        followers.spawn(async move {
            let (mut received, mut line) = (0, String::new());
            while received < LINES * BATCHES {
                line.clear();
                stream.read_line(&mut line).await.expect("it goes on");
                assert!(!line.starts_with("event: "), "something was left out: {line}");
                if line.starts_with("data: ") {
                    assert!(line.contains(&format!("\"value\":{received},")), "in order, once: {line}, not {received}");
                    received += 1;
                    if received % LINES == 0 {
                        sender.send_replace(received);
                    }
                }
            }
        });
    }
    let started = Instant::now();
    for batch in 0..BATCHES {
        for receiver in &mut progress {
            // A follower that has received all is gone.
            let _ = receiver.wait_for(|received| received + AHEAD >= (batch + 1) * LINES).await;
        }
        let lines = (batch * LINES..(batch + 1) * LINES).map(|value| format!("{{\"key\":\"k\",\"value\":{value}}}\n"));
        let body: String = lines.collect();
        let answer =
            ask(&cluster.0[0], "POST /v1/messages", "content-type: application/x-ndjson\r\n", body.as_bytes()).await;
        assert!(answer.contains(&format!("\"published\":{LINES}")), "{answer}");
    }
    let published = started.elapsed();
    let all = async { while followers.join_next().await.transpose().expect("nothing is left out").is_some() {} };
    timeout(LIMIT, all).await.expect("all arrive");
    let rate = |time: Duration| (LINES * BATCHES) as f64 / time.as_secs_f64();
    println!(
        "| published by one client in batches of {LINES}, all heard by followers of all three nodes | {:.0} msg/s, {:.0} until the last has the last |",
        rate(published),
        rate(started.elapsed())
    );
}

async fn followers(cluster: &Cluster) {
    const FOLLOWERS: u64 = 1000;
    const MESSAGES: u64 = 100;
    let node = &cluster.0[1];
    let before = node.status("VmRSS:");
    let heard = Arc::new(AtomicU64::new(0));
    // One that does not read is to cost the others nothing.
    let asleep = follow(node).await;
    for _ in 0..FOLLOWERS {
        let (mut stream, heard) = (follow(node).await, Arc::clone(&heard));
        tokio::spawn(async move {
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
                heard.fetch_add(u64::from(line.starts_with("data: ")), Ordering::Relaxed);
                line.clear();
            }
        });
    }
    let (cpu, started) = (node.cpu(), Instant::now());
    let mut ticks = interval(Duration::from_millis(100));
    for value in 0..MESSAGES {
        ticks.tick().await;
        let body = format!(r#"{{"key":"k","value":{value}}}"#);
        ask(&cluster.0[0], "POST /v1/messages", "", body.as_bytes()).await;
    }
    let all = async {
        while heard.load(Ordering::Relaxed) < FOLLOWERS * MESSAGES {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, all).await.expect("all followers hear all");
    let share = (node.cpu() - cpu) / started.elapsed().as_secs_f64();
    drop(asleep);
    println!(
        "| {FOLLOWERS} followers of one node, 10 msg/s each, and one that does not read | {:.0} MB resident at most ({:.0} MB before), {:.0} % of a core |",
        node.status("VmHWM:") as f64 / 1000.0,
        before as f64 / 1000.0,
        share * 100.0
    );
}
