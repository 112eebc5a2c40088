//! What is read of a container's cgroups, which bocker-cg makes: who is in them, whether they stand still. The one write
//! is the number of a process that joins.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use bocker_pipe::{Doing, Result};
use rustix::process::Pid;

use crate::plan::Cgroups;

/// cgroups(7): the processes; writing a number moves that process.
const PROCS: &str = "cgroup.procs";
/// cgroup-v1/freezer-subsystem.
const FREEZER_V1: &str = "freezer.state";
const FROZEN_V1: &str = "FROZEN";
/// cgroup-v2: a line of it.
const EVENTS_V2: &str = "cgroup.events";
const FROZEN_V2: &str = "frozen 1";

/// Moves a process into every one of them.
pub(crate) fn join(cgroups: &Cgroups, pid: Pid) -> Result<()> {
    for path in cgroups.unique() {
        // Opened for writing only: a file that is missing is not to be made.
        OpenOptions::new()
            .write(true)
            .open(path.join(PROCS))
            .and_then(|mut file| write!(file, "{}", pid.as_raw_nonzero()))
            .doing(|| format!("put the process into {}", path.display()))?;
    }
    Ok(())
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
