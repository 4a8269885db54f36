//! Encrypted clusters: keys come from a file or a variable, change while nodes send, and are never shown.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use crate::support::{
    Process,
    cluster::{Cluster, Node},
    program,
};

fn keygen() -> String {
    let output = program(&["keygen"]).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("base64").trim().into()
}

fn write(file: &Path, keys: &[&str]) {
    fs::write(file, format!("# keys of a test\n{}\n", keys.join("\n"))).expect("a temporary file can be written");
}

fn health(node: &Node, args: &[&str]) -> Output {
    let addr = node.addr().to_string();
    program(&[&["health", "--bind", &addr], args].concat()).output().expect("the program runs")
}

#[test]
fn a_cluster_changes_its_keys_while_it_talks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("keys");
    let path = file.to_str().expect("it is text");
    let (old, new) = (keygen(), keygen());
    assert_ne!(old, new);
    write(&file, &[&old]);

    let args = ["--label", "prod", "--secret-keys-file", path];
    let mut nodes = vec![Node::start("node1", &[], &args)];
    let seed = nodes[0].addr().to_string();
    nodes.extend((2..=4).map(|i| Node::sender(&format!("node{i}"), &[&seed], &args)));
    let cluster = Cluster { nodes };
    cluster.agree();

    for keys in [vec![&old, &new], vec![&new, &old], vec![&new]] {
        write(&file, &keys.iter().map(|key| key.as_str()).collect::<Vec<_>>());
        for node in &cluster.nodes {
            let from = node.log().len();
            node.process.signal("HUP");
            node.log().wait_line(from, &serde_json::json!({"event": "keys", "count": keys.len()}));
        }
        cluster.flow();
    }
    cluster.assert_unharmed();

    // A file that cannot be leaves the keys as they are, and says so.
    write(&file, &["nonsense!"]);
    cluster.nodes[0].process.signal("HUP");
    let line = cluster.nodes[0].log().wait("the refusal", |lines| {
        lines
            .iter()
            .find(|line| line["message"].as_str().is_some_and(|text| text.starts_with("the keys stay")))
            .cloned()
    });
    let words = line["message"].as_str().expect("text");
    assert!(words.contains("key 1 cannot be used: a key is not base64"), "{words}");
    write(&file, &[&new]);
    cluster.flow();

    // Who has the old key, another label, or neither, stays alone.
    let stranger_file = folder.path().join("old");
    write(&stranger_file, &[&old]);
    let old_path = stranger_file.to_str().expect("it is text");
    for (name, args) in [
        ("old", &["--label", "prod", "--secret-keys-file", old_path][..]),
        ("bare", &[]),
        ("staging", &["--label", "staging", "--secret-keys-file", path]),
    ] {
        let stranger = Node::start(name, &[&seed], args);
        stranger
            .log()
            .wait("to be kept out", |lines| lines.iter().find(|line| line["event"] == "seed_unreachable").map(|_| ()));
        stranger.wait_view(&BTreeSet::from([name.into()]));
    }
    cluster.assert_unharmed();

    let sees = health(&cluster.nodes[1], &args);
    assert!(sees.status.success(), "{sees:?}");
    for args in [&args[..2], &[]] {
        assert_eq!(health(&cluster.nodes[1], args).status.code(), Some(1));
    }

    for node in &cluster.nodes {
        let log: String = node.log().lines().iter().map(ToString::to_string).collect();
        assert!(!log.contains(&old) && !log.contains(&new), "{} logs a key", node.name);
    }
}

