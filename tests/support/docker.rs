//! The image under test, and the docker command line.

use std::{
    path::Path,
    process::{Command, Output, id},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use super::LIMIT;

/// The image's tag, of this process alone: several may test at a time, each what it was built from.
pub static TAG: LazyLock<String> = LazyLock::new(|| {
    let tag = format!("test-{}", id());
    // The quick profile: what is tested here is how nodes live in containers, not their size or speed.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/image");
    success(Command::new(script).args(["--profile", "dev", "--tag", &format!("broadcast:{tag}")]));
    tag
});

/// Removes the image, if it was made.
pub fn remove_image() {
    // There may be none, where all tests were skipped.
    let _ = Command::new("docker").args(["image", "rm", &format!("broadcast:test-{}", id())]).output();
}

/// Runs `docker`, which must succeed, and gives what it prints.
#[track_caller]
pub fn docker(args: &[&str]) -> String {
    success(Command::new("docker").args(args))
}

/// Runs a command, which must succeed, and gives what it prints.
#[track_caller]
pub fn success(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it was found before");
    let text = String::from_utf8_lossy(&stdout).trim().to_owned();
    assert!(status.success(), "{command:?} ended with {status}\n{text}\n{}", String::from_utf8_lossy(&stderr));
    text
}

/// Asks again and again until the answer is the one waited for.
#[track_caller]
pub fn wait_until(what: &str, mut ask: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + LIMIT;
    while let Err(answer) = ask() {
        assert!(Instant::now() < deadline, "waiting for {what}: {answer}");
        thread::sleep(Duration::from_millis(100));
    }
}
