//! Clients that have leases: they keep them alive for a while, and then do not.

use std::time::Duration;

use broadcast_store::{
    Error,
    keys::{self, Put},
    machine::{Command, Outcome},
    raft::{ConsensusError, read_index},
};
use bytes::Bytes;
use openraft::{async_runtime::WatchReceiver as _, type_config::TypeConfigExt as _};

use crate::{
    history::LeaseHeld,
    network::{C, Peer, World},
    session::{RequestFailure, Session},
    voter::now,
};

/// What passes at least, in a time to live, by the fastest of all clocks.
fn least(ttl: i64) -> Duration {
    Duration::from_secs(ttl as u64) * 98 / 100
}

async fn keep_alive(peer: Peer, lease: i64) -> Result<Option<Duration>, RequestFailure> {
    let asked = peer.clock.now();
    match read_index(&peer.raft).await {
        Ok(()) => {}
        Err(ConsensusError::NotLeader { leader }) => return Err(RequestFailure::NotLeader(leader)),
        Err(_) => return Err(RequestFailure::Lost),
    }
    let mut timers = peer.timers.lock().expect("no panic");
    if timers.term() != Some(peer.raft.metrics().borrow_watched().current_term) {
        return Err(RequestFailure::NotLeader(None));
    }
    Ok(timers.keep_alive(asked, lease))
}

/// Has one lease after the other, until the faults are over.
pub(crate) async fn run(world: World, number: u64, voters: u64) {
    let mut session = Session::open(world.clone(), voters).await;
    for count in 0u64.. {
        if world.done() {
            return;
        }
        C::sleep(Duration::from_millis(world.below(500))).await;
        let (lease, ttl) = ((1 + number * 1_000_000 + count) as i64, 2 + world.below(4) as i64);
        let key = Bytes::from(format!("lease/{number}/{count}"));
        let mut kept = now();
        match session.execute(Command::grant(lease, ttl)).await {
            Some(Outcome::Granted { .. }) => {}
            None => continue,
            other => world.fail(format!("{other:?} answers a grant")),
        }
        let put = Put { key: key.clone(), value: key.clone(), lease, ..Put::default() };
        let put = Command::keys(&keys::KeysCommand::Put(put)).expect("a command as good as any");
        let since = match session.execute(put).await {
            Some(Outcome::Keys(keys::KeysOutcome::Put(done))) => done.revision,
            Some(Outcome::Refused(Error::LeaseNotFound { .. })) => {
                if now() < kept + least(ttl) {
                    world.fail(format!("lease {lease} has ended early, at {:?}: granted after {kept:?}", now()));
                }
                continue;
            }
            None => continue,
            other => {
                world.fail(format!("{other:?} answers a put"));
                continue;
            }
        };
        for _ in 0..world.below(8) {
            C::sleep(Duration::from_millis(300 * ttl as u64)).await;
            let asked = now();
            match session.ask(|peer| keep_alive(peer, lease)).await {
                Some(Some(_)) => kept = asked,
                Some(None) => break,
                None => {}
            }
        }
        let not_before = kept + least(ttl);
        world.lock().history.leases.push(LeaseHeld { key, since, not_before });
    }
}
