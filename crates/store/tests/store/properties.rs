//! Random sequences, compared with the model after every step.

use std::collections::BTreeMap;

use broadcast_store::{
    Error,
    keys::{self, KeyEvent, KeyRange, Range, Watch, WatchEvent, WatchHub, WatchId, WatchPoll},
    machine::{Command, MAX_TTL, MIN_TTL, Outcome},
};
use proptest::{collection::vec, prelude::*};

use crate::{
    model::{Change, Model},
    steps::{Step, command, step},
    support::Member,
};

/// What is known of a watcher from outside.
struct Watcher {
    watch: Watch,
    /// The first revision that it was not told of yet.
    next: u64,
    /// Whether it was told that there is nothing, and was not woken since.
    idle: bool,
    asked: bool,
}

impl Watcher {
    fn expects(&self, change: &Change) -> bool {
        let filtered = if change.0.is_tombstone() { self.watch.no_delete } else { self.watch.no_put };
        !filtered && self.watch.keys.contains(&change.0.key)
    }

    /// The first revision up to `head` that it has to be told of.
    fn next_change(&self, model: &Model, head: u64) -> Option<u64> {
        (self.next..=head).find(|at| model.changes[*at as usize].iter().any(|change| self.expects(change)))
    }
}

struct Run {
    member: Member,
    model: Model,
    hub: WatchHub,
    head: u64,
    watchers: BTreeMap<WatchId, Watcher>,
}

fn same_error(ours: &Error, theirs: &Error) -> bool {
    matches!((ours, theirs), (Error::DuplicateKey { .. }, Error::DuplicateKey { .. })) || ours == theirs
}

