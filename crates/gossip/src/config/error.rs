//! Why a configuration is refused.

use super::{MAX_NETWORKS, MAX_SEEDS, quote};
use crate::wire::limits;

/// A setting has a value that a node cannot run with.
///
/// Texts of errors and events name a setting as this crate does, between backquotes: the method of [`Config`], or the
/// field of [`Tuning`], [`Retention`] or [`ResourceLimits`], as in ``is `max_members` too small?``. A program that has
/// other names for them can put those there.
///
/// [`Config`]: super::Config
/// [`Tuning`]: super::Tuning
/// [`Retention`]: super::Retention
/// [`ResourceLimits`]: super::ResourceLimits
///
/// ```
/// use broadcast::{Config, Profile, Tuning};
///
/// let tuning = Tuning { gossip_nodes: 0, ..Profile::Lan.tuning() };
/// let error = Config::new("node1").tuning(tuning).validate().unwrap_err();
/// assert_eq!(error.to_string(), "`gossip_nodes` = 0 is not valid: it must be between 1 and 1000");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `host` or `host:port`.
    #[error("{} is not host[:port]: {problem}", quote(value))]
    Seed {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// More seeds than a node tries.
    #[error("{count} nodes to join through are too many: name at most {MAX_SEEDS}, any one that runs is enough")]
    TooManySeeds {
        /// How many were given.
        count: usize,
    },
    /// The name cannot be one.
    #[error("{} is not a valid node name: {problem}", quote(name))]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// The metadata does not fit in a message.
    #[error("the metadata is {size} bytes long: shorten it to {} bytes", limits::META)]
    MetaTooLong {
        /// Its length.
        size: usize,
    },
    /// Not the identity of a node.
    #[error("{} is not the id of a node, which has 16 digits in base 16, like 00c0ffee00c0ffee", quote(value))]
    NodeId {
        /// What was given, or the first 64 letters of it.
        value: String,
    },
    /// What a node tells of itself is too much, or cannot be told.
    #[error("what the node tells of itself: {problem}")]
    Info {
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The label does not fit in its header.
    #[error("the label is {size} bytes long: shorten it to {} bytes", limits::LABEL)]
    LabelTooLong {
        /// Its length.
        size: usize,
    },
    /// The tags do not fit in the metadata.
    #[error("the tags take {size} bytes as serf has them: shorten them to {} bytes", limits::META)]
    TagsTooLong {
        /// Their length.
        size: usize,
    },
    /// Not `NAME=VALUE,NAME=VALUE`.
    #[error("{} are not valid tags: {problem}", quote(value))]
    Tags {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// What acknowledgements are to carry is more than they can.
    #[error("{size} bytes are too many for an acknowledgement: give it {} at most", limits::ACK_PAYLOAD)]
    AckPayloadTooLong {
        /// How many were given.
        size: usize,
    },
    /// A number, a size or a duration is out of its range.
    #[error("`{setting}` = {value} is not valid: it must be {allowed}")]
    Range {
        /// The field of `Tuning`, `Retention` or `ResourceLimits`.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// More networks than can be allowed.
    #[error("{count} networks are too many: allow at most {MAX_NETWORKS}, and join neighbouring ones into one")]
    TooManyNetworks {
        /// How many were given.
        count: usize,
    },
    /// Not a network.
    #[error("{} is not a network: {problem}", quote(value))]
    Network {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// Not faults that can be done.
    #[error("{} are not valid faults: {problem}", quote(value))]
    Faults {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
}
