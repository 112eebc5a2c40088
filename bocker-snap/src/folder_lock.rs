//! Locks on folders that come and go: the lock is on the folder itself, so that none outlives what it guards, and it is known
//! whether the folder that is locked is still the one that the path leads to.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bocker_pipe::step::interruption;
use bocker_pipe::{Doing, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How often a folder that another process has locked is looked at.
const WAIT: Duration = Duration::from_millis(10);

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The open folder: the lock goes with it.
    Locked(File),
    /// Somebody else has it.
    Held,
    /// There is no such folder, or not any more.
    Gone,
}

/// Locks a folder, unless somebody else has it.
pub(crate) fn attempt(path: &Path) -> Result<Attempt> {
    let what = || format!("lock {}", path.display());
    let folder = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Attempt::Gone),
        folder => folder.doing(what)?,
    };
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Attempt::Held),
        Err(error) => return Err(error).doing(what),
    }
    // Removed by its former holder between open and lock, and perhaps made anew by another.
    let held = folder.metadata().doing(what)?;
    let same = fs::symlink_metadata(path)
        .is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino()));
    Ok(match same {
        true => Attempt::Locked(folder),
        false => Attempt::Gone,
    })
}

/// Locks a folder as soon as nobody else has it. `None` when it is gone.
pub(crate) fn wait(path: &Path) -> Result<Option<File>> {
    loop {
        match attempt(path)? {
            Attempt::Locked(folder) => return Ok(Some(folder)),
            Attempt::Gone => return Ok(None),
            Attempt::Held => {
                // Looked at again and again instead of waiting in the kernel: a signal must be able to end it.
                interruption()?;
                std::thread::sleep(WAIT);
            }
        }
    }
}
