//! A store that is founded with the state of another.

use broadcast_store::{
    Error,
    keys::{CancelReason, KeyRange, Put, Range, Watch, WatchEvent, WatchHub, WatchPoll},
    machine::{Command, LogId, Outcome, REVISION_JUMP, RequestId, State},
};

use crate::{
    snapshots::full,
    support::{Member, put},
};

const JUMP: u64 = 7 * REVISION_JUMP;

fn anew(before: &State) -> Member {
    let mut state = before.copy();
    state.found_anew(JUMP).expect("there are revisions left");
    state.keys().assert_invariants();
    Member { at: state.last_applied(), state }
}

#[test]
fn keys_and_leases_are_there_and_nothing_that_names_the_former_store_fits() {
    let before = full();
    let former = before.state.keys().revision();
    let mut member = anew(&before.state);
    assert_eq!(member.at, LogId::default());
    member.restart();
    let first = former + JUMP;
    assert_eq!((member.state.keys().revision(), member.state.keys().compacted()), (first, first));
    let all = || Range::in_range(KeyRange::all());
    let kvs = |member: &Member| member.state.keys().range(&all()).expect("it is read").kvs;
    // With the revisions that they have.
    assert_eq!(kvs(&member), kvs(&before));
    assert!(member.state.leases().iter().eq(before.state.leases().iter()));
    assert!(member.state.keys().attached(3).eq(["leased"]));

    for revision in [1, former, former + 1, first - 1] {
        let error = member.state.keys().range(&Range { revision, ..all() }).expect_err("it is compacted");
        assert_eq!(error, Error::Compacted { requested: revision, compacted: first });
    }
    let command = broadcast_store::keys::KeysCommand::Put(put("key-3", "again"));
    let request = RequestId { client: 1, serial: 1, answered_below: 0 };
    let outcome = member.apply(&Command::keys(&command).expect("a command").of(request));
    assert_eq!(outcome, Outcome::Refused(Error::UnknownClient { client: 1 }));

    // It goes on from there.
    assert_eq!(member.put("key-9", "more"), first + 1);
    let created = member.put_with(Put { lease: 3, ..put("new", "value") }).expect("the lease is there");
    assert_eq!(created, first + 2);
    assert_eq!(member.read(Range { revision: first, ..Range::of("new") }), []);
    member.apply(&Command::revoke(3));
    assert_eq!(member.read(Range::of("leased")), []);
    member.compact(first + 2).expect("it is there");
    member.restart();
    let mut again = anew(&member.state);
    again.restart();
    assert_eq!(again.state.keys().revision(), first + 3 + JUMP);
}

#[test]
fn a_watch_begins_where_the_new_store_does_or_is_told_so() {
    let before = full();
    let former = before.state.keys().revision();
    let mut member = anew(&before.state);
    let first = former + JUMP;
    let mut hub = WatchHub::new(10, member.state.keys());
    let watch = |member: &Member, hub: &mut WatchHub, start_revision| {
        let watch = Watch { keys: KeyRange::all(), start_revision, ..Watch::default() };
        hub.watch(watch, member.state.keys()).expect("there is room")
    };
    for start in [2, former, former + 1, first - 1] {
        let id = watch(&member, &mut hub, start);
        let cancelled = CancelReason::Compacted { start, compacted: first };
        assert_eq!(hub.poll(id, member.state.keys()), WatchPoll::Ready(WatchEvent::Cancelled(cancelled)));
    }
    let well = [0, first, first + 1].map(|start| watch(&member, &mut hub, start));
    for id in well {
        assert_eq!(hub.poll(id, member.state.keys()), WatchPoll::Idle);
    }
    member.put("key", "value");
    assert_eq!(hub.observe(member.state.keys()), well);
    for id in well {
        let told = hub.poll(id, member.state.keys());
        assert!(
            matches!(told, WatchPoll::Ready(WatchEvent::Changes { revision, .. }) if revision == first + 1),
            "{told:?}"
        );
    }
}

#[test]
fn a_store_without_a_key_is_founded_anew_as_well() {
    let mut member = anew(&State::new());
    member.restart();
    assert_eq!(member.put("key", "value"), JUMP + 2);
}
