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
const FREEZE_WAIT: Duration = Duration::from_millis(100);

pub(crate) const V1: Interface = Interface {
    shown_by: Some(STATE),
    settings: Interface::nothing,
};
pub(crate) const V2: Interface = Interface {
    shown_by: Some(FREEZE),
    settings: Interface::nothing,
};

/// Stops everything in a group, as far as that is possible within a moment.
pub(crate) fn freeze(version: Version, group: &Path) {
    let deadline = Instant::now() + FREEZE_WAIT;
    let (file, word) = match version {
        Version::V1 => (STATE, FROZEN),
        Version::V2 => (FREEZE, "1"),
    };
    if fs::write(group.join(file), word).is_err() {
        return;
    }
    match version {
        Version::V1 => {
            while !is_frozen(version, group) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Version::V2 => {
            events::wait_for(group, events::FROZEN, deadline);
        }
    }
}

/// Lets everything in a group go on.
pub(crate) fn thaw(version: Version, group: &Path) {
    let (file, word) = match version {
        Version::V1 => (STATE, THAWED),
        Version::V2 => (FREEZE, "0"),
    };
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
