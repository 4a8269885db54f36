//! How clients ask: one voter after the other, again with the same id until there is an answer.

use std::time::Duration;

use broadcast_store::{
    machine::{Command, Outcome, RequestId},
    raft::Proposal as Entry,
};
use openraft::{
    errors::{ClientWriteError, RaftError},
    type_config::TypeConfigExt as _,
};

use crate::{
    network::{C, Peer, World},
    voter::now,
};

/// How long a client asks for one thing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Who asks. Only one thing is asked for at a time.
pub(crate) struct Session {
    pub(crate) world: World,
    voters: u64,
    /// Who is asked first.
    target: u64,
    client: u64,
    serial: u64,
}

/// Why a voter did not answer.
pub(crate) enum RequestFailure {
    /// It does not lead, but this one may.
    NotLeader(Option<u64>),
    /// It is gone, or the message is, or the answer.
    Lost,
}

impl Session {
    /// One that only asks, and has nothing carried out.
    pub(crate) fn new(world: World, voters: u64) -> Self {
        Self { world, voters, target: 1, client: 0, serial: 0 }
    }

    /// Opens a client.
    pub(crate) async fn open(world: World, voters: u64) -> Self {
        let mut session = Self::new(world, voters);
        while session.client == 0 {
            let outcome = session.send(Command::open_client()).await;
            if let Some(Outcome::Client { client }) = outcome {
                session.client = client;
            }
        }
        session
    }

    /// Has a command carried out, once; nothing, if there is no answer.
    pub(crate) async fn execute(&mut self, command: Command) -> Option<Outcome> {
        self.serial += 1;
        let request = RequestId { client: self.client, serial: self.serial, answered_below: self.serial };
        self.send(command.of(request)).await
    }

    async fn send(&mut self, command: Command) -> Option<Outcome> {
        let entry = Entry(command.encode().into());
        let world = self.world.clone();
        if world.chance(30) && command.request().is_some() {
            // Another copy of it takes a long way.
            let (to, late) = (1 + world.below(self.voters), Duration::from_millis(world.below(5000)));
            let (world, entry) = (world.clone(), entry.clone());
            drop(C::spawn(async move {
                C::sleep(late).await;
                if let Some(peer) = world.peer(to) {
                    let _ = peer.raft.client_write(entry).await;
                }
            }));
        }
        self.ask(|peer| {
            let entry = entry.clone();
            async move {
                match peer.raft.client_write(entry).await {
                    Ok(written) => {
                        let outcome = Outcome::decode(&written.data.0).expect("what the state writes");
                        // Should the client have gone meanwhile, this does not happen.
                        if let Outcome::Granted { lease, ttl, .. } = outcome {
                            peer.timers.lock().expect("no panic").granted(peer.clock.now(), lease, ttl);
                        }
                        Ok(outcome)
                    }
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                        Err(RequestFailure::NotLeader(forward.leader_id))
                    }
                    Err(_) => Err(RequestFailure::Lost),
                }
            }
        })
        .await
    }

    /// Asks one voter after the other.
    pub(crate) async fn ask<A, F: Future<Output = Result<A, RequestFailure>> + Send>(
        &mut self,
        call: impl Fn(Peer) -> F,
    ) -> Option<A> {
        let world = self.world.clone();
        let until = now() + REQUEST_TIMEOUT;
        while now() < until {
            let target = self.target;
            let mut answer = Err(RequestFailure::Lost);
            if world.travel(0, target).await
                && let Some(peer) = world.peer(target)
            {
                let answered = C::timeout(Duration::from_secs(3), call(peer)).await;
                if world.travel(target, 0).await {
                    answer = answered.unwrap_or(Err(RequestFailure::Lost));
                }
            }
            match answer {
                Ok(answer) => return Some(answer),
                Err(RequestFailure::NotLeader(Some(leader))) if leader != target => self.target = leader,
                Err(_) => self.target = 1 + world.below(self.voters),
            }
            C::sleep(Duration::from_millis(20 + world.below(200))).await;
        }
        None
    }
}
