//! `attach`: the caller's terminal, or its streams, and those of a container that runs are one, until the container ends or
//! the caller leaves it. It is what `run --attach` does from the beginning.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use bocker_pipe::document::ExitMember;
use bocker_pipe::events::Event;
use bocker_pipe::{Arg, Call, Document, Doing, Error, Id, Kind, Result};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::process::{PidfdFlags, getppid, pidfd_open};
use serde_json::Value;

use crate::container::Container;
use crate::keys::Keys;
use crate::log::Stream;
use crate::options::{Options, boolean};
use crate::socket::{Answer, Connection, Hello, PACKET, PIECE, Request, Size, Welcome};
use crate::start::caller;
use crate::streams::PIPE_BUF;
use crate::{report, say, signals, socket, supervise, tty, wait};

/// How a client ends.
pub(crate) enum Ending {
    /// With the container.
    Ended(ExitMember),
    /// The keys were typed; the container goes on.
    Detached,
    /// It can do nothing more, as by this signal; the container goes on if it can.
    Gone(i32),
    /// The supervisor has gone without a word.
    Lost,
}

/// One who is attached.
pub(crate) struct Client {
    connection: Connection,
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    keys: Keys,
    sig_proxy: bool,
    /// Whether the container was begun for it: what ends its terminal is passed on then.
    began: bool,
}

/// What has been read from the caller and not been said yet.
#[derive(Default)]
struct Typed {
    bytes: Vec<u8>,
    /// A piece was said and is not taken.
    owed: bool,
    over: bool,
}

impl Client {
    /// For `run --attach`, with the caller's descriptors; and what the supervisor is to know of it.
    pub(crate) fn first(
        options: &Options,
        terminal: bool,
    ) -> Result<(Client, OwnedFd, Hello, Option<Size>)> {
        let (connection, theirs) = Connection::pair()?;
        let (stdin, stdout) = match terminal {
            true => tty::of_caller(options)?,
            false => (
                options.stdin.map(caller).transpose()?,
                caller(options.stdout.unwrap_or(2))?,
            ),
        };
        let keys = options.detach_keys.as_deref().map(Keys::parse);
        let client = Client {
            connection,
            stdin,
            stdout,
            stderr: caller(options.stderr.unwrap_or(2))?,
            keys: keys.transpose()?.unwrap_or_default(),
            sig_proxy: !options.no_sig_proxy,
            began: true,
        };
        let hello = Hello {
            stdin: client.stdin.is_some(),
            stdout: !options.no_stdout,
            stderr: !options.no_stderr,
        };
        let size = client.size();
        Ok((client, theirs, hello, size))
    }

    fn size(&self) -> Option<Size> {
        let of_stdin = self.stdin.as_ref().and_then(tty::size);
        of_stdin.or_else(|| tty::size(&self.stdout))
    }

