//! Who may do what: tokens, and the scopes that they have.
//!
//! A route declares the scope that a caller needs ([`RequiredScopes`]), one to look and one to change something; there is no
//! route without. A caller shows a token, and has the scopes of that token. Where no token is set, everyone has the
//! [default scopes](Scopes::DEFAULT), which are all but `deploy`: that one must be given by name.
//!
//! [`Access`] is what a server asks. Its tokens can be replaced while the server runs; a request is judged by those
//! that there are when it comes.
//!
//! # What can go wrong
//!
//! - *Somebody measures how long a comparison takes*: each token is compared in a time that does not depend on where it
//!   differs, and with all of them, whichever is right.
//! - *A list without a token*, as an empty file has, would let in everybody or nobody: it is refused.
//! - *A token that two have*: it could not be told who called. It is refused.

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

/// The tokens that callers may show, if they have to. Its clones share them.
#[derive(Clone, Debug, Default)]
pub struct Access(Arc<RwLock<Option<Arc<Tokens>>>>);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    pub(crate) peer: SocketAddr,
    pub(crate) over_tls: bool,
    /// The subject of its certificate, if it has shown one.
    pub(crate) certificate: Option<Arc<str>>,
}

/// Who calls, by what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nobody has to show anything.
    NotRequired,
    /// It had to, and did not.
    Missing,
    /// It shows something that is no token here.
    Unknown,
    /// The name of its token, and the scopes of that.
    Token(Arc<str>, Scopes),
}

impl Access {
    /// Everyone may call who reaches the server.
    #[must_use]
    pub fn open() -> Self {
        Self::default()
    }

    /// Callers have to show one of these.
    #[must_use]
    pub fn with(tokens: Tokens) -> Self {
        Self(Arc::new(RwLock::new(Some(Arc::new(tokens)))))
    }

    /// From now on callers have to show one of these.
    pub fn replace(&self, tokens: Tokens) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tokens));
    }

    /// Whether callers need no token.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tokens().is_none()
    }

    /// Whether this is one of the tokens that callers may show; nothing if they need none.
    #[must_use]
    pub fn knows(&self, token: &str) -> Option<bool> {
        self.tokens().map(|tokens| tokens.find(token).is_some())
    }

    fn tokens(&self) -> Option<Arc<Tokens>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who sends these headers.
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
    /// What it may do, if it may call at all.
    pub(crate) fn scopes(&self) -> Option<Scopes> {
        match self {
            Self::NotRequired => Some(Scopes::DEFAULT),
            Self::Missing | Self::Unknown => None,
            Self::Token(_, scopes) => Some(*scopes),
        }
    }
}
