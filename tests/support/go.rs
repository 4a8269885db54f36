//! Nodes built on the real memberlist: what is missing for them, and running the program in `tests/interop`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Mutex,
};

use super::{Process, repository, require::answers};

const LIBRARY: &str = "github.com/hashicorp/memberlist";
const SOURCES: [&str; 3] = ["main.go", "label.go", "no_label.go"];

/// A release of memberlist that the program is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 0.5.0, the one in Go's own settings.
    Current,
    /// 0.2.2, which has no labels yet.
    Old,
}

impl Release {
    /// Its number.
    pub fn version(self) -> &'static str {
        match self {
            Self::Current => "0.5.0",
            Self::Old => "0.2.2",
        }
    }

    /// What is missing to build the program with it.
    pub fn missing(self) -> Option<String> {
        if !answers(Command::new(compiler()).arg("version")) {
            return Some(
                "no Go compiler (`go version`): install one (go.dev/doc/install), in PATH or where GOROOT says".into(),
            );
        }
        if self == Self::Old && !has_modules() && old_sources().is_none() {
            return Some(format!(
                "no sources of {LIBRARY} 0.2.2: set MEMBERLIST_0_2_2_GOPATH to a GOPATH that has them (from Debian \
                 bookworm's golang-github-hashicorp-memberlist-dev), or let Go use modules"
            ));
        }
        let listed = self.go(&["list", LIBRARY]);
        (!listed.status.success()).then(|| {
            let error = String::from_utf8_lossy(&listed.stderr);
            let error = error.lines().last().unwrap_or_default();
            format!(
                "Go finds no {LIBRARY} {} (`go list`: {error}): let it reach its module proxy, or have the sources in \
                 GOPATH and GO111MODULE=off (on Debian: golang-github-hashicorp-memberlist-dev, in /usr/share/gocode)",
                self.version()
            )
        })
    }

    /// Starts the program, built when it is needed first. It ends with the test, however that ends: with
    /// its input.
    pub fn node(self, args: &[&str]) -> Process {
        static PROGRAMS: [Mutex<Option<PathBuf>>; 2] = [const { Mutex::new(None) }; 2];
        let mut built = PROGRAMS[self as usize].lock().expect("a build that fails ends every test that needs it");
        let program = built.get_or_insert_with(|| self.build()).clone();
        drop(built);
        Process::spawn(Command::new(program).args(args).stdin(Stdio::piped()))
    }

    fn build(self) -> PathBuf {
        let program = self.folder().join("node");
        let new = self.own("node");
        let tags = format!("-tags=memberlist_{}", self.version().replace('.', "_"));
        let built = self.go(&["build", &tags, "-o", new.to_str().expect("cargo's paths are text"), "."]);
        assert!(built.status.success(), "tests/interop does not build:\n{}", String::from_utf8_lossy(&built.stderr));
        fs::rename(&new, &program).expect("it was built there");
        program
    }

    /// Runs Go in a copy of the program's folder, where it may write its `go.sum`.
    fn go(self, args: &[&str]) -> Output {
        let source = repository("tests/interop");
        let read = |file| fs::read_to_string(source.join(file)).expect("a file of the repository can be read");
        let module = read("go.mod").replace(Self::Current.version(), self.version());
        fs::create_dir_all(self.folder()).expect("cargo's folder can be written to");
        for (file, text) in SOURCES.map(|file| (file, read(file))).into_iter().chain([("go.mod", module)]) {
            // Another run of the tests may be reading it: it is replaced, not overwritten.
            let new = self.own(file);
            fs::write(&new, text).expect("cargo's folder can be written to");
            fs::rename(new, self.folder().join(file)).expect("it was written there");
        }
        let flags = format!("{} -mod=mod", std::env::var("GOFLAGS").unwrap_or_default());
        let mut command = Command::new(compiler());
        command.args(args).current_dir(self.folder()).env("GOFLAGS", flags).stdin(Stdio::null());
        if let (Self::Old, Some(sources)) = (self, old_sources()) {
            command.env("GOPATH", sources).env("GO111MODULE", "off");
        }
        command.output().expect("it answers")
    }

    /// Where this run of the tests may write what is to become such a file.
    fn own(self, file: &str) -> PathBuf {
        self.folder().join(format!("{file}.{}", std::process::id()))
    }

    fn folder(self) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-{}", self.version()))
    }
}

fn old_sources() -> Option<std::ffi::OsString> {
    std::env::var_os("MEMBERLIST_0_2_2_GOPATH")
}

fn has_modules() -> bool {
    std::env::var("GO111MODULE").as_deref() != Ok("off")
}

/// Go's own program: in GOROOT if that is set, else in PATH.
fn compiler() -> PathBuf {
    let in_root = std::env::var_os("GOROOT").map(|root| Path::new(&root).join("bin/go"));
    in_root.filter(|go| go.exists()).unwrap_or_else(|| "go".into())
}
