//! Locks that clients of etcd want as well: by keys, as they know it.

use broadcast_lock::{
    Mode, Refusal,
    message::{EntryChange, EntryState, LockCommand, LockOutcome, LockQuery, LockState},
};
use broadcast_store::{
    Error,
    keys::{self, Delete, KeyRange, Op, Put, Txn},
    machine,
};

use crate::{
    properties::reread,
    support::{State, acquire, config, name, several, sid},
};

/// Leases of clients of etcd.
const ONE: i64 = 0x694d_81b2;
const OTHER: i64 = 0x694d_81b3;

fn state(sessions: &[i64]) -> State {
    let mut state = State::new(sessions);
    for lease in [ONE, OTHER] {
        state.apply(&machine::Command::grant(lease, 60));
    }
    state
}

fn put(key: String, value: &'static str, lease: i64) -> Put {
    Put { key: key.into(), value: value.into(), lease, ..Put::default() }
}

fn names(state: &State, prefix: &str) -> Vec<String> {
    state.listed(prefix).iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

fn lock(state: &State, lock: &str) -> LockState {
    state.ask::<Option<LockState>>(&LockQuery::Lock(name(lock))).expect("somebody is there")
}

#[test]
fn they_wait_for_each_other_in_one_queue() {
    let mut state = state(&[1, 2]);
    // Whoever has no clients of etcd has no keys.
    let held = state.enqueue(acquire(1, "a", Mode::Exclusive));
    assert_eq!(names(&state, ""), [""; 0]);
    let (one, granted) = state.enter(ONE, "a").expect("it had none");
    assert!(held.1 && !granted && one > held.0);
    assert_eq!(names(&state, "a/"), [format!("a/{ONE:x}"), format!("a/{:x}", sid(1))]);
    // What came before is older for etcd as well.
    let created: Vec<u64> = state.listed("a/").iter().map(|kv| kv.create_revision).collect();
    assert_eq!((created[0], created[1] < one), (one, true));
    let second = state.enqueue(acquire(2, "a", Mode::Exclusive));
    let (other, granted) = state.enter(OTHER, "a").expect("it had none");
    assert!(!second.1 && !granted && one < second.0 && second.0 < other);
    let shown = lock(&state, "a");
    assert_eq!((shown.holders[0].token, shown.waiting), (held.0, 3));
    assert_eq!(shown.queue.iter().map(|entry| entry.token).collect::<Vec<_>>(), [one, second.0, other]);
    assert_eq!(shown.queue[0].label, "etcd lease 694d81b2");
    state.take_events();
    state.release(1, held.0);
    assert_eq!(state.take_events(), [(held.0, EntryChange::Released), (one, EntryChange::Granted)]);
    assert!(state.delete(ONE, "a"));
    assert_eq!(state.take_events(), [(one, EntryChange::Released), (second.0, EntryChange::Granted)]);
    state.apply(&machine::Command::revoke(sid(2)));
    assert_eq!(state.entry_states(&[second.0, other]), [EntryState::Gone, EntryState::Held]);
    assert_eq!(names(&state, ""), [format!("a/{OTHER:x}")]);
    state.apply(&machine::Command::revoke(OTHER));
    assert_eq!((names(&state, ""), state.locks().counts().1), (Vec::new(), 0));
    // And then nobody pays for them any more.
    state.apply(&machine::Command::revoke(sid(1)));
    assert_eq!(state.execute(&LockCommand::OpenSession { session: sid(1), config: config() }), LockOutcome::Done);
    assert!(state.enqueue(acquire(1, "a", Mode::Exclusive)).1);
    assert_eq!(names(&state, ""), [""; 0]);
}

#[test]
fn readers_and_several_locks_are_waited_for_as_well() {
    let mut state = state(&[1, 2, 3]);
    let readers = [1, 2].map(|session| state.enqueue(acquire(session, "a", Mode::Shared)));
    let both = state.enqueue(several(3, &["a", "b"]));
    let (one, granted) = state.enter(ONE, "b").expect("it had none");
    assert!(!granted);
    assert_eq!(names(&state, ""), [format!("a/{:x}", sid(3)), format!("b/{ONE:x}"), format!("b/{:x}", sid(3))]);
    let states = state.entry_states(&[readers[0].0, both.0, one]);
    assert_eq!(states, [EntryState::Held, EntryState::Waiting, EntryState::Waiting]);
    for (session, (token, _)) in [1, 2].into_iter().zip(readers) {
        state.release(session, token);
    }
    assert_eq!(state.entry_states(&[both.0, one]), [EntryState::Held, EntryState::Waiting]);
    // The keys of an entry go with it, all of them.
    state.release(3, both.0);
    assert_eq!((state.entry_states(&[one]), names(&state, "")), (vec![EntryState::Held], vec![format!("b/{ONE:x}")]));
    assert_eq!(reread(&state).hash(), state.state.hash());
}

#[test]
fn who_deletes_the_key_of_a_place_takes_the_lock_away() {
    let mut state = state(&[1, 2]);
    let held = state.enqueue(several(1, &["a", "b"]));
    let more = state.enqueue(acquire(1, "c", Mode::Exclusive));
    let next = state.enqueue(acquire(2, "c", Mode::Exclusive));
    state.enter(ONE, "b").expect("it had none");
    state.take_events();
    // All at once, so none of them is granted what another one had.
    let delete = keys::KeysCommand::Delete(Delete { keys: KeyRange::prefix("b/"), prev_kv: false });
    state.keys(&delete);
    let told = state.take_events();
    assert!(told.contains(&(held.0, EntryChange::Forced)) && told.contains(&(more.0, EntryChange::Forced)), "{told:?}");
    assert_eq!(
        told.iter().filter(|(_, change)| *change == EntryChange::Granted).collect::<Vec<_>>(),
        [&(next.0, EntryChange::Granted)]
    );
    // Whoever had it hears of it with its next keepalive.
    assert_eq!(state.state.guaranteed_ttl(sid(1)), None);
    assert_eq!(names(&state, ""), [""; 0]);
}

#[test]
fn whoever_is_forced_out_may_be_a_client_of_etcd() {
    let mut state = state(&[1]);
    let (one, granted) = state.enter(ONE, "a").expect("it had none");
    assert!(granted);
    let waits = state.enqueue(acquire(1, "a", Mode::Exclusive));
    assert_eq!(
        state.execute(&LockCommand::ForceRelease { name: name("a") }),
        LockOutcome::Released { tokens: vec![one] }
    );
    assert_eq!(state.entry_states(&[waits.0]), [EntryState::Held]);
    assert!(!state.state.leases().contains(ONE), "its client finds its lease gone");
    assert_eq!(names(&state, ""), [format!("a/{:x}", sid(1))]);
}

#[test]
fn what_the_elected_say_is_seen_on_both_sides() {
    let mut state = state(&[1]);
    let (one, _) = state.enter(ONE, "a").expect("it had none");
    let (ours, _) = state.enqueue(acquire(1, "a", Mode::Exclusive));
    state.keys(&keys::KeysCommand::Put(put(format!("a/{ONE:x}"), "etcd's", ONE)));
    assert_eq!(&lock(&state, "a").holders[0].value[..], b"etcd's");
    assert!(state.delete(ONE, "a"));
    assert_eq!(state.entry_states(&[one, ours]), [EntryState::Gone, EntryState::Held]);
    let proclaim =
        LockCommand::Proclaim { name: name("a"), session: sid(1), token: ours, value: bytes::Bytes::from("ours") };
    assert_eq!(state.execute(&proclaim), LockOutcome::Done);
    let listed = state.listed("a/");
    assert_eq!((&listed[0].value[..], listed[0].create_revision), (&b"ours"[..], ours));
}

#[test]
fn a_token_is_the_revision_of_the_key_and_passes_fences() {
    let mut state = state(&[1]);
    let (one, _) = state.enter(ONE, "a").expect("it had none");
    assert_eq!(state.listed("a/")[0].create_revision, one);
    let fenced = |token| {
        let keys = keys::KeysCommand::Put(put("k".into(), "v", 0)).encode();
        LockCommand::FencedWrite { name: name("a"), token, keys }
    };
    assert!(matches!(state.execute(&fenced(one)), LockOutcome::Keys(_)));
    // A fenced write may be about places as well.
    let (ours, _) = state.enqueue(acquire(1, "a", Mode::Exclusive));
    let keys = keys::KeysCommand::Delete(Delete { keys: KeyRange::prefix("a/"), prev_kv: false }).encode();
    assert!(matches!(
        state.execute(&LockCommand::FencedWrite { name: name("a"), token: one, keys }),
        LockOutcome::Keys(_)
    ));
    assert_eq!(state.entry_states(&[one, ours]), [EntryState::Gone; 2]);
    assert_eq!(state.execute(&fenced(one)), LockOutcome::Refused(Refusal::NotHeld { token: one }));
}

#[test]
fn each_place_has_its_own_token_even_in_one_transaction() {
    let mut state = state(&[1]);
    let success = [("a", ONE), ("b", ONE), ("a", OTHER)];
    let success = success.map(|(lock, lease)| Op::Put(put(format!("{lock}/{lease:x}"), "", lease)));
    state.keys(&keys::KeysCommand::Txn(Txn { success: success.into(), ..Txn::default() }));
    assert_eq!(state.locks().counts(), (1, 2, 1));
    let tokens = |state: &State, each: &str| {
        let lock = lock(state, each);
        lock.holders.iter().chain(&lock.queue).map(|entry| entry.token).collect::<Vec<_>>()
    };
    let mut all = [tokens(&state, "a"), tokens(&state, "b")].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 3);
    let ours = state.enqueue(acquire(1, "a", Mode::Exclusive));
    assert!(!ours.1 && ours.0 > all[2]);
}

