//! What the tests of whole nodes share: running the program, following its log, waiting for conditions, and saying what is
//! missing on this machine.

// Each test binary uses its part of it.
#![allow(dead_code)]

pub mod browser;
pub mod child;
pub mod cluster;
pub mod compose;
pub mod docker;
pub mod embedded;
pub mod go;
pub mod http;
pub mod lag;
pub mod ledger;
pub mod netns;
pub mod require;
pub mod serf;
pub mod swarm;
pub mod tls;
pub mod traffic;
pub mod voters;

use std::{
    fmt::Debug,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use self::child::OwnedChild;

/// How long a test waits for anything, at most.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How often a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until a condition holds. `what` names it if it does not.
#[track_caller]
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || if holds() { Ok(()) } else { Err("it does not hold") });
}

/// Tries until it succeeds; gives the outcome. If time is up, says `what` was waited for, and the last failure.
#[track_caller]
pub fn wait_for<T, E: Debug>(what: &str, attempt: impl FnMut() -> Result<T, E>) -> T {
    wait_every(POLL_INTERVAL, what, attempt)
}

/// The same, with this time between two attempts.
#[track_caller]
pub fn wait_every<T, E: Debug>(interval: Duration, what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match attempt() {
            Ok(outcome) => return outcome,
            Err(failure) => assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}: {failure:?}"),
        }
        thread::sleep(interval);
    }
}

/// Sends a signal to a process, by its name without `SIG`.
#[track_caller]
pub fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).stdin(Stdio::null()).status();
    assert!(sent.expect("kill runs").success(), "{signal} to {pid}");
}

/// Keeps variables that begin with one of these from a command.
pub fn remove_env(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in std::env::vars_os() {
        if prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// A file or folder of the repository, whichever of its packages the test is in.
pub fn repository(path: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().find(|folder| folder.join("compose.yaml").exists());
    root.expect("every package is in the repository").join(path)
}

/// The program, with nothing of its own settings in its environment.
pub fn program(args: &[&str]) -> Command {
    let Some(program) = option_env!("CARGO_BIN_EXE_broadcast") else {
        panic!("only the program's own package tests it");
    };
    let mut command = Command::new(program);
    remove_env(&mut command, &["BROADCAST_"]);
    command.args(args);
    command
}

/// What it prints when all is well.
#[track_caller]
pub fn stdout(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).expect("text")
}

/// The one line in which it refuses, having printed nothing.
#[track_caller]
pub fn refusal(output: Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let text = String::from_utf8(output.stderr).expect("text");
    let line = text.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains('\n'), "one line: {text}");
    line.strip_prefix("error: ").expect("an error").into()
}

/// What a node has logged so far, one JSON object a line, and a way to wait for more.
#[derive(Debug, Default)]
pub struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<Value>,
    ended: bool,
}

