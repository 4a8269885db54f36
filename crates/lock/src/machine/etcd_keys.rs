//! Queue entries as keys: clients of etcd and of this lock service wait in one queue.
//!
//! A client of etcd joins the queue of lock `N` by putting a key `N/LEASE`. The key is attached to its lease, and `LEASE` is
//! the lease's id in hexadecimal digits. The client holds the lock once no key that begins with `N/` is older: this is the
//! recipe of etcd's package `concurrency`. So:
//!
//! - **Such a key is an entry**, from its creation to its deletion: exclusive, owned by that lease, and with the revision of
//!   its creation as its token. No entry behind it is granted the lock before it.
//! - **Our own entries are such keys**, as long as a client of etcd is in one of their queues. When the first one joins, the
//!   command that puts its key first puts the keys of all entries before it; entries that come later get their keys at once.
//!   So etcd's client sees them, and waits for them. A queue without clients of etcd has no keys, and costs none.
//! - **Whoever deletes the key of one of our entries** takes that lock away, as [`LockCommand::ForceRelease`] does.
//!
//! Among each other etcd's clients go by the prefix alone: one that waits for `a` waits for keys of `a/b`, too. That delays a
//! grant, and never gives a lock to two.
//!
//! [`LockCommand::ForceRelease`]: crate::message::LockCommand::ForceRelease

use std::{collections::BTreeSet, sync::Arc};

use broadcast_store::{
    Error,
    keys::{Delete, KeyRange, KeyValue, KeysCommand, Op, Put, Txn},
    machine::ApplyContext,
};
use bytes::Bytes;

use super::{Locks, NAME, QueueEntry, emit};
use crate::{
    message::{EntryChange, MAX_VALUE_BYTES, Mode, is_session, lease_digits},
    name::Name,
};

/// The key of a session's entry in the queue of a lock.
fn entry_key(name: &Name, session: i64) -> Bytes {
    format!("{name}/{}", lease_digits(session)).into()
}

/// The lock and the session that a key names, if it is the key of an entry.
fn parse_entry_key(key: &[u8]) -> Option<(Name, i64)> {
    let (name, lease) = std::str::from_utf8(key).ok()?.rsplit_once('/')?;
    let session = i64::from_str_radix(lease, 16).ok()?;
    // Only the digits that etcd's clients write, so each entry has one key.
    (session != 0 && lease_digits(session) == lease).then_some((Name::new(name).ok()?, session))
}

impl QueueEntry {
    /// Whether it belongs to a client of etcd.
    pub(super) fn is_etcd_entry(&self) -> bool {
        !is_session(self.session)
    }

