//! The guard: decides whether a request may pass. It checks, in this order:
//!
//! - **The name and the page.** A web page calls with the user's own browser, from within the user's network. The browser says
//!   where the page is from: only the node's own page passes, and the pages of configured origins. But a page can point its own
//!   name to this node (DNS rebinding): then the browser takes the page and the node for one origin, and says nothing. Such a
//!   name has a dot in it, which `localhost`, addresses and names of containers do not have. So, where no token tells callers
//!   apart, a request must call the node by a name without dots, by an address, or by the name of a configured origin. Over TLS
//!   any name may be used, since the browser has compared it with the certificate; then only a page from `https` is the node's
//!   own. Calls of gRPC come from no page: browsers have no HTTP/2 without TLS.
//! - **The certificate**, where clients need one ([`tls`](crate::tls)). It is a second condition, and allows nothing by itself.
//! - **The token**: it must have the scope that the route requires ([`access`](crate::access)).
//!
//! Whether it passes or not, a request that may change something has an entry in the [`audit`](crate::audit) log.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use broadcast::config::quote;
use serde::Serialize;

use super::{
    access::{ConnectionInfo, Credentials, RequiredScopes, Scope, Scopes},
    app::App,
    grpc,
    problem::Problem,
};

/// The paths of health checks: they need no token. gRPC's health check needs none, either.
pub(super) const HEALTH_PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// The origin of a web page: `https://example.org`, with a port where that is not the scheme's own.
///
/// ```
/// let origin: broadcast_gateway::Origin = "http://localhost:3000".parse().expect("an origin");
/// assert!("localhost:3000".parse::<broadcast_gateway::Origin>().is_err());
/// ```
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
                quote(&text)
            ));
        }
        Ok(Self(text))
    }
}

/// Which page a request comes from, as the browser says.
enum PageOrigin {
    /// From no page, or from the node's own.
    Own,
    /// From a page of a configured origin.
    Allowed(HeaderValue),
    Foreign(String),
    /// Unknown, because the node is called by a name that anybody may have pointed to it (DNS rebinding).
    Rebound(String),
}

/// The name by which a request calls this node: the header Host, or in HTTP/2 `:authority`.
fn host(request: &Request) -> &str {
    let authority = request.uri().authority().filter(|_| request.version() == Version::HTTP_2);
    let header = || request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    authority.map(Authority::as_str).or_else(header).unwrap_or_default()
}

fn page_origin(request: &Request, connection: &ConnectionInfo, app: &App) -> PageOrigin {
    let (method, headers) = (request.method(), request.headers());
    let text = |name: &str| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = host(request).to_ascii_lowercase();
    let named = |origin: &Origin| origin.0.split_once("://").is_some_and(|(_, authority)| authority == host);
    // No browser calls gRPC in plain HTTP/2, so no page can have made up the name.
    let is_grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(headers);
    let any_name = connection.over_tls || !app.config.access.is_open() || is_grpc;
    if !any_name && !is_local(&host) && !app.config.origins.iter().any(named) {
        return PageOrigin::Rebound(host);
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        // What a page only shows or loads has no origin, but the browser says from which site it is asked for. A link may lead
        // here from anywhere; a form may not.
        let site = text("sec-fetch-site").unwrap_or_default();
        let followed = text("sec-fetch-mode") == Some("navigate") && method.is_safe();
        let foreign = matches!(site, "cross-site" | "same-site") && !followed;
        return if foreign { PageOrigin::Foreign(site.into()) } else { PageOrigin::Own };
    };
    let value = origin.to_str().unwrap_or_default().to_ascii_lowercase();
    if app.config.origins.iter().any(|allowed| allowed.0 == value) {
        return PageOrigin::Allowed(origin.clone());
    }
    // Without TLS here, a proxy in front of the node may speak it.
    let own = value
        .split_once("://")
        .is_some_and(|(scheme, authority)| authority == host && (scheme == "https" || !connection.over_tls));
    if own { PageOrigin::Own } else { PageOrigin::Foreign(value) }
}

