//! When something goes wrong, and what has to be so once everything is well again.

use std::{collections::BTreeMap, time::Duration};

use broadcast_store::{
    keys::KeysCommand as Keys,
    machine::{Command, Machines},
    raft::Proposal as Entry,
};
use futures_util::future::join_all;
use openraft::{async_runtime::WatchReceiver as _, type_config::TypeConfigExt as _};

use crate::{
    client,
    faults::Nemesis,
    lease,
    network::{C, NetworkConditions, World},
    random::Random,
    voter::{found, now},
    watcher::observe,
};

/// What has happened in a run.
pub(crate) struct Report {
    operations: u64,
    unanswered: u64,
    crashes: u64,
    terms: u64,
    installed: u64,
    leases: u64,
}

impl Report {
    pub(crate) fn numbers(&self) -> [u64; 6] {
        [self.operations, self.unanswered, self.crashes, self.terms, self.installed, self.leases]
    }
}

impl Nemesis {
    /// History is forgotten, as far as all have been told.
    async fn compact(&self) {
        let told = self.world.lock().history.watched_revisions.values().copied().min().unwrap_or_default();
        let leader = self.leader().and_then(|leader| self.world.peer(leader));
        if let Some(leader) = leader.filter(|_| self.world.lock().history.watched_revisions.len() as u64 == self.voters)
        {
            let command = Command::keys(&Keys::Compact { revision: told }).expect("a command as good as any");
            let proposed = leader.raft.client_write(Entry(command.encode().into()));
            let _ = C::timeout(Duration::from_secs(2), proposed).await;
        }
    }

    async fn until_equal(&self) {
        let (began, world) = (now(), &self.world);
        loop {
            assert!(world.lock().history.failures().is_empty(), "{:#?}", world.lock().history.failures());
            let peers = world.peers();
            let states: Vec<_> = peers
                .iter()
                .map(|peer| {
                    let failure = peer.raft.metrics().borrow_watched().running_state.clone().err();
                    assert!(failure.is_none(), "{failure:?}");
                    let state = peer.state.read(|replica, at| {
                        (at, replica.state.hash(), replica.state.keys().revision(), replica.state.leases().len())
                    });
                    (peer.id, state)
                })
                .collect();
            let told = world.lock().history.watched_revisions.clone();
            let are_equal = states.len() as u64 == self.voters && states.iter().all(|(_, state)| *state == states[0].1);
            if are_equal && let Some((_, (_, _, revision, 0))) = states.first() {
                let all = (1..=self.voters).map(|watcher| (watcher, *revision)).collect::<BTreeMap<_, _>>();
                if told == all && world.lock().history.revision() == *revision {
                    return;
                }
            }
            assert!(
                now() < began + Duration::from_secs(40),
                "all should be equal and told, and no lease be left: {states:?}, told {told:?}, leader {:?}",
                self.leader()
            );
            C::sleep(Duration::from_millis(100)).await;
        }
    }
}

pub(crate) async fn scenario(seed: u64) -> Report {
    let mut random = Random::new(seed);
    let voters = if random.below(4) == 0 { 5 } else { 3 };
    let rounds = 3 + random.below(3);
    let world = World::new(random, Machines::default());
    let nemesis = Nemesis { world: world.clone(), voters };
    found(&world, voters).await;
    (1..=voters).for_each(|id| drop(C::spawn(observe(world.clone(), id))));
    let clients = (1..=4).map(|number| C::spawn(client::run(world.clone(), number, voters)));
    let holders = (5..=6).map(|number| C::spawn(lease::run(world.clone(), number, voters)));
    let clients: Vec<_> = clients.chain(holders).collect();
    C::sleep(Duration::from_secs(3)).await;
    for _ in 0..rounds {
        nemesis.fault().await;
        // Two at a time, now and then.
        if world.chance(300) {
            C::sleep(Duration::from_millis(world.below(1000))).await;
            nemesis.fault().await;
        }
        C::sleep(Duration::from_millis(world.below(8000))).await;
        world.lock().conditions = NetworkConditions::normal();
        if world.chance(300) {
            nemesis.compact().await;
        }
        C::sleep(Duration::from_millis(world.below(5000))).await;
        assert!(world.lock().history.failures().is_empty(), "{:#?}", world.lock().history.failures());
    }
    world.lock().done = true;
    for finished in join_all(clients).await {
        finished.expect("a client does not panic");
    }
    nemesis.until_equal().await;
    let mut inner = world.lock();
    inner.history.check();
    assert!(inner.history.failures().is_empty(), "{:#?}", inner.history.failures());
    let unanswered = inner.history.operations.iter().filter(|operation| operation.ended == u64::MAX).count();
    Report {
        operations: inner.history.operations.len() as u64,
        unanswered: unanswered as u64,
        crashes: inner.crashes,
        terms: inner.leaders.len() as u64,
        installed: inner.installed,
        leases: inner.history.leases.len() as u64,
    }
}
