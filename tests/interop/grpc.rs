//! A node's health, asked by gRPC's own client with and without TLS. That client, grpcio, shares no code with the node.

use std::{ffi::OsString, process::Command};

use crate::support::{Process, docker::wait_until, repository, require, stdout, tls::Certificates};

/// The variable that names the Python of an environment that has the client; else `python3` is tried.
const PYTHON: &str = "BROADCAST_TESTS_GRPC_PYTHON";

const TOKEN: (&str, &str) = ("BROADCAST_HTTP_TOKEN", "a-token-for-this-test");

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let tests: &[require::Test] = &[
        ("grpc/a_node_tells_its_health", a_node_tells_its_health),
        ("grpc/a_node_tells_its_health_over_tls", a_node_tells_its_health_over_tls),
    ];
    require::cases(missing().as_ref(), tests)
}

fn missing() -> Option<String> {
    (!require::answers(Command::new(python()).args(["-c", "import grpc_health.v1.health_pb2_grpc"]))).then(|| {
        format!(
            "grpcio-health-checking is not installed: `pip install grpcio-health-checking`, or name its Python in {PYTHON}"
        )
    })
}

fn python() -> OsString {
    std::env::var_os(PYTHON).unwrap_or_else(|| "python3".into())
}

/// What the client is told, call by call, over one channel.
fn told(port: u16, ca_file: &str, calls: &[&str]) -> Vec<String> {
    let mut client = Command::new(python());
    client.arg(repository("tests/interop/ask_health.py")).arg(format!("localhost:{port}")).arg(ca_file).args(calls);
    let told = stdout(client.output().expect("it runs"));
    told.lines().map(String::from).collect()
}

/// Calls a node until it is well, and then in every way.
#[track_caller]
fn call(port: u16, ca_file: &str) {
    wait_until("the node is ready", || match &*told(port, ca_file, &["Check:"]).concat() {
        "SERVING" => Ok(()),
        other => Err(other.into()),
    });
    let compressed = format!("gzip:{}", "x".repeat(500));
    let told = told(port, ca_file, &["Check:", "Check:live", "Watch:", "Check:cache", &compressed, "Check:live"]);
    let [ready, live, watch, absent, gzip, again] = &told[..] else { panic!("{told:?}") };
    assert_eq!([ready, live, again], ["SERVING"; 3], "{told:?}");
    assert!(watch.starts_with("UNIMPLEMENTED only /grpc.health.v1.Health/Check is served"), "{watch}");
    assert_eq!(absent, "NOT_FOUND there is no service \"cache\"; ask for \"\" (ready) or \"live\"");
    assert!(gzip.starts_with("UNIMPLEMENTED a compressed message cannot be read here"), "{gzip}");
}

fn a_node_tells_its_health() {
    let node = Process::node_with(&["--name", "node1", "--http", "127.0.0.1:0"], &[TOKEN]);
    call(node.http().port(), "-");
    assert!(!node.log.lines().iter().any(|line| line["event"] == "audit"), "who asks for health changes nothing");
    // Nobody is where it is to join.
    let alone = ["--name", "node2", "--http", "127.0.0.1:0", "--join", "127.0.0.1:1"];
    let alone = Process::node_with(&alone, &[]);
    assert_eq!(told(alone.http().port(), "-", &["Check:", "Check:live"]), ["NOT_SERVING", "SERVING"]);
}

/// The client shows neither a certificate nor a token.
fn a_node_tells_its_health_over_tls() {
    let made = Certificates::new(&[]);
    let ca = made.file("ca.pem");
    let node = made.node(&["--tls-client-ca-file", &ca], &[TOKEN]);
    call(node.http().port(), &ca);
}
