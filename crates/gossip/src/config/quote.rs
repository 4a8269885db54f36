//! What somebody has given, as errors repeat it.

/// How many letters of a text are repeated.
const LONGEST: usize = 100;

/// A text as errors show it: between quotation marks, with what cannot be seen written as in a Rust string; of more than
/// 100 letters only the first 100, and how many bytes the text has.
///
/// ```
/// use broadcast::config::quote;
///
/// assert_eq!(quote("a\tb"), r#""a\tb""#);
/// assert!(quote(&"a".repeat(100_000)).ends_with("aaa\"… (100000 bytes)"));
/// ```
#[must_use]
pub fn quote(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_letters_and_told_with_its_length() {
        assert_eq!(quote(""), r#""""#);
        assert_eq!(quote(&"é".repeat(100)), format!("{:?}", "é".repeat(100)));
        assert_eq!(quote(&"é".repeat(101)), format!("{:?}… (202 bytes)", "é".repeat(100)));
        assert_eq!(quote("a\n\u{1b}\u{202e}\""), r#""a\n\u{1b}\u{202e}\"""#);
        // Whatever it is made of, it is shown in a line.
        assert!(quote(&"\u{10ffff}".repeat(1 << 20)).len() < 1100);
    }
}
