//! Requests that fail, output that cannot be written, input that is malformed; completions and manual pages.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
};

use super::{ask, command, feed, node};
use crate::{
    documents::commands,
    support::{program, refusal, stdout},
};

#[test]
fn what_cannot_be_written_is_told() {
    let alone = node("node1", &[], &[]);
    stdout(ask(&alone, &["publish", "k", "1"]));
    for args in [
        &["members"][..],
        &["status", "--json"],
        &["log"],
        &["publish", "k", "1"],
        &["tail", "--last", "1"],
        &["man"],
        &["completions", "bash"],
        &["keygen"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = command(&alone, args).stdout(full).output().expect("the program runs");
        assert_eq!(
            refusal(output, 1),
            "cannot write to standard output: No space left on device (os error 28)",
            "{args:?}"
        );
        let (read, write) = std::io::pipe().expect("there are pipes");
        drop(read);
        let output = command(&alone, args).stdout(write).output().expect("the program runs");
        assert_eq!(stdout(output), "", "nobody wants to read it: {args:?}");
    }
}

#[test]
fn who_answers_like_no_node_is_none() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    let at = format!("http://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("somebody asks");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"ok\": true}");
        }
    });
    for args in [
        &["publish", "k", "1", "--ack", "all"][..],
        &["publish", "k", "1"],
        &["members"],
        &["status"],
        &["health", "--node", &at],
        &["health", "--live", "--node", &at],
        &["log"],
        &["faults"],
    ] {
        let words = refusal(program(args).env("BROADCAST_NODE", &at).output().expect("the program runs"), 1);
        assert!(words.contains("(200 OK) is not a broadcast node"), "{args:?}: {words}");
    }
}

#[test]
fn a_node_that_cannot_be_asked_is_named_with_what_to_do() {
    // Nothing listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback has ports");
    let at = format!("http://{free}");
    let run = |args: &[&str]| program(args).output().expect("the program runs");
    for args in [&["publish", "k", "1"][..], &["tail"], &["members"], &["status"], &["log"], &["faults"]] {
        let line = refusal(run(&[args, &["--node", &at]].concat()), 1);
        assert!(line.starts_with(&format!("nothing answers at {at}: ")), "{line}");
        assert!(line.ends_with("check that the node runs, and that BROADCAST_NODE (--node) is right"), "{line}");
    }
    assert!(refusal(run(&["health", "--node", &at]), 1).starts_with("unhealthy: nothing answers at "));
    let line = refusal(run(&["members", "--node", &free.to_string()]), 1);
    assert!(line.starts_with(&format!("nothing answers at {at}: ")), "{line}");
    let line = refusal(run(&["members", "--node", "a node"]), 2);
    assert_eq!(
        line,
        "BROADCAST_NODE (--node) = \"a node\": not where a node serves its API; write it like localhost:8946 or \
         http://127.0.0.1:8946"
    );
    let line = refusal(run(&["tail", "--node", &format!("https://{free}")]), 1);
    assert!(line.starts_with(&format!("nothing answers at https://{free}: ")), "{line}");

    // What listens may be something else: a node's gossip, say, or another server.
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let at: SocketAddr = server.local_addr().expect("it is bound");
    let other = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("it is called");
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot here\n").expect("it listens");
    });
    let line = refusal(run(&["members", "--node", &format!("http://{at}")]), 1);
    assert!(
        line.starts_with(&format!("what answers at http://{at} (404 Not Found) is not a broadcast node")),
        "{line}"
    );
    other.join().expect("it was called");

    for args in [
        &["publish", "k", "1", "--timeout", "1s"][..],
        &["publish", "k", "1", "--ack", "some"],
        &["publish", "k", "1", "--ack", "all", "--timeout", "2m"],
        &["tail", "--last", "some"],
        &["completions", "ash"],
    ] {
        refusal(run(args), 2);
    }
}

#[test]
fn shells_and_readers_know_every_command() {
    let run = |args: &[&str]| stdout(program(args).output().expect("the program runs"));
    let commands = commands();
    assert!(commands.len() > 20, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command), "{command} for {shell}");
        }
        assert!(script.contains("ack"), "flags for {shell}");
    }
    let page = run(&["man"]);
    assert!(page.contains(".TH broadcast 1") && page.contains("broadcast\\-publish(1)"), "{page}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("man1");
    let said = run(&["man", "--dir", dir.to_str().expect("text")]);
    let pages = std::fs::read_dir(&dir).expect("it is made").count();
    assert!(said.starts_with(&format!("wrote {pages} manual pages into {}", dir.display())), "{said}");
    for command in commands {
        let page = std::fs::read_to_string(dir.join(format!("broadcast-{command}.1"))).expect(&command);
        assert!(page.contains(&format!(".TH broadcast-{command} 1")), "{page}");
    }
    // Where bash is, it takes its script.
    if let Ok(mut bash) = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn() {
        feed(&mut bash, run(&["completions", "bash"]).as_bytes());
        drop(bash.stdin.take());
        assert!(bash.wait().expect("it ends").success());
    }
}
