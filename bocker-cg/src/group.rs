//! One container's group in each hierarchy: made, filled in, emptied, removed.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Id, Kind, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::controller::{Controller, Setting};
use crate::hierarchies::Hierarchies;
use crate::{bpf, events, freezer};

/// In every group: the processes in it. bocker-spawn writes the container's here.
pub(crate) const PROCS: &str = "cgroup.procs";
/// On v2 since Linux 5.14: what is written kills all processes in the group and beneath it, those that fork included.
pub(crate) const KILL: &str = "cgroup.kill";

/// How long the last processes may take to leave. A killed one goes when its memory has been freed.
const EMPTY_WAIT: Duration = Duration::from_secs(10);
/// How long rmdir(2) is tried again: the kernel answers EBUSY while the dead are being buried.
const REMOVE_WAIT: Duration = Duration::from_secs(2);
/// How many links a group without groups beneath has, its name and its `.` (kernfs counts as Unix always did).
const LEAF_LINKS: u64 = 2;
const TICK: Duration = Duration::from_millis(1);

/// Where the id's group is in each hierarchy.
pub(crate) fn all(hierarchies: &Hierarchies, id: &Id) -> Vec<PathBuf> {
    hierarchies.iter().map(|h| h.parent.join(id)).collect()
}

/// The command that makes a group.
pub(crate) fn mkdir_command(group: &Path) -> String {
    format!("mkdir {}", quote(&group.display().to_string()))
}

/// Makes a group. Fails with [`Kind::Exists`] when there is one.
pub(crate) fn make(group: &Path) -> Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::new(
            Kind::Exists,
            format!("{} exists already", group.display()),
        )
        .hint("is the container running? If not, remove it with 'bocker-cg gc --grace 0'")),
        result => result.doing(|| format!("make {}", group.display())),
    }
}

/// Sets what is to be set in a group.
pub(crate) fn set(group: &Path, settings: &[Setting]) -> Result<()> {
    for setting in settings {
        match setting {
            Setting::Write { file, value } => {
                let path = group.join(file);
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .and_then(|mut file| file.write_all(value.as_bytes()))
                    .doing(|| format!("write {value} to {}", path.display()))?;
            }
            Setting::Attach(filter) => bpf::attach(group, filter)?,
        }
    }
    Ok(())
}

/// Until when a group that is removed now has to be gone.
pub(crate) fn removed_by() -> Instant {
    Instant::now() + REMOVE_WAIT
}

/// Removes a group and what is beneath it. Already gone is success.
pub(crate) fn remove(top: &Path) -> Result<()> {
    remove_by(top, removed_by())
}

/// The same, where others have been waited for before it.
pub(crate) fn remove_by(top: &Path, deadline: Instant) -> Result<()> {
    loop {
        // Deepest first. A container with the right to mount may have made groups in its own.
        let result = tree(top).iter().rev().try_for_each(fs::remove_dir);
        match result {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound && !top.exists() => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).doing(|| format!("remove {}", top.display()));
            }
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                wait(&[top.to_owned()], deadline);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing(|| format!("remove {}", top.display())),
        }
    }
}

/// A group and all beneath it, each before those beneath it; nothing when it is not there.
pub(crate) fn tree(top: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = vec![top.to_owned()];
    let mut next = 0;
    while let Some(group) = found.get(next) {
        next += 1;
        match fs::metadata(group) {
            Err(_) if next == 1 => return Vec::new(),
            // Nearly always there is nothing beneath, and then the two links are a directory's own.
            Ok(data) if data.nlink() == LEAF_LINKS => continue,
            _ => {}
        }
        let entries = fs::read_dir(group).into_iter().flatten().flatten();
        let beneath: Vec<PathBuf> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(beneath);
    }
    found
}

/// The processes in groups and beneath them.
pub(crate) fn processes(groups: &[PathBuf]) -> Vec<Pid> {
    let mut pids: Vec<i32> = groups
        .iter()
        .flat_map(|group| tree(group))
        .filter_map(|group| fs::read_to_string(group.join(PROCS)).ok())
        .flat_map(|text| {
            let pids: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
            pids
        })
        // 0 is a process that our pid namespace does not show; to kill(2) it would mean ourselves.
        .filter(|pid| *pid > 0)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().map(Pid::from_raw).collect()
}