impl Run {
    fn new() -> Self {
        let member = Member::new();
        let hub = WatchHub::new(8, member.state.keys());
        Self { member, model: Model::new(), hub, head: 1, watchers: BTreeMap::new() }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Command(command) => {
                let (ours, theirs) = (self.member.keys(command), self.model.apply(command));
                match (&ours, &theirs) {
                    (Err(ours), Err(theirs)) if same_error(ours, theirs) => {}
                    _ => assert_eq!(ours, theirs),
                }
            }
            Step::Read(range) => assert_eq!(self.member.state.keys().range(range), self.model.range(range)),
            Step::Grant(lease, ttl) => self.grant(*lease, *ttl),
            Step::Revoke(lease) => {
                let outcome = self.member.apply(&Command::revoke(*lease));
                self.check_end(*lease, outcome);
            }
            Step::Expire(lease, behind) => {
                let (named, term) = (self.member.at.term - behind, self.member.at.term);
                let outcome = self.member.apply(&Command::expire(*lease, named));
                if *behind > 0 {
                    assert_eq!(outcome, Outcome::Refused(Error::TermPassed { lease: *lease, named, term }));
                } else {
                    self.check_end(*lease, outcome);
                }
            }
            Step::NewTerm => self.member.at.term += 1,
            Step::Watch(watch) => self.watch(watch),
            Step::Poll(which) => {
                if let Some(id) = self.choose(*which) {
                    self.poll(id);
                }
            }
            Step::Progress(which) => {
                if let Some(id) = self.choose(*which) {
                    self.hub.request_progress(id);
                    self.watchers.get_mut(&id).expect("chosen").asked = true;
                }
            }
            Step::CancelWatch(which) => {
                if let Some(id) = self.choose(*which) {
                    self.hub.cancel(id);
                    self.watchers.remove(&id);
                    assert_eq!(self.hub.poll(id, self.member.state.keys()), WatchPoll::Idle);
                }
            }
            Step::Applied => {
                let woken = self.hub.observe(self.member.state.keys());
                self.woken(&woken);
            }
            Step::Restart => {
                self.member.restart();
                let woken = self.hub.observe_snapshot(self.member.state.keys());
                self.woken(&woken);
            }
        }
        self.check();
    }

    fn grant(&mut self, lease: i64, ttl: i64) {
        let revision = self.model.revision();
        let expected = match lease {
            0 => Outcome::Refused(Error::LeaseNotFound { lease }),
            _ if self.model.leases.contains_key(&lease) => Outcome::Refused(Error::LeaseExists { lease }),
            _ => {
                let ttl = ttl.clamp(MIN_TTL, MAX_TTL);
                self.model.leases.insert(lease, ttl);
                Outcome::Granted { revision, lease, ttl }
            }
        };
        assert_eq!(self.member.apply(&Command::grant(lease, ttl)), expected);
    }

    fn check_end(&mut self, lease: i64, outcome: Outcome) {
        match self.model.end_lease(lease) {
            Ok(revision) => assert_eq!(outcome, Outcome::LeaseEnded { revision, lease }),
            Err(error) => assert_eq!(outcome, Outcome::Refused(error)),
        }
    }

    fn choose(&self, which: usize) -> Option<WatchId> {
        self.watchers.keys().nth(which.checked_rem(self.watchers.len())?).copied()
    }

    fn watch(&mut self, watch: &Watch) {
        let id = match self.hub.watch(watch.clone(), self.member.state.keys()) {
            Ok(id) => id,
            Err(Error::KeyNotProvided) => return assert!(watch.keys.key.is_empty()),
            Err(error) => {
                assert_eq!((error, self.watchers.len()), (Error::TooManyWatchers { most: 8 }, 8));
                return;
            }
        };
        let next = if watch.start_revision == 0 { self.model.revision() + 1 } else { watch.start_revision };
        self.watchers.insert(id, Watcher { watch: watch.clone(), next, idle: false, asked: false });
    }

    fn woken(&mut self, woken: &[WatchId]) {
        self.head = self.model.revision();
        for id in woken {
            self.watchers.get_mut(id).expect("it has not ended").idle = false;
        }
        for watcher in self.watchers.values().filter(|watcher| watcher.idle) {
            assert_eq!(watcher.next_change(&self.model, self.head), None, "it was not woken: {:?}", watcher.watch);
        }
    }

    /// Polls once; whether there may be more.
    fn poll(&mut self, id: WatchId) -> bool {
        let watcher = self.watchers.get_mut(&id).expect("chosen");
        match self.hub.poll(id, self.member.state.keys()) {
            WatchPoll::Again => true,
            WatchPoll::Idle => {
                assert!(!watcher.asked);
                assert_eq!(watcher.next_change(&self.model, self.head), None);
                watcher.idle = true;
                false
            }
            WatchPoll::Ready(WatchEvent::Progress { revision }) => {
                assert!(std::mem::take(&mut watcher.asked));
                assert_eq!(revision, self.head);
                assert_eq!(watcher.next_change(&self.model, self.head), None);
                true
            }
            WatchPoll::Ready(WatchEvent::Changes { revision, events }) => {
                assert_eq!(Some(revision), watcher.next_change(&self.model, self.head));
                let expected = self.model.changes[revision as usize].iter().filter(|change| watcher.expects(change));
                let expected: Vec<_> = expected
                    .map(|(kv, prev)| {
                        let prev = prev.clone().filter(|_| watcher.watch.prev_kv && revision > self.model.compacted);
                        KeyEvent { kv: kv.clone().into(), prev: prev.map(Into::into) }
                    })
                    .collect();
                assert_eq!(events, expected);
                watcher.next = revision + 1;
                true
            }
            WatchPoll::Ready(WatchEvent::Cancelled(cancelled)) => {
                let (keys::CancelReason::Compacted { start: next, compacted }
                | keys::CancelReason::Slow { next, compacted }) = cancelled;
                assert!(next < compacted && watcher.next <= next, "{cancelled:?}, told up to {}", watcher.next);
                assert!(compacted <= self.model.compacted);
                self.watchers.remove(&id);
                false
            }
        }
    }

    fn check(&self) {
        let keys = self.member.state.keys();
        keys.assert_invariants();
        assert_eq!((keys.revision(), keys.compacted()), (self.model.revision(), self.model.compacted));
        let leases: Vec<_> = self.member.state.leases().iter().collect();
        assert!(leases.iter().copied().eq(self.model.leases.iter().map(|(lease, ttl)| (*lease, *ttl))));
        for (lease, _) in leases {
            assert!(keys.attached(lease).eq(&self.model.attached(lease)));
        }
    }

    fn finish(mut self) {
        for revision in self.model.compacted..=self.model.revision() {
            let range = Range { revision, ..Range::in_range(KeyRange::all()) };
            assert_eq!(self.member.state.keys().range(&range), self.model.range(&range));
        }
        let woken = self.hub.observe(self.member.state.keys());
        self.woken(&woken);
        for id in self.watchers.keys().copied().collect::<Vec<_>>() {
            while self.poll(id) {}
        }
        assert_eq!(self.hub.len(), self.watchers.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_state_is_as_the_model_says(steps in vec(step(), 1..120)) {
        let mut run = Run::new();
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// One member applies all; another goes on from its snapshot in the middle.
    #[test]
    fn members_with_equal_logs_are_equal(commands in vec(command(), 1..80), middle in 0usize..80) {
        let (mut one, mut other) = (Member::new(), Member::new());
        for (at, command) in commands.iter().enumerate() {
            if at == middle {
                other.restart();
            }
            assert_eq!(one.keys(command), other.keys(command));
            if at % 16 == 0 {
                assert_eq!(one.state.hash(), other.state.hash());
            }
        }
        assert_eq!(one.state.hash(), other.state.hash());
        assert_eq!(one.snapshot(), other.snapshot());
        let keys = [one.state.keys(), other.state.keys()];
        for revision in keys[0].compacted()..=keys[0].revision() {
            assert_eq!(keys[0].hash_at(revision), keys[1].hash_at(revision));
        }
    }

    /// The hash at a revision tells states apart, and stays what it was while the store goes on.
    #[test]
    fn the_hash_at_a_revision_stays(commands in vec(command(), 1..40), more in vec(command(), 1..20)) {
        let mut member = Member::new();
        for command in &commands {
            let _ = member.keys(command);
        }
        let (revision, compacted) = (member.state.keys().revision(), member.state.keys().compacted());
        let hash = member.state.keys().hash_at(revision);
        for command in &more {
            let _ = member.keys(command);
            if member.state.keys().compacted() == compacted {
                assert_eq!(member.state.keys().hash_at(revision), hash);
            }
        }
    }
}
