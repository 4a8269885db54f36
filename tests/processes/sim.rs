//! The command `broadcast sim`.

use std::{fs, process::Output};

use crate::support::program;
use serde_json::Value;

const QUICK: &str = "sizes = [5]\nstart = \"acquainted\"\nduration = \"3s\"\n[workload]\npublishers = 2\n";

/// Runs `broadcast sim` on a scenario with some arguments.
fn sim(scenario: &str, args: &[&str]) -> (Output, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("quick.toml");
    fs::write(&file, scenario).expect("a file");
    let file = file.to_str().expect("a path in UTF-8").to_owned();
    let output = program(&["sim", &file]).args(args).output().expect("the program");
    (output, file)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn a_scenario_without_faults_goes_well() {
    let (output, _) = sim(QUICK, &["--seeds", "1..3"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    let table = text(&output.stdout);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..5], ["scenario", "nodes", "runs", "good", "reach"], "{table}");
    assert_eq!(lines[1][..6], ["quick", "5", "3", "3", "100", "%"], "{table}");
}

#[test]
fn another_process_does_the_same_run() {
    let run = || {
        let (output, _) = sim(&format!("{QUICK}[network]\nloss = 0.2\n"), &["--seed", "7", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["good"], true);
        let mut run = report["runs"][0].clone();
        run.as_object_mut().expect("an object").remove("wall_seconds");
        run
    };
    let one = run();
    assert_eq!((&one["seed"], &one["nodes"]), (&7.into(), &5.into()));
    assert!(one["digest"].as_str().is_some_and(|digest| digest.len() == 16), "{one}");
    assert_eq!(one, run());
}

#[test]
fn what_falls_short_is_said_in_a_line_with_the_command_that_repeats_it() {
    let (output, file) = sim(&format!("{QUICK}[expect]\npackets = 0.5\n"), &["--seed", "7"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = text(&output.stderr);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines[0].starts_with("missed: quick, 5 nodes, seed 7: packets is "), "{told}");
    assert!(lines[0].ends_with(", at most 0.5 is wanted"), "{told}");
    assert_eq!(lines[1], format!("  repeat it: broadcast sim {file} --seed 7 --size 5"));
}

#[test]
fn of_two_scenarios_with_one_name_the_one_that_falls_short_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = folder.path().join("quick.toml");
    fs::write(&other, format!("{QUICK}[expect]\npackets = 0.5\n")).expect("a file");
    let other = other.to_str().expect("a path in UTF-8");
    let (output, _) = sim(QUICK, &[other, "--seed", "7"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = text(&output.stderr);
    assert!(told.starts_with(&format!("missed: {other}, 5 nodes, seed 7: packets is ")), "{told}");
    let again = format!("  repeat it: broadcast sim {other} --seed 7 --size 5");
    assert_eq!(told.lines().last(), Some(again.as_str()), "{told}");
}

#[test]
fn random_scenarios_are_told_apart_by_their_numbers() {
    let run = |args: &[&str]| {
        let output = program(&["sim", "--random"]).args(args).output().expect("the program");
        (output.status.code(), text(&output.stdout))
    };
    let (code, one) = run(&["1", "--seed", "5"]);
    assert_eq!(code, Some(0), "{one}");
    assert!(one.starts_with("sizes = [") && one.contains("[workload]"), "{one}");
    // What is printed is a scenario like any other.
    let (again, _) = sim(one.split("scenario  nodes").next().expect("the scenario"), &["--seed", "5"]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let (code, two) = run(&["2", "--seed", "5", "--json"]);
    let report: Value = serde_json::from_str(&two).expect("JSON");
    let seeds: Vec<_> = report["runs"].as_array().expect("runs").iter().map(|run| run["seed"].clone()).collect();
    assert_eq!((seeds, code.is_some()), (vec![5.into(), 6.into()], true));
}

#[test]
fn a_run_to_a_step_shows_the_last_steps() {
    let (output, _) = sim(QUICK, &["--until-step", "100"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = text(&output.stderr);
    assert!(told.lines().last().is_some_and(|line| line.starts_with("step 99, ")), "{told}");
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    for (scenario, args, word) in [
        ("sizes = [5]\nduration = \"1s\"\nloss = 1\n", &[][..], "quick.toml:3: loss = 1: unknown field `loss`"),
        (
            "sizes = [5]\nduration = \"3s\"\n[[fault]]\nkind = \"crash\"\nat = \"5s\"\n",
            &[],
            "quick.toml: fault 1 (crash): at = 5s: it would never happen, as the duration is 3s; give an earlier time",
        ),
        (QUICK, &["--seeds", "5..1"], "--seeds = \"5..1\": a range of seeds goes upwards"),
        (QUICK, &["--size", "0"], "--size = \"0\": it must be from 1 to 20000"),
        (QUICK, &["--size", "1"], "workload.publishers = 2: there are only 1 nodes"),
        (QUICK, &["missing.toml"], "missing.toml: No such file or directory (os error 2); give the path"),
    ] {
        let (output, _) = sim(scenario, args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = text(&output.stderr);
        assert!(told.starts_with("error: ") && told.lines().count() == 1 && told.contains(word), "{told}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_ends_it_with_what_is_done() {
    use std::process::Stdio;

    use crate::support::{signal, wait};

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("long.toml");
    fs::write(&file, QUICK.replace("3s", "1h").replace("[5]", "[50]")).expect("a file");
    let mut child = program(&["sim", file.to_str().expect("a path in UTF-8"), "--seeds", "1..50", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    // Until it has set up its handler, the signal itself would end it.
    let handles_interrupt = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("its status");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("what it catches").trim();
        u64::from_str_radix(caught, 16).expect("a mask") & 0b10 != 0
    };
    wait("it handles the interrupt", handles_interrupt);
    signal(child.id(), "INT");
    wait("it ends", || child.try_wait().expect("its state").is_some());
    let output = child.wait_with_output().expect("its output");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["good"], &report["total"]), (&false.into(), &50.into()));
}
