//! Where the time goes. With `BOCKER_TIMING=FD` a tool writes a line to that descriptor for each thing that it has done: when
//! it began, on the clock that all processes share, how long it took, who did it, and what it was. Without it nothing is
//! measured.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Names the descriptor.
pub const VARIABLE: &str = "BOCKER_TIMING";

/// What a tool does from its `main` to its end.
pub const ALL: &str = "from begin to end";
/// The wait for the document of the stage before, and its reading.
pub const READS: &str = "reads the document";
/// The writing of the document.
pub const PASSES_ON: &str = "passes the document on";

/// Below this, descriptors are numbered by callers.
const FIRST_OWN: RawFd = 10;

struct Log {
    file: File,
    who: String,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// From now on [`measure`] writes in the name of `who`, if the environment asks for it.
pub fn begin(who: impl Display) {
    let asked = std::env::var(VARIABLE).ok();
    if let Some(number) = asked.and_then(|text| text.parse().ok()) {
        log_to(number, who);
    }
}

/// From now on [`measure`] writes to this descriptor; one that is not open is left alone.
pub fn log_to(number: RawFd, who: impl Display) {
    if let Some(fd) = duplicate(number) {
        let (file, who) = (fd.into(), who.to_string());
        let _ = LOG.set(Log { file, who });
    }
}

/// Does it, and writes how long that took if somebody asked.
pub fn measure<T>(what: impl Display, act: impl FnOnce() -> T) -> T {
    let Some(log) = LOG.get() else { return act() };
    let began = now();
    let result = act();
    let took = now().saturating_sub(began);
    let (began, took, who) = (milliseconds(began), milliseconds(took), &log.who);
    // In one write, since all stages share the descriptor; whether somebody reads it does not matter to the work.
    let _ = (&log.file).write_all(format!("{began:.3}\t{took:.3}\t{who}\t{what}\n").as_bytes());
    result
}

fn now() -> Duration {
    // It fails for an unknown clock only.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The descriptor that the caller passed, as one that execve(2) closes.
fn duplicate(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl(2) checks the number itself (EBADF) and answers with a new descriptor.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, FIRST_OWN) };
    // SAFETY: `fd` is new, and nobody else owns it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
