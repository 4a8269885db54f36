//! The client of a node's HTTP API that all commands use: HTTP/1.1, one connection for each request, with TLS or without.
//!
//! It promises bounded waiting and bounded memory: a node that does not answer, answers endlessly, or is no node at all
//! becomes a [`ClientError`] whose text says what to check.

use std::{fmt, fmt::Write as _, io, net::SocketAddrV6, sync::Arc, time::Duration};

use broadcast::zones;
use broadcast_gateway::Token;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderName},
};
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    failure::Failure,
    settings::{
        client::{ClientArgs, NodeUrl},
        http::TokenArgs,
        tls::ClientTlsArgs,
    },
    visible,
};

/// How long it may take to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a response may take, beyond what the request has the node wait.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest response that is read, in bytes: a list of a hundred thousand members is shorter.
const MAX_RESPONSE: usize = 64 << 20;

/// How long a request has the node wait for the store to have a leader: an election takes less.
pub(super) const LEADER_WAIT: Duration = Duration::from_secs(15);

/// Sends requests to one node.
#[derive(Debug)]
pub(super) struct ApiClient {
    pub(super) node: NodeUrl,
    token: Option<Token>,
    /// Set for an https URL.
    tls: Option<Arc<ClientConfig>>,
}

/// A connection, with TLS or without.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// The header of a request whose body is JSON.
pub(super) const JSON_BODY: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

/// One request. Most fields have a default that fits a GET.
#[derive(Debug, Default)]
pub(super) struct ApiRequest<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) body: Bytes,
    /// How long the node may wait on purpose before it answers; the timeout is that much longer.
    pub(super) server_wait: Duration,
    /// A field that every good JSON response to this has. Without it, whatever answered is not a node.
    pub(super) expects: &'a str,
}

/// A whole response, which is a JSON object.
#[derive(Debug)]
pub(super) struct ApiResponse {
    pub(super) status: StatusCode,
    /// The body as it came.
    pub(super) text: String,
    pub(super) json: Value,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum ClientError {
    /// There was no response, or not a whole one; this says why.
    NoResponse(String),
    /// The node refused, and its body (RFC 9457) says why.
    Problem(ApiResponse),
}

impl ApiClient {
    /// A client without a token, for health checks. A node on this host need not have a certificate for this host's name.
    pub(super) fn for_health(node: NodeUrl, tls: &ClientTlsArgs) -> Result<Self, Failure> {
        let config = || if node.is_loopback() { tls.config_for_own_node() } else { tls.config() };
        let tls = node.is_https.then(config).transpose()?;
        Ok(Self { node, token: None, tls })
    }

    /// A client as the flags and variables of a command say.
    pub(super) fn new(args: &ClientArgs) -> Result<Self, Failure> {
        Self::with_token(args.node.clone(), &args.token, &args.tls)
    }

    pub(super) fn with_token(node: NodeUrl, token: &TokenArgs, tls: &ClientTlsArgs) -> Result<Self, Failure> {
        let tls = node.is_https.then(|| tls.config()).transpose()?;
        Ok(Self { node, token: token.token()?, tls })
    }

    /// GETs a JSON object that has the field `expects`.
    pub(super) async fn get(&self, path: &str, expects: &str) -> Result<ApiResponse, ClientError> {
        self.call(ApiRequest { path, expects, ..ApiRequest::default() }).await
    }

    /// PUTs a JSON body.
    pub(super) async fn put(&self, path: &str, body: &Value, expects: &str) -> Result<ApiResponse, ClientError> {
        let headers = &[JSON_BODY];
        let body = body.to_string().into();
        self.call(ApiRequest { method: Method::PUT, path, headers, body, expects, ..ApiRequest::default() }).await
    }