/// Whether a host is no name on the internet.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok() || name.ends_with(".localhost") || !name.contains('.')
}

/// Why a request does not tell clearly by which name it calls the node, or for which page (RFC 9112, section 3.2; RFC 9113,
/// section 8.3.1).
pub(super) fn ambiguous(request: &Request) -> Option<&'static str> {
    let headers = request.headers();
    let count = |name| headers.get_all(name).iter().count();
    // Of two, a proxy on the way may have checked the other one.
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

/// The middleware: lets a request pass, or says why not. Begins its audit entry.
pub(super) async fn check(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(connection) = request.extensions().get::<Arc<ConnectionInfo>>().cloned() else {
        let detail = "it is not known from where this request comes";
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response();
    };
    let credentials = app.config.access.credentials(request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let (route, required_scopes) = (route.as_ref().map(MatchedPath::as_str), scopes_of_route(route.as_ref(), &app));
    let scope = required_scopes.and_then(|required| required.of(request.method()));
    let is_for_operators = matches!(scope, Some(Scope::Operate | Scope::Deploy));
    let is_read_only =
        required_scopes.map_or(request.method().is_safe(), |required| required.is_read_only(request.method()));
    if is_read_only && !is_for_operators {
        return authorize_and_run(&app, &connection, &credentials, required_scopes, request, next).await;
    }
    let who = (&credentials, connection.certificate.as_ref());
    let mut entry = app.audit.begin(who, connection.peer, (request.method(), request.uri()), route);
    request.extensions_mut().insert(entry.handle());
    request.extensions_mut().insert(credentials.scopes().unwrap_or(Scopes::NONE));
    let response = authorize_and_run(&app, &connection, &credentials, required_scopes, request, next).await;
    entry.answered(response.status());
    response
}

/// What the route requires; `None` if there is no such route. Only callers who may call at all learn that.
fn scopes_of_route(route: Option<&MatchedPath>, app: &App) -> Option<RequiredScopes> {
    app.required_scopes.get(route?.as_str()).copied()
}

async fn authorize_and_run(
    app: &App,
    connection: &ConnectionInfo,
    credentials: &Credentials,
    required_scopes: Option<RequiredScopes>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(detail) = ambiguous(&request) {
        return close_connection(Problem::bad_request(detail));
    }
    let open = required_scopes == Some(RequiredScopes::NONE);
    let allowed = match page_origin(&request, connection, app) {
        PageOrigin::Own => None,
        PageOrigin::Rebound(_) if open => None,
        PageOrigin::Rebound(host) => {
            let detail = format!(
                "this node does not answer to the name {}, which a web page may have made up: call it by an address, by \
                 localhost or by a name without dots, name it in `origins` as http://NAME, or set a `token`",
                quote(&host)
            );
            return close_connection(Problem::new(StatusCode::FORBIDDEN, (app.config.explain)(&detail)));
        }
        PageOrigin::Allowed(origin) => Some(origin),
        PageOrigin::Foreign(origin) => {
            let origin = quote(&origin);
            let detail = format!("web pages from {origin} may not call this node; `origins` names those that may");
            return close_connection(Problem::new(StatusCode::FORBIDDEN, (app.config.explain)(&detail)));
        }
    };
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key("access-control-request-method");
    let mut response = if allowed.is_some() && preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        match authorize(&request, connection, credentials, required_scopes, app) {
            Ok(()) => next.run(request).await,
            Err(problem) => close_connection(problem),
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        if preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE"));
            let request_headers =
                HeaderValue::from_static("authorization, content-type, if-match, if-none-match, last-event-id");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, request_headers);
        } else {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag, retry-after"));
        }
    }
    response
}

/// The scope that a caller lacks.
#[derive(Serialize)]
struct MissingScope {
    scope: &'static str,
}

