//! Reminders: an origin tells those that have not acknowledged what it said how far it goes, until they ask for it.

use std::time::{Duration, Instant};

use super::{
    Dissemination, Lane, Timer,
    control::{Control, Question, Start},
    limits::{ACKS_PER_SECOND, SWEEP},
    output::Output,
    ring::FANOUT,
};
use crate::membership::NodeName;

impl Dissemination {
    /// How often those who have not acknowledged are reminded.
    pub(super) fn reminder_period(&self) -> Duration {
        let acks = if self.live > FANOUT + 1 { 2.0 * self.live as f64 / ACKS_PER_SECOND } else { 0.0 };
        self.patience() + Duration::from_secs_f64(acks)
    }

    /// Sees to it that peers who do not acknowledge are reminded.
    pub(super) fn watch(&mut self, now: Instant, lane: Lane) {
        let timer = Timer::Remind(lane);
        let due = self.next_reminder(now, lane);
        if due.is_some_and(|due| self.timers.get(&timer).is_none_or(|set| set > due)) {
            self.outbound[lane as usize].begin_period();
            due.into_iter().for_each(|due| self.timers.set(timer.clone(), due));
        }
    }

    pub(super) fn remind(&mut self, now: Instant, lane: Lane) {
        let before = self.outbound[lane as usize].floor();
        let (peers, loose) = self.outbound[lane as usize].remind(now);
        if self.outbound[lane as usize].floor() > before {
            self.rounds[lane as usize] = self.telling_rounds();
        }
        for name in loose {
            self.outputs.push_back(Output::CutLoose(name));
        }
        for peer in peers {
            let silent = self.outbound[lane as usize].silent(&peer);
            self.outputs.extend(silent.map(Output::Silent));
            self.tell_start(lane, peer.as_bytes(), None);
        }
        if let Some(due) = self.next_reminder(now, lane) {
            self.timers.set(Timer::Remind(lane), due);
        }
    }

    /// When to look next who is behind: later where there is nobody but those that are only kept for.
    fn next_reminder(&self, now: Instant, lane: Lane) -> Option<Instant> {
        let outbound = &self.outbound[lane as usize];
        if outbound.waits_for_acks() {
            return Some(now + self.reminder_period());
        }
        outbound.keeps().then_some(now + SWEEP)
    }

    /// Tells a peer where it begins in what this node says, and how far that goes by now.
    pub(super) fn tell_start(&mut self, lane: Lane, peer: &[u8], echo: Option<Question>) {
        let Some((to, start)) = self.outbound[lane as usize].start_of(peer) else { return };
        let have = Control::Have(vec![self.own_have(lane, start)]);
        let named = self.outbound[lane as usize].cookie_of(peer).is_some();
        let message = if named { have.encode_by(self.by(echo)) } else { have.encode() };
        self.send(to, vec![message]);
    }

    /// A life was renewed: those who have had something begin after it, as what others lack is said again.
    pub(super) fn tell_starts(&mut self, lane: Lane) {
        let outbound = &self.outbound[lane as usize];
        let ahead = |start: Start| start.at > outbound.sent();
        let ahead =
            |name: &&NodeName| outbound.start_of(name.as_bytes()).and_then(|(_, start)| start).is_some_and(ahead);
        for peer in outbound.names().filter(ahead).cloned().collect::<Vec<_>>() {
            self.tell_start(lane, peer.as_bytes(), None);
        }
    }
}
