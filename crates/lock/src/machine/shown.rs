//! Places as keys, for clients of etcd.
//!
//! A client of etcd takes a place in the queue of lock `N` by a key `N/LEASE`, with its lease in hexadecimal digits, attached
//! to that lease, and has the lock once no key that begins with `N/` is older. So:
//!
//! - **Such a key is a place** from its creation to its deletion: exclusive, of that lease, and with the revision of its
//!   creation as its token. Nobody of ours is granted the lock before it.
//! - **Our own places are such keys** as long as a client of etcd is in one of their queues. Those that are there when the
//!   first one comes get their keys in the same command, before its own; those that come later with their place. So it
//!   waits for them. Whoever has no clients of etcd has no such keys, and does not pay for them.
//! - **Who deletes the key of one of our places** takes that lock away, as [`Command::Force`] does.
//!
//! What etcd's clients do with the prefix alone stays as it is among them: `a` also waits for keys of `a/b`. That keeps a lock
//! from them that they could have, and never gives one to two.
//!
//! [`Command::Force`]: crate::message::Command::Force

use std::{collections::BTreeSet, sync::Arc};

use broadcast_store::{
    Error,
    keys::{Delete, KeyRange, KeyValue, KeysCommand, Op, Put, Txn},
    machine::ApplyContext,
};
use bytes::Bytes;

use super::{Locks, NAME, Place, tell};
use crate::{
    message::{Change, MAX_VALUE, Mode, is_session, lease_digits},
    name::Name,
};

/// The key of a session's place in the queue of a lock.
fn key(name: &Name, session: i64) -> Bytes {
    format!("{name}/{}", lease_digits(session)).into()
}

/// The lock and the session of such a key.
fn place_of(key: &[u8]) -> Option<(Name, i64)> {
    let (name, lease) = std::str::from_utf8(key).ok()?.rsplit_once('/')?;
    let session = i64::from_str_radix(lease, 16).ok()?;
    // As it is written, and in no other way.
    (session != 0 && lease_digits(session) == lease).then_some((Name::new(name).ok()?, session))
}

impl Place {
    /// Whether a client of etcd has it.
    pub(super) fn is_foreign(&self) -> bool {
        !is_session(self.session)
    }

    /// Its keys, with its value.
    fn puts(&self) -> KeysCommand {
        let put = |name| Put {
            key: key(name, self.session),
            value: self.value.clone(),
            lease: self.session,
            ..Put::default()
        };
        let success = self.names.iter().map(|name| Op::Put(put(name))).collect();
        KeysCommand::Txn(Txn { success, ..Txn::default() })
    }
}

impl Locks {
    /// Whether a client of etcd is in the queue of a lock.
    pub(super) fn has_foreign(&self, name: &Name) -> bool {
        self.foreign.get(name).is_some()
    }

    /// Counts a place of a client of etcd; one less, if it goes.
    pub(super) fn count_foreign(&mut self, name: &Name, comes: bool) {
        let count = self.foreign.get(name).copied().unwrap_or_default();
        match if comes { count + 1 } else { count.saturating_sub(1) } {
            0 => drop(self.foreign.remove(name)),
            count => drop(self.foreign.insert(name.clone(), count)),
        }
    }

    /// Puts the keys of a place that has none; gives the revision.
    pub(super) fn show(context: &mut ApplyContext<'_>, place: &Place) -> Result<u64, Error> {
        context.keys(&place.puts())?;
        Ok(context.revision())
    }

    /// Deletes the keys of a place, as far as they are there.
    pub(super) fn hide(context: &mut ApplyContext<'_>, place: &Place) {
        for name in &place.names {
            let keys = KeyRange::one(key(name, place.session));
            // It takes no room, and there is nothing else to be refused.
            let _ = context.keys(&KeysCommand::Delete(Delete { keys, prev_kv: false }));
        }
    }

