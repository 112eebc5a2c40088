//! Locks that the kernel drops when their holder dies: the short one that orders the verbs on one container, the long one by which
//! a supervisor shows that it lives, and the one by which a container is let go on for whose sake nobody works any more.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::{Doing, Error, Kind, Result};
use crate::id::Id;
use crate::{claim, files, paths};

/// In a claim's folder: orders the verbs on one container.
pub(crate) const VERBS: &str = "lock";
/// In a claim's folder: locked by the supervisor as long as it lives.
pub(crate) const ALIVE: &str = "alive";
/// The same before it is locked.
pub(crate) const ALIVE_NEW: &str = "alive.new";
/// In a claim's folder: there between a container's end and its next run.
pub(crate) const RESTARTING: &str = "restarting";
/// In a claim's folder: there while a container stands still for some work, and locked as long as that goes on.
pub(crate) const STILL: &str = "still";
/// The byte of it that is locked as long as the container runs; those after it, as long as the supervisor does.
const RUNS: libc::off_t = 0;

/// An exclusive flock(2) on a file, released when dropped or when the process ends. A child that is forked meanwhile has it too,
/// until it drops its own: dropping closes the file, and does not unlock it for both.
#[derive(Debug)]
pub struct Lock(#[cfg_attr(not(test), expect(dead_code, reason = "held for its drop"))] File);

/// Waits for an exclusive flock(2) on `path`, which is made (0600, its folder 0700) at need.
pub fn exclusive(path: &Path) -> Result<Lock> {
    let file = open_at_need(path)?;
    wait_for(|| file.lock()).doing(|| format!("lock {}", path.display()))?;
    Ok(Lock(file))
}

/// Like [`exclusive`], but answers `None` at once when another holds the lock.
pub fn try_exclusive(path: &Path) -> Result<Option<Lock>> {
    let file = open_at_need(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).doing(|| format!("lock {}", path.display())),
    }
}

/// Waits for a flock(2), be it interrupted.
pub(crate) fn wait_for(lock: impl Fn() -> std::io::Result<()>) -> std::io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Opens a file, made at need with its folder.
pub(crate) fn open_at_need(path: &Path) -> Result<File> {
    if let Some(file) = open(path)? {
        return Ok(file);
    }
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .doing(|| format!("make {}", folder.display()))?;
    }
    open(path)?.ok_or_else(|| gone(path))
}

/// Opens a file, made at need; an empty folder in its place, on which nobody can hold a lock, goes. `None` where there is no folder
/// for it.
fn open(path: &Path) -> Result<Option<File>> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
    };
    let file = match open() {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            files::remove_folder(path)?;
            open()
        }
        file => file,
    };
    match file {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file
            .map(Some)
            .doing(|| format!("open the lock {}", path.display())),
    }
}

fn gone(path: &Path) -> Error {
    let what = format!("the folder of {} was removed", path.display());
    Error::new(Kind::NotFound, what)
}

/// The short lock that orders the verbs on one container. Fails with [`Kind::NotFound`] when nobody claims the id, be it
/// that the claim was released while this waited.
pub fn verbs(id: &Id) -> Result<Lock> {
    let path = paths::claim(id).join(VERBS);
    let what = || format!("lock {}", path.display());
    loop {
        let file = open(&path)?.ok_or_else(|| unclaimed(id))?;
        wait_for(|| file.lock()).doing(what)?;
        if is_at(&file, &path).doing(what)? {
            return Ok(Lock(file));
        }
    }
}

/// The supervisor's sign of life: an open-file-description lock (fcntl(2), F_OFD_SETLK) on a file that is there from the moment
/// at which bocker-spawn takes a container over until nothing is left to do for it. Whoever finds the file unlocked knows that
/// the supervisor was killed. Asking takes nothing, so that nobody asking is in the way.
#[derive(Debug)]
pub struct Alive {
    file: File,
    path: PathBuf,
}

