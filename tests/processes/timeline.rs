//! `broadcast timeline` and `broadcast demo --timeline`: what they draw of logs and of real nodes, compared with the picture in
//! the project's description.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use crate::support::{
    Log, Process,
    cluster::{api_node, api_nodes},
    http::ask,
    program, refusal, stdout,
};
use serde_json::{Value, json};

/// The picture as the description of the project has it.
const DESCRIPTION: &str = include_str!("timeline/description.txt");

/// What happened there, to whom: sender, value, and who received it.
const SCENARIO: [(&str, u64, [&str; 2]); 3] =
    [("node2", 0, ["node1", "node3"]), ("node3", 1, ["node1", "node2"]), ("node2", 2, ["node1", "node3"])];

/// A line of a log: which node's, its time, and the words; as text or as JSON.
struct LogLine {
    node: &'static str,
    time: String,
    text: String,
    json: String,
}

/// How a line is written, as text or as JSON.
type LineFormat = fn(&LogLine) -> String;

/// The lines of the description's scenario, as nodes of ours log it.
fn scenario() -> Vec<LogLine> {
    let mut lines = Vec::new();
    for (i, (sender, value, receivers)) in SCENARIO.into_iter().enumerate() {
        for (node, ms) in [(sender, 0), (receivers[0], 1), (receivers[1], 2)] {
            let time = format!("2026-11-25T08:03:{:02}.{:03}Z", 10 + i, 436 + ms);
            let key = format!("I am {sender}");
            let (event, verb) = if node == sender { ("send", "send") } else { ("received", "received") };
            let words = format!("{verb} broadcast msg: key={key} value={value}");
            let id = format!("{sender}.7.{}", value / 2);
            let mut json = json!({
                "timestamp": time, "level": "INFO", "node": node, "event": event, "message": words,
                "key": key, "value": value, "id": id,
            });
            if node != sender {
                json["from"] = sender.into();
            }
            let text = format!("{time}  INFO {node} {words}");
            lines.push(LogLine { node, time, text, json: json.to_string() });
        }
    }
    lines
}

/// The cells of a picture, without the rule below its header.
fn cells(picture: &str) -> Vec<Vec<String>> {
    let is_rule = |line: &&str| line.chars().all(|c| "+-| ".contains(c));
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    picture.lines().filter(|line| !is_rule(line)).map(cells).collect()
}

fn draw(input: &str, env: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = program(&[&["timeline"], args].concat());
    command.env_remove("COLUMNS").envs(env.iter().copied());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // It may refuse before it has read all.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

#[test]
fn the_picture_is_the_descriptions() {
    let wanted = cells(DESCRIPTION);
    assert_eq!((wanted.len(), &*wanted[0][0]), (7, "node1 says"), "a header, and two rows a message");
    let lines = scenario();
    // As docker compose logs may tell it: all of one container before the next.
    let mut by_node: Vec<_> = lines.iter().collect();
    by_node.sort_by_key(|line| line.node);
    let formats: [(&str, LineFormat); 6] = [
        ("text", |line| line.text.clone()),
        ("JSON", |line| line.json.clone()),
        ("compose", |line| format!("{}-1  | {}", line.node, line.text)),
        ("compose, JSON, with times", |line| format!("{}-1  | {}000000Z {}", line.node, &line.time[..23], line.json)),
        ("compose, coloured", |line| format!("\x1b[36m{}-1  | \x1b[0m{}", line.node, line.text)),
        ("the demo's on a terminal", |line| {
            let (time, rest) = line.text.split_once("  INFO ").expect("both");
            let words = rest.strip_prefix(line.node).expect("the node's name").trim_start();
            format!("\x1b[33m{}  | \x1b[0m\x1b[2m{time}\x1b[0m \x1b[32m INFO\x1b[0m {words}", line.node)
        }),
    ];
    for (name, format) in formats {
        for (order, lines) in [("as it happened", lines.iter().collect()), ("node by node", by_node.clone())] {
            let log: Vec<_> = lines.into_iter().map(format).collect();
            let picture = stdout(draw(&log.join("\n"), &[], &[]));
            assert_eq!(cells(&picture), wanted, "{name}, {order}:\n{picture}");
        }
    }
    let wide = stdout(draw(&lines.iter().map(|line| line.text.clone() + "\n").collect::<String>(), &[], &[]));
    let rules: Vec<_> = wide.lines().filter(|line| line.starts_with('-')).collect();
    assert_eq!(rules.len(), 1, "one header: {wide}");
}

#[test]
fn what_is_read_from_files_is_drawn_together() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = ["node3", "node1", "node2"].map(|node| {
        let file = folder.path().join(format!("{node}.log"));
        let log: String =
            scenario().iter().filter(|line| line.node == node).map(|line| line.text.clone() + "\n").collect();
        std::fs::write(&file, log).expect("it can be written");
        file.to_str().expect("text").to_owned()
    });
    let args: Vec<_> = files.iter().map(|file| &**file).collect();
    assert_eq!(cells(&stdout(draw("", &[], &args))), cells(DESCRIPTION));
    let missing = folder.path().join("none.log");
    let line = refusal(draw("", &[], &[missing.to_str().expect("text")]), 1);
    assert!(line.starts_with("cannot read \"") && line.contains("none.log"), "{line}");
    let line = refusal(draw("a line\n2026-11-25T08:03:10.436Z  INFO node1 node2 left\n", &[], &["-"]), 1);
    assert!(line.starts_with("there is nothing to draw: "), "{line}");
    let line = refusal(draw("", &[], &["node1.log", "--node", "http://127.0.0.1:1"]), 2);
    assert!(line.contains("cannot be used with"), "{line}");
}

