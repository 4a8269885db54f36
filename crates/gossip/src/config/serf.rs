//! Membership in a cluster of serf agents.

use std::collections::BTreeMap;

use super::ConfigError;
use crate::wire::{
    TAG_MAGIC_BYTE, limits,
    msgpack::{put_large_map, put_str},
};

/// The tags of a node in a serf cluster, by name. [`parse_tags`] reads them.
pub type Tags = BTreeMap<String, String>;

/// Makes a node a member of a cluster of [serf](https://github.com/hashicorp/serf) agents: what it publishes, agents get
/// as user events, and the other way about. All nodes of a cluster have this, or none.
///
/// ```
/// use broadcast::{Config, SerfConfig};
///
/// let serf = SerfConfig { tags: [("role".into(), "web".into())].into() };
/// let config = Config::new("node1").serf(serf);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SerfConfig {
    /// What agents list beside the node's name; none by default. All names and values together may take
    /// [`limits::META`](crate::wire::limits::META) (512) bytes, with two to six more for each tag.
    ///
    /// They are the node's metadata: each byte is sent to every node, and kept by it.
    pub tags: Tags,
}

impl SerfConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let size = self.meta().len();
        if size > limits::META { Err(ConfigError::TagsTooLong { size }) } else { Ok(()) }
    }

    /// The tags as metadata, in serf's encoding.
    pub(crate) fn meta(&self) -> Vec<u8> {
        let mut meta = vec![TAG_MAGIC_BYTE];
        put_large_map(&mut meta, self.tags.len());
        for (name, value) in &self.tags {
            put_str(&mut meta, name.as_bytes());
            put_str(&mut meta, value.as_bytes());
        }
        meta
    }
}

/// Reads tags: `role=web,zone=a`.
///
/// ```
/// use broadcast::config::parse_tags;
///
/// assert_eq!(parse_tags("role=web,zone=a")?["zone"], "a");
/// # Ok::<(), broadcast::ConfigError>(())
/// ```
///
/// # Errors
///
/// [`ConfigError::Tags`], or [`ConfigError::TagsTooLong`] if they do not fit in the metadata.
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
    SerfConfig { tags: tags.clone() }.validate()?;
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_encoded_as_serf_does() {
        let meta = |text| SerfConfig { tags: parse_tags(text).expect("tags") }.meta();
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
