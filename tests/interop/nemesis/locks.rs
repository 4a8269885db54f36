//! Locks under the same faults. Clients beside each node, some over HTTP and some over etcd's protocol, take two locks in turn,
//! hold them within their deadline or write on beyond it, release them or let them run out.
//!
//! Checked afterwards: by the holders' own deadlines, nobody holds a lock while another one does; tokens grow; a register
//! outside, and keys of the store, refuse a former holder, and never a holder.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng as _, SeedableRng as _},
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{
    begin,
    client::{self, Http, ask, now, print_line},
    etcd::Etcd,
};

/// Where the register is, in the processes of clients.
pub(super) const REGISTER: &str = "BROADCAST_TESTS_NEMESIS_REGISTER";
const TTL: Duration = Duration::from_secs(3);
/// Between two operations of a thread.
const PACE: Duration = Duration::from_millis(100);
const LOCKS: [&str; 2] = ["one", "jobs/two"];

/// Something outside that remembers the highest token that it has seen, and how many writes it has accepted: two numbers for
/// each lock, in a file that one at a time has.
fn write_register(path: &Path, lock: usize, token: u64) -> bool {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut file = Flock::lock(file, FlockArg::LockExclusive).expect("it can be locked");
    let mut all = read_register(&mut file);
    if all[lock].0 > token {
        return false;
    }
    all[lock] = (token, all[lock].1 + 1);
    let text: String = all.iter().map(|(token, count)| format!("{token} {count}\n")).collect();
    file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(text.as_bytes())).expect("there is room");
    true
}

fn read_register(file: &mut File) -> Vec<(u64, u64)> {
    let mut text = String::new();
    file.read_to_string(&mut text).expect("text");
    let number = |text: &str| text.parse().expect("a number");
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let mut all: Vec<_> = lines.map(|(token, count)| (number(token), number(count))).collect();
    all.resize(LOCKS.len(), (0, 0));
    all
}

/// Runs until its standard input has a line.
pub(super) fn run(name: &str) {
    let register = std::env::var_os(REGISTER).expect("whoever started this says where it is");
    let (rest, seed) = (AtomicBool::new(false), now().as_nanos() as u64);
    thread::scope(|scope| {
        let (rest, register) = (&rest, Path::new(&register));
        scope.spawn(move || {
            // Whoever started this may have ended.
            let _ = std::io::stdin().lines().next();
            rest.store(true, Ordering::Relaxed);
        });
        let random = |thread| Xoshiro256PlusPlus::seed_from_u64(seed ^ thread);
        scope.spawn(move || take_locks(&mut Http, random(0), register, rest));
        scope.spawn(move || take_locks(&mut Etcd::new(), random(1), register, rest));
    });
    print_line(&json!({"resting": name}));
}

fn post(path: &str, body: &Value) -> Option<Value> {
    let answer = ask("POST", path, body.to_string().as_bytes()).filter(|answer| answer.status == 200)?;
    serde_json::from_slice(&answer.body).ok()
}

/// A client of locks, over HTTP or over gRPC.
pub(super) trait LockClient {
    /// The name of the protocol, in what is printed.
    const PROTOCOL: &str;

    /// A lock that was granted.
    type Lock;

    /// Waits so long for it; nothing, if it was not granted by then.
    fn lock(&mut self, name: &'static str, ttl: Duration, wait: Duration) -> Option<Self::Lock>;
    fn token(held: &Self::Lock) -> u64;
    fn keep_alive(&mut self, held: &Self::Lock) -> bool;
    /// Puts a key if the lock is held: at which revision, or that it is not held; nothing, if nobody says.
    fn put_fenced(&mut self, held: &Self::Lock, key: &str) -> Option<Result<u64, NotHeld>>;
    fn release(&mut self, held: &Self::Lock);
}

/// The store says that a lock is not held any more.
pub(super) struct NotHeld;

/// A lock granted over HTTP.
pub(super) struct HttpLock {
    name: &'static str,
    session: String,
    token: u64,
}

impl HttpLock {
    fn path(&self) -> String {
        format!("/v1/sessions/{}", self.session)
    }
}

impl LockClient for Http {
    const PROTOCOL: &str = "HTTP";

    type Lock = HttpLock;

    fn lock(&mut self, name: &'static str, ttl: Duration, wait: Duration) -> Option<HttpLock> {
        let wish = json!({"names": [name], "session": {"ttl": ttl.as_secs()}, "wait": wait.as_secs()});
        let granted = post("/v1/locks", &wish)?;
        Some(HttpLock { name, session: granted["session"].as_str()?.to_owned(), token: granted["token"].as_u64()? })
    }

    fn token(held: &HttpLock) -> u64 {
        held.token
    }

    fn keep_alive(&mut self, held: &HttpLock) -> bool {
        ask("PUT", &held.path(), b"").is_some_and(|answer| answer.status == 200)
    }

