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
pub(crate) const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
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
    /// Pass it on, and look again in a moment, see [`Judge::look_again`].
    ForwardAndLook,
    /// Nothing.
    Wait,
}

/// What a process would do with a signal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attitude {
    /// It catches it.
    Handles,
    /// It ignores it.
    Ignores,
    /// It holds it back, and has or has not got it already.
    Blocks { pending: bool },
    /// Its default action, which the kernel keeps from a process 1.
    Default,
}

/// Decides on signals as they come.
#[derive(Default)]
pub(crate) struct Judge {
    insisted: Vec<Instant>,
    blocked: Option<i32>,
}

impl Judge {
    /// The kernel keeps a signal from the process 1 of a namespace that has no handler for it (pid_namespaces(7)), so that
    /// Ctrl-C would do nothing; that process gets what the signal stands for. One that handles it, ignores it or holds it
    /// back gets the signal; until somebody insists.
    pub(crate) fn decide(&mut self, signal: i32, status: Option<&str>, now: Instant) -> Verdict {
        if !ENDING.contains(&signal) {
            return Verdict::Forward;
        }
        if is_withheld(signal, status) {
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
        let attitude = status.map(|status| attitude(status, signal));
        if let Some(Attitude::Blocks { .. }) = attitude {
            self.blocked = Some(signal);
            return Verdict::ForwardAndLook;
        }
        Verdict::Forward
    }

    /// A shell blocks signals for a moment while it starts a program, and the kernel drops one that comes then; a program
    /// that waits for signals blocks them for good, and takes them. Only time tells the two apart.
    pub(crate) fn look_again(&mut self, status: Option<&str>) -> (Verdict, i32) {
        let signal = self.blocked.take().unwrap_or(0);
        let attitude = status
            .filter(|_| signal != 0)
            .map(|status| attitude(status, signal));
        let verdict = match attitude {
            Some(Attitude::Default) => Verdict::Kill,
            Some(Attitude::Blocks { pending: true }) => {
                self.blocked = Some(signal);
                Verdict::ForwardAndLook
            }
            _ => Verdict::Wait,
        };
        (verdict, signal)
    }
}

/// The process's status (proc(5)), which is ours to read as long as we have not reaped it.
pub(crate) fn status(pid: Pid) -> Option<String> {
    fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()
}

/// Whether a signal that should end process 1 would be kept from it.
pub(crate) fn is_withheld(signal: i32, status: Option<&str>) -> bool {
    ENDING.contains(&signal)
        && status.is_some_and(|status| attitude(status, signal) == Attitude::Default)
}

/// Read from a process's status. What cannot be read is taken for a handler: nothing is killed for it.
pub(crate) fn attitude(status: &str, signal: i32) -> Attitude {
    let has = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_none_or(|mask| mask & (1 << (signal - 1)) != 0)
    };
    if has("SigCgt:") {
        Attitude::Handles
    } else if has("SigIgn:") {
        Attitude::Ignores
    } else if has("SigBlk:") {
        Attitude::Blocks {
            pending: has("ShdPnd:") || has("SigPnd:"),
        }
    } else {
        Attitude::Default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n";
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
    fn a_moment_of_blocking_is_told_from_waiting_for_signals() {
        let mut judge = Judge::default();
        let blocked = |pending: &str| {
            format!("SigPnd:\t0\nShdPnd:\t{pending}\nSigBlk:\t4000\nSigIgn:\t0\nSigCgt:\t0\n")
        };
        let now = Instant::now();
        let first = judge.decide(libc::SIGTERM, Some(&blocked("0")), now);
        assert_eq!(first, Verdict::ForwardAndLook);
        let again = judge.look_again(Some(&blocked("4000")));
        assert_eq!(again.0, Verdict::ForwardAndLook);
        assert_eq!(
            judge.look_again(Some(PLAIN)),
            (Verdict::Kill, libc::SIGTERM)
        );
        judge.decide(libc::SIGTERM, Some(&blocked("0")), now);
        assert_eq!(judge.look_again(Some(&blocked("0"))).0, Verdict::Wait);
        assert_eq!(judge.look_again(Some(PLAIN)).0, Verdict::Wait);
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
