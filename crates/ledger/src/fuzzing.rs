//! What the fuzzer `ledger` in `fuzz/` runs, and what the tests replay of its corpus.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

use crate::LogEntry;

/// Reads the input as the lines of a log: a line written from what was read must read the same.
pub fn ledger(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        let again = match LogEntry::read(line) {
            Some(LogEntry::Sent { value, epoch: None, ref time })
                if !(time.is_empty() || time.starts_with('{') || time.contains(char::is_whitespace)) =>
            {
                format!("{time} n send broadcast msg: key=I am n value={value}")
            }
            // The log's own words in a name are ambiguous.
            Some(LogEntry::Received { value, epoch: None, seq: None, ref from })
                if !from.contains(" broadcast msg: key=") =>
            {
                format!("t n received broadcast msg: key=I am {from} value={value}")
            }
            _ => continue,
        };
        assert_eq!(LogEntry::read(&again), LogEntry::read(line), "{again:?}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        super::replay::replay("ledger", super::ledger);
    }
}
