//! A private cgroup v1 view for a test: a group of its own in every hierarchy, made the root of `/sys/fs/cgroup`
//! by a cgroup namespace, so that tests that run side by side do not see each other's groups and processes.
//!
//! On v1 one thread can be moved alone (`tasks`), which is what makes this possible inside a test runner.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
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

/// One mounted v1 hierarchy.
#[derive(Debug)]
struct Hierarchy {
    /// Where it is mounted.
    mount: PathBuf,
    /// What `mount -t cgroup -o` takes: `cpu,cpuacct`, or `none,name=systemd`.
    options: String,
    /// The group the thread came from, as a path outside the view.
    outer: PathBuf,
    /// The group that becomes the root of the view, as a path outside it.
    group: PathBuf,
}

/// The groups of one test.
#[derive(Debug)]
pub(crate) struct View {
    hierarchies: Vec<Hierarchy>,
}

impl View {
    /// Makes a group in every v1 hierarchy and moves the calling thread there.
    pub(crate) fn enter() -> View {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let mut view = View {
            hierarchies: Vec::new(),
        };
        for (mount, options, outer) in mounted() {
            for left in left_behind(&outer) {
                for pid in pids(&left) {
                    _ = kill(pid, Signal::SIGKILL);
                }
                remove(&left);
            }
            let group = outer.join(&name);
            fs::create_dir(&group).unwrap_or_else(|e| panic!("mkdir {}: {e}", group.display()));
            // A new cpuset admits nobody until it has been given something.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read_to_string(outer.join(file)) {
                    _ = fs::write(group.join(file), value);
                }
            }
            view.hierarchies.push(Hierarchy {
                mount,
                options,
                outer,
                group,
            });
        }
        for h in &view.hierarchies {
            move_thread(gettid(), &h.group)
                .unwrap_or_else(|e| panic!("enter {}: {e}", h.group.display()));
        }
        view
    }

    /// Mounts every hierarchy anew; in the new cgroup and mount namespaces each shows the test's group as its root.
    pub(crate) fn mount(&self) {
        for h in &self.hierarchies {
            umount2(&h.mount, MntFlags::MNT_DETACH).expect("unmount a cgroup hierarchy");
            mount(
                Some("cgroup"),
                &h.mount,
                Some("cgroup"),
                MsFlags::empty(),
                Some(h.options.as_str()),
            )
            .unwrap_or_else(|e| panic!("mount -t cgroup -o {}: {e}", h.options));
        }
    }

    /// The hierarchies as the test sees them.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|h| h.mount.as_path())
    }

    /// Kills every process of the test and waits until all are gone; called inside the view.
    pub(crate) fn kill(&self) {
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

    /// Moves the thread back, with all that the test has started and not waited for, and removes the groups; called
    /// outside the view.
    pub(crate) fn leave(&self) {
        for h in &self.hierarchies {
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

/// Mount point, options and the calling thread's group of each v1 hierarchy; the first mount of each counts.
fn mounted() -> Vec<(PathBuf, String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let groups = fs::read_to_string("/proc/thread-self/cgroup").expect("/proc/thread-self/cgroup");
    let mut found: Vec<(PathBuf, String, PathBuf)> = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let ([_, _, _, root, mount, ..], ["cgroup", _, options]) = (&left[..], &right[..]) else {
            continue;
        };
        let controllers: Vec<&str> = options
            .split(',')
            .filter(|o| !NOT_CONTROLLERS.contains(o) && !o.starts_with("release_agent="))
            .collect();
        let options = match controllers.iter().any(|c| c.starts_with("name=")) {
            true => format!("none,{}", controllers.join(",")),
            false => controllers.join(","),
        };
        let inside = groups.lines().find_map(|l| {
            let mut fields = l.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            (names == controllers.join(",")).then_some(path)
        });
        let Some(inside) = inside else { continue };
        if found.iter().any(|(_, seen, _)| *seen == options) {
            continue;
        }
        let inside = inside
            .strip_prefix(root.trim_end_matches('/'))
            .unwrap_or(inside);
        let outer = Path::new(mount).join(inside.trim_start_matches('/'));
        found.push((PathBuf::from(*mount), options, outer));
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
