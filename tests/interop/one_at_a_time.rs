//! `examples/one-at-a-time`: ten replicas, of which one at a time runs the job, whatever happens to them.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    example::example,
    support::{LIMIT, Process, http, talk},
};

pub fn the_job_is_done_once_a_night_whatever_happens() {
    let voter = |name: &str, more: &[&str]| {
        let role =
            ["--name", name, "--http", "127.0.0.1:0", "--role", "receiver,voter", "--voters", "node1,node2,node3"];
        Process::node(&[&role[..], more].concat())
    };
    let first = voter("node1", &[]);
    let seed = first.addr().to_string();
    let [second, third] = ["node2", "node3"].map(|name| voter(name, &["--join", &seed]));
    talk::everyone_sees(3, &[("node1", &first.log), ("node2", &second.log), ("node3", &third.log)]);
    let mut nodes = [first, second, third];
    let mut replicas: Vec<Process> = (0..10)
        .map(|at| {
            let node = format!("http://{}", nodes[at % 3].http());
            let mut command = Command::new("python3");
            command.arg(example("one-at-a-time/service.py")).env("NODE", node).env("NAME", format!("replica{at}"));
            Process::spawn(command.env("NIGHT", "1").env("WORK", "0.2").stderr(Stdio::null()))
        })
        .collect();
    let at = nodes[2].http();
    let get = |path: &str| http::ask(at, "GET", path, &[], b"").json();
    let wait = |what: &str, is: &mut dyn FnMut() -> bool| {
        let deadline = Instant::now() + LIMIT;
        while !is() {
            assert!(Instant::now() < deadline, "waiting until {what}: {}", get("/v1/locks"));
            thread::sleep(Duration::from_millis(50));
        }
    };
    let reports = || get("/v1/kv?prefix=report/")["kvs"].as_array().cloned().unwrap_or_default();
    let more = |nights: usize| {
        let before = reports().len();
        wait("more nights are done", &mut || reports().len() >= before + nights);
    };
    let holder = || {
        let label = get("/v1/locks/jobs/nightly")["holders"][0]["label"].clone();
        label.as_str().and_then(|label| label.strip_prefix("replica")?.parse::<usize>().ok())
    };
    more(2);
    // The one that has the lock is killed in the middle.
    let killed = holder().expect("somebody has it");
    replicas[killed].kill();
    wait("another one has it", &mut || holder().is_some_and(|now| now != killed));
    more(1);
    // The next one is paused for longer than its time to live, and goes on where it was.
    let paused = holder().expect("somebody has it");
    replicas[paused].signal("STOP");
    wait("another one has it", &mut || holder().is_some_and(|now| now != paused));
    more(1);
    replicas[paused].signal("CONT");
    more(1);
    // The node of the next one is gone, and with it all that it says.
    let cut_off = holder().filter(|at| at % 3 != 2);
    if let Some(cut_off) = cut_off {
        nodes[cut_off % 3].kill();
        wait("one of another node has it", &mut || holder().is_some_and(|now| now % 3 != cut_off % 3));
    }
    more(2);
    for report in reports() {
        assert_eq!(report["version"], Value::from(1), "the job of a night was done twice: {report}");
    }
}
