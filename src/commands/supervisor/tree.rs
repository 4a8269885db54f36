//! The processes that a process has started, and those that these have: what has no parent any more becomes the child of
//! its supervisor (`PR_SET_CHILD_SUBREAPER`), so that none gets out of sight.

use std::{collections::HashMap, fs};

use nix::unistd::Pid;

/// A process as /proc tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
}

/// The children of a process.
pub(super) fn children(of: Pid) -> Vec<Pid> {
    all()
        .into_iter()
        .filter(|process| process.parent == of.as_raw())
        .map(|process| Pid::from_raw(process.pid))
        .collect()
}

/// All that a process has started, directly or not, parents first; but for these, and what they have started.
pub(super) fn descendants(of: Pid, but: &[Pid]) -> Vec<Pid> {
    let all: Vec<Process> = all().into_iter().filter(|process| !but.contains(&Pid::from_raw(process.pid))).collect();
    below(&all, of.as_raw()).into_iter().map(Pid::from_raw).collect()
}

/// All that a process has started, as far as the kernel lists it (`CONFIG_PROC_CHILDREN`), but for those that are skipped and
/// what they have started. That takes no longer where there are many other processes; but while some end, others may be
/// missing.
pub(super) fn listed(of: Pid, skip: impl Fn(Pid) -> bool) -> Vec<Pid> {
    let (mut found, mut next) = (Vec::new(), vec![of.as_raw()]);
    while let Some(parent) = next.pop() {
        let threads = format!("/proc/{parent}/task");
        for thread in numbers(&threads) {
            let children = fs::read_to_string(format!("{threads}/{thread}/children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                let pid = Pid::from_raw(child);
                if !skip(pid) && !found.contains(&pid) {
                    found.push(pid);
                    next.push(child);
                }
            }
        }
    }
    found
}

/// All whose environment has this `NAME=VALUE`, as it was when they were started.
pub(super) fn marked(mark: &str) -> Vec<Pid> {
    let has_it = |pid: &i32| environ(*pid).split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
    pids().filter(has_it).map(Pid::from_raw).collect()
}

fn environ(pid: i32) -> Vec<u8> {
    let read = |folder: &str| fs::read(format!("{folder}/environ")).ok().filter(|environ| !environ.is_empty());
    // A thread that has ended has none, but others of the process have.
    let of_threads = || {
        let threads = format!("/proc/{pid}/task");
        numbers(&threads).filter(|thread| *thread != pid).find_map(|thread| read(&format!("{threads}/{thread}")))
    };
    read(&format!("/proc/{pid}")).or_else(of_threads).unwrap_or_default()
}

fn pids() -> impl Iterator<Item = i32> {
    numbers("/proc")
}

/// The files of a folder that are called by a number.
fn numbers(folder: &str) -> impl Iterator<Item = i32> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn all() -> Vec<Process> {
    // One may end meanwhile.
    pids().filter_map(|pid| process(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// `1 (name) S 0 …`, where the name may have anything in it (proc_pid_stat(5)). One that has ended and is only to be waited
/// for is none; one whose first thread alone has ended is.
fn process(pid: i32, stat: &str) -> Option<Process> {
    let (_, behind) = stat.rsplit_once(") ")?;
    let mut fields = behind.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // The 20th field of all; the next one here is the fifth.
    let mut has_threads =
        || fields.nth(15).and_then(|threads| threads.parse::<u32>().ok()).is_some_and(|count| count > 1);
    let runs = !["Z", "X"].contains(&state) || (state == "Z" && has_threads());
    runs.then_some(Process { pid, parent })
}

fn below(all: &[Process], root: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        // Taken out, so that what was read while it changed leads nowhere twice.
        let of_this = children.remove(&parent).unwrap_or_default();
        found.extend(&of_this);
        next.extend(of_this);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_be_called_anything() {
        let stat = "7 (a) S 1 (b) R 3 7 7 0 -1";
        assert_eq!(process(7, stat), Some(Process { pid: 7, parent: 3 }));
        assert_eq!(process(7, "7 (a"), None);
        assert_eq!(process(7, "7 (a) Z 3 7"), None, "it has ended");
    }

    #[test]
    fn a_process_runs_as_long_as_one_of_its_threads() {
        let stat = |state: &str, threads: u32| {
            format!("7 (a) {state} 3 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 {threads} 0 1234 0 0 18446744073709551615\n")
        };
        assert_eq!(process(7, &stat("Z", 1)), None);
        assert_eq!(process(7, &stat("Z", 2)), Some(Process { pid: 7, parent: 3 }));
        assert_eq!(process(7, &stat("X", 2)), None);
        assert_eq!(process(7, &stat("S", 1)), Some(Process { pid: 7, parent: 3 }));
    }

    #[test]
    fn what_is_listed_is_what_was_started() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("it runs");
        let (me, pid) = (nix::unistd::getpid(), Pid::from_raw(i32::try_from(child.id()).expect("it is such a number")));
        assert!(listed(me, |_| false).contains(&pid) && listed(nix::unistd::getppid(), |_| false).contains(&pid));
        assert!(!listed(me, |each| each == pid).contains(&pid));
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
        assert!(!listed(me, |_| false).contains(&pid));
    }

    #[test]
    fn descendants_are_found_at_any_depth() {
        let all: Vec<_> =
            [(2, 1), (3, 1), (4, 2), (5, 4), (6, 9), (9, 6)].map(|(pid, parent)| Process { pid, parent }).into();
        let mut found = below(&all, 1);
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4, 5]);
        assert_eq!(below(&all, 4), [5]);
        assert_eq!(below(&all, 6), [9, 6], "a circle ends");
        assert!(children(nix::unistd::getppid()).contains(&nix::unistd::getpid()));
    }
}
