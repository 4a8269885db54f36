//! What the fuzz target `timeline` in `fuzz/` runs, and a test that replays its corpus.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

use super::line::{LogLine, read};

/// The longest text that is kept of a line, in bytes, with an ellipsis.
const MAX_TEXT: usize = 512 + '…'.len_utf8();

/// Whatever the lines of a log say, what is kept of them is short and safe to print.
pub(super) fn timeline(data: &[u8]) {
    for line in String::from_utf8_lossy(data).split('\n') {
        let texts = match read(line) {
            None => continue,
            Some(LogLine::Node(name)) => vec![name],
            Some(LogLine::Entry(entry)) => {
                let texts = [entry.node, entry.message.key, entry.message.value];
                texts.into_iter().chain(entry.origin).collect()
            }
        };
        for text in texts {
            assert!(text.len() <= MAX_TEXT, "{} bytes", text.len());
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
