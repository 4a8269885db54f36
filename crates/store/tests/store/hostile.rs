//! Bytes from who knows where.

use broadcast_store::{
    ApplyError, CodecError, keys,
    machine::{Command, LogId, MAX_COMMAND, Outcome, RequestId, State},
};
use proptest::{collection::vec, prelude::*};

use crate::{
    snapshots::full,
    steps::command,
    support::{Member, put, read},
};

/// Changes, cuts and doubles some of the bytes.
fn garble(bytes: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, change) in changes {
        let at = at % bytes.len().max(1);
        match change {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_within(at..),
            2 => bytes.insert(at, 0xff),
            _ if bytes.is_empty() => {}
            change => bytes[at] ^= change,
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    vec((any::<usize>(), any::<u8>()), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn random_bytes_are_no_commands_that_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(command) = Command::decode(&bytes) {
            prop_assert_eq!(command.encode(), bytes);
            let _ = full().state.apply(LogId { index: 1000, term: 1 }, &command);
        }
    }

    /// What can be read after all is carried out like any other, and has one encoding.
    #[test]
    fn garbled_commands_are_refused_or_applied(command in command(), changes in changes(), of_client in any::<bool>()) {
        let Ok(mut command) = Command::keys(&command) else { return Ok(()) };
        if of_client {
            command = command.of(RequestId { client: 1, serial: 7, answered_below: 3 });
        }
        let bytes = garble(&command.encode(), &changes);
        if let Ok(command) = Command::decode(&bytes) {
            prop_assert_eq!(command.encode(), bytes);
            let mut member = full();
            if let Ok(outcome) = member.state.apply(LogId { index: 1000, term: 1 }, &command) {
                prop_assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome));
                member.state.keys().assert_invariants();
                member.restart();
            }
        }
    }

    #[test]
    fn garbled_outcomes_do_not_panic(command in command(), changes in changes()) {
        let mut member = Member::new();
        member.put("a", "1");
        if let Ok(outcome) = member.keys(&command) {
            let outcome = Outcome::Keys(outcome);
            prop_assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome.clone()));
            let bytes = garble(&outcome.encode(), &changes);
            if let Ok(outcome) = Outcome::decode(&bytes) {
                prop_assert_eq!(outcome.encode(), bytes);
            }
        }
    }

    #[test]
    fn garbled_snapshots_are_refused_or_valid(changes in changes()) {
        if let Ok(state) = read(&garble(&full().snapshot(), &changes)) {
            state.keys().assert_invariants();
            let mut again = Vec::new();
            state.write_snapshot(&mut again).expect("memory takes it");
            prop_assert!(read(&again).is_ok());
        }
    }
}

#[test]
fn every_cut_command_is_refused() {
    let put = Command::keys(&keys::KeysCommand::Put(put("key", "value"))).expect("a command");
    let lease = Command::grant(1 << 40, 1 << 20);
    for whole in [put, lease] {
        let whole = whole.encode();
        for len in 0..whole.len() {
            let refused = Command::decode(&whole[..len])
                .and_then(|command| State::new().apply(LogId { index: 1, term: 1 }, &command));
            assert!(matches!(refused, Err(ApplyError::Malformed { .. })), "{len}: {refused:?}");
        }
    }
}

#[test]
fn what_is_too_large_or_too_deep_is_not_read() {
    let refused = Command::decode(&vec![0; MAX_COMMAND + 1]);
    assert!(
        matches!(refused, Err(ApplyError::Malformed { malformed: CodecError::Contradiction { .. }, .. })),
        "{refused:?}"
    );
    // Transactions within each other: no comparisons, and one operation, which is a transaction.
    let mut deep = vec![2];
    deep.extend([0, 1, 3].repeat(100_000));
    let command = Command::machine("keys", 1, deep).expect("it is small enough");
    let refused = State::new().apply(LogId { index: 1, term: 1 }, &command);
    assert_eq!(refused, Err(ApplyError::Malformed { machine: "keys".to_owned(), malformed: CodecError::Nested }));
    // A list that says that it has more items than there are bytes.
    let command = Command::machine("keys", 1, vec![2, 0xff, 0xff, 0xff, 0xff, 0x0f]).expect("it is small enough");
    let refused = State::new().apply(LogId { index: 1, term: 1 }, &command);
    assert_eq!(refused, Err(ApplyError::Malformed { machine: "keys".to_owned(), malformed: CodecError::Cut }));
}
