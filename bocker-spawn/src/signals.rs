//! Signals that the supervisor passes on, and what process 1 of a container would do with them.

use std::fs;
use std::time::{Duration, Instant};

use bocker_pipe::{Doing, Error, Kind, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::Pid;

/// What is passed on. Stop and continue keep their effect on the supervisor itself, as job control expects.
const FORWARDED: [Signal; 11] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGWINCH,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGVTALRM,
];
/// What ends a process that does not say otherwise, and is sent to make it end.
const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
/// As many INT or TERM within this time are meant.
const INSIST_TIMES: usize = 3;
const INSIST_WITHIN: Duration = Duration::from_secs(3);

/// Holds the signals back and makes them readable.
pub(crate) fn open() -> Result<SignalFd> {
    let set = SigSet::from_iter(FORWARDED);
    set.thread_block().doing(|| "block signals".into())?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(|| "make a descriptor for signals".into())
}

/// The number of a signal by name or number: `TERM`, `SIGTERM`, `15`.
pub(crate) fn parse(text: &str) -> Result<i32> {
    let unknown = || Error::new(Kind::Invalid, format!("'{text}' is not a signal"));
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let number: i32 = text.parse().map_err(|_| unknown())?;
        return (1..=libc::SIGRTMAX())
            .contains(&number)
            .then_some(number)
            .ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str, base: i32, sign: i32| -> Option<i32> {
        let rest = name.strip_prefix(if sign > 0 { "RTMIN" } else { "RTMAX" })?;
        let offset: i32 = match rest.strip_prefix(if sign > 0 { '+' } else { '-' }) {
            Some(digits) => digits.parse().ok()?,
            None if rest.is_empty() => 0,
            None => return None,
        };
        let number = base + sign * offset;
        (libc::SIGRTMIN()..=libc::SIGRTMAX())
            .contains(&number)
            .then_some(number)
    };
    format!("SIG{name}")
        .parse::<Signal>()
        .ok()
        .map(|signal| signal as i32)
        .or_else(|| real_time(name, libc::SIGRTMIN(), 1))
        .or_else(|| real_time(name, libc::SIGRTMAX(), -1))
        .ok_or_else(unknown)
}

/// What to do with a signal that came to the supervisor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass it on.
    Forward,
    /// End process 1, as the signal would have ended any other.
    Kill,
}

/// Decides on signals as they come.
#[derive(Default)]
pub(crate) struct Judge {
    insisted: Vec<Instant>,
}

impl Judge {
    /// The kernel keeps a signal from the process 1 of a namespace that has no handler for it (pid_namespaces(7)), so that
    /// Ctrl-C would do nothing; that process gets what the signal stands for. One that handles it, ignores it or holds it
    /// back gets the signal; until somebody insists.
    pub(crate) fn decide(&mut self, signal: i32, status: Option<&str>, now: Instant) -> Verdict {
        if !ENDING.contains(&signal) {
            return Verdict::Forward;
        }
        if status.is_some_and(|status| !heeds(status, signal)) {
            return Verdict::Kill;
        }
        if [libc::SIGINT, libc::SIGTERM].contains(&signal) {
            self.insisted
                .retain(|then| now.duration_since(*then) < INSIST_WITHIN);
            self.insisted.push(now);
            if self.insisted.len() >= INSIST_TIMES {
                return Verdict::Kill;
            }
        }
        Verdict::Forward
    }
}

/// The process's status (proc(5)), which is ours to read as long as we have not reaped it.
pub(crate) fn status(pid: Pid) -> Option<String> {
    fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()
}

/// Whether a process catches, ignores or blocks a signal: anything but its default action.
pub(crate) fn heeds(status: &str, signal: i32) -> bool {
    let bit = 1u64 << (signal - 1);
    ["SigCgt:", "SigIgn:", "SigBlk:"].iter().any(|key| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_none_or(|mask| mask & bit != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str =
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n";
    const CATCHES_TERM: &str =
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000004000\n";

    #[test]
    fn a_signal_goes_by_name_or_number() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse(text).unwrap(), 15);
        }
        assert_eq!(parse("RTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        assert_eq!(parse("SIGRTMAX-1").unwrap(), libc::SIGRTMAX() - 1);
        for text in ["", "0", "65", "-9", "SIG", "NOPE", "RTMIN+99", "9x"] {
            assert_eq!(parse(text).unwrap_err().kind(), &Kind::Invalid, "{text}");
        }
    }

    #[test]
    fn a_process_without_a_handler_is_ended_at_once() {
        let mut judge = Judge::default();
        let now = Instant::now();
        assert_eq!(judge.decide(libc::SIGINT, Some(PLAIN), now), Verdict::Kill);
        assert_eq!(
            judge.decide(libc::SIGUSR1, Some(PLAIN), now),
            Verdict::Forward
        );
        assert_eq!(
            judge.decide(libc::SIGINT, Some(CATCHES_TERM), now),
            Verdict::Kill
        );
    }

    #[test]
    fn a_handler_decides_until_somebody_insists() {
        let mut judge = Judge::default();
        let now = Instant::now();
        let mut decide = |after| {
            judge.decide(
                libc::SIGTERM,
                Some(CATCHES_TERM),
                now + Duration::from_secs(after),
            )
        };
        assert_eq!(decide(0), Verdict::Forward);
        assert_eq!(decide(10), Verdict::Forward);
        assert_eq!(decide(20), Verdict::Forward);
        assert_eq!(decide(21), Verdict::Forward);
        assert_eq!(decide(22), Verdict::Kill);
    }
}