/// Whether nothing is left in groups and beneath them.
pub(crate) fn are_empty(groups: &[PathBuf]) -> bool {
    // On v2 the kernel says so, of processes that cannot be listed too (those of a threaded group).
    let populated = |group: &PathBuf| events::says(group, events::EMPTY) == Some(false);
    !groups.iter().any(populated) && processes(groups).is_empty()
}

/// Waits for a change in groups that are about to become empty: on v2 until they are, on v1 for a moment.
pub(crate) fn wait(groups: &[PathBuf], deadline: Instant) {
    let populated = groups
        .iter()
        .find(|group| events::says(group, events::EMPTY) == Some(false));
    match populated {
        Some(group) => {
            events::wait_for(group, events::EMPTY, deadline);
        }
        None => thread::sleep(TICK),
    }
}

/// Kills everything in the id's groups and waits until they are empty.
pub(crate) fn kill_all(hierarchies: &Hierarchies, id: &Id) -> Result<()> {
    let groups = all(hierarchies, id);
    let deadline = Instant::now() + EMPTY_WAIT;
    while !are_empty(&groups) {
        // On v2 one group has everything. Kernels before 5.14 lack the file.
        let at_once = groups
            .iter()
            .any(|group| set(group, &[Setting::new(KILL, 1)]).is_ok());
        if !at_once {
            kill_each(hierarchies, id, &groups);
        }
        if Instant::now() >= deadline {
            let left = processes(&groups).len();
            return Err(Error::new(
                Kind::InUse,
                format!("{left} killed processes of {id} have not ended after {EMPTY_WAIT:?}"),
            )
            .hint("they wait for the kernel (ps shows state D); try again later"));
        }
        wait(&groups, deadline);
    }
    Ok(())
}

/// What is frozen neither forks nor exits: no process escapes, and no pid is another's by the time it is used.
fn kill_each(hierarchies: &Hierarchies, id: &Id, groups: &[PathBuf]) {
    let version = hierarchies.version();
    let freezer = hierarchies.of(Controller::Freezer).map(|m| m.join(id));
    if let Some(group) = &freezer {
        freezer::freeze(version, group, freezer::KILL_WAIT);
    }
    for pid in processes(groups) {
        // ESRCH: it ended by itself.
        let _ = kill(pid, Signal::SIGKILL);
    }
    if let Some(group) = &freezer {
        freezer::thaw(version, group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_lists_a_group_before_those_beneath_it() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path();
        fs::create_dir_all(path.join("a/b/c")).unwrap();
        fs::write(path.join("a/file"), "").unwrap();
        let tree = tree(&path.join("a"));
        assert_eq!(tree, [path.join("a"), path.join("a/b"), path.join("a/b/c")]);
    }

    #[test]
    fn removing_what_is_gone_is_success() {
        let top = tempfile::tempdir().unwrap();
        assert!(remove(&top.path().join("gone")).is_ok());
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        assert!(remove(&top.path().join("a")).is_ok());
        assert!(!top.path().join("a").exists());
    }

    #[test]
    fn the_invisible_process_0_is_never_counted() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join(PROCS), "0\n7\n7\n-1\n").unwrap();
        let found = processes(&[top.path().to_owned()]);
        assert_eq!(found, [Pid::from_raw(7)]);
    }

    #[test]
    fn a_group_that_is_there_is_not_made_again() {
        let top = tempfile::tempdir().unwrap();
        assert_eq!(make(top.path()).unwrap_err().kind(), &Kind::Exists);
    }

    #[test]
    fn a_setting_is_never_written_to_a_file_that_is_not_there() {
        let top = tempfile::tempdir().unwrap();
        let error = set(top.path(), &[Setting::new("pids.max", 1)]).unwrap_err();
        assert!(error.is(Errno::ENOENT));
        assert!(!top.path().join("pids.max").exists());
    }
}
