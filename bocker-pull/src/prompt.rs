//! Asks whoever sits at the terminal; what is a secret is not shown while it is typed. The terminal is put back as it was, whether a line
//! comes or a signal.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use bocker_pipe::step::interruption;
use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// How often who waits for a line looks whether a signal came.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// A terminal gives no more of a line (termios(3), "Canonical and noncanonical mode").
const LINE: usize = 4096;
/// A special character that nothing stands for (termios(3), `_POSIX_VDISABLE`).
const DISABLED: u8 = 0;

/// What is typed after the question, without the end of its line. Signals have to be noted, as by
/// [`Call::catch_signals`](bocker_pipe::Call::catch_signals).
pub(crate) fn ask(question: &str, is_secret: bool) -> Result<String> {
    let what = || "read from the terminal".to_owned();
    let stdin = io::stdin();
    let _hidden = match is_secret {
        true => Some(Hidden::new(stdin.as_fd().try_clone_to_owned().doing(what)?).doing(what)?),
        false => None,
    };
    write!(io::stderr(), "{question}: ").doing(what)?;
    let mut line = vec![0; LINE];
    loop {
        interruption()?;
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&TICK)) {
            Ok(0) | Err(Errno::INTR) => continue,
            ready => ready.doing(what)?,
        };
        // One read is one line, or what is there of it when the input ends.
        match read(&stdin, &mut line[..]) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            length => {
                line.truncate(length.doing(what)?);
                break;
            }
        }
    }
    let text = String::from_utf8(line)
        .map_err(|_| Error::new(Kind::Invalid, "what was typed is not UTF-8"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that shows of what is typed only the end of the line; as it was before when dropped.
struct Hidden {
    terminal: OwnedFd,
    before: Termios,
}

impl Hidden {
    fn new(terminal: OwnedFd) -> rustix::io::Result<Hidden> {
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes -= LocalModes::ECHO;
        hidden.local_modes |= LocalModes::ECHONL;
        // One that is stopped would leave the shell a terminal that shows nothing.
        hidden.special_codes[SpecialCodeIndex::VSUSP] = DISABLED;
        tcsetattr(&terminal, OptionalActions::Drain, &hidden)?;
        Ok(Hidden { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that has gone needs no mode.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}
