//! The last intent of each node, to join or to leave, and its time by the members' Lamport clock.
//!
//! An intent counts if it is later than the last one. That of a node that is not a member is kept for a while, as the node
//! may be announced any moment (serf's `recentIntents`).

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::membership::NodeName;

/// For how long an intent waits for its node to become a member, and how many can wait.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
const MAX_EARLY: usize = 4096;

/// The last intent of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IntentStatus {
    pub(super) time: u64,
    pub(super) leaving: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Intents {
    statuses: HashMap<NodeName, IntentStatus>,
    /// Intents of nodes that are no members yet, and when they came.
    early: BTreeMap<NodeName, (IntentStatus, Instant)>,
}

impl Intents {
    pub(super) fn status(&self, node: &NodeName) -> IntentStatus {
        self.statuses.get(node).copied().unwrap_or_default()
    }

    /// Takes an intent of a node. Gives whether it is news, to be passed on.
    pub(super) fn receive(&mut self, now: Instant, node: &NodeName, new: IntentStatus, is_member: bool) -> bool {
        if is_member {
            let status = self.statuses.entry(node.clone()).or_default();
            let news = new.time > status.time;
            if news {
                *status = new;
            }
            return news;
        }
        self.early.retain(|_, (_, at)| now.saturating_duration_since(*at) < PATIENCE);
        let is_full = self.early.len() >= MAX_EARLY;
        match self.early.get_mut(node) {
            Some((known, at)) if new.time > known.time => {
                (*known, *at) = (new, now);
                true
            }
            Some(_) => false,
            None if is_full => false,
            None => {
                self.early.insert(node.clone(), (new, now));
                true
            }
        }
    }

    /// A node is a member now. If it was leaving, it no longer is.
    pub(super) fn node_joined(&mut self, node: &NodeName) {
        let status = self.statuses.entry(node.clone()).or_default();
        status.leaving = false;
        if let Some((early, _)) = self.early.remove(node)
            && early.time > status.time
        {
            *status = early;
        }
    }

    /// Forgets nodes that are no longer members, once there are many.
    pub(super) fn prune(&mut self, members: usize, is_member: impl Fn(&NodeName) -> bool) {
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

    const fn at(time: u64, leaving: bool) -> IntentStatus {
        IntentStatus { time, leaving }
    }

    #[test]
    fn only_what_is_later_is_news() {
        let (now, a) = (Instant::now(), NodeName::from("a"));
        let mut intents = Intents::default();
        assert!(intents.receive(now, &a, at(5, false), true));
        assert!(!intents.receive(now, &a, at(5, true), true));
        assert!(intents.receive(now, &a, at(6, true), true));
        assert!(intents.status(&a).leaving);
        intents.node_joined(&a);
        assert_eq!(intents.status(&a), at(6, false));
    }

    #[test]
    fn an_intent_waits_for_its_node_and_not_for_ever() {
        let (now, a) = (Instant::now(), NodeName::from("a"));
        let mut intents = Intents::default();
        assert!(intents.receive(now, &a, at(5, true), false));
        assert!(!intents.receive(now, &a, at(5, true), false), "it was told");
        intents.node_joined(&a);
        assert_eq!(intents.status(&a), at(5, true));
        for i in 0..2 * MAX_EARLY {
            intents.receive(now, &i.to_string().as_str().into(), at(1, false), false);
        }
        assert_eq!(intents.early.len(), MAX_EARLY);
        assert!(intents.receive(now + PATIENCE, &"late".into(), at(1, false), false));
        assert_eq!(intents.early.len(), 1);
        for i in 0..1000 {
            intents.node_joined(&i.to_string().as_str().into());
            intents.prune(1, |node| *node == a);
        }
        assert!(intents.len() < 100);
    }
}
