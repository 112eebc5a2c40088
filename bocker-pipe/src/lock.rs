//! Locks that the kernel drops when their holder dies: the short one that orders the verbs on one container,
//! and the long one by which a supervisor shows that it lives.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

use crate::error::{Doing, Error, Kind, Result};
use crate::id::Id;
use crate::paths;

/// In a claim's folder: orders the verbs on one container.
pub(crate) const VERBS: &str = "lock";
/// In a claim's folder: locked by the supervisor as long as it lives.
pub(crate) const ALIVE: &str = "alive";

/// An exclusive lock on a file, released when dropped or when the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Waits for an exclusive flock(2) on `path`, which is made (0600, its folder 0700) at need.
pub fn exclusive(path: &Path) -> Result<Lock> {
    flock(path, FlockArg::LockExclusive).map(Lock)
}

/// Like [`exclusive`], but answers `None` at once when another holds the lock.
pub fn try_exclusive(path: &Path) -> Result<Option<Lock>> {
    match flock(path, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err(error) if error.is(Errno::EWOULDBLOCK) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A flock(2) of any kind on `path`, made at need.
pub(crate) fn flock(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let file = match open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(folder)
                    .doing(|| format!("make {}", folder.display()))?;
            }
            open(path)
        }
        file => file,
    };
    lock(
        file.doing(|| format!("open the lock {}", path.display()))?,
        how,
    )
    .doing(|| format!("lock {}", path.display()))
}

fn lock(mut file: File, how: FlockArg) -> nix::Result<Flock<File>> {
    loop {
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, errno)) => return Err(errno),
        }
    }
}

/// Opens a file, made at need, in a folder that is there.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// The short lock that orders the verbs on one container. Fails with [`Kind::NotFound`] when nobody claims the id, be it
/// that the claim was released while this waited.
pub fn verbs(id: &Id) -> Result<Lock> {
    let path = paths::claim(id).join(VERBS);
    let what = || format!("lock {}", path.display());
    loop {
        let file = match open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("{id} is not claimed on this machine"),
                ));
            }
            file => file.doing(what)?,
        };
        let lock = lock(file, FlockArg::LockExclusive).doing(what)?;
        let held = lock.metadata().doing(what)?;
        let is_there = fs::symlink_metadata(&path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino()));
        if is_there {
            return Ok(Lock(lock));
        }
    }
}

/// The supervisor's sign of life: an open-file-description lock (fcntl(2), F_OFD_SETLK).
/// A child that inherits the descriptor keeps it held, and asking for it takes nothing, so that nobody asking is in the way.
#[derive(Debug)]
pub struct Alive(File);

impl Alive {
    /// Takes the lock. Fails with [`Kind::InUse`] when another supervisor holds it.
    pub fn take(id: &Id) -> Result<Alive> {
        let path = paths::claim(id).join(ALIVE);
        let file = open(&path).doing(|| format!("open {}", path.display()))?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => Ok(Alive(file)),
            Err(Errno::EAGAIN | Errno::EACCES) => {
                Err(Error::new(Kind::InUse, format!("{id} is running already")))
            }
            Err(errno) => Err(errno).doing(|| format!("lock {}", path.display())),
        }
    }
}

impl AsFd for Alive {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a supervisor holds the container's lock now.
pub fn is_alive(id: &Id) -> bool {
    let path = paths::claim(id).join(ALIVE);
    let Ok(file) = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
    else {
        return false;
    };
    let mut question = whole_file(libc::F_WRLCK);
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut question)) {
        Ok(_) => i32::from(question.l_type) != libc::F_UNLCK,
        Err(_) => false,
    }
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/at/need/lock");
        let held = exclusive(&path).unwrap();
        assert!(try_exclusive(&path).unwrap().is_none());
        drop(held);
        assert!(try_exclusive(&path).unwrap().is_some());
    }
}
