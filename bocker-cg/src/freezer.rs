//! The freezer: a container can be stopped as a whole, which pausing needs, and killing it without losing a race
//! against its forks. Kernel documentation: admin-guide/cgroup-v1/freezer-subsystem, admin-guide/cgroup-v2 (cgroup.freeze).

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::controller::Interface;
use crate::events;
use crate::hierarchies::Version;

pub(crate) const NAME: &str = "freezer";
pub(crate) const WHY: &str =
    "stops the whole container at once, to pause it or to kill it without a race";

pub(crate) const STATE: &str = "freezer.state";
const FROZEN: &str = "FROZEN";
const THAWED: &str = "THAWED";
const FREEZE: &str = "cgroup.freeze";

/// How long processes may take to reach the freezer; one in an uninterruptible sleep reaches it later.
pub(crate) const KILL_WAIT: Duration = Duration::from_millis(100);
/// The same where somebody counts on it.
pub(crate) const PAUSE_WAIT: Duration = Duration::from_secs(5);

pub(crate) const V1: Interface = Interface {
    shown_by: Some(STATE),
    settings: Interface::nothing,
};
pub(crate) const V2: Interface = Interface {
    shown_by: Some(FREEZE),
    settings: Interface::nothing,
};

/// What is written to which file of a group so that everything in it stands still, or goes on.
pub(crate) fn setting(version: Version, stands: bool) -> (&'static str, &'static str) {
    match (version, stands) {
        (Version::V1, true) => (STATE, FROZEN),
        (Version::V1, false) => (STATE, THAWED),
        (Version::V2, true) => (FREEZE, "1"),
        (Version::V2, false) => (FREEZE, "0"),
    }
}

/// Stops everything in a group, as far as that is possible in the time. Whether all of it stands still.
pub(crate) fn freeze(version: Version, group: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let (file, word) = setting(version, true);
    if fs::write(group.join(file), word).is_err() {
        return false;
    }
    match version {
        Version::V1 => {
            while !is_frozen(version, group) {
                if Instant::now() >= deadline {
                    return false;
                }
                thread::sleep(Duration::from_millis(1));
            }
            true
        }
        Version::V2 => events::wait_for(group, events::FROZEN, deadline) == Some(true),
    }
}

/// Lets everything in a group go on.
pub(crate) fn thaw(version: Version, group: &Path) {
    let (file, word) = setting(version, false);
    // A group that is gone has nothing that could go on.
    let _ = fs::write(group.join(file), word);
}

/// Whether everything in a group stands still.
pub(crate) fn is_frozen(version: Version, group: &Path) -> bool {
    match version {
        Version::V1 => {
            fs::read_to_string(group.join(STATE)).is_ok_and(|state| state.trim_end() == FROZEN)
        }
        Version::V2 => events::says(group, events::FROZEN) == Some(true),
    }
}
