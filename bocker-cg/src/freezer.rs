//! The freezer: a container can be stopped as a whole, which pausing needs, and killing it without losing a race
//! against its forks. Kernel documentation: admin-guide/cgroup-v1/freezer-subsystem.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const NAME: &str = "freezer";
pub(crate) const WHY: &str =
    "stops the whole container at once, to pause it or to kill it without a race";

pub(crate) const STATE: &str = "freezer.state";
const FROZEN: &str = "FROZEN";
const THAWED: &str = "THAWED";

/// How long processes may take to reach the freezer; one in an uninterruptible sleep reaches it later.
const FREEZE_WAIT: Duration = Duration::from_millis(100);

/// Stops everything in a group, as far as that is possible within a moment.
pub(crate) fn freeze(group: &Path) {
    let state = group.join(STATE);
    let deadline = Instant::now() + FREEZE_WAIT;
    if fs::write(&state, FROZEN).is_err() {
        return;
    }
    while !is_frozen(group) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Lets everything in a group go on.
pub(crate) fn thaw(group: &Path) {
    // A group that is gone has nothing that could go on.
    let _ = fs::write(group.join(STATE), THAWED);
}

/// Whether everything in a group stands still.
pub(crate) fn is_frozen(group: &Path) -> bool {
    fs::read_to_string(group.join(STATE)).is_ok_and(|state| state.trim_end() == FROZEN)
}