#[test]
fn a_key_is_written_to_a_file_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |file: &str| {
        let output = program(&["keygen", "--file", file]).current_dir(folder.path()).output().expect("it runs");
        assert!(output.stdout.is_empty(), "the key is not shown: {output:?}");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    assert_eq!(run("keys"), (Some(0), "wrote a new key to keys\n".into()));
    let path = folder.path().join("keys");
    let written = fs::read_to_string(&path).expect("it is there");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(run("keys"), (Some(0), "keys stays as it is: it has a key already\n".into()));
    assert_eq!(fs::read_to_string(&path).expect("it is there"), written);
    let files: Vec<_> = fs::read_dir(folder.path()).expect("it is there").collect();
    assert_eq!(files.len(), 1, "nothing else is left: {files:?}");
    let node = Process::node_with(&["--name", "node1", "--secret-keys-file", path.to_str().expect("text")], &[]);
    node.addr();

    fs::write(folder.path().join("other"), "hunter2!").expect("it can be written");
    let (code, told) = run("other");
    let expected =
        r#"error: "other" is there already, and is no file of keys: key 1 cannot be used: a key is not base64"#;
    assert!(code == Some(1) && told.starts_with(expected) && !told.contains("hunter"), "{code:?} {told}");
    let (code, told) = run("no/such/folder/keys");
    assert!(code == Some(1) && told.starts_with(r#"error: cannot write a key to "no/such/folder/keys": "#), "{told}");
}

#[test]
fn keys_from_a_variable_work_too_and_a_cluster_goes_over_to_them_step_by_step() {
    let key = keygen();
    let start = |name: &str, seeds: &[&str], args: &[&str], key: Option<&str>| {
        let seeds = seeds.join(",");
        let args = [&["--name", name, "--join", &seeds, "--role", "sender", "--interval", "200ms"], args].concat();
        let env: Vec<_> = key.map(|key| ("BROADCAST_SECRET_KEYS", key)).into_iter().collect();
        Node { name: name.into(), process: Process::node_with(&args, &env) }
    };
    let plain = start("node1", &[], &[], None);
    let seed = plain.addr().to_string();
    let able = start("node2", &[&seed], &["--verify-incoming", "false", "--verify-outgoing", "false"], Some(&key));
    let seed2 = able.addr().to_string();
    let mut cluster = Cluster { nodes: vec![plain, able] };
    cluster.agree();
    cluster.flow();

    // The first one is restarted with the key as well; then it can be used by all, and demanded by all.
    drop(cluster.nodes.remove(0));
    cluster.nodes.push(start("node3", &[&seed2], &["--verify-incoming", "false"], Some(&key)));
    cluster.nodes.push(start("node4", &[&seed2], &["--verify-incoming", "false"], Some(&key)));
    cluster.nodes[0].wait_event(0, "failed", "node1");
    cluster.flow();
    drop(cluster.nodes.remove(0));
    let seed3 = cluster.nodes[0].addr().to_string();
    cluster.nodes.push(start("node5", &[&seed3], &[], Some(&key)));
    cluster.flow();
}

#[test]
fn a_secret_that_everybody_can_read_is_warned_about() {
    let folder = tempfile::tempdir().expect("a folder");
    let [keys, token] = ["keys", "token"].map(|name| folder.path().join(name));
    fs::write(&keys, keygen()).expect("it is written");
    fs::write(&token, "a-secret-token").expect("it is written");
    for (mode, warned) in [(0o644, 2), (0o640, 0)] {
        for file in [&keys, &token] {
            fs::set_permissions(file, Permissions::from_mode(mode)).expect("it is ours");
        }
        let [keys, token] = [&keys, &token].map(|file| file.to_str().expect("text"));
        let node = Process::node(&["--name", "node1", "--secret-keys-file", keys, "--http-token-file", token]);
        node.addr();
        let lines = node.log.lines();
        let warnings: Vec<_> = lines.iter().filter(|line| line["event"] == "secret").collect();
        assert_eq!(warnings.len(), warned, "{lines:?}");
        assert!(warnings.iter().all(|line| line["message"].as_str().is_some_and(|text| text.contains("chmod 600"))));
    }
}

#[test]
fn a_hangup_with_no_file_of_keys_to_read_changes_nothing() {
    let key = keygen();
    let mut node = Process::node_with(&["--name", "node1"], &[("BROADCAST_SECRET_KEYS", &key)]);
    node.addr();
    for hangups in 1..=2 {
        node.signal("HUP");
        node.log.wait_lines(hangups, &serde_json::json!({"event": "hangup"}));
    }
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(0), "it goes on until it is told to stop");
}

#[test]
fn a_node_whose_terminal_is_closed_says_good_bye() {
    let stays = Node::start("stays", &[], &[]);
    let seed = stays.addr().to_string();
    let node = program(&["node", "--name", "typed", "--bind", "127.0.0.1:0", "--http", "off", "--join", &seed]);
    let words: Vec<_> =
        [node.get_program()].into_iter().chain(node.get_args()).map(|word| word.to_string_lossy()).collect();
    // It gives a command a terminal of its own, which is gone when it is.
    let script = Command::new("script").args(["-qefc", &words.join(" "), "/dev/null"]).stdin(Stdio::piped()).spawn();
    let Ok(child) = script else { return eprintln!("skipped: `script` is not installed; it is of util-linux") };
    let mut terminal = Process::new(child, Arc::default());
    let at = stays.wait_event(0, "joined", "typed");
    terminal.kill();
    stays.wait_event(at, "left", "typed");
    assert_eq!(stays.count("failed"), 0);
}

#[test]
fn keys_that_cannot_be_are_refused_without_showing_them() {
    let key = keygen();
    let refusal = |args: &[&str], env: &[(&str, &str)]| {
        let output = program(&[&["node"], args].concat()).envs(env.iter().copied()).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        text.trim_start_matches("error: ").trim_end().to_owned()
    };
    assert_eq!(
        refusal(&[], &[("BROADCAST_SECRET_KEYS", "hunter2")]),
        "BROADCAST_SECRET_KEYS: key 1 cannot be used: a key is not base64: write its 16, 24 or 32 bytes so; make one with broadcast keygen"
    );
    assert_eq!(
        refusal(&[], &[("BROADCAST_SECRET_KEYS", &format!("{key},aHVudGVyMg=="))]),
        "BROADCAST_SECRET_KEYS: key 2 cannot be used: a key of 7 bytes is not valid: a key is 16, 24 or 32 bytes long, in base64; make one with broadcast keygen"
    );
    let both = refusal(&["--secret-keys-file", "keys"], &[("BROADCAST_SECRET_KEYS", &key)]);
    assert_eq!(
        both,
        "BROADCAST_SECRET_KEYS and BROADCAST_SECRET_KEYS_FILE (--secret-keys-file) are both set: keep one of them"
    );
    let missing = refusal(&["--secret-keys-file", "no/such/file"], &[]);
    assert!(
        missing.starts_with(r#"BROADCAST_SECRET_KEYS_FILE (--secret-keys-file) = "no/such/file": it cannot be read: "#),
        "{missing}"
    );
    let label = "x".repeat(256);
    assert_eq!(
        refusal(&[], &[("BROADCAST_LABEL", &label)]),
        format!(
            "BROADCAST_LABEL (--label) = {:?}… (256 bytes): the label is 256 bytes long: shorten it to 255 bytes",
            &label[..100]
        )
    );
    assert_eq!(
        refusal(&[], &[("BROADCAST_VERIFY_INCOMING", "maybe")]),
        r#"BROADCAST_VERIFY_INCOMING (--verify-incoming) = "maybe": it must be one of: true, false"#
    );
}

#[test]
fn keygen_makes_keys_of_the_length_asked_for() {
    for (bits, len) in [("128", 24), ("192", 32), ("256", 44)] {
        let output = program(&["keygen", "--bits", bits]).output().expect("the program runs");
        let key = String::from_utf8(output.stdout).expect("base64");
        assert_eq!(key.trim_end().len(), len, "{bits}");
        key.trim_end().parse::<broadcast::wire::SecretKey>().expect("a key");
    }
}
