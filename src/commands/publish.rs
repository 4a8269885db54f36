//! `broadcast publish`: one message from the command line, or one for each line of standard input.
//!
//! Lines are sent as they arrive: all that are there make one request, and while the node takes it, the next lines gather.
//! So a typed line is sent at once, and a file by hundreds of lines.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use broadcast_gateway::{ACK_TIME, MAX_ACK_TIME, MAX_BODY};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use humantime::format_duration;
use hyper::{
    Method, StatusCode,
    header::{self, HeaderName},
};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio::{sync::mpsc, time::sleep};

use super::{
    client::{ApiClient, ApiRequest, ApiResponse, ClientError, JSON_BODY},
    output::{print_line, warn},
    signals::StopSignals,
};
use crate::{
    failure::Failure,
    settings::{client::ClientArgs, values::duration_in},
    visible,
};

/// How much of standard input one request takes, in bytes, unless one line is longer.
const MAX_BATCH: usize = 64 << 10;
/// How much the keys of a batch may take, in bytes: the key is repeated in each message.
const MAX_BATCH_KEYS: usize = 1 << 20;
/// How long a node may hold back a batch because members are slow.
const BATCH_WAIT: Duration = Duration::from_secs(60);
/// The header of a batch, with a message on each line.
const JSON_LINES_BODY: (HeaderName, &str) = (header::CONTENT_TYPE, "application/x-ndjson");
/// When to try again after the node had no room (429).
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Send a message to all nodes, through one of them
///
/// VALUE is read as JSON if possible, and otherwise as text: 42 is a number, '[1,2]' a list, hello a text, and so
/// is '"42"'. Without VALUE, each line of standard input is a value. Without KEY as well, each line is a whole
/// message, {"key": …, "value": …}. Lines are sent as they arrive.
///
/// The command prints the message's id. With --ack all it prints to how many nodes the message was delivered, and
/// how fast. With --json it prints the API's answers. Lines of standard input are sent in several parts, each with
/// its own answer: the numbers `published` in them add up to all messages that were published, even if the last
/// answer is a problem. The `line` in a problem is a line of standard input.
///
/// --ack all also waits for live nodes that have not kept up, for which publishers otherwise do not wait. It names
/// nodes that fail or leave in the meantime.
///
/// Exit codes: 0, published, and with --ack all delivered to every live node; 1, not published or not delivered in
/// time (standard error says why, and which nodes do not have the message); 2, wrong usage; 130, Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast publish greeting hello\n  \
    broadcast publish limits '{\"cpu\": 4}' --ack all --timeout 2s\n  \
    broadcast publish config - < config.json\n  \
    tail -f app.log | broadcast publish app.log --text\n  \
    printf '{\"key\":\"a\",\"value\":1}\\n' | broadcast publish --node 10.0.0.1:8946")]
pub(super) struct PublishArgs {
    /// Key of the message [default: taken from each line of standard input]
    #[arg(value_name = "KEY")]
    key: Option<String>,

    /// Value of the message; - reads all of standard input [default: one message for each line of standard input]
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    value: Option<String>,

    /// Treat the value as text, even if it is valid JSON
    #[arg(long, requires = "key")]
    text: bool,

    /// Wait until these nodes have acknowledged the message
    #[arg(long, value_enum, value_name = "WHO")]
    ack: Option<Ack>,

    #[arg(
        long,
        value_name = "DURATION",
        requires = "ack",
        value_parser = ack_time,
        help = format!(
            "How long to wait for acknowledgements, up to {} [default: {}]",
            format_duration(MAX_ACK_TIME),
            format_duration(ACK_TIME)
        )
    )]
    timeout: Option<Duration>,

    #[command(flatten)]
    client: ClientArgs,
}

/// Whose acknowledgement to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ack {
    /// Every live node
    All,
}

fn ack_time(text: &str) -> Result<Duration, String> {
    duration_in(text, &(Duration::from_millis(1)..=MAX_ACK_TIME))
}

