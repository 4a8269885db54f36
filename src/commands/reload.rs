//! What a running node reads again: keys, tokens and certificates.
//!
//! SIGHUP makes it read all files. It looks every [`LOOK`] whether those for its HTTP API have changed, and reads them when
//! they have, and then not changed again until the next look: whoever renews a certificate writes two files, one after
//! the other. Files that are links, as in Kubernetes, have changed when what they lead to has. A file of keys is read
//! only when it is told to, because the keys of all nodes have to change in steps.

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use broadcast::Handle;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::{error, info};

use super::serve::Live;
use crate::settings::envelope;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is told that a certificate is about to expire.
const REMIND: Duration = Duration::from_secs(24 * 60 * 60);

/// See the [module](self).
pub(super) struct Reload {
    keys: Option<PathBuf>,
    hangups: Signal,
    on_terminal: bool,
}

impl Reload {
    /// Begins to wait for signals.
    pub(super) fn new(keys: Option<PathBuf>) -> io::Result<Self> {
        Ok(Self { keys, hangups: signal(SignalKind::hangup())?, on_terminal: on_terminal() })
    }

    /// Reads again what has changed, and all when it is told to. A closed terminal sends SIGHUP, too: then it ends, as
    /// nobody can stop the node otherwise.
    pub(super) async fn obey(&mut self, node: &Handle, live: Option<Live>) {
        let mut watch = Watch::new(live.as_ref().map(Live::files).unwrap_or_default()).await;
        let mut reminded = Instant::now();
        loop {
            tokio::select! {
                _ = self.hangups.recv() => {
                    if self.on_terminal && !on_terminal() {
                        return;
                    }
                    watch.note_read().await;
                    self.read_all(node, live.as_ref(), &watch).await;
                }
                () = watch.changed() => {
                    if let Some(live) = &live {
                        live.read_again();
                    }
                }
                () = sleep(REMIND.saturating_sub(reminded.elapsed())), if live.is_some() => {
                    reminded = Instant::now();
                    live.iter().for_each(Live::warn_of_expiry);
                }
            }
        }
    }

    async fn read_all(&self, node: &Handle, live: Option<&Live>, watch: &Watch) {
        if let Some(file) = &self.keys {
            read_keys_again(file, node).await;
        }
        if let Some(live) = live {
            live.read_again();
        }
        if self.keys.is_none() && watch.files.is_empty() {
            info!(
                event = "hangup",
                "SIGHUP reads the files of keys, tokens and certificates again, and there are none: \
                 BROADCAST_SECRET_KEYS_FILE (--secret-keys-file) and the like name them"
            );
        }
    }
}

/// Whether the program runs in a terminal that is still there.
fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

async fn read_keys_again(file: &Path, node: &Handle) {
    let keys = match envelope::keys_in_file(file) {
        Ok(keys) => keys,
        Err(problem) => return error!("the keys stay as they are: {problem}"),
    };
    let count = keys.len();
    match node.set_keys(keys).await {
        Ok(()) => info!(event = "keys", count, "read the keys again: {count}, of which the first encrypts"),
        Err(error) => error!("the keys stay as they are: {error}"),
    }
}

/// By what it is seen that a file has changed: device, inode, size, and when it was written and changed; nothing of one
/// that is not there.
type Look = Option<[i64; 7]>;

/// Files that may change.
struct Watch {
    files: Vec<PathBuf>,
    /// How they were when they were read.
    read: Vec<Look>,
    /// How they were when they were last looked at.
    seen: Vec<Look>,
}

impl Watch {
    async fn new(files: Vec<PathBuf>) -> Self {
        let mut watch = Self { files, read: Vec::new(), seen: Vec::new() };
        watch.note_read().await;
        watch
    }

    /// They are read now, whether they have changed or not.
    async fn note_read(&mut self) {
        if !self.files.is_empty() {
            self.read = self.look().await;
            self.seen.clone_from(&self.read);
        }
    }

    /// Waits until they have changed, and change no more.
    async fn changed(&mut self) {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK).await;
            let now = self.look().await;
            let is_still = now == self.seen;
            self.seen = now;
            if is_still && self.seen != self.read {
                self.read.clone_from(&self.seen);
                return;
            }
        }
    }

    /// A disk may take its time, and the node goes on meanwhile.
    async fn look(&self) -> Vec<Look> {
        let files = self.files.clone();
        let looked = spawn_blocking(move || files.iter().map(|file| look(file)).collect()).await;
        // It cannot have panicked, nor can anybody abort it.
        looked.unwrap_or_else(|_| self.seen.clone())
    }
}

fn look(file: &Path) -> Look {
    let file = fs::metadata(file).ok()?;
    // A number that is cut off still differs where it did.
    let [device, inode, size] = [file.dev(), file.ino(), file.size()].map(|number| number as i64);
    Some([device, inode, size, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_file_has_changed_when_what_it_leads_to_has_and_stays() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("one"), "1").expect("it is written");
        fs::write(path("two"), "2").expect("it is written");
        std::os::unix::fs::symlink("one", path("link")).expect("it is made");
        let mut watch = Watch::new(vec![path("link"), path("none")]).await;
        assert!(timeout(3 * LOOK, watch.changed()).await.is_err(), "nothing has changed");
        std::os::unix::fs::symlink("two", path("new")).expect("it is made");
        fs::rename(path("new"), path("link")).expect("it is replaced");
        watch.changed().await;
        fs::write(path("none"), "now").expect("it is written");
        watch.changed().await;
        assert_eq!(watch.read, watch.look().await);
        fs::write(path("two"), "22").expect("it is written");
        watch.note_read().await;
        assert!(timeout(3 * LOOK, watch.changed()).await.is_err(), "it was read already");
    }
}
