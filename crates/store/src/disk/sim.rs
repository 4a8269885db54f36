//! A folder in memory that keeps apart what was written and what was synced.
//!
//! Every operation that changes something is two steps, before and after its effect, and the process can be told to end
//! at any step: from then on each call fails, until [`SimDisk::reboot`] decides what of the unsynced has reached the disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

/// Disks write whole sectors.
const SECTOR: usize = 512;

/// What of the unsynced is on the disk after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashOutcome {
    /// Nothing: the cache was lost.
    Nothing,
    /// Everything, by luck.
    Everything,
    /// Only the process ended, not the machine: everything can be read, and is as little synced as before.
    ProcessOnly,
    /// Each sector by chance, the last of them perhaps in part; of the names, the first few changes.
    Torn,
}

/// A folder in memory; clones are the same folder.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// A file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    state: Arc<Mutex<State>>,
    inode: usize,
    life: u64,
}

/// Unlocks a [`SimDisk`] when it is dropped.
#[derive(Debug)]
pub struct SimLock {
    state: Arc<Mutex<State>>,
    life: u64,
}

#[derive(Debug)]
enum FileChange {
    Write { offset: usize, bytes: Vec<u8> },
    Grow { length: usize },
}

#[derive(Debug, Default)]
struct Inode {
    synced: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<FileChange>,
}

#[derive(Debug)]
enum NameChange {
    Set(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    life: u64,
    locked: bool,
    steps: u64,
    end_at: Option<u64>,
    ended: bool,
    capacity: Option<u64>,
    fail_syncs: bool,
    syncs: u64,
    random: u64,
}

impl SimDisk {
    /// An empty folder; `seed` decides all that is left to chance.
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State { random: seed, ..State::default() })) }
    }

    /// Ends the process after this many more steps.
    pub fn end_after(&self, steps: u64) {
        let mut state = self.state();
        state.end_at = Some(state.steps + steps);
    }

    /// The steps that were taken so far.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// The syncs of files that succeeded.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Whether the process was ended.
    pub fn ended(&self) -> bool {
        self.state().ended
    }

    /// How many bytes all files can have together; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Whether syncs fail from now on.
    pub fn set_fail_syncs(&self, fail: bool) {
        self.state().fail_syncs = fail;
    }

    /// Ends the process, if it has not ended, and starts the machine again.
    pub fn reboot(&self, crash: CrashOutcome) {
        self.state().reboot(crash);
    }

    /// Changes a byte on the disk, as a failing one does; synced, and unnoticed by who has the file open.
    pub fn flip(&self, name: &str, offset: u64) {
        let mut state = self.state();
        let inode = *state.names.get(name).expect("the test names a file that exists");
        let inode = &mut state.inodes[inode];
        inode.synced[offset as usize] ^= 0x40;
        inode.current[offset as usize] ^= 0x40;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn step(&mut self, life: u64) -> io::Result<()> {
        if self.ended || life != self.life {
            return Err(io::Error::other("the simulated process has ended"));
        }
        self.steps += 1;
        if self.end_at.is_some_and(|end| self.steps >= end) {
            self.ended = true;
            return Err(io::Error::other("the simulated process ends"));
        }
        Ok(())
    }

    fn alive(&self, life: u64) -> io::Result<()> {
        if self.ended || life != self.life {
            return Err(io::Error::other("the simulated process has ended"));
        }
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].current.len() as u64).sum()
    }

    fn room_for(&self, more: usize) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used() + more as u64 > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn next(&mut self) -> u64 {
        // splitmix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn reboot(&mut self, crash: CrashOutcome) {
        if crash != CrashOutcome::ProcessOnly {
            self.lose(crash);
        }
        self.life += 1;
        self.locked = false;
        self.ended = false;
        self.end_at = None;
    }

    fn lose(&mut self, crash: CrashOutcome) {
        for at in 0..self.inodes.len() {
            let pending = std::mem::take(&mut self.inodes[at].pending);
            let mut bytes = std::mem::take(&mut self.inodes[at].synced);
            for change in pending {
                match (crash, change) {
                    (CrashOutcome::Nothing, _) => {}
                    (CrashOutcome::Everything | CrashOutcome::ProcessOnly, change) => change.apply(&mut bytes),
                    (CrashOutcome::Torn, FileChange::Grow { length }) => {
                        if self.next().is_multiple_of(2) {
                            FileChange::Grow { length }.apply(&mut bytes);
                        }
                    }
                    (CrashOutcome::Torn, FileChange::Write { offset, bytes: written }) => {
                        let mut from = 0;
                        while from < written.len() {
                            let to = ((offset + from) / SECTOR * SECTOR + SECTOR - offset).min(written.len());
                            let to_land = match self.next() % 5 {
                                0 | 1 => from,
                                2 => from + self.next() as usize % (to - from + 1),
                                _ => to,
                            };
                            FileChange::Write { offset: offset + from, bytes: written[from..to_land].to_vec() }
                                .apply(&mut bytes);
                            from = to;
                        }
                    }
                }
            }
            self.inodes[at].current = bytes.clone();
            self.inodes[at].synced = bytes;
        }
        let changes = std::mem::take(&mut self.pending_names);
        let landed = match crash {
            CrashOutcome::Nothing => 0,
            CrashOutcome::Everything | CrashOutcome::ProcessOnly => changes.len(),
            CrashOutcome::Torn => self.next() as usize % (changes.len() + 1),
        };
        for change in changes.into_iter().take(landed) {
            change.apply(&mut self.synced_names);
        }
        self.names = self.synced_names.clone();
        // Nobody can reach a file without a name any more; long runs would keep them all.
        let named: Vec<_> = self.names.values().copied().collect();
        for (at, inode) in self.inodes.iter_mut().enumerate() {
            if !named.contains(&at) {
                *inode = Inode::default();
            }
        }
    }
}

