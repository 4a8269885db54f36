//! What the crates depend on: each other only downwards, and little else.

use std::{collections::BTreeSet, process::Command};

use crate::support::repository;

/// The packages that a crate brings in, itself included.
fn packages(crate_name: &str, more: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository("."));
    command.args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--package", crate_name]);
    let output = command.args(more).output().expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("names are text");
    names.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// Who embeds gossip gets gossip.
#[test]
fn the_library_brings_in_little() {
    for (more, most) in [(&["--no-default-features"][..], 50), (&[], 64)] {
        let packages = packages("broadcast-gossip", more);
        assert!(packages.len() <= most, "{more:?}: {} packages, not {most}: {packages:#?}", packages.len());
    }
}

#[test]
fn crates_know_those_below_them_only() {
    let all = ["broadcast-wire", "broadcast-gossip", "broadcast-gateway", "broadcast-ledger", "broadcast-node"];
    for (at, name) in all.iter().enumerate() {
        let packages = packages(name, &[]);
        let ours: Vec<_> =
            packages.iter().filter_map(|name| name.split(' ').next()).filter(|name| all.contains(name)).collect();
        let below: BTreeSet<_> = all[..=at].iter().copied().collect();
        assert!(ours.iter().all(|name| below.contains(name)), "{name} depends on {ours:?}");
    }
}
