//! Who may call.
//!
//! *A token*, when one is set: as `Authorization: Bearer`, or as the password of HTTP's basic scheme, in which
//! browsers ask for it and send it along, also where a page cannot set headers (RFC 6750, RFC 7617).
//!
//! *Web pages* call with the user's own browser, from within the user's network. A browser says where a page
//! is from: only this node's own page is let in, and the origins that are allowed. A page that has its own
//! name point to this node (DNS rebinding) is of the same origin to the browser, which says nothing of it then;
//! but its name has a dot in it, which `localhost`, addresses and the names of containers have not. So, where
//! no token tells callers apart, a node is called by such a name, or by one of an origin that is allowed.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use broadcast::config::shown;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{app::App, problem::Problem};

/// What needs no token.
pub(super) const OPEN: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// What callers have to know. Never shown.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// How many characters it may have.
    pub const LENGTH: RangeInclusive<usize> = 8..=1024;

    /// Whether it is this one, in a time that does not depend on where they differ.
    fn is(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }

    /// The header that tells it to a node.
    ///
    /// # Panics
    ///
    /// Never: a token has only letters that headers carry.
    #[must_use]
    pub fn bearer(&self) -> HeaderValue {
        let text = Zeroizing::new(format!("Bearer {}", *self.0));
        let mut value = HeaderValue::from_str(&text).expect("a token is of letters that headers carry");
        value.set_sensitive(true);
        value
    }

    /// Whether a request has it.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let Some((scheme, credentials)) = value.split_once(' ') else { return false };
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(credentials);
        }
        let basic = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(credentials).ok());
        let basic = basic.flatten().and_then(|bytes| String::from_utf8(bytes).ok()).map(Zeroizing::new);
        basic.as_deref().and_then(|basic| basic.split_once(':')).is_some_and(|(_, password)| self.is(password))
    }
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

/// Where web pages come from: `https://example.org`, with a port where that is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or_default();
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*".contains(&byte)) {
            return Err(format!(
                "{} is not an origin; write it like https://example.org or http://localhost:3000",
                shown(&text)
            ));
        }
        Ok(Self(text))
    }
}

/// Whether a browser says that a page of this origin asks.
enum Asker {
    /// No page, or this node's own.
    Own,
    /// One that is allowed.
    Allowed(HeaderValue),
    Foreign(String),
    /// Nobody knows: the node is called by a name that anybody may have given it.
    Misled(String),
}

/// The name that a request calls this node by: the header Host, or in HTTP/2 `:authority`.
fn host(request: &Request) -> &str {
    let authority = request.uri().authority().filter(|_| request.version() == Version::HTTP_2);
    let header = || request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    authority.map(Authority::as_str).or_else(header).unwrap_or_default()
}

fn asker(request: &Request, app: &App) -> Asker {
    let (method, headers) = (request.method(), request.headers());
    let text = |name: &str| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = host(request).to_ascii_lowercase();
    let named = |origin: &Origin| origin.0.split_once("://").is_some_and(|(_, authority)| authority == host);
    if app.config.token.is_none() && !is_local(&host) && !app.config.origins.iter().any(named) {
        return Asker::Misled(host);
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        // What a page only shows or loads has no origin, but a browser says from where it is asked for. A link may
        // lead here from anywhere; a form may not.
        let site = text("sec-fetch-site").unwrap_or_default();
        let followed = text("sec-fetch-mode") == Some("navigate") && method.is_safe();
        let foreign = matches!(site, "cross-site" | "same-site") && !followed;
        return if foreign { Asker::Foreign(site.into()) } else { Asker::Own };
    };
    let value = origin.to_str().unwrap_or_default().to_ascii_lowercase();
    if app.config.origins.iter().any(|allowed| allowed.0 == value) {
        return Asker::Allowed(origin.clone());
    }
    let own = value.split_once("://").is_some_and(|(_, authority)| authority == host);
    if own { Asker::Own } else { Asker::Foreign(value) }
}

/// Whether no name on the internet is this host's.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok() || name.ends_with(".localhost") || !name.contains('.')
}

