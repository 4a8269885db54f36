//! The program's help, how it refuses bad settings, its demo and its health check.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::support::{Process, program, refusal, repository, stdout};
use serde_json::Value;

/// Runs the program; of its own variables, only those in `env` are set.
fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    program(args).envs(env.iter().copied()).output().expect("the program runs")
}

#[test]
fn a_variable_that_cannot_be_is_refused_before_anything_starts() {
    for (variable, value, problem) in [
        (
            "BROADCAST_INTERVAL (--interval)",
            "3 parsecs",
            "not a duration; write a number with its unit, like 250ms, 3s or 1m",
        ),
        ("BROADCAST_INTERVAL (--interval)", "0s", "out of range; write a duration from 1ms to 1day"),
        ("BROADCAST_INTERVAL (--interval)", "2days", "out of range; write a duration from 1ms to 1day"),
        ("BROADCAST_ROLE (--role)", "listener", "it must be one of: receiver, sender, voter"),
        ("BROADCAST_PROFILE (--profile)", "moon", "it must be one of: local, lan, wan"),
        ("BROADCAST_LOG_FORMAT (--log-format)", "xml", "it must be one of: text, json"),
        (
            "BROADCAST_BIND (--bind)",
            "127.0.0.1:65536",
            "not an address to listen on; write IP:PORT, like 0.0.0.0:7946 or [::]:7946, with a port from 0 to 65535",
        ),
        (
            "BROADCAST_JOIN (--join)",
            "node1:70000",
            r#""node1:70000" is not host[:port]: the port must be a number from 0 to 65535"#,
        ),
        (
            "BROADCAST_JOIN (--join)",
            "node1, node2:0",
            r#""node2:0" is not host[:port]: port 0 reaches nobody; give the port the node listens on"#,
        ),
        (
            "BROADCAST_ADVERTISE (--advertise)",
            "0.0.0.0",
            r#""0.0.0.0" is not host[:port]: it stands for every address and names no node; give one at which others reach it"#,
        ),
        ("BROADCAST_RETAIN_MESSAGES (--retain-messages)", "many", "not a whole number of messages"),
        ("BROADCAST_RETAIN_MESSAGES (--retain-messages)", "15", "it must be between 16 and 16777216"),
        (
            "BROADCAST_RETAIN_BYTES (--retain-bytes)",
            "64M",
            "not a size; write a whole number of bytes, alone or with a unit, like 64MiB or 64MB",
        ),
        ("BROADCAST_RETAIN_BYTES (--retain-bytes)", "8MB", "it must be between 8MiB and 1TiB"),
        (
            "BROADCAST_LAG_LIMIT (--lag-limit)",
            "10",
            "not a duration; write a number with its unit, like 250ms, 3s or 1m",
        ),
        ("BROADCAST_LAG_LIMIT (--lag-limit)", "50ms", "it must be between 100ms and 1day"),
        ("BROADCAST_META (--meta)", &*"m".repeat(513), "the metadata is 513 bytes long: shorten it to 512 bytes"),
        (
            "BROADCAST_ALLOW (--allow)",
            "10.0.0.0/33",
            r#""10.0.0.0/33" is not a network: write an address and the length of its prefix, like 10.0.0.0/8 or fd00::/8"#,
        ),
        ("BROADCAST_ALLOW (--allow)", ",", "it names no network; leave it out to allow all"),
        ("BROADCAST_MAX_MEMBERS (--max-members)", "0", "it must be between 2 and 1048576"),
        ("BROADCAST_MAX_STREAMS (--max-streams)", "many", "not a whole number; write one like 1000"),
        ("BROADCAST_MAX_STREAM_BYTES (--max-stream-bytes)", "1MiB", "it must be between 2MiB and 1TiB"),
        (
            "BROADCAST_HTTP (--http)",
            "localhost",
            "not an address to listen on; write IP:PORT, like 127.0.0.1:8946 or 0.0.0.0:8946, with a port from 0 to 65535, or off",
        ),
        (
            "BROADCAST_HTTP_ORIGINS (--http-origins)",
            "example.org",
            r#""example.org" is not an origin; write it like https://example.org or http://localhost:3000"#,
        ),
        (
            "BROADCAST_HTTP_MAX_CONNECTIONS (--http-max-connections)",
            "0",
            "not a number of connections from 1 to 1000000",
        ),
        ("BROADCAST_REPLAY (--replay)", "all", "it must be one of: none, retained"),
        ("BROADCAST_TAGS (--tags)", "role", "write NAME=VALUE, with commas between them"),
        ("BROADCAST_FAULTS (--faults)", "loss=2", "a share is a number from 0 to 1, like loss=0.3"),
        ("BROADCAST_FAULTS (--faults)", "delay=50ms..5ms", "a delay begins with the shorter one, like delay=5ms..50ms"),
        (
            "BROADCAST_FAULTS (--faults)",
            "gremlins=1",
            "the faults there are: loss, duplicate, delay, and seed to repeat them",
        ),
    ] {
        let line = format!("{variable} = {}: {problem}", broadcast::config::quote(value));
        let (name, flag) = variable.split_once(" (").expect("both");
        assert_eq!(refusal(run(&["node"], &[(name, value)]), 2), line);
        let flag = flag.trim_end_matches(')');
        assert_eq!(refusal(run(&["node", flag, value], &[]), 2), line);
    }

    let line = refusal(run(&["node"], &[("BROADCAST_SERF", "perhaps")]), 2);
    assert_eq!(line, r#"BROADCAST_SERF (--serf) = "perhaps": write true or false"#);
    let line = refusal(run(&["node", "--tags", "role=web"], &[]), 2);
    assert_eq!(line, "BROADCAST_TAGS (--tags) is for a serf cluster: set BROADCAST_SERF (--serf) to true, too");
    let line = refusal(run(&["node"], &[("BROADCAST_LOG", "broadcast=loud")]), 2);
    assert!(line.starts_with(r#"BROADCAST_LOG (--log) = "broadcast=loud": "#), "{line}");
    let line = refusal(run(&["node"], &[("BROADCAST_NAME", &"n".repeat(256))]), 2);
    assert!(line.starts_with("BROADCAST_NAME (--name) = ") && line.ends_with("longer than 255 bytes; shorten it"));
    let line = refusal(run(&["node", "--name", ""], &[]), 2);
    assert!(line.starts_with("BROADCAST_NAME (--name): ") && line.contains("it is empty"), "{line}");
}

#[test]
fn a_variable_that_is_not_text_or_blank_or_endless_is_named() {
    let not_text = OsStr::from_bytes(b"3s\xff");
    for (command, variable, flag) in [
        ("node", "BROADCAST_INTERVAL", "--interval"),
        ("node", "BROADCAST_ROLE", "--role"),
        ("node", "BROADCAST_LABEL", "--label"),
        ("members", "BROADCAST_NODE", "--node"),
    ] {
        let output = program(&[command]).env(variable, not_text).output().expect("it runs");
        assert_eq!(refusal(output, 2), format!("{variable} ({flag}) is not text in UTF-8; write it anew"));
    }
    let output = program(&["node"]).env("BROADCAST_SECRET_KEYS", not_text).output().expect("it runs");
    assert_eq!(refusal(output, 2), "BROADCAST_SECRET_KEYS is not text in UTF-8; write it anew");

    let blank = "BROADCAST_DATA (--data) = \" \": it is blank; write a path, or leave it out";
    assert_eq!(refusal(run(&["node"], &[("BROADCAST_DATA", " ")]), 2), blank);
    assert_eq!(refusal(run(&["node", "--data", " "], &[]), 2), blank);

    let long = "x".repeat(100_000);
    for variable in
        ["BROADCAST_INTERVAL", "BROADCAST_JOIN", "BROADCAST_NAME", "BROADCAST_DATA", "BROADCAST_HTTP_ORIGINS"]
    {
        let line = refusal(run(&["node"], &[(variable, &long)]), 2);
        assert!(line.contains("xxx\"… (100000 bytes): ") && line.len() < 500, "{line}");
    }
    let line = refusal(run(&[&long], &[]), 2);
    assert!(line.contains("(100000 bytes)") && line.len() < 300, "{line}");
}

#[test]
fn a_flag_goes_before_its_variable_and_an_empty_variable_is_unset() {
    // Both get as far as asking: nothing listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback has ports");
    let free = free.to_string();
    let line = refusal(run(&["health", "--bind", &free], &[("BROADCAST_BIND", "nonsense")]), 1);
    assert!(line.starts_with(&format!("unhealthy: nothing answers at {free}: ")), "{line}");
    assert!(line.ends_with("is the node running?"), "{line}");
    let line = refusal(run(&["node", "--bind", "nonsense"], &[("BROADCAST_JOIN", ""), ("BROADCAST_INTERVAL", "")]), 2);
    assert!(line.starts_with("BROADCAST_BIND (--bind) = "), "{line}");
}

#[test]
fn a_misspelt_variable_is_named_with_the_nearest() {
    let node = Process::node_with(
        &["--name", "node1", "--http", "127.0.0.1:0"],
        &[("BROADCAST_NMAE", "a-secret"), ("BROADCAST_PORT", "a-secret")],
    );
    let warn = |words: &str| {
        let line = node.log.wait_message(0, words);
        let line = &node.log.lines()[line];
        assert_eq!(
            (&line["level"], &line["event"], &line["node"]),
            (&"WARN".into(), &"unknown_setting".into(), &"node1".into())
        );
        assert!(!line.to_string().contains("a-secret"), "{line}");
    };
    warn("BROADCAST_NMAE is not a setting and is ignored: did you mean BROADCAST_NAME?");
    warn("BROADCAST_PORT is not a setting and is ignored; see broadcast node --help");

    let at = node.http().to_string();
    let output = run(&["members", "--node", &at], &[("BROADCAST_NMAE", "x"), ("BROADCAST_NDOE", "x")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let warning = "warning: BROADCAST_NDOE is not a setting and is ignored: did you mean BROADCAST_NODE?\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), warning);
}

#[test]
fn the_documents_say_how_long_a_token_is() {
    let line = refusal(run(&["node"], &[("BROADCAST_HTTP_TOKEN", "1234567")]), 2);
    let allowed =
        line.split("characters; ").nth(1).and_then(|rest| rest.split(" are allowed").next()).expect("a range");
    for document in ["docs/settings.md", "docs/http.md"] {
        let text = std::fs::read_to_string(repository(document)).expect("it is there");
        assert!(text.contains(allowed), "{document}: {allowed}");
    }
    assert!(stdout(run(&["node", "--help"], &[])).contains(allowed));
}

#[test]
fn a_node_says_why_it_leaves() {
    for (signal, words) in
        [("TERM", "told to stop (SIGTERM): leaving the cluster"), ("INT", "told to stop (SIGINT): leaving the cluster")]
    {
        let mut node = Process::node(&["--name", "node1"]);
        node.addr();
        node.signal(signal);
        node.log.wait_message(0, words);
        assert_eq!(node.wait().code(), Some(0));
    }
}

#[test]
fn in_the_demo_each_line_names_its_node_once() {
    let log = stdout(run(&["demo", "--interval", "300ms", "--for", "1s", "--http", "off"], &[]));
    for words in [
        "node1  | T  INFO node2 joined",
        "node2  | T  INFO send broadcast msg: key=I am node2 value=0",
        "node1  | T  INFO received broadcast msg: key=I am node2 value=0",
        "node3  | T  INFO the time is over: leaving the cluster",
    ] {
        let (front, rest) = words.split_once('T').expect("a time");
        assert!(log.lines().any(|line| line.starts_with(front) && line.ends_with(rest)), "{words} in {log}");
    }
}

#[test]
fn health_needs_to_know_the_port() {
    let line = refusal(run(&["health"], &[("BROADCAST_BIND", "0.0.0.0:0")]), 2);
    assert!(line.starts_with("BROADCAST_BIND (--bind) has port 0"), "{line}");
}

#[test]
fn an_unknown_command_or_flag_is_named() {
    assert_eq!(
        refusal(run(&["nod"], &[]), 2),
        "unrecognized subcommand 'nod' (did you mean node?); see broadcast --help"
    );
    assert_eq!(
        refusal(run(&["node", "--port"], &[]), 2),
        "unexpected argument '--port' found; see broadcast node --help"
    );
}

#[test]
fn alone_it_shows_its_help() {
    let output = run(&[], &[]);
    assert_eq!(output.status.code(), Some(2));
    let help = String::from_utf8_lossy(&output.stderr);
    for word in ["node", "demo", "health", "broadcast demo", "--version"] {
        assert!(help.contains(word), "{help}");
    }
    assert!(help.contains("--bind 127.0.0.1:17946") && !help.contains(":7946"), "beside Docker Swarm, too: {help}");
    // As it is asked for in many other programs.
    assert_eq!(stdout(run(&["help", "node"], &[])), stdout(run(&["node", "--help"], &[])));
    assert!(stdout(run(&["help"], &[])).contains("broadcast demo"));
}

#[test]
fn the_version_comes_with_the_commit_and_with_what_is_built_in() {
    let (short, long) = (stdout(run(&["-V"], &[])), stdout(run(&["--version"], &[])));
    let mut lines = long.lines();
    let first = lines.next().unwrap_or_default();
    assert_eq!(short, format!("{first}\n"));
    let rest = first.strip_prefix(concat!("broadcast ", env!("CARGO_PKG_VERSION"))).expect("the version comes first");
    // Where there is no git, there is no commit.
    if !rest.is_empty() {
        let commit = rest.strip_prefix(" (").and_then(|rest| rest.strip_suffix(")")).expect("a commit in parentheses");
        let digits = commit.strip_suffix("-dirty").unwrap_or(commit);
        assert!(digits.len() >= 12 && digits.chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
    }
    let names: Vec<_> = lines.map(|line| line.split_once(' ').expect("a name and what it is").0).collect();
    assert_eq!(names, ["target", "features"]);
}

#[test]
fn a_setting_that_is_a_switch_needs_no_value() {
    let help = stdout(run(&["node", "--help"], &[]));
    assert!(help.contains("--serf[=<BOOL>]") && help.contains("[env: BROADCAST_SERF]"), "{help}");
    assert!(help.contains("Examples:"), "{help}");
}

#[test]
fn health_is_that_of_the_node() {
    let alone = Process::node(&["--name", "alone"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let joined = loop {
        let output = run(&["health"], &[("BROADCAST_BIND", &alone.addr().to_string())]);
        if output.status.success() || Instant::now() > deadline {
            break output;
        }
    };
    assert_eq!(stdout(joined), "healthy: joined, 1 member\n");

    // Nothing listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback has ports");
    let lost = Process::node(&["--name", "lost", "--join", &free.to_string()]);
    let line = refusal(run(&["health", "--bind", &lost.addr().to_string()], &[]), 1);
    assert!(line.starts_with("unhealthy: not joined yet, 1 member; "), "{line}");
    let live =
        |args: &[&str]| stdout(run(&[&["health", "--live", "--bind", &lost.addr().to_string()], args].concat(), &[]));
    assert_eq!(live(&[]), "healthy: not joined yet, 1 member\n");
    assert_eq!(live(&["--json"]), "{\"joined\":false,\"members\":1}\n");
    let line = refusal(run(&["health", "--live", "--bind", &free.to_string()], &[]), 1);
    assert!(line.starts_with(&format!("unhealthy: nothing answers at {free}: ")), "{line}");
}

#[test]
fn an_address_in_use_is_named_with_its_remedy() {
    let node = Process::node(&["--name", "first"]);
    let addr = node.addr().to_string();
    let line = refusal(run(&["node", "--name", "second", "--bind", &addr], &[]), 1);
    assert!(line.starts_with(&format!("cannot listen on {addr}: ")), "{line}");
    assert!(line.ends_with("stop what uses it, or set another BROADCAST_BIND (--bind), port 0 for any free one"));
}

#[test]
fn in_the_demo_everybody_hears_every_sender() {
    let log =
        stdout(run(&["demo", "--interval", "300ms", "--for", "3s", "--log-format", "json", "--http", "off"], &[]));
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    let talk = lines.iter().take_while(|line| line["event"] != "left");

    let mut largest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut heard: BTreeMap<(&str, u64), Vec<&str>> = BTreeMap::new();
    for line in talk {
        let text = |field: &str| line[field].as_str().expect("text");
        let value = || line["value"].as_u64().expect("a number");
        match line["event"].as_str() {
            Some("send") => {
                assert_eq!(text("key"), format!("I am {}", text("node")));
                assert_eq!(
                    value(),
                    largest.get(text("node")).map_or(0, |largest| largest + 1),
                    "Lamport's rule: {line}"
                );
                largest.insert(text("node"), value());
                heard.insert((text("node"), value()), Vec::new());
            }
            Some("received") => {
                assert_eq!(text("key"), format!("I am {}", text("from")));
                let largest = largest.entry(text("node")).or_default();
                *largest = value().max(*largest);
                heard.get_mut(&(text("from"), value())).expect("it was sent before").push(text("node"));
            }
            _ => {}
        }
    }
    assert!(heard.len() >= 10, "{} messages in 3 s, two senders, 300 ms", heard.len());
    // The last one of each may still have been under way when the first node left.
    for (from, value) in heard.keys().filter(|(from, value)| heard.contains_key(&(*from, value + 2))) {
        let mut by = heard[&(*from, *value)].clone();
        by.sort_unstable();
        let others: Vec<_> = ["node1", "node2", "node3"].into_iter().filter(|node| node != from).collect();
        assert_eq!(by, others, "{from} {value}");
    }
    for count in ["broadcast nodes = 1", "broadcast nodes = 3"] {
        for node in ["node1", "node2", "node3"] {
            assert!(lines.iter().any(|line| line["node"] == node && line["message"] == count), "{node}: {count}");
        }
    }
    assert!(lines.iter().any(|line| line["message"] == "node2 left") && !log.contains(" failed"));
}

#[test]
fn the_logs_that_were_kept_are_checked_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let sent = |value: u64| format!("2026-11-24T21:26:42.093Z  INFO b send broadcast msg: key=I am b value={value}\n");
    let heard = |value: u64| sent(value).replace("INFO b send", "INFO a received");
    let write = |name: &str, log: String| fs::write(folder.path().join(name), log).expect("written");
    for name in ["b.sent", "b.log"] {
        write(name, (0..3).map(sent).collect());
    }
    write("a.sent", String::new());
    let check = || run(&["chaos", "check", folder.path().to_str().expect("text")], &[]);
    write("a.log", (0..3).map(heard).collect());
    let told = "2 of 2 nodes survived; 2 messages sent by 1 senders; ";
    assert_eq!(stdout(check()), format!("{told}each survivor has each of them once\n"));
    write("a.log", heard(1));
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    let bad = format!("{told}not each survivor has each of them once:\n  a lacks of b: 2\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), bad);
    fs::remove_file(folder.path().join("a.sent")).expect("it was there");
    assert!(refusal(check(), 1).contains("cannot read the logs in "));
}

#[test]
fn the_script_for_chaos_is_the_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let cargo = folder.path().join("cargo");
    fs::write(&cargo, "#!/bin/sh\necho \"$COMPOSE_FILE\"; printf '%s\\n' \"$@\"\n").expect("written");
    fs::set_permissions(&cargo, Permissions::from_mode(0o755)).expect("it is there");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [folder.path().to_owned()].into_iter().chain(env::split_paths(&path));
    let mut script = Command::new(repository("scripts/chaos"));
    script.args(["random", "2m"]).env_remove("COMPOSE_FILE").current_dir(&folder);
    let said = stdout(script.env("PATH", env::join_paths(path).expect("paths")).output().expect("bash is there"));
    let [compose, manifest] = ["compose.yaml", "Cargo.toml"].map(|file| repository(file).display().to_string());
    let expected = [&compose, "run", "--quiet", "--locked", "--manifest-path", &manifest, "--bin", "broadcast", "--"];
    assert_eq!(said.lines().collect::<Vec<_>>(), [&expected[..], &["chaos", "random", "2m"]].concat());
}
