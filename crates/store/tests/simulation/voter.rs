//! A voter of the simulation: started from its disk, stopped with it, and started again; with its leases.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use broadcast_store::{
    disk::{CrashOutcome, Ids, SimDisk},
    log::{Log, LogOptions},
    machine::{Command, LeaseTimers, Outcome},
    node::Replica,
    raft::{LogStore, Proposal as Entry, RaftNode, StateMachine, read_index, settings},
    snapshot::Snapshots,
};
use openraft::{Raft, SnapshotPolicy, async_runtime::WatchReceiver as _, type_config::TypeConfigExt as _};

use crate::network::{C, Network, Peer, World};

const CLUSTER: u64 = 7;

/// A voter's own clock: it began at some time, and is a little fast or slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) offset: Duration,
    /// In millionths.
    pub(crate) rate: u32,
}

/// The time since the simulation began.
pub(crate) fn now() -> Duration {
    C::now().elapsed_since_start()
}

impl Clock {
    pub(crate) fn now(self) -> Duration {
        self.offset + now() * self.rate / 1_000_000
    }
}

fn options() -> LogOptions {
    LogOptions { segment: 16 << 10, reserve: 1 << 10, queue: 64 << 10, cache: 4 << 10, read: 4 << 10 }
}

async fn start(world: &World, id: u64, disk: &SimDisk, clock: Clock) {
    let (log, writer) =
        Log::open(disk.clone(), Ids { cluster: CLUSTER, node: id }, options()).expect("the log is whole");
    let kept = log.state().vote;
    let promised = world.lock().promised.get(&id).copied();
    // It may follow another, who has won in that term.
    let is_kept = |term, candidate| {
        kept.is_some_and(|kept| kept.term > term || kept.term == term && (kept.node == candidate || kept.committed))
    };
    if let Some((term, candidate)) = promised.filter(|(term, candidate)| !is_kept(*term, *candidate)) {
        world.fail(format!("{id} gave {candidate} its vote in term {term}, and has forgotten: it has {kept:?}"));
    }
    let snapshots =
        Snapshots::open(disk.clone(), CLUSTER, log.state().purged).expect("a snapshot and the log fit together");
    let slow = world.clone();
    let pause = move || {
        let most = slow.lock().conditions.sync.get(&id).copied().unwrap_or(4);
        C::sleep(Duration::from_micros(slow.below(most * 1000)))
    };
    // It ends when its disk does, or when the voter is dropped.
    drop(C::spawn(async move { drop(writer.run(pause).await) }));
    let machines = world.lock().machines.clone();
    let machine = StateMachine::new(Replica::new(machines), snapshots.clone());
    let state = machine.shared();
    let mut config = settings(CLUSTER).expect("valid settings");
    config.snapshot_policy = SnapshotPolicy::LogsSinceLast(60);
    config.max_in_snapshot_log_to_keep = 10;
    config.purge_batch_size = 8;
    let network = Network { world: world.clone(), from: id };
    let raft = Raft::new(id, Arc::new(config), network, LogStore::new(log), machine).await;
    let Ok(raft) = raft else {
        // Its disk may have ended meanwhile.
        assert!(disk.ended(), "what is stored is consistent");
        return;
    };
    let timers = Arc::new(Mutex::new(LeaseTimers::new()));
    let life = world.lock().crashes;
    let peer = Peer { id, life, raft, snapshots, state, timers, disk: disk.clone(), clock };
    world.lock().peers.insert(id, peer.clone());
    drop(C::spawn(lead(world.clone(), peer)));
}

