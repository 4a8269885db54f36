//! Watches: each revision once, in order, or a clear end.

use broadcast_store::{
    Error,
    keys::{CancelReason, KeyRange, Watch, WatchEvent, WatchHub, WatchId, WatchPoll},
};

use crate::support::{Member, delete_op, put_op, success};

/// A member of the store, and those who watch its keys.
struct WatchedMember {
    member: Member,
    hub: WatchHub,
}

impl WatchedMember {
    fn new() -> Self {
        let member = Member::new();
        let hub = WatchHub::new(100, member.state.keys());
        Self { member, hub }
    }

    fn put(&mut self, key: &str) -> Vec<WatchId> {
        self.member.put(key, "v");
        self.applied()
    }

    fn compact(&mut self, revision: u64) -> Vec<WatchId> {
        self.member.compact(revision).expect("it is there");
        self.applied()
    }

    fn applied(&mut self) -> Vec<WatchId> {
        self.hub.observe(self.member.state.keys())
    }

    fn watch(&mut self, watch: Watch) -> WatchId {
        self.hub.watch(watch, self.member.state.keys()).expect("there is room")
    }

    fn poll(&mut self, id: WatchId) -> WatchPoll {
        self.hub.poll(id, self.member.state.keys())
    }

    /// Goes on with the state of another member.
    fn install(&mut self, member: &Member) {
        self.member.state = crate::support::read(&member.snapshot()).expect("a snapshot");
        self.member.at = member.at;
    }

    /// What a watcher is told now, as the revisions and keys.
    fn drain(&mut self, id: WatchId) -> String {
        let mut all = Vec::new();
        loop {
            match self.poll(id) {
                WatchPoll::Ready(WatchEvent::Changes { revision, events }) => {
                    let keys: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(&event.kv.key)).collect();
                    all.push(format!("{revision}:{}", keys.join("+")));
                }
                WatchPoll::Ready(other) => all.push(format!("{other:?}")),
                WatchPoll::Again => {}
                WatchPoll::Idle => return all.join(" "),
            }
        }
    }
}

fn all_from(start_revision: u64) -> Watch {
    Watch { keys: KeyRange::all(), start_revision, ..Watch::default() }
}

#[test]
fn history_first_then_what_is_new_then_the_future() {
    let mut watched = WatchedMember::new();
    watched.put("a");
    watched.put("b");
    let (past, now, future) = (watched.watch(all_from(2)), watched.watch(all_from(0)), watched.watch(all_from(6)));
    assert_eq!(watched.drain(past), "2:a 3:b");
    assert_eq!((watched.drain(now), watched.drain(future)), (String::new(), String::new()));
    assert_eq!(watched.put("c"), [past, now]);
    assert!(watched.put("d").is_empty(), "they are awake");
    assert_eq!((watched.drain(past), watched.drain(now)), ("4:c 5:d".to_owned(), "4:c 5:d".to_owned()));
    assert_eq!(watched.put("e"), [past, now, future]);
    assert_eq!(watched.drain(future), "6:e");
}

#[test]
fn only_who_watches_a_key_is_woken() {
    let mut watched = WatchedMember::new();
    let mut watch = |keys, no_put, no_delete| watched.watch(Watch { keys, no_put, no_delete, ..Watch::default() });
    let one = watch(KeyRange::one("b"), false, false);
    let range = watch(KeyRange { key: "a".into(), end: "b".into() }, false, false);
    let from = watch(KeyRange::from("b"), false, false);
    let deletes = watch(KeyRange::all(), true, false);
    let nothing = watch(KeyRange::all(), true, true);
    assert_eq!(watched.put("b"), [one, from]);
    assert_eq!(watched.put("a"), [range]);
    watched.member.delete(KeyRange::one("a"));
    assert_eq!(watched.applied(), [deletes]);
    assert_eq!(watched.drain(deletes), "4:a");
    assert_eq!(watched.drain(nothing), "");
    assert_eq!(watched.drain(range), "3:a 4:a");
}