pub(super) async fn run(args: PublishArgs) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::new().map_err(Failure::other)?;
    let publisher = Publisher {
        client: ApiClient::new(&args.client)?,
        json: args.client.json,
        ack: args.ack.map(|Ack::All| args.timeout.unwrap_or(ACK_TIME)),
    };
    let mut tally = Tally::default();
    let lines = args.value.is_none();
    let publishing = async {
        match (&args.key, args.value.as_deref()) {
            (Some(key), Some("-")) => publisher.one(key, &whole_input().await?, args.text).await,
            (Some(key), Some(value)) => publisher.one(key, value, args.text).await,
            (key, _) => publisher.lines(key.as_deref().map(|key| (key, args.text)), &mut tally).await,
        }
    };
    let ended = tokio::select! {
        ended = publishing => ended,
        code = signals.exit_code() => Ok(code),
    };
    if lines && !args.client.json && (ended.is_ok() || tally.published > 0) {
        print_line(&tally.to_string())?;
    }
    ended
}

/// A message as the API takes it.
#[derive(Serialize)]
struct MessageBody<'a> {
    key: &'a str,
    value: MessageValue<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum MessageValue<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

impl<'a> MessageBody<'a> {
    fn new(key: &'a str, value: &'a str, text: bool) -> Self {
        let json = serde_json::from_str(value).ok().filter(|_| !text);
        Self { key, value: json.map_or(MessageValue::Text(value), MessageValue::Json) }
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and JSON always serialise")
    }
}

struct Publisher {
    client: ApiClient,
    json: bool,
    /// How long to wait for acknowledgements; not at all, if none.
    ack: Option<Duration>,
}

impl Publisher {
    async fn one(&self, key: &str, value: &str, text: bool) -> Result<ExitCode, Failure> {
        let body = MessageBody::new(key, value, text).to_json();
        let answer = match self.post(JSON_BODY, body.into(), Duration::ZERO, "id").await {
            Ok(answer) => answer,
            Err(ClientError::Problem(answer)) if self.json => {
                self.print_json(&answer.text)?;
                return Ok(ExitCode::FAILURE);
            }
            Err(trouble) => return Err(trouble.into()),
        };
        if self.json {
            self.print_json(&answer.text)?;
        } else if self.ack.is_some() {
            print_line(&DeliveryReport::new(&answer).to_string())?;
        } else {
            print_line(&visible::escaped(answer.text("id")))?;
        }
        warn_if_alone(&answer);
        Ok(ExitCode::SUCCESS)
    }