/// Keeps a voter running: whenever its disk has ended, it is started again some time later, with what has landed.
async fn keep_running(world: World, id: u64) {
    let (disk, clock) = {
        let random = &mut world.lock().random;
        let offset = Duration::from_secs(random.below(1_000_000));
        (SimDisk::new(random.number()), Clock { offset, rate: 990_000 + random.below(20_001) as u32 })
    };
    start(&world, id, &disk, clock).await;
    loop {
        C::sleep(Duration::from_millis(10)).await;
        if !disk.ended() {
            let failure =
                world.peer(id).and_then(|peer| peer.raft.metrics().borrow_watched().running_state.clone().err());
            if let Some(failure) = failure {
                world.fail(format!("voter {id} has stopped, and its disk works: {failure}"));
                return;
            }
            continue;
        }
        let gone = world.lock().peers.remove(&id);
        if let Some(gone) = gone {
            let _ = gone.raft.shutdown().await;
            world.lock().crashes += 1;
        }
        // One in four is away for long enough to fall behind what the others' logs still have.
        let away = if world.chance(250) && !world.done() { 15_000 } else { 1500 };
        C::sleep(Duration::from_millis(world.below(away))).await;
        let landing = [CrashOutcome::Nothing, CrashOutcome::Torn, CrashOutcome::Everything, CrashOutcome::ProcessOnly]
            [world.below(4) as usize];
        disk.reboot(landing);
        start(&world, id, &disk, clock).await;
    }
}

/// Starts so many voters, and founds their cluster.
pub(crate) async fn found(world: &World, voters: u64) {
    (1..=voters).for_each(|id| drop(C::spawn(keep_running(world.clone(), id))));
    while world.peers().len() as u64 != voters {
        C::sleep(Duration::from_millis(1)).await;
    }
    let names: BTreeMap<_, _> = (1..=voters).map(|id| (id, RaftNode { name: format!("node{id}") })).collect();
    let first = world.peer(1).expect("it runs");
    first.raft.initialize(names).await.expect("nobody was part of a cluster");
}

/// What a leader does by itself: it ends leases.
async fn lead(world: World, peer: Peer) {
    let mut leads_in = None;
    let mut metrics = peer.raft.metrics();
    loop {
        if C::timeout(Duration::from_millis(500), metrics.changed()).await.is_ok_and(|changed| changed.is_err())
            || !world.lives(&peer)
        {
            return;
        }
        let (leads, term) = {
            let metrics = metrics.borrow_watched();
            (metrics.state.is_leader() && metrics.last_quorum_acked.is_some(), metrics.current_term)
        };
        if !leads {
            if leads_in.take().is_some() {
                peer.timers.lock().expect("no panic").follow();
            }
            continue;
        }
        if leads_in != Some(term) {
            if read_index(&peer.raft).await.is_err() || peer.raft.metrics().borrow_watched().current_term != term {
                // As the leader's tasks do, and for the same reason.
                C::sleep(Duration::from_millis(20)).await;
                continue;
            }
            peer.state.read(|replica, _| {
                peer.timers.lock().expect("no panic").lead(peer.clock.now(), term, replica.state.leases());
            });
            leads_in = Some(term);
        }
        peer.state.read(|replica, _| {
            peer.timers.lock().expect("no panic").reconcile(peer.clock.now(), replica.state.leases());
        });
        let due = peer.timers.lock().expect("no panic").due(peer.clock.now(), 64);
        for lease in due {
            drop(C::spawn(expire(world.clone(), peer.clone(), term, lease)));
        }
    }
}

/// Proposes that a lease ends: at once, or late, as a machine under load does. And what was on its way from a leader that
/// has gone may come to the next one: in its term it must be refused.
async fn expire(world: World, peer: Peer, term: u64, lease: i64) {
    let command = || Entry(Command::expire(lease, term).encode().into());
    if world.chance(300) {
        C::sleep(Duration::from_millis(world.below(6000))).await;
        for other in world.peers() {
            propose_expiry(&world, &other, term, command()).await;
        }
    }
    let outcome = propose_expiry(&world, &peer, term, command()).await;
    let again = peer.clock.now() + Duration::from_millis(500);
    peer.timers.lock().expect("no panic").expiry_outcome(again, term, lease, outcome.as_ref());
}

async fn propose_expiry(world: &World, peer: &Peer, term: u64, command: Entry) -> Option<Outcome> {
    let written = C::timeout(Duration::from_secs(5), peer.raft.client_write(command)).await.ok()?.ok()?;
    let outcome = Outcome::decode(&written.data.0).expect("what the state writes");
    let entry = written.log_id.leader_id.term;
    if matches!(outcome, Outcome::LeaseEnded { .. }) && entry != term {
        world.fail(format!("the leader of term {term} found a lease due, and it ends in term {entry}"));
    }
    Some(outcome)
}
