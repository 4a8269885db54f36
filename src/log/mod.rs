//! The log: one line for each event on standard output, as text or as JSON.
//!
//! - **Text** is the time, the level, the node's name and the message. If several nodes log, the name comes first. Control
//!   characters are escaped, so nothing from the network can forge a line or move the cursor.
//! - **JSON** has the same text in `message`, each field of the event as a field, and the spans around it in `spans`.
//!
//! Warnings and errors of the libraries name settings in their own way: here they get the names of variables and flags.
//!
//! A slow reader or a full disk never holds up the node ([`writer`]).

mod fields;
mod writer;

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use broadcast_gateway::AUDIT_TARGET as AUDIT;
use serde::{Serializer as _, ser::SerializeMap as _};
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tracing::{Dispatch, Event, Level, Subscriber, dispatcher::with_default};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, LevelFilter, filter_fn},
    fmt::{FmtContext, FormatEvent, format::Writer},
    layer::SubscriberExt as _,
    registry::{LookupSpan, Registry},
    reload,
    util::SubscriberInitExt as _,
};

use self::{
    fields::{Fields, Span, SpanFields, Value},
    writer::BackgroundWriter,
};
use crate::{
    settings::log::{Format, filter},
    visible::{escape, escaped_json},
};

/// Which nodes log.
#[derive(Clone, Debug)]
pub(crate) enum Nodes {
    /// One node.
    One(String),
    /// Several nodes, each with a prefix, as in Compose.
    Several(Vec<String>),
}

/// A log that has started.
pub(crate) struct Log {
    pub(crate) control: LogControl,
    /// Notified when nobody reads standard output any more.
    pub(crate) closed: Arc<Notify>,
}

/// openraft's own log is shown only if the filter names it: it logs errors whenever a voter stops, and the store logs what
/// matters.
const OPENRAFT: &str = "openraft";
static SHOWS_OPENRAFT: AtomicBool = AtomicBool::new(false);

/// Must be called before the filter is set, which makes tracing ask again what is shown.
fn show_openraft(filter: &EnvFilter) {
    SHOWS_OPENRAFT.store(filter.to_string().contains(OPENRAFT), Ordering::Relaxed);
}

/// Changes the filter while the log runs. It does not change whether the audit log is shown, which the first filter decides:
/// whoever may operate a node must not be able to do so unseen.
#[derive(Debug)]
pub(crate) struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogControl {
    /// The filter, in tracing's syntax.
    pub(super) fn get(&self) -> String {
        self.handle.with_current(EnvFilter::to_string).unwrap_or_default()
    }

    /// Sets another filter, or says why it is not valid.
    pub(super) fn set(&self, text: &str) -> Result<(), String> {
        let filter = filter(text)?;
        show_openraft(&filter);
        self.handle.reload(filter).map_err(|error| error.to_string())?;
        tracing::info!(event = "log", filter = text, "the log filter is now {text}");
        Ok(())
    }
}

/// Whether a filter shows the audit log.
fn shows_audit(filter: EnvFilter) -> bool {
    let probe = Dispatch::new(Registry::default().with(filter));
    with_default(&probe, || tracing::enabled!(target: AUDIT, Level::INFO))
}

/// Starts logging to standard output.
///
/// # Errors
///
/// The filter is not valid, or the system refuses a thread or another file descriptor for standard output.
///
/// # Panics
///
/// A log was started in this process before.
pub(crate) fn start(filter: &str, format: Format, nodes: Nodes) -> io::Result<Log> {
    // Without the standard library's buffer, which would keep a part of a line that a full disk refuses.
    start_into(File::from(io::stdout().as_fd().try_clone_to_owned()?), filter, format, nodes)
}

