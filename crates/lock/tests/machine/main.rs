//! The state machine: queues, sessions, fences and snapshots; against a model that works everything out anew.

mod etcd_keys;
mod model;
mod properties;
mod support;

use broadcast_lock::{
    Mode, Refusal,
    machine::LockTotals,
    message::{EntryChange, EntryState, LockCommand, LockOutcome, LockQuery, LockSessionConfig, SessionState},
};
use broadcast_store::{keys, machine};

use crate::support::{State, acquire, config, name, several, sid};

const READERS: Mode = Mode::Shared;

#[test]
fn a_lock_goes_from_one_to_the_next_in_order() {
    let mut state = State::new(&[1, 2, 3]);
    let first = state.enqueue(acquire(1, "a", Mode::Exclusive));
    let second = state.enqueue(acquire(2, "a", Mode::Exclusive));
    let third = state.enqueue(acquire(3, "a", Mode::Exclusive));
    assert_eq!((first.1, second.1, third.1), (true, false, false));
    assert!(first.0 < second.0 && second.0 < third.0);
    assert_eq!(state.entry_states(&[first.0, third.0]), [EntryState::Held, EntryState::Waiting]);
    let ahead = |state: &State, token| state.ask::<Option<u64>>(&LockQuery::Ahead(token));
    assert_eq!([first.0, second.0, third.0].map(|token| ahead(&state, token)), [None, Some(1), Some(2)]);
    assert_eq!(
        state.take_events(),
        [(first.0, EntryChange::Granted), (second.0, EntryChange::Queued), (third.0, EntryChange::Queued)]
    );
    // A release and the next grant are one command.
    state.release(1, first.0);
    assert_eq!(state.take_events(), [(first.0, EntryChange::Released), (second.0, EntryChange::Granted)]);
    // Whoever waits may go.
    state.release(3, third.0);
    state.release(2, second.0);
    assert_eq!(state.entry_states(&[first.0, second.0, third.0]), [EntryState::Gone; 3]);
    assert_eq!(state.locks().totals(), LockTotals { grants: 2, releases: 2, ..LockTotals::default() });
}

#[test]
fn readers_share_and_no_writer_starves() {
    let mut state = State::new(&[1, 2, 3, 4]);
    let one = state.enqueue(acquire(1, "a", READERS));
    let two = state.enqueue(acquire(2, "a", READERS));
    let writer = state.enqueue(acquire(3, "a", Mode::Exclusive));
    let late = state.enqueue(acquire(4, "a", READERS));
    assert_eq!((one.1, two.1, writer.1, late.1), (true, true, false, false));
    state.release(1, one.0);
    assert_eq!(state.entry_states(&[writer.0, late.0]), [EntryState::Waiting, EntryState::Waiting]);
    state.release(2, two.0);
    assert_eq!(state.entry_states(&[writer.0, late.0]), [EntryState::Held, EntryState::Waiting]);
    state.release(3, writer.0);
    assert_eq!(state.entry_states(&[late.0]), [EntryState::Held]);
}

#[test]
fn a_semaphore_has_so_many_holders() {
    let mut state = State::new(&[1, 2, 3, 4]);
    let three = Mode::Semaphore { permits: 3 };
    let entries: Vec<_> = [1, 2, 3, 4].map(|session| state.enqueue(acquire(session, "a", three))).into();
    assert_eq!(entries.iter().map(|(_, granted)| *granted).collect::<Vec<_>>(), [true, true, true, false]);
    state.release(2, entries[1].0);
    assert_eq!(state.entry_states(&[entries[3].0]), [EntryState::Held]);
    // The smallest number that anybody before has asked for counts.
    let five = state.enqueue(acquire(2, "a", Mode::Semaphore { permits: 5 }));
    assert!(!five.1);
}

#[test]
fn several_locks_are_taken_at_once_and_nobody_waits_in_a_circle() {
    let mut state = State::new(&[1, 2, 3]);
    let both = state.enqueue(several(1, &["a", "b"]));
    let other_way = state.enqueue(several(2, &["b", "a"]));
    let one = state.enqueue(acquire(3, "b", Mode::Exclusive));
    assert_eq!((both.1, other_way.1, one.1), (true, false, false));
    state.release(1, both.0);
    assert_eq!(state.entry_states(&[other_way.0, one.0]), [EntryState::Held, EntryState::Waiting]);
    state.release(2, other_way.0);
    assert_eq!(state.entry_states(&[one.0]), [EntryState::Held]);
}

