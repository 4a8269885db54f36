//! The HTTP API over TLS, asked by curl and openssl, which share no code with the node.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::curl;
use crate::support::{Process, program, refusal, require, stdout, tls::Certificates};

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let tests: &[require::Test] = &[
        ("tls/curl_chooses_the_version", curl_chooses_the_version),
        ("tls/curl_needs_a_certificate_and_a_token", curl_needs_a_certificate_and_a_token),
        (
            "tls/curl_sees_no_failure_while_certificates_are_renewed",
            curl_sees_no_failure_while_certificates_are_renewed,
        ),
        ("tls/openssl_shakes_hands_oddly", openssl_shakes_hands_oddly),
        ("tls/openssl_reads_what_is_made", openssl_reads_what_is_made),
        ("tls/a_certificate_of_version_1_is_told_as_such", a_certificate_of_version_1_is_told_as_such),
    ];
    require::cases(missing().as_ref(), tests)
}

fn missing() -> Option<String> {
    curl::missing(&["HTTP2", "SSL"]).or_else(|| {
        (!require::answers(Command::new("openssl").arg("version")))
            .then(|| "openssl is not installed: install it".into())
    })
}

fn node(made: &Certificates, args: &[&str], env: &[(&str, &str)]) -> (Process, SocketAddr) {
    let node = made.node(args, env);
    let at = node.http();
    (node, at)
}

/// What curl is told: the body, and then the protocol's version and the status. Its exit code, if that is not 0.
fn curl(at: SocketAddr, path: &str, args: &[&str]) -> Result<(String, String), i32> {
    let told = curl::fetch(&format!("https://localhost:{}{path}", at.port()), args);
    if told.code == 0 { Ok((told.body, told.status)) } else { Err(told.code) }
}

fn curl_chooses_the_version() {
    let made = Certificates::new(&[]);
    let (_node, at) = node(&made, &[], &[]);
    let ca = made.file("ca.pem");
    let message = ["--cacert", &*ca, "--data", r#"{"key":"k","value":[1,2]}"#];
    for (version, args) in [
        ("2", &["--http2"][..]),
        ("1.1", &["--http1.1"]),
        ("2", &["--http2", "--tls-max", "1.2"]),
        ("1.1", &["--no-alpn"]),
        ("2", &["--http2-prior-knowledge"]),
    ] {
        let (_, status) = curl(at, "/v1/messages", &[&message[..], args].concat()).expect("it is answered");
        assert_eq!(status, format!("{version} 202"), "{args:?}");
        let (page, status) = curl(at, "/", &[&["--cacert", &ca], args].concat()).expect("it is answered");
        assert!(page.contains("</html>") && status == format!("{version} 200"), "{args:?}: {status}");
        let (health, status) = curl(at, "/livez", &[&["--cacert", &ca], args].concat()).expect("it is answered");
        assert!(health.contains("alive") && status == format!("{version} 200"), "{args:?}: {status}");
    }
    // It follows until its time is over: the five messages, over a stream that has no end.
    let output = Command::new("curl")
        .args(["--silent", "--no-buffer", "--max-time", "3", "--cacert", &ca])
        .arg(format!("https://localhost:{}/v1/messages?last=5", at.port()))
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("\ndata: ").count(), 5);
    let other = Certificates::new(&[]);
    assert_eq!(
        curl(at, "/livez", &["--cacert", &other.file("ca.pem")]),
        Err(60),
        "the peer's certificate cannot be verified"
    );
    // Too old, or not at all.
    assert_eq!(curl(at, "/livez", &["--cacert", &ca, "--tls-max", "1.1"]), Err(35), "there is no common version");
}

