//! Where the controllers are: read from mountinfo (proc_pid_mountinfo(5)). On v1 they are on mounts of their own or several
//! together; on v2 all are in one tree. The rule is runc's: v2 if it is what is mounted at /sys/fs/cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Id, Result};

use crate::controller::{ALL, Controller};
use crate::{supervisors, unified};

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Where cgroups are mounted by convention (file-hierarchy(7)).
const DEFAULT_MOUNT: &str = "/sys/fs/cgroup";
/// The file system types of the two versions (cgroups(7)).
const V1: &str = "cgroup";
const V2: &str = "cgroup2";

/// A version of the kernel's cgroup interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Version {
    /// As the document and `info` have it.
    pub(crate) fn number(self) -> u64 {
        match self {
            Version::V1 => 1,
            Version::V2 => 2,
        }
    }
}

/// One hierarchy, with those of our controllers that are on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    /// The folder in which the groups of containers are.
    pub(crate) parent: PathBuf,
    pub(crate) controllers: Vec<Controller>,
}

/// All hierarchies of one version with a controller of ours, in the order in which groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    version: Version,
    found: Vec<Hierarchy>,
    /// Where the others are mounted, that of v2 among them when v1 is what is used.
    others: Vec<PathBuf>,
}

impl Hierarchies {
    /// Reads those of this machine.
    pub(crate) fn read() -> Result<Hierarchies> {
        let text = fs::read(MOUNTINFO).doing(|| format!("read {MOUNTINFO}"))?;
        let mounts = Mounts::parse(&String::from_utf8_lossy(&text));
        let hierarchies = match mounts.unified() {
            Some(mount) => Hierarchies::v2(mount, &unified::available(mount)?),
            None => Hierarchies::v1(mounts.v1.clone()),
        };
        Ok(hierarchies.beside(&mounts))
    }

    fn v1(mut found: Vec<Hierarchy>) -> Hierarchies {
        found.sort_by(|a, b| a.controllers.cmp(&b.controllers));
        Hierarchies {
            version: Version::V1,
            found,
            others: Vec::new(),
        }
    }

    /// With the others of these mounts.
    fn beside(mut self, mounts: &Mounts) -> Hierarchies {
        let trees = mounts.trees.iter();
        let trees = trees.filter(|tree| !(tree.is_v2 && self.version == Version::V2));
        let is_found = |mount: &PathBuf| self.found.iter().any(|h| h.mount == *mount);
        let others = trees.map(|tree| tree.mount.clone());
        self.others = others.filter(|mount| !is_found(mount)).collect();
        self
    }

    /// Where supervisors live: a group in every hierarchy.
    pub(crate) fn supervisors(&self) -> Vec<PathBuf> {
        let of = |h: &Hierarchy| match self.version {
            Version::V1 => h.parent.join(supervisors::ALONE),
            Version::V2 => h.parent.join(supervisors::BESIDE),
        };
        let others = self
            .others
            .iter()
            .map(|mount| mount.join(supervisors::ALONE));
        self.found.iter().map(of).chain(others).collect()
    }

    /// Of the tree mounted there, whose root has those controllers to give.
    fn v2(mount: &Path, available: &str) -> Hierarchies {
        let has = |c: &Controller| match c {
            // Counted with cpu.
            Controller::Cpuacct => false,
            // Part of every group, and of no controller.
            Controller::Devices | Controller::Freezer => true,
            c => available.split_whitespace().any(|name| name == c.name()),
        };
        Hierarchies {
            version: Version::V2,
            found: vec![Hierarchy {
                mount: mount.to_owned(),
                parent: mount.join(unified::PARENT),
                controllers: ALL.into_iter().filter(has).collect(),
            }],
            others: Vec::new(),
        }
    }

    /// Those that a mountinfo shows, with all controllers on a v2 tree.
    #[cfg(test)]
    pub(crate) fn parse(mountinfo: &str) -> Hierarchies {
        let mounts = Mounts::parse(mountinfo);
        let hierarchies = match mounts.unified() {
            Some(mount) => Hierarchies::v2(mount, "cpuset cpu io memory pids"),
            None => Hierarchies::v1(mounts.v1.clone()),
        };
        hierarchies.beside(&mounts)
    }

    /// The version that is used.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Hierarchy> {
        self.found.iter()
    }

    /// The hierarchy that has a controller.
    fn with(&self, controller: Controller) -> Option<&Hierarchy> {
        self.iter().find(|h| h.controllers.contains(&controller))
    }

    /// Where the hierarchy with a controller is mounted.
    pub(crate) fn mount_of(&self, controller: Controller) -> Option<&Path> {
        self.with(controller).map(|h| h.mount.as_path())
    }

    /// The folder in which containers' groups of a controller are.
    pub(crate) fn of(&self, controller: Controller) -> Option<&Path> {
        self.with(controller).map(|h| h.parent.as_path())
    }

    /// An id's group below each mount.
    pub(crate) fn path(&self, id: &Id) -> String {
        match self.version {
            Version::V1 => format!("/{id}"),
            Version::V2 => format!("/{}/{id}", unified::PARENT),
        }
    }
}

/// The mounts of cgroups.
#[derive(Default)]
struct Mounts {
    v1: Vec<Hierarchy>,
    /// Of v2, there is one tree; these are its mounts.
    v2: Vec<PathBuf>,
    /// Every hierarchy once, whatever is on it.
    trees: Vec<Tree>,
}