    async fn lines(&self, key: Option<(&str, bool)>, tally: &mut Tally) -> Result<ExitCode, Failure> {
        let mut input = StdinReader::start().map_err(Failure::start)?;
        let most = MAX_BATCH_KEYS / (1 + key.map_or(0, |(key, _)| key.len()));
        // The first line of the next batch.
        let mut first_line = 1;
        let mut code = ExitCode::SUCCESS;
        while let Some(lines) = input.batch(most.max(1)).await.map_err(|problem| at_line(first_line, problem))? {
            let mut body = match key {
                None => lines.into(),
                Some((key, text)) => messages(key, text, &lines, first_line)?,
            };
            loop {
                match self.post(JSON_LINES_BODY, body.clone(), BATCH_WAIT, "published").await {
                    Ok(answer) => {
                        tally.add(&answer);
                        self.print_json(&answer.text)?;
                        warn_if_alone(&answer);
                        break;
                    }
                    // The node took the lines before the one that it names.
                    Err(ClientError::Problem(answer)) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                        let published = answer.number("published");
                        tally.published += published;
                        self.print_json(&json!({ "published": published }).to_string())?;
                        let taken = answer.number("line").saturating_sub(1) as usize;
                        body = body.slice(length_of_lines(&body, taken)..);
                        first_line += taken;
                        sleep(RETRY_PAUSE).await;
                    }
                    Err(ClientError::Problem(answer)) if answer.status == StatusCode::GATEWAY_TIMEOUT => {
                        tally.add(&answer);
                        self.print_json(&answer.text)?;
                        warn(&visible::escaped(answer.text("detail")));
                        code = ExitCode::FAILURE;
                        break;
                    }
                    Err(ClientError::Problem(answer)) if answer.json["line"].is_u64() => {
                        let published = answer.number("published");
                        tally.published += published;
                        // Each line is an object of its own.
                        let detail = answer.text("detail").replace(" at line 1 column ", " at column ");
                        let line = first_line + answer.number("line").saturating_sub(1) as usize;
                        let location = json!({ "line": line, "detail": detail });
                        self.print_json(&with_fields(&answer, location).to_string())?;
                        return Err(at_line(line, visible::escaped(&detail)));
                    }
                    // Nothing but blank lines.
                    Err(ClientError::Problem(answer)) if answer.json["published"].is_u64() => break,
                    Err(trouble) => {
                        if let ClientError::Problem(answer) = &trouble {
                            let location = json!({ "published": 0, "line": first_line });
                            self.print_json(&with_fields(answer, location).to_string())?;
                        }
                        return Err(at_line(first_line, trouble));
                    }
                }
            }
            first_line += length_in_lines(&body);
        }
        Ok(code)
    }

    async fn post(
        &self,
        content_type: (HeaderName, &str),
        body: Bytes,
        server_wait: Duration,
        expects: &str,
    ) -> Result<ApiResponse, ClientError> {
        let path = match self.ack {
            None => "/v1/messages".into(),
            Some(limit) => format!("/v1/messages?ack=all&timeout={}us", limit.as_micros()),
        };
        let server_wait = server_wait + self.ack.unwrap_or_default();
        let headers = &[content_type];
        let expects = if self.ack.is_some() { "delivered" } else { expects };
        self.client.call(ApiRequest { method: Method::POST, path: &path, headers, body, server_wait, expects }).await
    }

    fn print_json(&self, text: &str) -> Result<(), Failure> {
        if self.json { print_line(&visible::escaped_json(text)) } else { Ok(()) }
    }
}

/// A problem with these fields in place of the API's, which knows only its own part of standard input.
fn with_fields(answer: &ApiResponse, fields: serde_json::Value) -> serde_json::Value {
    let mut problem = answer.json.clone();
    if let (Some(problem), serde_json::Value::Object(fields)) = (problem.as_object_mut(), fields) {
        problem.extend(fields);
    }
    problem
}

/// Makes a message of each line.
fn messages(key: &str, text: bool, lines: &[u8], first_line: usize) -> Result<Bytes, Failure> {
    let mut body = Vec::with_capacity(2 * lines.len());
    for (i, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let value = std::str::from_utf8(line).map_err(|_| at_line(first_line + i, "it is not text (UTF-8)"))?;
        body.extend(MessageBody::new(key, value, text).to_json());
        body.push(b'\n');
    }
    Ok(body.into())
}

fn length_of_lines(text: &[u8], count: usize) -> usize {
    text.split_inclusive(|byte| *byte == b'\n').take(count).map(<[u8]>::len).sum()
}

fn length_in_lines(text: &[u8]) -> usize {
    text.split_inclusive(|byte| *byte == b'\n').count()
}

fn at_line(line: usize, problem: impl std::fmt::Display) -> Failure {
    Failure::other(format!("line {line} of standard input: {problem}"))
}

fn warn_if_alone(answer: &ApiResponse) {
    if answer.json["joined"] == false {
        warn(
            "the node has not joined its cluster yet, so that nobody else gets this; broadcast health says when it has",
        );
    }
}

/// How far a message, or a batch, was delivered.
#[derive(Clone, Debug, Default, PartialEq)]
struct DeliveryReport {
    delivered: u64,
    members: u64,
    /// Plain memberlist nodes, which cannot acknowledge.
    plain: u64,
    ms: f64,
    failed: BTreeSet<String>,
    left: BTreeSet<String>,
}

