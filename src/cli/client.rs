//! Asking a node over its HTTP API: HTTP/1.1 on one connection a call.

use std::{fmt, io, net::SocketAddrV6, str::FromStr, time::Duration};

use broadcast::{Seed, config::check_seeds, zones};
use broadcast_gateway::{DEFAULT_PORT, Token};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderName},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::{Failure, http::TokenArgs, visible};

/// How long a connection may take to stand.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long an answer may take, beyond what the node is asked to wait for.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// What an answer has at most, in bytes: more than a hundred thousand members take.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    /// The node to ask: where it serves its HTTP API, as HOST, HOST:PORT or a URL
    #[arg(long, env = "BROADCAST_NODE", hide_env_values = true, value_name = "NODE", default_value_t = NodeUrl::default())]
    node: NodeUrl,

    #[command(flatten)]
    token: TokenArgs,

    /// Print the API's answer, as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl ClientArgs {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::with_token(self.node.clone(), &self.token)
    }
}

/// Where a node serves its API: `http://HOST[:PORT][/PREFIX]`, or the same without `http://`; the port is then a
/// node's own, and not HTTP's, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeUrl {
    /// As the header `Host` has it, which knows no zones (RFC 6874).
    authority: String,
    /// Where to connect to, if that is an address with a zone.
    zoned: Option<Seed>,
    /// What comes before each path, where a proxy wants that.
    prefix: String,
}

impl Default for NodeUrl {
    fn default() -> Self {
        Self { authority: format!("127.0.0.1:{DEFAULT_PORT}"), zoned: None, prefix: String::new() }
    }
}

impl FromStr for NodeUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "not where a node serves its API; write it like localhost:8946 or http://127.0.0.1:8946";
        const ZONE: &str = "a link-local address is written with its interface, like http://[fe80::1%25eth0]:8946";
        let text = text.trim();
        let (url, default_port) =
            if text.contains("://") { (text.into(), 80) } else { (format!("http://{text}"), DEFAULT_PORT) };
        let uri: Uri = url.parse().map_err(|_| FORM)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(
                    "https is not supported; give the http:// address of the node, of a proxy on this host, or of a tunnel, like ssh -L 8946:127.0.0.1:8946 HOST",
                );
            }
            _ => return Err(FORM),
        }
        let authority = uri.authority().ok_or(FORM)?;
        if authority.as_str().contains('@') {
            return Err("the token is not part of the URL; set BROADCAST_HTTP_TOKEN to it");
        }
        let port: u16 = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" => default_port,
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or(FORM)?,
        };
        if authority.host().is_empty() || uri.query().is_some() {
            return Err(FORM);
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let host = authority.host();
        let Some((ip, zone)) = host.split_once('%') else {
            return Ok(Self { authority: format!("{host}:{port}"), zoned: None, prefix });
        };
        // In a URL the % before it is written %25.
        let zone = zone.strip_prefix("25").unwrap_or(zone).trim_end_matches(']');
        let ip = ip.trim_start_matches('[');
        let zoned = Seed { host: format!("{ip}%{zone}"), port };
        check_seeds(std::slice::from_ref(&zoned)).map_err(|_| ZONE)?;
        Ok(Self { authority: format!("[{ip}]:{port}"), zoned: Some(zoned), prefix })
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zoned {
            Some(zoned) => write!(f, "http://{}{}", zoned.to_string().replacen('%', "%25", 1), self.prefix),
            None => write!(f, "http://{}{}", self.authority, self.prefix),
        }
    }
}

/// Asks one node.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) node: NodeUrl,
    token: Option<Token>,
}

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
    /// Without a token, for what needs none.
    pub(super) fn new(node: NodeUrl) -> Self {
        Self { node, token: None }
    }

    pub(super) fn with_token(node: NodeUrl, token: &TokenArgs) -> Result<Self, Failure> {
        Ok(Self { node, token: token.token()? })
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
                    let zone = zones::number(zone).map_err(io::Error::other)?;
                    TcpStream::connect(SocketAddrV6::new(ip, port, 0, zone)).await?
                }
                None => TcpStream::connect(&*self.node.authority).await?,
            };
            stream.set_nodelay(true)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)
        };
        let connected = timeout(CONNECT_TIME, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (sender, connection) = connected.map_err(|error| {
            let node = &self.node;
            Trouble::Silent(format!(
                "nothing answers at {node}: {error}; check that the node runs, and that BROADCAST_NODE (--node) is right"
            ))
        })?;
        // What becomes of it the answer tells.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
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
            f.write_str("; set BROADCAST_HTTP_TOKEN, or BROADCAST_HTTP_TOKEN_FILE (--http-token-file)")?;
        }
        Ok(())
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::other(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_an_http_url() {
        for (text, shown) in [
            ("http://127.0.0.1:8946", "http://127.0.0.1:8946"),
            ("http://127.0.0.1:8946/", "http://127.0.0.1:8946"),
            (" http://[::1]:1 ", "http://[::1]:1"),
            ("http://node1", "http://node1:80"),
            ("http://[fe80::1%25eth0]:8946", "http://[fe80::1%25eth0]:8946"),
            ("http://[fe80::1%25eth0]/a", "http://[fe80::1%25eth0]:80/a"),
            ("HTTP://proxy.example.org/node1/", "http://proxy.example.org:80/node1"),
            ("localhost:8947", "http://localhost:8947"),
            (" node1 ", "http://node1:8946"),
            ("127.0.0.1", "http://127.0.0.1:8946"),
            ("[::1]:1", "http://[::1]:1"),
            ("[fe80::1%25eth0]", "http://[fe80::1%25eth0]:8946"),
            ("proxy.example.org:80/node1/", "http://proxy.example.org:80/node1"),
        ] {
            assert_eq!(text.parse::<NodeUrl>().expect(text).to_string(), shown);
        }
        for text in [
            "",
            " ",
            "a b",
            "localhost:",
            "localhost:http",
            "ftp://node1",
            "http://",
            "http://:1",
            "http://a:0",
            "http://a:99999",
            "http://a?b",
        ] {
            assert!(
                text.parse::<NodeUrl>()
                    .expect_err(text)
                    .ends_with("write it like localhost:8946 or http://127.0.0.1:8946"),
                "{text}"
            );
        }
        assert!("https://node1".parse::<NodeUrl>().expect_err("no TLS").contains("tunnel"));
        assert!(":secret@node1".parse::<NodeUrl>().expect_err("no token").contains("BROADCAST_HTTP_TOKEN"));
        assert!("http://:secret@node1".parse::<NodeUrl>().expect_err("no token").contains("BROADCAST_HTTP_TOKEN"));
    }
}
