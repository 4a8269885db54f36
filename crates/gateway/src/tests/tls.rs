//! TLS: the same answers, and the same bounds.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Instant, SystemTime},
};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{audited::Collected, *};
use crate::{Pem, Tls, TlsError, crypto_provider, tls::handshakes::MAX_HANDSHAKE};

/// An authority of its own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
struct Pair {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Of that name, until that year.
    fn pair(&self, name: &str, usage: ExtendedKeyUsagePurpose, until: i32) -> Pair {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        Pair { cert: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }

    fn server(&self) -> Pair {
        self.pair("server", ExtendedKeyUsagePurpose::ServerAuth, 2090)
    }

    fn client(&self, until: i32) -> Pair {
        self.pair("alice\n", ExtendedKeyUsagePurpose::ClientAuth, until)
    }
}

impl Pair {
    fn pem<'a>(&'a self, client_ca: Option<&'a str>) -> Pem<'a> {
        Pem { cert: self.cert.as_bytes(), key: self.key.as_bytes(), client_ca: client_ca.map(str::as_bytes) }
    }
}

/// A client that trusts this authority.
fn client(trusts: &Authority, shows: Option<&Pair>, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusts.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(crypto_provider()).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn connect(at: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    let name = ServerName::try_from("localhost").unwrap();
    timeout(SOON, TlsConnector::from(Arc::clone(config)).connect(name, stream)).await.expect("it shakes hands")
}

/// Status and body, over a connection of its own.
async fn ask_tls(
    at: SocketAddr,
    config: &Arc<ClientConfig>,
    method: &str,
    path: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = connect(at, config).await?;
    let body = if method == "POST" { r#"{"key":"k","value":1}"# } else { "" };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: node1.example.org\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut heard = String::new();
    timeout(SOON, stream.read_to_string(&mut heard)).await.expect("it ends")?;
    let (head, body) = heard.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.into()))
}

fn config(tls: &Tls) -> GatewayConfig {
    GatewayConfig { tls: Some(tls.clone()), ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) }
}

