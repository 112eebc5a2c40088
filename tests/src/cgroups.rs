//! A private view of the cgroups for a test: a group of its own in every hierarchy, made the root of `/sys/fs/cgroup`
//! by a cgroup namespace, so that tests that run side by side do not see each other's groups and processes.
//!
//! On v1 one thread can be moved alone (`tasks`), which is what makes this possible inside a test runner. On v2 only whole
//! processes can, so the tests of one process have their views one after the other there. For the same reason the tree of v2
//! that is mounted beside v1 is hidden from those that do not ask for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};

/// How long the killed may take to leave their groups.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the names of the tests' groups and folders begin with; the pid of the test follows.
pub(crate) const PREFIX: &str = "bocker-test-";

/// The options of a v1 mount that are not controllers.
const NOT_CONTROLLERS: [&str; 6] = [
    "rw",
    "ro",
    "xattr",
    "clone_children",
    "noprefix",
    "cpuset_v2_mode",
];

/// Where the only hierarchy of version 2 is mounted.
const UNIFIED: &str = "/sys/fs/cgroup";

/// Where that is mounted beside those of version 1 (systemd's hybrid layout).
const BESIDE_V1: &str = "/sys/fs/cgroup/unified";

/// The group of version 2 in which a test itself is: one that has children with controllers may hold no process, unless
/// it is the root of all, and the root of a view is not.
const LEAF: &str = "test";

/// Held by the thread whose view the process has on v2.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The folder of the hierarchy that counts processes, as a test sees it.
#[must_use]
pub fn pids_hierarchy() -> &'static str {
    let own = "/sys/fs/cgroup/pids";
    if Path::new(own).exists() {
        own
    } else {
        UNIFIED
    }
}

/// The two interfaces of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn file_system(self) -> &'static str {
        match self {
            Version::V1 => "cgroup",
            Version::V2 => "cgroup2",
        }
    }
}

/// One mounted hierarchy.
#[derive(Debug)]
struct Hierarchy {
    version: Version,
    /// Where it is mounted.
    mount: PathBuf,
    /// What `mount -o` takes: `cpu,cpuacct`, or `none,name=systemd`; on v2 nothing.
    options: String,
    /// The group the thread came from, as a path outside the view.
    outer: PathBuf,
    /// The group that becomes the root of the view, as a path outside it.
    group: PathBuf,
}

impl Hierarchy {
    /// Moves the calling thread into a group, on v2 with all other threads of its process.
    fn enter(&self, group: &Path) -> std::io::Result<()> {
        match self.version {
            Version::V1 => move_thread(gettid(), group),
            Version::V2 => fs::write(group.join("cgroup.procs"), std::process::id().to_string()),
        }
    }
}

/// The groups of one test.
#[derive(Debug)]
pub(crate) struct View {
    hierarchies: Vec<Hierarchy>,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// Whether this machine has the tree of v2 beside those of v1.
pub(crate) fn is_hybrid() -> bool {
    let found = mounted(true);
    [Version::V1, Version::V2]
        .iter()
        .all(|version| found.iter().any(|h| h.version == *version))
}

impl View {
    /// Makes a group in every hierarchy and moves the calling thread there, on v2 its process. `hybrid` says whether the tree
    /// of v2 beside v1 is one of them.
    pub(crate) fn enter(hybrid: bool) -> View {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let turn = mounted(hybrid)
            .iter()
            .any(|h| h.version == Version::V2)
            .then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
        // Another's turn may have ended meanwhile, and the process is where it was before.
        let found = mounted(hybrid);
        let mut hierarchies = Vec::new();
        for mut h in found {
            // Where groups with controllers can be made: on v2, not beside processes.
            let parent = match h.version {
                Version::V1 => &h.outer,
                Version::V2 => &h.mount,
            };
            for left in left_behind(parent) {
                for pid in pids(&left) {
                    _ = kill(pid, Signal::SIGKILL);
                }
                remove(&left);
            }
            h.group = parent.join(&name);
            fs::create_dir(&h.group).unwrap_or_else(|e| panic!("mkdir {}: {e}", h.group.display()));
            match h.version {
                Version::V1 => admit(parent, &h.group),
                Version::V2 if h.mount == Path::new(UNIFIED) => delegate(parent),
                Version::V2 => {}
            }
            hierarchies.push(h);
        }
        for h in &hierarchies {
            h.enter(&h.group)
                .unwrap_or_else(|e| panic!("enter {}: {e}", h.group.display()));
        }
        View {
            hierarchies,
            _turn: turn,
        }
    }

