//! The formats of streams: server-sent events (WHATWG HTML, section 9.2), or a line of JSON for each event.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::problem::to_json;

/// The format of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamFormat {
    /// Server-sent events: `text/event-stream`.
    EventStream,
    /// One JSON object a line: `application/x-ndjson`.
    JsonLines,
}

/// A position in a journal, as clients know it: the text `journal_id.position`. The position is how many entries come before
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) journal_id: u64,
    pub(super) position: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.journal_id, self.position)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (journal_id, position) = text.split_once('.').ok_or(())?;
        let journal_id = u64::from_str_radix(journal_id, 16).map_err(|_| ())?;
        Ok(Self { journal_id, position: position.parse().map_err(|_| ())? })
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a stream of messages tells besides them.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Notice<'a> {
    /// Only the cursor.
    Here,
    /// The node does not keep so many entries any more.
    Gone { missed: Option<u64>, reason: &'a str },
    /// Nobody in the cluster has these messages any more.
    Missed { origin: &'a str, epoch: u64, from: u64, to: u64 },
    /// The node has left its cluster.
    Left { reason: &'a str },
}

impl Notice<'_> {
    /// The name of the event.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Gone { .. } => "gone",
            Self::Missed { .. } => "missed",
            Self::Left { .. } => "left",
        }
    }

    /// Adds the cursor at which the stream goes on.
    pub(super) fn with_cursor(self, cursor: Cursor) -> WithCursor<Self> {
        WithCursor { notice: self, cursor }
    }
}

/// An event in a stream, with the cursor behind it.
#[derive(Debug, Serialize)]
pub(super) struct WithCursor<T> {
    #[serde(flatten)]
    notice: T,
    cursor: Cursor,
}

/// What a follower reads next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// An event, or a part of one. The position has moved on.
    Chunk(Bytes),
    /// Nothing yet.
    Empty,
    /// So many entries are not kept any more. The position is now the first that is kept.
    Lagged(u64),
    /// An entry was read in part, and is not kept any more.
    Torn,
    /// The end: the node has left.
    Closed,
}

/// Formats an event.
pub(super) fn format_event(format: StreamFormat, name: &str, data: &impl Serialize) -> String {
    format_event_text(format, name, &to_json(data))
}

/// Formats an event whose data is JSON already.
pub(super) fn format_event_text(format: StreamFormat, name: &str, data: &str) -> String {
    match format {
        StreamFormat::EventStream => format!("event: {name}\ndata: {data}\n\n"),
        StreamFormat::JsonLines => format!("{data}\n"),
    }
}
