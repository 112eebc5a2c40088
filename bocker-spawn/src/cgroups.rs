//! What is read of a container's cgroups, which bocker-cg makes: who is in them, whether they stand still. The one write
//! is of a process that joins.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use bocker_pipe::{Doing, Result};

use crate::plan::Cgroups;

/// cgroups(7): the processes; writing a number moves that process, 0 the writer.
const PROCS: &str = "cgroup.procs";
/// The same for threads, on v1 only.
const TASKS_V1: &str = "tasks";
/// cgroup-v1/freezer-subsystem.
const FREEZER_V1: &str = "freezer.state";
const FROZEN_V1: &str = "FROZEN";
/// cgroup-v2: a line of it.
const EVENTS_V2: &str = "cgroup.events";
const FROZEN_V2: &str = "frozen 1";

/// Moves the calling process, which has one thread, into every one of them. Whoever moves another, or a whole process,
/// makes the kernel wait until no process anywhere is forking (an RCU grace period, 5 to 15 ms when nobody did so just
/// before); a thread that moves itself does not (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c, since Linux 5.5).
pub(crate) fn join(cgroups: &Cgroups) -> Result<()> {
    for path in cgroups.unique() {
        enter(path).doing(|| format!("put the process into {}", path.display()))?;
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

/// Whether everything in them stands still.
pub(crate) fn are_frozen(cgroups: &Cgroups) -> bool {
    let has = |path: &Path, name: &str, word: &str| {
        fs::read_to_string(path.join(name)).is_ok_and(|text| text.lines().any(|line| line == word))
    };
    cgroups
        .unique()
        .into_iter()
        .any(|path| has(path, FREEZER_V1, FROZEN_V1) || has(path, EVENTS_V2, FROZEN_V2))
}
