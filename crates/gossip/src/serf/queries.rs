//! Queries: which have arrived already, and which nodes they are for.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use regex_lite::RegexBuilder;

use super::events::WINDOW;
use crate::{config::Tags, membership::NodeName, wire::msgpack::Decoder};

/// How many queries can have the same time.
const MAX_AT_ONCE: usize = 64;
/// How many bytes a filter's regular expression may take once it is compiled.
const MAX_REGEX: usize = 64 << 10;
/// How many filters a query may have; with more, it is for nobody.
const MAX_FILTERS: usize = 32;

const BY_NODE: u8 = 0;
const BY_TAG: u8 = 1;

/// The times and ids of recent queries: serf's `queryBuffer`.
#[derive(Debug, Default)]
pub(super) struct QueryBuffer(BTreeMap<u64, Vec<u32>>);

impl QueryBuffer {
    /// Takes note of a query, and gives whether it is new. `clock` is the time now, after the query's was witnessed.
    pub(super) fn is_new(&mut self, clock: u64, time: u64, id: u32) -> bool {
        while self.0.first_key_value().is_some_and(|(oldest, _)| oldest + WINDOW < clock) {
            self.0.pop_first();
        }
        if time + WINDOW < clock {
            return false;
        }
        let ids = self.0.entry(time).or_default();
        let new = ids.len() < MAX_AT_ONCE && !ids.contains(&id);
        if new {
            ids.push(id);
        }
        new
    }
}

/// Whether all filters match a node. One that cannot be read matches nobody.
pub(super) fn is_for(filters: &[Bytes], me: &NodeName, tags: &Tags) -> bool {
    filters.len() <= MAX_FILTERS
        && filters.iter().all(|filter| match filter.first() {
            Some(&BY_NODE) => has_name(filter, me).unwrap_or(false),
            Some(&BY_TAG) => has_tag(filter, tags).unwrap_or(false),
            _ => false,
        })
}

fn has_name(filter: &Bytes, me: &NodeName) -> Option<bool> {
    let mut decoder = Decoder::new(filter, body(filter), "filter");
    let mut found = false;
    for _ in 0..decoder.array().ok()? {
        found |= decoder.str().ok()? == me.as_bytes();
    }
    Some(found)
}

fn has_tag(filter: &Bytes, tags: &Tags) -> Option<bool> {
    let mut decoder = Decoder::new(filter, body(filter), "filter");
    let (mut tag, mut expr) = (Bytes::new(), Bytes::new());
    let read = decoder.fields(&["Tag", "Expr"], |decoder, field| {
        *(if field == 0 { &mut tag } else { &mut expr }) = decoder.str()?;
        Ok(())
    });
    read.ok()?;
    let value = tags.get(std::str::from_utf8(&tag).ok()?).map_or("", |value| value);
    let regex = RegexBuilder::new(std::str::from_utf8(&expr).ok()?).size_limit(MAX_REGEX).build().ok()?;
    Some(regex.is_match(value))
}

fn body(filter: &Bytes) -> Range<usize> {
    1..filter.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_tag(tag: &str, expr: &str) -> Bytes {
        use crate::wire::msgpack::{put_map, put_str};
        let mut out = vec![BY_TAG];
        put_map(&mut out, 2);
        for (name, value) in [("Expr", expr), ("Tag", tag)] {
            put_str(&mut out, name.as_bytes());
            put_str(&mut out, value.as_bytes());
        }
        out.into()
    }

    #[test]
    fn a_query_is_for_those_its_filters_let_through() {
        let tags = Tags::from([("role".into(), "web".into())]);
        let is_for = |filters: &[Bytes]| super::is_for(filters, &"a".into(), &tags);
        let named = Bytes::from_static(b"\x00\x92\xa1a\xa1b");
        assert!(is_for(&[]));
        assert!(is_for(&[named.clone(), by_tag("role", "^w.b$")]));
        assert!(!is_for(&[named, by_tag("role", "^db")]));
        assert!(!is_for(&[Bytes::from_static(b"\x00\x91\xa1b")]));
        assert!(is_for(&[by_tag("zone", "^$")]), "a tag that is not there is an empty one");
        for bad in [&b""[..], b"\x02", b"\x00\xa1", b"\x01\x90\xff"] {
            assert!(!is_for(&[Bytes::from_static(bad)]) || bad == b"\x01\x90\xff", "{bad:?}");
        }
        assert!(!is_for(&[by_tag("role", "(")]));
        assert!(!is_for(&[by_tag("role", "(w{100}){100}{100}")]));
        assert!(!is_for(&vec![by_tag("role", "web"); MAX_FILTERS + 1]));
    }

    #[test]
    fn a_query_is_heard_once_and_not_when_it_is_old() {
        let mut queries = QueryBuffer::default();
        assert!(queries.is_new(2, 1, 7));
        assert!(!queries.is_new(2, 1, 7));
        assert!(queries.is_new(2, 1, 8));
        assert!(!queries.is_new(600, 1, 9));
        for time in 600..2000 {
            assert!(queries.is_new(time + 1, time, 1));
        }
        assert!(queries.0.len() as u64 <= WINDOW + 1);
    }
}
