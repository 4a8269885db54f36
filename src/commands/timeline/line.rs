//! Parses lines of the log, as text or as JSON, with whatever was put before them on the way.
//!
//! Docker Compose puts the container's name before each line, and `docker compose logs -t` a time; `kubectl logs --prefix`
//! puts the pod there, and the journal a date. All of that is skipped, since a line of the log begins with its time and its
//! level, or it is a JSON object. Colours are removed. Only a line of `broadcast demo` has its node's name before the time:
//! `node1  | `.

use std::{borrow::Cow, time::SystemTime};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::entry::{Entry, EntryKind, MessageText, name};

/// How many words before the line are skipped.
const PREFIX_WORDS: usize = 16;
/// How many places are tried as the end of a key.
const MAX_KEY_ENDS: usize = 64;

/// How a JSON line begins.
const OBJECT: &str = "{\"timestamp\":";
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
const SEND: &str = " send broadcast msg: key=";
const RECEIVED: &str = " received broadcast msg: key=";
/// What every node logs when it starts.
const STARTS: [&str; 2] = [" listening on ", " broadcast nodes = "];
const VALUE: &str = " value=";

/// What a line is about.
#[derive(Debug)]
pub(super) enum LogLine {
    /// An entry to draw.
    Entry(Entry),
    /// There is a node of this name.
    Node(String),
}

/// Parses a line; nothing, if it is about something else.
pub(super) fn read(line: &str) -> Option<LogLine> {
    let line = without_colours(line.trim_end());
    match line.find(OBJECT) {
        // A text line may have such an object as well, as the value of a message.
        Some(start) if behind_the_level(&line[..start]).is_none() => json(&line[start..]),
        _ => text(&line),
    }
}

#[derive(Deserialize)]
struct LogRecord<'a> {
    timestamp: Cow<'a, str>,
    node: Cow<'a, str>,
    event: Cow<'a, str>,
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    id: Option<Cow<'a, str>>,
    from: Option<Cow<'a, str>>,
}

fn json(line: &str) -> Option<LogLine> {
    let record: LogRecord = serde_json::from_str(line).ok()?;
    let kind = match &*record.event {
        "send" => EntryKind::Sent,
        "received" => EntryKind::Received,
        "listening" | "nodes" => return Some(LogLine::Node(name(&record.node))),
        _ => return None,
    };
    let message = MessageText::new(&record.key?, record.value?.get());
    let entry = Entry::new(&record.node, kind, message, time(&record.timestamp)?);
    Some(LogLine::Entry(entry.of(record.from.as_deref(), record.id.as_deref())))
}

fn text(line: &str) -> Option<LogLine> {
    let (before, time, text) = behind_the_level(line)?;
    let text = with_name(before, text);
    let find = |words: &str| text.find(words);
    let starts = STARTS.iter().filter_map(|words| find(words)).min();
    let event = [(find(SEND), SEND, EntryKind::Sent), (find(RECEIVED), RECEIVED, EntryKind::Received)]
        .into_iter()
        .filter_map(|(at, words, kind)| Some((at?, words, kind)))
        .min_by_key(|(at, ..)| *at);
    match (event, starts) {
        (Some((at, words, kind)), starts) if starts.is_none_or(|starts| at < starts) => {
            let (key, value) = key_and_value(&text[at + words.len()..])?;
            Some(LogLine::Entry(Entry::new(&text[..at], kind, MessageText::new(key, value), time)))
        }
        (_, Some(starts)) => Some(LogLine::Node(name(&text[..starts]))),
        (_, None) => None,
    }
}

/// The text after the level, with the node's name first: in a line of the demo, the name comes before the time.
fn with_name<'a>(before: &str, text: &'a str) -> Cow<'a, str> {
    let mut words = [SEND, RECEIVED].into_iter().chain(STARTS);
    match before.trim_end().strip_suffix('|') {
        Some(prefixes) if words.any(|words| text.starts_with(words.trim_start())) => {
            let name = prefixes.rsplit('|').next().unwrap_or_default().trim();
            format!("{name} {text}").into()
        }
        _ => text.into(),
    }
}

/// Splits a line into what comes before its time, the time, and what comes after the level.
fn behind_the_level(line: &str) -> Option<(&str, u64, &str)> {
    let mut rest = line.trim_start();
    for _ in 0..=PREFIX_WORDS {
        let (word, behind) = rest.split_once(' ')?;
        let behind = behind.trim_start();
        if let Some(time) = time(word)
            && let Some((level, text)) = behind.split_once(' ')
            && LEVELS.contains(&level)
        {
            return Some((&line[..line.len() - rest.len()], time, text));
        }
        rest = behind;
    }
    None
}

/// Splits key and value. A key may contain anything, and a value is JSON: it begins at the first place after which everything
/// is JSON.
fn key_and_value(text: &str) -> Option<(&str, &str)> {
    let split = |at: usize| (&text[..at], &text[at + VALUE.len()..]);
    let places = text.match_indices(VALUE).map(|(at, _)| at);
    let is_json = |at: &usize| serde_json::from_str::<&RawValue>(split(*at).1).is_ok();
    // Escaping for the log may have broken the JSON.
    places.clone().take(MAX_KEY_ENDS).find(is_json).or_else(|| places.clone().next()).map(split)
}

/// A time (RFC 3339) in milliseconds since 1970.
pub(super) fn time(text: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis().try_into().ok()
}

