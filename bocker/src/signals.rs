//! What an ending signal does while a pipeline runs: the stages do the tearing down, so this process waits for them, and
//! passes a signal on that was sent to it alone.

use std::fs;
use std::io::{BufReader, Read};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bocker_pipe::{Error, Kind, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys::{Noted, note_signals};

/// How long a stage may take until it has said what it does with signals. One started a moment ago would just die of it,
/// and what it had been given by the stage before it would be lost.
const READY: Duration = Duration::from_secs(1);

/// The stages that run now; none of them has been reaped, so that their pids are theirs.
static STAGES: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
static PENDING: AtomicI32 = AtomicI32::new(0);

fn stages() -> MutexGuard<'static, Vec<Pid>> {
    STAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to note and pass on signals. Fails with [`Kind::Interrupted`] when one came since the last pipeline.
pub(crate) fn watch() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        result = note_signals().map(|pipe| {
            thread::spawn(move || {
                for byte in BufReader::new(pipe)
                    .bytes()
                    .map_while(std::result::Result::ok)
                {
                    pass_on(Noted::from(byte));
                }
            });
        });
    });
    result?;
    interrupted()
}

/// Fails with [`Kind::Interrupted`] when a signal has come since [`watch`]: what waits between pipelines stops waiting.
pub(crate) fn interrupted() -> Result<()> {
    match PENDING.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(Error::new(Kind::Interrupted(signal), "interrupted")),
    }
}

/// These stages get the signals that come from now on.
pub(crate) fn begin(pids: Vec<Pid>) {
    *stages() = pids;
    // One that came while they were being started has met none of them.
    if let Ok(signal) = Signal::try_from(PENDING.load(Ordering::Relaxed)) {
        send(signal);
    }
}

/// The stages are about to be reaped: their pids will be other people's.
pub(crate) fn end() {
    stages().clear();
}

fn pass_on(noted: Noted) {
    PENDING.store(noted.signal, Ordering::Relaxed);
    if !noted.by_kernel
        && let Ok(signal) = Signal::try_from(noted.signal)
    {
        send(signal);
    }
}

fn send(signal: Signal) {
    for pid in stages().iter() {
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
