//! What the fuzzers `http` and `authority` in `fuzz/` run, and what the ordinary tests replay of what they found.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue},
};

use super::{
    connection::{PREFACE, strip_all},
    guard,
    problem::Problem,
    publish::{self, AckMode},
    query,
    stream_format::Cursor,
    streams,
};

/// The longest body of a problem, in bytes.
const MAX_PROBLEM_BYTES: usize = 8192;

/// Reads a request as far as the node is not needed: a line with path and query, lines of headers, a blank line and a body. No
/// problem may be long.
pub fn http(data: &[u8]) {
    let end = data.windows(2).position(|bytes| bytes == b"\n\n");
    let (head, body) = end.map_or((data, &[][..]), |end| (&data[..end], &data[end + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let uri = lines.next().unwrap_or_default();
    let mut request = Request::new(Body::empty());
    match std::str::from_utf8(uri).ok().and_then(|uri| uri.parse().ok()) {
        Some(uri) => *request.uri_mut() = uri,
        None => return,
    }
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            request.headers_mut().append(name, value);
        }
    }
    let (uri, headers) = (request.uri(), request.headers());
    let _ = guard::ambiguous(&request);
    check_problem(query::reject_any(uri));
    check_problem(
        query::read(uri, ["ack", "timeout"]).and_then(|[ack, time]| AckMode::read(ack.as_deref(), time.as_deref())),
    );
    check_problem(
        query::read(uri, ["messages"]).and_then(|[messages]| query::parse_message_count("messages", messages)),
    );
    check_problem(query::read(uri, ["key", "from", "last", "after"]).and_then(|[_, _, last, after]| {
        query::parse_message_count("last", last)?;
        streams::resume_cursor(headers, after.as_deref())
    }));
    if let Ok(Some(cursor)) = streams::resume_cursor(headers, None) {
        let again = cursor.to_string().parse::<Cursor>();
        assert_eq!(again, Ok(cursor));
    }
    check_problem(streams::negotiate_format(headers));
    for line in body.split(|byte| *byte == b'\n') {
        check_problem(publish::parse(line));
    }
}

/// Reads a connection of HTTP/2 from behind its preface, in pieces whose length is the first byte. Of it, nothing but schemes
/// may be left out, and that does not depend on the pieces.
pub fn authority(data: &[u8]) {
    let Some((&length, sent)) = data.split_first() else { return };
    let sent = [PREFACE, sent].concat();
    let read = strip_all([&*sent]);
    assert_eq!(read, strip_all(sent.chunks(usize::from(length).max(1))), "in pieces of {length}");
    assert!(read == sent || read.len() < sent.len(), "{} bytes became {}", sent.len(), read.len());
}

fn check_problem<T>(read: Result<T, Problem>) {
    if let Err(problem) = read {
        let body = problem.body();
        assert!(body.len() <= MAX_PROBLEM_BYTES, "{} bytes", body.len());
        assert!(!body.chars().any(char::is_control), "{body:?}");
        serde_json::from_str::<serde_json::Value>(&body).expect("a problem is JSON");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpora_hold() {
        super::replay::replay("http", super::http);
        super::replay::replay("authority", super::authority);
    }

    #[test]
    fn what_is_long_is_refused_in_few_words() {
        let long = "x".repeat(60_000);
        for request in [
            format!("/v1/messages?last={long}&{long}=1"),
            format!("/v1/messages?{long}"),
            format!("/v1/messages?ack={long}"),
            format!("/v1/messages?after={long}"),
            format!("/v1/messages\naccept: {long}\nlast-event-id: {long}"),
            format!("/v1/messages\n\n{{\"{long}\": 1}}"),
            format!("/v1/messages\n\n{{\"key\": \"a\", \"value\": 1, \"{long}\": 1}}"),
            format!("/v1/messages\n\n\"{long}\""),
        ] {
            super::http(request.as_bytes());
        }
    }
}
