//! What a node of the `broadcast` program does: its roles, one file for each.
//!
//! | role | does |
//! |---|---|
//! | [`receiver`] | logs the messages it receives, and what happens in the cluster |
//! | [`sender`] | publishes a message every interval, and logs what a receiver does |
//! | [`voter`] | votes in the replicated store |
//!
//! # Contract of a role
//!
//! A role is a function `run` that takes a [`Context`] and returns a future. It subscribes to what it needs when it is
//! called, so that it misses nothing before the future is first polled. The future ends with `Ok` once the node has
//! stopped. If it ends with an error, the node leaves the cluster, and the program ends with exit code 1 and that error.
//!
//! A role that acts by itself stops doing so when [`Context::shutdown`] begins, before the node leaves.

mod rate_limit;
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
pub(crate) type RoleResult = Result<(), Box<dyn Error + Send + Sync>>;

/// What a role works with. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The node that has the role.
    pub(crate) node: Handle,
    /// The data directory, if the node has one.
    pub(crate) data: Option<Arc<DataDir>>,
    /// The node's access to the replicated store.
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

/// Runs the roles until the node has stopped, or the first of them fails. A sender sends once every `every`.
pub(crate) fn run(roles: &Roles, context: &Context, every: Duration) -> impl Future<Output = Result<(), RoleError>> {
    if let Some(data) = &context.data {
        report::data(context.node.name(), data.path(), data.id());
    }
    let mut running = RunningRoles::default();
    for role in roles.to_run() {
        match role {
            Role::Receiver => running.add(role, receiver::run(context.clone())),
            Role::Voter => running.add(role, voter::run(context.clone())),
            Role::Sender => running.add(role, sender::run(context.clone(), every, sleep(sender::random_part(every)))),
        }
    }
    running.finish()
}

/// Roles that run at the same time.
#[derive(Default)]
struct RunningRoles(JoinSet<(Role, RoleResult)>);

impl RunningRoles {
    fn add(&mut self, role: Role, run: impl Future<Output = RoleResult> + Send + 'static) {
        self.0.spawn(async move { (role, run.await) });
    }

    /// Waits until all roles have ended, or one has failed, which stops the others.
    async fn finish(mut self) -> Result<(), RoleError> {
        while let Some(ended) = self.0.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((role, Err(source))) => return Err(RoleError { role, source }),
                // It panicked: nothing else can abort it.
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
        let mut running = RunningRoles::default();
        running.add(Role::Receiver, pending());
        running.add(Role::Sender, ready(Err("the disk is full".into())));
        let error = running.finish().await.expect_err("one has failed");
        assert_eq!(error.to_string(), "the node has left, as its role sender cannot go on: the disk is full");
    }

    #[tokio::test]
    async fn roles_that_end_well_end_when_all_have() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let mut running = RunningRoles::default();
        running.add(Role::Receiver, ready(Ok(())));
        running.add(Role::Sender, async move { Ok(gone.await?) });
        let mut end = std::pin::pin!(running.finish());
        tokio::select! {
            biased;
            _ = &mut end => panic!("one is still played"),
            () = tokio::task::yield_now() => {}
        }
        go.send(()).expect("it waits");
        assert!(end.await.is_ok());
    }
}
