//! Tokens, and how a request carries one: as `Authorization: Bearer`, or as the password of HTTP's basic authentication.
//! Browsers ask for the latter, and send it along where a page cannot set headers (RFC 6750, RFC 7617).

use std::{fmt, ops::RangeInclusive, str::FromStr};

use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A token: a secret that callers must know. It is never printed.
///
/// ```
/// let token: broadcast_gateway::Token = "5pm4MQDKcJcJmNdY".parse().expect("it is long enough");
/// assert_eq!(format!("{token:?}"), "Token(…)");
/// ```
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// How many characters a token may have.
    pub const LENGTH: RangeInclusive<usize> = 8..=1024;

    /// Whether this is the same token, in a time that does not depend on where they differ.
    pub(super) fn is(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }

    /// Whether both tokens are the same.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.is(&other.0)
    }

    /// The value of the header `Authorization` that carries it.
    ///
    /// # Panics
    ///
    /// Never: a token has only characters that headers carry.
    #[must_use]
    pub fn bearer(&self) -> HeaderValue {
        let text = Zeroizing::new(format!("Bearer {}", *self.0));
        let mut value = HeaderValue::from_str(&text).expect("a token is of letters that headers carry");
        value.set_sensitive(true);
        value
    }
}

/// The token that a request carries.
pub(super) fn token_in(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Zeroizing::new(credentials.into()));
    }
    let basic = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(credentials).ok()).flatten()?;
    let basic = Zeroizing::new(basic);
    let (_, password) = std::str::from_utf8(&basic).ok()?.split_once(':')?;
    Some(Zeroizing::new(password.into()))
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !Self::LENGTH.contains(&text.len()) {
            return Err(format!(
                "the token has {} characters; {} to {} are allowed",
                text.len(),
                Self::LENGTH.start(),
                Self::LENGTH.end()
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token has blanks or characters that a header cannot carry".into());
        }
        Ok(Self(Zeroizing::new(text.into())))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole_and_not_shown() {
        let token: Token = " 0123456789abcdef\n".parse().unwrap();
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
        for (bad, problem) in [
            ("short", "the token has 5 characters; 8 to 1024 are allowed"),
            ("has blanks in it", "the token has blanks or characters that a header cannot carry"),
            ("umlaut-ä-umlaut", "the token has blanks or characters that a header cannot carry"),
        ] {
            assert_eq!(bad.parse::<Token>().unwrap_err(), problem);
        }
    }

    #[test]
    fn a_token_is_shown_in_two_ways() {
        for (value, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            // any:abc:d
            ("Basic YW55OmFiYzpk", Some("abc:d")),
            ("Basic abc", None),
            ("Digest abc", None),
            ("abc", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(token_in(&headers).as_deref().map(String::as_str), expected, "{value}");
        }
    }
}
