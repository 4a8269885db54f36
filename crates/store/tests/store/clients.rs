//! Requests that come twice.

use broadcast_store::{
    Error,
    keys::{self, KeyRange, Op, Range},
    machine::{Command, MAX_CLIENTS, MAX_OUTCOME_BYTES, MAX_OUTCOMES, Outcome, RequestId},
};

use crate::support::{Member, put, success};

fn open(member: &mut Member) -> u64 {
    let Outcome::Client { client } = member.apply(&Command::open_client()) else { panic!("it is not opened") };
    client
}

fn put_command(key: &str) -> Command {
    Command::keys(&keys::KeysCommand::Put(put(key, "v"))).expect("a command")
}

const fn request(client: u64, serial: u64) -> RequestId {
    RequestId { client, serial, answered_below: 0 }
}

#[test]
fn a_request_is_applied_once_and_answered_as_the_first_time() {
    let mut member = Member::new();
    let client = open(&mut member);
    let command = put_command("a").of(request(client, 1));
    let first = member.apply(&command);
    member.put("a", "other");
    assert_eq!(member.apply(&command), first);
    member.restart();
    assert_eq!(member.apply(&command), first);
    assert_eq!(member.state.keys().revision(), 3);

    // Later ones may come before earlier ones.
    assert!(matches!(member.apply(&put_command("b").of(request(client, 9))), Outcome::Keys(_)));
    assert!(matches!(member.apply(&put_command("b").of(request(client, 8))), Outcome::Keys(_)));
    assert_eq!(member.state.keys().revision(), 5);

    // A refusal is an outcome like others: the same request does not succeed later.
    let revoke = Command::revoke(5).of(request(client, 10));
    let refused = Outcome::Refused(Error::LeaseNotFound { lease: 5 });
    assert_eq!(member.apply(&revoke), refused);
    member.grant(5);
    assert_eq!(member.apply(&revoke), refused);
    assert!(member.state.leases().contains(5));
}

#[test]
fn what_was_answered_is_forgotten_and_refused() {
    let mut member = Member::new();
    let (client, other) = (open(&mut member), open(&mut member));
    for serial in 1..=3 {
        member.apply(&put_command("a").of(request(client, serial)));
        member.apply(&put_command("a").of(request(other, serial)));
    }
    let last = RequestId { client, serial: 4, answered_below: 3 };
    member.apply(&put_command("a").of(last));
    let revision = member.state.keys().revision();
    for serial in [0, 1, 2] {
        let forgotten = Outcome::Refused(Error::RequestForgotten { client, serial });
        assert_eq!(member.apply(&put_command("a").of(request(client, serial))), forgotten);
    }
    for again in [request(client, 3), last, request(other, 1)] {
        assert!(matches!(member.apply(&put_command("a").of(again)), Outcome::Keys(_)));
    }
    assert_eq!(member.state.keys().revision(), revision);

    // One that says more than it can know forgets nothing of itself.
    let liar = RequestId { client, serial: 5, answered_below: u64::MAX };
    let outcome = member.apply(&put_command("a").of(liar));
    assert_eq!(member.apply(&put_command("a").of(liar)), outcome);
    assert!(matches!(member.apply(&put_command("a").of(request(client, 6))), Outcome::Keys(_)));
}

#[test]
fn a_client_that_is_not_known_is_refused() {
    let mut member = Member::new();
    let unknown = Outcome::Refused(Error::UnknownClient { client: 77 });
    assert_eq!(member.apply(&put_command("a").of(request(77, 1))), unknown);
    assert_eq!(member.state.keys().revision(), 1);
}

#[test]
fn a_large_outcome_is_kept_as_applied() {
    let mut member = Member::new();
    let client = open(&mut member);
    member.put("a", &"x".repeat(MAX_OUTCOME_BYTES as usize));
    let ops = success([Op::Range(Range::in_range(KeyRange::all())), crate::support::put_op("b", "1")]);
    let command = Command::keys(&keys::KeysCommand::Txn(ops)).expect("a command").of(request(client, 1));
    assert!(matches!(member.apply(&command), Outcome::Keys(_)));
    assert_eq!(member.apply(&command), Outcome::Refused(Error::AlreadyApplied { revision: 3 }));
    assert_eq!(member.state.keys().revision(), 3);
}

#[test]
fn outcomes_are_bounded_in_number_and_bytes_and_none_is_applied_twice() {
    for (value, least) in [("", MAX_OUTCOMES - 1), (&*"x".repeat(60_000), 200)] {
        let mut member = Member::new();
        let client = open(&mut member);
        member.put("k", value);
        // Its outcome has the key as it was.
        let put = keys::KeysCommand::Put(keys::Put { prev_kv: true, ..put("k", value) });
        let command = |serial| Command::keys(&put).expect("a command").of(request(client, serial));
        let count = least as u64 * 3 / 2;
        for serial in 1..=count {
            member.state.apply(member.at, &command(serial)).expect("it is known");
            if serial % 64 == 0 {
                let revision = member.state.keys().revision();
                let compact = Command::keys(&keys::KeysCommand::Compact { revision }).expect("a command");
                member.state.apply(member.at, &compact).expect("it is known");
            }
        }
        let revision = member.state.keys().revision();
        let mut kept = 0;
        for serial in 1..=count {
            match member.state.apply(member.at, &command(serial)).expect("it is known") {
                Outcome::Keys(_) => kept += 1,
                Outcome::Refused(Error::RequestForgotten { .. }) => assert_eq!(kept, 0, "the oldest go first"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(member.state.keys().revision(), revision);
        assert!(kept >= least && kept <= MAX_OUTCOMES, "{kept}");
        member.restart();
    }
}

#[test]
fn the_client_that_was_heard_of_least_recently_goes_first() {
    let mut member = Member::new();
    let clients: Vec<_> = (0..MAX_CLIENTS).map(|_| open(&mut member)).collect();
    member.apply(&put_command("a").of(request(clients[0], 1)));
    member.apply(&put_command("a").of(request(clients[2], 1)));
    open(&mut member);
    open(&mut member);
    let mut is_known = |client| {
        let outcome = member.apply(&put_command("a").of(request(client, 1)));
        outcome != Outcome::Refused(Error::UnknownClient { client })
    };
    assert_eq!(
        clients[..5].iter().map(|client| is_known(*client)).collect::<Vec<_>>(),
        [true, false, true, false, true]
    );
    member.restart();
}