#[test]
fn all_of_a_session_ends_with_it_at_once() {
    let mut state = State::new(&[1, 2]);
    let held = state.enqueue(acquire(1, "a", Mode::Exclusive));
    let waits = state.enqueue(acquire(2, "a", Mode::Exclusive));
    let more = state.enqueue(acquire(1, "b", Mode::Exclusive));
    state.apply(&machine::Command::expire(sid(1), support::TERM));
    let told = state.take_events();
    assert!(
        told.contains(&(held.0, EntryChange::Expired)) && told.contains(&(more.0, EntryChange::Expired)),
        "{told:?}"
    );
    assert_eq!(told.last(), Some(&(waits.0, EntryChange::Granted)));
    let refused = state.execute(&LockCommand::Acquire(acquire(1, "c", Mode::Exclusive)));
    assert_eq!(refused, LockOutcome::Refused(Refusal::NoSession { session: sid(1) }));
    assert_eq!(state.locks().totals().expired, 2);
}

#[test]
fn the_same_request_twice_is_one_place() {
    let mut state = State::new(&[1]);
    let first = state.enqueue(acquire(1, "a", Mode::Exclusive));
    for mode in [Mode::Exclusive, READERS] {
        let refused = state.execute(&LockCommand::Acquire(acquire(1, "a", mode)));
        assert_eq!(
            refused,
            LockOutcome::Refused(Refusal::AlreadyQueued { session: sid(1), name: name("a"), token: first.0 })
        );
    }
    assert_eq!(state.entry_states(&[first.0]), [EntryState::Held]);
}

#[test]
fn who_does_not_wait_has_no_place() {
    let mut state = State::new(&[1, 2]);
    let held = state.enqueue(acquire(1, "a", Mode::Exclusive));
    let open = Some(LockSessionConfig { label: "a try".into(), ..config() });
    let tried = broadcast_lock::message::AcquireCommand {
        session: sid(9),
        open: open.clone(),
        waits: false,
        ..acquire(9, "a", Mode::Exclusive)
    };
    let LockOutcome::Taken { holders } = state.execute(&LockCommand::Acquire(tried.clone())) else {
        panic!("it is held")
    };
    assert_eq!((holders.len(), holders[0].token, holders[0].session), (1, held.0, sid(1)));
    // Nor a session.
    assert!(state.ask::<Option<SessionState>>(&LockQuery::Session(sid(9))).is_none());
    state.release(1, held.0);
    assert!(state.enqueue(tried).1);
    let session: Option<SessionState> = state.ask(&LockQuery::Session(sid(9)));
    assert_eq!(session.map(|session| (session.config.label, session.holds.len())), Some(("a try".into(), 1)));
}

#[test]
fn the_lock_delay_is_part_of_the_lease_and_not_of_what_the_holder_counts_on() {
    let mut state = State::new(&[]);
    let config = LockSessionConfig { ttl: 10, lock_delay: 5, ..config() };
    assert_eq!(state.execute(&LockCommand::OpenSession { session: sid(4), config }), LockOutcome::Done);
    assert_eq!((state.state.leases().ttl(sid(4)), state.state.guaranteed_ttl(sid(4))), (Some(15), Some(10)));
    assert_eq!(state.state.guaranteed_ttl(sid(5)), None);
}

#[test]
fn releases_by_who_does_not_hold_change_nothing() {
    let mut state = State::new(&[1, 2]);
    let (token, _) = state.enqueue(acquire(1, "a", Mode::Exclusive));
    let not_held = |token| LockOutcome::Refused(Refusal::NotHeld { token });
    assert_eq!(state.execute(&LockCommand::Release { session: sid(2), token, name: None }), not_held(token));
    assert_eq!(
        state.execute(&LockCommand::Release { session: sid(1), token: token + 1, name: None }),
        not_held(token + 1)
    );
    assert_eq!(state.entry_states(&[token]), [EntryState::Held]);
    let waits = state.enqueue(acquire(2, "a", Mode::Exclusive)).0;
    assert_eq!(
        state.execute(&LockCommand::ForceRelease { name: name("a") }),
        LockOutcome::Released { tokens: vec![token] }
    );
    assert_eq!(state.entry_states(&[token, waits]), [EntryState::Gone, EntryState::Held]);
    // Whoever had it hears of it with its next keepalive.
    assert_eq!(state.state.guaranteed_ttl(sid(1)), None);
    assert_eq!(
        state.execute(&LockCommand::ForceRelease { name: name("b") }),
        LockOutcome::Refused(Refusal::Free { name: name("b") })
    );
}

