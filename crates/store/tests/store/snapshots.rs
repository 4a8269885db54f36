//! Snapshots: whole, cheap to begin, and refused if they are damaged.

use std::io::{self, Write};

use broadcast_store::{
    SnapshotError,
    keys::{KeyRange, Put, Range},
    machine::{Command, FORMAT, MAGIC, RequestId, State},
};

use crate::support::{Member, put, read};

/// Keys with history, leases, clients: a little of all.
pub(crate) fn full() -> Member {
    let mut member = Member::new();
    member.apply(&Command::open_client());
    member.grant(3);
    for key in 0..40 {
        member.put(&format!("key-{key}"), "value");
    }
    member.put_with(Put { lease: 3, ..put("leased", "value") }).expect("the lease is there");
    member.delete(KeyRange::prefix("key-1"));
    member.compact(43).expect("it is there");
    member.put("key-1", "again");
    member.put("key-2", "again");
    member.delete(KeyRange::one("key-2"));
    let command = broadcast_store::keys::KeysCommand::Put(put("key-3", "again"));
    let request = RequestId { client: 1, serial: 1, answered_below: 0 };
    member.apply(&Command::keys(&command).expect("a command").of(request));
    member
}

#[test]
fn all_is_there_again() {
    let mut member = full();
    let before = member.state.copy();
    member.restart();
    let state = &member.state;
    assert_eq!((state.last_applied(), state.hash()), (before.last_applied(), before.hash()));
    assert_eq!(state.keys().hash_at(0), before.keys().hash_at(0));
    for revision in 43..=46 {
        let range = Range { revision, ..Range::in_range(KeyRange::all()) };
        assert_eq!(state.keys().range(&range), before.keys().range(&range));
    }
    assert_eq!(state.keys().bytes(), before.keys().bytes());
    assert!(state.keys().attached(3).eq(["leased"]));
    member.put("key-9", "more");
    assert_ne!(member.state.hash(), before.hash());
}

#[test]
fn a_copy_does_not_move_while_commands_go_on() {
    let mut member = full();
    let copy = member.state.copy();
    let hash = copy.hash();
    for key in 0..100 {
        member.put(&format!("key-{key}"), "later");
    }
    member.apply(&Command::revoke(3));
    member.delete(KeyRange::all());
    member.compact(member.state.keys().revision()).expect("it is the newest");
    assert_eq!(copy.hash(), hash);
    copy.keys().assert_invariants();
    member.state.keys().assert_invariants();
}

#[test]
fn one_that_is_cut_is_refused_wherever() {
    let snapshot = full().snapshot();
    for len in 0..snapshot.len() {
        let error = read(&snapshot[..len]).expect_err("it is cut");
        let cut = matches!(&error, SnapshotError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof);
        assert!(cut, "{len}: {error}");
    }
    let trailing = [&snapshot[..], &[0]].concat();
    assert!(matches!(read(&trailing), Err(SnapshotError::Malformed { .. })));
}

#[test]
fn what_is_no_snapshot_or_a_later_one_or_too_large_is_refused() {
    let snapshot = full().snapshot();
    let mut other = snapshot.clone();
    other[0] ^= 1;
    assert!(matches!(read(&other), Err(SnapshotError::Magic)));
    let mut later = snapshot.clone();
    later[MAGIC.len()] += 1;
    let error = read(&later).expect_err("it is of a later release");
    assert!(matches!(error, SnapshotError::Format { found, known: FORMAT } if found == FORMAT + 1));
    let most = snapshot.len() as u64 - 1;
    let error = State::read_snapshot(Vec::new(), &mut &snapshot[..], most).expect_err("it is too large");
    assert!(matches!(error, SnapshotError::TooLarge { most: found } if found == most), "{error}");
}

/// Nothing that can be told is overlooked: values that contradict others, sections out of place, and more.
#[test]
fn one_that_is_damaged_is_refused_or_is_a_valid_state() {
    let snapshot = full().snapshot();
    let mut refused = 0;
    for at in 0..snapshot.len() {
        for change in [1, 0x80, 0xff] {
            let mut damaged = snapshot.clone();
            damaged[at] ^= change;
            match read(&damaged) {
                Ok(state) => state.keys().assert_invariants(),
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().is_empty());
                }
            }
        }
    }
    assert!(refused > snapshot.len(), "{refused} of {}", snapshot.len() * 3);
}

#[test]
fn a_length_does_not_allocate_what_is_not_there() {
    let head = [MAGIC.as_bytes(), &FORMAT.to_le_bytes()].concat();
    let too_large = [&head[..], &[0xff, 0xff, 0xff, 0xff, 0x7f]].concat();
    assert!(matches!(read(&too_large), Err(SnapshotError::RecordTooLarge { .. })));
    let endless = [&head[..], &[0xff; 100]].concat();
    assert!(matches!(read(&endless), Err(SnapshotError::Malformed { .. })));
}

#[test]
fn a_disk_that_fails_is_told() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let state = full().state;
    let mut whole = Vec::new();
    state.write_snapshot(&mut whole).expect("memory takes it");
    for room in [0, 10, 100, whole.len() - 1] {
        let error = state.write_snapshot(&mut Full(room)).expect_err("there is no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
    state.write_snapshot(&mut Full(whole.len())).expect("there is room");
}
