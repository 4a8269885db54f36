//! The handshake and the frames, with somebody in between.

use broadcast::{NodeId, NodeName};
use proptest::prelude::*;

use crate::{
    fuzzing,
    handshake::{HandshakeError, HandshakeRefusal, Identity, Initiator, Responder},
    noise::Psk,
};

fn identity(name: &str) -> Identity {
    Identity { name: NodeName::from(name), id: NodeId::from(7) }
}

fn hello(psk: &Psk, label: &str) -> (Initiator, Vec<u8>) {
    Initiator::new(psk, label, &identity("caller"), &NodeName::from("callee")).expect("there is randomness")
}

#[test]
fn the_ring_is_tried_until_a_key_fits() {
    let psks: Vec<_> = (0..4).map(|key| Psk::derive(&[key; 32])).collect();
    for (place, psk) in psks.iter().enumerate() {
        let (initiator, message) = hello(psk, "");
        let responder = Responder::new(&psks, "", &message[4..]).expect("one of them fits");
        assert_eq!(responder.key, place);
        let (answer, _) = responder.accept(&identity("callee")).expect("it can be answered");
        let (callee, _) = initiator.finish(&answer[2..]).expect("the key fits").expect("it is not refused");
        assert_eq!(callee, identity("callee"));
    }
}

#[test]
fn another_key_or_label_is_not_understood() {
    let psk = Psk::derive(&[1; 32]);
    let (_, message) = hello(&psk, "blue");
    for (key, label) in [(Psk::derive(&[2; 32]), "blue"), (psk.clone(), "green"), (Psk::keyless(), "blue"), (psk, "")] {
        assert!(matches!(Responder::new(&[key], label, &message[4..]), Err(HandshakeError::Unreadable)));
    }
}

#[test]
fn a_refusal_says_why_to_who_has_the_key() {
    for why in [
        HandshakeRefusal::Name,
        HandshakeRefusal::Stranger,
        HandshakeRefusal::Id,
        HandshakeRefusal::Full,
        HandshakeRefusal::Insecure,
    ] {
        let psk = Psk::derive(&[1; 32]);
        let (initiator, message) = hello(&psk, "");
        let responder = Responder::new(&[psk], "", &message[4..]).expect("it has the key");
        let answer = responder.refuse(why).expect("it can be answered");
        assert_eq!(initiator.finish(&answer[2..]).expect("it can be read").err(), Some(why));
    }
}

#[test]
fn an_answer_is_good_for_one_call_only() {
    let psk = Psk::derive(&[1; 32]);
    let (_, recorded) = hello(&psk, "");
    let (answer, _) = Responder::new(std::slice::from_ref(&psk), "", &recorded[4..])
        .expect("it has the key")
        .accept(&identity("callee"))
        .expect("it can be answered");
    let (initiator, _) = hello(&psk, "");
    assert!(matches!(initiator.finish(&answer[2..]), Err(HandshakeError::Unreadable)));
    // Nor is a call an answer to itself.
    let (initiator, message) = hello(&psk, "");
    assert!(matches!(initiator.finish(&message[4..]), Err(HandshakeError::Unreadable)));
}

#[test]
fn a_recorded_call_can_be_answered_but_says_nothing() {
    let psk = Psk::derive(&[1; 32]);
    let (initiator, message) = hello(&psk, "");
    let respond = || {
        let responder = Responder::new(std::slice::from_ref(&psk), "", &message[4..]).expect("it has the key");
        let (answer, state) = responder.accept(&identity("callee")).expect("it can be answered");
        (answer, crate::frames::Frames::new(state))
    };
    let (answer, mut frames) = respond();
    let (_, state) = initiator.finish(&answer[2..]).expect("the key fits").expect("it is not refused");
    let mut first = bytes::BytesMut::new();
    crate::frames::Frames::new(state).seal(b"do it", &mut first);
    let mut plain = bytes::BytesMut::new();
    assert_eq!(frames.open(&mut first.clone(), &mut plain), Ok(true));
    assert_eq!(&plain[..], b"do it");
    let (_, mut again) = respond();
    assert!(again.open(&mut first, &mut plain).is_err(), "the same message, and the same first frame, once more");
}

#[test]
fn keys_are_replaced_on_both_sides_at_the_same_frame() {
    let (mut one, mut other) = fuzzing::pair();
    for number in 0..100_u8 {
        assert!(other.receive(&one.seal(&[number])) && one.receive(&other.seal(&[number])));
    }
    assert!(one.received.iter().copied().eq(0..100) && other.received == one.received);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn whoever_stands_between_can_cut_and_nothing_else(data in proptest::collection::vec(any::<u8>(), 0..40)) {
        fuzzing::man_in_the_middle(&data);
    }

    #[test]
    fn nobody_guesses_a_handshake(data in proptest::collection::vec(any::<u8>(), 0..700)) {
        fuzzing::handshake(&data);
    }
}
