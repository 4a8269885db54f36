//! `examples/one-at-a-time`: of ten replicas one at a time runs the job, whatever happens to them.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{
    example::example,
    support::{Process, cluster::api_nodes, http, voters::VOTERS, wait_for},
};

pub fn the_job_is_done_once_a_night_whatever_happens() {
    let mut nodes: [Process; 3] = api_nodes(&["--role", "receiver,voter", "--voters", VOTERS]);
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
    let wait = |what: &str, holds: &dyn Fn() -> bool| {
        wait_for(what, || if holds() { Ok(()) } else { Err(get("/v1/locks")) });
    };
    let reports = || get("/v1/kv?prefix=report/")["kvs"].as_array().cloned().unwrap_or_default();
    let more = |nights: usize| {
        let before = reports().len();
        wait("more nights are done", &|| reports().len() >= before + nights);
    };
    let holder = || {
        let label = get("/v1/locks/jobs/nightly")["holders"][0]["label"].clone();
        label.as_str().and_then(|label| label.strip_prefix("replica")?.parse::<usize>().ok())
    };
    more(2);
    // The one that has the lock is killed in the middle.
    let killed = holder().expect("somebody has it");
    replicas[killed].kill();
    wait("another one has it", &|| holder().is_some_and(|now| now != killed));
    more(1);
    // The next one is paused for longer than its time to live, and goes on where it was.
    let paused = holder().expect("somebody has it");
    replicas[paused].signal("STOP");
    wait("another one has it", &|| holder().is_some_and(|now| now != paused));
    more(1);
    replicas[paused].signal("CONT");
    more(1);
    // The node of the next one is gone, and with it all that it says.
    let cut_off = holder().filter(|at| at % 3 != 2);
    if let Some(cut_off) = cut_off {
        nodes[cut_off % 3].kill();
        wait("one of another node has it", &|| holder().is_some_and(|now| now % 3 != cut_off % 3));
    }
    more(2);
    for report in reports() {
        assert_eq!(report["version"], Value::from(1), "the job of a night was done twice: {report}");
    }
}
