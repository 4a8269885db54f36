//! What a node of the `broadcast` program does: it plays roles, each of which is one file.
//!
//! | role | does |
//! |---|---|
//! | [`receiver`] | logs what it hears |
//! | [`sender`] | says something every interval, and logs what a receiver does |
//! | [`voter`] | agrees, with the other voters, on what the store holds |
//!
//! # Contract of a role
//!
//! A role is a function `run` that takes a [`Context`] and gives a future. It subscribes to what it needs when it is
//! called, so that it misses nothing until it is polled first. It ends with `Ok` once the node has stopped. Should it
//! end with an error, the node leaves the cluster and the program ends with exit code 1 and what the role says.
//!
//! A role that does something by itself stops doing so when [`Context::shutdown`] begins, before the node leaves.

mod limit;
pub(crate) mod receiver;
mod report;
mod selection;
pub(crate) mod sender;
mod shutdown;
pub(crate) mod voter;

use std::{error::Error, fmt, future::Future, panic::resume_unwind, sync::Arc, time::Duration};

use broadcast::Handle;
use tokio::{task::JoinSet, time::sleep};

pub(crate) use self::{
    report::leaving,
    selection::{Role, Roles, parser},
    shutdown::{Shutdown, shutdown},
};
use crate::{data::DataDir, store::NodeStore};

/// How a role ends: with an error, if it cannot go on.
pub(crate) type Ended = Result<(), Box<dyn Error + Send + Sync>>;

/// What a role is given. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The node that plays it.
    pub(crate) node: Handle,
    /// What the node keeps from one start to the next, if it keeps anything.
    pub(crate) data: Option<Arc<DataDir>>,
    /// The replicated store, as this node has it.
    pub(crate) store: NodeStore,
    /// Begins when the node is about to leave.
    pub(crate) shutdown: Shutdown,
}

/// A role that cannot go on.
#[derive(Debug)]
pub(crate) struct RoleError {
    role: Role,
    source: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for RoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the node has left, as its role {} cannot go on: {}", self.role, self.source)
    }
}

/// Plays these roles until the node has stopped, or the first of them fails. A sender sends every `every`.
pub(crate) fn run(roles: &Roles, context: &Context, every: Duration) -> impl Future<Output = Result<(), RoleError>> {
    if let Some(data) = &context.data {
        report::data(context.node.name(), data.path(), data.id());
    }
    let mut playing = Playing::default();
    for role in roles.played() {
        match role {
            Role::Receiver => playing.add(role, receiver::run(context.clone())),
            Role::Voter => playing.add(role, voter::run(context.clone())),
            Role::Sender => playing.add(role, sender::run(context.clone(), every, sleep(sender::part_of(every)))),
        }
    }
    playing.end()
}

/// Roles that are played at the same time.
#[derive(Default)]
struct Playing(JoinSet<(Role, Ended)>);

impl Playing {
    fn add(&mut self, role: Role, played: impl Future<Output = Ended> + Send + 'static) {
        self.0.spawn(async move { (role, played.await) });
    }

    /// Waits until all have ended, or one has failed: then the others are not played any more.
    async fn end(mut self) -> Result<(), RoleError> {
        while let Some(ended) = self.0.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((role, Err(source))) => return Err(RoleError { role, source }),
                // Nobody else can abort them.
                Err(error) => resume_unwind(error.into_panic()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn the_first_role_that_fails_ends_all_and_says_why() {
        let mut playing = Playing::default();
        playing.add(Role::Receiver, pending());
        playing.add(Role::Sender, ready(Err("the disk is full".into())));
        let error = playing.end().await.expect_err("one has failed");
        assert_eq!(error.to_string(), "the node has left, as its role sender cannot go on: the disk is full");
    }

    #[tokio::test]
    async fn roles_that_end_well_end_when_all_have() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let mut playing = Playing::default();
        playing.add(Role::Receiver, ready(Ok(())));
        playing.add(Role::Sender, async move { Ok(gone.await?) });
        let mut end = std::pin::pin!(playing.end());
        tokio::select! {
            biased;
            _ = &mut end => panic!("one is still played"),
            () = tokio::task::yield_now() => {}
        }
        go.send(()).expect("it waits");
        assert!(end.await.is_ok());
    }
}
