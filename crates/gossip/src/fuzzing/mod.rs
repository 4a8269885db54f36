//! The fuzz targets that `fuzz/` runs, and whose corpora the tests replay.
//!
//! Each target takes any bytes and panics if a property does not hold. The targets are here, behind a feature, and not in
//! `fuzz/`, so that they can use private items, and that `cargo test` replays `fuzz/corpus/` without a fuzzer. `fuzz/README.md`
//! explains how to add one.

mod node;
#[cfg(test)]
#[path = "../../../../fuzz/replay.rs"]
mod replay;
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

    use super::{TARGETS, replay::replay};

    /// Targets of other crates, which replay their corpora themselves.
    const ELSEWHERE: [&str; 7] = ["authority", "etcd", "http", "frames", "handshake", "ledger", "timeline"];

    fn fuzz() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz"].iter().collect()
    }

    #[test]
    fn the_corpora_hold() {
        for (name, target) in TARGETS {
            replay(name, *target);
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
