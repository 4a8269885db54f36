//! Whatever happens in whatever order, the machine does as the model, hands over at once, and its snapshots are whole.

use broadcast_lock::{
    Locks, Mode,
    message::{EntryChange, EntryState, LockCommand, LockOutcome},
};
use broadcast_store::{keys, machine};
use proptest::prelude::*;

use crate::{
    model::{Model, QueueEntry},
    support::{State, TERM, config, several, sid},
};

#[derive(Clone, Debug)]
enum Step {
    Acquire {
        session: i64,
        locks: Vec<u8>,
        mode: Mode,
        waits: bool,
    },
    Release {
        which: usize,
    },
    Force {
        lock: u8,
    },
    End {
        session: i64,
        expires: bool,
    },
    Open {
        session: i64,
    },
    /// A client of etcd enters a queue, and leaves it.
    Enter {
        lease: i64,
        lock: u8,
    },
    Leave {
        which: usize,
    },
    EndLease {
        lease: i64,
        expires: bool,
    },
    /// Somebody deletes the key of an entry of ours.
    Delete {
        which: usize,
    },
    Snapshot,
}

/// Leases of clients of etcd.
const FOREIGN: std::ops::Range<i64> = 0x100..0x104;

fn step() -> impl Strategy<Value = Step> {
    let session = 1..6i64;
    let mode = prop_oneof![
        3 => Just(Mode::Exclusive),
        2 => Just(Mode::Shared),
        2 => (1..4u16).prop_map(|permits| Mode::Semaphore { permits }),
    ];
    let locks = prop_oneof![
        4 => (0..3u8).prop_map(|lock| vec![lock]),
        1 => proptest::sample::subsequence(vec![0u8, 1, 2], 2..=3).prop_shuffle(),
    ];
    prop_oneof![
        8 => (session.clone(), locks, mode, prop::bool::weighted(0.8)).prop_map(|(session, locks, mode, waits)| {
            let mode = if locks.len() > 1 { Mode::Exclusive } else { mode };
            Step::Acquire { session, locks, mode, waits }
        }),
        6 => any::<usize>().prop_map(|which| Step::Release { which }),
        1 => (0..3u8).prop_map(|lock| Step::Force { lock }),
        1 => (session.clone(), any::<bool>()).prop_map(|(session, expires)| Step::End { session, expires }),
        2 => session.prop_map(|session| Step::Open { session }),
        5 => (FOREIGN, 0..3u8).prop_map(|(lease, lock)| Step::Enter { lease, lock }),
        3 => any::<usize>().prop_map(|which| Step::Leave { which }),
        1 => (FOREIGN, any::<bool>()).prop_map(|(lease, expires)| Step::EndLease { lease, expires }),
        1 => any::<usize>().prop_map(|which| Step::Delete { which }),
        1 => Just(Step::Snapshot),
    ]
}

fn lock_name(lock: u8) -> String {
    // One name begins as another.
    ["a", "a/b", "a/b/c"][usize::from(lock)].into()
}

/// The state after a snapshot of it was written and read.
pub(crate) fn reread(state: &State) -> machine::State {
    let mut snapshot = Vec::new();
    state.state.write_snapshot(&mut snapshot).expect("memory takes it");
    machine::State::read_snapshot(vec![Locks::machine()], &mut &snapshot[..], 1 << 30).expect("it is whole")
}

/// The index in the model of an entry that is chosen among those.
fn nth(model: &Model, which: usize, among: impl Fn(&QueueEntry) -> bool) -> Option<usize> {
    let all: Vec<usize> = model.0.iter().enumerate().filter(|(_, entry)| among(entry)).map(|(at, _)| at).collect();
    (!all.is_empty()).then(|| all[which % all.len()])
}

/// A client of etcd has the lock if nothing with the lock's prefix is older than its key: that has to be so for who is
/// granted it, and for nobody else.
fn check_recipe(state: &State, model: &Model) {
    let granted = model.granted();
    for entry in model.0.iter().filter(|entry| FOREIGN.contains(&entry.session)) {
        let prefix = lock_name(entry.locks[0]) + "/";
        let all = state.listed(&prefix);
        let is_older = |kv: &&keys::KeyValue| kv.create_revision < entry.token;
        let older = all.iter().filter(is_older).count();
        let is_granted = granted.contains(&entry.token);
        assert!(older > 0 || is_granted, "{} takes {prefix} for granted: {model:?}", entry.token);
        // Keys of locks whose names go on from there keep it from having the lock, but give it to nobody else.
        let direct = all.iter().filter(is_older).filter(|kv| !kv.key[prefix.len()..].contains(&b'/')).count();
        assert_eq!(direct == 0, is_granted, "{} and {prefix}: {model:?}, {all:?}", entry.token);
    }
}

