//! What the fuzzer `http` in `fuzz/` runs, and what the ordinary tests replay of what it found.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue},
};

use super::{
    events::Cursor,
    follow, guard,
    problem::Problem,
    publish::{self, Ack},
    query,
};

/// A refusal has at most so many bytes, whatever it refuses.
const PROBLEM: usize = 8192;

/// A request, as far as it is read before the node is asked: a line with path and query, lines of headers, a blank line and
/// a body. What is refused is refused in few words.
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
    let _ = guard::unclear(&request);
    refused(query::none(uri));
    refused(query::read(uri, ["ack", "timeout"]).and_then(|[ack, time]| Ack::read(ack.as_deref(), time.as_deref())));
    refused(query::read(uri, ["messages"]).and_then(|[messages]| query::messages("messages", messages)));
    refused(query::read(uri, ["key", "from", "last", "after"]).and_then(|[_, _, last, after]| {
        query::messages("last", last)?;
        follow::last_heard(headers, after.as_deref())
    }));
    if let Ok(Some(cursor)) = follow::last_heard(headers, None) {
        let again = cursor.to_string().parse::<Cursor>();
        assert_eq!(again, Ok(cursor));
    }
    refused(follow::form(headers));
    for line in body.split(|byte| *byte == b'\n') {
        refused(publish::parse(line));
    }
}

fn refused<T>(read: Result<T, Problem>) {
    if let Err(problem) = read {
        let body = problem.body();
        assert!(body.len() <= PROBLEM, "{} bytes", body.len());
        assert!(!body.chars().any(char::is_control), "{body:?}");
        serde_json::from_str::<serde_json::Value>(&body).expect("a problem is JSON");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        super::replay::replay("http", super::http);
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
