//! The identity, roles and endpoints that nodes of this crate tell each other ([`NodeInfo`]), for applications.

use std::time::Instant;

use super::{Handle, UpdateError};
use crate::{ConfigError, NodeInfo, NodeName};

impl Handle {
    /// What a live member, or this node, tells about itself. `None` for plain memberlist nodes, for nodes whose info has not
    /// arrived yet ([`Event::InfoReceived`](crate::Event::InfoReceived) announces it), and once this node has stopped.
    pub async fn info_of(&self, name: &NodeName) -> Option<NodeInfo> {
        let name = name.clone();
        self.ask(move |event_loop| event_loop.node.info_of(&name)).await.flatten()
    }

    /// Changes the roles or endpoints that this node tells the other nodes of this crate. They are told by
    /// [`Event::InfoReceived`](crate::Event::InfoReceived). Returns when the update is on its way.
    ///
    /// # Errors
    ///
    /// See [`UpdateError`]. The identity must stay the same as long as the node runs.
    pub async fn update_info(&self, info: NodeInfo) -> Result<(), UpdateError> {
        info.validate()?;
        if info.id != self.id() {
            let problem = format!("the id of this node is {} as long as it runs, not {}", self.id(), info.id);
            return Err(ConfigError::Info { problem }.into());
        }
        let updated = self.ask(move |event_loop| event_loop.node.update_info(Instant::now(), info)).await;
        updated.filter(|updated| *updated).map(|_| ()).ok_or(UpdateError::Stopped)
    }
}
