//! What the fuzzers in `fuzz/` run, and what the ordinary tests replay of what they found.
//!
//! Each target takes any bytes and panics if a promise is broken. The targets are here, behind a feature,
//! and not in `fuzz/`, so that they can reach what is private, and that `cargo test` replays the corpora
//! in `fuzz/corpus/` without anything that a fuzzer needs. How to add one is told in `fuzz/README.md`.

mod node;
mod text;
mod wire;

pub use self::{
    node::{node, session},
    text::text,
    wire::{lzw, packet, sealed, stream},
};
pub use crate::{
    dissemination::fuzzing::{control, payload},
    serf::fuzzing::serf,
};

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        /// Every target, by the name that its corpus and its fuzzer have.
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name)),+];
    };
}

targets![packet, sealed, serf, stream, lzw, control, payload, text, node, session];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::PathBuf};

    use super::TARGETS;

    /// Those of other crates, which replay their corpora themselves.
    const ELSEWHERE: [&str; 6] = ["etcd", "http", "frames", "handshake", "ledger", "timeline"];

    fn fuzz() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz"].iter().collect()
    }

    #[test]
    fn the_corpora_hold() {
        for (name, target) in TARGETS {
            let folder = fuzz().join("corpus").join(name);
            let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let mut replayed = 0;
            for file in files {
                let path = file.expect("a folder that could be opened can be read").path();
                let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                if let Err(panic) = std::panic::catch_unwind(|| target(&input)) {
                    eprintln!("this was {}", path.display());
                    std::panic::resume_unwind(panic);
                }
                replayed += 1;
            }
            assert!(replayed > 0, "{} is empty: fuzz/README.md tells how it is filled", folder.display());
        }
    }

    #[test]
    fn every_target_has_a_fuzzer_and_every_corpus_a_target() {
        let names = TARGETS.iter().map(|(name, _)| *name).chain(ELSEWHERE);
        let names: BTreeSet<_> = names.map(str::to_owned).collect();
        let entries = |folder: &str| -> BTreeSet<String> {
            let files = fs::read_dir(fuzz().join(folder)).unwrap_or_else(|error| panic!("fuzz/{folder}: {error}"));
            let name = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
            files.map(|file| name(file.unwrap().path()).expect("names are text")).collect()
        };
        assert_eq!(entries("fuzz_targets"), names);
        assert_eq!(entries("corpus"), names);
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for name in names {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
        }
    }
}
