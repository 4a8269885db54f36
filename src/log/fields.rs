//! The fields of events and spans.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, json};
use tracing::{
    Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

use crate::settings::explain;

/// The value of a field.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    Text(String),
    Number(serde_json::Number),
    Bool(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Bool(bool) => bool.fmt(f),
        }
    }
}

/// The fields of an event, or of a span.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) node: Option<String>,
    pub(super) event: Option<String>,
    pub(super) message: String,
    pub(super) others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        match field.name() {
            "node" => self.node = Some(value.to_string()),
            "event" => self.event = Some(value.to_string()),
            "message" => self.message = value.to_string(),
            name => self.others.push((name, value)),
        }
    }
}

impl Fields {
    /// Replaces a library's names of settings by those of the program, in the message and in reasons. Names and values that
    /// others chose stay as they are. If one of them could be taken for such a name, the message stays as it is, too.
    pub(super) fn explain(&mut self) {
        let mut is_ambiguous = false;
        for (name, value) in &mut self.others {
            if let Value::Text(text) = value {
                match *name {
                    "reason" | "error" => *text = explain(text),
                    _ => is_ambiguous |= text.contains('`'),
                }
            }
        }
        if !is_ambiguous {
            self.message = explain(&self.message);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, Value::Text(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, Value::Number(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, Value::Number(value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = serde_json::Number::from_f64(value);
        self.set(field, number.map_or_else(|| Value::Text(value.to_string()), Value::Number));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, Value::Bool(value));
    }
}

/// A span around an event.
#[derive(Serialize)]
pub(super) struct Span {
    pub(super) name: &'static str,
    #[serde(flatten)]
    pub(super) fields: Map<String, serde_json::Value>,
}

/// Stores the fields of each span as JSON, for the events in it.
pub(super) struct SpanFields;

impl<'writer> FormatFields<'writer> for SpanFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut read = Fields::default();
        fields.record(&mut read);
        let node = read.node.map(|node| ("node", Value::Text(node)));
        let fields: Map<_, _> =
            node.into_iter().chain(read.others).map(|(name, value)| (name.into(), json!(value))).collect();
        write!(writer, "{}", json!(fields))
    }
}

impl Span {
    /// The spans around an event, the outermost first.
    pub(super) fn around<S>(context: &FmtContext<'_, S, SpanFields>) -> Vec<Self>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let Some(scope) = context.event_scope() else { return Vec::new() };
        let spans = scope.from_root().map(|span| {
            let extensions = span.extensions();
            let text = extensions.get::<FormattedFields<SpanFields>>().map(|fields| &*fields.fields);
            Self {
                name: span.name(),
                fields: text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            }
        });
        spans.collect()
    }

    /// The text of a field.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }
}
