//! What is read of a container's cgroups, which bocker-cg makes: who is in them, whether they stand still. What is written:
//! a process joins, and on v2 all of them are killed.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bocker_pipe::{Doing, Error, Result};
use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};

use crate::plan::Cgroups;
use crate::spec;
use crate::sys::{self, Side};

/// cgroups(7): the processes; writing a number moves that process, 0 the writer.
const PROCS: &str = "cgroup.procs";
/// The same for threads, on v1 only.
const TASKS_V1: &str = "tasks";
/// cgroup-v1/freezer-subsystem.
const FREEZER: &str = "freezer";
const FREEZER_V1: &str = "freezer.state";
const FROZEN_V1: &str = "FROZEN";
const THAWED_V1: &str = "THAWED";
/// cgroup-v2: lines of it.
const EVENTS_V2: &str = "cgroup.events";
const FROZEN_V2: &str = "frozen 1";
const POPULATED_V2: &str = "populated 1";
/// cgroup-v2, since Linux 5.14: 1 kills all processes in the group and beneath it, those that fork meanwhile included.
const KILL_V2: &str = "cgroup.kill";

/// Makes a process in new namespaces, which on v2 is in the container's cgroup from birth. Answers whether it is; otherwise
/// it has to [`join`].
pub(crate) fn clone(cgroups: &Cgroups, flags: i32) -> Result<(Side, bool)> {
    if let [only] = cgroups.unique()[..]
        && let Some(side) = clone_into(&[only], flags)?
    {
        return Ok((side, true));
    }
    let side = sys::clone(flags, None).doing(|| "make a process".into())?;
    Ok((side, false))
}

/// Makes the process of a supervisor, which is in the group of v2 for supervisors from birth, be it beside v1: whoever moves
/// there by itself waits as in [`join`]. Answers whether it is; it has to [`leave_caller`] then.
pub(crate) fn fork_supervisor(cgroups: &Cgroups) -> Result<(Side, bool)> {
    let groups: Vec<&Path> = cgroups.supervisor.iter().map(PathBuf::as_path).collect();
    if let Some(side) = clone_into(&groups, 0)? {
        return Ok((side, true));
    }
    let side = sys::fork().doing(|| "start the supervisor".into())?;
    Ok((side, false))
}