    /// See [`Machine::before_puts`](broadcast_store::machine::Machine::before_puts).
    pub(super) fn before_places(&mut self, context: &mut ApplyContext<'_>, puts: &[&Put]) -> Result<(), Error> {
        let (mut bytes, mut meets) = (0, BTreeSet::new());
        for put in puts {
            // What ends with a session is a lock.
            if is_session(put.lease) {
                return Err(Error::LeaseNotFound { lease: put.lease });
            }
            let Some((name, session)) = place_of(&put.key).filter(|(_, session)| *session == put.lease) else {
                continue;
            };
            if !context.leases().contains(session) {
                continue;
            }
            bytes += foreign(name.clone(), session, shown_value(&put.value)).bytes();
            // Where there is one already, all have their keys.
            if !self.has_foreign(&name) {
                meets.insert(name);
            }
        }
        if self.check_space(bytes).is_err() {
            return Err(Error::NoSpace { machine: NAME.into(), quota: self.quota, bytes: self.bytes });
        }
        for name in meets {
            let queue: Vec<u64> = self.held(&name).chain(self.waiting(&name)).collect();
            for token in queue {
                let Some(place) = self.places.get(&token).filter(|place| !place.shown) else { continue };
                let place = Place { shown: true, ..Place::clone(place) };
                Self::show(context, &place)?;
                self.places.insert(token, place.into());
            }
        }
        Ok(())
    }

    /// See [`Machine::keys_changed`](broadcast_store::machine::Machine::keys_changed).
    pub(super) fn places_changed(&mut self, context: &mut ApplyContext<'_>, changed: &[Arc<KeyValue>]) {
        let (mut gone, mut sessions) = (Vec::new(), BTreeSet::new());
        for key in changed {
            let Some((name, session)) = place_of(&key.key) else { continue };
            let token = self.of_session.get(&(session, name.clone())).copied();
            let place = token.and_then(|token| self.places.get(&token)).filter(|place| place.shown).cloned();
            match (token, place) {
                (Some(token), Some(place)) if key.is_tombstone() => {
                    if place.is_foreign() {
                        gone.push(token);
                    } else {
                        sessions.insert(session);
                    }
                }
                (Some(token), Some(place)) => self.set_value(context, token, &place, shown_value(&key.value)),
                (None, _) if key.lease == session && !is_session(session) && key.version == 1 => {
                    // A second one of the same command has to have a token of its own.
                    let taken = self.places.get(&key.create_revision).is_some();
                    let token = if taken { context.next_revision() } else { key.create_revision };
                    self.take_foreign(context, token, name, key);
                }
                _ => {}
            }
        }
        // All that a session has goes at once, as when it is taken away by force.
        let all = sessions.iter().flat_map(|session| self.of_session(*session)).map(|(_, token)| token);
        gone.extend(all.collect::<Vec<_>>());
        let change = if sessions.is_empty() { Change::Released } else { Change::Forced };
        sessions.into_iter().for_each(|session| context.end_lease(session));
        self.remove(context, &gone, change);
    }

    fn take_foreign(&mut self, context: &mut ApplyContext<'_>, token: u64, name: Name, key: &KeyValue) {
        self.insert(token, foreign(name.clone(), key.lease, shown_value(&key.value)), false);
        self.grant(context, &name);
        if !self.holds(&name, token)
            && let Some(place) = self.places.get(&token)
        {
            tell(context, token, place, Change::Waits);
        }
    }
}

/// What a key's value is as that of a place, whose are shorter.
fn shown_value(value: &Bytes) -> Bytes {
    value.slice(..value.len().min(MAX_VALUE))
}

fn foreign(name: Name, session: i64, value: Bytes) -> Place {
    Place { session, names: vec![name], mode: Mode::Exclusive, value, since: 0, shown: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_place_is_one_and_nothing_else_is() {
        let name = Name::new("jobs/nightly").expect("a name");
        assert_eq!(key(&name, 0x694d_81b2), "jobs/nightly/694d81b2");
        assert_eq!(place_of(b"jobs/nightly/694d81b2"), Some((name, 0x694d_81b2)));
        let no_place: [&[u8]; 9] = [b"", b"a", b"a/", b"/1", b"a/0", b"a/01", b"a/1F", b"a/1g", b"a\xff/1f"];
        for key in no_place {
            assert_eq!(place_of(key), None, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(place_of(b"a/+1"), None);
        assert_eq!(place_of(b"a/ffffffffffffffff"), None);
        for session in [-1, i64::MIN, i64::MAX] {
            let name = Name::new("a").expect("a name");
            assert_eq!(place_of(&key(&name, session)), Some((name, session)));
        }
        assert_eq!(place_of(b"a/-1f").map(|(_, session)| session), Some(-0x1f));
    }
}
