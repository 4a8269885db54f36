//! What nodes of this crate tell each other about themselves, as applications see it.

use std::time::Instant;

use super::{Handle, UpdateError};
use crate::{ConfigError, NodeInfo, NodeName};

impl Handle {
    /// What a live member, or this node, tells about itself. Nothing of plain memberlist nodes, and of those that have not
    /// told it yet, which [`Event::Introduced`](crate::Event::Introduced) will; and of nobody once this node has stopped.
    pub async fn info_of(&self, name: &NodeName) -> Option<NodeInfo> {
        let name = name.clone();
        self.ask(move |event_loop| event_loop.node.info_of(&name)).await.flatten()
    }

    /// Tells the other nodes of this crate something else about this one: other roles, or other endpoints. They hear of
    /// it as [`Event::Introduced`](crate::Event::Introduced). Ends when it is on its way.
    ///
    /// # Errors
    ///
    /// See [`UpdateError`]. The identity has to be that of this node: it is the same as long as the node runs.
    pub async fn update_info(&self, info: NodeInfo) -> Result<(), UpdateError> {
        info.validate()?;
        if info.id != self.id() {
            let problem = format!("the id of this node is {} as long as it runs, not {}", self.id(), info.id);
            return Err(ConfigError::Info { problem }.into());
        }
        let told = self.ask(move |event_loop| event_loop.node.update_info(Instant::now(), info)).await;
        told.filter(|told| *told).map(|_| ()).ok_or(UpdateError::Stopped)
    }
}