    /// Mounts every hierarchy anew; in the new cgroup and mount namespaces each shows the test's group as its root.
    pub(crate) fn mount(&self) {
        if self.hierarchies.iter().all(|h| h.version == Version::V1) {
            // crun makes folders in its place.
            if umount2(BESIDE_V1, MntFlags::MNT_DETACH).is_ok() {
                let none = None::<&str>;
                mount(
                    Some("tmpfs"),
                    BESIDE_V1,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    none,
                )
                .expect("an empty folder");
            }
        }
        for h in &self.hierarchies {
            umount2(&h.mount, MntFlags::MNT_DETACH).expect("unmount a cgroup hierarchy");
            let kind = h.version.file_system();
            mount(
                Some(kind),
                &h.mount,
                Some(kind),
                MsFlags::empty(),
                Some(h.options.as_str()),
            )
            .unwrap_or_else(|e| panic!("mount -t {kind} -o '{}': {e}", h.options));
            if h.version == Version::V2 {
                let leaf = h.mount.join(LEAF);
                fs::create_dir(&leaf)
                    .and_then(|()| h.enter(&leaf))
                    .unwrap_or_else(|e| panic!("enter {}: {e}", leaf.display()));
            }
        }
    }

    /// The hierarchies as the test sees them.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|h| h.mount.as_path())
    }

    /// Kills every process of the test and waits until all are gone; called inside the view.
    pub(crate) fn kill(&self) {
        // All at once, as when the power goes: none sees the end of another and does something about it.
        for pid in self.mounts().flat_map(pids) {
            _ = kill(pid, Signal::SIGSTOP);
        }
        until(|| {
            let mut gone = true;
            for mount in self.mounts() {
                for pid in pids(mount) {
                    gone = false;
                    _ = kill(pid, Signal::SIGKILL);
                }
                thaw(mount);
            }
            gone
        });
    }

    /// Removes the groups that were made in it; called inside the view, when no process is left in them.
    pub(crate) fn clear(&self) {
        until(|| {
            self.mounts()
                .flat_map(children)
                .filter(|group| !group.ends_with(LEAF))
                .all(|group| remove(&group))
        });
    }

    /// Moves the thread back, with all that the test has started and not waited for, and removes the groups; called
    /// outside the view.
    pub(crate) fn leave(&self) {
        for h in &self.hierarchies {
            if h.version == Version::V2
                && let Err(e) = h.enter(&h.outer)
            {
                eprintln!("enter {}: {e}", h.outer.display());
            }
            for thread in own_threads(&h.group) {
                // It may just have ended.
                _ = move_thread(thread, &h.outer);
            }
        }
        until(|| {
            let removed = self.hierarchies.iter().filter(|h| remove(&h.group));
            removed.count() == self.hierarchies.len()
        });
    }
}

/// Tries until it worked or nobody believes in it any more.
fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            eprintln!("processes of the test could not be killed; its cgroups stay");
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The processes in a group and in all beneath it, but for the test itself.
pub(crate) fn pids(group: &Path) -> Vec<Pid> {
    let me = std::process::id().cast_signed();
    let mut found: Vec<Pid> = fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        .filter(|pid| *pid != me)
        .map(Pid::from_raw)
        .collect();
    for child in children(group) {
        found.extend(pids(&child));
    }
    found
}

