//! The image under test, and the docker command line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, id},
    sync::LazyLock,
    time::Duration,
};

use super::{Process, repository, wait_every};

/// The variable that names an image to test; else one is made, of a binary of this checkout.
const IMAGE_VARIABLE: &str = "BROADCAST_TESTS_IMAGE";

/// The image under test, with its tag: of this process alone, since several may test at a time, each what it
/// was built from.
pub static IMAGE: LazyLock<String> = LazyLock::new(|| {
    std::env::var(IMAGE_VARIABLE).unwrap_or_else(|_| {
        // The quick profile: what is tested here is how nodes live in containers, not their size or speed.
        success(Command::new(repository("scripts/image")).args(["--profile", "dev", "--tag", &own_image()]));
        own_image()
    })
});

/// The name of an image that this process makes.
fn own_image() -> String {
    format!("broadcast:test-{}", id())
}

/// The program that is in the image. It is static, and so runs on this host too.
pub static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let container = docker(&["create", &IMAGE]);
    docker(&["cp", &format!("{container}:/broadcast"), &program_copy().display().to_string()]);
    docker(&["rm", &container]);
    program_copy()
});

/// Where this process puts the program that it copies out of the image.
fn program_copy() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("broadcast-{}", id()))
}

/// Removes the copy of the program, and the image, if it was made here.
pub fn clean_up() {
    let _ = fs::remove_file(program_copy());
    // There may be none, where all tests were skipped.
    let _ = Command::new("docker").args(["image", "rm", &own_image()]).output();
}

/// Runs `docker`, which must succeed, and gives what it prints.
#[track_caller]
pub fn docker(args: &[&str]) -> String {
    success(Command::new("docker").args(args))
}

/// What containers log, by the names that their nodes have given themselves. `docker` gives the command line of the
/// engine that runs them.
pub fn follow<'a>(
    docker: impl Fn() -> Command,
    containers: impl IntoIterator<Item = &'a String>,
) -> BTreeMap<String, Process> {
    let name = |container: &String| {
        let process = Process::spawn(docker().args(["logs", "--follow", container]));
        let name = process.log.wait("a first line", |lines| lines.first()?["node"].as_str().map(str::to_owned));
        (name, process)
    };
    containers.into_iter().map(name).collect()
}

/// Runs a command, which must succeed, and gives what it prints.
#[track_caller]
pub fn success(command: &mut Command) -> String {
    let output = command.output().expect("it was found before");
    printed(command, &output)
}

/// What a command printed that must have succeeded.
#[track_caller]
pub fn printed(command: &Command, Output { status, stdout, stderr }: &Output) -> String {
    let text = String::from_utf8_lossy(stdout).trim().to_owned();
    assert!(status.success(), "{command:?} ended with {status}\n{text}\n{}", String::from_utf8_lossy(stderr));
    text
}

/// Asks again and again until the answer is the one waited for.
#[track_caller]
pub fn wait_until(what: &str, ask: impl FnMut() -> Result<(), String>) {
    wait_every(Duration::from_millis(100), what, ask);
}
