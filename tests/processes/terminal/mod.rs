//! The commands that ask a node over its HTTP API, and what the node logs of that.

mod errors;
mod inspect;
mod publish;
mod receipts;
mod tail;

use std::{
    io::Write as _,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
};

use crate::support::{Log, Process, program};
use serde_json::{Value, json};

/// A node that serves its API, in a cluster of its own unless it joins one.
fn node(name: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
    let defaults: &[&str] = if args.contains(&"--http") { &[] } else { &["--http", "127.0.0.1:0"] };
    Process::node_with(&[&["--name", name], defaults, args].concat(), env)
}

/// Two nodes that know each other.
fn pair() -> (Process, Process) {
    let first = node("node1", &[], &[]);
    let second = node("node2", &["--join", &first.addr().to_string(), "--meta", "zone=a"], &[]);
    first.log.wait_line(0, &json!({"event": "joined", "member": "node2"}));
    (first, second)
}

fn url(node: &Process) -> String {
    format!("http://{}", node.http())
}

/// A command that asks `node`.
fn command(node: &Process, args: &[&str]) -> Command {
    let mut command = program(args);
    command.env("BROADCAST_NODE", url(node));
    command
}

fn ask(node: &Process, args: &[&str]) -> Output {
    command(node, args).output().expect("the program runs")
}

#[track_caller]
fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A running command, with its input and its output.
struct Running {
    process: Process,
    errors: Arc<Log>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let errors = Log::follow(process.child.stderr.take().expect("it is piped"));
        Self { process, errors }
    }

    fn tail(node: &Process, args: &[&str]) -> Self {
        Self::start(command(node, &[&["tail", "--json"], args].concat()))
    }

    /// Waits for a message with this key and value.
    #[track_caller]
    fn wait(&self, key: &str, value: impl Into<Value>) {
        self.process.log.wait_line(0, &json!({"key": key, "value": value.into()}));
    }

    #[track_caller]
    fn wait_warning(&self, words: &str) {
        self.errors.wait(words, |lines| {
            lines.iter().any(|line| line.as_str().is_some_and(|line| line.contains(words))).then_some(())
        });
    }

    fn close_input(&mut self) {
        drop(self.process.child.stdin.take());
    }
}

fn feed(child: &mut Child, text: &[u8]) {
    child.stdin.as_mut().expect("it is piped").write_all(text).expect("it reads");
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // It may refuse before it has read all.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    child.wait_with_output().expect("it ends")
}

/// The exit code that a shell shows.
fn code(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}