/// What [`Alive`] shows of a container's supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervisor {
    /// There is none: bocker-spawn has not begun, or has let go in good order.
    Absent,
    /// The container runs, or is being started.
    Runs,
    /// The container has ended, and what comes after has not.
    Tidies,
    /// It was killed, and nobody has cleaned up after it.
    Lost,
}

impl Alive {
    /// Takes the lock, for one who holds that of [`verbs`]. Fails with [`Kind::InUse`] when another supervisor has it.
    pub fn take(id: &Id) -> Result<Alive> {
        if let Supervisor::Runs | Supervisor::Tidies = supervisor(id) {
            let what = format!("{id} is running already, or being cleaned up");
            return Err(Error::new(Kind::InUse, what));
        }
        let folder = paths::claim(id);
        let (path, new) = (folder.join(ALIVE), folder.join(ALIVE_NEW));
        let doing = || format!("lock {}", path.display());
        files::remove(&folder.join(RESTARTING))?;
        let file = open(&new)?.ok_or_else(|| unclaimed(id))?;
        fcntl(&file, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_WRLCK, 0, 0))).doing(doing)?;
        // Under its own name only when locked: unlocked, it would be that of a supervisor that was killed.
        fs::rename(&new, &path).doing(doing)?;
        Ok(Alive { file, path })
    }

    /// The container's process has ended, and another will follow: it is
    /// [`State::Restarting`](crate::state::State::Restarting) until [`Alive::runs_again`].
    pub fn restarts(&self) -> Result<()> {
        let path = self.path.with_file_name(RESTARTING);
        open(&path)?.map(drop).ok_or_else(|| gone(&path))
    }

    /// The next process runs, or there will be none.
    pub fn runs_again(&self) -> Result<()> {
        files::remove(&self.path.with_file_name(RESTARTING))
    }

    /// The container has ended: it is [`Supervisor::Tidies`] from now on.
    pub fn ended(&self) -> Result<()> {
        let unlock = lock_of(libc::F_UNLCK, RUNS, 1);
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&unlock))
            .doing(|| format!("unlock {}", self.path.display()))?;
        // Only now: this wakes those who wait for it.
        (&self.file)
            .write_all(b".")
            .doing(|| format!("write to {}", self.path.display()))
    }

    /// Nothing is left to do. Whoever drops it without a word leaves it [`Supervisor::Lost`].
    pub fn let_go(self) -> Result<()> {
        // If the claim is released by now, the file went with it.
        files::remove(&self.path)
    }
}

/// Forgets a supervisor that was killed, for one who has done what it left undone and holds the lock of [`verbs`].
pub fn forget(id: &Id) -> Result<()> {
    claim::forget_socket(id)?;
    let folder = paths::claim(id);
    for name in claim::NOTES.into_iter().chain([RESTARTING]) {
        files::remove(&folder.join(name))?;
    }
    files::remove(&folder.join(ALIVE))
}

/// Whether its supervisor waits, or was killed while it did, until it begins the container again.
pub fn is_between_runs(id: &Id) -> bool {
    paths::claim(id).join(RESTARTING).exists()
}

/// What the container's supervisor does now.
pub fn supervisor(id: &Id) -> Supervisor {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(paths::claim(id).join(ALIVE));
    let Ok(file) = file else {
        return Supervisor::Absent;
    };
    // The kernel answers with the first lock that is in the way.
    let mut question = lock_of(libc::F_WRLCK, 0, 0);
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut question)) {
        Ok(_) if i32::from(question.l_type) == libc::F_UNLCK => match is_folder(&file) {
            // Somebody has put it there, and nobody's lock can be seen any more.
            true if claim::has_socket(id) => Supervisor::Runs,
            _ => Supervisor::Lost,
        },
        Ok(_) if question.l_start > RUNS => Supervisor::Tidies,
        Ok(_) => Supervisor::Runs,
        Err(_) => Supervisor::Absent,
    }
}

fn is_folder(file: &File) -> bool {
    file.metadata().is_ok_and(|data| data.is_dir())
}

