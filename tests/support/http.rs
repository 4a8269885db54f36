//! An HTTP client for tests. It uses plain sockets and requests written by hand, so that it can also misbehave.

use std::{
    io::{BufRead, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use super::LIMIT;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The lines of its head but the first.
    pub head: Vec<String>,
    /// Its body, whole.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, of the first there is.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.iter().filter_map(|line| line.split_once(':'));
        let mut named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    }

    /// The body, which is JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection, with time limits so that no test waits without end.
#[track_caller]
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    stream.set_write_timeout(Some(LIMIT)).expect("a time limit");
    stream
}

/// A request's bytes. The additional `headers` look like `name: value`.
pub fn request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n");
    headers.iter().for_each(|header| head += &format!("{header}\r\n"));
    if !body.is_empty() || matches!(method, "POST" | "PUT") {
        head += &format!("content-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Asks over a connection of its own.
#[track_caller]
pub fn ask(to: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let headers = [headers, &["connection: close"]].concat();
    raw(to, &request(method, path, &headers, body))
}

/// Sends these bytes, and reads an answer, of a server that closes after it.
#[track_caller]
pub fn raw(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(to);
    // One that refuses may close before it has read all.
    let _ = stream.write_all(bytes);
    read(&mut BufReader::new(stream)).expect("it answers")
}

/// Asks for a stream over HTTP/1.0, whose bodies have no chunks. Expects the status 200; gives the stream from its body on, and
/// the lines of its head.
#[track_caller]
pub fn open_stream(to: SocketAddr, path: &str, headers: &[&str]) -> (BufReader<TcpStream>, Vec<String>) {
    let mut stream = BufReader::new(connect(to));
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head = format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n{headers}\r\n");
    stream.get_mut().write_all(head.as_bytes()).expect("it is taken");
    let (status, head) = read_head(&mut stream).expect("it answers");
    assert_eq!(status, 200, "{path}: {head:?}");
    (stream, head)
}

/// A node's metrics, as Prometheus reads them.
#[track_caller]
pub fn metrics(to: SocketAddr) -> String {
    let answer = ask(to, "GET", "/metrics", &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Reads a head: the status, and its other lines. Gives nothing if the stream ends instead.
pub fn read_head(stream: &mut impl BufRead) -> Option<(u16, Vec<String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines.remove(0).split(' ').nth(1)?.parse().ok()?;
    Some((status, lines))
}

/// Reads an answer, whose body has a length or ends with the connection.
pub fn read(stream: &mut impl BufRead) -> Option<Answer> {
    let (status, head) = read_head(stream)?;
    let mut answer = Answer { status, head, body: Vec::new() };
    match answer.header("content-length").and_then(|length| length.parse().ok()) {
        Some(length) if answer.header("connection") != Some("close") => {
            answer.body.resize(length, 0);
            stream.read_exact(&mut answer.body).ok()?;
        }
        _ => {
            // Whoever is cut off has what came before.
            let _ = stream.read_to_end(&mut answer.body);
        }
    }
    Some(answer)
}