fn run(steps: Vec<Step>) {
    let mut state = State::new(&[1, 2, 3, 4, 5]);
    let mut model = Model::default();
    let mut sessions: Vec<i64> = vec![1, 2, 3, 4, 5];
    FOREIGN.for_each(|lease| drop(state.apply(&machine::Command::grant(lease, 60))));
    let mut last = 0;
    for step in steps {
        let granted_before = model.granted();
        state.take_events();
        match step {
            Step::Acquire { session, locks, mode, waits } => {
                let names: Vec<String> = locks.iter().map(|lock| lock_name(*lock)).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let acquire = broadcast_lock::message::AcquireCommand { mode, waits, ..several(session, &names) };
                let outcome = state.execute(&LockCommand::Acquire(acquire));
                let had = model
                    .0
                    .iter()
                    .find(|entry| entry.session == session && entry.locks.iter().any(|lock| locks.contains(lock)));
                match (&outcome, had) {
                    (LockOutcome::Refused(_), _) if !sessions.contains(&session) => {}
                    (LockOutcome::Refused(_), Some(_)) => {}
                    (LockOutcome::Queued { token, granted }, None) => {
                        assert!(*token > last, "tokens grow");
                        last = *token;
                        model.0.push(QueueEntry { token: *token, session, locks, mode });
                        assert_eq!(*granted, model.granted().contains(token));
                    }
                    (LockOutcome::Taken { .. }, None) => {
                        assert!(!waits);
                        let token = u64::MAX;
                        let mut tried = Model(model.0.clone());
                        tried.0.push(QueueEntry { token, session, locks, mode });
                        assert!(!tried.granted().contains(&token), "it was free");
                    }
                    other => panic!("{other:?}"),
                }
            }
            Step::Release { which } => {
                if let Some(at) = nth(&model, which, |entry| !FOREIGN.contains(&entry.session)) {
                    let entry = model.0.remove(at);
                    state.release(entry.session, entry.token);
                }
            }
            Step::Enter { lease, lock } => {
                let had = model.0.iter().any(|entry| entry.session == lease && entry.locks == [lock]);
                let entered = state.enter(lease, &lock_name(lock));
                assert_eq!(entered.is_none(), had);
                if let Some((token, granted)) = entered {
                    assert!(token > last, "tokens grow");
                    last = token;
                    model.0.push(QueueEntry { token, session: lease, locks: vec![lock], mode: Mode::Exclusive });
                    assert!(!granted || model.granted().contains(&token), "it takes for granted what it has not");
                }
            }
            Step::Leave { which } => {
                if let Some(at) = nth(&model, which, |entry| FOREIGN.contains(&entry.session)) {
                    let entry = model.0.remove(at);
                    assert!(state.delete(entry.session, &lock_name(entry.locks[0])), "its entry is a key");
                }
            }
            Step::EndLease { lease, expires } => {
                let end = if expires { machine::Command::expire(lease, TERM) } else { machine::Command::revoke(lease) };
                state.apply(&end);
                state.apply(&machine::Command::grant(lease, 60));
                model.0.retain(|entry| entry.session != lease);
            }
            Step::Delete { which } => {
                if let Some(at) = nth(&model, which, |entry| !FOREIGN.contains(&entry.session)) {
                    let QueueEntry { session, locks, .. } = model.0[at].clone();
                    // Not each entry is a key; whoever deletes one takes all away from its session.
                    if state.delete(sid(session), &lock_name(locks[0])) {
                        model.0.retain(|entry| entry.session != session);
                        sessions.retain(|each| *each != session);
                    }
                }
            }
            Step::Force { lock } => {
                let granted = model.granted();
                let outcome =
                    state.execute(&LockCommand::ForceRelease { name: crate::support::name(&lock_name(lock)) });
                let held = |entry: &QueueEntry| entry.locks.contains(&lock) && granted.contains(&entry.token);
                let tokens: Vec<u64> = model.0.iter().filter(|entry| held(entry)).map(|entry| entry.token).collect();
                if tokens.is_empty() {
                    assert!(matches!(outcome, LockOutcome::Refused(_)));
                } else {
                    assert_eq!(outcome, LockOutcome::Released { tokens });
                }
                // Their sessions end, and leases.
                let ended: Vec<i64> = model.0.iter().filter(|entry| held(entry)).map(|entry| entry.session).collect();
                model.0.retain(|entry| !ended.contains(&entry.session));
                sessions.retain(|session| !ended.contains(session));
                for lease in ended.into_iter().filter(|lease| FOREIGN.contains(lease)) {
                    state.apply(&machine::Command::grant(lease, 60));
                }
            }
            Step::End { session, expires } => {
                let end = if expires {
                    machine::Command::expire(sid(session), TERM)
                } else {
                    machine::Command::revoke(sid(session))
                };
                state.apply(&end);
                sessions.retain(|each| *each != session);
                model.0.retain(|entry| entry.session != session);
            }
            Step::Open { session } => {
                let outcome = state.execute(&LockCommand::OpenSession { session: sid(session), config: config() });
                assert_eq!(outcome == LockOutcome::Done, !sessions.contains(&session));
                if outcome == LockOutcome::Done {
                    sessions.push(session);
                }
            }
            Step::Snapshot => {
                let copy = reread(&state);
                assert_eq!(copy.hash(), state.state.hash());
                state.state = copy;
            }
        }
        let granted = model.granted();
        let told = state.take_events();
        let news: Vec<u64> = granted.iter().filter(|token| !granted_before.contains(token)).copied().collect();
        let mut told_granted: Vec<u64> =
            told.iter().filter(|(_, change)| *change == EntryChange::Granted).map(|(token, _)| *token).collect();
        told_granted.sort_unstable();
        assert_eq!(told_granted, news, "what is granted is told, once, with what made it free");
        let tokens: Vec<u64> = model.0.iter().map(|entry| entry.token).collect();
        for (token, now) in tokens.iter().zip(state.entry_states(&tokens)) {
            assert_eq!(now == EntryState::Held, granted.contains(token), "{token}: {now:?}, {model:?}");
        }
        check_recipe(&state, &model);
    }
    state.state.keys().assert_invariants();
    let (opened, ..) = state.locks().counts();
    assert_eq!(opened, sessions.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_as_the_model(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }

    /// Bytes that mean nothing are refused, or are an outcome; they stop nobody.
    #[test]
    fn no_bytes_are_too_odd(body in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut state = State::new(&[1]);
        let command = machine::Command::machine("locks", 1, body).expect("it is small");
        if state.state.check(&command).is_ok() {
            state.apply(&command);
        }
    }
}