    /// Copies until one of the sides ends it.
    pub(crate) fn run(&mut self, welcome: Welcome, signals: &SignalFd) -> Result<Ending> {
        if !welcome.stdin {
            self.stdin = None;
        }
        let raw = match &self.stdin {
            Some(stdin) if welcome.terminal => tty::Raw::new(stdin.as_fd())?,
            _ => None,
        };
        // When a shell's job has been killed around us the terminal is the shell's.
        let parent = match (&raw, getppid()) {
            (Some(_), Some(parent)) => pidfd_open(parent, PidfdFlags::empty()).ok(),
            _ => None,
        };
        let mut typed = Typed::default();
        let mut packet = [0; PACKET];
        let mut unwritten: (Stream, Range<usize>) = (Stream::Stdout, 0..0);
        loop {
            if !self.say_typed(&mut typed)? {
                return Ok(Ending::Lost);
            }
            let to = match unwritten.0 {
                Stream::Stdout => &self.stdout,
                Stream::Stderr => &self.stderr,
            };
            let wants = typed.bytes.is_empty() && !typed.owed;
            let stdin = self.stdin.as_ref().filter(|_| wants);
            let mut fds = vec![
                PollFd::new(signals, PollFlags::IN),
                match unwritten.1.is_empty() {
                    true => PollFd::new(&self.connection, PollFlags::IN),
                    false => PollFd::new(to, PollFlags::OUT),
                },
            ];
            fds.extend(stdin.map(|stdin| PollFd::new(stdin, PollFlags::IN)));
            fds.extend(
                parent
                    .iter()
                    .map(|parent| PollFd::new(parent, PollFlags::IN)),
            );
            rustix::io::retry_on_intr(|| poll(&mut fds, None))
                .doing(|| "wait for the container".into())?;
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0]
                && let Some(signal) = signals.read_signal().doing(|| "read a signal".into())?
                && let Some(ending) = self.signal(signal.ssi_signo as i32, welcome)?
            {
                return Ok(ending);
            }
            if ready[1] && !unwritten.1.is_empty() {
                let range = unwritten.1.clone();
                let piece = &packet[range];
                match write(to, &piece[..piece.len().min(PIPE_BUF)]) {
                    Ok(length) => unwritten.1.start += length,
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    // Nobody reads any more, or the terminal has hung up.
                    Err(errno) => return self.hang_up(errno == Errno::PIPE),
                }
            } else if ready[1] {
                match self.connection.hear(&mut packet)? {
                    Some(Answer::Output(stream, bytes)) => unwritten = (stream, 1..1 + bytes.len()),
                    Some(Answer::Taken) => typed.owed = false,
                    Some(Answer::Ended(exit)) => return Ok(Ending::Ended(exit)),
                    Some(Answer::LetGo(reason)) => return Err(socket::let_go(reason)),
                    Some(Answer::Welcome(_) | Answer::Stopping) => {}
                    None => return Ok(Ending::Lost),
                }
            }
            let others = &ready[2..];
            if parent.is_some() && others.last() == Some(&true) {
                return Ok(Ending::Gone(libc::SIGHUP));
            }
            if wants
                && self.stdin.is_some()
                && others.first() == Some(&true)
                && let Some(ending) = self.read_typed(&mut typed, raw.is_some())?
            {
                return Ok(ending);
            }
        }
    }

    /// Says what was typed, as far as it may be. `false` when nobody is there.
    fn say_typed(&self, typed: &mut Typed) -> Result<bool> {
        if typed.owed {
            return Ok(true);
        }
        if !typed.bytes.is_empty() {
            typed.owed = true;
            let rest = typed.bytes.split_off(typed.bytes.len().min(PIECE));
            let piece = std::mem::replace(&mut typed.bytes, rest);
            return self.connection.say(&Request::Input(&piece));
        }
        if typed.over {
            typed.over = false;
            return self.connection.say(&Request::EndOfInput);
        }
        Ok(true)
    }

    fn read_typed(&mut self, typed: &mut Typed, is_raw: bool) -> Result<Option<Ending>> {
        let Some(stdin) = &self.stdin else {
            return Ok(None);
        };
        let mut bytes = [0; PIECE];
        match read(stdin, &mut bytes) {
            Err(Errno::INTR | Errno::AGAIN) => Ok(None),
            // A raw terminal has no end of file: it has hung up.
            Ok(0) if is_raw => self.hang_up(false).map(Some),
            // The terminal is another's now.
            Err(Errno::IO) if is_raw => Ok(Some(Ending::Gone(libc::SIGHUP))),
            Ok(0) | Err(_) => {
                self.stdin = None;
                typed.over = true;
                Ok(None)
            }
            Ok(length) if is_raw => {
                let detached = self.keys.feed(&bytes[..length], &mut typed.bytes);
                if detached {
                    self.say_typed(typed)?;
                }
                Ok(detached.then_some(Ending::Detached))
            }
            Ok(length) => {
                typed.bytes.extend_from_slice(&bytes[..length]);
                Ok(None)
            }
        }
    }

    /// Whoever reads our output has gone. One whom the container was begun for takes it along, as a terminal would.
    fn hang_up(&self, is_pipe: bool) -> Result<Ending> {
        if self.began && self.sig_proxy {
            self.connection.say(&Request::Signal(libc::SIGHUP))?;
        }
        Ok(Ending::Gone(match is_pipe {
            true => libc::SIGPIPE,
            false => libc::SIGHUP,
        }))
    }

    fn signal(&self, signal: i32, welcome: Welcome) -> Result<Option<Ending>> {
        if signal == libc::SIGWINCH {
            let size = self.size().filter(|_| welcome.terminal);
            if let Some(size) = size {
                self.connection.say(&Request::Size(size))?;
            }
            return Ok(None);
        }
        // As docker: one who only looks in at a terminal passes on what is typed there, and nothing else.
        if self.sig_proxy && (self.began || !welcome.terminal) {
            self.connection.say(&Request::Signal(signal))?;
            return Ok(None);
        }
        let ends = signals::ENDING.contains(&signal);
        Ok(ends.then_some(Ending::Gone(signal)))
    }
}

