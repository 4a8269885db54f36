//! Nodes built on the real memberlist: what is missing for them, and running the program in
//! `tests/interop`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use super::{Process, require::answers};

const LIBRARY: &str = "github.com/hashicorp/memberlist";

/// What is missing to build the program.
pub fn missing() -> Option<String> {
    if !answers(Command::new(compiler()).arg("version")) {
        return Some(
            "no Go compiler (`go version`): install one (go.dev/doc/install), in PATH or where GOROOT says".into(),
        );
    }
    let listed = go(&["list", LIBRARY]);
    (!listed.status.success()).then(|| {
        let error = String::from_utf8_lossy(&listed.stderr);
        let error = error.lines().last().unwrap_or_default();
        format!(
            "Go finds no {LIBRARY} (`go list`: {error}): let it reach its module proxy, or have the sources in \
             GOPATH and GO111MODULE=off (on Debian: golang-github-hashicorp-memberlist-dev, in /usr/share/gocode)"
        )
    })
}

/// Starts the program, built when it is needed first. It ends with the test, however that ends: with
/// its input.
pub fn node(args: &[&str]) -> Process {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(build);
    Process::spawn(Command::new(program).args(args).stdin(Stdio::piped()))
}

fn build() -> PathBuf {
    let program = folder().join("node");
    let new = own("node");
    let built = go(&["build", "-o", new.to_str().expect("cargo's paths are text"), "."]);
    assert!(built.status.success(), "tests/interop does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    fs::rename(&new, &program).expect("it was built there");
    program
}

/// Runs Go in a copy of the program's folder, where it may write its `go.sum`.
fn go(args: &[&str]) -> Output {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    fs::create_dir_all(folder()).expect("cargo's folder can be written to");
    for file in ["main.go", "go.mod"] {
        // Another run of the tests may be reading it: it is replaced, not overwritten.
        let new = own(file);
        fs::copy(source.join(file), &new).expect("a file of the repository can be copied");
        fs::rename(new, folder().join(file)).expect("it was copied there");
    }
    let flags = format!("{} -mod=mod", std::env::var("GOFLAGS").unwrap_or_default());
    let mut command = Command::new(compiler());
    command.args(args).current_dir(folder()).env("GOFLAGS", flags).stdin(Stdio::null());
    command.output().expect("it answers")
}

/// Where this run of the tests may write what is to become such a file.
fn own(file: &str) -> PathBuf {
    folder().join(format!("{file}.{}", std::process::id()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop")
}

/// Go's own program: in GOROOT if that is set, else in PATH.
fn compiler() -> PathBuf {
    let in_root = std::env::var_os("GOROOT").map(|root| Path::new(&root).join("bin/go"));
    in_root.filter(|go| go.exists()).unwrap_or_else(|| "go".into())
}