#[test]
fn it_fits_the_width_it_is_given() {
    let log: String = scenario().iter().map(|line| line.text.clone() + "\n").collect();
    for (columns, cell) in [
        ("200", "send broadcast msg: key=I am node2 value=0"),
        ("120", "send key=I am node2 value=0"),
        ("80", "send I am node2=0"),
        ("50", "send node2=0"),
    ] {
        let picture = stdout(draw(&log, &[("COLUMNS", columns)], &[]));
        let columns: usize = columns.parse().expect("a number");
        assert!(picture.lines().all(|line| line.chars().count() <= columns), "{picture}");
        assert_eq!(cells(&picture)[1], ["", cell, ""], "{picture}");
        assert!(!picture.contains('\x1b'), "no colours but on a terminal");
    }
}

#[test]
fn what_others_chose_cannot_move_the_cursor() {
    let value = r#""\u001b[2J\u202e""#;
    let json = |node: &str, event: &str| {
        format!(
            r#"{{"timestamp":"2026-11-25T08:03:10.436Z","level":"INFO","node":"{node}\u001b[31m","event":"{event}","message":"","key":"a\nb\u001b]0;x\u0007\u202e","value":{value},"id":"n.1.0"}}"#
        ) + "\n"
    };
    let log = json("node1", "send")
        + &json("node2", "received")
        + "2026-11-25T08:03:11.436Z  INFO node\u{202e}3 send broadcast msg: key=\x07\u{9b}2J value=\"\x1b\"\n";
    let picture = stdout(draw(&log, &[], &[]));
    assert!(picture.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{picture:?}");
    assert!(picture.contains("node\\u{202e}3 says") && picture.contains("key=a\\nb"), "{picture}");
}

#[test]
fn endless_input_is_drawn_as_it_comes_and_takes_little_memory() {
    let mut command = program(&["timeline"]);
    let mut child =
        command.env_remove("COLUMNS").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut input = child.stdin.take().expect("it is piped");
    let drawn = Log::follow(child.stdout.take().expect("it is piped"));
    let mut timeline = Process::new(child, drawn);
    let count = 30_000;
    for i in 0..count {
        let time = format!("2026-11-25T{:02}:{:02}:{:02}.000Z", i / 3600, i / 60 % 60, i % 60);
        let mut lines = String::new();
        let value = format!("{i} {}", "x".repeat(200));
        // Half of them are received by nobody.
        let receivers = if i % 2 == 0 { &["node1", "node3"][..] } else { &[] };
        let _ = writeln!(lines, "{time}  INFO node2 send broadcast msg: key=k value=\"{value}\"");
        for node in receivers {
            let _ = writeln!(lines, "{time}  INFO {node} received broadcast msg: key=k value=\"{value}\"");
        }
        input.write_all(lines.as_bytes()).expect("it reads");
    }
    timeline.log.wait("the last", |lines| {
        let last = format!("value=\"{} ", count - 1);
        lines.iter().rev().take(9).any(|line| line.as_str().is_some_and(|line| line.contains(&last))).then_some(())
    });
    // It holds what is gathered, and little more.
    let peak = timeline.peak_memory();
    println!("{count} messages: {} MiB", peak >> 20);
    assert!(peak < 128 << 20, "{peak} bytes");
    drop(input);
    assert_eq!(timeline.wait().code(), Some(0));
    let lines = timeline.log.lines();
    let rows = lines.iter().filter(|line| line.as_str().is_some_and(|line| line.contains("key=k"))).count();
    assert_eq!(rows, count + count / 2, "each message has its rows");
}

#[test]
fn what_happens_now_is_drawn_while_more_comes() {
    let mut command = program(&["timeline"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut input = child.stdin.take().expect("it is piped");
    let drawn = Log::follow(child.stdout.take().expect("it is piped"));
    let mut timeline = Process::new(child, drawn);
    for line in scenario() {
        writeln!(input, "{}", line.text).expect("it reads");
        let words = line.text.split_once(line.node).expect("both").1.trim().to_owned();
        timeline.log.wait(&words, |lines| lines.iter().any(|line| line.to_string().contains(&words)).then_some(()));
    }
    timeline.signal("INT");
    assert_eq!(timeline.wait().code(), Some(130));
}

#[test]
fn it_ends_with_its_reader() {
    let mut command = program(&["timeline"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut input = child.stdin.take().expect("it is piped");
    writeln!(input, "{}", scenario()[0].text).expect("it reads");
    let mut out = child.stdout.take().expect("it is piped");
    assert!(out.read(&mut [0; 16]).expect("it draws something") > 0);
    drop(out);
    // Nothing more comes: it notices by itself.
    let mut timeline = Process::new(child, Arc::default());
    assert_eq!(timeline.wait().code(), Some(0));
    let mut demo = program(&["demo", "--timeline", "--http", "off", "--interval", "100ms"]);
    let mut child = demo.stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut out = child.stdout.take().expect("it is piped");
    assert!(out.read(&mut [0; 16]).expect("it draws something") > 0);
    drop(out);
    assert_eq!(Process::new(child, Arc::default()).wait().code(), Some(0));
}

#[test]
fn the_demo_draws_itself() {
    let mut demo = program(&["demo", "--timeline", "--interval", "300ms", "--for", "3s", "--http", "off"]);
    // What would be logged otherwise does not matter.
    let demo = demo.env_remove("COLUMNS").envs([("BROADCAST_LOG", "off"), ("BROADCAST_LOG_FORMAT", "json")]);
    let picture = stdout(demo.output().expect("the program runs"));
    let cells = cells(&picture);
    assert_eq!(cells[0], ["node1 says", "node2 says", "node3 says"], "{picture}");
    assert!(cells.len() >= 15, "two rows a message: {picture}");
    let rows = &cells[1..];
    assert_eq!(rows[..2], crate::timeline::cells(DESCRIPTION)[1..3], "{picture}");
    // Two senders take turns: the values count, and each row of receptions stands below its sending.
    for (value, rows) in rows.chunks(2).enumerate() {
        let sender = format!("I am node{}", 2 + value % 2);
        let send = format!("send broadcast msg: key={sender} value={value}");
        assert!(rows[0].iter().filter(|cell| **cell == send).count() == 1, "{send}:\n{picture}");
        if let Some(row) = rows.get(1) {
            let received = format!("received broadcast msg: key={sender} value={value}");
            assert_eq!(row.iter().filter(|cell| **cell == received).count(), 2, "{received}:\n{picture}");
        }
    }
}

#[test]
fn what_the_demo_logs_is_drawn() {
    let mut demo = program(&["demo", "--interval", "300ms", "--for", "2s", "--http", "off", "--log-format", "text"]);
    let log = stdout(demo.env_remove("BROADCAST_LOG").output().expect("the program runs"));
    for log in [log.clone(), log.lines().map(|line| format!("demo-1  | {line}\n")).collect()] {
        let picture = stdout(draw(&log, &[], &[]));
        assert_eq!(cells(&picture)[..3], cells(DESCRIPTION)[..3], "{log}{picture}");
    }
}

fn publish(node: &Process, key: &str, value: u64) {
    let body = format!("{{\"key\":\"{key}\",\"value\":{value}}}");
    assert_eq!(ask(node.http(), "POST", "/v1/messages?ack=all", &[], body.as_bytes()).status, 200);
}

fn follow(nodes: &[&Process], args: &[&str]) -> Process {
    let urls: Vec<_> = nodes.iter().map(|node| format!("http://{}", node.http())).collect();
    let urls = urls.iter().flat_map(|url| ["--node", url]);
    let args: Vec<_> = ["timeline"].into_iter().chain(urls).chain(args.iter().copied()).collect();
    Process::spawn(program(&args).env_remove("COLUMNS"))
}

/// Waits until a picture has rows of these cells.
#[track_caller]
fn wait_rows(picture: &Process, rows: &[[&str; 3]]) {
    for row in rows {
        picture.log.wait(&format!("{row:?}"), |lines| {
            let text: String = lines.iter().filter_map(Value::as_str).map(|line| line.to_owned() + "\n").collect();
            cells(&text).iter().any(|cells| cells == row).then_some(())
        });
    }
}

#[test]
fn running_nodes_speak_for_themselves_and_others_are_told_of() {
    let nodes = api_nodes::<3>(&[]);
    let [first, second, third] = &nodes;
    publish(second, "before", 1);
    let all = follow(&[first, second, third], &[]);
    let one = follow(&[first], &["--last", "5"]);
    wait_rows(
        &all,
        &[
            ["node1 says", "node2 says", "node3 says"],
            ["", "send broadcast msg: key=before value=1", ""],
            ["received broadcast msg: key=before value=1", "", "received broadcast msg: key=before value=1"],
        ],
    );
    let header = ["node1 says", "node2 (others say)", "node3 (others say)"];
    wait_rows(&one, &[header, ["", "(send broadcast msg: key=before value=1)", ""]]);
    publish(first, "first", 2);
    publish(third, "third", 3);
    wait_rows(
        &all,
        &[
            ["send broadcast msg: key=first value=2", "", ""],
            ["", "received broadcast msg: key=first value=2", "received broadcast msg: key=first value=2"],
            ["", "", "send broadcast msg: key=third value=3"],
        ],
    );
    wait_rows(
        &one,
        &[["send broadcast msg: key=first value=2", "", ""], ["", "", "(send broadcast msg: key=third value=3)"]],
    );
    // Both have acknowledged it to node1, which knows it; that they received it they have not said here.
    let acknowledged = "acknowledged broadcast msg: key=first value=2";
    for column in [1, 2] {
        one.log.wait(acknowledged, |lines| {
            let text: String = lines.iter().filter_map(Value::as_str).map(|line| line.to_owned() + "\n").collect();
            cells(&text).iter().any(|cells| cells[column] == acknowledged).then_some(())
        });
    }
    for mut picture in [all, one] {
        picture.signal("INT");
        assert_eq!(picture.wait().code(), Some(130));
        let text = picture.log.lines().iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
        assert!(!text.contains("acknowledged") || !text.contains("node2 says"), "{text}");
    }
}

#[test]
fn a_node_that_cannot_be_followed_is_named() {
    let first = api_node("node1", None, &[]);
    let url = format!("http://{}", first.http());
    let run = |args: &[&str]| {
        let mut command: Command = program(&[&["timeline"], args].concat());
        command.output().expect("the program runs")
    };
    let line = refusal(run(&["--node", &url, "--node", &url.replace("127.0.0.1", "localhost")]), 2);
    assert!(line.starts_with("node1 is asked twice, at http://"), "{line}");
    let line = refusal(run(&["--node", &url, "--node", "http://127.0.0.1:1"]), 1);
    assert!(line.starts_with("nothing answers at http://127.0.0.1:1: "), "{line}");
    let line = refusal(run(&["--node", "ftp://node1"]), 2);
    assert!(line.contains("not where a node serves its API; write it like "), "{line}");
}
