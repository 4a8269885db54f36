//! Replays a fuzzer's corpus in the ordinary tests. Each crate that has targets includes this file: none of them depends on
//! another for its tests alone.

use std::{fs, panic, path::Path};

/// Runs a target with each file of its corpus. Names the file with which it panics.
pub(super) fn replay(target: &str, run: fn(&[u8])) {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpora = package.ancestors().map(|folder| folder.join("fuzz/corpus")).find(|folder| folder.is_dir());
    let corpus = corpora.expect("every package is in the repository").join(target);
    let files = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut replayed = 0;
    for file in files {
        let path = file.expect("a folder that could be opened can be read").path();
        let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if let Err(panic) = panic::catch_unwind(|| run(&input)) {
            eprintln!("this was {}", path.display());
            panic::resume_unwind(panic);
        }
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty: fuzz/README.md tells how it is filled", corpus.display());
}
