//! What the fuzzer `timeline` in `fuzz/` runs, and what the ordinary tests replay of what it found.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

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
    #[test]
    fn the_corpus_holds() {
        super::replay::replay("timeline", super::timeline);
    }
}
