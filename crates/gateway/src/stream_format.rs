//! How followers are told what happens: as server-sent events (WHATWG HTML, 9.2), or as a line of JSON each.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::problem::to_json;

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamFormat {
    /// Server-sent events.
    EventStream,
    /// One JSON object a line.
    JsonLines,
}

/// A place in a journal, as text `journal_id.position`: the journal's life, and how many entries came before.
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

/// What a follower of messages is told besides them.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Notice<'a> {
    /// Nothing but the place.
    Here,
    /// The node does not keep so many entries any more.
    Gone { missed: Option<u64>, reason: &'a str },
    /// Nobody in the cluster has these messages any more.
    Missed { origin: &'a str, epoch: u64, from: u64, to: u64 },
    /// The node has left.
    Left { reason: &'a str },
}

impl Notice<'_> {
    /// The name of its event.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Gone { .. } => "gone",
            Self::Missed { .. } => "missed",
            Self::Left { .. } => "left",
        }
    }

    /// With the place at which the stream goes on.
    pub(super) fn with_cursor(self, cursor: Cursor) -> WithCursor<Self> {
        WithCursor { notice: self, cursor }
    }
}

/// Something in a stream, and the place after it.
#[derive(Debug, Serialize)]
pub(super) struct WithCursor<T> {
    #[serde(flatten)]
    notice: T,
    cursor: Cursor,
}

/// What a follower reads next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// An event, or a piece of it; the follower's position has moved on.
    Chunk(Bytes),
    /// There is nothing yet.
    Empty,
    /// So many entries were not kept for this follower; its position is now the first that is.
    Lagged(u64),
    /// The entry that was read in part is not kept any more.
    Torn,
    /// The node has left: there will be no more.
    Closed,
}

/// An event with a name, or a line.
pub(super) fn format_event(format: StreamFormat, name: &str, data: &impl Serialize) -> String {
    format_event_text(format, name, &to_json(data))
}

/// The same, of what is JSON already.
pub(super) fn format_event_text(format: StreamFormat, name: &str, data: &str) -> String {
    match format {
        StreamFormat::EventStream => format!("event: {name}\ndata: {data}\n\n"),
        StreamFormat::JsonLines => format!("{data}\n"),
    }
}
