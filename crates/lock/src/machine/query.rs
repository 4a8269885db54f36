//! Answers to queries.

use std::time::Duration;

use broadcast_store::machine::{CowMap, QueryContext};
use serde::Serialize;

use super::Locks;
use crate::{
    message::{
        EntryState, Holder, ListPage, LockQuery, LockState, MAX_ENTRIES_PER_QUERY, MAX_HOLDERS, MAX_NAMES,
        MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, SessionState, encode,
    },
    name::Name,
};

/// How many entries are counted at most to tell how many are ahead: counting delays the voter.
const MAX_COUNTED_AHEAD: usize = 100_000;

impl Locks {
    pub(super) fn answer_query(&self, context: &QueryContext<'_>, query: LockQuery) -> Vec<u8> {
        match query {
            LockQuery::EntryStates(tokens) => {
                let states = tokens.into_iter().take(MAX_ENTRIES_PER_QUERY).map(|token| self.entry_state(token));
                encode(&states.collect::<Vec<_>>())
            }
            LockQuery::Ahead(token) => encode(&self.ahead(token)),
            LockQuery::Lock(name) => encode(&self.lock(&name, true)),
            LockQuery::Holders(names) => encode(&self.holders(&names)),
            LockQuery::Locks { prefix, after, limit } => encode(&self.list_locks(&prefix, after, limit)),
            LockQuery::Session(session) => encode(&self.session_state(context, session)),
            LockQuery::Sessions { after, limit } => {
                let from = after.map_or(i64::MIN, |after| after.saturating_add(1));
                let ids = self.sessions.iter_from(&from).map(|(session, _)| *session);
                encode(&page(ids.filter_map(|session| self.session_state(context, session)), limit))
            }
            LockQuery::Fence(name) => encode(&self.fences.get(&name)),
        }
    }

    fn entry_state(&self, token: u64) -> EntryState {
        let Some(entry) = self.entries.get(&token) else { return EntryState::Gone };
        if self.holds(&entry.names[0], token) { EntryState::Held } else { EntryState::Waiting }
    }

    fn ahead(&self, token: u64) -> Option<u64> {
        let entry = self.entries.get(&token)?;
        if self.holds(&entry.names[0], token) {
            return None;
        }
        let ahead = |name| {
            let held = self.held(name).take(MAX_COUNTED_AHEAD).count();
            held + self.waiting(name).take(MAX_COUNTED_AHEAD).take_while(|each| *each < token).count()
        };
        entry.names.iter().map(ahead).max().map(|ahead| ahead as u64)
    }

    /// Who holds any of these locks, the first [`MAX_HOLDERS`].
    pub(super) fn holders(&self, names: &[Name]) -> Vec<Holder> {
        let tokens = names.iter().take(MAX_NAMES).flat_map(|name| self.held(name).take(MAX_HOLDERS));
        tokens.filter_map(|token| self.holder(token)).take(MAX_HOLDERS).collect()
    }

    /// A lock, with the first of its queue if that is wanted; nothing if nobody holds it or waits for it.
    fn lock(&self, name: &Name, with_queue: bool) -> Option<LockState> {
        let most = MAX_PAGE_ENTRIES as usize;
        let mut bytes = 0;
        let mut holders = |tokens: &mut dyn Iterator<Item = u64>| {
            let holders = tokens.filter_map(|token| self.holder(token)).take(most);
            let within = |holder: &Holder| {
                bytes += 128 + holder.node.len() + holder.label.len() + holder.value.len();
                bytes <= MAX_PAGE_BYTES
            };
            holders.take_while(within).collect::<Vec<_>>()
        };
        let lock = LockState {
            name: name.clone(),
            holders: holders(&mut self.held(name)),
            waiting: self.waiting(name).count() as u64,
            queue: if with_queue { holders(&mut self.waiting(name)) } else { Vec::new() },
        };
        (!lock.holders.is_empty() || lock.waiting > 0).then_some(lock)
    }

    fn list_locks(&self, prefix: &str, after: Option<Name>, limit: u32) -> ListPage<LockState> {
        // The names in both sets, in order, each once. One look finds the next name, however long a queue is.
        let mut from = after.map_or_else(|| (Name::prefix(prefix), 0), |after| (after, u64::MAX));
        let names = std::iter::from_fn(move || {
            let next =
                |queue: &CowMap<(Name, u64), ()>| queue.iter_from(&from).next().map(|((name, _), ())| name.clone());
            let name = match (next(&self.held), next(&self.waiting)) {
                (Some(held), Some(waiting)) => held.min(waiting),
                (held, waiting) => held.or(waiting)?,
            };
            from = (name.clone(), u64::MAX);
            Some(name)
        });
        let names = names.take_while(|name| name.as_str().starts_with(prefix));
        page(names.filter_map(|name| self.lock(&name, false)), limit)
    }

    fn session_state(&self, context: &QueryContext<'_>, session: i64) -> Option<SessionState> {
        let config = self.sessions.get(&session)?;
        let delay = Duration::from_secs(config.lock_delay.into());
        let left = (context.left)(session).map(|left| left.saturating_sub(delay));
        let mut holds = Vec::new();
        let mut waits = Vec::new();
        for (name, token) in self.of_session(session).take(MAX_PAGE_ENTRIES as usize) {
            let list = if self.holds(name, token) { &mut holds } else { &mut waits };
            list.push((name.clone(), token));
        }
        let left = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        Some(SessionState { session, config: config.as_ref().clone(), left, holds, waits })
    }
}

/// As many entries as a page may have.
fn page<T: Serialize>(mut all: impl Iterator<Item = T>, limit: u32) -> ListPage<T> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    let limit = limit.clamp(1, MAX_PAGE_ENTRIES) as usize;
    while entries.len() < limit && bytes < MAX_PAGE_BYTES {
        let Some(entry) = all.next() else { return ListPage { entries, more: false } };
        bytes += encode(&entry).len();
        entries.push(entry);
    }
    ListPage { entries, more: all.next().is_some() }
}
