//! Scopes: what a token allows, and what a route requires.

use std::{fmt, str::FromStr};

use axum::http::Method;

/// A scope: a kind of things that a node can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Read messages, members, metrics and settings.
    Read,
    /// Publish messages.
    Publish,
    /// Change how the node runs: its log, its faults, whether it stays.
    Operate,
    /// Take and release locks.
    Locks,
    /// Read and write the cache.
    Cache,
    /// Change what runs on the cluster. A token has this scope only if it is given by name.
    Deploy,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 6] = [Self::Read, Self::Publish, Self::Operate, Self::Locks, Self::Cache, Self::Deploy];

    /// The scope's name, as files of tokens have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Operate => "operate",
            Self::Locks => "locks",
            Self::Cache => "cache",
            Self::Deploy => "deploy",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is not a scope; the scopes are {all}")
        })
    }
}

/// A set of scopes.
///
/// ```
/// use broadcast_gateway::{Scope, Scopes};
///
/// let scopes = Scopes::NONE.and(Scope::Read).and(Scope::Publish);
/// assert!(scopes.has(Scope::Read) && !scopes.has(Scope::Operate));
/// assert_eq!(scopes.to_string(), "read,publish");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// No scope.
    pub const NONE: Self = Self(0);
    /// The scopes of a token that has no list of its own: all but [`Scope::Deploy`].
    pub const DEFAULT: Self =
        Self(Scope::Read.bit() | Scope::Publish.bit() | Scope::Operate.bit() | Scope::Locks.bit() | Scope::Cache.bit());

    /// These scopes, and one more.
    #[must_use]
    pub const fn and(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether this scope is among them.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Scope::ALL.into_iter().filter(|scope| self.has(*scope)).map(Scope::name).collect();
        f.write_str(&names.join(","))
    }
}

/// The scopes that a route requires of its callers.
///
/// ```
/// use broadcast_gateway::{RequiredScopes, Scope};
///
/// // GET needs `read`, and PUT needs `operate`.
/// const SETTINGS: RequiredScopes = RequiredScopes::read_write(Scope::Read, Scope::Operate);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequiredScopes {
    scopes: Option<(Scope, Scope)>,
    /// Whether no request changes anything, whatever its method is.
    is_read_only: bool,
}

impl RequiredScopes {
    /// None: the route needs no token, and no request changes anything. For health checks.
    pub const NONE: Self = Self { scopes: None, is_read_only: true };

    /// This scope, whatever the method is.
    #[must_use]
    pub const fn scope(scope: Scope) -> Self {
        Self::read_write(scope, scope)
    }

    /// This scope; no request changes anything, although its method may be POST. For queries with a body.
    #[must_use]
    pub const fn read_only(scope: Scope) -> Self {
        Self { scopes: Some((scope, scope)), is_read_only: true }
    }

    /// One scope to read, by `GET` and other safe methods, and another one to change something.
    #[must_use]
    pub const fn read_write(look: Scope, change: Scope) -> Self {
        Self { scopes: Some((look, change)), is_read_only: false }
    }

    /// The scope that a request with this method needs, if any.
    pub(crate) fn of(self, method: &Method) -> Option<Scope> {
        self.scopes.map(|(look, change)| if method.is_safe() { look } else { change })
    }

    /// Whether a request with this method changes nothing.
    pub(crate) fn is_read_only(self, method: &Method) -> bool {
        self.is_read_only || method.is_safe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
            assert!(!Scopes::NONE.has(scope));
            assert_eq!(Scopes::NONE.and(scope).to_string(), scope.name());
        }
        let error = "Read".parse::<Scope>().unwrap_err();
        assert_eq!(error, r#""Read" is not a scope; the scopes are read, publish, operate, locks, cache, deploy"#);
    }

    #[test]
    fn who_may_deploy_is_said_by_name() {
        assert!(!Scopes::DEFAULT.has(Scope::Deploy));
        assert_eq!(Scopes::DEFAULT.to_string(), "read,publish,operate,locks,cache");
        assert_eq!(Scopes::DEFAULT.and(Scope::Deploy).to_string(), "read,publish,operate,locks,cache,deploy");
    }

    #[test]
    fn looking_may_need_another_scope_than_changing() {
        let needs = RequiredScopes::read_write(Scope::Read, Scope::Operate);
        for (method, scope) in [("GET", Scope::Read), ("HEAD", Scope::Read), ("PUT", Scope::Operate)] {
            assert_eq!(needs.of(&method.parse().unwrap()), Some(scope));
        }
        assert_eq!(needs.of(&"BREW".parse().unwrap()), Some(Scope::Operate), "what nobody knows may change something");
        assert_eq!(RequiredScopes::NONE.of(&Method::POST), None);
        assert!(!needs.is_read_only(&Method::PUT) && needs.is_read_only(&Method::GET));
        let asks = RequiredScopes::read_only(Scope::Read);
        assert!(asks.is_read_only(&Method::POST) && asks.of(&Method::POST) == Some(Scope::Read));
    }
}
