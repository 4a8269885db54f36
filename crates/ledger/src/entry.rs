//! What a line of a node's log says of messages.

use serde_json::Value;

/// How the keys of the demo's messages begin; the sender's name follows.
const KEY: &str = "I am ";

/// A line of a node's log that is of use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The node listens: a life begins.
    Began,
    /// It sent a message.
    Sent {
        /// What it sent.
        value: u64,
        /// The number of its life, where the log says so.
        epoch: Option<u64>,
        /// When, as the log has it: RFC 3339 in UTC, with milliseconds.
        time: String,
    },
    /// It received a message.
    Heard {
        /// Who sent it.
        from: String,
        /// What was sent.
        value: u64,
        /// In which of the sender's lives, where the log says so.
        epoch: Option<u64>,
        /// How many messages the sender had sent before in that life, where the log says so.
        seq: Option<u64>,
    },
    /// It was told of messages that it does not get, which only JSON tells apart.
    Missed {
        /// Who sent them.
        from: String,
        /// In which of the sender's lives.
        epoch: u64,
        /// The number of the first one.
        first: u64,
        /// How many there are.
        count: u64,
    },
    /// Its log is not complete: it says so itself.
    LogLost,
}

impl Entry {
    /// Reads a line as `broadcast node` logs it, as text or as JSON. Nothing if it is about something else.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.starts_with('{') { Self::of_json(&serde_json::from_str(line).ok()?) } else { Self::of_text(line) }
    }

    /// The same for a line of a JSON log that has been parsed.
    #[must_use]
    pub fn of_json(line: &Value) -> Option<Self> {
        let text = |field: &str| line[field].as_str().map(str::to_owned);
        let number = |field: &str| line[field].as_u64();
        match line["event"].as_str()? {
            "listening" => Some(Self::Began),
            "send" => {
                line["key"].as_str()?.strip_prefix(KEY)?;
                // NODE.EPOCH.SEQ, and a node's name may have dots in it.
                let epoch = line["id"].as_str().and_then(|id| id.rsplit('.').nth(1)?.parse().ok());
                Some(Self::Sent { value: number("value")?, epoch, time: text("timestamp")? })
            }
            "received" => {
                let from = text("from")?;
                let is_of_demo = line["key"].as_str()?.strip_prefix(KEY)? == from;
                let heard = Self::Heard { from, value: number("value")?, epoch: number("epoch"), seq: number("seq") };
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
        const BEGAN: &str = " listening on ";
        const SENT: &str = " send broadcast msg: key=";
        const HEARD: &str = " received broadcast msg: key=";
        // What others chose comes behind the words of the log, and may be the same words.
        let (at, words) =
            [BEGAN, SENT, HEARD].into_iter().filter_map(|words| Some((line.find(words)?, words))).min()?;
        if words == BEGAN {
            return Some(Self::Began);
        }
        let (from, value) = line[at + words.len()..].strip_prefix(KEY)?.rsplit_once(" value=")?;
        let value = value.parse().ok()?;
        if words == HEARD {
            return Some(Self::Heard { from: from.to_owned(), value, epoch: None, seq: None });
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
        let sent = |epoch| Some(Entry::Sent { value: 7, epoch, time: time.into() });
        assert_eq!(Entry::read(&format!("{time}  INFO a send broadcast msg: key=I am a value=7")), sent(None));
        assert_eq!(
            Entry::read(&format!(
                r#"{{"timestamp":"{time}","level":"INFO","node":"a","event":"send","key":"I am a","value":7,"id":"a.b.9.0"}}"#
            )),
            sent(Some(9))
        );
        let heard = |epoch, seq| Some(Entry::Heard { from: "a b".into(), value: 7, epoch, seq });
        assert_eq!(
            Entry::read(&format!("{time}  INFO c received broadcast msg: key=I am a b value=7\n")),
            heard(None, None)
        );
        assert_eq!(
            Entry::read(r#"{"event":"received","from":"a b","key":"I am a b","value":7,"epoch":9,"seq":0}"#),
            heard(Some(9), Some(0))
        );
        assert_eq!(Entry::read(&format!("{time}  INFO a listening on 127.0.0.1:7946")), Some(Entry::Began));
        assert_eq!(Entry::read(r#"{"event":"log_lost","count":3}"#), Some(Entry::LogLost));
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
            assert_eq!(Entry::read(line), None, "{line}");
        }
    }
}
