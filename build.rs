//! Tells the program what it is built from, for `broadcast --version`.
//!
//! The commit is the last one that changed the program, so that other commits do not change what is built. It is the value of
//! `BUILD_COMMIT`, which `scripts/image` and `docker/Dockerfile` set, or else what git says. A source archive has none.

use std::{env, path::Path, process::Command};

/// What the program is made of, as in `.dockerignore`.
const SOURCES: [&str; 6] = ["Cargo.lock", "Cargo.toml", "build.rs", "crates", "scenarios", "src"];

fn main() {
    println!("cargo:rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let given = Some(variable("BUILD_COMMIT")).filter(|commit| !commit.is_empty());
    let commit = given.or_else(commit_in_git).filter(|commit| is_plain(commit));
    let version = variable("CARGO_PKG_VERSION");
    println!(
        "cargo:rustc-env=VERSION_AND_COMMIT={}",
        commit.map_or(version.clone(), |commit| format!("{version} ({commit})"))
    );
    let is_static = variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    let linking = if is_static { "static" } else { "dynamic" };
    println!("cargo:rustc-env=BUILD={}, {linking}, {}", variable("TARGET"), variable("PROFILE"));
}

/// The last commit that changed the sources, with `-dirty` if they have changed since.
fn commit_in_git() -> Option<String> {
    // An archive may be unpacked in somebody else's repository.
    if !Path::new(".git").exists() {
        return None;
    }
    // The log of HEAD grows with each commit, and whenever another one is checked out.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    for path in SOURCES.into_iter().chain([&*log]).filter(|path| Path::new(path).exists()) {
        println!("cargo:rerun-if-changed={path}");
    }
    let with_sources = |args: &[&str]| git(&[args, &["--"], &SOURCES].concat());
    let commit = with_sources(&["log", "-1", "--abbrev=12", "--format=%h"])?;
    let changes = with_sources(&["status", "--porcelain"])?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").env("GIT_OPTIONAL_LOCKS", "0").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether it can be printed as it is, on the one line that it gets.
fn is_plain(commit: &str) -> bool {
    !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}
