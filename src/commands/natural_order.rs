//! Sorts names as people do: node2 before node10.

/// A key to sort names by: text and numbers in turn, each number with its digits, so that `01` and `1` differ.
pub(super) fn natural_key(name: &str) -> Vec<(String, u64, usize)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let words = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, behind) = rest.split_at(words);
        let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
        let (number, behind) = behind.split_at(digits);
        let value = if number.is_empty() { 0 } else { number.parse().unwrap_or(u64::MAX) };
        parts.push((text.to_owned(), value, number.len()));
        rest = behind;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_their_numbers() {
        let mut names = ["sender-1", "node10", "node2", "sender-10", "a", "sender-2", "node"];
        names.sort_by_cached_key(|name| natural_key(name));
        assert_eq!(names, ["a", "node", "node2", "node10", "sender-1", "sender-2", "sender-10"]);
    }
}
