//! Who has acknowledged what, for those who are not the origin.
//!
//! Only an origin hears the acknowledgements of its messages. Who wants to see them asks it with a `Watch`,
//! again every [`RENEWAL`]. For [`WATCH`] after each, the origin tells it of the members whose positions have
//! changed, at most one packet every [`PACE`]; after a `Watch`, of all. Nothing is repeated: what gets lost is
//! told with the next `Watch`. This node's own application is told in the same way, without a packet.
//!
//! # What can go wrong
//!
//! - *A forged `Watch`*, in a member's name, costs that member a packet every [`PACE`] for [`WATCH`], as long
//!   as something changes. Strangers' are dropped, and there are [`MAX_WATCHERS`] at most.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Dissemination, Lane, Timer,
    control::{self, Control},
    output::{Acks, Output},
    revision::is_watchable,
};
use crate::membership::{Membership, NodeName, Record};

/// For how long who asked is told.
const WATCH: Duration = Duration::from_secs(10);
/// How often is asked again.
const RENEWAL: Duration = Duration::from_secs(5);
/// How long changes are gathered before they are told.
const PACE: Duration = Duration::from_millis(50);
/// How many members are told at once.
const MAX_WATCHERS: usize = 32;

/// Somebody who is told.
#[derive(Debug)]
struct Watcher {
    /// Until when.
    until: Instant,
    /// What it was told of each member.
    told: BTreeMap<NodeName, u64>,
    /// The member that it was told of last: the next one has its turn.
    last: NodeName,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Whether this node's application wants to know who has acknowledged what.
    wanted: bool,
    /// Who is told; without a name, this node's application.
    watchers: BTreeMap<Option<NodeName>, Watcher>,
}

impl Dissemination {
    /// Tells the application from now on who has acknowledged what of whose messages, beginning with all that
    /// is known; or does so no longer.
    pub(crate) fn watch_acks(&mut self, now: Instant, wanted: bool, membership: &Membership) {
        self.watching.wanted = wanted;
        if wanted {
            self.renew_watch(now, membership);
        } else {
            self.timers.cancel(&Timer::Watch);
            self.watching.watchers.remove(&None);
        }
    }

    /// Asks everybody who can be watched.
    pub(super) fn renew_watch(&mut self, now: Instant, membership: &Membership) {
        self.add_watcher(now, None);
        for record in membership.others() {
            self.ask_to_tell(record, membership);
        }
        self.timers.set(Timer::Watch, now + RENEWAL);
    }

    /// Asks a member, if acknowledgements are wanted. One that has just joined may not know this node yet.
    pub(super) fn ask_to_tell(&mut self, record: &Record, membership: &Membership) {
        if self.watching.wanted && record.is_live() && record.is_proven() && is_watchable(record.versions) {
            let watch = self.words(record.versions, &Control::Watch);
            self.send(record.addr(), membership.introduction().into_iter().chain([watch]).collect());
        }
    }

    /// A member, or this node's application, is told from now on.
    pub(super) fn add_watcher(&mut self, now: Instant, name: Option<NodeName>) {
        let watchers = &mut self.watching.watchers;
        watchers.retain(|_, watcher| watcher.until > now);
        let members = watchers.keys().flatten().count();
        if name.is_some() && members >= MAX_WATCHERS && !watchers.contains_key(&name) {
            self.counters.unusable += 1;
            return;
        }
        let last = NodeName::from("");
        watchers.insert(name, Watcher { until: now + WATCH, told: BTreeMap::new(), last });
        self.tell_later(now);
    }

    /// Positions of members may have changed.
    pub(super) fn tell_later(&mut self, now: Instant) {
        if !self.watching.watchers.is_empty() && self.timers.get(&Timer::Tell).is_none() {
            self.timers.set(Timer::Tell, now + PACE);
        }
    }

    /// A life was renewed: what was told was of the former one.
    pub(super) fn tell_anew(&mut self, now: Instant) {
        self.watching.watchers.values_mut().for_each(|watcher| watcher.told.clear());
        self.tell_later(now);
    }

    /// Tells everybody who watches what has changed.
    pub(super) fn tell_acks(&mut self, now: Instant, membership: &Membership) {
        let mut watchers = std::mem::take(&mut self.watching.watchers);
        watchers.retain(|_, watcher| watcher.until > now);
        let mut more = false;
        for (name, watcher) in &mut watchers {
            let budget = match name {
                Some(_) => self.max_in_packet() - self.by(None).max_len(),
                None => usize::MAX,
            };
            let (members, left) = self.changes(watcher, budget);
            more |= left;
            if members.is_empty() {
                continue;
            }
            let epoch = self.outbound[Lane::Own as usize].epoch;
            let Some(name) = name else {
                self.outputs.push_back(Output::Acks(Acks { origin: self.me.clone(), epoch, members }));
                continue;
            };
            if let Some(record) = membership.get(name.as_bytes()).filter(|record| record.is_live()) {
                let members = members.iter().map(|(name, next)| (name.as_bytes(), *next)).collect();
                let acked = self.words(record.versions, &Control::Acked { epoch, members });
                self.send(record.addr(), vec![acked]);
            }
        }
        self.watching.watchers = watchers;
        if more {
            self.tell_later(now);
        }
    }

    /// What a watcher is to be told next, in so many bytes, and whether there is more.
    fn changes(&self, watcher: &mut Watcher, budget: usize) -> (Vec<(NodeName, u64)>, bool) {
        let mut left = budget.saturating_sub(control::ACKED_OVERHEAD);
        let mut changes = Vec::new();
        let last = watcher.last.clone();
        for (name, acked) in self.outbound[Lane::Own as usize].positions_after(last.as_bytes()) {
            if watcher.told.get(name) == Some(&acked) {
                continue;
            }
            let len = control::position_len(name.as_bytes());
            if len > left || changes.len() == control::MAX_POSITIONS {
                return (changes, true);
            }
            left -= len;
            watcher.told.insert(name.clone(), acked);
            watcher.last = name.clone();
            changes.push((name.clone(), acked));
        }
        (changes, false)
    }

    /// An origin tells who has acknowledged what.
    pub(super) fn take_acked(&mut self, origin: &NodeName, epoch: u64, members: &[(&[u8], u64)]) {
        // What comes after the application has lost interest is late, and no matter.
        if self.watching.wanted && !members.is_empty() {
            let members = members.iter().map(|(name, next)| (NodeName::from(*name), *next)).collect();
            self.outputs.push_back(Output::Acks(Acks { origin: origin.clone(), epoch, members }));
        }
    }
}