impl DeliveryReport {
    fn new(answer: &ApiResponse) -> Self {
        let names = |field: &str| {
            let names = answer.json[field].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
            names.map(visible::escaped).collect()
        };
        Self {
            failed: names("failed"),
            left: names("left"),
            delivered: answer.number("delivered"),
            members: answer.number("members"),
            plain: answer.number("plain"),
            ms: answer.json["elapsed_ms"].as_f64().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for DeliveryReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { delivered, members, plain, ms, failed, left } = self;
        let live = if failed.is_empty() && left.is_empty() { "" } else { "live " };
        write!(f, "delivered to {delivered} of {members} {live}nodes in {ms:.1} ms")?;
        match plain {
            0 => {}
            1 => f.write_str(" (and 1 plain memberlist node, which cannot acknowledge)")?,
            _ => write!(f, " (and {plain} plain memberlist nodes, which cannot acknowledge)")?,
        }
        for (gone, what) in [(failed, "failed"), (left, "left")] {
            if !gone.is_empty() {
                let names = gone.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                write!(f, "; {names} {what} meanwhile")?;
            }
        }
        Ok(())
    }
}

/// What became of all lines together.
#[derive(Debug, Default)]
struct Tally {
    published: u64,
    /// The report on the slowest batch, with the names of all nodes that failed or left meanwhile.
    slowest: Option<DeliveryReport>,
}

impl Tally {
    fn add(&mut self, answer: &ApiResponse) {
        self.published += answer.number("published");
        if answer.json["delivered"].is_u64() {
            let mut delivered = DeliveryReport::new(answer);
            if let Some(before) = self.slowest.take() {
                let failed = before.failed.union(&delivered.failed).cloned().collect();
                let left = before.left.union(&delivered.left).cloned().collect();
                let slowest = if before.ms > delivered.ms { before } else { delivered };
                delivered = DeliveryReport { failed, left, ..slowest };
            }
            self.slowest = Some(delivered);
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let messages = if self.published == 1 { "message" } else { "messages" };
        write!(f, "published {} {messages}", self.published)?;
        match &self.slowest {
            None => Ok(()),
            Some(delivered) => write!(f, ", {delivered}"),
        }
    }
}

/// Standard input, read by a thread of its own: a blocking read cannot be cancelled.
struct StdinReader {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// What was read and is in no batch yet.
    rest: Vec<u8>,
}

impl StdinReader {
    fn start() -> io::Result<Self> {
        if io::stdin().is_terminal() {
            // Failing to say so is harmless.
            let _ = writeln!(io::stderr(), "each line is sent when it is complete; Ctrl-D ends");
        }
        let (chunks, received) = mpsc::channel(4);
        thread::Builder::new().name("stdin".into()).spawn(move || {
            let mut stdin = io::stdin().lock();
            let mut buffer = vec![0; MAX_BATCH];
            loop {
                let chunk = match stdin.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(length) => Ok(buffer[..length].to_vec()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let broken = chunk.is_err();
                if chunks.blocking_send(chunk).is_err() || broken {
                    return;
                }
            }
        })?;
        Ok(Self { chunks: received, rest: Vec::new() })
    }

    /// The complete lines that are there, 1 to `most`; nothing at the end.
    async fn batch(&mut self, most: usize) -> Result<Option<Vec<u8>>, String> {
        loop {
            while self.rest.len() < MAX_BATCH
                && let Ok(chunk) = self.chunks.try_recv()
            {
                self.rest.extend(chunk.map_err(unreadable)?);
            }
            let ends = self.rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
            if let Some(end) = ends.take(most).last() {
                let rest = self.rest.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.rest, rest)));
            }
            if self.rest.len() > MAX_BODY {
                return Err(format!("it has more than {MAX_BODY} bytes, which no message may have; shorten it"));
            }
            match self.chunks.recv().await {
                Some(chunk) => self.rest.extend(chunk.map_err(unreadable)?),
                None => return Ok(Some(std::mem::take(&mut self.rest)).filter(|rest| !rest.is_empty())),
            }
        }
    }
}

