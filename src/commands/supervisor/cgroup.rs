//! A control group (cgroup v2) for a command and everything it starts. `cgroup.kill` ends all of it at once, however it
//! forks and whoever its parent is now. Few users may make a group: root, mostly outside of containers, and users to whom
//! a part of the tree is delegated.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

/// A control group for one command. Dropping this removes the group; processes that still run in it move to the group where
/// they would be without it.
#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group; nothing, if that is not possible here.
    pub(super) fn new() -> Option<Self> {
        let read = |file| fs::read_to_string(file).ok();
        let own = own_folder(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?;
        let group = own.join(format!("broadcast-lock-{}", process::id()));
        fs::create_dir(&group).ok()?;
        let group = Self(group);
        // Since Linux 5.14.
        group.0.join("cgroup.kill").exists().then_some(group)
    }

    /// Takes over the group in a folder, from a supervisor that is gone.
    pub(super) fn adopt(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Moves this process into the group of a folder. What it starts later is in it, too.
    pub(super) fn join(folder: &Path) -> io::Result<()> {
        fs::write(folder.join("cgroup.procs"), "0")
    }

    /// Whether nothing runs in the group of a folder and in the groups below, as far as is known.
    pub(super) fn is_empty(folder: &Path) -> bool {
        let events = fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
        !events.lines().any(|line| line == "populated 1")
    }

    /// Sends SIGKILL to everything in the group of a folder.
    pub(super) fn kill(folder: &Path) {
        // If this fails, the processes are killed one by one.
        let _ = fs::write(folder.join("cgroup.kill"), "1");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if remove(&self.0).is_ok() {
            return;
        }
        let left = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        if let Some(parent) = self.0.parent() {
            for process in left.lines() {
                let _ = fs::write(parent.join("cgroup.procs"), process);
            }
        }
        // Fails if the group has groups below it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes a group and those below: of nested locks, whose supervisors were killed with it.
fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // A group that is in use stays, and so does this one.
            let _ = remove(&entry.path());
        }
    }
    fs::remove_dir(folder)
}

/// Finds the folder of this process's group in /proc/self/mountinfo and /proc/self/cgroup.
fn own_folder(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        filesystem.starts_with("cgroup2 ").then_some(())?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        // A path outside of the mount begins with `..`.
        let within = Path::new(own).strip_prefix(root).ok()?;
        (!within.starts_with("..")).then(|| Path::new(at).join(within))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_where_it_is_mounted() {
        let mounts = "30 24 0:26 / /sys rw - sysfs sysfs rw\n\
            36 30 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            37 30 0:33 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let groups = "9:name=systemd:/\n1:cpu:/a\n0::/user.slice/a.scope\n";
        let expected = "/sys/fs/cgroup/unified/user.slice/a.scope";
        assert_eq!(own_folder(mounts, groups).as_deref(), Some(Path::new(expected)));
        let at = own_folder("37 30 0:33 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "0::/\n");
        assert_eq!(at.as_deref(), Some(Path::new("/sys/fs/cgroup/")));
        let part = "37 30 0:33 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(own_folder(part, "0::/docker/1/x\n").as_deref(), Some(Path::new("/sys/fs/cgroup/x")));
        assert_eq!(own_folder(part, "0::/else\n"), None);
        assert_eq!(own_folder(part, "0::/docker/1/../2\n"), None);
        assert_eq!(own_folder(mounts, "1:cpu:/a\n"), None, "version 1 alone");
    }
}
