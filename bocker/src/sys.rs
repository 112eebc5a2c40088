//! The unsafe calls: fork, numbered descriptors for the stages, and waiting for a signal.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use bocker_pipe::{Doing, Result};
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::sys::time::TimeSpec;
use nix::unistd::{ForkResult, Pid};

/// fork(2). `None` in the child.
pub(crate) fn fork() -> nix::Result<Option<Pid>> {
    // SAFETY: this program has one thread, so that the child may do all that the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Duplicates `from` as the descriptor `number`, which children inherit; whatever had that number is closed.
pub(crate) fn carry(from: impl AsFd, number: i32) -> Result<OwnedFd> {
    // SAFETY: no value of this program owns the number: it is called for 3 and 4 before a pipeline's own descriptors are
    // opened, none of which lives longer than the pipeline; what a caller left open there, nobody here owns.
    unsafe { nix::unistd::dup2_raw(from, number) }.doing(|| format!("open descriptor {number}"))
}

/// Ignores a signal; so do the programs that are started from here on.
pub(crate) fn ignore(signal: Signal) -> nix::Result<()> {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }.map(drop)
}

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Absent for one without a name.
    pub(crate) signal: Option<Signal>,
    /// The kernel sent it, as a terminal does to its whole foreground group.
    pub(crate) by_kernel: bool,
}

/// Takes one of `signals`, which must be blocked, waiting at most so long for it, or without end.
/// `None` when the time is over, or another signal's handler has run.
pub(crate) fn wait_for_signal(signals: &SigSet, patience: Option<Duration>) -> Option<Noted> {
    let patience = patience.map(TimeSpec::from);
    let timeout = patience
        .as_ref()
        .map_or(ptr::null(), |time| ptr::from_ref(time.as_ref()));
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: sigtimedwait(2) reads a valid set and, unless it is null, a valid time, and writes a siginfo_t.
    let number = unsafe { libc::sigtimedwait(signals.as_ref(), info.as_mut_ptr(), timeout) };
    if number < 0 {
        return None;
    }
    // SAFETY: integers and pointers, for which zeroes are valid, and which the kernel has filled in.
    let info = unsafe { info.assume_init() };
    Some(Noted {
        signal: Signal::try_from(number).ok(),
        by_kernel: info.si_code > 0,
    })
}