impl FileChange {
    fn apply(self, file: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                if bytes.is_empty() {
                    return;
                }
                if file.len() < offset + bytes.len() {
                    file.resize(offset + bytes.len(), 0);
                }
                file[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            Self::Grow { length } => {
                if file.len() < length {
                    file.resize(length, 0);
                }
            }
        }
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, inode) => {
                names.insert(name, inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn name(&self) -> String {
        "simulated".into()
    }

    fn lock(&self) -> io::Result<Option<SimLock>> {
        let mut state = self.state();
        state.alive(state.life)?;
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(SimLock { state: self.state.clone(), life: state.life }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive(state.life)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let state = self.state();
        state.alive(state.life)?;
        Ok(SimFile { state: self.state.clone(), inode: state.find(name)?, life: state.life })
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        let life = state.life;
        state.step(life)?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.into(), inode);
        state.pending_names.push(NameChange::Set(name.into(), inode));
        state.step(life)?;
        Ok(SimFile { state: self.state.clone(), inode, life })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.step(life)?;
        let inode = state.find(from)?;
        state.names.remove(from);
        state.names.insert(to.into(), inode);
        state.pending_names.push(NameChange::Rename(from.into(), to.into()));
        state.step(life)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.step(life)?;
        state.find(name)?;
        state.names.remove(name);
        state.pending_names.push(NameChange::Remove(name.into()));
        state.step(life)
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.step(life)?;
        if state.fail_syncs {
            return Err(io::Error::other("the simulated disk failed"));
        }
        state.synced_names = state.names.clone();
        state.pending_names.clear();
        state.step(life)
    }
}

impl SimFile {
    fn change(&self, change: FileChange) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.step(self.life)?;
        let inode = &state.inodes[self.inode];
        let end = match &change {
            FileChange::Write { offset, bytes } => offset + bytes.len(),
            FileChange::Grow { length } => *length,
        };
        state.room_for(end.saturating_sub(inode.current.len()))?;
        let inode = &mut state.inodes[self.inode];
        let copy = match &change {
            FileChange::Write { offset, bytes } => FileChange::Write { offset: *offset, bytes: bytes.clone() },
            FileChange::Grow { length } => FileChange::Grow { length: *length },
        };
        copy.apply(&mut inode.current);
        inode.pending.push(change);
        state.step(self.life)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = lock(&self.state);
        state.alive(self.life)?;
        let current = &state.inodes[self.inode].current;
        let from = (offset as usize).min(current.len());
        let n = buffer.len().min(current.len() - from);
        buffer[..n].copy_from_slice(&current[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(FileChange::Write { offset: offset as usize, bytes: bytes.to_vec() })
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.step(self.life)?;
        if state.fail_syncs {
            return Err(io::Error::other("the simulated disk failed"));
        }
        let inode = &mut state.inodes[self.inode];
        for change in std::mem::take(&mut inode.pending) {
            change.apply(&mut inode.synced);
        }
        state.syncs += 1;
        state.step(self.life)
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        self.change(FileChange::Grow { length: length as usize })
    }

    fn size(&self) -> io::Result<u64> {
        let state = lock(&self.state);
        state.alive(self.life)?;
        Ok(state.inodes[self.inode].current.len() as u64)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.life == self.life {
            state.locked = false;
        }
    }
}