#[test]
fn other_keys_are_no_places() {
    let mut state = state(&[1]);
    let entry_key = format!("a/{ONE:x}");
    // Without a lease, of another one, or not as it is written.
    for (key, lease) in [
        (entry_key.clone(), 0),
        (entry_key.clone(), OTHER),
        (format!("a/{ONE:X}"), ONE),
        (format!("/a/{ONE:x}"), ONE),
        (format!("{ONE:x}"), ONE),
    ] {
        state.keys(&keys::KeysCommand::Put(put(key, "", lease)));
    }
    // It is there already, so no client of etcd would take that for its entry.
    state.keys(&keys::KeysCommand::Put(put(entry_key, "", ONE)));
    assert_eq!(state.locks().counts(), (1, 0, 0));
    assert!(state.enqueue(acquire(1, "a", Mode::Exclusive)).1);
}

#[test]
fn a_key_that_changes_its_lease_is_a_place_until_it_is_deleted() {
    let mut state = state(&[1]);
    let (one, _) = state.enter(ONE, "a").expect("it had none");
    state.keys(&keys::KeysCommand::Put(put(format!("a/{ONE:x}"), "", OTHER)));
    let ours = state.enqueue(acquire(1, "a", Mode::Exclusive));
    state.apply(&machine::Command::revoke(ONE));
    assert_eq!(state.entry_states(&[one, ours.0]), [EntryState::Held, EntryState::Waiting]);
    state.apply(&machine::Command::revoke(OTHER));
    assert_eq!(state.entry_states(&[one, ours.0]), [EntryState::Gone, EntryState::Held]);
}

