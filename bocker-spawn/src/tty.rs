//! Terminals: a pair of the container's own, and the caller's, which is made raw while the container has it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{Mode, OFlags, fstat, fstatfs, makedev, openat};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, Winsize, isatty, tcgetattr, tcgetpgrp,
    tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::options::Options;
use crate::socket::Size;
use crate::start::caller;

/// statfs(2), linux/magic.h.
const DEVPTS_MAGIC: u64 = 0x1cd1;
/// termios(3), _POSIX_VDISABLE: no character at all. It is what Ctrl-Space types.
const DISABLED: u8 = 0;
/// A terminal that everybody in the container has closed hangs up: its master reads EIO and is ready without end (poll(2),
/// POLLHUP). It goes on when one opens it again, as an init does with /dev/console, which nothing tells: so often it is looked.
/// To keep its other end open instead would lose the last output, as the kernel empties a terminal that is open when its session ends.
pub(crate) const HUNG_UP: Duration = Duration::from_millis(100);
/// The caller's own terminal, tty(4).
const CONTROLLING: &str = "/dev/tty";

/// A new pair of `ptmx` in a devpts: the master, and the terminal opened through it.
/// Both the device and its filesystem are looked at, so that nothing planted is taken for them (CVE-2025-52565).
pub(crate) fn open_pair(pts: BorrowedFd, ptmx: &str) -> Result<(OwnedFd, OwnedFd)> {
    let doing = || "open a terminal in the container".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = openat(pts, ptmx, flags, Mode::empty()).doing(doing)?;
    let is_devpts = fstatfs(&master).doing(doing)?.f_type as u64 == DEVPTS_MAGIC;
    if !is_devpts || fstat(&master).doing(doing)?.st_rdev != makedev(5, 2) {
        return Err(Error::new(
            Kind::Invalid,
            "/dev/pts/ptmx of the container is not the terminal multiplexer",
        ));
    }
    unlockpt(&master).doing(doing)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&master, flags).doing(doing)?;
    Ok((master, terminal))
}

/// The caller's controlling terminal.
pub(crate) fn controlling() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(CONTROLLING, flags, Mode::empty())
        .doing(|| format!("open {CONTROLLING}"))
        .map_err(|error| error.hint("-t needs a terminal, or --stdin and --stdout"))
}

/// A terminal in raw mode; as it was before when dropped.
pub(crate) struct Raw {
    fd: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Makes the terminal raw; `None` when `fd` is no terminal.
    pub(crate) fn new(fd: BorrowedFd) -> Result<Option<Raw>> {
        if !isatty(fd) {
            return Ok(None);
        }
        let doing = || "set the terminal".to_owned();
        let before = tcgetattr(fd).doing(doing)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(fd, OptionalActions::Now, &raw).doing(doing)?;
        let fd = fd.try_clone_to_owned().doing(doing)?;
        Ok(Some(Raw { fd, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs no mode.
        let _ = tcsetattr(&self.fd, OptionalActions::Drain, &self.before);
    }
}

/// The signal that a terminal has sent to `leader` because of what was typed: it is in the foreground, and one of the
/// bytes is the terminal's interrupt or quit character (termios(3), ISIG).
pub(crate) fn signal_of(master: &OwnedFd, typed: &[u8], leader: Pid) -> Option<i32> {
    let modes = tcgetattr(master).ok()?;
    if !modes.local_modes.contains(LocalModes::ISIG) || tcgetpgrp(master).ok()? != leader {
        return None;
    }
    signal_by(&modes, typed)
}

fn signal_by(modes: &Termios, typed: &[u8]) -> Option<i32> {
    let has = |code: SpecialCodeIndex| {
        let character = modes.special_codes[code];
        character != DISABLED && typed.contains(&character)
    };
    if has(SpecialCodeIndex::VINTR) {
        return Some(libc::SIGINT);
    }
    has(SpecialCodeIndex::VQUIT).then_some(libc::SIGQUIT)
}

/// The size of a terminal; `None` when it is none.
pub(crate) fn size(of: impl AsFd) -> Option<Size> {
    tcgetwinsize(of).ok().map(|size| Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Gives the container's terminal a size.
pub(crate) fn set_size(of: impl AsFd, size: Size) {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // A container whose terminal has hung up needs no size.
    let _ = tcsetwinsize(of, size);
}

/// Gives the container's terminal the size of the caller's, if that is one.
pub(crate) fn copy_size(from: impl AsFd, to: impl AsFd) {
    if let Some(size) = size(from) {
        set_size(to, size);
    }
}

/// Where the input of a container with a terminal comes from, if from anywhere, and where its output goes: to the
/// descriptors that the caller named, or else to its controlling terminal.
pub(crate) fn of_caller(options: &Options) -> Result<(Option<OwnedFd>, OwnedFd)> {
    match (options.stdin, options.stdout) {
        (None, None) => {
            let terminal = controlling()?;
            let copy = terminal.try_clone().doing(|| "copy a descriptor".into())?;
            Ok((Some(copy), terminal))
        }
        (stdin, stdout) => Ok((stdin.map(caller).transpose()?, caller(stdout.unwrap_or(2))?)),
    }
}

/// Reading and writing a descriptor that is ours alone never waits.
pub(crate) fn never_wait(fd: impl AsFd) -> Result<()> {
    rustix::fs::fcntl_getfl(&fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
        .doing(|| "set up the terminal".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_typed_by_its_character_and_by_none_where_there_is_none() {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let mut modes = tcgetattr(&master).unwrap();
        assert_eq!(signal_by(&modes, b"ls\x03"), Some(libc::SIGINT));
        assert_eq!(signal_by(&modes, b"\x1c"), Some(libc::SIGQUIT));
        assert_eq!(signal_by(&modes, b"ls\0"), None);
        modes.special_codes[SpecialCodeIndex::VINTR] = DISABLED;
        modes.special_codes[SpecialCodeIndex::VQUIT] = DISABLED;
        assert_eq!(signal_by(&modes, b"\x03\x1c\0"), None);
    }
}
