//! What the fuzzer `timeline` in `fuzz/` runs, and what the ordinary tests replay of what it found.

use super::line::{Line, read};

/// What of a line is kept, of each text, in bytes: the longest, and the sign that it is cut.
const MOST: usize = 512 + '…'.len_utf8();

/// The lines of a log, and of what is put before them: whatever they say, what is kept is short and safe to print.
pub(super) fn timeline(data: &[u8]) {
    for line in String::from_utf8_lossy(data).split('\n') {
        let texts = match read(line) {
            None => continue,
            Some(Line::Node(name)) => vec![name],
            Some(Line::Entry(entry)) => {
                let texts = [entry.node, entry.message.key, entry.message.value];
                texts.into_iter().chain(entry.origin).collect()
            }
        };
        for text in texts {
            assert!(text.len() <= MOST, "{} bytes", text.len());
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn the_corpus_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/timeline");
        let files: Vec<_> =
            fs::read_dir(&folder).expect("the corpus").map(|file| file.expect("a file").path()).collect();
        assert!(!files.is_empty(), "{} is empty", folder.display());
        for file in files {
            eprintln!("{}", file.display());
            super::timeline(&fs::read(file).expect("it can be read"));
        }
    }
}
