//! Asking a node over its HTTP API: HTTP/1.1 on one connection a call, with TLS or without.

use std::{fmt, io, net::SocketAddrV6, sync::Arc, time::Duration};

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

/// How long a connection may take to stand.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long an answer may take, beyond what the node is asked to wait for.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// What an answer has at most, in bytes: more than a hundred thousand members take.
const MAX_ANSWER: usize = 64 << 20;

/// Asks one node.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) node: NodeUrl,
    token: Option<Token>,
    /// Set if it is asked over TLS.
    tls: Option<Arc<ClientConfig>>,
}

/// What a connection runs over.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// What is asked.
#[derive(Debug, Default)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) body: Bytes,
    /// How long the node is asked to wait before it answers.
    pub(super) waits: Duration,
    /// A field that an answer has when all is well, if it is read as a whole.
    pub(super) has: &'a str,
}

/// What a node answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// As it came.
    pub(super) text: String,
    pub(super) json: Value,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There was no answer, or none that was whole.
    Silent(String),
    /// The node says why not.
    Problem(Answer),
}

impl Client {
    /// Without a token, to ask for the health of a node. One of this host need not have a certificate for it.
    pub(super) fn for_health(node: NodeUrl, tls: &ClientTlsArgs) -> Result<Self, Failure> {
        let config = || if node.is_loopback() { tls.config_for_own_node() } else { tls.config() };
        let tls = node.is_https.then(config).transpose()?;
        Ok(Self { node, token: None, tls })
    }

    /// Of a command's settings.
    pub(super) fn of(args: &ClientArgs) -> Result<Self, Failure> {
        Self::with_token(args.node.clone(), &args.token, &args.tls)
    }

    pub(super) fn with_token(node: NodeUrl, token: &TokenArgs, tls: &ClientTlsArgs) -> Result<Self, Failure> {
        let tls = node.is_https.then(|| tls.config()).transpose()?;
        Ok(Self { node, token: token.token()?, tls })
    }

    /// What the node answers when all is well.
    pub(super) async fn get(&self, path: &str, has: &str) -> Result<Answer, Trouble> {
        self.call(Call { path, has, ..Call::default() }).await
    }

    /// What the node answers when it has set what it was told.
    pub(super) async fn put(&self, path: &str, body: &Value, has: &str) -> Result<Answer, Trouble> {
        let headers = &[(header::CONTENT_TYPE, "application/json")];
        let body = body.to_string().into();
        self.call(Call { method: Method::PUT, path, headers, body, has, ..Call::default() }).await
    }

    /// What the node answers when it was told to do something.
    pub(super) async fn post(&self, path: &str, has: &str) -> Result<Answer, Trouble> {
        self.call(Call { method: Method::POST, path, has, ..Call::default() }).await
    }

    /// The whole answer.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Answer, Trouble> {
        let (limit, has) = (call.waits + ANSWER_TIME, call.has);
        let response = self.open(call).await?;
        let answer = timeout(limit, self.read(response)).await.map_err(|_| self.late(limit))??;
        if answer.json.get(has).is_some() { Ok(answer) } else { Err(self.stranger(answer.status)) }
    }

    /// The beginning of an answer that is well, whose body is still to come.
    pub(super) async fn open(&self, call: Call<'_>) -> Result<Response<Incoming>, Trouble> {
        let limit = call.waits + ANSWER_TIME;
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("{}{}", self.node.prefix, call.path))
            .header(header::HOST, &self.node.authority)
            .header(header::USER_AGENT, concat!("broadcast/", env!("CARGO_PKG_VERSION")));
        for (name, value) in call.headers {
            request = request.header(name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        let request = request.body(Full::new(call.body)).map_err(|error| self.broken(&error))?;
        let mut sender = self.connect().await?;
        let sent = timeout(limit, sender.send_request(request)).await.map_err(|_| self.late(limit))?;
        let response = sent.map_err(|error| self.broken(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Trouble::Problem(timeout(limit, self.read(response)).await.map_err(|_| self.late(limit))??))
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, Trouble> {
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
        let connected = timeout(CONNECT_TIME, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (sender, connection) = connected.map_err(|error| self.unreachable(&error))?;
        // What becomes of it the answer tells.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Why there is no connection.
    fn unreachable(&self, error: &io::Error) -> Trouble {
        let node = &self.node;
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
            return Trouble::Silent(format!(
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
        Trouble::Silent(format!("{node}: {what}: {error}; {remedy}"))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, Trouble> {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.broken(&*error))?.to_bytes();
        match (std::str::from_utf8(&body), serde_json::from_slice(&body)) {
            (Ok(text), Ok(json @ Value::Object(_))) => Ok(Answer { status, text: text.trim_end().into(), json }),
            _ => Err(self.stranger(status)),
        }
    }

    fn stranger(&self, status: StatusCode) -> Trouble {
        Trouble::Silent(format!(
            "what answers at {} ({status}) is not a broadcast node; check that BROADCAST_NODE (--node) is right",
            self.node
        ))
    }

    /// What to say of an answer that broke off.
    pub(super) fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Trouble {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Trouble::Silent(format!("{} broke off: {error}{cause}; see the node's log", self.node))
    }

    fn late(&self, limit: Duration) -> Trouble {
        Trouble::Silent(format!("{} did not answer within {limit:?}; see the node's log", self.node))
    }
}

impl Answer {
    /// A text in it.
    pub(super) fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    /// A number in it.
    pub(super) fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_default()
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(what) => f.write_str(&visible::escaped(what)),
            Self::Problem(answer) => match answer.text("detail") {
                "" => write!(f, "the node answers {}", answer.status),
                detail => f.write_str(&visible::escaped(detail)),
            },
        }?;
        if matches!(self, Self::Problem(Answer { status: StatusCode::UNAUTHORIZED, .. })) {
            f.write_str("; set BROADCAST_TOKEN, or BROADCAST_TOKEN_FILE (--token-file)")?;
        }
        Ok(())
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::other(trouble)
    }
}
