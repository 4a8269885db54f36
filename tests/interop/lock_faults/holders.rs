//! A process that runs `broadcast lock` many times beside a node, in its network.
//!
//! Every call to the node passes through here. So the test knows which keepalive was confirmed last and when it was sent: the
//! command must be over by then, plus the time to live.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::super::nemesis::client::{HTTP, now, print_line};
use crate::support::{lag, program};

/// It is not shorter, as it includes the margin for a busy machine.
const TTL: Duration = Duration::from_secs(6);
/// How often the test checks which processes run.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long the test looks after a fault. A command that holds its lock by then has kept it.
const LONGEST: Duration = Duration::from_secs(9);
/// A script that ignores SIGTERM, as does its child in a session of its own.
const SCRIPT: &str = "trap '' TERM; setsid sleep 1000 & echo $BROADCAST_LOCK_KEY $$ $!; exec sleep 1000";

/// Until when each session surely lives, as its holder may know it.
type Deadlines = Arc<Mutex<HashMap<String, Duration>>>;

struct Holder {
    command: Child,
    session: String,
    pids: [u32; 2],
    /// When all of its processes were seen to have ended.
    ended: Option<Duration>,
    /// How long it ran on beyond its deadline.
    late: Duration,
}

fn lock(deadlines: &Deadlines) -> MutexGuard<'_, HashMap<String, Duration>> {
    deadlines.lock().expect("nobody panics while it has this")
}

/// Holds so many locks, says so, and waits for a line that says what to do to the commands. Then it prints what happened
/// to their processes.
pub(super) fn run(count: usize) {
    lag::watch();
    let deadlines = Deadlines::default();
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let node = format!("http://{}", listener.local_addr().expect("it is bound"));
    let heard = Arc::clone(&deadlines);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let deadlines = Arc::clone(&heard);
            thread::spawn(move || pass_on(stream, &deadlines));
        }
    });
    let mut holders: Vec<Holder> = (0..count).map(|n| hold(&node, n)).collect();
    // Each has had a keepalive confirmed besides what opened its session.
    let opened = lock(&deadlines).clone();
    while !holders.iter().all(|holder| lock(&deadlines)[&holder.session] > opened[&holder.session]) {
        thread::sleep(LOOK_EVERY);
    }
    print_line(&json!({"ready": true}));
    let fault = std::io::stdin().lines().next().and_then(Result::ok).expect("it is told what to do");
    let (fault_at, began) = (now(), Instant::now());
    let signal = match &*fault {
        "kill" => Some("-KILL"),
        "stop" => Some("-STOP"),
        _ => None,
    };
    if let Some(signal) = signal {
        let pids = holders.iter().map(|holder| holder.command.id().to_string());
        assert!(Command::new("kill").arg(signal).args(pids).status().expect("kill runs").success());
    }
    while now() < fault_at + LONGEST && holders.iter().any(|holder| holder.ended.is_none()) {
        for holder in holders.iter_mut().filter(|holder| holder.ended.is_none()) {
            let before = now();
            if holder.pids.into_iter().any(runs) {
                // What was confirmed meanwhile counts.
                let deadline = lock(&deadlines)[&holder.session];
                holder.late = holder.late.max(before.saturating_sub(deadline));
            } else {
                holder.ended = Some(now());
            }
        }
        thread::sleep(LOOK_EVERY);
    }
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let (deadlines, allowed) = (lock(&deadlines).clone(), millis(lag::allowed(began)));
    for holder in &mut holders {
        let ended = holder.ended.map(|ended| millis(ended - fault_at));
        let left = holder.ended.map(|ended| millis(deadlines[&holder.session].saturating_sub(ended)));
        print_line(&json!({"ended": ended, "left": left, "late": millis(holder.late), "allowed": allowed}));
        // Those that are left end what they run.
        let _ = holder.command.kill();
        let _ = holder.command.wait();
    }
}

fn hold(node: &str, n: usize) -> Holder {
    let ttl = format!("{}s", TTL.as_secs());
    let name = format!("faults/{}/{n}", std::process::id());
    let mut command = program(&["lock", &name, "--ttl", &ttl, "--node", node, "--", "sh", "-c", SCRIPT]);
    let mut command =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program runs");
    let mut line = String::new();
    let output = command.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut line).expect("it prints text");
    let mut words = line.split_whitespace();
    let key = words.next().unwrap_or_else(|| panic!("{name} is not granted"));
    let session = key.rsplit('/').next().expect("there is a last part").to_owned();
    let pids = [(); 2].map(|()| words.next().and_then(|pid| pid.parse().ok()).expect("two numbers"));
    Holder { command, session, pids, ended: None, late: Duration::ZERO }
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Passes one call on to the node and its answer back, and notes which keepalive the answer confirms.
fn pass_on(mut caller: TcpStream, deadlines: &Deadlines) -> Option<()> {
    let mut request = [0; 4096];
    let length = caller.read(&mut request).ok()?;
    // It was sent just before.
    let deadline = now() + TTL;
    let head = String::from_utf8_lossy(&request[..length]).into_owned();
    let kept = head.strip_prefix("PUT /v1/sessions/").and_then(|rest| rest.split(' ').next()).map(str::to_owned);
    let asks = head.starts_with("POST /v1/locks ");
    let mut node = TcpStream::connect(HTTP).ok()?;
    node.write_all(&request[..length]).ok()?;
    let (mut from, mut to) = (caller.try_clone().ok()?, node.try_clone().ok()?);
    thread::spawn(move || {
        // Either end may go at any time.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let (mut answer, mut bytes) = (String::new(), [0; 4096]);
    loop {
        let length = node.read(&mut bytes).ok().filter(|length| *length > 0);
        let Some(length) = length else {
            let _ = caller.shutdown(Shutdown::Both);
            return None;
        };
        // Before the caller knows it.
        answer += &String::from_utf8_lossy(&bytes[..length]);
        let session = match &kept {
            Some(session) => answer.starts_with("HTTP/1.1 200 ").then(|| session.clone()),
            None if asks => opened(&answer),
            None => None,
        };
        if let Some(session) = session {
            let mut deadlines = lock(deadlines);
            let known = deadlines.entry(session).or_default();
            *known = deadline.max(*known);
        }
        if caller.write_all(&bytes[..length]).is_err() {
            let _ = node.shutdown(Shutdown::Both);
            return None;
        }
    }
}

/// The session that an answer says was opened.
fn opened(answer: &str) -> Option<String> {
    let (_, rest) = answer.split_once("\"session\":\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}