    fn put_fenced(&mut self, held: &HttpLock, key: &str) -> Option<Result<u64, NotHeld>> {
        let answer = ask("PUT", &format!("/v1/kv/{key}?fence={}:{}", held.name, held.token), b"x")?;
        match answer.status {
            200 => serde_json::from_slice::<Value>(&answer.body).ok()?["revision"].as_u64().map(Ok),
            412 => Some(Err(NotHeld)),
            _ => None,
        }
    }

    fn release(&mut self, held: &HttpLock) {
        let _ = ask("DELETE", &held.path(), b"");
    }
}

fn take_locks<L: LockClient>(by: &mut L, mut random: Xoshiro256PlusPlus, register: &Path, rest: &AtomicBool) {
    let mut below = move |most: u64| random.next_u64() % most;
    while !rest.load(Ordering::Relaxed) {
        thread::sleep(PACE);
        let lock = usize::from(below(2) == 0);
        let Some(held) = by.lock(LOCKS[lock], TTL, Duration::from_secs(below(5))) else { continue };
        let token = L::token(&held);
        let keep = |by: &mut L| {
            let sent = now();
            by.keep_alive(&held).then_some(sent + TTL)
        };
        // It counts on nothing before a keepalive is confirmed.
        let Some(mut deadline) = keep(by) else { continue };
        let from = now();
        // Some go on beyond their deadline.
        let mut writes = 3 + below(20);
        let (mut accepted, mut fenced, mut wrong) = (0, Vec::new(), Vec::new());
        while writes > 0 && !(rest.load(Ordering::Relaxed) && now() > deadline) {
            writes -= 1;
            thread::sleep(PACE);
            let is_accepted = write_register(register, lock, token);
            accepted += u64::from(is_accepted);
            // The register has its say at once; by the time it has, the lock may be another one's.
            if !is_accepted && now() < deadline {
                wrong.push("the register refused who holds the lock");
            }
            match by.put_fenced(&held, &format!("fenced-{lock}")) {
                Some(Ok(revision)) => fenced.push(revision),
                Some(Err(NotHeld)) if now() < deadline => wrong.push("the store refused who holds the lock"),
                _ => {}
            }
            if below(10) < 6
                && let Some(later) = keep(by)
            {
                deadline = later;
            }
        }
        let until = deadline.min(now());
        // Others let it run out.
        if below(10) < 7 {
            by.release(&held);
        }
        print_line(&json!({
            "lock": lock, "protocol": L::PROTOCOL, "token": token, "accepted": accepted, "fenced": fenced, "wrong": wrong,
            "from": from.as_nanos() as u64, "until": until.as_nanos() as u64,
        }));
    }
}

/// How long a lock was held, and what was written meanwhile.
struct Holding {
    lock: usize,
    token: u64,
    from: u64,
    until: u64,
    fenced: Vec<u64>,
}

pub(super) fn nobody_holds_what_another_one_holds() {
    let register = NamedTempFile::new().expect("a file");
    let seconds = client::seconds(40);
    let mut nemesis = begin("locks", &[(REGISTER, register.path().to_str().expect("text"))]);
    nemesis.break_things(seconds);
    nemesis.stop_clients();
    let lines = nemesis.client_lines();
    let (mut all, mut accepted) = (Vec::new(), [0; LOCKS.len()]);
    for line in lines.iter().filter(|line| line.get("lock").is_some()) {
        let number = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"));
        assert_eq!(line["wrong"], json!([]), "{line}, after {:?}", nemesis.faults);
        let lock = usize::try_from(number("lock")).expect("it is small");
        accepted[lock] += number("accepted");
        let fenced = line["fenced"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
        all.push(Holding { lock, token: number("token"), from: number("from"), until: number("until"), fenced });
    }
    let mut file = register.reopen().expect("it is there");
    for (lock, (_, count)) in read_register(&mut file).into_iter().enumerate() {
        assert_eq!(count, accepted[lock], "what {} has accepted is what it was given", LOCKS[lock]);
        let mut held: Vec<&Holding> = all.iter().filter(|held| held.lock == lock).collect();
        held.sort_by_key(|held| held.from);
        for pair in held.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            let apart = Duration::from_nanos(first.until.saturating_sub(second.from));
            assert!(apart.is_zero(), "tokens {} and {} both held it for {apart:?}", first.token, second.token);
            assert!(first.token < second.token, "token {} came after {}", second.token, first.token);
        }
        let mut writes: Vec<_> =
            held.iter().flat_map(|held| held.fenced.iter().map(|revision| (*revision, held.token))).collect();
        writes.sort_unstable();
        assert!(writes.is_sorted_by_key(|(_, token)| *token), "who held no more has written: {writes:?}");
        assert!(held.len() > 5, "{} was granted {} times only", LOCKS[lock], held.len());
    }
    for protocol in [Http::PROTOCOL, Etcd::PROTOCOL] {
        let held = lines.iter().filter(|line| line["protocol"] == protocol).count();
        assert!(held > 3, "{held} locks were granted over {protocol}, after {:?}", nemesis.faults);
    }
    eprintln!("{} locks held in {seconds} s, {accepted:?} writes; faults {:?}", all.len(), nemesis.faults);
}