    /// POSTs an empty body.
    pub(super) async fn post(&self, path: &str, expects: &str) -> Result<ApiResponse, ClientError> {
        self.call(ApiRequest { method: Method::POST, path, expects, ..ApiRequest::default() }).await
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn call(&self, request: ApiRequest<'_>) -> Result<ApiResponse, ClientError> {
        let (limit, expects) = (request.server_wait + RESPONSE_TIMEOUT, request.expects);
        let response = self.send(request).await?;
        let answer = timeout(limit, self.read(response)).await.map_err(|_| self.timed_out(limit))??;
        if answer.json.get(expects).is_some() { Ok(answer) } else { Err(self.not_a_node(answer.status)) }
    }

    /// Sends a request and gives the head of a successful response, whose body is still to come.
    pub(super) async fn send(&self, api_request: ApiRequest<'_>) -> Result<Response<Incoming>, ClientError> {
        let limit = api_request.server_wait + RESPONSE_TIMEOUT;
        let mut request = Request::builder()
            .method(api_request.method)
            .uri(format!("{}{}", self.node.prefix, api_request.path))
            .header(header::HOST, &self.node.authority)
            .header(header::USER_AGENT, concat!("broadcast/", env!("CARGO_PKG_VERSION")));
        for (name, value) in api_request.headers {
            request = request.header(name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        let request = request.body(Full::new(api_request.body)).map_err(|error| self.broke_off(&error))?;
        let mut sender = self.connect().await?;
        let sent = timeout(limit, sender.send_request(request)).await.map_err(|_| self.timed_out(limit))?;
        let response = sent.map_err(|error| self.broke_off(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(ClientError::Problem(timeout(limit, self.read(response)).await.map_err(|_| self.timed_out(limit))??))
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, ClientError> {
        let connecting = async {
            let stream = match self.node.zoned.as_ref().and_then(|zoned| zoned.zoned().zip(Some(zoned.port))) {
                Some(((ip, zone), port)) => {
                    let zone = zones::interface_index(zone).map_err(io::Error::other)?;
                    TcpStream::connect(SocketAddrV6::new(ip, port, 0, zone)).await?
                }
                None => TcpStream::connect(&*self.node.authority).await?,
            };
            stream.set_nodelay(true)?;
            let stream: Box<dyn Transport> = match &self.tls {
                Some(config) => {
                    let name = ServerName::try_from(self.node.host().to_owned()).map_err(io::Error::other)?;
                    Box::new(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?)
                }
                None => Box::new(stream),
            };
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)
        };
        let connected =
            timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (sender, connection) = connected.map_err(|error| self.unreachable(&error))?;
        // The response says how the connection fares.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Says why it could not connect, and what to do about it.
    fn unreachable(&self, error: &io::Error) -> ClientError {
        let node = &self.node;
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
            return ClientError::NoResponse(format!(
                "nothing answers at {node}: {error}; check that the node runs, and that BROADCAST_NODE (--node) is right"
            ));
        };
        let remedy = match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "it is from no authority that is known here; BROADCAST_CA_FILE (--ca-file) names a file with those that are"
            }
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => "it is for other names; call the node by one of them",
            rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                "it has expired; have it renewed, or set this host's clock"
            }
            rustls::Error::InvalidCertificate(_) => "have the node show another one",
            rustls::Error::InvalidMessage(_) => "is it http:// that is spoken there?",
            _ => "see the node's log",
        };
        let what = match error {
            rustls::Error::InvalidCertificate(_) => "the certificate cannot be trusted",
            _ => "there is no TLS connection",
        };
        ClientError::NoResponse(format!("{node}: {what}: {error}; {remedy}"))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<ApiResponse, ClientError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        let body = body.map_err(|error| self.broke_off(&*error))?.to_bytes();
        match (std::str::from_utf8(&body), serde_json::from_slice(&body)) {
            (Ok(text), Ok(json @ Value::Object(_))) => Ok(ApiResponse { status, text: text.trim_end().into(), json }),
            _ => Err(self.not_a_node(status)),
        }
    }

    fn not_a_node(&self, status: StatusCode) -> ClientError {
        ClientError::NoResponse(format!(
            "what answers at {} ({status}) is not a broadcast node; check that BROADCAST_NODE (--node) is right",
            self.node
        ))
    }

    /// Says that a response broke off.
    pub(super) fn broke_off(&self, error: &(dyn std::error::Error + 'static)) -> ClientError {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        ClientError::NoResponse(format!("{} broke off: {error}{cause}; see the node's log", self.node))
    }

    fn timed_out(&self, limit: Duration) -> ClientError {
        ClientError::NoResponse(format!("{} did not answer within {limit:?}; see the node's log", self.node))
    }
}

impl ApiResponse {
    /// A text field; empty if there is none.
    pub(super) fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    /// A number field; 0 if there is none.
    pub(super) fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_default()
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse(problem) => f.write_str(&visible::escaped(problem)),
            Self::Problem(answer) => match answer.text("detail") {
                "" => write!(f, "the node answers {}", answer.status),
                detail => f.write_str(&visible::escaped(detail)),
            },
        }?;
        if matches!(self, Self::Problem(ApiResponse { status: StatusCode::UNAUTHORIZED, .. })) {
            f.write_str("; set BROADCAST_TOKEN, or BROADCAST_TOKEN_FILE (--token-file)")?;
        }
        Ok(())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::other(error)
    }
}

/// Text as a URL carries it, percent-encoded (RFC 3986).
pub(super) fn url_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_carries_any_text() {
        assert_eq!(url_encoded("I am ä&=#?+%/node-1.x_y~"), "I%20am%20%C3%A4%26%3D%23%3F%2B%25%2Fnode-1.x_y~");
    }
}