/// Why it cannot be told by which name a request calls this node, or for which page (RFC 9112, section 3.2; RFC 9113,
/// section 8.3.1).
pub(super) fn unclear(request: &Request) -> Option<&'static str> {
    let headers = request.headers();
    let count = |name| headers.get_all(name).iter().count();
    // Of two, something on the way may have looked at the other one.
    if count(header::HOST) > 1 || count(header::ORIGIN) > 1 {
        return Some("a request may have only one Host header and one Origin header, and this one has more");
    }
    let authority = request.uri().authority().filter(|_| request.version() == Version::HTTP_2);
    match headers.get(header::HOST) {
        None if authority.is_some_and(|authority| authority.as_str().contains('@')) => {
            Some("the :authority of an HTTP/2 request must not name a user")
        }
        None if authority.is_some() => None,
        Some(host)
            if authority
                .is_some_and(|authority| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) =>
        {
            Some("the Host header names another node than :authority does")
        }
        None if request.version() >= Version::HTTP_11 => Some("an HTTP/1.1 request needs a Host header"),
        Some(host) if host.to_str().is_err() => Some("the Host header has characters that a name cannot have"),
        _ => None,
    }
}

/// Lets a request through, or answers why not.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(detail) = unclear(&request) {
        return refused(Problem::bad_request(detail));
    }
    let open = OPEN.contains(&request.uri().path());
    let allowed = match asker(&request, &app) {
        Asker::Own => None,
        Asker::Misled(_) if open => None,
        Asker::Misled(host) => {
            let detail = format!(
                "this node does not answer to the name {}, which a web page may have made up: call it by an address, by \
                 localhost or by a name without dots, name it in `origins` as http://NAME, or set a `token`",
                shown(&host)
            );
            return refused(Problem::new(StatusCode::FORBIDDEN, (app.config.explain)(&detail)));
        }
        Asker::Allowed(origin) => Some(origin),
        Asker::Foreign(origin) => {
            let origin = shown(&origin);
            let detail = format!("web pages from {origin} may not call this node; `origins` names those that may");
            return refused(Problem::new(StatusCode::FORBIDDEN, (app.config.explain)(&detail)));
        }
    };
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key("access-control-request-method");
    let mut response = if allowed.is_some() && preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        match app.config.token.as_ref().filter(|_| !open) {
            Some(token) if !token.is_in(request.headers()) => unauthorized(request.headers(), &app),
            _ => next.run(request).await,
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        if preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT"));
            let request_headers = HeaderValue::from_static("authorization, content-type, last-event-id");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, request_headers);
        } else {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
        }
    }
    response
}

fn unauthorized(headers: &HeaderMap, app: &App) -> Response {
    let detail = if headers.contains_key(header::AUTHORIZATION) {
        "this is not the node's `token`"
    } else {
        "a token is needed, as `Authorization: Bearer TOKEN` or as the password of basic authentication"
    };
    let problem = Problem::new(StatusCode::UNAUTHORIZED, (app.config.explain)(detail));
    let problem = problem.header(header::WWW_AUTHENTICATE, "Bearer realm=\"broadcast\"");
    refused(problem.header(header::WWW_AUTHENTICATE, "Basic realm=\"broadcast\", charset=\"UTF-8\""))
}

/// Who may not call is not to keep a connection that others need.
fn refused(problem: Problem) -> Response {
    problem.header(header::CONNECTION, "close").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_internet_have_a_dot() {
        for host in ["localhost:8946", "127.0.0.1:8946", "[::1]:8946", "node1:8946", "page.localhost", ""] {
            assert!(is_local(host), "{host}");
        }
        for host in ["example.org", "example.org:8946", "127.0.0.1.example.org", "localhost.example.org:1"] {
            assert!(!is_local(host), "{host}");
        }
    }

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
    fn an_origin_has_a_scheme_and_no_path() {
        assert_eq!("HTTPS://Example.org".parse::<Origin>().unwrap().0, "https://example.org");
        for bad in ["", "*", "example.org", "https://", "https://a/", "https://*.a", "ftp://a"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
