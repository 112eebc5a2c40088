//! `--init`: process 1 of a container whose command is not. It starts the command, passes signals on to it, reaps whoever is
//! left to it, and ends as the command does.
//!
//! It is this very program, executed anew from a mount that cannot be written to (see `seal`), with the command's user,
//! privileges and environment: nothing of the host's is left in its memory, nor in what proc(5) shows of it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Doing, Error, Result};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, WaitOptions, getpid, setpgid, wait};
use rustix::stdio::stdin;
use rustix::termios::tcsetpgrp;

use crate::channel::Channel;
use crate::plan::Program;
use crate::privileges;
use crate::process::DEFAULT_PATH;
use crate::supervise::code;
use crate::sys::{self, Side};

/// What it is executed as, and shown as by ps(1).
const NAME: &CStr = c"bocker-init";
/// The descriptor by which it says that the command could not be executed.
const CHANNEL: RawFd = 3;
/// Not for the command: what tells us of children, and what job control would stop us by.
const OWN: [i32; 3] = [libc::SIGCHLD, libc::SIGTTIN, libc::SIGTTOU];

/// Becomes the init of this container; returns only why it could not. From here on no signal is lost: those that come before
/// the command is there wait for it.
pub(crate) fn execute(file: BorrowedFd, program: &Program, channel: &Channel) -> Error {
    let doing = || "execute the container's init".to_owned();
    let begin = || -> Result<Error> {
        SigSet::all().thread_block().doing(doing)?;
        // Neither is in the other's way.
        let file = rustix::io::fcntl_dupfd_cloexec(file, CHANNEL + 1).doing(doing)?;
        sys::hand_on(channel.as_fd(), CHANNEL).doing(doing)?;
        let args = [&[NAME.to_owned()], &*program.args].concat();
        let error = sys::execute_descriptor(file.as_fd(), &args, &program.env);
        Err(error).doing(doing)
    };
    begin().unwrap_or_else(|error| error)
}

/// Whether this process is one.
pub(crate) fn is_called() -> bool {
    let name = std::env::args_os().next();
    getpid().is_init() && name.as_deref().map(OsStr::as_encoded_bytes) == Some(NAME.to_bytes())
}

/// Its whole life. The exit code is the command's.
pub(crate) fn main() -> u8 {
    // It is only a name.
    let _ = rustix::thread::set_name(NAME);
    run().unwrap_or_else(|error| {
        crate::say(error);
        EXIT_FAILED
    })
}

fn run() -> Result<u8> {
    let channel = Channel::inherited(CHANNEL)?;
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC)
        .doing(|| "make a descriptor for signals".into())?;
    let (command, pidfd) = match sys::fork().doing(|| "make a process".into())? {
        Side::Child => begin(&channel),
        Side::Parent(pid, pidfd) => (pid, pidfd),
    };
    // The supervisor waits for the end of the command's copy.
    drop(channel);
    loop {
        let signal = signals.read_signal().doing(|| "wait for signals".into())?;
        let Some(signal) = signal.map(|info| info.ssi_signo.cast_signed()) else {
            continue;
        };
        if !OWN.contains(&signal) {
            // One that has ended needs none.
            let _ = sys::send_signal(pidfd.as_fd(), signal);
        }
        if let Some(code) = reap(command)? {
            return Ok(code);
        }
    }
}

/// Reaps all that have ended. Answers how the command has, once it has.
fn reap(command: Pid) -> Result<Option<u8>> {
    while let Some((pid, status)) =
        wait(WaitOptions::NOHANG).doing(|| "wait for a process".into())?
    {
        if pid == command {
            return Ok(Some(code(
                status.exit_status(),
                status.terminating_signal(),
            )));
        }
    }
    Ok(None)
}

/// The command's process. What is typed at the terminal is for it and those that it starts.
fn begin(channel: &Channel) -> ! {
    // It is no leader of a group yet; that there is no terminal is as good.
    let _ = setpgid(None, None);
    let _ = tcsetpgrp(stdin(), getpid());
    sys::reset_signals();
    let words = std::env::args_os().skip(1).map(OsStringExt::into_vec);
    let variables =
        std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
    let strings = |words: &mut dyn Iterator<Item = Vec<u8>>| -> Vec<CString> {
        // All have come as C strings.
        words.filter_map(|word| CString::new(word).ok()).collect()
    };
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    let args = strings(&mut { words });
    let error = privileges::execute(&args, &strings(&mut { variables }), &path);
    let _ = channel.failed(0, &error);
    sys::exit(i32::from(error.exit_code()))
}