/// A mounted hierarchy.
struct Tree {
    /// By which it is told from others, wherever it is mounted.
    device: String,
    mount: PathBuf,
    is_v2: bool,
}

impl Mounts {
    fn parse(mountinfo: &str) -> Mounts {
        let mut mounts = Mounts::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut left = left.split(' ').skip(2);
            let (Some(device), Some(root), Some(mount)) = (left.next(), left.next(), left.next())
            else {
                continue;
            };
            let mut right = right.split(' ');
            let (Some(kind), options) = (right.next(), right.nth(1)) else {
                continue;
            };
            let mount = unescape(mount);
            // What is mounted over another is what is seen.
            mounts.v2.retain(|covered| *covered != mount);
            mounts.trees.retain(|tree| tree.mount != mount);
            // A mount from outside our cgroup namespace shows groups that are not ours to make.
            if root.starts_with("/..") {
                continue;
            }
            if [V1, V2].contains(&kind) {
                mounts.trees.retain(|tree| tree.device != device);
                mounts.trees.push(Tree {
                    device: device.to_owned(),
                    mount: mount.clone(),
                    is_v2: kind == V2,
                });
            }
            match kind {
                V1 => mounts.add_v1(mount, options.unwrap_or_default()),
                V2 => mounts.v2.push(mount),
                _ => {}
            }
        }
        mounts
    }

    fn add_v1(&mut self, mount: PathBuf, options: &str) {
        let named = |c: &Controller| options.split(',').any(|o| o == c.name());
        let controllers: Vec<Controller> = ALL.into_iter().filter(named).collect();
        // The same hierarchy may be mounted again, over the first one or elsewhere: the last is the visible one.
        self.v1.retain(|h| h.controllers != controllers);
        if !controllers.is_empty() {
            self.v1.push(Hierarchy {
                parent: mount.clone(),
                mount,
                controllers,
            });
        }
    }

    /// Where the tree of v2 is, if that is what is to be used: by convention, or because there is nothing else.
    fn unified(&self) -> Option<&Path> {
        let by_convention = self.v2.iter().find(|m| *m == Path::new(DEFAULT_MOUNT));
        by_convention
            .or_else(|| self.v2.last().filter(|_| self.v1.is_empty()))
            .map(PathBuf::as_path)
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
        );
        assert_eq!((h.version(), h.iter().count()), (Version::V1, 3));
        assert_eq!(
            h.of(Controller::Cpuacct),
            Some(Path::new("/sys/fs/cgroup/cpuacct"))
        );
        assert_eq!(
            h.of(Controller::Memory),
            Some(Path::new("/sys/fs/cgroup/memory"))
        );
        assert_eq!(h.of(Controller::Pids), None);
        let groups = ["cpu", "cpuacct", "memory", "systemd", "unified"];
        let groups = groups.map(|name| format!("/sys/fs/cgroup/{name}/bocker-supervisors").into());
        assert_eq!(h.supervisors(), groups.map(|group: PathBuf| group));
        assert_eq!(h.path(&Id::placeholder()), "/ps_dryrun");
    }

    #[test]
    fn several_controllers_on_one_mount() {
        let h = Hierarchies::parse(
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
        );
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
        );
        assert_eq!(h.of(Controller::Cpu), None);
    }

    #[test]
    fn of_two_mounts_of_one_hierarchy_the_last_counts_and_foreign_ones_never() {
        let h = Hierarchies::parse(
            "1 1 0:30 / /a rw - cgroup cgroup rw,pids\n\
             2 1 0:30 / /with\\040space rw - cgroup cgroup rw,pids\n\
             3 1 0:30 /../.. /c rw - cgroup cgroup rw,pids\n",
        );
        assert_eq!(h.of(Controller::Pids), Some(Path::new("/with space")));
    }

    #[test]
    fn version_2_is_used_where_it_is_mounted_by_convention_or_alone() {
        let v1 = "2 1 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let v2 = "3 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let aside = "3 1 0:30 / /mnt/cgroup2 rw - cgroup2 cgroup2 rw\n";
        let covering = "4 3 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n";
        let version = |lines: &[&str]| Hierarchies::parse(&lines.concat()).version();
        assert_eq!(version(&[v2]), Version::V2);
        assert_eq!(version(&[v1, v2]), Version::V2);
        assert_eq!(version(&[aside]), Version::V2);
        assert_eq!(version(&[v1, aside]), Version::V1);
        assert_eq!(version(&[v2, covering, v1]), Version::V1);
        assert_eq!(version(&["garbage\n"]), Version::V1);
        assert_eq!(Hierarchies::parse("garbage\n").iter().count(), 0);
    }

    #[test]
    fn version_2_is_one_tree_with_all_of_a_containers_controllers() {
        let h = Hierarchies::parse("3 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(h.iter().count(), 1);
        for controller in ALL {
            let expected =
                (controller != Controller::Cpuacct).then_some(Path::new("/sys/fs/cgroup/bocker"));
            assert_eq!(h.of(controller), expected, "{controller:?}");
        }
        assert_eq!(h.path(&Id::placeholder()), "/bocker/ps_dryrun");
        assert_eq!(
            h.supervisors(),
            [Path::new("/sys/fs/cgroup/bocker/supervisors")]
        );
        let few = Hierarchies::v2(Path::new("/c"), "hugetlb pids\n");
        assert_eq!(few.of(Controller::Memory), None);
        assert_eq!(few.of(Controller::Pids), Some(Path::new("/c/bocker")));
    }
}