/// Starts logging to `out`, which gets each line at once.
pub(crate) fn start_into(
    out: impl io::Write + Send + 'static,
    text: &str,
    format: Format,
    nodes: Nodes,
) -> io::Result<Log> {
    let filter = || filter(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
    let shows_audit = shows_audit(filter()?);
    let filter = filter()?;
    show_openraft(&filter);
    let (chosen, handle) = reload::Layer::new(filter);
    // The hint lets tracing skip events cheaply that no filter wants.
    let chosen = chosen.and(filter_fn(|line| line.target() != AUDIT).with_max_level_hint(LevelFilter::TRACE));
    let audit = filter_fn(move |line| shows_audit && line.target() == AUDIT).with_max_level_hint(LevelFilter::INFO);
    let quiet = filter_fn(|line| !line.target().starts_with(OPENRAFT) || SHOWS_OPENRAFT.load(Ordering::Relaxed));
    let closed = Arc::new(Notify::new());
    let writer = BackgroundWriter::start(out, Arc::clone(&closed))?;
    let layer = tracing_subscriber::fmt::layer()
        .fmt_fields(SpanFields)
        .event_format(LineFormatter { format, nodes, colour: colour() })
        .log_internal_errors(false)
        .with_writer(WRITER.get_or_init(|| writer).clone())
        .with_filter(chosen.or(audit).and(quiet.with_max_level_hint(LevelFilter::TRACE)));
    tracing_subscriber::registry().with(layer).init();
    Ok(Log { control: LogControl { handle }, closed })
}

/// Waits until everything logged so far is written, but no longer than [`FLUSH_TIMEOUT`].
pub(crate) fn finish() {
    if let Some(writer) = WRITER.get() {
        writer.flush_for(FLUSH_TIMEOUT);
    }
}

static WRITER: OnceLock<BackgroundWriter> = OnceLock::new();
/// How long the end of the program waits for a slow reader. Leaving the cluster takes 1.8 s of the 2 s that it has.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

struct LineFormatter {
    format: Format,
    nodes: Nodes,
    colour: bool,
}

/// Whether standard output is a terminal and colours are not turned off.
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

pub(crate) const DIM: &str = "\x1b[2m";
pub(crate) const RESET: &str = "\x1b[0m";
/// The colours of prefixes, the same as Compose's.
pub(crate) const PREFIXES: [&str; 6] = ["\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[31m"];

impl<S> FormatEvent<S, SpanFields> for LineFormatter
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, SpanFields>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = Span::around(context);
        if fields.node.is_none() {
            fields.node = spans.iter().rev().find_map(|span| span.text("node")).map(String::from);
        }
        // RFC 3339 cannot express a clock before 1970.
        let time = humantime::format_rfc3339_millis(SystemTime::now().max(SystemTime::UNIX_EPOCH)).to_string();
        let level = *event.metadata().level();
        if level <= Level::WARN {
            fields.explain();
        }
        let line = match self.format {
            Format::Text => self.text(&time, level, &fields, &spans),
            Format::Json => self.json(&time, level, &fields, &spans).map_err(|_| fmt::Error)?,
        };
        out.write_str(&line)?;
        out.write_char('\n')
    }
}

impl LineFormatter {
    fn node<'a>(&'a self, fields: &'a Fields) -> &'a str {
        match (&fields.node, &self.nodes) {
            (Some(node), _) => node,
            (None, Nodes::One(node)) => node,
            (None, Nodes::Several(_)) => "-",
        }
    }

    fn text(&self, time: &str, level: Level, fields: &Fields, spans: &[Span]) -> String {
        let node = self.node(fields);
        let mut line = String::new();
        let is_in_front = matches!(self.nodes, Nodes::Several(_));
        if let Nodes::Several(nodes) = &self.nodes {
            let width = nodes.iter().map(|name| name.chars().count()).max().unwrap_or_default();
            let place = nodes.iter().position(|name| name == node).unwrap_or_default();
            let prefix = format!("{node:width$}  | ");
            self.paint(&mut line, PREFIXES[place % PREFIXES.len()], &prefix);
        }
        self.paint(&mut line, DIM, time);
        line.push(' ');
        self.paint(&mut line, level_colour(level), &format!("{level:>5}"));
        line.push(' ');
        if !is_in_front {
            escape(&mut line, node);
            line.push(' ');
        }
        escape(&mut line, &fields.message);
        // The message of a named event says everything. Debug events need their fields and spans.
        if fields.event.is_none() {
            for (name, value) in &fields.others {
                line.push(' ');
                line.push_str(name);
                line.push('=');
                escape(&mut line, &value.to_string());
            }
            for Span { name, fields } in spans {
                let fields = fields.iter().filter(|(name, _)| *name != "node");
                let fields: Vec<_> = fields.map(|(name, value)| format!("{name}={}", plain(value))).collect();
                escape(&mut line, &format!(" {name}{{{}}}", fields.join(" ")));
            }
        }
        line
    }

