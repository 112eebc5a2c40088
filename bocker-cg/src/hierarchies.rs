//! Where the controllers are mounted: read from mountinfo (proc_pid_mountinfo(5)), each on its own or several together.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Kind, Result};

use crate::controller::{ALL, Controller};

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// The file system types of the two versions.
const V1: &str = "cgroup";
const V2: &str = "cgroup2";

/// One v1 hierarchy, with those of our controllers that are on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    pub(crate) controllers: Vec<Controller>,
}

/// All v1 hierarchies with a controller of ours, in the order in which groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Reads those of this machine. Fails with [`Kind::Unsupported`] where there is cgroup v2 only.
    pub(crate) fn read() -> Result<Hierarchies> {
        let text = fs::read(MOUNTINFO).doing(|| format!("read {MOUNTINFO}"))?;
        Hierarchies::parse(&String::from_utf8_lossy(&text))
    }

    pub(crate) fn parse(mountinfo: &str) -> Result<Hierarchies> {
        let mut found: Vec<Hierarchy> = Vec::new();
        let mut unified = false;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1));
            unified |= kind == Some(V2);
            let (Some(V1), Some(options)) = (kind, options) else {
                continue;
            };
            let mut left = left.split(' ').skip(3);
            let (Some(root), Some(mount)) = (left.next(), left.next()) else {
                continue;
            };
            // A mount from outside our cgroup namespace shows groups that are not ours to make.
            if root.starts_with("/..") {
                continue;
            }
            let named = |c: &Controller| options.split(',').any(|o| o == c.name());
            let controllers: Vec<Controller> = ALL.into_iter().filter(named).collect();
            // The same hierarchy may be mounted again, over the first one or elsewhere: the last is the visible one.
            found.retain(|h| h.controllers != controllers);
            if !controllers.is_empty() {
                found.push(Hierarchy {
                    mount: unescape(mount),
                    controllers,
                });
            }
        }
        if found.is_empty() && unified {
            return Err(Error::new(
                Kind::Unsupported,
                "this machine has cgroup v2 only, which is not supported yet",
            )
            .hint(
                "leave bocker-cg out of the pipe, or boot with systemd.unified_cgroup_hierarchy=0",
            ));
        }
        found.sort_by(|a, b| a.controllers.cmp(&b.controllers));
        Ok(Hierarchies(found))
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter()
    }

    /// Where a controller is mounted.
    pub(crate) fn of(&self, controller: Controller) -> Option<&Path> {
        let has = |h: &&Hierarchy| h.controllers.contains(&controller);
        self.0.iter().find(has).map(|h| h.mount.as_path())
    }
}

/// Spaces, tabs, line feeds and backslashes stand as octal numbers in mountinfo.
fn unescape(text: &str) -> PathBuf {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let mut text = text.to_owned();
    for (escape, character) in escapes {
        text = text.replace(escape, character);
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_on_its_own_mount() {
        let h = Hierarchies::parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
             33 31 0:30 / /sys/fs/cgroup/cpuacct rw shared:5 master:1 - cgroup cgroup rw,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        )
        .unwrap();
        assert_eq!(h.iter().count(), 3);
        assert_eq!(
            h.of(Controller::Cpuacct),
            Some(Path::new("/sys/fs/cgroup/cpuacct"))
        );
        assert_eq!(
            h.of(Controller::Memory),
            Some(Path::new("/sys/fs/cgroup/memory"))
        );
        assert_eq!(h.of(Controller::Pids), None);
    }

    #[test]
    fn several_controllers_on_one_mount() {
        let h = Hierarchies::parse(
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
        )
        .unwrap();
        let only: Vec<_> = h.iter().collect();
        assert_eq!(only.len(), 1);
        assert_eq!(only[0].controllers, [Controller::Cpu, Controller::Cpuacct]);
        assert_eq!(h.of(Controller::Cpu), h.of(Controller::Cpuacct));
    }

    #[test]
    fn a_name_that_contains_another_is_not_taken_for_it() {
        let h = Hierarchies::parse(
            "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
             34 31 0:31 / /c rw - cgroup cgroup rw,cpuacct\n",
        )
        .unwrap();
        assert_eq!(h.of(Controller::Cpu), None);
    }

    #[test]
    fn of_two_mounts_of_one_hierarchy_the_last_counts_and_foreign_ones_never() {
        let h = Hierarchies::parse(
            "1 1 0:30 / /a rw - cgroup cgroup rw,pids\n\
             2 1 0:30 / /with\\040space rw - cgroup cgroup rw,pids\n\
             3 1 0:30 /../.. /c rw - cgroup cgroup rw,pids\n",
        )
        .unwrap();
        assert_eq!(h.of(Controller::Pids), Some(Path::new("/with space")));
    }

    #[test]
    fn version_2_alone_is_refused_and_no_cgroups_at_all_is_not() {
        let error = Hierarchies::parse("1 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(error.unwrap_err().kind(), &Kind::Unsupported);
        assert_eq!(Hierarchies::parse("garbage\n").unwrap().iter().count(), 0);
    }
}
