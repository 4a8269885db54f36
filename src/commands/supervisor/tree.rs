//! The tree of processes below a process, read from /proc. A process that loses its parent becomes a child of the supervisor
//! (`PR_SET_CHILD_SUBREAPER`), so none gets out of sight.

use std::{collections::HashMap, fs};

use nix::unistd::Pid;

/// A process in /proc.
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

/// All descendants of a process, parents first, without those in `but` and theirs.
pub(super) fn descendants(of: Pid, but: &[Pid]) -> Vec<Pid> {
    let all: Vec<Process> = all().into_iter().filter(|process| !but.contains(&Pid::from_raw(process.pid))).collect();
    below(&all, of.as_raw()).into_iter().map(Pid::from_raw).collect()
}

/// The descendants of a process as the kernel lists them (`CONFIG_PROC_CHILDREN`), without those to skip and theirs. This is
/// fast however many other processes there are, but it may miss some while others end.
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

/// All processes that were started with this `NAME=VALUE` in their environment.
pub(super) fn marked(mark: &str) -> Vec<Pid> {
    let has_it = |pid: &i32| environ(*pid).split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
    pids().filter(has_it).map(Pid::from_raw).collect()
}

fn environ(pid: i32) -> Vec<u8> {
    let read = |folder: &str| fs::read(format!("{folder}/environ")).ok().filter(|environ| !environ.is_empty());
    // A thread that has ended has none, but the other threads of the process do.
    let of_threads = || {
        let threads = format!("/proc/{pid}/task");
        numbers(&threads).filter(|thread| *thread != pid).find_map(|thread| read(&format!("{threads}/{thread}")))
    };
    read(&format!("/proc/{pid}")).or_else(of_threads).unwrap_or_default()
}

fn pids() -> impl Iterator<Item = i32> {
    numbers("/proc")
}

/// The entries of a folder whose names are numbers.
fn numbers(folder: &str) -> impl Iterator<Item = i32> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn all() -> Vec<Process> {
    // Processes may end meanwhile.
    pids().filter_map(|pid| process(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// Parses `1 (name) S 0 …`, where the name may be anything (proc_pid_stat(5)). A zombie does not count, unless only its first
/// thread has ended.
fn process(pid: i32, stat: &str) -> Option<Process> {
    let (_, behind) = stat.rsplit_once(") ")?;
    let mut fields = behind.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 20; the next one here is field 5.
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
        // Removed, so that a list that changed while it was read cannot lead in circles.
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
