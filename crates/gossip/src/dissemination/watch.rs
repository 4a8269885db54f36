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
    context::{Context, Timer},
    control::{self, Control},
    outbound::Outbound,
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
pub(super) struct Watchers {
    /// Whether this node's application wants to know who has acknowledged what.
    wanted: bool,
    /// Who is told; without a name, this node's application.
    watchers: BTreeMap<Option<NodeName>, Watcher>,
}

impl Watchers {
    /// The application wants to know, or not any longer.
    pub(super) fn want(&mut self, cx: &mut Context, now: Instant, wanted: bool, membership: &Membership) {
        self.wanted = wanted;
        if wanted {
            self.renew(cx, now, membership);
        } else {
            cx.timers.cancel(&Timer::Watch);
            self.watchers.remove(&None);
        }
    }

    /// Asks everybody who can be watched.
    pub(super) fn renew(&mut self, cx: &mut Context, now: Instant, membership: &Membership) {
        self.add(cx, now, None);
        for record in membership.others() {
            self.ask(cx, record, membership);
        }
        cx.timers.set(Timer::Watch, now + RENEWAL);
    }

    /// Asks a member, if acknowledgements are wanted. One that has just joined may not know this node yet.
    pub(super) fn ask(&self, cx: &mut Context, record: &Record, membership: &Membership) {
        if self.wanted && record.is_live() && record.is_proven() && is_watchable(record.versions) {
            let watch = cx.me.encode_for(record.versions, &Control::Watch);
            cx.send(record.addr(), membership.introduction().into_iter().chain([watch]).collect());
        }
    }

    /// A member, or this node's application, is told from now on.
    pub(super) fn add(&mut self, cx: &mut Context, now: Instant, name: Option<NodeName>) {
        self.watchers.retain(|_, watcher| watcher.until > now);
        let members = self.watchers.keys().flatten().count();
        if name.is_some() && members >= MAX_WATCHERS && !self.watchers.contains_key(&name) {
            cx.counters.unusable += 1;
            return;
        }
        let last = NodeName::from("");
        self.watchers.insert(name, Watcher { until: now + WATCH, told: BTreeMap::new(), last });
        self.tell_later(cx, now);
    }

    /// Positions of members may have changed.
    pub(super) fn tell_later(&self, cx: &mut Context, now: Instant) {
        if !self.watchers.is_empty() && cx.timers.get(&Timer::Tell).is_none() {
            cx.timers.set(Timer::Tell, now + PACE);
        }
    }

    /// A life was renewed: what was told was of the former one.
    pub(super) fn tell_anew(&mut self, cx: &mut Context, now: Instant) {
        self.watchers.values_mut().for_each(|watcher| watcher.told.clear());
        self.tell_later(cx, now);
    }

    /// Tells everybody who watches what has changed of what is acknowledged of this node's messages.
    pub(super) fn tell(&mut self, cx: &mut Context, now: Instant, outbound: &Outbound, membership: &Membership) {
        self.watchers.retain(|_, watcher| watcher.until > now);
        let mut more = false;
        for (name, watcher) in &mut self.watchers {
            let budget = match name {
                Some(_) => cx.max_in_packet() - cx.me.by(None).max_len(),
                None => usize::MAX,
            };
            let (members, left) = watcher.changes(outbound, budget);
            more |= left;
            if members.is_empty() {
                continue;
            }
            let epoch = outbound.epoch;
            let Some(name) = name else {
                cx.outputs.push_back(Output::Acks(Acks { origin: cx.me.name.clone(), epoch, members }));
                continue;
            };
            if let Some(record) = membership.get(name.as_bytes()).filter(|record| record.is_live()) {
                let members = members.iter().map(|(name, next)| (name.as_bytes(), *next)).collect();
                let acked = cx.me.encode_for(record.versions, &Control::Acked { epoch, members });
                cx.send(record.addr(), vec![acked]);
            }
        }
        if more {
            self.tell_later(cx, now);
        }
    }

    /// An origin tells who has acknowledged what.
    pub(super) fn hear(&self, cx: &mut Context, origin: &NodeName, epoch: u64, members: &[(&[u8], u64)]) {
        // What comes after the application has lost interest is late, and no matter.
        if self.wanted && !members.is_empty() {
            let members = members.iter().map(|(name, next)| (NodeName::from(*name), *next)).collect();
            cx.outputs.push_back(Output::Acks(Acks { origin: origin.clone(), epoch, members }));
        }
    }
}

impl Watcher {
    /// What it is to be told next, in so many bytes, and whether there is more.
    fn changes(&mut self, outbound: &Outbound, budget: usize) -> (Vec<(NodeName, u64)>, bool) {
        let mut left = budget.saturating_sub(control::ACKED_OVERHEAD);
        let mut changes = Vec::new();
        let last = self.last.clone();
        for (name, acked) in outbound.positions_after(last.as_bytes()) {
            if self.told.get(name) == Some(&acked) {
                continue;
            }
            let len = control::position_len(name.as_bytes());
            if len > left || changes.len() == control::MAX_POSITIONS {
                return (changes, true);
            }
            left -= len;
            self.told.insert(name.clone(), acked);
            self.last = name.clone();
            changes.push((name.clone(), acked));
        }
        (changes, false)
    }
}
