//! Machines apart from each other, and versions.

use broadcast_store::{
    ApplyError, CodecError, SnapshotError, keys,
    machine::{self, Command, CommandVersions, LogId, Outcome, State},
};
use bytes::Bytes;

use crate::{counter::Counter, support::put};

fn with_counter() -> State {
    State::with(vec![Box::<Counter>::default()])
}

fn count(by: u8) -> Command {
    Command::machine("counter", 1, vec![by]).expect("it is small")
}

const AT: LogId = LogId { index: 1, term: 3 };

fn apply(state: &mut State, command: &Command) -> Outcome {
    state.apply(AT, command).expect("it is known")
}

#[test]
fn each_machine_has_its_own_commands_and_hears_of_leases() {
    let mut state = with_counter();
    apply(&mut state, &Command::grant(5, 10));
    assert_eq!(apply(&mut state, &count(2)), Outcome::Machine(Bytes::from_static(&[2, 1, 3])));
    assert_eq!((state.keys().revision(), state.machine::<Counter>().map(|counter| counter.count)), (1, Some(2)));
    let put = Command::keys(&keys::KeysCommand::Put(put("counter", "9"))).expect("a command");
    apply(&mut state, &put);
    apply(&mut state, &Command::revoke(5));
    apply(&mut state, &Command::set_quota("counter", 77));
    let expected = Counter { count: 2, ended: vec![5], quota: 77 };
    assert_eq!(state.machine::<Counter>(), Some(&expected));
    assert_eq!(state.keys().quota(), keys::DEFAULT_QUOTA);
    assert!(State::new().machine::<Counter>().is_none());
}

#[test]
fn each_machine_has_its_section_of_the_snapshot() {
    let mut state = with_counter();
    apply(&mut state, &count(3));
    let copy = state.copy();
    apply(&mut state, &count(4));
    let mut snapshot = Vec::new();
    copy.write_snapshot(&mut snapshot).expect("memory takes it");
    let read = |machines| State::read_snapshot(machines, &mut &snapshot[..], 1 << 20);
    let restored = read(vec![Box::<Counter>::default()]).expect("it reads as it was written");
    assert_eq!(restored.machine::<Counter>().map(|counter| counter.count), Some(3));
    assert_eq!(restored.hash(), copy.hash());
    assert_ne!(restored.hash(), state.hash());
    // A release without the machine does not forget it silently.
    let refused = read(Vec::new());
    assert!(
        matches!(&refused, Err(SnapshotError::UnknownMachine { machine, needs: 1, knows: 0 }) if machine == "counter"),
        "{refused:?}"
    );
    // One of before the machine was there is read.
    let mut snapshot = Vec::new();
    State::new().write_snapshot(&mut snapshot).expect("memory takes it");
    let upgraded = State::read_snapshot(vec![Box::<Counter>::default()], &mut &snapshot[..], 1 << 20);
    assert_eq!(upgraded.expect("it is of an earlier release").machine::<Counter>(), Some(&Counter::default()));
}

/// What a later release writes, an earlier one reads, until commands are in use that it does not know.
#[test]
fn a_snapshot_needs_the_versions_that_were_used() {
    let mut state = with_counter();
    let (grant, revoke) = (Command::grant(5, 10), Command::revoke(5));
    let mut earlier = State::new();
    for command in [&grant, &revoke] {
        assert_eq!(apply(&mut state, command), apply(&mut earlier, command));
    }
    assert_eq!(state.hash(), earlier.hash());

    let needs = |state: &State| {
        let mut snapshot = Vec::new();
        state.write_snapshot(&mut snapshot).expect("memory takes it");
        match State::read_snapshot(Vec::new(), &mut &snapshot[..], 1 << 20) {
            Ok(_) => 0,
            Err(SnapshotError::UnknownMachine { needs, .. }) => needs,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(needs(&state), 0);
    apply(&mut state, &count(1));
    assert_eq!(needs(&state), 1);
    apply(&mut state, &Command::machine("counter", 2, vec![1]).expect("it is small"));
    apply(&mut state, &count(1));
    assert_eq!(needs(&state), 2);
    assert_eq!(needs(&state.copy()), 2);
}

#[test]
fn what_is_not_known_stops_and_is_not_skipped() {
    let mut state = with_counter();
    let stop = |state: &mut State, command: &Command| {
        let before = state.hash();
        let stop = state.apply(AT, command).expect_err("it is not known");
        assert_eq!(state.hash(), before);
        stop
    };
    let unknown = |machine: &str, needs, knows| ApplyError::Unknown { machine: machine.to_owned(), needs, knows };
    let newer = Command::machine("counter", 3, vec![1]).expect("it is small");
    assert_eq!(stop(&mut state, &newer), unknown("counter", 3, 2));
    assert_eq!(stop(&mut State::new(), &count(1)), unknown("counter", 1, 0));
    assert_eq!(stop(&mut State::new(), &Command::set_quota("counter", 1)), unknown("counter", 1, 0));
    let newer = Command::machine("keys", 2, vec![200]).expect("it is small");
    assert_eq!(stop(&mut state, &newer), unknown("keys", 2, 1));
    // One of the state's own is met while it is read.
    let newer = Command::machine("store", 2, vec![200]).expect("it is small").encode();
    assert_eq!(Command::decode(&newer), Err(unknown("store", 2, 1)));

    let garbled = Command::machine("counter", 1, vec![]).expect("it is small");
    let malformed = |machine: &str, malformed| ApplyError::Malformed { machine: machine.to_owned(), malformed };
    assert_eq!(state.apply(AT, &garbled), Err(malformed("counter", CodecError::Cut)));
    let garbled = Command::machine("keys", 1, vec![200]).expect("it is small");
    let tag = CodecError::Tag { what: "command for keys", tag: 200 };
    assert_eq!(state.apply(AT, &garbled), Err(malformed("keys", tag)));
    let earlier = LogId { index: 0, term: 3 };
    assert_eq!(state.apply(earlier, &count(1)), Err(ApplyError::OutOfOrder { index: 0, applied: 1 }));
}

#[test]
fn a_leader_proposes_what_all_voters_know() {
    let (ours, theirs) = (with_counter().versions(), State::new().versions());
    assert!(ours.iter().eq([("counter", 2), (keys::NAME, keys::VERSION), (machine::NAME, machine::VERSION)]));
    let both = ours.common(&theirs);
    assert_eq!((both.of("counter"), both.of("keys")), (0, 1));
    let put = Command::keys(&keys::KeysCommand::Put(put("a", "1"))).expect("a command");
    assert_eq!((ours.check(&count(1)), both.check(&put)), (Ok(()), Ok(())));
    assert_eq!((both.check(&Command::grant(1, 1)), ours.check(&Command::set_quota("counter", 1))), (Ok(()), Ok(())));
    assert!(both.check(&count(1)).is_err() && both.check(&Command::set_quota("counter", 1)).is_err());
    let older: CommandVersions = [("counter", 1), ("keys", 1)].into_iter().collect();
    assert_eq!(ours.common(&older).of("counter"), 1);
    assert!(older.check(&Command::grant(1, 1)).is_err());
}

#[test]
#[should_panic(expected = "own name")]
fn two_machines_of_one_name_are_a_mistake() {
    drop(State::with(vec![Box::<Counter>::default(), Box::<Counter>::default()]));
}