/// Whether the caller has what the route requires.
fn authorize(
    request: &Request,
    connection: &ConnectionInfo,
    credentials: &Credentials,
    required_scopes: Option<RequiredScopes>,
    app: &App,
) -> Result<(), Problem> {
    let explained = |status, detail: &str| Problem::new(status, (app.config.explain)(detail));
    if required_scopes == Some(RequiredScopes::NONE) {
        return Ok(());
    }
    // What is required now, whatever it was when the client connected.
    if app.config.tls.as_ref().is_some_and(crate::Tls::asks_for_certificate) && connection.certificate.is_none() {
        let detail = "this node wants to see a client certificate from one of the authorities in `tls_client_ca_file`";
        return Err(explained(StatusCode::FORBIDDEN, detail));
    }
    let Some(scopes) = credentials.scopes() else { return Err(unauthorized(request.headers(), app)) };
    let Some(scope) = required_scopes.and_then(|required| required.of(request.method())) else { return Ok(()) };
    if scopes.has(scope) {
        return Ok(());
    }
    let detail = match credentials {
        Credentials::Token(name, _) => {
            format!("the token {name} does not have the scope {scope}, but {scopes}; `tokens_file` says what each has")
        }
        _ => format!("this needs a token with the scope {scope}; name it in `tokens_file`"),
    };
    Err(explained(StatusCode::FORBIDDEN, &detail)
        .with(MissingScope { scope: scope.name() })
        .header(header::WWW_AUTHENTICATE, www_authenticate(scope)))
}

/// The response to a caller who lacks a scope that its request needs besides what the route requires. Requests that may change
/// something have the caller's [`Scopes`] in their extensions.
///
/// ```
/// use axum::Extension;
/// use broadcast_gateway::{Problem, Scope, Scopes, insufficient_scope};
///
/// async fn force(Extension(scopes): Extension<Scopes>) -> Result<(), Problem> {
///     if scopes.has(Scope::Operate) { Ok(()) } else { Err(insufficient_scope(Scope::Operate)) }
/// }
/// ```
#[must_use]
pub fn insufficient_scope(scope: Scope) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, format_args!("this needs a token with the scope {scope}"))
        .with(MissingScope { scope: scope.name() })
        .header(header::WWW_AUTHENTICATE, www_authenticate(scope))
}

/// The header `WWW-Authenticate` (RFC 6750, section 3).
fn www_authenticate(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => r#"Bearer realm="broadcast", error="insufficient_scope", scope="read""#,
        Scope::Publish => r#"Bearer realm="broadcast", error="insufficient_scope", scope="publish""#,
        Scope::Operate => r#"Bearer realm="broadcast", error="insufficient_scope", scope="operate""#,
        Scope::Locks => r#"Bearer realm="broadcast", error="insufficient_scope", scope="locks""#,
        Scope::Cache => r#"Bearer realm="broadcast", error="insufficient_scope", scope="cache""#,
        Scope::Deploy => r#"Bearer realm="broadcast", error="insufficient_scope", scope="deploy""#,
    }
}

fn unauthorized(headers: &HeaderMap, app: &App) -> Problem {
    let detail = if headers.contains_key(header::AUTHORIZATION) {
        "this is not a token of this node; it knows `token` and those in `tokens_file`"
    } else {
        "a token is needed, as `Authorization: Bearer TOKEN` or as the password of basic authentication"
    };
    let problem = Problem::new(StatusCode::UNAUTHORIZED, (app.config.explain)(detail));
    let problem = problem.header(header::WWW_AUTHENTICATE, "Bearer realm=\"broadcast\"");
    problem.header(header::WWW_AUTHENTICATE, "Basic realm=\"broadcast\", charset=\"UTF-8\"")
}

/// Closes the connection, too: a caller who may not call must not keep one that others need.
fn close_connection(problem: Problem) -> Response {
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
    fn an_origin_has_a_scheme_and_no_path() {
        assert_eq!("HTTPS://Example.org".parse::<Origin>().unwrap().0, "https://example.org");
        for bad in ["", "*", "example.org", "https://", "https://a/", "https://*.a", "ftp://a"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
