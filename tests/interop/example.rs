//! `examples/cache-invalidation`: its service beside real nodes. `one_at_a_time.rs` tests the other example.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use crate::one_at_a_time;
use crate::support::{Process, cluster::own_addr, docker::success, http, require, traffic, wait_for};

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let python = (!require::answers(Command::new("python3").arg("--version")))
        .then(|| "no python3 is installed (Debian: apt-get install python3)".to_owned());
    let tests: [require::Test; 2] = [
        ("what_one_writes_all_serve_also_after_a_node_was_gone", what_one_writes_all_serve_also_after_a_node_was_gone),
        ("the_job_is_done_once_a_night_whatever_happens", one_at_a_time::the_job_is_done_once_a_night_whatever_happens),
    ];
    let compose: [require::Test; 1] = [("the_compose_files_of_examples_are_valid", compose_files_are_valid)];
    let cases = [require::cases(python.as_ref(), &tests), require::cases(require::compose().as_ref(), &compose)];
    cases.into_iter().flatten().collect()
}

/// A file of the examples.
pub fn example(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file).display().to_string()
}

fn compose_files_are_valid() {
    for name in ["cache-invalidation", "one-at-a-time"] {
        let file = example(&format!("{name}/compose.yaml"));
        success(Command::new("docker").args(["compose", "--file", &file, "config", "--quiet"]));
    }
}

/// An instance of the service.
struct Service {
    _process: Process,
    addr: SocketAddr,
}

impl Service {
    fn start(store: &Path, node: SocketAddr) -> Self {
        let addr = own_addr();
        let process = Process::spawn(
            Command::new("python3")
                .arg(example("cache-invalidation/service.py"))
                .env("STORE", store)
                .env("NODE", format!("http://{node}"))
                .env("HOST", addr.ip().to_string())
                .env("PORT", addr.port().to_string())
                .stderr(Stdio::null()),
        );
        wait_for("the service listens", || std::net::TcpStream::connect(addr));
        Self { _process: process, addr }
    }

    fn get(&self) -> String {
        http::ask(self.addr, "GET", "/price", &["connection: close"], b"").text()
    }

    /// Waits until it serves this.
    fn wait(&self, wanted: &str) {
        wait_for(&format!("it serves {wanted:?}"), || {
            let served = self.get();
            if served.trim_end() == wanted { Ok(()) } else { Err(served) }
        });
    }

    fn put(&self, value: &str) -> String {
        http::ask(self.addr, "PUT", "/price", &["connection: close"], value.as_bytes()).text()
    }
}

fn what_one_writes_all_serve_also_after_a_node_was_gone() {
    let store = tempfile::tempdir().expect("a folder");
    let (second_at, second_http) = (own_addr().to_string(), own_addr().to_string());
    let first = Process::node(&["--name", "node1", "--http", "127.0.0.1:0"]);
    let seed = first.addr().to_string();
    let second = || Process::node(&["--name", "node2", "--bind", &second_at, "--http", &second_http, "--join", &seed]);
    let third = Process::node(&["--name", "node3", "--http", "127.0.0.1:0", "--join", &seed]);
    let mut node = second();
    traffic::wait_members(3, &[("node1", &first.log), ("node2", &node.log), ("node3", &third.log)]);
    let services = [&first, &node, &third].map(|node| Service::start(store.path(), node.http()));

    let mut told = services[0].put("1");
    assert!(told.starts_with("written; 2 other nodes know within "), "{told}");
    services.iter().for_each(|service| service.wait("1 (from the cache)"));
    for value in 2..20 {
        let writer = value % 3;
        told = services[writer].put(&value.to_string());
        assert!(told.starts_with("written; 2 other nodes"), "{told}");
        services.iter().for_each(|service| service.wait(&format!("{value} (from the cache)")));
    }

    // What is no key makes them forget everything, and nothing worse.
    let odd = br#"{"key":"cache:drop","value":["x"]}"#;
    assert_eq!(http::ask(first.http(), "POST", "/v1/messages?ack=all", &[], odd).status, 200);
    told = services[1].put("odd");
    assert!(told.starts_with("written; 2 other nodes"), "{told}");
    services.iter().for_each(|service| service.wait("odd (from the cache)"));

    node.kill();
    first.log.wait_message(0, "node2 failed");
    third.log.wait_message(0, "node2 failed");
    told = services[0].put("without");
    assert!(told.starts_with("written; 1 other nodes"), "{told}");
    services[1].wait("without (from the store)");
    assert_eq!(services[1].get(), "without (from the store)\n", "it remembers nothing while it does not hear");

    let mut again = second();
    again.log.wait_message(0, "node3 joined");
    services[1].wait("without (from the cache)");
    told = services[2].put("again");
    assert!(told.starts_with("written; 2 other nodes"), "{told}");
    services.iter().for_each(|service| service.wait("again (from the cache)"));
    again.kill();
}