/// Waits, at most so long and asleep, until `done` says yes to what the supervisor does. Whether it did. A supervisor writes to
/// its file when the container has ended, and removes it when nothing is left to do; when it is killed, the kernel closes it.
pub fn wait(id: &Id, patience: Duration, done: impl Fn(Supervisor) -> bool) -> Result<bool> {
    let path = paths::claim(id).join(ALIVE);
    let what = || format!("watch {}", path.display());
    let deadline = Instant::now().checked_add(patience);
    let mut watch = None;
    loop {
        if done(supervisor(id)) {
            return Ok(true);
        }
        let Some(inotify) = &watch else {
            let new = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).doing(what)?;
            let events =
                AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_CLOSE_WRITE;
            match new.add_watch(&path, events) {
                // Asked once more now that nothing that follows is missed.
                Ok(_) => watch = Some(new),
                Err(Errno::ENOENT) => return Ok(done(supervisor(id))),
                Err(errno) => return Err(errno).doing(what),
            }
            continue;
        };
        let left = deadline.map(|then| then.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        // Rounded up, so that the last of it is not spent awake.
        let left = left.map(|left| left + Duration::from_millis(1));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(
            &mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing(what),
        }
        match inotify.read_events() {
            // The file of the next supervisor, if there is one, is another.
            Ok(_) => watch = None,
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno).doing(what),
        }
    }
}

/// Whether the container runs under a supervisor, or is being started.
pub fn is_alive(id: &Id) -> bool {
    supervisor(id) == Supervisor::Runs
}

/// The right to let a container stand still. It is a flock(2), which the programs that are started meanwhile have too: the container
/// is forgotten by all when the last of them has ended.
#[derive(Debug)]
pub struct Still {
    file: File,
    path: PathBuf,
}

impl Still {
    /// Waits until nobody else has it. Fails with [`Kind::NotFound`] when nobody claims the id.
    pub fn begin(id: &Id) -> Result<Still> {
        let path = paths::claim(id).join(STILL);
        let what = || format!("lock {}", path.display());
        loop {
            let file = open(&path)?.ok_or_else(|| unclaimed(id))?;
            wait_for(|| file.lock()).doing(what)?;
            if is_at(&file, &path).doing(what)? {
                return Ok(Still { file, path });
            }
        }
    }

    /// The same for one that stands still though nobody works any more. `None` where none does.
    pub fn forgotten(id: &Id) -> Result<Option<Still>> {
        let path = paths::claim(id).join(STILL);
        let what = || format!("lock {}", path.display());
        if !path.exists() {
            return Ok(None);
        }
        let Some(file) = open(&path)? else {
            return Ok(None);
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Still { file, path })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).doing(what),
        }
    }

    /// Hands it on to the programs that are started from here on.
    pub fn hand_on(&self) -> Result<()> {
        fcntl(&self.file, FcntlArg::F_SETFD(FdFlag::empty()))
            .map(drop)
            .doing(|| format!("hand on {}", self.path.display()))
    }

    /// The container goes on.
    pub fn end(self) -> Result<()> {
        files::remove(&self.path)
    }
}

/// Whether a container stands still and nobody works any more for whom it does. One system call where none does.
pub fn is_forgotten_still(id: &Id) -> bool {
    // Dropped at once, it lets the next who asks find the same.
    matches!(Still::forgotten(id), Ok(Some(_)))
}

fn unclaimed(id: &Id) -> Error {
    Error::new(
        Kind::NotFound,
        format!("{id} is not claimed on this machine"),
    )
}

/// Whether a file that was locked is still the one that is found by its path.
pub(crate) fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    let held = file.metadata()?;
    Ok(fs::symlink_metadata(path)
        .is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())))
}

/// A lock on bytes of a file; a length of 0 is as far as there are any.
fn lock_of(kind: i32, start: libc::off_t, length: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
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
        // What a forked child drops is no more than this.
        drop(held.0.try_clone().unwrap());
        assert!(try_exclusive(&path).unwrap().is_none());
        drop(held);
        assert!(try_exclusive(&path).unwrap().is_some());
    }
}
