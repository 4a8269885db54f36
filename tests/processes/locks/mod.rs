//! `broadcast lock` and the commands beside it, against a server that fails in every way: what happens to the command that runs
//! under the lock.

mod fake;
mod terminal;
mod tree;
mod waiting;

use std::{
    fs,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use self::fake::{Fake, Fault};
use crate::support::{LIMIT, Log, Process, lag, program, refusal, signal, stdout};

fn run(fake: &Fake, args: &[&str]) -> Output {
    let mut command = program(args);
    command.env("BROADCAST_NODE", format!("http://{}", fake.addr));
    command.stdin(Stdio::null()).output().expect("the program runs")
}

/// A command that holds a lock, and its output.
struct Holder {
    process: Process,
    errors: Arc<Log>,
}

impl Holder {
    fn start(fake: &Fake, args: &[&str]) -> Self {
        Self::spawn_at(fake, program(args))
    }

    fn spawn_at(fake: &Fake, mut command: Command) -> Self {
        command.env("BROADCAST_NODE", format!("http://{}", fake.addr));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let errors = Log::follow(process.child.stderr.take().expect("it is piped"));
        Self { process, errors }
    }

    /// Waits for a line that begins with this word; gives the number after it.
    #[track_caller]
    fn number(&self, word: &str) -> u32 {
        self.process
            .log
            .wait(word, |lines| lines.iter().find_map(|line| line.as_str()?.strip_prefix(word)?.trim().parse().ok()))
    }

    #[track_caller]
    fn ends(&mut self, code: i32) -> String {
        assert_eq!(self.process.wait().code(), Some(code), "{:?} {:?}", self.process.log.lines(), self.errors.lines());
        self.errors.wait_end();
        self.errors
            .lines()
            .iter()
            .map(|line| line.as_str().map_or_else(|| line.to_string(), str::to_owned) + "\n")
            .collect()
    }

    /// Stops it until these processes have ended, in time; then it goes on, and finds its lock lost.
    #[track_caller]
    fn loses_its_lock_while_stopped(&mut self, fake: &Fake, pids: &[u32]) {
        self.process.signal("STOP");
        pids.iter().for_each(|pid| ends_in_time(fake, *pid));
        self.process.signal("CONT");
        self.ends(123);
    }
}

/// A script that ignores SIGTERM, as does its child in a session of its own. It prints the process ids of both.
const STUBBORN: &str = "trap '' TERM; setsid sh -c 'echo grandchild $$; exec sleep 1000' & echo child $$; \
    while :; do sleep 1000; done";

/// The time to live of locks that get lost. It is not shorter, as it includes the margin for a busy machine.
const TTL: &str = "6s";

/// Whether a process runs. A zombie does not, unless threads of it are left.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| {
        let threads = rest.split(' ').nth(17).and_then(|count| count.parse::<u32>().ok()).unwrap_or_default();
        !rest.starts_with(['Z', 'X']) || threads > 1
    })
}

/// Waits until a process does not run; gives when.
#[track_caller]
fn until_ended(pid: u32) -> Instant {
    let deadline = Instant::now() + LIMIT;
    while runs(pid) {
        assert!(Instant::now() < deadline, "{pid} runs on");
        thread::sleep(Duration::from_millis(1));
    }
    Instant::now()
}

/// Waits until a process does not run, which has to be before its session is over for the server; unless the machine gave
/// nobody a processor in time.
#[track_caller]
fn ends_in_time(fake: &Fake, pid: u32) {
    let began = Instant::now();
    let ended = until_ended(pid);
    let deadline = fake.look().deadline.expect("there was a session");
    let late = ended.saturating_duration_since(deadline);
    assert!(
        late <= lag::allowed(began),
        "{pid} ended {late:?} too late, of which {:?} are allowed",
        lag::allowed(began)
    );
}

