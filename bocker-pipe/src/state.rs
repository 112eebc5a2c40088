//! The state of a container, asked of the kernel: its claim, its supervisor's lock, its processes; never a word in a file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::id::Id;
use crate::{containers, lock, paths};

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
            has(containers::CONFIG),
            || has(containers::STATUS) || was_started(id),
            has_processes,
            is_frozen,
        )
    }

    fn decide(
        alive: bool,
        handed_over: bool,
        ended: impl Fn() -> bool,
        has_processes: impl Fn() -> bool,
        is_frozen: impl Fn() -> bool,
    ) -> State {
        match () {
            () if alive && is_frozen() => State::Paused,
            () if alive => State::Running,
            () if has_processes() => State::Orphaned,
            () if !handed_over => State::Creating,
            () if ended() => State::Exited,
            () => State::Created,
        }
    }
}

/// A document that says it ran, without a recorded end, is of a supervisor that was killed, or of another boot.
fn was_started(id: &Id) -> bool {
    containers::load(id).is_ok_and(|document| {
        document
            .value("/bocker/state")
            .is_some_and(|state| state == "running")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const YES: fn() -> bool = || true;
    const NO: fn() -> bool = || false;

    #[test]
    fn the_kernel_decides_before_the_files() {
        assert_eq!(State::decide(true, true, YES, YES, NO), State::Running);
        assert_eq!(State::decide(true, true, NO, YES, YES), State::Paused);
        assert_eq!(State::decide(false, true, YES, YES, NO), State::Orphaned);
        assert_eq!(State::decide(false, true, YES, NO, NO), State::Exited);
        assert_eq!(State::decide(false, true, NO, NO, NO), State::Created);
        assert_eq!(State::decide(false, false, NO, NO, NO), State::Creating);
    }
}
