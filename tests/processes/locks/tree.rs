//! All processes that a command starts are found and ended, in whatever state they are, and whichever watchdog is left.

use std::{fs, process::Command};

use super::{Fake, Fault, Holder, STUBBORN, TTL, ends_in_time, runs};
use crate::support::{program, require, signal};

/// A process whose first thread ends, and another one goes on; it heeds no SIGTERM. (93 and 60 are exit(2), which ends a
/// thread, on ARM and x86.)
const HEADLESS: &str = r#"
import ctypes, os, platform, signal, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def go_on():
    while open(f"/proc/{os.getpid()}/stat").read().rsplit(") ")[1][0] != "Z":
        time.sleep(0.01)
    os.write(1, f"headless {os.getpid()}\n".encode())
    time.sleep(1000)
threading.Thread(target=go_on).start()
ctypes.CDLL(None).syscall(93 if platform.machine() == "aarch64" else 60, 0)
"#;

#[test]
fn a_process_is_ended_whose_first_thread_alone_has_ended() {
    if !require::answers(Command::new("python3").args(["-c", "import ctypes"])) {
        assert!(!std::env::var("BROADCAST_TESTS_REQUIRE").is_ok_and(|value| value == "all"), "there is no `python3`");
        eprintln!("skipped: there is no `python3`: install it");
        return;
    }
    let fake = Fake::start();
    let script = "setsid python3 -c \"$0\" & wait";
    let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", TTL, "--", "sh", "-c", script, HEADLESS]);
    let pid = holder.number("headless");
    fake.change(|state| (state.keepalives, state.others) = (Fault::Hang, Fault::Hang));
    ends_in_time(&fake, pid);
    holder.ends(123);
}

/// The process that watches over a supervisor.
fn watchdog(supervisor: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    let is_one = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"--watching")
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_one)
}

#[test]
fn a_watchdog_that_was_killed_is_replaced() {
    let fake = Fake::start();
    let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", TTL, "--", "sh", "-c", STUBBORN]);
    let pids = ["child", "grandchild"].map(|word| holder.number(word));
    let supervisor = holder.process.pid();
    let first = fake.wait("it to be watched over", |_| watchdog(supervisor));
    signal(first, "KILL");
    fake.wait("another one", |_| watchdog(supervisor).filter(|pid| *pid != first));
    // It does what the first one would have done.
    holder.loses_its_lock_while_stopped(&fake, &pids);
}

#[test]
fn what_was_there_before_the_command_is_none_of_its_business() {
    let fake = Fake::start();
    let mut command = Command::new("sh");
    let script = "sleep 1000 >/dev/null 2>&1 & echo before $!; exec \"$0\" lock a --ttl 6s -- sh -c 'echo child $$; exec sleep 1000'";
    command.args(["-c", script]).arg(program(&[]).get_program());
    let mut holder = Holder::spawn_at(&fake, command);
    let (before, child) = (holder.number("before"), holder.number("child"));
    holder.loses_its_lock_while_stopped(&fake, &[child]);
    assert!(runs(before));
    signal(before, "TERM");
}
