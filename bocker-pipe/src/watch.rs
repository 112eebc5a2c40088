//! Sleeping until something changes in a folder, as who follows a file does.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::{Doing, Error, Result};

/// What is no mere look at a file.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Folders that are watched (inotify(7)).
#[derive(Debug)]
pub struct Watch(Inotify);

impl Watch {
    /// Of no folder yet.
    pub fn new() -> Result<Watch> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).doing(|| "watch files".into())?;
        Ok(Watch(inotify))
    }

    /// Watches one more, with the files in it. Whether it is there.
    pub fn add(&self, folder: &Path) -> Result<bool> {
        match self.0.add_watch(folder, CHANGES) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            result => result
                .doing(|| format!("watch {}", folder.display()))
                .map(|_| true),
        }
    }

    /// Sleeps until something has changed since the last time, or so much time has passed. Fails with EPIPE when nobody reads
    /// `output` any more.
    pub fn wait(&self, output: BorrowedFd, patience: Option<Duration>) -> Result<()> {
        let mut fds = [
            PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(output, PollFlags::empty()),
        ];
        let patience = match patience {
            // Whoever comes back too early looks again.
            Some(time) => PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, patience) {
            Err(Errno::EINTR) => return Ok(()),
            result => result.doing(|| "wait for changes".into())?,
        };
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        if fds[1]
            .revents()
            .is_some_and(|events| events.intersects(gone))
        {
            return Err(Error::system("write", Errno::EPIPE));
        }
        // What has changed is found by looking; one event or many mean the same.
        while self.0.read_events().is_ok() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_waits_is_woken_once_by_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new().unwrap();
        assert!(watch.add(folder.path()).unwrap());
        assert!(!watch.add(&folder.path().join("missing")).unwrap());
        let (_reader, output) = std::io::pipe().unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        watch.wait(output.as_fd(), None).unwrap();
        let (begun, patience) = (Instant::now(), Duration::from_millis(20));
        watch.wait(output.as_fd(), Some(patience)).unwrap();
        assert!(begun.elapsed() >= patience, "nothing has changed since");
    }

    #[test]
    fn output_that_nobody_reads_any_more_is_noticed() {
        let watch = Watch::new().unwrap();
        let (reader, output) = std::io::pipe().unwrap();
        drop(reader);
        let error = watch.wait(output.as_fd(), None).unwrap_err();
        assert!(error.is(Errno::EPIPE), "{error}");
    }
}
