//! Reloads keys, tokens and certificates while a node runs.
//!
//! SIGHUP makes the node read all files again. Besides, the node polls the files of its HTTP API every [`POLL_INTERVAL`].
//! It reads them again once they have changed and then stayed the same for one interval, because whoever renews a
//! certificate writes two files, one after the other. A symbolic link, as in Kubernetes, changes when its target does. A
//! file of keys is read only on SIGHUP, because the keys of all nodes must change in steps.

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

use super::http_api::ServeConfig;
use crate::settings::envelope;

/// How often files are checked for changes.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How often the log warns that a certificate is about to expire.
const REMIND_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// See the [module](self).
pub(super) struct Reloader {
    keys: Option<PathBuf>,
    hangups: Signal,
    on_terminal: bool,
}

impl Reloader {
    /// Catches SIGHUP from now on.
    pub(super) fn new(keys: Option<PathBuf>) -> io::Result<Self> {
        Ok(Self { keys, hangups: signal(SignalKind::hangup())?, on_terminal: on_terminal() })
    }

    /// Reloads what changes. A terminal that is closed sends SIGHUP, too: then this returns, since nobody could stop the
    /// node otherwise.
    pub(super) async fn run(&mut self, node: &Handle, serving: Option<ServeConfig>) {
        let mut watch = FileWatch::new(serving.as_ref().map(ServeConfig::files).unwrap_or_default()).await;
        let mut reminded = Instant::now();
        loop {
            tokio::select! {
                _ = self.hangups.recv() => {
                    if self.on_terminal && !on_terminal() {
                        return;
                    }
                    watch.note_read().await;
                    self.reload_all(node, serving.as_ref(), &watch).await;
                }
                () = watch.changed() => {
                    if let Some(serving) = &serving {
                        serving.reload();
                    }
                }
                () = sleep(REMIND_INTERVAL.saturating_sub(reminded.elapsed())), if serving.is_some() => {
                    reminded = Instant::now();
                    serving.iter().for_each(ServeConfig::warn_of_expiry);
                }
            }
        }
    }

    async fn reload_all(&self, node: &Handle, serving: Option<&ServeConfig>, watch: &FileWatch) {
        if let Some(file) = &self.keys {
            reload_keys(file, node).await;
        }
        if let Some(serving) = serving {
            serving.reload();
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

/// Whether the program runs in a terminal that is still open.
fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

async fn reload_keys(file: &Path, node: &Handle) {
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

/// What differs when a file has changed: device, inode, size, and the times of the last write and change; nothing if there
/// is no file.
type FileStamp = Option<[i64; 7]>;

/// Polls files for changes.
struct FileWatch {
    files: Vec<PathBuf>,
    /// The stamps when the files were read.
    read: Vec<FileStamp>,
    /// The stamps at the last poll.
    seen: Vec<FileStamp>,
}

impl FileWatch {
    async fn new(files: Vec<PathBuf>) -> Self {
        let mut watch = Self { files, read: Vec::new(), seen: Vec::new() };
        watch.note_read().await;
        watch
    }

    /// Takes note that the files are read now.
    async fn note_read(&mut self) {
        if !self.files.is_empty() {
            self.read = self.stamps().await;
            self.seen.clone_from(&self.read);
        }
    }

    /// Waits until files have changed and then stayed the same for one interval.
    async fn changed(&mut self) {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        loop {
            sleep(POLL_INTERVAL).await;
            let now = self.stamps().await;
            let is_still = now == self.seen;
            self.seen = now;
            if is_still && self.seen != self.read {
                self.read.clone_from(&self.seen);
                return;
            }
        }
    }

    /// The stamps of all files, read on another thread: a slow disk must not hold up the node.
    async fn stamps(&self) -> Vec<FileStamp> {
        let files = self.files.clone();
        let stamps = spawn_blocking(move || files.iter().map(|file| stamp(file)).collect()).await;
        // The task neither panics nor is aborted.
        stamps.unwrap_or_else(|_| self.seen.clone())
    }
}

fn stamp(file: &Path) -> FileStamp {
    let file = fs::metadata(file).ok()?;
    // The cast keeps all bits, and numbers that differ still do.
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
        let mut watch = FileWatch::new(vec![path("link"), path("none")]).await;
        assert!(timeout(3 * POLL_INTERVAL, watch.changed()).await.is_err(), "nothing has changed");
        std::os::unix::fs::symlink("two", path("new")).expect("it is made");
        fs::rename(path("new"), path("link")).expect("it is replaced");
        watch.changed().await;
        fs::write(path("none"), "now").expect("it is written");
        watch.changed().await;
        assert_eq!(watch.read, watch.stamps().await);
        fs::write(path("two"), "22").expect("it is written");
        watch.note_read().await;
        assert!(timeout(3 * POLL_INTERVAL, watch.changed()).await.is_err(), "it was read already");
    }
}