#[test]
fn what_clients_of_etcd_have_taken_is_part_of_a_snapshot_though_nobody_else_has_a_lock() {
    let mut state = state(&[]);
    let (one, _) = state.enter(ONE, "a").expect("it had none");
    state.state = reread(&state);
    assert_eq!(state.entry_states(&[one]), [EntryState::Held]);
    assert_eq!(state.execute(&LockCommand::OpenSession { session: sid(1), config: config() }), LockOutcome::Done);
    let ours = state.enqueue(acquire(1, "a", Mode::Exclusive));
    assert!(!ours.1 && names(&state, "a/").len() == 2);
    assert!(state.delete(ONE, "a"));
    assert_eq!(state.entry_states(&[ours.0]), [EntryState::Held]);
}

#[test]
fn no_key_is_attached_to_a_session() {
    let mut state = state(&[1]);
    let put = put("a/b".into(), "", sid(1));
    let refused = machine::Outcome::Refused(Error::LeaseNotFound { lease: sid(1) });
    assert_eq!(state.keys(&keys::KeysCommand::Put(put.clone())), refused);
    let within = Op::Txn(Txn { failure: vec![Op::Put(put)], ..Txn::default() });
    assert_eq!(state.keys(&keys::KeysCommand::Txn(Txn { success: vec![within], ..Txn::default() })), refused);
}

#[test]
fn there_is_room_for_so_many() {
    let mut state = state(&[1]);
    let used = machine::Machine::bytes(state.locks());
    state.apply(&machine::Command::set_quota("locks", used + 500));
    state.enter(ONE, "a").expect("there is room");
    let more = keys::KeysCommand::Put(put(format!("b/{OTHER:x}"), "", OTHER));
    let refused = state.keys(&more);
    assert!(
        matches!(&refused, machine::Outcome::Refused(Error::NoSpace { machine, .. }) if machine == "locks"),
        "{refused:?}"
    );
    assert_eq!(names(&state, "b"), [""; 0]);
    // Where keys have no room, nobody gets a place that clients of etcd do not see.
    state.apply(&machine::Command::set_quota("locks", 1 << 20));
    state.apply(&machine::Command::set_quota("keys", 1));
    let refused = state.execute(&LockCommand::Acquire(acquire(1, "a", Mode::Exclusive)));
    assert!(matches!(refused, LockOutcome::Refused(Refusal::KeysFull { .. })), "{refused:?}");
    let open = broadcast_lock::message::AcquireCommand { open: Some(config()), ..acquire(2, "a", Mode::Exclusive) };
    let refused = state.execute(&LockCommand::Acquire(open));
    assert!(matches!(refused, LockOutcome::Refused(Refusal::KeysFull { .. })), "{refused:?}");
    assert_eq!(state.locks().counts(), (1, 1, 0));
    assert!(state.enqueue(acquire(1, "c", Mode::Exclusive)).1, "others go on");
}
