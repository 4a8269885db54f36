//! Who was last heard to join or leave, and when by the members' clock.
//!
//! An intent counts when it is later than what is known of its node. One of a node that is not known yet,
//! which may be announced any moment, is kept for a while.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::membership::NodeName;

/// For how long an intent waits for its node, and how many do at most.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
const MAX_EARLY: usize = 4096;

/// The last intent of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) time: u64,
    pub(super) leaving: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Intents {
    statuses: HashMap<NodeName, Status>,
    early: BTreeMap<NodeName, (Status, Instant)>,
}

impl Intents {
    pub(super) fn status(&self, node: &NodeName) -> Status {
        self.statuses.get(node).copied().unwrap_or_default()
    }

    /// Takes an intent of a node; gives whether it is news, which others are told.
    pub(super) fn hear(&mut self, now: Instant, node: &NodeName, heard: Status, is_member: bool) -> bool {
        if is_member {
            let status = self.statuses.entry(node.clone()).or_default();
            let news = heard.time > status.time;
            if news {
                *status = heard;
            }
            return news;
        }
        self.early.retain(|_, (_, at)| now.saturating_duration_since(*at) < PATIENCE);
        let is_full = self.early.len() >= MAX_EARLY;
        match self.early.get_mut(node) {
            Some((known, at)) if heard.time > known.time => {
                (*known, *at) = (heard, now);
                true
            }
            Some(_) => false,
            None if is_full => false,
            None => {
                self.early.insert(node.clone(), (heard, now));
                true
            }
        }
    }

    /// A node is a member now, and here again if it was leaving.
    pub(super) fn come(&mut self, node: &NodeName) {
        let status = self.statuses.entry(node.clone()).or_default();
        status.leaving = false;
        if let Some((early, _)) = self.early.remove(node)
            && early.time > status.time
        {
            *status = early;
        }
    }

    /// Forgets whoever is no member any more, when there are many.
    pub(super) fn forget(&mut self, members: usize, is_member: impl Fn(&NodeName) -> bool) {
        if self.statuses.len() > 2 * members + 64 {
            self.statuses.retain(|node, _| is_member(node));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.statuses.len() + self.early.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(time: u64, leaving: bool) -> Status {
        Status { time, leaving }
    }

    #[test]
    fn only_what_is_later_is_news() {
        let (now, a) = (Instant::now(), NodeName::from("a"));
        let mut intents = Intents::default();
        assert!(intents.hear(now, &a, at(5, false), true));
        assert!(!intents.hear(now, &a, at(5, true), true));
        assert!(intents.hear(now, &a, at(6, true), true));
        assert!(intents.status(&a).leaving);
        intents.come(&a);
        assert_eq!(intents.status(&a), at(6, false));
    }

    #[test]
    fn an_intent_waits_for_its_node_and_not_for_ever() {
        let (now, a) = (Instant::now(), NodeName::from("a"));
        let mut intents = Intents::default();
        assert!(intents.hear(now, &a, at(5, true), false));
        assert!(!intents.hear(now, &a, at(5, true), false), "it was told");
        intents.come(&a);
        assert_eq!(intents.status(&a), at(5, true));
        for i in 0..2 * MAX_EARLY {
            intents.hear(now, &i.to_string().as_str().into(), at(1, false), false);
        }
        assert_eq!(intents.early.len(), MAX_EARLY);
        assert!(intents.hear(now + PATIENCE, &"late".into(), at(1, false), false));
        assert_eq!(intents.early.len(), 1);
        for i in 0..1000 {
            intents.come(&i.to_string().as_str().into());
            intents.forget(1, |node| *node == a);
        }
        assert!(intents.len() < 100);
    }
}
