//! Labels and keys.

use super::*;
use crate::wire::{KeyError, Keyring, SecretKey};

fn key(byte: u8) -> SecretKey {
    SecretKey::new([byte; 32]).expect("32 bytes")
}

fn envelope(label: &str, keys: &[SecretKey]) -> Envelope {
    let keyring = Keyring::new(keys.iter().cloned()).expect("few keys");
    Envelope { label: label.into(), keyring, ..Envelope::default() }
}

fn heard(told: &[String]) -> usize {
    told.iter().filter(|line| line.contains(": k=")).count()
}

#[test]
fn an_encrypted_cluster_of_a_label_works_like_any_other() {
    let mut sim = sim();
    sim.envelope = envelope("prod", &[key(1)]);
    let addrs = cluster(&mut sim, 4);
    let large = format!("\"{}\"", "x".repeat(100_000));
    for value in ["1", &large] {
        sim.publish(addrs[0], "k", value);
    }
    sim.run(2 * SECOND);
    for addr in &addrs[1..] {
        let told = told(&mut sim, *addr);
        assert_eq!(heard(&told), 2, "{told:?}");
    }
    // Probes pass, too: no member is suspected.
    sim.run(60 * SECOND);
    assert!(sim.agreed());
    for addr in addrs {
        assert_eq!(told(&mut sim, addr), [""; 0]);
    }
}

#[test]
fn clusters_of_other_labels_and_keys_do_not_merge() {
    let mut sim = sim();
    sim.envelope = envelope("prod", &[key(1)]);
    let ours = cluster(&mut sim, 2);
    let strangers =
        [envelope("", &[]), envelope("", &[key(1)]), envelope("staging", &[key(1)]), envelope("prod", &[key(2)])];
    let strangers: Vec<_> = (3..)
        .zip(strangers)
        .map(|(host, envelope)| {
            sim.envelope = envelope;
            sim.start(&format!("node{host}"), host, &["node1"])
        })
        .collect();
    sim.run(60 * SECOND);
    for addr in &ours {
        assert_eq!(sim.view(*addr).len(), 2);
    }
    for addr in strangers {
        assert_eq!(sim.view(addr).len(), 1);
        let told = told(&mut sim, addr);
        assert!(told.contains(&"node1:7946 unreachable".into()), "{told:?}");
    }
    let told = told(&mut sim, ours[0]);
    for reason in [
        r#"it has the label "" where this node has "prod""#,
        r#"it has the label "staging" where this node has "prod""#,
        "none of the 1 keys of this node decrypts it",
    ] {
        assert!(told.iter().any(|line| line.starts_with("rejected: ") && line.contains(reason)), "{reason}: {told:?}");
    }
}

#[test]
fn keys_are_changed_without_losing_anything() {
    let mut sim = sim();
    let (old, new) = (key(1), key(2));
    sim.envelope = envelope("prod", std::slice::from_ref(&old));
    let addrs = cluster(&mut sim, 5);
    assert_eq!(sim.node(addrs[0]).change_keys(KeyChange::Use(new.clone())), Err(KeyError::Unknown));
    let mut sent = 0;
    let rounds = [KeyChange::Install(new.clone()), KeyChange::Use(new.clone()), KeyChange::Remove(old.clone())];
    for round in rounds {
        for addr in &addrs {
            assert_eq!(sim.node(*addr).change_keys(round.clone()), Ok(()));
            // Between any two nodes' changes everybody goes on talking.
            for from in &addrs {
                sim.publish(*from, "k", &sent.to_string());
            }
            sent += 1;
            sim.run(3 * SECOND / 2);
        }
    }
    assert!(sim.agreed());
    for addr in addrs {
        let told = told(&mut sim, addr);
        assert_eq!(heard(&told), told.len(), "nothing else happened: {told:?}");
        assert_eq!(heard(&told), sent * 4);
    }
    // A node with the old key finds no other any more; one with the new key does.
    for (host, key, found) in [(6, old, 1), (7, new, 6)] {
        sim.envelope = envelope("prod", &[key]);
        let addr = sim.start(&format!("node{host}"), host, &["node1"]);
        sim.run(5 * SECOND);
        assert_eq!(sim.view(addr).len(), found, "node{host}");
    }
}

#[test]
fn all_keys_are_replaced_at_once_but_encryption_stays_as_it_is() {
    let mut sim = sim();
    sim.envelope = envelope("", &[key(1)]);
    let sealed = sim.start("node1", 1, &[]);
    sim.envelope = Envelope::default();
    let plain = sim.start("node2", 2, &[]);
    assert_eq!(sim.node(sealed).change_keys(KeyChange::Replace(vec![key(2), key(1)])), Ok(()));
    assert_eq!(sim.node(sealed).change_keys(KeyChange::Remove(key(2))), Err(KeyError::InUse));
    assert_eq!(sim.node(sealed).change_keys(KeyChange::Replace(Vec::new())), Err(KeyError::Off));
    assert_eq!(sim.node(plain).change_keys(KeyChange::Replace(vec![key(2)])), Err(KeyError::Off));
    assert_eq!(sim.node(plain).change_keys(KeyChange::Install(key(2))), Err(KeyError::Off));
}
