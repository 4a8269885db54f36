//! Being a member of a serf cluster.

use std::collections::BTreeMap;

use super::ConfigError;
use crate::wire::{
    TAGS, limits,
    msgpack::{put_large_map, put_str},
};

/// What a node of a serf cluster says of itself: names and their values.
pub type Tags = BTreeMap<String, String>;

/// A node's place in a cluster of [serf](https://github.com/hashicorp/serf) agents. All nodes of a cluster
/// have one, or none.
///
/// ```
/// use broadcast::{Config, Serf};
///
/// let serf = Serf { tags: [("role".into(), "web".into())].into() };
/// let config = Config::new("node1").serf(serf);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serf {
    /// What agents list beside the node's name. All names and values together may take
    /// [`limits::META`](crate::wire::limits::META) bytes, with two to six more for each tag.
    pub tags: Tags,
}

impl Serf {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let size = self.meta().len();
        if size > limits::META { Err(ConfigError::TagsTooLong { size }) } else { Ok(()) }
    }

    /// The tags as metadata.
    pub(crate) fn meta(&self) -> Vec<u8> {
        let mut meta = vec![TAGS];
        put_large_map(&mut meta, self.tags.len());
        for (name, value) in &self.tags {
            put_str(&mut meta, name.as_bytes());
            put_str(&mut meta, value.as_bytes());
        }
        meta
    }
}

/// Reads `role=web,zone=a`.
pub fn parse_tags(text: &str) -> Result<Tags, ConfigError> {
    let refuse = |problem| ConfigError::Tags { value: text.into(), problem };
    let mut tags = Tags::new();
    for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
        let (name, value) = tag.split_once('=').ok_or_else(|| refuse("write NAME=VALUE, with commas between them"))?;
        if name.is_empty() {
            return Err(refuse("a tag has no name; write NAME=VALUE"));
        }
        if tags.insert(name.into(), value.into()).is_some() {
            return Err(refuse("a tag is given twice; leave one out"));
        }
    }
    Serf { tags: tags.clone() }.validate()?;
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_encoded_as_serf_does() {
        let meta = |text| Serf { tags: parse_tags(text).expect("tags") }.meta();
        assert_eq!(meta("role=web"), b"\xff\x81\xa4role\xa3web");
        assert_eq!(meta(""), b"\xff\x80");
        assert_eq!(meta(" b=1=2 ,a=,"), b"\xff\x82\xa1a\xa0\xa1b\xa31=2");
    }

    #[test]
    fn what_are_no_tags_is_refused() {
        let refused = |text: &str| parse_tags(text).expect_err("these are no tags").to_string();
        assert_eq!(refused("role"), r#""role" are not valid tags: write NAME=VALUE, with commas between them"#);
        assert!(refused("=web").contains("has no name"));
        assert!(refused("a=1,a=2").contains("twice"));
        assert!(parse_tags(&format!("a={}", "x".repeat(505))).is_ok());
        assert!(refused(&format!("a={}", "x".repeat(506))).starts_with("the tags take 513 bytes"));
    }
}