/// The groups right beneath one.
pub(crate) fn children(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// A frozen process does not die.
fn thaw(group: &Path) {
    let state = group.join("freezer.state");
    if state.exists() {
        _ = fs::write(state, "THAWED");
    }
    for child in children(group) {
        thaw(&child);
    }
}

fn remove(group: &Path) -> bool {
    for child in children(group) {
        remove(&child);
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}

/// A new cpuset of v1 admits nobody until it has been given something.
fn admit(parent: &Path, group: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read_to_string(parent.join(file)) {
            _ = fs::write(group.join(file), value);
        }
    }
}

/// Gives the children of a group of v2 all the controllers that it has, as systemd does at the root. In a container, whose
/// processes are at what it sees as the root, the kernel refuses.
fn delegate(group: &Path) {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        _ = fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

fn move_thread(thread: Pid, group: &Path) -> std::io::Result<()> {
    fs::write(group.join("tasks"), thread.to_string())
}

/// The threads of this process that are in a group.
fn own_threads(group: &Path) -> Vec<Pid> {
    fs::read_to_string(group.join("tasks"))
        .unwrap_or_default()
        .lines()
        .filter(|tid| Path::new("/proc/self/task").join(tid).exists())
        .filter_map(|tid| tid.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// The mounted hierarchies, without a group of the test's yet: those of v1 with their controllers, each once; that of v2 where
/// there is none, or beside them if it is wanted.
fn mounted(hybrid: bool) -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let groups = fs::read_to_string("/proc/thread-self/cgroup").expect("/proc/thread-self/cgroup");
    // The calling thread's group in the hierarchy with these controllers, seen through a mount of `root`.
    let own = |controllers: &str, root: &str, mount: &str| {
        let inside = groups.lines().find_map(|l| {
            let mut fields = l.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            (names == controllers).then_some(path)
        })?;
        let inside = inside
            .strip_prefix(root.trim_end_matches('/'))
            .unwrap_or(inside);
        Some(Path::new(mount).join(inside.trim_start_matches('/')))
    };
    let mut found: Vec<Hierarchy> = Vec::new();
    let (mut unified, mut beside) = (None, None);
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let ([_, _, _, root, mount, ..], [kind, _, options]) = (&left[..], &right[..]) else {
            continue;
        };
        let hierarchy = |version, options, outer| Hierarchy {
            version,
            mount: mount.into(),
            options,
            outer,
            group: PathBuf::new(),
        };
        if *kind == "cgroup2" && [UNIFIED, BESIDE_V1].contains(mount) {
            let tree =
                own("", root, mount).map(|outer| hierarchy(Version::V2, String::new(), outer));
            match *mount == UNIFIED {
                true => unified = tree,
                false => beside = tree,
            }
        }
        if *kind != "cgroup" {
            continue;
        }
        let controllers: Vec<&str> = options
            .split(',')
            .filter(|o| !NOT_CONTROLLERS.contains(o) && !o.starts_with("release_agent="))
            .collect();
        let controllers = controllers.join(",");
        let Some(outer) = own(&controllers, root, mount) else {
            continue;
        };
        let options = match controllers.contains("name=") {
            true => format!("none,{controllers}"),
            false => controllers,
        };
        if !found.iter().any(|seen| seen.options == options) {
            found.push(hierarchy(Version::V1, options, outer));
        }
    }
    match found.is_empty() {
        true => found.extend(unified),
        false => found.extend(beside.filter(|_| hybrid)),
    }
    found
}

/// What tests that were killed have left in a folder: the names say whose it was.
pub(crate) fn left_behind(folder: &Path) -> Vec<PathBuf> {
    let is_left = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str());
        let pid = name.and_then(|n| n.strip_prefix(PREFIX)?.split('-').next());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    let mut found = children(folder);
    found.retain(is_left);
    found
}
