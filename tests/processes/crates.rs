//! The dependencies of the crates: on each other only downwards, and on little else.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use crate::{documents::help, settings::files_in, support::repository};

/// The packages that a crate depends on, itself included.
fn packages(crate_name: &str, more: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository("."));
    command.args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--package", crate_name]);
    let output = command.args(more).output().expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("names are text");
    names.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// The folders of our libraries. One folder of `crates` has a stand-in for somebody else's.
fn libraries() -> Vec<PathBuf> {
    let entries = fs::read_dir(repository("crates")).expect("the folder is there");
    let folders = entries.map(|entry| entry.expect("it can be read").path());
    folders.filter(|folder| folder.join("Cargo.toml").is_file() && !folder.ends_with("base2histogram")).collect()
}

/// Programs that embed the library get few other packages.
#[test]
fn the_library_brings_in_little() {
    for (more, most) in [(&["--no-default-features"][..], 50), (&[], 64)] {
        let packages = packages("broadcast-gossip", more);
        assert!(packages.len() <= most, "{more:?}: {} packages, not {most}: {packages:#?}", packages.len());
    }
}

#[test]
fn crates_know_those_below_them_only() {
    let all = [
        "broadcast-wire",
        "broadcast-gossip",
        "broadcast-session",
        "broadcast-gateway",
        "broadcast-ledger",
        "broadcast-store",
        "broadcast-lock",
        "broadcast-etcd",
        "broadcast-node",
    ];
    for folder in libraries() {
        let name = format!("broadcast-{}", folder.file_name().expect("it has a name").to_string_lossy());
        assert!(all.contains(&name.as_str()), "{name} is not in this list");
    }
    for (at, name) in all.iter().enumerate() {
        let packages = packages(name, &[]);
        let ours: Vec<_> =
            packages.iter().filter_map(|name| name.split(' ').next()).filter(|name| all.contains(name)).collect();
        let below: BTreeSet<_> = all[..=at].iter().copied().collect();
        assert!(ours.iter().all(|name| below.contains(name)), "{name} depends on {ours:?}");
    }
}

/// The lines of the libraries' files, without comments and tests.
fn lines_of_libraries() -> Vec<(PathBuf, String)> {
    let files = libraries().into_iter().flat_map(|folder| files_in(&folder.join("src")));
    let is_test =
        |file: &PathBuf| file.components().any(|part| part.as_os_str().to_string_lossy().starts_with("tests"));
    let mut all = Vec::new();
    for file in files.filter(|file| !is_test(file)) {
        let text = fs::read_to_string(&file).expect("text");
        let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        all.extend(lines.map(|line| (file.clone(), line.to_owned())));
    }
    assert!(all.len() > 10_000, "{}", all.len());
    all
}

/// Programs that embed a library have no variables or flags. So a library names settings, and the program translates the names.
#[test]
fn libraries_name_settings_and_no_variables() {
    for (file, line) in lines_of_libraries() {
        let names = ["BROADCAST_", "(--"].iter().any(|name| line.contains(name));
        assert!(!names || line.contains("var(--"), "{}: {line}", file.display());
    }
}

/// A library puts names of settings between backquotes. The program knows each of them, so that it can translate it. Notes on
/// former names are about code.
#[test]
fn the_program_knows_the_settings_that_libraries_name() {
    let help = help(&["node", "--help"]);
    // The gateway's own names, and a field that no flag sets.
    let others = ["addr", "origins", "token", "probe_interval"];
    let mut named = BTreeSet::new();
    let lines = lines_of_libraries().into_iter().filter(|(file, _)| file.extension().is_some_and(|end| end == "rs"));
    for (file, line) in lines.filter(|(_, line)| !line.contains("#[deprecated")) {
        for name in line.split('`').skip(1).step_by(2) {
            if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                let flag = format!("\n      --{} <", name.replace('_', "-"));
                let switch = flag.replace(" <", "[");
                let known = help.contains(&flag) || help.contains(&switch) || others.contains(&name);
                assert!(known, "{}: `{name}` in {line}", file.display());
                named.insert(name.to_owned());
            }
        }
    }
    assert!(named.contains("max_members") && named.contains("origins"), "{named:?}");
}

/// `scripts/store-mutants` breaks the store and its locks with these patches. It takes too long for every change, but a patch that
/// does not fit any more shows at once.
#[test]
fn the_mutants_fit_the_code() {
    let mutants = ["store", "lock"].map(|name| files_in(&repository(&format!("crates/{name}/tests/mutants"))));
    for patch in mutants.into_iter().flatten() {
        let mut check = Command::new("git");
        check.current_dir(repository(".")).args(["apply", "--check"]).arg(&patch);
        let Ok(output) = check.output() else { return eprintln!("skipped: there is no `git`: install it") };
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} does not fit any more, make it anew: {problem}", patch.display());
    }
}