    /// The command that puts its keys, with its value.
    fn puts(&self) -> KeysCommand {
        let put = |name| Put {
            key: entry_key(name, self.session),
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
    pub(super) fn has_etcd_client(&self, name: &Name) -> bool {
        self.etcd_entries.get(name).is_some()
    }

    /// Counts the entries of etcd's clients in a queue: one more if one comes, or else one less.
    pub(super) fn count_etcd_entry(&mut self, name: &Name, comes: bool) {
        let count = self.etcd_entries.get(name).copied().unwrap_or_default();
        match if comes { count + 1 } else { count.saturating_sub(1) } {
            0 => drop(self.etcd_entries.remove(name)),
            count => drop(self.etcd_entries.insert(name.clone(), count)),
        }
    }

    /// Puts the keys of an entry, and gives their revision.
    pub(super) fn put_keys(context: &mut ApplyContext<'_>, entry: &QueueEntry) -> Result<u64, Error> {
        context.keys(&entry.puts())?;
        Ok(context.revision())
    }

    /// Deletes the keys of an entry, as far as they are there.
    pub(super) fn delete_keys(context: &mut ApplyContext<'_>, entry: &QueueEntry) {
        for name in &entry.names {
            let keys = KeyRange::one(entry_key(name, entry.session));
            // Deleting takes no space, and is refused for no other reason.
            let _ = context.keys(&KeysCommand::Delete(Delete { keys, prev_kv: false }));
        }
    }

    /// Before keys are put that are entries of etcd's clients: gives our entries in the same queues their keys. See
    /// [`Machine::before_puts`](broadcast_store::machine::Machine::before_puts).
    pub(super) fn prepare_etcd_entries(&mut self, context: &mut ApplyContext<'_>, puts: &[&Put]) -> Result<(), Error> {
        let (mut bytes, mut meets) = (0, BTreeSet::new());
        for put in puts {
            // Only locks end with a session, and no key of a user.
            if is_session(put.lease) {
                return Err(Error::LeaseNotFound { lease: put.lease });
            }
            let Some((name, session)) = parse_entry_key(&put.key).filter(|(_, session)| *session == put.lease) else {
                continue;
            };
            if !context.leases().contains(session) {
                continue;
            }
            bytes += etcd_entry(name.clone(), session, entry_value(&put.value)).bytes();
            // Where one is already, all entries have their keys.
            if !self.has_etcd_client(&name) {
                meets.insert(name);
            }
        }
        if self.check_space(bytes).is_err() {
            return Err(Error::NoSpace { machine: NAME.into(), quota: self.quota, bytes: self.bytes });
        }
        for name in meets {
            let queue: Vec<u64> = self.held(&name).chain(self.waiting(&name)).collect();
            for token in queue {
                let Some(entry) = self.entries.get(&token).filter(|entry| !entry.has_keys) else { continue };
                let entry = QueueEntry { has_keys: true, ..QueueEntry::clone(entry) };
                Self::put_keys(context, &entry)?;
                self.entries.insert(token, entry.into());
            }
        }
        Ok(())
    }

    /// Makes entries of keys that were put, and ends those whose keys were deleted. See
    /// [`Machine::keys_changed`](broadcast_store::machine::Machine::keys_changed).
    pub(super) fn apply_key_changes(&mut self, context: &mut ApplyContext<'_>, changed: &[Arc<KeyValue>]) {
        let (mut gone, mut sessions) = (Vec::new(), BTreeSet::new());
        for key in changed {
            let Some((name, session)) = parse_entry_key(&key.key) else { continue };
            let token = self.of_session.get(&(session, name.clone())).copied();
            let entry = token.and_then(|token| self.entries.get(&token)).filter(|entry| entry.has_keys).cloned();
            match (token, entry) {
                (Some(token), Some(entry)) if key.is_tombstone() => {
                    if entry.is_etcd_entry() {
                        gone.push(token);
                    } else {
                        sessions.insert(session);
                    }
                }
                (Some(token), Some(entry)) => self.set_value(context, token, &entry, entry_value(&key.value)),
                (None, _) if key.lease == session && !is_session(session) && key.version == 1 => {
                    // Of two keys that one command creates, the second needs a token of its own.
                    let taken = self.entries.get(&key.create_revision).is_some();
                    let token = if taken { context.next_revision() } else { key.create_revision };
                    self.insert_etcd_entry(context, token, name, key);
                }
                _ => {}
            }
        }
        // All entries of a session go at once, as when a lock is taken away by force.
        let all = sessions.iter().flat_map(|session| self.of_session(*session)).map(|(_, token)| token);
        gone.extend(all.collect::<Vec<_>>());
        let change = if sessions.is_empty() { EntryChange::Released } else { EntryChange::Forced };
        sessions.into_iter().for_each(|session| context.end_lease(session));
        self.remove(context, &gone, change);
    }

    fn insert_etcd_entry(&mut self, context: &mut ApplyContext<'_>, token: u64, name: Name, key: &KeyValue) {
        self.insert(token, etcd_entry(name.clone(), key.lease, entry_value(&key.value)), false);
        self.grant(context, &name);
        if !self.holds(&name, token)
            && let Some(entry) = self.entries.get(&token)
        {
            emit(context, token, entry, EntryChange::Queued);
        }
    }
}

/// A key's value as that of an entry, which may be shorter.
fn entry_value(value: &Bytes) -> Bytes {
    value.slice(..value.len().min(MAX_VALUE_BYTES))
}

fn etcd_entry(name: Name, session: i64, value: Bytes) -> QueueEntry {
    QueueEntry { session, names: vec![name], mode: Mode::Exclusive, value, since: 0, has_keys: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_entry_is_one_and_nothing_else_is() {
        let name = Name::new("jobs/nightly").expect("a name");
        assert_eq!(entry_key(&name, 0x694d_81b2), "jobs/nightly/694d81b2");
        assert_eq!(parse_entry_key(b"jobs/nightly/694d81b2"), Some((name, 0x694d_81b2)));
        let no_entry: [&[u8]; 9] = [b"", b"a", b"a/", b"/1", b"a/0", b"a/01", b"a/1F", b"a/1g", b"a\xff/1f"];
        for key in no_entry {
            assert_eq!(parse_entry_key(key), None, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(parse_entry_key(b"a/+1"), None);
        assert_eq!(parse_entry_key(b"a/ffffffffffffffff"), None);
        for session in [-1, i64::MIN, i64::MAX] {
            let name = Name::new("a").expect("a name");
            assert_eq!(parse_entry_key(&entry_key(&name, session)), Some((name, session)));
        }
        assert_eq!(parse_entry_key(b"a/-1f").map(|(_, session)| session), Some(-0x1f));
    }
}
