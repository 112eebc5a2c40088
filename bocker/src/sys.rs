//! The unsafe calls: numbered descriptors for the stages, and the signal handler.

use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use bocker_pipe::{Doing, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const ENDING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGTERM,
];

/// Set in a byte of the signal pipe when the kernel sent the signal, as a terminal does to its whole foreground group.
const BY_KERNEL: u8 = 0x80;

/// Below this, descriptors are numbered by what is pasted into a shell.
const OURS: i32 = 10;

static NOTED: OnceLock<PipeWriter> = OnceLock::new();

/// One signal as the handler saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) signal: i32,
    /// The stages, of the same process group, have it too.
    pub(crate) by_kernel: bool,
}

impl From<u8> for Noted {
    fn from(byte: u8) -> Noted {
        Noted {
            signal: i32::from(byte & !BY_KERNEL),
            by_kernel: byte & BY_KERNEL != 0,
        }
    }
}

/// Duplicates `from` as the descriptor `number`, which children inherit; whatever had that number is closed.
pub(crate) fn carry(from: impl AsFd, number: i32) -> Result<OwnedFd> {
    // SAFETY: no value of this program owns the number: it is called for 3 and 4 before a pipeline's own descriptors are
    // opened; what lives longer than a pipeline lies above OURS; what a caller left open there, nobody here owns.
    unsafe { nix::unistd::dup2_raw(from, number) }.doing(|| format!("open descriptor {number}"))
}

/// Moves a descriptor out of the way of those that are numbered.
fn moved(fd: OwnedFd) -> Result<OwnedFd> {
    let number = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(OURS)).doing(|| "duplicate a pipe".into())?;
    // SAFETY: the kernel has just made the descriptor, and nobody else has seen its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

extern "C" fn note(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let errno = Errno::last_raw();
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t (sigaction(2)).
    let by_kernel = unsafe { (*info).si_code } > 0;
    if let Some(pipe) = NOTED.get() {
        let byte = signal as u8 | if by_kernel { BY_KERNEL } else { 0 };
        // SAFETY: write(2) is async-signal-safe, the pipe lives as long as the program, the buffer is one byte long.
        unsafe { libc::write(pipe.as_raw_fd(), (&raw const byte).cast(), 1) };
    }
    Errno::set_raw(errno);
}

/// From now on an ending signal does not end this process; each is a byte in the pipe, to be read as [`Noted`].
/// Children have the default dispositions back after exec. To be called once.
pub(crate) fn note_signals() -> Result<PipeReader> {
    let (reader, writer) = pipe().doing(|| "make a pipe".into())?;
    let (reader, writer) = (moved(reader.into())?, moved(writer.into())?);
    let _ = NOTED.set(writer.into());
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::SigAction(note), flags, SigSet::empty());
    for signal in ENDING {
        // SAFETY: the handler calls nothing that is not async-signal-safe, and restores errno.
        unsafe { sigaction(signal, &action) }.doing(|| format!("catch {signal}"))?;
    }
    Ok(reader.into())
}
