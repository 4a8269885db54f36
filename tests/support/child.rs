//! Processes that end with the test that started them.

use std::{
    ops::{Deref, DerefMut},
    process::Child,
};

/// A child process. Killed when dropped, so that a test that fails leaves nothing behind.
#[derive(Debug)]
pub struct OwnedChild(pub Child);

impl OwnedChild {
    /// Kills it, and waits until it has ended.
    pub fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deref for OwnedChild {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for OwnedChild {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        self.end();
    }
}