fn unreadable(error: io::Error) -> String {
    format!("it cannot be read: {error}")
}

/// Reads all of standard input as one value.
async fn whole_input() -> Result<String, Failure> {
    let mut input = StdinReader::start().map_err(Failure::start)?;
    let mut bytes = std::mem::take(&mut input.rest);
    while let Some(chunk) = input.chunks.recv().await {
        bytes.extend(chunk.map_err(|error| Failure::other(format!("standard input cannot be read: {error}")))?);
        if bytes.len() > MAX_BODY {
            return Err(Failure::other(format!(
                "standard input has more than {MAX_BODY} bytes, which no message may have; shorten it"
            )));
        }
    }
    String::from_utf8(bytes).map_err(|_| Failure::other("standard input is not text (UTF-8)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_json_where_it_can_be() {
        for (value, text, body) in [
            ("42", false, r#"{"key":"k","value":42}"#),
            ("42", true, r#"{"key":"k","value":"42"}"#),
            ("-1.50", false, r#"{"key":"k","value":-1.50}"#),
            (r#"{"a": [1, null]}"#, false, r#"{"key":"k","value":{"a": [1, null]}}"#),
            ("hello", false, r#"{"key":"k","value":"hello"}"#),
            (r#"say "hi""#, false, r#"{"key":"k","value":"say \"hi\""}"#),
            (r#""42""#, false, r#"{"key":"k","value":"42"}"#),
            ("", false, r#"{"key":"k","value":""}"#),
        ] {
            assert_eq!(String::from_utf8(MessageBody::new("k", value, text).to_json()).expect("text"), body);
        }
    }

    #[test]
    fn each_line_is_a_message() {
        let body = messages("k", false, b"1\r\n\nx y", 1).expect("text");
        let lines = "{\"key\":\"k\",\"value\":1}\n{\"key\":\"k\",\"value\":\"\"}\n{\"key\":\"k\",\"value\":\"x y\"}\n";
        assert_eq!(body, lines);
        assert_eq!((length_in_lines(&body), length_of_lines(&body, 1)), (3, lines.find('\n').expect("lines") + 1));
        let error = messages("k", false, b"1\n\xff\n", 7).expect_err("no text").to_string();
        assert_eq!(error, "line 8 of standard input: it is not text (UTF-8)");
    }

    #[test]
    fn a_delivery_is_told_with_those_who_cannot_acknowledge() {
        let delivered = DeliveryReport { delivered: 12, members: 12, ms: 0.93, ..DeliveryReport::default() };
        assert_eq!(delivered.to_string(), "delivered to 12 of 12 nodes in 0.9 ms");
        let plain = DeliveryReport { plain: 2, ..delivered.clone() };
        let words = "delivered to 12 of 12 nodes in 0.9 ms (and 2 plain memberlist nodes, which cannot acknowledge)";
        assert_eq!(plain.to_string(), words);
        let gone = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let fewer = DeliveryReport { delivered: 1, members: 1, failed: gone(&["node3"]), ..delivered.clone() };
        assert_eq!(fewer.to_string(), "delivered to 1 of 1 live nodes in 0.9 ms; node3 failed meanwhile");
        let fewer = DeliveryReport { left: gone(&["node4", "node5"]), ..fewer };
        assert!(fewer.to_string().ends_with("; node3 failed meanwhile; node4, node5 left meanwhile"), "{fewer}");
        let tally = Tally { published: 1, slowest: Some(delivered) };
        assert_eq!(tally.to_string(), "published 1 message, delivered to 12 of 12 nodes in 0.9 ms");
    }
}
