//! cgroup.events of cgroup v2: whether processes are left in a group and beneath it, and whether all of them stand still.
//! The kernel wakes who polls the file when it changes. Kernel documentation: admin-guide/cgroup-v2, "Core Interface Files".

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The file; on v1 there is none.
const EVENTS: &str = "cgroup.events";
/// Lines of it.
pub(crate) const EMPTY: &str = "populated 0";
pub(crate) const FROZEN: &str = "frozen 1";

/// Whether the line stands in a group's file; nothing without that file, as on v1 and where the group is gone.
pub(crate) fn says(group: &Path, line: &str) -> Option<bool> {
    let mut file = File::open(group.join(EVENTS)).ok()?;
    read(&mut file, line)
}

fn read(file: &mut File, line: &str) -> Option<bool> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    Some(text.lines().any(|l| l == line))
}

/// Waits until the line stands in a group's file or the group is gone, at most until the deadline. Answers whether it
/// does; nothing where there is no such file.
pub(crate) fn wait_for(group: &Path, line: &str, deadline: Instant) -> Option<bool> {
    let mut file = File::open(group.join(EVENTS)).ok()?;
    loop {
        // Read before it is polled: the kernel compares with what was last read from this descriptor.
        if read(&mut file, line)? {
            return Some(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(false);
        }
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        // An interruption is a reason to look again, like any other.
        let _ = poll(
            &mut [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)],
            Some(&timeout),
        );
    }
}