impl Log {
    /// Follows what `output` prints, until it ends. Lines that are not JSON are kept as text.
    pub fn follow(output: impl Read + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let followed = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                followed.push(&line);
            }
            followed.end();
        });
        log
    }

    /// Adds a line.
    pub fn push(&self, line: &str) {
        let line = serde_json::from_str(line).unwrap_or_else(|_| Value::from(line));
        self.lock().lines.push(line);
        self.changed.notify_all();
    }

    /// Marks the end.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Everything so far.
    pub fn lines(&self) -> Vec<Value> {
        self.lock().lines.clone()
    }

    /// How many lines there are, to wait for later ones.
    pub fn len(&self) -> usize {
        self.lock().lines.len()
    }

    /// Waits until `find` finds something in the lines so far. `what` names it if it does not come.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut find: impl FnMut(&[Value]) -> Option<T>) -> T {
        self.wait_until(what, |lines, _| find(lines))
    }

    /// Waits until there will be no more lines.
    #[track_caller]
    pub fn wait_end(&self) {
        self.wait_until("the end of the log", |_, ended| ended.then_some(()));
    }

    /// As [`wait`](Self::wait); `find` is also told whether the log has ended.
    #[track_caller]
    fn wait_until<T>(&self, what: &str, mut find: impl FnMut(&[Value], bool) -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        let mut lines = self.lock();
        loop {
            if let Some(found) = find(&lines.lines, lines.ended) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.ended {
                let last = &lines.lines[lines.lines.len().saturating_sub(100)..];
                let log: Vec<String> = last.iter().map(Value::to_string).collect();
                let why = if lines.ended { "the log ended" } else { "it did not happen in time" };
                panic!("waiting for {what}: {why}. The end of the log:\n{}", log.join("\n"));
            }
            lines = self.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a line from number `from` on whose `message` is this; gives its number.
    #[track_caller]
    pub fn wait_message(&self, from: usize, words: &str) -> usize {
        self.wait(&format!("{words:?} from line {from} on"), |lines| {
            (from..lines.len()).find(|&i| lines[i]["message"] == words)
        })
    }

    /// Waits for a line from number `from` on that has all `fields`; gives its number.
    #[track_caller]
    pub fn wait_line(&self, from: usize, fields: &Value) -> usize {
        self.wait(&format!("{fields} from line {from} on"), |lines| {
            (from..lines.len()).find(|&i| has(&lines[i], fields))
        })
    }

    /// Waits for `count` lines that have all `fields`.
    #[track_caller]
    pub fn wait_lines(&self, count: usize, fields: &Value) {
        self.wait(&format!("{count} times {fields}"), |lines| {
            (lines.iter().filter(|line| has(line, fields)).count() >= count).then_some(())
        });
    }

    /// How many lines so far have all `fields`.
    pub fn count(&self, fields: &Value) -> usize {
        self.lock().lines.iter().filter(|line| has(line, fields)).count()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A test that failed while it held the lock has left whole lines behind.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a line has all `fields`, with these values.
fn has(line: &Value, fields: &Value) -> bool {
    fields.as_object().expect("fields with values").iter().all(|(name, value)| line[name] == *value)
}

/// A running node. Killed when dropped, so that nothing is left behind by a test that fails.
#[derive(Debug)]
pub struct Process {
    /// The process.
    pub child: OwnedChild,
    /// What it logs.
    pub log: Arc<Log>,
}

impl Process {
    /// Starts `broadcast node` with `args`; unless they say otherwise, on loopback, without HTTP and etcd's protocol, in the
    /// local profile and with a JSON log.
    pub fn node(args: &[&str]) -> Self {
        Self::node_with(args, &[])
    }

    /// The same, with variables in its environment.
    pub fn node_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let off = [["--http", "off"], ["--etcd", "off"]];
        let defaults = [["--bind", "127.0.0.1:0"], off[0], off[1], ["--profile", "local"], ["--log-format", "json"]];
        let defaults = defaults.iter().filter(|[flag, _]| !args.contains(flag)).flatten().copied();
        let args: Vec<_> = ["node"].into_iter().chain(defaults).chain(args.iter().copied()).collect();
        Self::spawn(program(&args).envs(env.iter().copied()))
    }

    /// Starts a program that logs to its standard output.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program runs");
        let log = Log::follow(child.stdout.take().expect("it is piped"));
        Self::new(child, log)
    }

    /// Takes over a process that was started elsewhere, and its log, which is empty if nobody follows it.
    pub fn new(child: Child, log: Arc<Log>) -> Self {
        Self { child: OwnedChild(child), log }
    }

    /// Where the node serves its HTTP API, once it does.
    #[track_caller]
    pub fn http(&self) -> SocketAddr {
        self.wait_addr("http")
    }

    /// Where the node serves clients of etcd, once it does.
    #[track_caller]
    pub fn etcd(&self) -> SocketAddr {
        self.wait_addr("etcd")
    }

    /// Where the node listens, once it does.
    #[track_caller]
    pub fn addr(&self) -> SocketAddr {
        self.wait_addr("listening")
    }

    /// The address in the line of this event.
    #[track_caller]
    fn wait_addr(&self, event: &str) -> SocketAddr {
        self.log.wait(&format!("the address of the event {event}"), |lines| {
            let line = lines.iter().find(|line| line["event"] == event)?;
            line["addr"].as_str().expect("text").parse().ok()
        })
    }

    /// Waits until it listens, or has ended instead; gives which.
    #[track_caller]
    pub fn wait_started(&self) -> bool {
        self.log.wait_until("it listens, or ends", |lines, ended| {
            let listens = lines.iter().any(|line| line["event"] == "listening");
            (listens || ended).then_some(listens)
        })
    }

    /// Writes a line to its standard input, which must be piped.
    pub fn send_line(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        writeln!(input, "{line}").expect("it reads");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory it has had resident so far, in bytes.
    pub fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("proc(5) has it");
        let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib << 10
    }

    /// Sends it a signal, by its name without `SIG`.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has been ended");
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("it was started here") {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