/// The verb.
pub(crate) fn attach(call: &mut Call) -> Result<()> {
    let (mut stdin, mut sig_proxy, mut keys, mut name) = (true, true, Keys::default(), None);
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--no-stdin" => stdin = false,
                "--sig-proxy" => sig_proxy = boolean(call)?,
                "--detach-keys" => keys = Keys::parse(&call.text()?)?,
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) if name.is_some() => return Err(call.unexpected(&word)),
            Arg::Value(word) => name = Some(report::utf8(word)?),
        }
    }
    let name = name.ok_or_else(|| Error::new(Kind::Usage, "no container is given"))?;
    let container = Container::find(&name)?;
    container.must_run()?;
    if call.dry_run() {
        return Ok(());
    }
    let signals = signals::open()?;
    let Some(connection) = wait::connect(&container.id)? else {
        return Err(container.not_running());
    };
    let hello = Hello {
        stdin,
        stdout: true,
        stderr: true,
    };
    let mut packet = [0; PACKET];
    connection.say(&Request::Hello(hello))?;
    let welcome = match connection.hear(&mut packet)? {
        Some(Answer::Welcome(welcome)) => welcome,
        Some(Answer::LetGo(reason)) => return Err(socket::let_go(reason)),
        _ => return Err(container.not_running()),
    };
    let mut client = Client {
        connection,
        stdin: stdin.then(|| caller(0)).transpose()?,
        stdout: caller(1)?,
        stderr: caller(2)?,
        keys,
        sig_proxy,
        began: false,
    };
    if let Some(size) = client.size().filter(|_| welcome.terminal) {
        // As docker does it: a program that draws a screen draws it anew when its size changes, and only then.
        let other = Size {
            rows: size.rows.saturating_add(1),
            columns: size.columns.saturating_add(1),
        };
        client.connection.say(&Request::Size(other))?;
        client.connection.say(&Request::Size(size))?;
    }
    Event::of(&container.document, "attach").record();
    let code = match client.run(welcome, &signals)? {
        Ending::Ended(exit) => exit.code,
        Ending::Detached => {
            left(&container.document, &container.id);
            0
        }
        Ending::Gone(signal) => supervise::code(None, Some(signal)),
        Ending::Lost => wait::recorded(&container.id, &name)?,
    };
    call.set_exit_code(code);
    Ok(())
}

/// Somebody has left a container, which goes on.
pub(crate) fn left(document: &Document, id: &Id) {
    Event::of(document, "detach").record();
    let name = document.value("/bocker/name").and_then(Value::as_str);
    let name = name.unwrap_or(id.as_str());
    say(format_args!(
        "detached: {name} goes on, and attach comes back to it"
    ));
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_piece_is_said_when_the_one_before_it_is_taken_and_the_end_after_all() {
        let (connection, theirs) = Connection::pair().unwrap();
        let null = || File::open("/dev/null").unwrap().into();
        let client = Client {
            connection,
            stdin: None,
            stdout: null(),
            stderr: null(),
            keys: Keys::default(),
            sig_proxy: true,
            began: true,
        };
        let mut typed = Typed {
            bytes: vec![b'x'; PIECE + 1],
            owed: false,
            over: true,
        };
        let mut buffer = [0; PACKET];
        let mut hear = || {
            let length = socket::receive(theirs.as_fd(), &mut buffer, false);
            length.map(|length| (buffer[0], length))
        };
        let pieces = [Ok((b'i', PACKET)), Ok((b'i', 2)), Ok((b'e', 1))];
        for expected in pieces {
            assert!(client.say_typed(&mut typed).unwrap() && client.say_typed(&mut typed).unwrap());
            assert_eq!((hear(), hear()), (expected, Err(Errno::AGAIN)));
            typed.owed = false;
        }
    }
}
