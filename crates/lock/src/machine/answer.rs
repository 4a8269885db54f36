//! Answers to questions.

use std::time::Duration;

use broadcast_store::machine::{CowMap, QueryContext};
use serde::Serialize;

use super::Locks;
use crate::{
    message::{
        Holder, List, Lock, MAX_HOLDERS, MAX_LIST_BYTES, MAX_LISTED, MAX_NAMES, MAX_PLACES, PlaceState, Question,
        SessionState, encode,
    },
    name::Name,
};

/// How many places at most are counted to tell how many are ahead.
const MOST_AHEAD: usize = 100_000;

impl Locks {
    pub(super) fn answer_to(&self, view: &QueryContext<'_>, question: Question) -> Vec<u8> {
        match question {
            Question::Places(tokens) => {
                let states = tokens.into_iter().take(MAX_PLACES).map(|token| self.place_state(token));
                encode(&states.collect::<Vec<_>>())
            }
            Question::Ahead(token) => encode(&self.ahead(token)),
            Question::Lock(name) => encode(&self.lock(&name, true)),
            Question::Holders(names) => encode(&self.holders(&names)),
            Question::Locks { prefix, after, limit } => encode(&self.list_locks(&prefix, after, limit)),
            Question::Session(session) => encode(&self.session_state(view, session)),
            Question::Sessions { after, limit } => {
                let from = after.map_or(i64::MIN, |after| after.saturating_add(1));
                let ids = self.sessions.iter_from(&from).map(|(session, _)| *session);
                encode(&listed(ids.filter_map(|session| self.session_state(view, session)), limit))
            }
            Question::Fence(name) => encode(&self.fences.get(&name)),
        }
    }

    fn place_state(&self, token: u64) -> PlaceState {
        let Some(place) = self.places.get(&token) else { return PlaceState::Gone };
        if self.holds(&place.names[0], token) { PlaceState::Held } else { PlaceState::Waits }
    }

    fn ahead(&self, token: u64) -> Option<u64> {
        let place = self.places.get(&token)?;
        if self.holds(&place.names[0], token) {
            return None;
        }
        let ahead = |name| {
            let held = self.held(name).take(MOST_AHEAD).count();
            held + self.waiting(name).take(MOST_AHEAD).take_while(|each| *each < token).count()
        };
        place.names.iter().map(ahead).max().map(|ahead| ahead as u64)
    }

    /// Who holds any of these, the first of them.
    pub(super) fn holders(&self, names: &[Name]) -> Vec<Holder> {
        let tokens = names.iter().take(MAX_NAMES).flat_map(|name| self.held(name).take(MAX_HOLDERS));
        tokens.filter_map(|token| self.holder(token)).take(MAX_HOLDERS).collect()
    }

    /// A lock, with the first of those who wait, if that is wanted; nothing if there is nobody.
    fn lock(&self, name: &Name, with_queue: bool) -> Option<Lock> {
        let most = MAX_LISTED as usize;
        let mut bytes = 0;
        let mut holders = |tokens: &mut dyn Iterator<Item = u64>| {
            let holders = tokens.filter_map(|token| self.holder(token)).take(most);
            let within = |holder: &Holder| {
                bytes += 128 + holder.node.len() + holder.label.len() + holder.value.len();
                bytes <= MAX_LIST_BYTES
            };
            holders.take_while(within).collect::<Vec<_>>()
        };
        let lock = Lock {
            name: name.clone(),
            holders: holders(&mut self.held(name)),
            waiting: self.waiting(name).count() as u64,
            queue: if with_queue { holders(&mut self.waiting(name)) } else { Vec::new() },
        };
        (!lock.holders.is_empty() || lock.waiting > 0).then_some(lock)
    }

    fn list_locks(&self, prefix: &str, after: Option<Name>, limit: u32) -> List<Lock> {
        // Names of both queues, in order, each once. From one name to the next is one look, however long its queue is.
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
        listed(names.filter_map(|name| self.lock(&name, false)), limit)
    }

    fn session_state(&self, view: &QueryContext<'_>, session: i64) -> Option<SessionState> {
        let config = self.sessions.get(&session)?;
        let delay = Duration::from_secs(config.lock_delay.into());
        let left = (view.left)(session).map(|left| left.saturating_sub(delay));
        let mut holds = Vec::new();
        let mut waits = Vec::new();
        for (name, token) in self.of_session(session).take(MAX_LISTED as usize) {
            let list = if self.holds(name, token) { &mut holds } else { &mut waits };
            list.push((name.clone(), token));
        }
        let left = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        Some(SessionState { session, config: config.as_ref().clone(), left, holds, waits })
    }
}

/// As many as there may be in a list.
fn listed<T: Serialize>(mut all: impl Iterator<Item = T>, limit: u32) -> List<T> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    let limit = limit.clamp(1, MAX_LISTED) as usize;
    while entries.len() < limit && bytes < MAX_LIST_BYTES {
        let Some(entry) = all.next() else { return List { entries, more: false } };
        bytes += encode(&entry).len();
        entries.push(entry);
    }
    List { entries, more: all.next().is_some() }
}
