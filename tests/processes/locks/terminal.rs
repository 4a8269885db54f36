//! `broadcast lock` at a terminal: its command reads what is typed, Ctrl-C reaches it once, and Ctrl-Z stops it and its
//! supervisor, but not the deadline.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{Fake, Holder, ends_in_time, runs};
use crate::support::{Log, Process, program, signal};

/// A shell command at a terminal of its own: script(1), whose input is what is typed.
///
/// Ctrl-C reaches the shell as well. One that stays there, as dash does unless it is told `exec`, ends with 130, whatever
/// code the command ends with.
struct Terminal(Process);

impl Terminal {
    fn start(fake: &Fake, command: &str) -> Self {
        let broadcast = program(&[]).get_program().to_owned();
        let mut script = Command::new("script");
        script.args(["-qfec", command, "/dev/null"]).stdin(Stdio::piped()).env("BROADCAST", broadcast);
        script.env("BROADCAST_NODE", format!("http://{}", fake.addr)).env("PS1", "").env("SHELL", "/bin/sh");
        script.env_remove("ENV");
        Self(Process::spawn(&mut script))
    }

    fn types(&mut self, text: &str) {
        use std::io::Write as _;
        self.0.child.stdin.as_mut().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    }

    fn log(&self) -> &Log {
        &self.0.log
    }

    /// Waits until this is the end of a line so many times: a prompt may be before it, or `^C`.
    #[track_caller]
    fn shows(&self, times: usize, line: &str) {
        self.log().wait(line, |lines| (count(lines, line) >= times).then_some(()));
    }

    /// Waits for a line with this word; gives the number after it.
    #[track_caller]
    fn number(&self, word: &str) -> u32 {
        self.log()
            .wait(word, |lines| lines.iter().find_map(|line| shown(line).rsplit_once(word)?.1.trim().parse().ok()))
    }
}

fn shown(line: &Value) -> String {
    line.as_str().map_or_else(|| line.to_string(), |line| line.trim().to_owned())
}

fn count(lines: &[Value], line: &str) -> usize {
    lines.iter().filter(|shown_line| shown(shown_line).ends_with(line)).count()
}

#[test]
fn a_command_reads_what_is_typed() {
    let fake = Fake::start();
    let mut terminal = Terminal::start(&fake, "exec $BROADCAST lock a -- cat");
    terminal.types("hello\n");
    // As it is typed, and as it is printed.
    terminal.shows(2, "hello");
    terminal.types("\u{3}");
    assert_eq!(terminal.0.wait().code(), Some(130));
    assert!(fake.look().sessions.is_empty());
}

#[test]
fn ctrl_c_reaches_a_command_once() {
    let fake = Fake::start();
    let script = "trap 'echo interrupted' INT; trap 'echo over; exit 5' TERM; echo supervisor $PPID; \
        while :; do sleep 1000 & wait $!; done";
    let mut terminal =
        Terminal::start(&fake, &format!("exec $BROADCAST lock a -- sh -c \"{}\"", script.replace('$', "\\$")));
    let supervisor = terminal.number("supervisor");
    terminal.types("\u{3}");
    terminal.shows(1, "interrupted");
    signal(supervisor, "TERM");
    terminal.shows(1, "over");
    assert_eq!(terminal.0.wait().code(), Some(5), "what is not of the terminal is passed on");
    assert_eq!(count(&terminal.log().lines(), "interrupted"), 1);
}

#[test]
fn ctrl_c_at_the_grant_is_not_lost() {
    let fake = Fake::start();
    // Whether the signal or the grant is seen first is up to chance.
    for _ in 0..4 {
        let mut first = Holder::start(&fake, &["lock", "a"]);
        first.process.log.wait("its token", |lines| lines.first().map(|_| ()));
        let mut terminal = Terminal::start(&fake, "trap : INT; $BROADCAST lock a -- echo ran; echo code $?");
        let label = fake.wait("it to wait", |state| {
            let (_, session) = state.locks.get("a")?.get(1)?;
            Some(state.sessions.get(session)?.label.clone())
        });
        let pid: u32 = label.split(' ').nth(2).and_then(|pid| pid.parse().ok()).expect("its process is in its label");
        // All comes while it is stopped: the grant, and Ctrl-C behind it.
        signal(pid, "STOP");
        first.process.signal("TERM");
        first.ends(143);
        fake.wait("it to be granted", |state| (state.locks["a"].len() == 1).then_some(()));
        terminal.types("\u{3}");
        fake.wait("the signal to be there", |_| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
            let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).expect("proc(5) has it");
            let pending = u64::from_str_radix(pending.trim(), 16).expect("a mask");
            (pending >> 1 & 1 == 1).then_some(())
        });
        signal(pid, "CONT");
        terminal.shows(1, "code 130");
        assert_eq!(count(&terminal.log().lines(), "ran"), 0, "{:?}", terminal.log().lines());
        assert!(fake.look().sessions.is_empty(), "{:?}", fake.look());
    }
}

#[test]
fn ctrl_z_stops_a_command_and_not_its_deadline() {
    let fake = Fake::start();
    let mut terminal = Terminal::start(&fake, "sh -i");
    terminal.types("$BROADCAST lock a --ttl 6s -- sh -c 'echo child $$; exec sleep 1000'\n");
    let child = terminal.number("child");
    terminal.types("\u{1a}");
    terminal.types("echo prompt $((40 + 2))\n");
    terminal.shows(1, "prompt 42");
    assert!(runs(child), "it is stopped, and not ended");
    ends_in_time(&fake, child);
    terminal.types("fg\n");
    terminal.types("echo code $?\n");
    terminal.shows(1, "code 123");
    terminal.types("exit\n");
    terminal.0.wait();
}