/// Whatever the range, a change in it wakes, and one outside of it does not.
#[test]
fn every_range_is_found_by_its_keys() {
    let names: [&[u8]; 10] = [b"\0", b"a", b"a\0", b"ab", b"abc", b"b", b"ba", b"a\xff", b"\xff", b"\xff\xff"];
    let key = |at: usize| bytes::Bytes::from_static(names[at]);
    let mut ranges = vec![KeyRange::all()];
    for at in 0..names.len() {
        ranges.extend([KeyRange::prefix(key(at)), KeyRange::from(key(at)), KeyRange::one(key(at))]);
        ranges.extend((0..names.len()).map(|end| KeyRange { key: key(at), end: key(end) }));
    }
    let mut watched = WatchedMember { hub: WatchHub::new(1000, Member::new().state.keys()), member: Member::new() };
    let ids: Vec<_> =
        ranges.iter().map(|keys| watched.watch(Watch { keys: keys.clone(), ..Watch::default() })).collect();
    for name in names {
        let put = broadcast_store::keys::Put { key: bytes::Bytes::from_static(name), ..Default::default() };
        watched.member.put_with(put).expect("there is space");
        let woken = watched.applied();
        let expected = ids.iter().zip(&ranges).filter(|(_, keys)| keys.contains(name)).map(|(id, _)| *id);
        assert_eq!(woken, expected.collect::<Vec<_>>(), "{name:?}");
        woken.iter().for_each(|id| assert!(watched.drain(*id).contains(':')));
    }
    ids.iter().for_each(|id| watched.hub.cancel(*id));
    assert!(watched.hub.is_empty() && watched.put("a").is_empty());
}

#[test]
fn a_revision_is_one_batch_and_filters_leave_out_parts_of_it() {
    let mut watched = WatchedMember::new();
    watched.put("old");
    let ops = [put_op("a", "1"), delete_op(KeyRange::one("old")), put_op("b", "1")];
    watched.member.txn(success(ops)).expect("it is carried out");
    watched.applied();
    let id = watched.watch(all_from(1));
    assert_eq!(watched.drain(id), "2:old 3:a+old+b");
    let id = watched.watch(Watch { no_delete: true, ..all_from(3) });
    assert_eq!(watched.drain(id), "3:a+b");
}

#[test]
fn the_value_before_is_told_unless_it_is_compacted() {
    let mut watched = WatchedMember::new();
    for value in ["1", "2", "3"] {
        watched.member.put("a", value);
    }
    watched.member.delete(KeyRange::one("a"));
    watched.applied();
    let before = |watched: &mut WatchedMember, start| {
        let id = watched.watch(Watch { prev_kv: true, ..all_from(start) });
        let WatchPoll::Ready(WatchEvent::Changes { events, .. }) = watched.poll(id) else { panic!("there is history") };
        events[0].prev.as_ref().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    };
    assert_eq!(before(&mut watched, 2), None);
    assert_eq!(before(&mut watched, 4), Some("2".to_owned()));
    assert_eq!(before(&mut watched, 5), Some("3".to_owned()));
    watched.compact(4);
    assert_eq!(before(&mut watched, 4), None);
    assert_eq!(before(&mut watched, 5), Some("3".to_owned()));
    let id = watched.watch(all_from(5));
    let WatchPoll::Ready(WatchEvent::Changes { events, .. }) = watched.poll(id) else { panic!("there is history") };
    assert_eq!(events[0].prev, None, "it was not asked for");
}

#[test]
fn a_start_that_is_compacted_is_the_end() {
    let mut watched = WatchedMember::new();
    for _ in 0..5 {
        watched.put("a");
    }
    watched.compact(4);
    let (early, exact) = (watched.watch(all_from(3)), watched.watch(all_from(4)));
    let cancelled = CancelReason::Compacted { start: 3, compacted: 4 };
    assert_eq!(watched.poll(early), WatchPoll::Ready(WatchEvent::Cancelled(cancelled)));
    assert_eq!((watched.poll(early), watched.hub.len()), (WatchPoll::Idle, 1));
    assert_eq!(watched.drain(exact), "4:a 5:a 6:a");
}

#[test]
fn a_slow_watcher_is_told_what_it_missed_and_one_with_nothing_to_miss_goes_on() {
    let mut watched = WatchedMember::new();
    let (slow, quiet) = (watched.watch(all_from(0)), watched.watch(Watch { keys: KeyRange::one("q"), ..all_from(0) }));
    for _ in 0..5 {
        watched.put("a");
    }
    assert!(matches!(watched.poll(slow), WatchPoll::Ready(WatchEvent::Changes { revision: 2, .. })));
    assert!(watched.compact(3).is_empty());
    assert!(matches!(watched.poll(slow), WatchPoll::Ready(WatchEvent::Changes { revision: 3, .. })));
    assert_eq!(watched.compact(6), [slow]);
    let cancelled = CancelReason::Slow { next: 4, compacted: 6 };
    assert_eq!(watched.poll(slow), WatchPoll::Ready(WatchEvent::Cancelled(cancelled)));
    assert_eq!(watched.put("q"), [quiet]);
    assert_eq!(watched.drain(quiet), "7:q");
}

