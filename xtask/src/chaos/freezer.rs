//! Freezing a process by its control group: unlike a stop, it cannot notice even afterwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::wall;

/// Where control groups are, and how one is frozen there.
#[derive(Clone, Debug)]
pub(crate) struct Freezer {
    root: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    One,
    Two,
}

impl Freezer {
    /// Among what is mounted; the second version first, since what is frozen by it can be killed.
    pub(crate) fn find(mounts: &str) -> Option<Self> {
        let mounted = |kind: &'static str, option: &'static str| {
            mounts.lines().find_map(move |line| {
                let words: Vec<&str> = line.split(' ').collect();
                let [_, at, found, options, ..] = words[..] else { return None };
                let fits =
                    found == kind && (option.is_empty() || options.split(',').any(|o| o == option));
                fits.then(|| PathBuf::from(at))
            })
        };
        let two = mounted("cgroup2", "").map(|root| Self { root, version: Version::Two });
        let one = || mounted("cgroup", "freezer").map(|root| Self { root, version: Version::One });
        two.or_else(one)
    }

    /// Freezes a process, in a group of this name.
    pub(crate) fn freeze(&self, name: &str, process: u32) -> Result<Frozen, String> {
        let group = self.root.join(name);
        fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
        let home = self.group_of(process);
        let frozen = Frozen { freezer: self.clone(), group, home, process };
        write(&frozen.group.join("cgroup.procs"), &process.to_string())?;
        self.set(&frozen.group, true)?;
        for _ in 0..100 {
            if self.is_frozen(&frozen.group) {
                return Ok(frozen);
            }
            wall::pause(10);
        }
        Err(format!("{} does not freeze", frozen.group.display()))
    }

    /// Removes the groups of runs that are over, and lets go of whoever is in one. A group's name
    /// begins with [`GROUP`] and the number of the process that made it.
    pub(crate) fn remove_groups(&self, is_over: impl Fn(u32) -> bool) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !owner(&name).is_some_and(&is_over) {
                continue;
            }
            // What cannot be done now is done by the next run.
            drop(self.set(&entry.path(), false));
            let inside = fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
            for process in inside.lines() {
                drop(write(&self.root.join("cgroup.procs"), process));
            }
            remove(&entry.path());
        }
    }

    fn set(&self, group: &Path, frozen: bool) -> Result<(), String> {
        match (self.version, frozen) {
            (Version::One, true) => write(&group.join("freezer.state"), "FROZEN"),
            (Version::One, false) => write(&group.join("freezer.state"), "THAWED"),
            (Version::Two, true) => write(&group.join("cgroup.freeze"), "1"),
            (Version::Two, false) => write(&group.join("cgroup.freeze"), "0"),
        }
    }

    fn is_frozen(&self, group: &Path) -> bool {
        let (file, text) = match self.version {
            Version::One => ("freezer.state", "FROZEN"),
            Version::Two => ("cgroup.events", "frozen 1"),
        };
        fs::read_to_string(group.join(file)).is_ok_and(|found| found.contains(text))
    }

    /// The group in which a process is.
    fn group_of(&self, process: u32) -> PathBuf {
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
        let path = groups.lines().find_map(|line| match self.version {
            Version::One => line.split_once(":freezer:").map(|(_, path)| path),
            Version::Two => line.strip_prefix("0::"),
        });
        self.root.join(path.unwrap_or_default().trim_start_matches('/'))
    }
}

/// A frozen process; it goes on when this is dropped.
pub(crate) struct Frozen {
    freezer: Freezer,
    group: PathBuf,
    home: PathBuf,
    process: u32,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.freezer.set(&self.group, false));
        // If it has ended meanwhile, the group is empty as it is.
        drop(write(&self.home.join("cgroup.procs"), &self.process.to_string()));
        remove(&self.group);
    }
}

/// A group can be removed only once the processes in it have quite ended.
fn remove(group: &Path) {
    for _ in 0..100 {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => wall::pause(20),
            // Gone, or not ours to remove.
            _ => return,
        }
    }
}

/// The process whose run made a group.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(GROUP)?.split('-').next()?.parse().ok()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

pub(crate) const GROUP: &str = "kontiki-chaos-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_freezer_is_found_among_what_is_mounted() {
        let one = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                   cgroup /sys/fs/cgroup/freezer cgroup rw,relatime,freezer 0 0\n";
        let found = Freezer::find(one).unwrap();
        assert_eq!(
            (found.root.to_str(), found.version),
            (Some("/sys/fs/cgroup/freezer"), Version::One)
        );
        let both = format!("{one}cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n");
        assert_eq!(Freezer::find(&both).unwrap().version, Version::Two);
        assert!(Freezer::find("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n").is_none());
    }

    #[test]
    fn a_group_says_whose_run_made_it() {
        assert_eq!(owner("kontiki-chaos-5-n0"), Some(5));
        assert_eq!(owner("kontiki-chaos-x"), None);
        assert_eq!(owner("system.slice"), None);
    }

    #[test]
    fn only_groups_of_runs_that_are_over_are_touched() {
        let root = tempfile::tempdir().unwrap();
        let freezer = Freezer { root: root.path().to_owned(), version: Version::Two };
        let names = ["kontiki-chaos-5-n0", "kontiki-chaos-6-n0", "system.slice"];
        for name in names {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        freezer.remove_groups(|process| process == 5);
        // In a real group the files are the kernel's; here, thawing one makes one.
        let thawed = names.map(|name| root.path().join(name).join("cgroup.freeze").exists());
        assert_eq!(thawed, [true, false, false]);
    }
}
