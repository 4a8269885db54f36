//! Escapes text that others chose, so that it is safe to print: nothing in it moves the cursor, reorders a line, or is
//! invisible. So two names that look the same are the same.
//!
//! Every such text is escaped before it is printed or logged, as text ([`escaped`]) or as JSON ([`escaped_json`]).

use std::{fmt::Write as _, path::Path};

/// Ranges of characters that are invisible, or change how those around them look: Unicode's Bidi_Control, Zl, Zp and
/// Default_Ignorable_Code_Point (DerivedCoreProperties, Unicode 16), and some noncharacters.
const HIDDEN: [(char, char); 19] = [
    ('\u{00ad}', '\u{00ad}'),
    ('\u{034f}', '\u{034f}'),
    ('\u{061c}', '\u{061c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
    ('\u{fdd0}', '\u{fdef}'),
    ('\u{2fffe}', '\u{2ffff}'),
];

fn is_hidden(c: char) -> bool {
    // Most text is ASCII.
    !c.is_ascii() && HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Adds `text` to `line`, with unsafe characters written as in a Rust string: `\u{202e}`.
pub(crate) fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() || is_hidden(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

/// The text with unsafe characters written as in a Rust string.
pub(crate) fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    escape(&mut line, text);
    line
}

/// Input as errors repeat it: escaped, in quotation marks, and only its beginning if it is long.
pub(crate) fn quote(text: &str) -> String {
    escaped(&broadcast::config::quote(text))
}

/// A path, escaped, without quotation marks.
pub(crate) fn path(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

/// JSON with unsafe characters written as `\u202e`. They can only be in strings, where that means the same.
pub(crate) fn escaped_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if (c.is_control() && !c.is_ascii()) || c == '\u{7f}' || is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_shown() {
        for c in ['\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{200b}', '\u{2028}', '\u{feff}', '\u{e0041}', '\u{ad}'] {
            let text = escaped(&format!("node{c}1"));
            assert!(text.starts_with("node\\") && text.is_ascii(), "{text}");
        }
        assert_eq!(escaped("ein Gruß, 日本"), "ein Gruß, 日本");
    }

    #[test]
    fn what_was_given_is_repeated_in_part_and_in_plain_sight() {
        assert_eq!(quote("a\u{1b}[2J\u{3164}b"), r#""a\u{1b}[2J\u{3164}b""#);
        let long = quote(&"\u{3164}".repeat(100_000));
        assert!(long.ends_with("\\u{3164}\"… (300000 bytes)") && long.len() < 1000, "{long}");
    }

    #[test]
    fn json_stays_the_same_json() {
        let text = "a\u{1b}\u{7f}\u{9b}\u{202e}\u{200d}\u{e0041}Gruß\n";
        let json = serde_json::json!({ text: [text] });
        let shown = escaped_json(&json.to_string());
        assert!(shown.chars().all(|c| !c.is_control() && !is_hidden(c)), "{shown}");
        assert!(shown.contains("\\udb40\\udc41") && shown.contains("Gruß"), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), json);
        // The lines of a report stay lines.
        assert_eq!(escaped_json("{\n  \"a\": 1\n}"), "{\n  \"a\": 1\n}");
    }
}