#[test]
fn a_command_has_what_it_needs_in_its_environment_and_passes_its_exit_code_on() {
    let fake = Fake::start();
    let script = "echo $BROADCAST_LOCK_NAME $BROADCAST_LOCK_TOKEN $BROADCAST_LOCK_KEY; exit 7";
    let output = run(&fake, &["lock", "jobs/nightly", "--also", "b", "--label", "why", "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let expected = format!("jobs/nightly 1 jobs/nightly/{}\n", fake.session(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let state = fake.look();
    assert!(state.sessions.is_empty() && state.locks.is_empty(), "it is released: {state:?}");
    let (call, body) = &state.calls[0];
    assert_eq!(call, "POST /v1/locks");
    let session = json!({"ttl": 10, "lock_delay": 0, "label": "why", "release_on_failure": false});
    assert_eq!(body, &json!({"names": ["jobs/nightly", "b"], "session": session, "mode": "exclusive"}));
}

#[test]
fn exit_codes_are_those_of_env_and_timeout() {
    let fake = Fake::start();
    let code = |args: &[&str]| run(&fake, args).status.code();
    assert_eq!(code(&["lock", "a", "true"]), Some(0), "without --");
    assert_eq!(code(&["lock", "a", "--", "sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["lock", "a", "--", "sh", "-c", "kill -TERM $$"]), Some(143));
    assert_eq!(code(&["lock", "a", "--", "/etc/passwd"]), Some(126));
    let calls = fake.calls("");
    let line = refusal(run(&fake, &["lock", "a", "--", "no-such-program"]), 127);
    assert_eq!(line, "\"no-such-program\" cannot be run: there is no such program");
    assert_eq!(fake.calls(""), calls, "nothing is asked for what cannot be run");
    fake.change(|state| state.others = Fault::Status(403));
    assert_eq!(refusal(run(&fake, &["lock", "a", "--", "true"]), 125), "it is told to refuse");
    fake.change(|state| state.others = Fault::Close);
    let line = refusal(run(&fake, &["lock", "a", "--", "true"]), 125);
    assert!(line.contains("broke off"), "{line}");
    assert_eq!(code(&["lock", "/a", "--", "true"]), Some(2));
    assert_eq!(code(&["lock", "a", "--ttl", "1s", "--", "true"]), Some(2));
    assert!(fake.look().sessions.is_empty());
}

#[test]
fn whoever_waits_gets_it_in_turn() {
    let fake = Fake::start();
    let mut first = Holder::start(
        &fake,
        &["lock", "a", "--", "sh", "-c", "trap 'exit 3' TERM; echo ready 1; while :; do sleep 1000 & wait $!; done"],
    );
    first.number("ready");
    let line = refusal(run(&fake, &["lock", "a", "--try", "--", "true"]), 124);
    assert!(line.starts_with("a was not granted in time; it is held through node1 (sh (process "), "{line}");
    refusal(run(&fake, &["lock", "a", "--wait", "300ms", "--", "true"]), 124);
    let mut second = Holder::start(&fake, &["lock", "a", "--ttl", "2s", "--json", "--", "echo", "second"]);
    second.errors.wait_line(0, &json!({"event": "queued", "ahead": 1}));
    let mut third = Holder::start(&fake, &["lock", "a"]);
    fake.wait("two to wait", |state| (state.locks["a"].len() == 3).then_some(()));
    third.process.signal("TERM");
    assert_eq!(third.ends(143), "");
    fake.wait("its place to be given up", |state| (state.locks["a"].len() == 2).then_some(()));
    // It waits longer than its session would live by itself.
    let until = Instant::now() + Duration::from_millis(2500);
    fake.wait("the time to pass", |_| (Instant::now() > until).then_some(()));
    first.process.signal("TERM");
    // What was passed on was heeded.
    first.ends(3);
    second.ends(0);
    second.errors.wait_line(0, &json!({"event": "granted", "names": ["a"]}));
    assert_eq!(second.process.log.lines(), ["second"]);
}

#[test]
fn a_lock_is_kept_for_longer_than_its_ttl() {
    let fake = Fake::start();
    let output = run(&fake, &["lock", "a", "--ttl", "3s", "--", "sleep", "7"]);
    assert_eq!(stdout(output), "");
    assert!(fake.calls("PUT /v1/sessions/") >= 5);
}

#[test]
fn all_of_a_command_is_over_by_the_deadline() {
    let check = |fault| {
        let fake = Fake::start();
        let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", TTL, "--", "sh", "-c", STUBBORN]);
        let pids = ["child", "grandchild"].map(|word| holder.number(word));
        fake.wait("a keepalive", |state| state.calls.iter().any(|(call, _)| call.starts_with("PUT")).then_some(()));
        fake.change(|state| (state.keepalives, state.others) = (fault, fault));
        for pid in pids {
            ends_in_time(&fake, pid);
        }
        let text = holder.ends(123);
        assert!(text.contains("error: a was lost: no node confirmed in time that its session lives"), "{text}");
        assert!(text.contains("; the command was ended"), "{text}");
    };
    thread::scope(|scope| {
        for fault in [Fault::Close, Fault::Hang, Fault::Status(503)] {
            scope.spawn(move || check(fault));
        }
    });
}

#[test]
fn a_command_that_is_told_ends_in_its_own_way() {
    let fake = Fake::start();
    let script = "trap 'echo told; exit 0' TERM; echo ready 1; while :; do sleep 1000 & wait $!; done";
    let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", "60s", "--", "sh", "-c", script]);
    holder.number("ready");
    assert!(fake.is_held("a", 1));
    stdout(run(&fake, &["locks", "release", "a", "--force"]));
    let text = holder.ends(123);
    assert!(text.starts_with("warning: a is lost: released by force; ending the command\n"), "{text}");
    assert!(text.ends_with("error: a was lost: released by force; the command was ended\n"), "{text}");
    assert_eq!(holder.process.log.lines().last(), Some(&Value::from("told")));
}

#[test]
fn a_session_that_was_ended_is_a_lock_lost() {
    let fake = Fake::start();
    let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", "60s", "--", "sh", "-c", STUBBORN]);
    let child = holder.number("child");
    let session = fake.look().sessions.keys().next().cloned().expect("there is one");
    let began = Instant::now();
    stdout(run(&fake, &["sessions", "end", &session]));
    // The grace is 5 s, however long the TTL.
    until_ended(child);
    assert!(began.elapsed() > Duration::from_secs(4) && began.elapsed() < Duration::from_secs(30));
    holder.ends(123);
}

#[test]
fn a_stream_that_breaks_off_is_no_loss() {
    let fake = Fake::start();
    let script = "echo ready 1; exec sleep 1000";
    let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", TTL, "--", "sh", "-c", script]);
    holder.number("ready");
    fake.change(|state| state.cut_streams = true);
    fake.wait("it to ask for itself", |state| {
        (state.calls.iter().filter(|(call, _)| call == "GET /v1/locks/a").count() > 2).then_some(())
    });
    assert!(fake.is_held("a", 1));
    // What only the stream would have told is found out all the same.
    stdout(run(&fake, &["locks", "release", "a", "--force"]));
    let text = holder.ends(123);
    assert!(text.contains("a was lost: a is held no more"), "{text}");
}

#[test]
fn a_place_that_was_lost_is_asked_for_again() {
    let fake = Fake::start();
    let mut first = Holder::start(&fake, &["lock", "a"]);
    fake.wait("it to be held", |state| state.locks.contains_key("a").then_some(()));
    let mut second = Holder::start(&fake, &["lock", "a", "--json", "--", "echo", "second"]);
    second.errors.wait_line(0, &json!({"event": "queued"}));
    fake.change(|state| state.cut_streams = true);
    second.errors.wait_line(0, &json!({"event": "warning"}));
    fake.change(|state| state.cut_streams = false);
    second.errors.wait_lines(2, &json!({"event": "queued"}));
    first.process.signal("INT");
    assert_eq!(first.ends(130), "");
    assert_eq!(first.process.log.lines(), [json!(1)], "its token");
    second.ends(0);
    assert!(fake.look().sessions.is_empty());
}

#[test]
fn a_command_dies_with_its_supervisor() {
    let fake = Fake::start();
    let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", "60s", "--", "sh", "-c", STUBBORN]);
    let pids = ["child", "grandchild"].map(|word| holder.number(word));
    let began = Instant::now();
    holder.process.kill();
    for pid in pids {
        let ended = until_ended(pid);
        assert!(ended < began + Duration::from_secs(5), "long before its TTL is over");
    }
}

#[test]
fn a_lock_within_a_lock_dies_with_it() {
    let fake = Fake::start();
    let broadcast = program(&[]).get_program().to_str().expect("text").to_owned();
    let inner = ["lock", "b", "--", "sh", "-c", STUBBORN];
    let args = [&["lock", "a", "--ttl", "60s", "--", &broadcast][..], &inner].concat();
    let mut holder = Holder::start(&fake, &args);
    let pids = ["child", "grandchild"].map(|word| holder.number(word));
    holder.process.kill();
    for pid in pids {
        until_ended(pid);
    }
}

#[test]
fn one_that_is_stopped_is_over_by_the_deadline_as_well() {
    let fake = Fake::start();
    let mut holder =
        Holder::start(&fake, &["lock", "a", "--ttl", TTL, "--", "sh", "-c", "echo child $$; exec sleep 1000"]);
    let child = holder.number("child");
    signal(child, "STOP");
    fake.change(|state| state.keepalives = Fault::Hang);
    ends_in_time(&fake, child);
    holder.ends(123);
}

#[test]
fn a_command_is_over_by_the_deadline_while_its_supervisor_is_stopped() {
    let fake = Fake::start();
    let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", TTL, "--", "sh", "-c", STUBBORN]);
    let pids = ["child", "grandchild"].map(|word| holder.number(word));
    holder.loses_its_lock_while_stopped(&fake, &pids);
}

#[test]
fn what_a_command_leaves_behind_is_left_alone() {
    let fake = Fake::start();
    let output = run(&fake, &["lock", "a", "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]);
    let pid: u32 = stdout(output).trim().parse().expect("a process id");
    assert!(runs(pid));
    signal(pid, "TERM");
    until_ended(pid);
}

#[test]
fn each_signal_is_passed_on_as_it_is() {
    let fake = Fake::start();
    let script = "for s in HUP INT QUIT USR1 USR2 TERM; do trap \"echo got $s\" $s; done; echo ready 1; \
        while :; do sleep 1000 & wait $!; done";
    let mut holder = Holder::start(&fake, &["lock", "a", "--", "sh", "-c", script]);
    holder.number("ready");
    for signal in ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"] {
        holder.process.signal(signal);
        let line = format!("got {signal}");
        holder.process.log.wait(&line, |lines| lines.contains(&Value::from(&*line)).then_some(()));
    }
    stdout(run(&fake, &["locks", "release", "a", "--force"]));
    // It goes on after SIGTERM, and so it is killed.
    holder.ends(123);
}

#[test]
fn a_signal_that_is_ignored_stays_so() {
    let fake = Fake::start();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" lock a"]).arg(program(&[]).get_program());
    let mut holder = Holder::spawn_at(&fake, command);
    fake.wait("it to be held", |state| state.locks.contains_key("a").then_some(()));
    holder.process.log.wait("its token", |lines| lines.first().map(|_| ()));
    holder.process.signal("HUP");
    holder.process.signal("TERM");
    holder.ends(143);
}

#[test]
fn one_leads_at_a_time_and_says_something_of_itself() {
    let fake = Fake::start();
    let mut first = Holder::start(&fake, &["elect", "db/primary", "--value", "10.0.0.1:80"]);
    fake.wait("it to lead", |state| state.locks.contains_key("db/primary").then_some(()));
    let second = Holder::start(&fake, &["elect", "db/primary", "--value", "two", "--", "sleep", "1000"]);
    fake.wait("it to wait", |state| (state.locks["db/primary"].len() == 2).then_some(()));
    assert_eq!(stdout(run(&fake, &["elect", "db/primary", "--leader"])), "node1 with token 1: 10.0.0.1:80\n");
    let mut observer = Holder::start(&fake, &["elect", "db/primary", "--observe"]);
    observer.process.log.wait("the first", |lines| (lines.len() == 1).then_some(()));
    first.process.signal("TERM");
    first.ends(143);
    observer.process.log.wait("the second", |lines| (lines.len() == 2).then_some(()));
    second.process.signal("TERM");
    observer.process.log.wait("nobody", |lines| (lines.len() == 3).then_some(()));
    let expected = ["node1 with token 1: 10.0.0.1:80", "node1 with token 2: two", "nobody"].map(Value::from);
    assert_eq!(observer.process.log.lines(), expected);
    observer.process.signal("INT");
    assert_eq!(observer.ends(130), "");
    assert_eq!(refusal(run(&fake, &["elect", "db/primary", "--leader"]), 1), "nobody leads \"db/primary\"");
    assert_eq!(run(&fake, &["elect", "db/primary", "--leader", "--", "true"]).status.code(), Some(2));
    let broadcast = program(&[]).get_program().to_str().expect("text").to_owned();
    let script = "\"$0\" elect a --proclaim ready && \"$0\" elect a --leader";
    let output = run(&fake, &["elect", "a", "--", "sh", "-c", script, &broadcast]);
    assert_eq!(stdout(output), "node1 with token 3: ready\n");
    let line = refusal(run(&fake, &["elect", "a", "--proclaim", "ready"]), 1);
    assert!(line.ends_with("are not those of \"a\": have the command that leads it run this"), "{line}");
}

#[test]
fn locks_and_sessions_are_listed() {
    let fake = Fake::start();
    let _first = Holder::start(&fake, &["lock", "jobs/a", "--label", "one"]);
    fake.wait("it to be held", |state| state.locks.contains_key("jobs/a").then_some(()));
    let _second = Holder::start(&fake, &["lock", "jobs/a", "--label", "two"]);
    fake.wait("it to wait", |state| (state.locks["jobs/a"].len() == 2).then_some(()));
    let table = "NAME    MODE       TOKEN  NODE   SINCE                 WAITING  LABEL\n\
        jobs/a  exclusive  1      node1  2026-11-29T20:00:00Z  1        one\n";
    assert_eq!(stdout(run(&fake, &["locks"])), table);
    assert_eq!(stdout(run(&fake, &["locks", "--prefix", "jobs/"])), table);
    assert_eq!(stdout(run(&fake, &["locks", "--prefix", "x"])).lines().count(), 1);
    let one = stdout(run(&fake, &["locks", "jobs/a"]));
    assert!(
        one.starts_with("jobs/a, exclusive, 1 waiting\n\nSTATE     TOKEN  NODE   SESSION           LEFT   SINCE"),
        "{one}"
    );
    assert!(one.contains(&format!("\nholds     1      node1  {}  1.5 s  ", fake.session(1))), "{one}");
    assert!(one.contains(&format!("\nwaits, 1  2      node1  {}  1.5 s  ", fake.session(2))), "{one}");
    let json: Value = serde_json::from_str(&stdout(run(&fake, &["locks", "jobs/a", "--json"]))).expect("JSON");
    assert_eq!(json["holders"][0]["label"], "one");
    let line = refusal(run(&fake, &["locks", "jobs/b"]), 1);
    assert_eq!(line, "nobody holds or awaits \"jobs/b\"");
    let sessions = stdout(run(&fake, &["sessions"]));
    assert!(sessions.contains(&format!("{}  node1  10 s  1.5 s  ", fake.session(1))), "{sessions}");
    assert!(sessions.contains("  jobs/a (1)  -      one\n"), "{sessions}");
    refusal(run(&fake, &["sessions", "end", "0123456789abcdef"]), 1);
    assert_eq!(run(&fake, &["sessions", "end", "x"]).status.code(), Some(2));
    assert_eq!(run(&fake, &["locks", "release", "jobs/a"]).status.code(), Some(2), "not without --force");
    assert_eq!(stdout(run(&fake, &["locks", "release", "jobs/a", "--force"])), "released jobs/a, token 1\n");
}

#[test]
fn a_fence_lets_no_former_holder_in() {
    let fake = Fake::start();
    assert_eq!(stdout(run(&fake, &["fence", "disks/1", "12", "--", "echo", "written"])), "written\n");
    assert_eq!(stdout(run(&fake, &["fence", "disks/1", "12"])), "token 12\n");
    assert_eq!(stdout(run(&fake, &["fence", "disks/1", "15", "--json"])), "{\"token\":15}\n");
    let line = refusal(run(&fake, &["fence", "disks/1", "12", "--", "echo", "written"]), 124);
    assert_eq!(line, "disks/1 has seen token 15, which is greater than 12: its lock has passed on");
    assert_eq!(run(&fake, &["fence", "disks/1", "15", "--", "/etc/passwd"]).status.code(), Some(126));
    fake.change(|state| state.others = Fault::Close);
    refusal(run(&fake, &["fence", "disks/1", "15", "--", "echo", "written"]), 125);
    fake.change(|state| state.others = Fault::None);
    assert_eq!(stdout(run(&fake, &["fence", "disks/1", "--forget"])), "");
    assert_eq!(stdout(run(&fake, &["fence", "disks/1", "3"])), "token 3\n");
}
