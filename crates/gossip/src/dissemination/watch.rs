//! Acknowledgements for others than the origin: who has which messages.
//!
//! Only an origin receives the acknowledgements of its messages. A node whose application wants to see them sends the
//! origin a `WatchAcks`, again every [`RENEWAL`]. For [`WATCH_DURATION`] after each, the origin reports the members whose
//! positions have changed, in at most one packet every [`REPORT_INTERVAL`]; right after a `WatchAcks` it reports all.
//! Reports are not repeated: what gets lost is told after the next `WatchAcks`. The origin's own application is told in
//! the same way, without a packet.
//!
//! # What can go wrong
//!
//! - *A forged `WatchAcks`* in a member's name costs that member a packet every [`REPORT_INTERVAL`] for
//!   [`WATCH_DURATION`], as long as something changes. From others than members it is dropped, and there are
//!   [`MAX_WATCHERS`] at most.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    context::{Context, Timer},
    control::{self, Control},
    outbound::OutboundLog,
    output::{Acks, Output},
    revision::is_watchable,
};
use crate::membership::{Membership, NodeName, Record};

/// For how long a watcher is told.
const WATCH_DURATION: Duration = Duration::from_secs(10);
/// How often a watcher asks again.
const RENEWAL: Duration = Duration::from_secs(5);
/// How long changes are collected before they are reported. Longer makes fewer packets, and later news.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);
/// How many members are told at the same time.
const MAX_WATCHERS: usize = 32;

/// One watcher.
#[derive(Debug)]
struct Watcher {
    /// It is told until then.
    until: Instant,
    /// The position of each member that was reported to it last.
    reported: BTreeMap<NodeName, u64>,
    /// The member that was reported last; the next report begins with the one after it.
    last: NodeName,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Watchers {
    /// Whether this node's application wants to see acknowledgements.
    wanted: bool,
    /// The watchers by name; `None` is this node's own application.
    watchers: BTreeMap<Option<NodeName>, Watcher>,
}

impl Watchers {
    /// The application wants to see acknowledgements, or does not any more.
    pub(super) fn set_wanted(&mut self, cx: &mut Context, now: Instant, wanted: bool, membership: &Membership) {
        self.wanted = wanted;
        if wanted {
            self.renew(cx, now, membership);
        } else {
            cx.timers.cancel(&Timer::RenewWatch);
            self.watchers.remove(&None);
        }
    }

    /// Asks all members that can be watched.
    pub(super) fn renew(&mut self, cx: &mut Context, now: Instant, membership: &Membership) {
        self.add(cx, now, None);
        for record in membership.others() {
            self.ask(cx, record, membership);
        }
        cx.timers.set(Timer::RenewWatch, now + RENEWAL);
    }

    /// Asks one member, if acknowledgements are wanted. It may have just joined and not know this node yet.
    pub(super) fn ask(&self, cx: &mut Context, record: &Record, membership: &Membership) {
        if self.wanted && record.is_live() && record.is_proven() && is_watchable(record.versions) {
            let watch = cx.local.encode_for(record.versions, &Control::WatchAcks);
            cx.send(record.addr(), membership.introduction().into_iter().chain([watch]).collect());
        }
    }

    /// Adds a watcher: a member, or this node's application.
    pub(super) fn add(&mut self, cx: &mut Context, now: Instant, name: Option<NodeName>) {
        self.watchers.retain(|_, watcher| watcher.until > now);
        let members = self.watchers.keys().flatten().count();
        if name.is_some() && members >= MAX_WATCHERS && !self.watchers.contains_key(&name) {
            cx.counters.unusable += 1;
            return;
        }
        let last = NodeName::from("");
        self.watchers.insert(name, Watcher { until: now + WATCH_DURATION, reported: BTreeMap::new(), last });
        self.report_later(cx, now);
    }

    /// Sees to it that watchers are told soon of changed positions.
    pub(super) fn report_later(&self, cx: &mut Context, now: Instant) {
        if !self.watchers.is_empty() && cx.timers.get(&Timer::ReportAcks).is_none() {
            cx.timers.set(Timer::ReportAcks, now + REPORT_INTERVAL);
        }
    }

    /// This node has begun another epoch: all positions are reported again.
    pub(super) fn report_anew(&mut self, cx: &mut Context, now: Instant) {
        self.watchers.values_mut().for_each(|watcher| watcher.reported.clear());
        self.report_later(cx, now);
    }

    /// Reports to each watcher which positions have changed.
    pub(super) fn report(&mut self, cx: &mut Context, now: Instant, outbound: &OutboundLog, membership: &Membership) {
        self.watchers.retain(|_, watcher| watcher.until > now);
        let mut more = false;
        for (name, watcher) in &mut self.watchers {
            let budget = match name {
                Some(_) => cx.max_in_packet() - cx.local.header(None).max_len(),
                None => usize::MAX,
            };
            let (members, left) = watcher.changes(outbound, budget);
            more |= left;
            if members.is_empty() {
                continue;
            }
            let epoch = outbound.epoch;
            let Some(name) = name else {
                cx.outputs.push_back(Output::Acks(Acks { origin: cx.local.name.clone(), epoch, members }));
                continue;
            };
            if let Some(record) = membership.get(name.as_bytes()).filter(|record| record.is_live()) {
                let members = members.iter().map(|(name, next)| (name.as_bytes(), *next)).collect();
                let acked = cx.local.encode_for(record.versions, &Control::AckReport { epoch, members });
                cx.send(record.addr(), vec![acked]);
            }
        }
        if more {
            self.report_later(cx, now);
        }
    }

    /// Takes an origin's report.
    pub(super) fn handle_report(&self, cx: &mut Context, origin: &NodeName, epoch: u64, members: &[(&[u8], u64)]) {
        // A report may come after the application has lost interest.
        if self.wanted && !members.is_empty() {
            let members = members.iter().map(|(name, next)| (NodeName::from(*name), *next)).collect();
            cx.outputs.push_back(Output::Acks(Acks { origin: origin.clone(), epoch, members }));
        }
    }
}

impl Watcher {
    /// The next positions to report that fit in `budget` bytes, and whether there are more.
    fn changes(&mut self, outbound: &OutboundLog, budget: usize) -> (Vec<(NodeName, u64)>, bool) {
        let mut left = budget.saturating_sub(control::ACK_REPORT_OVERHEAD);
        let mut changes = Vec::new();
        let last = self.last.clone();
        for (name, acked) in outbound.positions_after(last.as_bytes()) {
            if self.reported.get(name) == Some(&acked) {
                continue;
            }
            let len = control::position_len(name.as_bytes());
            if len > left || changes.len() == control::MAX_POSITIONS {
                return (changes, true);
            }
            left -= len;
            self.reported.insert(name.clone(), acked);
            self.last = name.clone();
            changes.push((name.clone(), acked));
        }
        (changes, false)
    }
}