    fn paint(&self, line: &mut String, colour: &str, text: &str) {
        if self.colour {
            line.push_str(colour);
            escape(line, text);
            line.push_str(RESET);
        } else {
            escape(line, text);
        }
    }

    fn json(&self, time: &str, level: Level, fields: &Fields, spans: &[Span]) -> serde_json::Result<String> {
        let mut line = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut line);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", time)?;
        map.serialize_entry("level", level.as_str())?;
        map.serialize_entry("node", self.node(fields))?;
        if let Some(event) = &fields.event {
            map.serialize_entry("event", event)?;
        }
        map.serialize_entry("message", &fields.message)?;
        for (name, value) in &fields.others {
            match value {
                // The value of a message is JSON already.
                Value::Text(text) if *name == "value" && fields.event.is_some() => {
                    match serde_json::from_str::<&RawValue>(text) {
                        Ok(json) => map.serialize_entry(name, json)?,
                        Err(_) => map.serialize_entry(name, text)?,
                    }
                }
                value => map.serialize_entry(name, value)?,
            }
        }
        if !spans.is_empty() {
            map.serialize_entry("spans", spans)?;
        }
        map.end()?;
        Ok(escaped_json(&String::from_utf8_lossy(&line)))
    }
}

/// A JSON string without its quotes.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn level_colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io::Write, sync::Mutex};

    use tracing::{debug, debug_span, info, warn};

    use super::*;

    fn log(lines: LineFormatter, events: impl FnOnce()) -> String {
        let out = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&out);
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(SpanFields)
            .event_format(lines)
            .with_writer(move || Shared(writer.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
        let bytes = out.lock().expect("nobody panicked with it").clone();
        String::from_utf8(bytes).expect("the log is text")
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked with it").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn one(format: Format, colour: bool) -> LineFormatter {
        LineFormatter { format, nodes: Nodes::One("node1".into()), colour }
    }

    fn received(key: &str, value: &str) {
        let from = "node2";
        info!(node = "node1", event = "received", %from, key, value, "received broadcast msg: key={key} value={value}");
    }

    /// The line behind its time, which has the right shape.
    fn behind_the_time(line: &str) -> &str {
        let (time, rest) = line.split_at("2026-11-24T14:00:00.123Z".len());
        humantime::parse_rfc3339(time).expect("a time");
        rest
    }

    #[test]
    fn text_is_time_level_node_and_exactly_the_words() {
        let lines = log(one(Format::Text, false), || received("I am node2", "0"));
        assert_eq!(behind_the_time(&lines), "  INFO node1 received broadcast msg: key=I am node2 value=0\n");
        let lines = log(one(Format::Text, false), || debug!(size = 3, ok = true, "gossip"));
        assert_eq!(behind_the_time(&lines), " DEBUG node1 gossip size=3 ok=true\n");
    }

    #[test]
    fn a_warning_names_settings_as_the_program_does() {
        let lines = log(one(Format::Text, false), || warn!("is `max_members` too small?"));
        let told = "is BROADCAST_MAX_MEMBERS (--max-members) too small?";
        assert_eq!(behind_the_time(&lines), format!("  WARN node1 {told}\n"));
        let line = log(one(Format::Json, false), || warn!(reason = "is `max_members` too small?", "dropped"));
        assert!(line.contains(&format!("\"reason\":\"{told}\"")), "{line}");
        // What others sent is theirs.
        let lines = log(one(Format::Text, false), || received("`max_members`", "0"));
        assert!(lines.contains("key=`max_members` "), "{lines}");
    }

    #[test]
    fn what_is_heard_cannot_forge_a_line() {
        let lines = log(one(Format::Text, false), || received("a\nb\x1b[2J\u{85}", "0"));
        assert_eq!(
            behind_the_time(&lines),
            "  INFO node1 received broadcast msg: key=a\\nb\\u{1b}[2J\\u{85} value=0\n"
        );
    }

    #[test]
    fn json_has_the_fields_as_fields() {
        for (value, read) in [("7", "7"), (r#"{"a":[1]}"#, r#"{"a":[1]}"#), (r#""7""#, r#""7""#), ("{", r#""{""#)] {
            let line = log(one(Format::Json, true), || received("a\nb", value));
            assert_eq!(line.lines().count(), 1);
            let json: serde_json::Value = serde_json::from_str(&line).expect("an object");
            let mut expected = serde_json::json!({
                "timestamp": json["timestamp"], "level": "INFO", "node": "node1", "event": "received",
                "message": format!("received broadcast msg: key=a\nb value={value}"), "key": "a\nb", "from": "node2",
            });
            expected["value"] = serde_json::from_str(read).expect("JSON");
            assert_eq!(json, expected);
            assert!(json["timestamp"].as_str().is_some_and(|time| humantime::parse_rfc3339(time).is_ok()));
        }
    }

    #[test]
    fn a_line_tells_the_spans_it_is_in() {
        let say = || {
            let _request =
                debug_span!("http_request", node = "node1", method = %"POST", path = "/v1/messages").entered();
            let _publish = debug_span!("publish", node = "node1", id = "node1.7.17", size = 3).entered();
            debug!("gossip");
            debug!(event = "delivered", "delivered to 2 of 2 in 0.3 ms");
        };
        let lines = log(one(Format::Text, false), say);
        let rest: Vec<_> = lines.lines().map(behind_the_time).collect();
        let spans = "http_request{method=POST path=/v1/messages} publish{id=node1.7.17 size=3}";
        let words = format!(" DEBUG node1 gossip {spans}");
        assert_eq!(rest, [&*words, " DEBUG node1 delivered to 2 of 2 in 0.3 ms"]);

        let lines = log(LineFormatter { format: Format::Json, nodes: Nodes::Several(Vec::new()), colour: false }, say);
        for line in lines.lines() {
            let json: serde_json::Value = serde_json::from_str(line).expect("an object");
            assert_eq!(json["node"], "node1", "the span's");
            assert_eq!(
                json["spans"],
                serde_json::json!([
                    {"name": "http_request", "node": "node1", "method": "POST", "path": "/v1/messages"},
                    {"name": "publish", "node": "node1", "id": "node1.7.17", "size": 3},
                ])
            );
        }
    }

    #[test]
    fn several_nodes_have_prefixes_of_one_width_each_in_its_colour() {
        let nodes = || Nodes::Several(["node1", "node10"].map(String::from).into());
        let say = || {
            info!(node = "node1", event = "nodes", "broadcast nodes = 2");
            info!(node = "node10", event = "nodes", "broadcast nodes = 2");
        };
        let plain = log(LineFormatter { format: Format::Text, nodes: nodes(), colour: false }, say);
        let lines: Vec<_> = plain.lines().collect();
        assert!(lines[0].starts_with("node1   | 2") && lines[0].ends_with("Z  INFO broadcast nodes = 2"));
        assert!(lines[1].starts_with("node10  | 2") && lines[1].ends_with("Z  INFO broadcast nodes = 2"));

        let coloured = log(LineFormatter { format: Format::Text, nodes: nodes(), colour: true }, say);
        let prefix = |line: &str| line.split('n').next().map(String::from);
        let prefixes: BTreeSet<_> = coloured.lines().map(prefix).collect();
        assert_eq!(prefixes.len(), 2, "{coloured:?}");
    }
}