#[test]
fn who_is_elected_says_something_of_itself() {
    let mut state = State::new(&[1, 2]);
    let (token, _) = state.enqueue(acquire(1, "a", Mode::Exclusive));
    let (waits, _) = state.enqueue(acquire(2, "a", Mode::Exclusive));
    let proclaim = |session, token| {
        let (name, session) = (name("a"), sid(session));
        LockCommand::Proclaim { name, session, token, value: "here".into() }
    };
    assert_eq!(state.execute(&proclaim(1, token)), LockOutcome::Done);
    let lock: Option<broadcast_lock::message::LockState> = state.ask(&LockQuery::Lock(name("a")));
    let lock = lock.expect("it is held");
    assert_eq!((&lock.holders[0].value[..], lock.waiting, lock.queue.len()), (&b"here"[..], 1, 1));
    let refused = state.execute(&proclaim(2, waits));
    assert_eq!(refused, LockOutcome::Refused(Refusal::NotHeld { token: waits }));
}

#[test]
fn only_the_holder_changes_a_fenced_key() {
    let mut state = State::new(&[1, 2]);
    let (token, _) = state.enqueue(acquire(1, "a", Mode::Exclusive));
    let (next, _) = state.enqueue(acquire(2, "a", Mode::Exclusive));
    let put = |lock: &str, token, value: &'static str| {
        let put = keys::KeysCommand::Put(keys::Put { key: "k".into(), value: value.into(), ..Default::default() });
        LockCommand::FencedWrite { name: name(lock), token, keys: put.encode() }
    };
    assert!(matches!(state.execute(&put("a", token, "1")), LockOutcome::Keys(_)));
    let not_held = |token| LockOutcome::Refused(Refusal::NotHeld { token });
    assert_eq!(state.execute(&put("a", next, "2")), not_held(next));
    assert_eq!(state.execute(&put("b", token, "2")), not_held(token));
    state.release(1, token);
    assert_eq!(state.execute(&put("a", token, "2")), not_held(token));
    assert!(matches!(state.execute(&put("a", next, "3")), LockOutcome::Keys(_)));
    let found = state.state.keys().range(&keys::Range::of("k")).expect("it can be read");
    assert_eq!((&found.kvs[0].value[..], found.kvs[0].version), (&b"3"[..], 2));
    assert_eq!(state.locks().totals().fenced, 3);
    // Readers have nothing to themselves.
    state.release(2, next);
    let (shared, _) = state.enqueue(acquire(1, "a", READERS));
    assert_eq!(state.execute(&put("a", shared, "4")), not_held(shared));
}

#[test]
fn a_fence_refuses_what_is_older() {
    let mut state = State::new(&[1]);
    for _ in 0..3 {
        let (token, _) = state.enqueue(acquire(1, "a", Mode::Exclusive));
        state.release(1, token);
    }
    let newest = state.state.keys().revision();
    let fence = |token| LockCommand::RaiseFence { name: name("disk"), token };
    assert_eq!(state.execute(&fence(newest - 1)), LockOutcome::Done);
    assert_eq!(state.execute(&fence(newest - 1)), LockOutcome::Done);
    let refused = Refusal::StaleToken { name: name("disk"), token: newest - 2, highest: newest - 1 };
    assert_eq!(state.execute(&fence(newest - 2)), LockOutcome::Refused(refused));
    assert_eq!(state.ask::<Option<u64>>(&LockQuery::Fence(name("disk"))), Some(newest - 1));
    // Nobody has such a one: it would shut everybody out.
    assert_eq!(
        state.execute(&fence(newest + 1)),
        LockOutcome::Refused(Refusal::TokenNotIssued { token: newest + 1, newest })
    );
    assert_eq!(state.execute(&LockCommand::ForgetFence { name: name("disk") }), LockOutcome::Done);
    assert_eq!(state.ask::<Option<u64>>(&LockQuery::Fence(name("disk"))), None);
}

