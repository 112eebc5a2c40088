//! The state of a container, asked of the kernel: its claim, its supervisor's lock, its processes; never a word in a file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::error::Result;
use crate::id::Id;
use crate::lock::Supervisor;
use crate::part::Parts;
use crate::{claim, containers, lock, paths};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Claimed, not yet handed to bocker-spawn.
    Creating,
    /// Its document is written; kept on purpose, never started.
    Created,
    /// A supervisor holds its lock.
    Running,
    /// Running, and its cgroup is frozen.
    Paused,
    /// Its process has ended, and its supervisor will make another.
    Restarting,
    /// A process lives and no supervisor does.
    Orphaned,
    /// Its end is recorded, or it can no longer be running.
    Exited,
}

impl State {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Creating => "creating",
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Restarting => "restarting",
            State::Orphaned => "orphaned",
            State::Exited => "exited",
        }
    }

    /// The state of a container. `has_processes` and `is_frozen` are asked of its cgroup, and only when they decide.
    pub fn of(id: &Id, has_processes: impl Fn() -> bool, is_frozen: impl Fn() -> bool) -> State {
        let folder = paths::container(id);
        let has = |name: &str| Path::new(&folder).join(name).exists();
        State::decide(
            lock::is_alive(id),
            || lock::is_between_runs(id),
            has(containers::CONFIG),
            || has(containers::STATUS) || said(id).is_some_and(|state| state != State::Created),
            has_processes,
            is_frozen,
        )
    }

    /// The same of one whose document, read before, is at hand: it is not read again.
    pub fn of_document(
        id: &Id,
        document: &Document,
        has_processes: impl Fn() -> bool,
        is_frozen: impl Fn() -> bool,
    ) -> State {
        let said = || document.member::<State>("state").ok().flatten();
        let status = || paths::container(id).join(containers::STATUS).exists();
        State::decide(
            lock::is_alive(id),
            || lock::is_between_runs(id),
            true,
            || said().is_some_and(|state| state != State::Created) || status(),
            has_processes,
            is_frozen,
        )
    }

    fn decide(
        alive: bool,
        is_between_runs: impl Fn() -> bool,
        handed_over: bool,
        ended: impl Fn() -> bool,
        has_processes: impl Fn() -> bool,
        is_frozen: impl Fn() -> bool,
    ) -> State {
        match () {
            () if alive && is_between_runs() => State::Restarting,
            () if alive && is_frozen() => State::Paused,
            () if alive => State::Running,
            () if has_processes() => State::Orphaned,
            () if !handed_over => State::Creating,
            () if ended() => State::Exited,
            () => State::Created,
        }
    }
}

/// Those of the containers of our `BOCKER_ROOT`, all of which are given, that bocker-spawn began and nobody is left to finish: its
/// supervisor was killed, or the machine stopped. Every command asks, so it is one system call for a container about which nothing is
/// wrong.
pub fn abandoned(mut ids: Vec<Id>) -> Result<Vec<Id>> {
    let claimed = claim::ids()?;
    ids.retain(|id| match claimed.binary_search(id) {
        // The claim may be another root's, on an id that was ours before a restart.
        Ok(_) => {
            lock::supervisor(id) == Supervisor::Lost
                && claim::read(id).is_some_and(|claim| claim.root == paths::root())
        }
        Err(_) => {
            !paths::container(id).join(containers::STATUS).exists()
                && said(id) == Some(State::Running)
                // It may have been started since.
                && lock::supervisor(id) == Supervisor::Absent
        }
    });
    Ok(ids)
}

/// What its document says. That it runs or has run, without a recorded end, is of a supervisor that was killed, or of
/// another boot.
fn said(id: &Id) -> Option<State> {
    let state = Parts::of(["/bocker/version", "/bocker/state"]);
    let document = containers::load_parts(id, &state).ok()?;
    document.member("state").ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const YES: fn() -> bool = || true;
    const NO: fn() -> bool = || false;

    #[test]
    fn the_kernel_decides_before_the_files() {
        let decide = State::decide;
        assert_eq!(decide(true, NO, true, YES, YES, NO), State::Running);
        assert_eq!(decide(true, NO, true, NO, YES, YES), State::Paused);
        assert_eq!(decide(true, YES, true, YES, NO, NO), State::Restarting);
        assert_eq!(decide(false, YES, true, YES, YES, NO), State::Orphaned);
        assert_eq!(decide(false, YES, true, YES, NO, NO), State::Exited);
        assert_eq!(decide(false, NO, true, NO, NO, NO), State::Created);
        assert_eq!(decide(false, NO, false, NO, NO, NO), State::Creating);
    }
}