/// Makes a process in the one of these groups that is of v2 (the superblock's magic, as statfs(2) shows it). `None` where
/// there is none, and where the kernel, or a filter before it, does not know this yet.
fn clone_into(groups: &[&Path], flags: i32) -> Result<Option<Side>> {
    let Some(path) = groups.iter().find(|path| spec::is_unified(path)) else {
        return Ok(None);
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = rustix::fs::open(*path, directory, Mode::empty())
        .doing(|| format!("open the cgroup {}", path.display()))?;
    match sys::clone(flags, Some(group.as_fd())) {
        Ok(side) => Ok(Some(side)),
        Err(error) if is_unknown(&error) => Ok(None),
        Err(error) => Err(error)
            .doing(|| format!("make a process in {}", path.display()))
            .map_err(|error| explained(error, path)),
    }
}

/// CLONE_INTO_CGROUP came with Linux 5.7: before, the structure was shorter, or the flag had no meaning (clone3(2)).
fn is_unknown(error: &io::Error) -> bool {
    let unknown = [Errno::EINVAL, Errno::E2BIG, Errno::ENOSYS];
    unknown
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// What the kernel means when it keeps a process out of a group of v2 (cgroup-v2, "No Internal Process Constraint").
fn explained(error: Error, path: &Path) -> Error {
    let path = path.display();
    if error.is(Errno::EBUSY) {
        return error.hint(format!(
            "a group that hands controllers down holds no processes: see {path}/cgroup.subtree_control"
        ));
    }
    if error.is(Errno::EOPNOTSUPP) {
        return error.hint(format!("see {path}/cgroup.type"));
    }
    error
}

/// Moves the calling process, which has one thread, into every one of them. Whoever moves another, or a whole process,
/// makes the kernel wait until no process anywhere is forking (an RCU grace period, 5 to 15 ms when nobody did so just
/// before); a thread that moves itself does not (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c, since Linux 5.5).
pub(crate) fn join(cgroups: &Cgroups) -> Result<()> {
    move_into(cgroups.unique().into_iter())
}

/// Moves the calling process, which is a supervisor with one thread, out of the groups of whoever has started it, into those that
/// are for supervisors. What it makes from then on is not in the caller's groups either.
pub(crate) fn leave_caller(cgroups: &Cgroups, born_in_cgroup: bool) -> Result<()> {
    let groups = cgroups.supervisor.iter().map(PathBuf::as_path);
    move_into(groups.filter(|path| !(born_in_cgroup && spec::is_unified(path))))
}

fn move_into<'a>(groups: impl Iterator<Item = &'a Path>) -> Result<()> {
    for path in groups {
        enter(path)
            .doing(|| format!("put the process into {}", path.display()))
            .map_err(|error| explained(error, path))?;
    }
    Ok(())
}

fn enter(cgroup: &Path) -> io::Result<()> {
    // Opened for writing only: a file that is missing is not to be made.
    let open = |name| OpenOptions::new().write(true).open(cgroup.join(name));
    let mut file = match open(TASKS_V1) {
        Err(error) if error.kind() == ErrorKind::NotFound => open(PROCS)?,
        file => file?,
    };
    file.write_all(b"0")
}

/// The processes in any of them, as the host numbers them.
pub(crate) fn processes(cgroups: &Cgroups) -> Vec<i32> {
    let mut pids: Vec<i32> = cgroups
        .unique()
        .into_iter()
        .filter_map(|path| fs::read_to_string(path.join(PROCS)).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Whether anything is left in them; on v2 what is in groups that the container has made beneath counts too.
pub(crate) fn are_populated(cgroups: &Cgroups) -> bool {
    // On v2 there is one group, and on v1, where there are mostly several, no such file.
    let says = |path: &Path| has_line(&path.join(EVENTS_V2), POPULATED_V2);
    matches!(cgroups.unique().as_slice(), [only] if says(only)) || !processes(cgroups).is_empty()
}

/// Which groups there are, by one look into each folder that groups are in: of a thousand containers that have ended none has any.
#[derive(Debug, Default)]
pub(crate) struct Present(Mutex<HashMap<OsString, HashSet<OsString>>>);

impl Present {
    /// Whether a container has any group left.
    pub(crate) fn has_any(&self, cgroups: &Cgroups) -> bool {
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cgroups.paths.values().any(|group| {
            let (Some(parent), Some(name)) = (group.parent(), group.file_name()) else {
                return true;
            };
            // As text: to take paths apart would be most of the time.
            if let Some(names) = folders.get(parent.as_os_str()) {
                return names.contains(name);
            }
            // A folder that is gone has none.
            let entries = fs::read_dir(parent).into_iter().flatten().flatten();
            let names: HashSet<OsString> = entries.map(|entry| entry.file_name()).collect();
            let has = names.contains(name);
            folders.insert(parent.into(), names);
            has
        })
    }
}

/// Whether everything in them stands still.
pub(crate) fn are_frozen(cgroups: &Cgroups) -> bool {
    let is_frozen = |path: &Path| {
        has_line(&path.join(FREEZER_V1), FROZEN_V1) || has_line(&path.join(EVENTS_V2), FROZEN_V2)
    };
    match cgroups.paths.get(FREEZER) {
        Some(group) => is_frozen(group),
        None => cgroups.unique().into_iter().any(is_frozen),
    }
}

fn has_line(path: &Path, wanted: &str) -> bool {
    // The kernel gives all of such a file at once.
    let mut text = [0; 512];
    let read = File::open(path).and_then(|mut file| file.read(&mut text));
    read.is_ok_and(|length| {
        text[..length]
            .split(|byte| *byte == b'\n')
            .any(|line| line == wanted.as_bytes())
    })
}

/// Kills all processes in them at once, if the kernel can do that. Answers whether it did.
pub(crate) fn kill_at_once(cgroups: &Cgroups) -> bool {
    let kill = |path: &Path| {
        let file = OpenOptions::new().write(true).open(path.join(KILL_V2));
        file.and_then(|mut file| file.write_all(b"1")).is_ok()
    };
    // On v2 there is one group, and the file is nowhere else.
    cgroups.unique().into_iter().any(kill)
}

/// Lets those go on in them who stand still: on v1 even SIGKILL reaches them only then (cgroup-v1/freezer-subsystem).
pub(crate) fn thaw(cgroups: &Cgroups) {
    for path in cgroups.unique() {
        // The file is in one of them, and never made.
        let file = OpenOptions::new().write(true).open(path.join(FREEZER_V1));
        let _ = file.and_then(|mut file| file.write_all(THAWED_V1.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_groups_as_long_as_one_is_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("ps_000001")).unwrap();
        let of = |id: &str| Cgroups {
            paths: [
                ("cpu".to_owned(), folder.path().join("gone").join(id)),
                ("pids".to_owned(), folder.path().join(id)),
            ]
            .into(),
            ..Cgroups::default()
        };
        let present = Present::default();
        assert!(present.has_any(&of("ps_000001")));
        assert!(!present.has_any(&of("ps_000002")));
        assert!(!present.has_any(&Cgroups::default()));
    }

    #[test]
    fn only_a_kernel_that_does_not_know_the_flag_is_asked_again_without() {
        let unknown = |errno: Errno| is_unknown(&io::Error::from_raw_os_error(errno as i32));
        assert!(
            [Errno::EINVAL, Errno::E2BIG, Errno::ENOSYS]
                .map(unknown)
                .iter()
                .all(|u| *u)
        );
        for refused in [
            Errno::EBUSY,
            Errno::EOPNOTSUPP,
            Errno::EACCES,
            Errno::EAGAIN,
        ] {
            assert!(!unknown(refused), "{refused:?}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_allow_in_a_group_is_explained() {
        let hint = |errno| {
            let error = Error::system("make a process in /g", errno);
            explained(error, Path::new("/g"))
                .hint_text()
                .map(str::to_owned)
        };
        assert!(
            hint(Errno::EBUSY)
                .unwrap()
                .contains("/g/cgroup.subtree_control")
        );
        assert!(hint(Errno::EOPNOTSUPP).unwrap().contains("/g/cgroup.type"));
        assert_eq!(hint(Errno::ENOENT), None);
    }

    #[test]
    fn a_folder_that_is_no_group_of_version_2_is_not_born_into() {
        let folder = tempfile::tempdir().unwrap();
        assert!(clone_into(&[], 0).unwrap().is_none());
        assert!(clone_into(&[folder.path()], 0).unwrap().is_none());
    }

    #[test]
    fn a_group_that_is_populated_beneath_is_not_empty() {
        let folder = tempfile::tempdir().unwrap();
        let cgroups = Cgroups {
            paths: [("devices".to_owned(), folder.path().to_owned())].into(),
            ..Cgroups::default()
        };
        fs::write(folder.path().join(PROCS), "").unwrap();
        assert!(!are_populated(&cgroups));
        fs::write(folder.path().join(EVENTS_V2), "populated 0\nfrozen 1\n").unwrap();
        assert!(!are_populated(&cgroups) && are_frozen(&cgroups));
        fs::write(folder.path().join(EVENTS_V2), "populated 1\nfrozen 0\n").unwrap();
        assert!(are_populated(&cgroups) && !are_frozen(&cgroups));
        fs::write(folder.path().join(EVENTS_V2), "populated 0\n").unwrap();
        fs::write(folder.path().join(PROCS), "7\n").unwrap();
        assert!(are_populated(&cgroups), "version 1");
    }
}
