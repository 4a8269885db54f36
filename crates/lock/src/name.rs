//! Names of locks.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The most bytes of a name.
pub const MAX_NAME_BYTES: usize = 255;

/// The name of a lock, an election or a fence: 1 to 255 bytes of text. It may have parts between `/`, as paths do, but
/// neither begins nor ends with one. The whole name counts: `jobs` and `jobs/nightly` are two locks.
///
/// ```
/// use broadcast_lock::Name;
///
/// assert_eq!(Name::new("jobs/nightly").map(String::from).as_deref(), Ok("jobs/nightly"));
/// assert!(Name::new("jobs/").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty, or too long.
    #[error("the name has {0} bytes; it must have 1 to {MAX_NAME_BYTES}")]
    Length(usize),
    /// It begins or ends with `/`.
    #[error("the name {0:?} begins or ends with /; leave that out")]
    Slash(String),
    /// It has a control character, which can neither be shown nor stand in an environment variable.
    #[error("the name {0:?} has a control character; leave that out")]
    Control(String),
}

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`NameError`].
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(NameError::Length(name.len()));
        }
        if name.starts_with('/') || name.ends_with('/') {
            return Err(NameError::Slash(name.into()));
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::Control(name.into()));
        }
        Ok(Self(name.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first of all names in their order, to look from there on. It is no name itself.
    pub(crate) fn lowest() -> Self {
        Self("".into())
    }

    /// Where a list of names with this prefix begins. It may be no name itself.
    pub(crate) fn prefix(prefix: &str) -> Self {
        Self(prefix.into())
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(&name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().into()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