fn curl_needs_a_certificate_and_a_token() {
    let made = Certificates::new(&[]);
    let (ca, cert, key) = (made.file("ca.pem"), made.file("client.pem"), made.file("client-key.pem"));
    let tokens = made.file("tokens");
    std::fs::write(&tokens, "look: read look-look-look\n").expect("it is written");
    let (node, at) = node(&made, &["--tls-client-ca-file", &ca, "--tokens-file", &tokens], &[]);
    let trust = ["--cacert", &*ca];
    let shows = [&trust[..], &["--cert", &cert, "--key", &key]].concat();
    let token = ["--header", "authorization: Bearer look-look-look"];
    let status = |args: &[&[&str]]| curl(at, "/v1/members", &args.concat()).map(|(_, status)| status);
    for http in ["--http1.1", "--http2"] {
        let version = if http == "--http2" { "2" } else { "1.1" };
        assert_eq!(status(&[&shows, &token, &[http]]), Ok(format!("{version} 200")));
        assert_eq!(status(&[&shows, &[http]]), Ok(format!("{version} 401")));
        assert_eq!(status(&[&trust, &token, &[http]]), Ok(format!("{version} 403")));
        let change = ["--request", "PUT", "--data", "{}"];
        assert_eq!(status(&[&shows, &token, &change, &[http]]), Ok(format!("{version} 405")), "to read is enough here");
        let published = curl(at, "/v1/messages", &[&shows[..], &token, &["--data", "{}", http]].concat());
        let (problem, told) = published.expect("it is answered");
        assert!(told.ends_with(" 403") && problem.contains(r#""scope":"publish""#), "{told}: {problem}");
    }
    let (health, _) = curl(at, "/livez", &trust).expect("it is answered");
    assert!(health.contains("alive"), "{health}");
    let line = serde_json::json!({"event": "audit", "who": "look", "by": "token", "outcome": "refused", "status": 403});
    node.log.wait_line(0, &line);
    // Of another authority.
    let other = Certificates::new(&[]);
    let (cert, key) = (other.file("client.pem"), other.file("client-key.pem"));
    let foreign = curl(at, "/livez", &[&trust[..], &["--cert", &cert, "--key", &key]].concat());
    assert!(matches!(foreign, Err(35 | 55 | 56)), "{foreign:?}");
}

fn curl_sees_no_failure_while_certificates_are_renewed() {
    let made = Certificates::new(&[]);
    let (node, at) = node(&made, &[], &[]);
    let other = Certificates::new(&[]);
    let both = made.file("both.pem");
    let read = |file: &str| std::fs::read_to_string(file).expect("it is there");
    std::fs::write(&both, read(&made.file("ca.pem")) + &read(&other.file("ca.pem"))).expect("it is written");
    let pairs: Vec<_> = [&made.file("server"), &other.file("server")]
        .map(|pair| [format!("{pair}.pem"), format!("{pair}-key.pem")].map(|file| read(&file)))
        .into();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking: Vec<_> = ["--http1.1", "--http2"]
            .into_iter()
            .map(|version| {
                let (both, over) = (&both, &over);
                scope.spawn(move || {
                    let mut asked = 0;
                    while !over.load(Ordering::Relaxed) {
                        let (_, status) =
                            curl(at, "/v1/members", &["--cacert", both, version]).expect("it is answered");
                        assert!(status.ends_with(" 200"), "{status}");
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        for (round, [cert, key]) in pairs.iter().cycle().skip(1).take(4).enumerate() {
            std::fs::write(made.file("server.pem"), cert).expect("it is written");
            std::fs::write(made.file("server-key.pem"), key).expect("it is written");
            node.signal("HUP");
            // The change may be seen as well, and read again once more.
            node.log.wait_lines(round + 1, &serde_json::json!({"event": "tls", "level": "INFO"}));
        }
        over.store(true, Ordering::Relaxed);
        for asked in asking {
            assert!(asked.join().expect("none has failed") > 0);
        }
    });
}

/// `openssl x509 -req` makes such a certificate if it gets no extensions.
fn a_certificate_of_version_1_is_told_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (request, key, cert) = (path("request.pem"), path("key.pem"), path("cert.pem"));
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).output().expect("openssl runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", &key];
    openssl(&[&["req", "-new", "-subj", "/CN=localhost", "-out", &request], &new_key[..]].concat());
    openssl(&["x509", "-req", "-in", &request, "-signkey", &key, "-days", "30", "-out", &cert]);
    let node = program(&["node", "--tls-cert-file", &cert, "--tls-key-file", &key]).output().expect("it runs");
    let told = refusal(node, 2);
    assert!(
        told.contains("BROADCAST_TLS_CERT_FILE (--tls-cert-file): its certificate is of X.509 version 1"),
        "{told}"
    );
    assert!(told.contains("needs -extfile"), "{told}");
    let shows = ["--node", "https://localhost:1", "--cert-file", &cert, "--key-file", &key];
    let told = refusal(program(&[&["members"], &shows[..]].concat()).output().expect("it runs"), 2);
    assert!(told.contains("BROADCAST_CERT_FILE (--cert-file) = "), "{told}");
    assert!(told.contains("its certificate is of X.509 version 1"), "{told}");
}

/// What openssl prints about a handshake. It verifies nothing.
fn s_client(at: SocketAddr, args: &[&str], said: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &at.to_string(), "-servername", "localhost"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    client.stdin.take().expect("it is piped").write_all(said.as_bytes()).expect("it reads");
    let mut told = String::new();
    let output = client.wait_with_output().expect("it ends");
    told += &String::from_utf8_lossy(&output.stdout);
    told += &String::from_utf8_lossy(&output.stderr);
    told
}

fn openssl_shakes_hands_oddly() {
    let made = Certificates::new(&[]);
    let (node, at) = node(&made, &[], &[]);
    for (args, expected) in [
        (&["-tls1_3"][..], "TLSv1.3"),
        (&["-tls1_2"], "TLSv1.2"),
        (&["-alpn", "h2"], "ALPN protocol: h2"),
        (&["-alpn", "http/1.0,http/1.1"], "ALPN protocol: http/1.1"),
        // None that is known.
        (&["-alpn", "spdy/1"], "no application protocol"),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "alert"),
        (&["-tls1_2", "-cipher", "AES128-SHA"], "alert"),
        (&["-groups", "P-521"], "alert"),
    ] {
        let told = s_client(at, args, "");
        assert!(told.contains(expected), "{args:?}: {told}");
    }
    // A name that nobody has is answered as any other: it is for the client to refuse.
    let told = s_client(at, &["-servername", "evil.example.org"], "");
    assert!(told.contains("BEGIN CERTIFICATE"), "{told}");
    // A renegotiation is refused, and costs its connection only.
    let told = s_client(at, &["-tls1_2"], "R\n");
    assert!(!told.contains("HTTP/1.1 200"), "{told}");
    let mut slow = std::net::TcpStream::connect(at).expect("it listens");
    slow.write_all(&[22, 3, 1]).expect("it is taken");
    let (health, status) = curl(at, "/livez", &["--cacert", &made.file("ca.pem")]).expect("it is answered");
    assert!(health.contains("alive") && status.ends_with(" 200"), "{status}");
    let mut noise = std::net::TcpStream::connect(at).expect("it listens");
    // A hello of four bytes that say nothing.
    noise.write_all(&[22, 3, 1, 0, 8, 1, 0, 0, 4, 9, 9, 9, 9]).expect("it is taken");
    let mut heard = Vec::new();
    let _ = noise.read_to_end(&mut heard);
    assert!(heard.len() < 100, "an alert, and no more: {heard:?}");
    drop((slow, node));
}

fn openssl_reads_what_is_made() {
    let made = Certificates::new(&[]);
    let text = Command::new("openssl").args(["x509", "-noout", "-text", "-in", &made.file("server.pem")]).output();
    let text = stdout(text.expect("openssl runs"));
    for part in ["DNS:localhost", "IP Address:127.0.0.1", "TLS Web Server Authentication"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let verified = Command::new("openssl")
        .args(["verify", "-CAfile", &made.file("ca.pem"), &made.file("server.pem"), &made.file("client.pem")])
        .output()
        .expect("openssl runs");
    assert_eq!(stdout(verified).matches(": OK").count(), 2);
}
