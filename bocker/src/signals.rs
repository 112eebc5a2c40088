//! What an ending signal does while a pipeline runs: the stages do the tearing down, so this process waits for them, and
//! passes a signal on that was sent to it alone.

use std::fs;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bocker_pipe::{Doing, Error, Kind, Result};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::sys;

/// What asks a program to end.
pub(crate) const ENDING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGTERM,
];

/// How long a stage may take until it has said what it does with signals. One started a moment ago would just die of it,
/// and what it had been given by the stage before it would be lost.
const READY: Duration = Duration::from_secs(1);

/// The last ending signal that came while a pipeline ran.
static PENDING: AtomicI32 = AtomicI32::new(0);

/// Fails with [`Kind::Interrupted`] when a signal came while a pipeline ran: what would follow it does not.
pub(crate) fn interrupted() -> Result<()> {
    match PENDING.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(Error::new(Kind::Interrupted(signal), "interrupted")),
    }
}

/// From now on an ending signal does nothing to this process: for a stage of a pipeline that takes things down.
pub(crate) fn ignore() -> Result<()> {
    for signal in ENDING {
        sys::ignore(signal).doing(|| "ignore a signal".into())?;
    }
    Ok(())
}

/// As long as it lives, an ending signal does not end this process.
#[derive(Debug)]
pub(crate) struct Watch {
    signals: SigSet,
    before: SigSet,
}

impl Watch {
    /// Begins. Fails as [`interrupted`] does.
    pub(crate) fn begin() -> Result<Watch> {
        interrupted()?;
        let signals = ENDING.into_iter().chain([Signal::SIGCHLD]).collect();
        let mut before = SigSet::empty();
        nix::sys::signal::pthread_sigmask(
            nix::sys::signal::SigmaskHow::SIG_BLOCK,
            Some(&signals),
            Some(&mut before),
        )
        .doing(|| "block signals".into())?;
        Ok(Watch { signals, before })
    }

    /// In a child, which will be another program.
    pub(crate) fn let_through(&self) -> Result<()> {
        self.before
            .thread_set_mask()
            .doing(|| "let signals through".into())
    }

    /// Waits until all of these children have ended, and reaps none: until then their pids are theirs.
    pub(crate) fn wait(&self, stages: &[Pid]) {
        // One that came while they were being started has not met all of them.
        while let Some(noted) = sys::wait_for_signal(&self.signals, Some(Duration::ZERO)) {
            if let Some(signal) = ending(&noted) {
                send(signal, stages);
            }
        }
        let mut left = stages.iter();
        while let Some(stage) = left.as_slice().first() {
            if has_ended(*stage) {
                left.next();
                continue;
            }
            match sys::wait_for_signal(&self.signals, None) {
                Some(noted) if !noted.by_kernel => {
                    if let Some(signal) = ending(&noted) {
                        send(signal, stages);
                    }
                }
                // The terminal's whole foreground group has it, the stages too.
                Some(noted) => drop(ending(&noted)),
                None => {}
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A mask that was in force before is a valid one.
        let _ = self.let_through();
    }
}

fn ending(noted: &sys::Noted) -> Option<Signal> {
    let signal = noted.signal.filter(|signal| ENDING.contains(signal))?;
    PENDING.store(signal as i32, Ordering::Relaxed);
    Some(signal)
}

fn has_ended(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
}

/// Sends a signal to each of these children, none of which has been reaped.
pub(crate) fn send(signal: Signal, stages: &[Pid]) {
    for pid in stages {
        wait_until_ready(*pid, signal);
        let _ = kill(*pid, signal);
    }
}
fn wait_until_ready(pid: Pid, signal: Signal) {
    let deadline = Instant::now() + READY;
    while !is_ready(pid, signal) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the process catches or ignores the signal, or has ended (proc_pid_status(5): SigIgn, SigCgt).
fn is_ready(pid: Pid, signal: Signal) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    let bit = 1u64 << (signal as i32 - 1);
    let has = |name: &str| {
        status
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .any(|mask| mask & bit != 0)
    };
    has("SigIgn:") || has("SigCgt:") || status.contains("State:\tZ")
}
