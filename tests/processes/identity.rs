//! A node's identity: its roles, and the id that it keeps in its data directory.

use std::{fs, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Process, http::ask, program, refusal, stdout, wait_for};

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

/// A node that keeps its identity there, and joins through these seeds.
fn node(name: &str, dir: &Path, seeds: &[SocketAddr], args: &[&str]) -> Process {
    let seeds = seeds.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
    let dir = dir.to_str().expect("text");
    Process::node(
        &[&["--name", name, "--data", dir, "--join", &seeds, "--interval", "100ms"], &HTTP[..], args].concat(),
    )
}

fn members(node: &Process) -> Value {
    ask(node.http(), "GET", "/v1/members", &[], b"").json()["members"].clone()
}

/// Waits until the node has been told by the member who it is.
#[track_caller]
fn wait_told(node: &Process, name: &str) -> Value {
    wait_for(&format!("{name} tells who it is"), || {
        let members = members(node);
        let member = members.as_array().expect("a list").iter().find(|member| member["name"] == name);
        member.filter(|member| member["id"].is_string()).cloned().ok_or(members)
    })
}

fn stop(mut node: Process) -> Vec<Value> {
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(0));
    node.log.wait_end();
    node.log.lines()
}

#[test]
fn a_node_is_the_same_to_the_others_when_it_starts_again_with_its_data() {
    let folder = TempDir::new().expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("deep/second"));
    let one = node("one", &first, &[], &[]);
    let two = node("two", &second, &[one.addr()], &["--role", "sender, receiver,sender"]);
    let told = wait_told(&one, "two");
    let id = told["id"].as_str().expect("text").to_owned();
    assert_eq!(told["roles"], json!(["receiver", "sender"]));
    assert_eq!(told["endpoints"], json!({ "http": two.http().to_string() }));
    let own = &members(&one)[0];
    assert_eq!((&own["name"], &own["roles"]), (&json!("one"), &json!(["receiver"])));
    let status = ask(two.http(), "GET", "/v1/cluster", &[], b"").json();
    assert_eq!((&status["id"], &status["roles"]), (&json!(id), &json!(["receiver", "sender"])));
    two.log.wait_line(0, &json!({ "event": "data", "id": id, "dir": second.to_str() }));
    // It sends as a sender does, and hears as a receiver does.
    one.log.wait_line(0, &json!({ "event": "received", "from": "two", "value": 3 }));

    let at = one.http().to_string();
    let table = stdout(program(&["members", "--node", &at]).output().expect("it runs"));
    let row = table.lines().find(|line| line.starts_with("two ")).expect("a row");
    assert!(
        table.lines().next().expect("a head").contains("ROLES")
            && row.contains(&id)
            && row.contains(" receiver,sender ")
    );
    let status = stdout(program(&["status", "--node", &at]).output().expect("it runs"));
    assert!(status.contains("\nroles    receiver\n"), "{status}");

    stop(two);
    // Under another name, at another address.
    let again = node("three", &second, &[one.addr()], &[]);
    assert_eq!(wait_told(&one, "three")["id"], json!(id));
    let anew = Process::node(&["--name", "four", "--join", &one.addr().to_string()]);
    assert_ne!(wait_told(&one, "four")["id"], json!(id));
    drop((again, anew));
}

#[test]
fn two_nodes_never_share_a_data_directory() {
    let folder = TempDir::new().expect("a folder");
    let dir = folder.path().to_str().expect("text");
    let one = node("one", folder.path(), &[], &[]);
    one.addr();
    let second = program(&["node", "--name", "two", "--bind", "127.0.0.1:0", "--http", "off", "--data", dir]);
    let refused = refusal({ second }.output().expect("it runs"), 1);
    assert_eq!(
        refused,
        format!(
            "BROADCAST_DATA (--data): another process uses {dir}; stop it, or give each node a directory of its own"
        )
    );
    stop(one);
    assert!(node("two", folder.path(), &[], &[]).wait_started(), "it is free again");
}

#[test]
fn a_copy_of_a_data_directory_is_told_with_the_names_of_both() {
    let folder = TempDir::new().expect("a folder");
    let [first, copy, third] = ["first", "copy", "third"].map(|name| folder.path().join(name));
    let one = node("one", &first, &[], &[]);
    let seed = [one.addr()];
    fs::create_dir(&copy).expect("it is new");
    fs::copy(first.join("id"), copy.join("id")).expect("it is there");
    let two = node("two", &copy, &seed, &[]);
    let three = node("three", &third, &seed, &[]);
    let id = members(&one)[0]["id"].clone();
    for node in [&one, &two, &three] {
        let place = node.log.wait_line(0, &json!({ "event": "id_conflict", "id": id }));
        let line = node.log.lines()[place].clone();
        let mut names = [&line["member"], &line["other"]].map(|name| name.as_str().expect("text"));
        names.sort_unstable();
        assert_eq!((line["level"].as_str(), names), (Some("WARN"), ["one", "two"]), "{line}");
    }
}

#[test]
fn an_identity_that_cannot_be_read_is_refused_and_stays_as_it_is() {
    let folder = TempDir::new().expect("a folder");
    let (dir, file) = (folder.path().to_str().expect("text"), folder.path().join("id"));
    fs::write(&file, "broadcast node id, for").expect("it is written");
    let output = program(&["node", "--name", "one", "--http", "off"]).env("BROADCAST_DATA", dir).output();
    let refused = refusal(output.expect("it runs"), 2);
    let begin = format!(
        "BROADCAST_DATA (--data): {} is damaged or of another release: it is cut off: it has 22 bytes, instead of 60; ",
        file.display()
    );
    assert!(refused.starts_with(&begin) && refused.contains("remove it, and the node is a new one"), "{refused}");
    assert_eq!(fs::read(&file).expect("it is there"), b"broadcast node id, for");
}

#[test]
fn a_role_that_does_not_exist_is_named_with_what_was_meant() {
    let output = program(&["node"]).env("BROADCAST_ROLE", "receiver,sendr").output().expect("it runs");
    assert_eq!(
        refusal(output, 2),
        "BROADCAST_ROLE (--role) = \"receiver,sendr\": \"sendr\" is not a role; it must be one of: receiver, sender, voter; did \
         you mean sender?"
    );
}
