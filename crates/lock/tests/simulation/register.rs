//! Something outside the store that holders of a lock write to: it keeps the highest token seen, and refuses lower ones.

use std::time::Duration;

use openraft::type_config::TypeConfigExt as _;

use crate::network::{C, World};

/// A number, and the highest token seen.
#[derive(Debug, Default)]
pub(crate) struct Register {
    highest: u64,
    pub(crate) value: u64,
    /// How many writes were accepted, each of a number higher by one.
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
}

impl Register {
    /// Whether a token may do something. One that reads counts as seen: what was written by an older one later would be
    /// lost on the reader.
    fn admits(&mut self, token: u64) -> bool {
        let admits = token >= self.highest;
        self.highest = self.highest.max(token);
        self.refused += u64::from(!admits);
        admits
    }

    fn read(&mut self, token: u64) -> Option<u64> {
        self.admits(token).then_some(self.value)
    }

    fn write(&mut self, token: u64, value: u64) -> bool {
        let admits = self.admits(token);
        if admits {
            (self.value, self.accepted) = (value, self.accepted + 1);
        }
        admits
    }
}

/// Reads it. Nothing if the token is refused.
pub(crate) async fn read(world: &World, token: u64) -> Option<u64> {
    C::sleep(Duration::from_millis(1 + world.below(30))).await;
    let read = world.lock().history.register.read(token);
    C::sleep(Duration::from_millis(1 + world.below(30))).await;
    read
}

/// Writes it, whenever that arrives. Whether it was accepted.
pub(crate) async fn write(world: World, token: u64, value: u64, takes: Duration) -> bool {
    C::sleep(takes).await;
    world.lock().history.register.write(token, value)
}