/// Removes control sequences, like colours (ECMA-48, 5.4).
fn without_colours(line: &str) -> Cow<'_, str> {
    if !line.contains('\x1b') {
        return line.into();
    }
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            plain.push(c);
        } else if chars.clone().next() == Some('[') {
            chars.next();
            // Skips parameters and intermediate characters up to the final one.
            let _ = chars.by_ref().find(|c| ('\x40'..='\x7e').contains(c));
        }
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Entry {
        match read(line) {
            Some(LogLine::Entry(entry)) => entry,
            other => panic!("{other:?}: {line}"),
        }
    }

    #[test]
    fn a_line_is_read_in_all_its_forms() {
        let text = "2026-11-25T08:03:10.436Z  INFO node2 send broadcast msg: key=I am node2 value=0";
        let json = r#"{"timestamp":"2026-11-25T08:03:10.436Z","level":"INFO","node":"node2","event":"send","message":"send broadcast msg: key=I am node2 value=0","key":"I am node2","value":0,"id":"node2.7.0"}"#;
        let coloured = "\x1b[33mnode2  | \x1b[0m\x1b[2m2026-11-25T08:03:10.436Z\x1b[0m \x1b[32m INFO\x1b[0m node2 send broadcast msg: key=I am node2 value=0";
        for line in [text, json] {
            for before in [
                "",
                "node2-1  | ",
                "node2-1  | 2026-11-25T08:03:10.437123456Z ",
                "\x1b[36mnode2-1  | \x1b[0m",
                "[pod/node2-0/broadcast] ",
                "Nov 25 08:03:10 host broadcast[17]: ",
            ] {
                for after in ["", "\r", "\n"] {
                    let read = entry(&format!("{before}{line}{after}"));
                    let MessageText { key, value, lamport, .. } = &read.message;
                    assert_eq!(
                        (&*read.node, read.kind, &**key, &**value),
                        ("node2", EntryKind::Sent, "I am node2", "0")
                    );
                    assert_eq!((read.time % 100_000, *lamport), (90_436, Some(0)));
                    assert_eq!(read.id.is_some(), line == json);
                }
            }
        }
        let read = entry(coloured);
        assert_eq!((&*read.node, &*read.message.value, read.time % 1000), ("node2", "0", 436));
    }

    #[test]
    fn keys_and_values_may_have_any_words() {
        for (said, key, value) in [
            (r#"a value=b value="x value=1""#, "a value=b", r#""x value=1""#),
            (r#" value={"key": [1, 2]}"#, "", r#"{"key": [1, 2]}"#),
            (r#"{"timestamp":1} value=2"#, r#"{"timestamp":1}"#, "2"),
            (
                r#"k value={"timestamp":"2026-11-25T08:03:10.436Z","node":"x","event":"send","key":"","value":1}"#,
                "k",
                r#"{"timestamp":"2026-11-25T08:03:10.436Z","node":"x","event":"send","key":"","value":1}"#,
            ),
            (r#"k received broadcast msg: key=x value=2"#, "k received broadcast msg: key=x", "2"),
            (r#"k value="\u{85}""#, "k", r#""\u{85}""#),
        ] {
            let read = entry(&format!("2026-11-25T08:03:10.436Z  INFO a b received broadcast msg: key={said}"));
            let MessageText { key: k, value: v, .. } = &read.message;
            assert_eq!((&*read.node, &**k, &**v), ("a b", key, value));
        }
    }

    #[test]
    fn text_and_json_tell_of_the_same_message() {
        let json = entry(
            r#"{"timestamp":"2026-11-25T08:03:10.436Z","level":"INFO","node":"node1","event":"received","message":"","from":"node2","key":"a\nb","value":{"x": 1},"epoch":7,"seq":0,"id":"node2.7.0"}"#,
        );
        let text = entry("2026-11-25T08:03:10.436Z  INFO node3 received broadcast msg: key=a\\nb value={\"x\": 1}");
        assert_eq!(json.message, text.message);
        assert_eq!((json.origin.as_deref(), json.id.is_some()), (Some("node2"), true));
        assert_eq!((text.origin, text.id), (None, None));
    }

    #[test]
    fn what_else_is_logged_is_not_drawn() {
        for line in [
            "",
            "received broadcast msg: key=a value=1",
            "2026-11-25T08:03:10.436Z received broadcast msg: key=a value=1",
            "2026-11-25T08:03:10.436Z  INFO node1 node2 left",
            "2026-11-25T08:03:10.436Z  INFO node1 received broadcast msg: key=a",
            r#"{"timestamp":"2026-11-25T08:03:10.436Z","level":"INFO","node":"node1","event":"left"}"#,
            r#"{"timestamp":"yesterday","level":"INFO","node":"node1","event":"send","key":"k","value":1}"#,
            r#"{"timestamp":"2026-11-25T08:03:10.436Z","node":"node1","event":"send","key":"k""#,
            "\x1b[",
            "\x1b",
        ] {
            assert!(read(line).is_none(), "{line}");
        }
        for line in [
            "node1-1 | 2026-11-25T08:03:10.436Z  INFO node1 listening on 127.0.0.1:7946",
            "2026-11-25T08:03:10.436Z  INFO node1 broadcast nodes = 1",
            r#"{"timestamp":"2026-11-25T08:03:10.436Z","level":"INFO","node":"node1","event":"listening","message":"","addr":"a"}"#,
        ] {
            assert!(matches!(read(line), Some(LogLine::Node(name)) if name == "node1"), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_strange(line in "\\PC{0,40}(\x1b\\[)?[0-9m]{0,3}( INFO | send broadcast msg: key=| value=|\\{\"timestamp\":)?\\PC{0,40}") {
            let _ = read(&line);
            let _ = read(&format!("2026-11-25T08:03:10.436Z  INFO{line}"));
        }
    }
}
