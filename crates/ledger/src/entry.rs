//! The lines of a node's log that concern messages.

use serde_json::Value;

/// The prefix of the keys of the demo's messages; the sender's name follows.
const KEY: &str = "I am ";

/// A line of a node's log that concerns messages.
///
/// ```
/// use broadcast_ledger::LogEntry;
///
/// let line = "2026-11-24T21:26:42.093Z  INFO a send broadcast msg: key=I am a value=7";
/// let time = "2026-11-24T21:26:42.093Z".to_owned();
/// assert_eq!(LogEntry::read(line), Some(LogEntry::Sent { value: 7, epoch: None, time }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// The node listens: a life of it begins.
    Started,
    /// The node sent a message.
    Sent {
        /// The message's value.
        value: u64,
        /// The epoch of the node's life, where the log has it.
        epoch: Option<u64>,
        /// When, in the log's format: RFC 3339 in UTC, with milliseconds.
        time: String,
    },
    /// The node received a message.
    Received {
        /// The sender.
        from: String,
        /// The message's value.
        value: u64,
        /// The epoch of the sender's life, where the log has it.
        epoch: Option<u64>,
        /// The message's number in that epoch, from 0, where the log has it.
        seq: Option<u64>,
    },
    /// The node was told that it has missed messages. Only JSON logs have this.
    Missed {
        /// The sender.
        from: String,
        /// The epoch of the sender's life.
        epoch: u64,
        /// The number of the first one.
        first: u64,
        /// How many there are.
        count: u64,
    },
    /// The log itself says that lines are lost.
    LogLost,
}

impl LogEntry {
    /// Reads a line as `broadcast node` logs it, as text or as JSON. `None` if the line is about something else.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.starts_with('{') { Self::of_json(&serde_json::from_str(line).ok()?) } else { Self::of_text(line) }
    }

    /// Reads a parsed line of a JSON log.
    #[must_use]
    pub fn of_json(line: &Value) -> Option<Self> {
        let text = |field: &str| line[field].as_str().map(str::to_owned);
        let number = |field: &str| line[field].as_u64();
        match line["event"].as_str()? {
            "listening" => Some(Self::Started),
            "send" => {
                line["key"].as_str()?.strip_prefix(KEY)?;
                // NODE.EPOCH.SEQ, and a node's name may have dots in it.
                let epoch = line["id"].as_str().and_then(|id| id.rsplit('.').nth(1)?.parse().ok());
                Some(Self::Sent { value: number("value")?, epoch, time: text("timestamp")? })
            }
            "received" => {
                let from = text("from")?;
                let is_of_demo = line["key"].as_str()?.strip_prefix(KEY)? == from;
                let heard =
                    Self::Received { from, value: number("value")?, epoch: number("epoch"), seq: number("seq") };
                is_of_demo.then_some(heard)
            }
            "missed" => Some(Self::Missed {
                from: text("origin")?,
                epoch: number("epoch")?,
                first: number("first")?,
                count: number("count")?,
            }),
            "lagged" | "log_lost" => Some(Self::LogLost),
            _ => None,
        }
    }

    fn of_text(line: &str) -> Option<Self> {
        const STARTED: &str = " listening on ";
        const SENT: &str = " send broadcast msg: key=";
        const RECEIVED: &str = " received broadcast msg: key=";
        // The first match: what others have chosen comes later in the line, and may contain the same words.
        let (at, words) =
            [STARTED, SENT, RECEIVED].into_iter().filter_map(|words| Some((line.find(words)?, words))).min()?;
        if words == STARTED {
            return Some(Self::Started);
        }
        let (from, value) = line[at + words.len()..].strip_prefix(KEY)?.rsplit_once(" value=")?;
        let value = value.parse().ok()?;
        if words == RECEIVED {
            return Some(Self::Received { from: from.to_owned(), value, epoch: None, seq: None });
        }
        let (time, _) = line.split_once(' ')?;
        Some(Self::Sent { value, epoch: None, time: time.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_are_read() {
        let time = "2026-11-24T21:26:42.093Z";
        let sent = |epoch| Some(LogEntry::Sent { value: 7, epoch, time: time.into() });
        assert_eq!(LogEntry::read(&format!("{time}  INFO a send broadcast msg: key=I am a value=7")), sent(None));
        assert_eq!(
            LogEntry::read(&format!(
                r#"{{"timestamp":"{time}","level":"INFO","node":"a","event":"send","key":"I am a","value":7,"id":"a.b.9.0"}}"#
            )),
            sent(Some(9))
        );
        let heard = |epoch, seq| Some(LogEntry::Received { from: "a b".into(), value: 7, epoch, seq });
        assert_eq!(
            LogEntry::read(&format!("{time}  INFO c received broadcast msg: key=I am a b value=7\n")),
            heard(None, None)
        );
        assert_eq!(
            LogEntry::read(r#"{"event":"received","from":"a b","key":"I am a b","value":7,"epoch":9,"seq":0}"#),
            heard(Some(9), Some(0))
        );
        assert_eq!(LogEntry::read(&format!("{time}  INFO a listening on 127.0.0.1:7946")), Some(LogEntry::Started));
        assert_eq!(LogEntry::read(r#"{"event":"log_lost","count":3}"#), Some(LogEntry::LogLost));
    }

    #[test]
    fn what_others_publish_is_of_no_use() {
        for line in [
            "",
            "2026-11-24T21:26:42.093Z  INFO a b joined",
            "2026-11-24T21:26:42.093Z  INFO a received broadcast msg: key=I am b value=\"7\"",
            "2026-11-24T21:26:42.093Z  INFO a received broadcast msg: key= listening on 1 value=7",
            r#"{"event":"received","from":"b","key":"I am a","value":7,"epoch":9,"seq":0}"#,
            r#"{"event":"received","from":"b","key":"I am b","value":"7","epoch":9,"seq":0}"#,
            r#"{"event":"joined","member":"b"}"#,
            "{",
        ] {
            assert_eq!(LogEntry::read(line), None, "{line}");
        }
    }
}
