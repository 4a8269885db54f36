//! Access: who may do what, by tokens and their scopes.
//!
//! Each route declares the scopes that it requires ([`RequiredScopes`]): one to read, and one to change something. A caller
//! shows a token (RFC 6750), and has the scopes of that token. Where no token is set, everybody has the [default
//! scopes](Scopes::DEFAULT): all but `deploy`, which must be given by name.
//!
//! [`Access`] is what a server asks. Its tokens can be replaced while the server runs; a request is judged by the tokens that
//! are there when it comes.
//!
//! # What can go wrong
//!
//! - *Somebody measures how long a comparison takes*: the time to compare a token does not depend on where it differs, and a
//!   token is compared with all of them, whichever is right.
//! - *A list without a token*, as an empty file is, would let in everybody or nobody: it is refused.
//! - *Two names with the same token*: the log could not tell who called. They are refused.

mod scope;
mod token;
mod tokens;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use axum::http::HeaderMap;

pub(crate) use self::tokens::UNAUTHENTICATED_NAMES;
pub use self::{
    scope::{RequiredScopes, Scope, Scopes},
    token::Token,
    tokens::{NamedToken, TokenName, Tokens, TokensError},
};

/// The tokens that callers must show, or none. Clones share them.
///
/// ```
/// use broadcast_gateway::{Access, Tokens};
///
/// let access = Access::open();
/// assert_eq!(access.knows("5pm4MQDKcJcJmNdY"), None, "no token is needed");
/// let tokens = Tokens::parse("ci: read,publish 5pm4MQDKcJcJmNdY").and_then(Tokens::new);
/// access.replace(tokens.expect("one token"));
/// assert_eq!(access.knows("5pm4MQDKcJcJmNdY"), Some(true));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Access(Arc<RwLock<Option<Arc<Tokens>>>>);

/// The connection of a request: who is at its other end.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    pub(crate) peer: SocketAddr,
    pub(crate) over_tls: bool,
    /// The subject of the client's certificate, if it has shown one.
    pub(crate) certificate: Option<Arc<str>>,
}

/// The credentials of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// No token is set, so nobody needs one.
    NotRequired,
    /// The request needs a token, and has none.
    Missing,
    /// The request has a token that the node does not know.
    Unknown,
    /// The request has a token: its name and scopes.
    Token(Arc<str>, Scopes),
}

impl Access {
    /// Without tokens: everybody may call who reaches the server.
    #[must_use]
    pub fn open() -> Self {
        Self::default()
    }

    /// Callers must show one of these tokens.
    #[must_use]
    pub fn with(tokens: Tokens) -> Self {
        Self(Arc::new(RwLock::new(Some(Arc::new(tokens)))))
    }

    /// From now on, callers must show one of these tokens.
    pub fn replace(&self, tokens: Tokens) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tokens));
    }

    /// Whether callers need no token.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tokens().is_none()
    }

    /// Whether this is one of the tokens; `None` if callers need none.
    #[must_use]
    pub fn knows(&self, token: &str) -> Option<bool> {
        self.tokens().map(|tokens| tokens.find(token).is_some())
    }

    fn tokens(&self) -> Option<Arc<Tokens>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The credentials that these headers carry.
    pub(crate) fn credentials(&self, headers: &HeaderMap) -> Credentials {
        let Some(tokens) = self.tokens() else { return Credentials::NotRequired };
        if !headers.contains_key(axum::http::header::AUTHORIZATION) {
            return Credentials::Missing;
        }
        let shown = token::token_in(headers);
        let found = shown.as_deref().and_then(|shown| tokens.find(shown));
        found.map_or(Credentials::Unknown, |token| Credentials::Token(Arc::clone(&token.name.0), token.scopes))
    }
}

impl Credentials {
    /// The scopes of the caller; `None` if it may not call at all.
    pub(crate) fn scopes(&self) -> Option<Scopes> {
        match self {
            Self::NotRequired => Some(Scopes::DEFAULT),
            Self::Missing | Self::Unknown => None,
            Self::Token(_, scopes) => Some(*scopes),
        }
    }
}
