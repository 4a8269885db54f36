//! Whole lives, one thing in which is wrong.

use super::*;

const EPOCH: u64 = 7;

fn time(second: u64) -> String {
    format!("2026-11-24T21:26:0{second}.000Z")
}

/// A message is sent in the second of its value.
fn sent(value: u64) -> LogEntry {
    LogEntry::Sent { value, epoch: Some(EPOCH), time: time(value) }
}

fn heard_of(from: &str, value: u64, seq: u64) -> LogEntry {
    LogEntry::Received { from: from.into(), value, epoch: Some(EPOCH), seq: Some(seq) }
}

/// Of a, whose first message is 1.
fn heard(values: &[u64]) -> Vec<LogEntry> {
    values.iter().map(|value| heard_of("a", *value, value - 1)).collect()
}

fn life(node: &str, entries: Vec<LogEntry>) -> Life {
    Life {
        node: node.into(),
        entries,
        obligation: Obligation::Until("~".into()),
        since: String::new(),
        owed: 0..usize::MAX,
        ended: false,
        complete: true,
    }
}

/// a sends 1, 2 and 3, and b hears these.
fn pair(heard: Vec<LogEntry>) -> [Life; 2] {
    [life("a", [1, 2, 3].map(sent).into()), life("b", heard)]
}

fn anomalies_of(lives: &[Life]) -> Vec<String> {
    judge(lives).anomalies.iter().map(ToString::to_string).collect()
}

#[test]
fn what_was_sent_is_heard_once_and_in_order() {
    let verdict = judge(&pair(heard(&[1, 2, 3])));
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!((verdict.messages, verdict.senders, verdict.received, verdict.lost), (3, 1, 3, 0));
    for (entries, wrong) in [
        (heard(&[]), "b lacks of a: 1 2 3"),
        (heard(&[1, 3]), "b lacks of a: 2"),
        (heard(&[1, 2, 2, 3]), "b has too often of a: 2"),
        (heard(&[1, 3, 2]), "b has out of order of a: 2"),
        ([heard(&[1, 2, 3]), vec![heard_of("a", 9, 3)]].concat(), "b has what was not sent by a: 9"),
        ([heard(&[1, 2, 3]), vec![heard_of("c", 1, 0)]].concat(), "b has what was not sent by c: 1"),
        ([heard(&[1, 2, 3]), vec![heard_of("b", 1, 0)]].concat(), "b has what was not sent by b: 1"),
        ([heard(&[1, 2, 3]), vec![LogEntry::LogLost]].concat(), "b lost lines of its log"),
    ] {
        assert_eq!(anomalies_of(&pair(entries)), [wrong]);
    }
    // The number that the sender gave it is another.
    let other = vec![heard_of("a", 1, 0), heard_of("a", 2, 2), heard_of("a", 3, 2)];
    assert_eq!(anomalies_of(&pair(other)), ["b lacks of a: 2", "b has what was not sent by a: 2"]);
}

#[test]
fn who_comes_later_or_goes_earlier_hears_an_unbroken_run() {
    let with = |values, since: String, obligation| {
        let [a, b] = pair(heard(values));
        anomalies_of(&[a, Life { since, obligation, ..b }])
    };
    let nothing = Vec::<String>::new();
    for values in [&[3][..], &[2, 3], &[1, 2, 3]] {
        assert_eq!(with(values, time(2), Obligation::Until("~".into())), nothing, "{values:?}");
    }
    assert_eq!(with(&[1, 3], time(2), Obligation::Until("~".into())), ["b lacks of a: 2"]);
    assert_eq!(with(&[1, 2], String::new(), Obligation::Until(time(2))), nothing);
    assert_eq!(with(&[1], String::new(), Obligation::Until(time(2))), ["b lacks of a: 2"]);
    assert_eq!(with(&[2], String::new(), Obligation::Run), nothing);
    assert_eq!(with(&[1, 3], String::new(), Obligation::Run), ["b lacks of a: 2"]);
    assert_eq!(with(&[1, 3, 3], String::new(), Obligation::Nothing), nothing);
}

#[test]
fn only_what_was_sent_before_they_met_may_be_missed() {
    let missed = |first, count| LogEntry::Missed { from: "a".into(), epoch: EPOCH, first, count };
    let with = |entry| {
        let [a, b] = pair([vec![entry], heard(&[2, 3])].concat());
        anomalies_of(&[a, Life { since: time(1), ..b }])
    };
    assert_eq!(with(missed(0, 1)), Vec::<String>::new());
    assert_eq!(with(missed(0, 2)), ["b was told that it missed of a: 0"]);
    assert_eq!(with(missed(1, 1)), ["b was told that it missed of a: 1"]);
}

#[test]
fn the_last_words_of_a_killed_node_all_have_or_none() {
    let killed = |of_b: Vec<LogEntry>, of_c: Vec<LogEntry>| {
        let [a, b] = pair(of_b);
        judge(&[Life { obligation: Obligation::Run, ended: true, ..a }, b, life("c", of_c)])
    };
    let verdict = killed(heard(&[1, 2]), heard(&[1, 2]));
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!((verdict.messages, verdict.lost, &*verdict.ended), (2, 1, &["a".to_owned()][..]));
    let verdict = killed(heard(&[1, 2]), heard(&[1]));
    assert!(verdict.to_string().contains("\n  c lacks of a: 2\n"), "{verdict}");
    // It may not have logged its last one; but not the one behind that.
    assert!(killed(heard(&[1, 2, 3, 4]), heard(&[1, 2, 3])).is_good());
    let verdict = killed(heard(&[1, 2, 3, 5]), heard(&[1, 2, 3]));
    assert!(verdict.to_string().ends_with("\n  b has what was not sent by a: 5"), "{verdict}");
}