#[test]
fn what_is_wrong_in_itself_is_refused() {
    let mut state = State::new(&[1]);
    let bad = |acquire| LockCommand::Acquire(acquire);
    let long = config().label + &"x".repeat(256);
    for command in [
        bad(several(1, &[])),
        bad(several(1, &["a", "a"])),
        bad(broadcast_lock::message::AcquireCommand { mode: READERS, ..several(1, &["a", "b"]) }),
        bad(acquire(1, "a", Mode::Semaphore { permits: 0 })),
        bad(acquire(1, "a", Mode::Semaphore { permits: u16::MAX })),
        bad(broadcast_lock::message::AcquireCommand { value: vec![0; 5000].into(), ..acquire(1, "a", READERS) }),
        LockCommand::OpenSession { session: 0, config: config() },
        LockCommand::OpenSession { session: -7, config: config() },
        LockCommand::OpenSession { session: 7, config: config() },
        LockCommand::OpenSession { session: sid(7), config: LockSessionConfig { ttl: 1, ..config() } },
        LockCommand::OpenSession { session: sid(7), config: LockSessionConfig { ttl: u32::MAX, ..config() } },
        LockCommand::OpenSession { session: sid(7), config: LockSessionConfig { lock_delay: u32::MAX, ..config() } },
        LockCommand::OpenSession { session: sid(7), config: LockSessionConfig { label: long, ..config() } },
    ] {
        let before = state.state.hash();
        assert!(matches!(state.execute(&command), LockOutcome::Refused(Refusal::Invalid(_))), "{command:?}");
        assert_eq!(state.state.leases().len(), 1);
        // But for the place in the log.
        assert_ne!(state.state.hash(), before);
    }
    for bad in ["", "/a", "a/", "a\nb", &"x".repeat(256)] {
        broadcast_lock::Name::new(bad).expect_err(bad);
    }
    // A name that is none is not read, and never comes into the log.
    let command = LockCommand::ForceRelease { name: name("abc") }.encode();
    let broken: Vec<u8> = command.iter().map(|byte| if *byte == b'c' { b'/' } else { *byte }).collect();
    let broken = machine::Command::machine("locks", 1, broken).expect("it is small");
    state.state.check(&broken).expect_err("a name ends with /");
    let good = machine::Command::machine("locks", 1, command).expect("it is small");
    assert_eq!(state.state.check(&good), Ok(()));
}

#[test]
fn there_is_room_for_so_much() {
    let mut state = State::new(&[1]);
    let full = state.locks().clone();
    let used = broadcast_store::machine::Machine::bytes(&full);
    state.apply(&machine::Command::set_quota("locks", used + 1000));
    let mut refused = 0;
    for number in 0..10 {
        let outcome = state.execute(&LockCommand::Acquire(acquire(1, &format!("lock-{number}"), Mode::Exclusive)));
        refused += u32::from(matches!(outcome, LockOutcome::Refused(Refusal::NoSpace { .. })));
    }
    assert_eq!(refused, 8);
}

#[test]
fn a_store_that_is_founded_anew_has_none_of_the_former_holders() {
    let mut state = State::new(&[1, 2]);
    let (held, _) = state.enqueue(acquire(1, "a", Mode::Exclusive));
    let (waits, _) = state.enqueue(acquire(2, "a", Mode::Exclusive));
    assert_eq!(state.execute(&LockCommand::RaiseFence { name: name("disk"), token: held }), LockOutcome::Done);
    state.apply(&machine::Command::grant(5, 60));
    state.state.found_anew(machine::REVISION_JUMP).expect("there are revisions left");
    state.locks().assert_invariants();
    state.state.keys().assert_invariants();
    // Whoever comes back with a session of the former store is told that it has ended, and no token of then passes.
    assert_eq!([sid(1), sid(2), 5].map(|lease| state.state.guaranteed_ttl(lease)), [None, None, Some(60)]);
    assert_eq!(state.entry_states(&[held, waits]), [EntryState::Gone; 2]);
    assert!(matches!(
        state.execute(&LockCommand::RaiseFence { name: name("disk"), token: waits }),
        LockOutcome::Refused(Refusal::StaleToken { .. })
    ));
    assert_eq!(state.execute(&LockCommand::OpenSession { session: sid(3), config: config() }), LockOutcome::Done);
    let (token, granted) = state.enqueue(acquire(3, "a", Mode::Exclusive));
    assert!(granted && token > waits + machine::REVISION_JUMP / 2);
    assert_eq!(state.execute(&LockCommand::RaiseFence { name: name("disk"), token }), LockOutcome::Done);
}

#[test]
fn there_are_so_many_places_of_a_session() {
    let mut state = State::new(&[1]);
    for number in 0..1000 {
        assert!(state.enqueue(acquire(1, &format!("lock-{number}"), Mode::Exclusive)).1);
    }
    let refused = state.execute(&LockCommand::Acquire(acquire(1, "more", Mode::Exclusive)));
    assert_eq!(refused, LockOutcome::Refused(Refusal::TooManyEntries { session: sid(1), most: 1000 }));
}