#[tokio::test]
async fn both_versions_are_spoken_and_the_client_chooses() {
    let authority = Authority::new();
    let tls = Tls::new(authority.server().pem(None)).unwrap();
    let (node, at) = served_with("a", &[], config(&tls)).await;
    for (alpn, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
        (&["http/1.1", "h2"], Some("h2")),
    ] {
        let stream = connect(at, &client(&authority, None, alpn)).await.unwrap();
        let spoken = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap());
        assert_eq!(spoken.as_deref(), chosen, "{alpn:?}");
        let request = hyper::Request::builder()
            .method("POST")
            .uri(format!("https://node1.example.org:{}/v1/messages", at.port()));
        // A name with dots is the certificate's business.
        let request = request.header("host", format!("node1.example.org:{}", at.port()));
        let origin = format!("https://node1.example.org:{}", at.port());
        let request = request.header("origin", &origin);
        let request = request.body(Full::new(bytes::Bytes::from(r#"{"key":"k","value":1}"#))).unwrap();
        let answer = if chosen == Some("h2") {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(answer.status(), 202, "{alpn:?}");
    }
    // A page without TLS is another one, and so is one that speaks it under another name.
    for origin in [format!("http://node1.example.org:{}", at.port()), "https://evil.net".into()] {
        let mut stream = connect(at, &client(&authority, None, &[])).await.unwrap();
        let request = format!(
            "GET /v1/members HTTP/1.1\r\nhost: node1.example.org:{}\r\norigin: {origin}\r\nconnection: close\r\n\r\n",
            at.port()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 403 "), "{origin}: {heard}");
    }
    node.leave().await;
}

#[tokio::test]
async fn who_speaks_plainly_is_told_how_to_speak() {
    let tls = Tls::new(Authority::new().server().pem(None)).unwrap();
    let (node, at) = served_with("a", &[], config(&tls)).await;
    for path in ["/v1/members", "/healthz"] {
        let (status, problem) = get(at, path).await;
        assert_eq!(status, 400);
        assert!(problem["detail"].as_str().unwrap().contains("write https://"), "{problem}");
    }
    node.leave().await;
}

#[tokio::test]
async fn who_needs_a_certificate_shows_one_that_is_good() {
    let (log, _guard) = Collected::begin();
    let (authority, clients, other) = (Authority::new(), Authority::new(), Authority::new());
    let ca = clients.pem();
    let tls = Tls::new(authority.server().pem(Some(&ca))).unwrap();
    let (node, at) = served_with("a", &[], config(&tls)).await;
    let good = client(&authority, Some(&clients.client(2090)), &[]);
    assert_eq!(ask_tls(at, &good, "POST", "/v1/messages").await.unwrap().0, 202);
    let lines = log.0.lock().unwrap().clone();
    // It cannot end the line by its name, nor what is told of it.
    assert!(lines[0]["message"].as_str().unwrap().contains(r#"audit: "CN=alice\n" from 127.0.0.1:"#), "{lines:?}");
    assert_eq!(json!(log.take(&["who", "by", "status"])), json!([["CN=alice\n", "certificate", 202]]));

    let none = client(&authority, None, &[]);
    let (status, problem) = ask_tls(at, &none, "POST", "/v1/messages").await.unwrap();
    assert!(status == 403 && problem.contains("client certificate"), "{status}: {problem}");
    assert_eq!(json!(log.take(&["who", "by", "status"])), json!([["anonymous", "nothing", 403]]));
    assert_eq!(ask_tls(at, &none, "GET", "/livez").await.unwrap().0, 200, "orchestrators have none");
    for (bad, why) in [
        (other.client(2090), "from another authority"),
        (clients.client(2020), "expired"),
        (clients.pair("server", ExtendedKeyUsagePurpose::ServerAuth, 2090), "for servers"),
    ] {
        let bad = client(&authority, Some(&bad), &[]);
        assert!(ask_tls(at, &bad, "GET", "/livez").await.is_err(), "{why}");
    }
    // Who does not trust the server says so.
    assert!(ask_tls(at, &client(&other, None, &[]), "GET", "/livez").await.is_err());
    let (_, metrics) = ask_tls(at, &good, "GET", "/metrics").await.unwrap();
    assert!(metrics.contains("\nbroadcast_http_tls_handshakes_failed_total 4\n"), "{metrics}");
    node.leave().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_while_connections_come_and_stay() {
    let (first, second) = (Authority::new(), Authority::new());
    let tls = Tls::new(first.server().pem(None)).unwrap();
    let (node, at) = served_with("a", &[], config(&tls)).await;
    let [trusts_first, trusts_second] = [&first, &second].map(|authority| client(authority, None, &[]));
    let mut kept = connect(at, &trusts_first).await.unwrap();
    let mut ask_kept = async || {
        kept.write_all(b"HEAD /v1/members HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut heard = [0; 12];
        kept.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"HTTP/1.1 200");
        let mut rest = [0; 1 << 10];
        assert!(kept.read(&mut rest).await.unwrap() > 0);
    };
    ask_kept().await;

    // What is no good changes nothing.
    let (pair, expired) = (second.server(), second.pair("a", ExtendedKeyUsagePurpose::ServerAuth, 2020));
    let first_pair = first.server();
    for (pem, problem) in [
        (Pem { cert: b"", ..pair.pem(None) }, "`tls_cert_file`: there is no certificate in it"),
        (Pem { key: b"", ..pair.pem(None) }, "`tls_key_file`: there is no private key in it"),
        (Pem { key: first_pair.key.as_bytes(), ..pair.pem(None) }, "`tls_key_file` has not the key of the certificate"),
        (
            Pem { cert: &pair.cert.as_bytes()[..200], ..pair.pem(None) },
            "`tls_cert_file`: a certificate in it cannot be read",
        ),
        (expired.pem(None), "`tls_cert_file`: its certificate has expired at 2020-01-01T00:00:00Z; renew it"),
        (pair.pem(Some("")), "`tls_client_ca_file`: there is no certificate in it"),
    ] {
        let error = tls.replace(pem).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{error}");
        assert!(ask_tls(at, &trusts_first, "GET", "/v1/members").await.is_ok());
    }
    assert!(matches!(tls.replace(expired.pem(None)), Err(TlsError::Expired(at)) if at < SystemTime::now()));

    // Some ask all the time, whichever of the two there is.
    let both = {
        let mut roots = RootCertStore::empty();
        for authority in [&first, &second] {
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        }
        let builder =
            ClientConfig::builder_with_provider(crypto_provider()).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    };
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let both = Arc::clone(&both);
            tokio::spawn(async move {
                for _ in 0..50 {
                    assert_eq!(ask_tls(at, &both, "GET", "/v1/members").await.unwrap().0, 200);
                }
            })
        })
        .collect();
    while !asking.iter().all(tokio::task::JoinHandle::is_finished) {
        for authority in [&second, &first] {
            tls.replace(authority.server().pem(None)).unwrap();
            tokio::task::yield_now().await;
        }
    }
    for asked in asking {
        asked.await.unwrap();
    }
    tls.replace(second.server().pem(None)).unwrap();
    assert_eq!(ask_tls(at, &trusts_second, "GET", "/v1/members").await.unwrap().0, 200);
    assert!(ask_tls(at, &trusts_first, "GET", "/v1/members").await.is_err());
    ask_kept().await;
    node.leave().await;
}

/// Both ends of thousands of connections are here.
fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the limit can be raised to what it may be");
}

/// What a client begins with, as it is sent.
fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn handshakes_that_do_not_go_on_keep_nobody_out() {
    allow_many_files();
    let authority = Authority::new();
    let tls = Tls::new(authority.server().pem(None)).unwrap();
    let (node, at) = served_with("a", &[], config(&tls)).await;
    let asks = client(&authority, None, &[]);
    let hello = hello(&asks);
    // Of three, one says nothing at all, one a part of a hello, and one the whole.
    let mut held = Vec::new();
    for i in 0..2000 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&hello[..[0, 11, hello.len()][i % 3]]).await.unwrap();
        held.push(stream);
    }
    for path in ["/livez", "/v1/members"] {
        let began = Instant::now();
        assert_eq!(ask_tls(at, &asks, "GET", path).await.unwrap().0, 200);
        // As long as the program's own health check waits.
        assert!(began.elapsed() < Duration::from_secs(2), "{path}: {:?}", began.elapsed());
    }
    drop(held);
    node.leave().await;
}

#[tokio::test]
async fn whoever_begins_thousands_of_handshakes_keeps_no_health_check_out() {
    const HALF_OPEN: usize = 3500;
    allow_many_files();
    let authority = Authority::new();
    let tls = Tls::new(authority.server().pem(None)).unwrap();
    let bind = "127.0.0.1:0".parse().unwrap();
    let node = start(broadcast::Config::new("a").bind(bind).profile(Profile::Local)).await.expect("starts");
    let server = Server::bind(config(&tls)).expect("loopback has free ports");
    let at = server.addr();
    let serving = server.spawn(node.clone()).unwrap();
    let asks = client(&authority, None, &[]);
    let (hello, begun) = (hello(&asks), Arc::new(AtomicUsize::new(0)));
    // From where the health check comes, too, but by a thread of their own.
    let strangers = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stop, stopped) = oneshot::channel::<Infallible>();
    for i in 0..HALF_OPEN as u64 {
        let (hello, begun) = (hello.clone(), Arc::clone(&begun));
        strangers.spawn(async move {
            loop {
                let mut stream = TcpStream::connect(at).await.unwrap();
                let _ = stream.write_all(&hello).await;
                begun.fetch_add(1, Ordering::Relaxed);
                // Each begins anew now and then, or when it is cut off.
                let _ = timeout(Duration::from_millis(5000 + 4 * i), stream.read_to_end(&mut Vec::new())).await;
            }
        });
    }
    let strangers = thread::spawn(move || drop(strangers.block_on(stopped)));
    let until_begun = async |count: usize| {
        let waiting = async {
            while begun.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, waiting).await.expect("they are let in");
    };
    until_begun(HALF_OPEN).await;
    // What came all at once takes its time once.
    assert_eq!(ask_tls(at, &asks, "GET", "/livez").await.unwrap().0, 200);
    let mut slowest = Duration::ZERO;
    for i in 1..=20 {
        let began = Instant::now();
        assert_eq!(ask_tls(at, &asks, "GET", "/livez").await.unwrap().0, 200);
        slowest = slowest.max(began.elapsed());
        // They go on meanwhile.
        until_begun(HALF_OPEN + 20 * i).await;
    }
    println!("{HALF_OPEN} half-open handshakes: health told within {slowest:?}");
    // As long as the program's own health check waits.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    drop(stop);
    node.leave().await;
    tokio::task::spawn_blocking(|| [strangers, serving].map(|thread| thread.join().unwrap())).await.unwrap();
}

#[tokio::test]
async fn a_handshake_may_be_so_long_and_no_longer() {
    let authority = Authority::new();
    let ca = authority.pem();
    let tls = Tls::new(authority.server().pem(Some(&ca))).unwrap();
    let (node, at) = served_with("a", &[], config(&tls)).await;
    // A chain of certificates of clients that is longer than any in use, and one that does not end soon enough.
    let alone = authority.client(2090);
    let length = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap().len();
    for (bytes, is_taken) in [(3 * MAX_HANDSHAKE / 4, true), (MAX_HANDSHAKE + 8192, false)] {
        let pair = Pair { cert: alone.cert.clone() + &ca.repeat(bytes / length), key: alone.key.clone() };
        let asked = ask_tls(at, &client(&authority, Some(&pair), &[]), "GET", "/v1/members").await;
        assert_eq!(asked.is_ok_and(|(status, _)| status == 200), is_taken, "{bytes}");
    }
    // A hello that is said to have almost 64 KiB, in records of 16.
    let mut stream = TcpStream::connect(at).await.unwrap();
    let began = Instant::now();
    let hello = [&[1, 0, 0xff, 0][..], &vec![3; 0xff00]].concat();
    for record in hello.chunks(MAX_HANDSHAKE) {
        let length = u16::try_from(record.len()).unwrap().to_be_bytes();
        // It may be cut off before it has sent all.
        let _ = stream.write_all(&[&[22, 3, 1], &length[..], record].concat()).await;
    }
    let _ = timeout(SOON, stream.read_to_end(&mut Vec::new())).await.expect("it is cut off");
    assert!(began.elapsed() < Timeouts::default().head / 2, "at once");
    node.leave().await;
}

#[tokio::test]
async fn whoever_is_slow_is_cut_off_as_without_it() {
    let timeouts = Timeouts {
        head: Duration::from_millis(400),
        body: Duration::from_millis(400),
        stall: Duration::from_millis(400),
    };
    let authority = Authority::new();
    let tls = Tls::new(authority.server().pem(None)).unwrap();
    let (node, at) = served_with("a", &[], GatewayConfig { timeouts, ..config(&tls) }).await;
    let ended = async |mut stream: TcpStream| {
        // However it ends.
        let _ = timeout(SOON, stream.read_to_end(&mut Vec::new())).await.expect("it is cut off");
    };
    // Nothing, a part of a hello, a hello byte by byte.
    ended(TcpStream::connect(at).await.unwrap()).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&[22, 3, 1]).await.unwrap();
    ended(stream).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let trickling = async {
        stream.write_all(&[22, 3, 1, 2, 0]).await?;
        loop {
            stream.write_all(&[1]).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _: std::io::Result<()> = timeout(SOON, trickling).await.expect("it is cut off");
    // Hands are shaken, and nothing is asked; or half of it.
    let asks = client(&authority, None, &[]);
    for said in ["", "GET /livez HTTP/1.1\r\nhost: a\r\nx: "] {
        let mut stream = connect(at, &asks).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut heard)).await.expect("it is cut off");
        assert!(heard.is_empty() || heard.starts_with(b"HTTP/1.1 408"), "{said:?}");
    }
    // One that follows, and reads nothing.
    let mut stream = connect(at, &asks).await.unwrap();
    stream.write_all(b"GET /v1/messages HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).await.unwrap();
    let (socket, _session) = stream.into_inner();
    let value = Value::from("x".repeat(1 << 16));
    let publishing = async {
        for _ in 0..400 {
            node.publish("k", &value).await.unwrap();
        }
    };
    timeout(4 * SOON, publishing).await.expect("nobody waits for it");
    let cut = async {
        loop {
            let (_, metrics) = ask_tls(at, &asks, "GET", "/metrics").await.unwrap();
            if metrics.contains("\nbroadcast_http_followers 0\n") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, cut).await.expect("it is cut off");
    drop(socket);
    node.leave().await;
}