/// The hub hears of many commands at once, and what it has not looked at is already forgotten.
#[test]
fn nothing_is_skipped_if_the_hub_hears_late() {
    let mut watched = WatchedMember::new();
    let early = watched.watch(all_from(0));
    for _ in 0..5 {
        watched.member.put("a", "v");
    }
    let late = watched.watch(all_from(0));
    watched.member.compact(5).expect("it is there");
    assert_eq!(watched.applied(), [early, late]);
    let cancelled = CancelReason::Slow { next: 2, compacted: 5 };
    assert_eq!(watched.poll(early), WatchPoll::Ready(WatchEvent::Cancelled(cancelled)));
    assert_eq!(watched.drain(late), "");
    watched.put("b");
    assert_eq!(watched.drain(late), "7:b");

    // Nor if it is polled before the hub hears of the compaction.
    let pending = watched.watch(all_from(5));
    watched.member.compact(7).expect("it is there");
    let cancelled = CancelReason::Compacted { start: 5, compacted: 7 };
    assert_eq!(watched.poll(pending), WatchPoll::Ready(WatchEvent::Cancelled(cancelled)));
}

#[test]
fn an_installed_snapshot_goes_on_or_ends_what_watched_before() {
    let mut behind = WatchedMember::new();
    let mut ahead = Member::new();
    // What is forgotten later has nothing for this one.
    let silent = behind.watch(Watch { keys: KeyRange::one("f"), ..all_from(0) });
    for _ in 0..3 {
        behind.put("a");
        ahead.put("a", "v");
    }
    let (told, slow, quiet) = (behind.watch(all_from(2)), behind.watch(all_from(2)), behind.watch(all_from(0)));
    let future = behind.watch(all_from(9));
    assert_eq!(behind.drain(told), "2:a 3:a 4:a");
    for key in ["b", "c", "d"] {
        ahead.put(key, "v");
    }
    ahead.compact(5).expect("it is there");
    behind.install(&ahead);
    let woken = behind.hub.observe_snapshot(behind.member.state.keys());
    assert_eq!(woken, [silent, told, slow, quiet, future]);
    assert_eq!(behind.drain(silent), "");
    assert_eq!(behind.drain(told), "5:b 6:c 7:d");
    assert_eq!(behind.drain(quiet), "5:b 6:c 7:d");
    assert!(matches!(
        behind.poll(slow),
        WatchPoll::Ready(WatchEvent::Cancelled(CancelReason::Compacted { start: 2, .. }))
    ));
    behind.put("e");
    behind.put("f");
    assert_eq!((behind.drain(future), behind.drain(silent)), ("9:f".to_owned(), "9:f".to_owned()));

    // Where more is forgotten than they were told of, they end.
    for _ in 0..5 {
        ahead.put("g", "v");
    }
    ahead.compact(12).expect("it is there");
    behind.install(&ahead);
    behind.hub.observe_snapshot(behind.member.state.keys());
    let cancelled = CancelReason::Slow { next: 10, compacted: 12 };
    assert_eq!(behind.poll(future), WatchPoll::Ready(WatchEvent::Cancelled(cancelled)));
}

#[test]
fn progress_comes_after_all_that_was_before() {
    let mut watched = WatchedMember::new();
    let id = watched.watch(all_from(0));
    watched.put("a");
    watched.hub.request_progress(id);
    assert!(matches!(watched.poll(id), WatchPoll::Ready(WatchEvent::Changes { revision: 2, .. })));
    assert_eq!(watched.poll(id), WatchPoll::Ready(WatchEvent::Progress { revision: 2 }));
    assert_eq!(watched.poll(id), WatchPoll::Idle);
}

#[test]
fn watchers_are_bounded_and_can_be_cancelled() {
    let member = Member::new();
    let mut hub = WatchHub::new(2, member.state.keys());
    let mut watch = |keys| hub.watch(Watch { keys, ..Watch::default() }, member.state.keys());
    assert_eq!(watch(KeyRange::default()), Err(Error::KeyNotProvided));
    let (one, _) = (watch(KeyRange::one("a")).expect("there is room"), watch(KeyRange::one("a")));
    assert_eq!(watch(KeyRange::all()), Err(Error::TooManyWatchers { most: 2 }));
    hub.cancel(one);
    hub.cancel(one);
    assert!(hub.watch(Watch { keys: KeyRange::all(), ..Watch::default() }, member.state.keys()).is_ok());
    assert_eq!((hub.len(), hub.is_empty()), (2, false));
}

/// A long history is looked through in parts, so that others get the lock meanwhile.
#[test]
fn a_long_history_is_looked_through_in_parts() {
    let mut watched = WatchedMember::new();
    for _ in 0..10_000 {
        watched.member.put("a", "v");
    }
    watched.put("b");
    let id = watched.watch(Watch { keys: KeyRange::one("b"), ..all_from(2) });
    let mut parts = 0;
    loop {
        match watched.poll(id) {
            WatchPoll::Again => parts += 1,
            other => {
                assert!(matches!(other, WatchPoll::Ready(WatchEvent::Changes { revision: 10_002, .. })), "{other:?}");
                break;
            }
        }
    }
    assert_eq!(parts, 2);
}
