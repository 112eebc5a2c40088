//! What a supervisor and those who talk to it say to each other: one packet a message over a socket in the claim's folder
//! (AF_UNIX, SOCK_SEQPACKET), one byte of kind and the rest. This file has the messages and the client's end.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bocker_pipe::claim::SOCKET;
use bocker_pipe::document::ExitMember;
use bocker_pipe::{Doing, Error, Id, Kind, Result, paths};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, sendmsg, socket_with, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::log::Stream;

/// The most bytes of a stream in one message.
pub(crate) const PIECE: usize = 16 << 10;
/// A packet: the kind, and a piece.
pub(crate) const PACKET: usize = 1 + PIECE;
/// How long a supervisor may take for an answer. One that was stopped by a signal answers nobody.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client wants to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    #[serde(default)]
    pub(crate) stdin: bool,
    #[serde(default)]
    pub(crate) stdout: bool,
    #[serde(default)]
    pub(crate) stderr: bool,
}

/// What the container has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// A terminal of its own.
    pub(crate) terminal: bool,
    /// A stdin that can be written to.
    pub(crate) stdin: bool,
}

/// Of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Its first message.
    Hello(Hello),
    /// Bytes for the container's stdin. The next come only after [`Answer::Taken`].
    Input(&'a [u8]),
    /// There will be no more.
    EndOfInput,
    /// Its terminal has this size.
    Size(Size),
    /// A signal for process 1, as if the supervisor had got it.
    Signal(i32),
    /// The container is not to be restarted.
    Stop,
}

/// What the supervisor says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// To [`Request::Hello`].
    Welcome(Welcome),
    /// What the container wrote.
    Output(Stream, &'a [u8]),
    /// The input has reached the container, or nobody will read it.
    Taken,
    /// To [`Request::Stop`].
    Stopping,
    /// The container has ended; nothing comes after it.
    Ended(ExitMember),
    /// Why the supervisor talks no more to this client.
    LetGo(&'a str),
}

/// The kinds. A client's are small letters.
mod kind {
    pub(super) const HELLO: u8 = b'h';
    pub(super) const INPUT: u8 = b'i';
    pub(super) const END_OF_INPUT: u8 = b'e';
    pub(super) const SIZE: u8 = b'w';
    pub(super) const SIGNAL: u8 = b'k';
    pub(super) const STOP: u8 = b's';
    pub(super) const WELCOME: u8 = b'W';
    pub(super) const STDOUT: u8 = b'O';
    pub(super) const STDERR: u8 = b'E';
    pub(super) const TAKEN: u8 = b'T';
    pub(super) const STOPPING: u8 = b'S';
    pub(super) const ENDED: u8 = b'X';
    pub(super) const LET_GO: u8 = b'G';
}

/// The kind and the payload of a message, which is in part the sender's.
type Parts<'a> = (u8, std::borrow::Cow<'a, [u8]>);

fn json<'a>(kind: u8, value: &impl Serialize) -> Parts<'a> {
    // Structures of numbers and texts can always be written.
    (kind, serde_json::to_vec(value).unwrap_or_default().into())
}

impl Request<'_> {
    fn parts(&self) -> Parts<'_> {
        match self {
            Request::Hello(hello) => json(kind::HELLO, hello),
            Request::Input(bytes) => (kind::INPUT, (*bytes).into()),
            Request::EndOfInput => (kind::END_OF_INPUT, Default::default()),
            Request::Size(size) => json(kind::SIZE, size),
            Request::Signal(number) => json(kind::SIGNAL, number),
            Request::Stop => (kind::STOP, Default::default()),
        }
    }

    /// Of a packet; `None` when it is no message.
    pub(crate) fn parse(packet: &[u8]) -> Option<Request<'_>> {
        let (kind, rest) = packet.split_first()?;
        match (*kind, rest) {
            (kind::HELLO, _) => serde_json::from_slice(rest).ok().map(Request::Hello),
            (kind::INPUT, [_, ..]) => Some(Request::Input(rest)),
            (kind::END_OF_INPUT, []) => Some(Request::EndOfInput),
            (kind::SIZE, _) => serde_json::from_slice(rest).ok().map(Request::Size),
            (kind::SIGNAL, _) => {
                let number: i32 = serde_json::from_slice(rest).ok()?;
                let is_signal = (1..=libc::SIGRTMAX()).contains(&number);
                is_signal.then_some(Request::Signal(number))
            }
            (kind::STOP, []) => Some(Request::Stop),
            _ => None,
        }
    }
}

impl Answer<'_> {
    fn parts(&self) -> Parts<'_> {
        match self {
            Answer::Welcome(welcome) => json(kind::WELCOME, welcome),
            Answer::Output(Stream::Stdout, bytes) => (kind::STDOUT, (*bytes).into()),
            Answer::Output(Stream::Stderr, bytes) => (kind::STDERR, (*bytes).into()),
            Answer::Taken => (kind::TAKEN, Default::default()),
            Answer::Stopping => (kind::STOPPING, Default::default()),
            Answer::Ended(exit) => json(kind::ENDED, exit),
            Answer::LetGo(reason) => (kind::LET_GO, reason.as_bytes().into()),
        }
    }

    /// Of a packet; `None` when it is no message.
    pub(crate) fn parse(packet: &[u8]) -> Option<Answer<'_>> {
        let (kind, rest) = packet.split_first()?;
        match (*kind, rest) {
            (kind::WELCOME, _) => serde_json::from_slice(rest).ok().map(Answer::Welcome),
            (kind::STDOUT, _) => Some(Answer::Output(Stream::Stdout, rest)),
            (kind::STDERR, _) => Some(Answer::Output(Stream::Stderr, rest)),
            (kind::TAKEN, []) => Some(Answer::Taken),
            (kind::STOPPING, []) => Some(Answer::Stopping),
            (kind::ENDED, _) => serde_json::from_slice(rest).ok().map(Answer::Ended),
            (kind::LET_GO, _) => std::str::from_utf8(rest).ok().map(Answer::LetGo),
            _ => None,
        }
    }
}

/// One packet, at once or not at all.
fn send(socket: BorrowedFd, (kind, payload): Parts, flags: SendFlags) -> rustix::io::Result<()> {
    let kind = [kind];
    let slices = [IoSlice::new(&kind), IoSlice::new(&payload)];
    let flags = flags | SendFlags::NOSIGNAL;
    let mut none = SendAncillaryBuffer::default();
    rustix::io::retry_on_intr(|| sendmsg(socket, &slices, &mut none, flags)).map(drop)
}

/// The supervisor never waits for a client.
pub(crate) fn answer(socket: BorrowedFd, answer: &Answer) -> rustix::io::Result<()> {
    send(socket, answer.parts(), SendFlags::DONTWAIT)
}

/// One packet into the buffer: its length, 0 at the end. One that is longer than any message is none.
pub(crate) fn receive(
    socket: BorrowedFd,
    buffer: &mut [u8],
    wait: bool,
) -> rustix::io::Result<usize> {
    let flags = match wait {
        true => RecvFlags::TRUNC,
        false => RecvFlags::TRUNC | RecvFlags::DONTWAIT,
    };
    let space = buffer.len();
    let mut take = || rustix::io::retry_on_intr(|| recv(socket, &mut *buffer, flags));
    let (_, length) = match take() {
        // Said once, when the other side has gone without having heard all of ours: what it said comes after it.
        Err(Errno::CONNRESET) => take(),
        result => result,
    }?;
    match length > space {
        true => Err(Errno::MSGSIZE),
        false => Ok(length),
    }
}

/// Where a container's supervisor listens.
pub(crate) fn path(id: &Id) -> PathBuf {
    paths::claim(id).join(SOCKET)
}

/// A new socket that is connected to nobody.
pub(crate) fn new(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The client's end of a conversation.
#[derive(Debug)]
pub(crate) struct Connection(OwnedFd);

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Connection {
    /// Talks to the supervisor of a container; `None` where none listens.
    pub(crate) fn open(id: &Id) -> Result<Option<Connection>> {
        let path = path(id);
        let doing = || format!("talk to the supervisor of {id}");
        let socket = new(SocketFlags::empty()).doing(doing)?;
        let address = SocketAddrUnix::new(&path).doing(doing)?;
        match rustix::io::retry_on_intr(|| connect(&socket, &address)) {
            Ok(()) => Ok(Some(Connection(socket))),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(errno).doing(doing),
        }
    }

    /// A connection, and the supervisor's end of it.
    pub(crate) fn pair() -> Result<(Connection, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .doing(|| "make a socket pair".into())?;
        Ok((Connection(ours), theirs))
    }

    /// Says something. `false` when nobody is there any more.
    pub(crate) fn say(&self, request: &Request) -> Result<bool> {
        match send(self.as_fd(), request.parts(), SendFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(false),
            Err(errno) => Err(errno).doing(|| "talk to the supervisor".into()),
        }
    }

    /// The next answer, waited for; `None` when nobody is there any more.
    pub(crate) fn hear<'a>(&self, buffer: &'a mut [u8; PACKET]) -> Result<Option<Answer<'a>>> {
        let doing = || "hear from the supervisor".to_owned();
        match receive(self.as_fd(), buffer, true) {
            Ok(0) => Ok(None),
            Ok(length) => match Answer::parse(&buffer[..length]) {
                Some(answer) => Ok(Some(answer)),
                None => Err(Error::new(
                    Kind::System(libc::EPROTO),
                    "the supervisor says what is no message",
                )
                .hint("it may be of another release: restart the container")),
            },
            Err(errno) => Err(errno).doing(doing),
        }
    }

    fn stop(&self, id: &Id) -> Result<bool> {
        let mut buffer = [0; PACKET];
        let deadline = Instant::now() + PATIENCE;
        if !self.say(&Request::Stop)? {
            return Ok(false);
        }
        while self.wait(deadline.saturating_duration_since(Instant::now()))? {
            match self.hear(&mut buffer)? {
                Some(Answer::Stopping) => return Ok(true),
                Some(Answer::LetGo(reason)) => return Err(let_go(reason)),
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Err(Error::new(
            Kind::InUse,
            format!("the supervisor of {id} does not answer"),
        )
        .hint("it may have been stopped by a signal"))
    }

    /// Waits until there is something to hear, or that long. Whether there is.
    fn wait(&self, patience: Duration) -> Result<bool> {
        let time = Timespec::try_from(patience).ok();
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, time.as_ref()))
            .map(|ready| ready > 0)
            .doing(|| "wait for the supervisor".into())
    }
}

/// Tells a container's supervisor that it is not to restart it, and waits until it knows. `false` where none listens.
/// Fails with [`Kind::InUse`] when it does not answer.
pub(crate) fn stop(id: &Id) -> Result<bool> {
    Connection::open(id)?.map_or(Ok(false), |connection| connection.stop(id))
}

/// The same, and has it kill the container's process 1.
pub(crate) fn kill(id: &Id) -> Result<bool> {
    let Some(connection) = Connection::open(id)? else {
        return Ok(false);
    };
    Ok(connection.stop(id)?
        && connection.say(&Request::Hello(Hello::default()))?
        && connection.say(&Request::Signal(libc::SIGKILL))?)
}

/// The error of a client that was let go.
pub(crate) fn let_go(reason: &str) -> Error {
    Error::new(Kind::InUse, format!("let go by the supervisor: {reason}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole((kind, payload): Parts) -> Vec<u8> {
        [&[kind], &*payload].concat()
    }

    #[test]
    fn what_a_client_says_is_understood() {
        let hello = Hello {
            stdin: true,
            stdout: true,
            stderr: false,
        };
        for request in [
            Request::Hello(hello),
            Request::Input(b"x\0"),
            Request::EndOfInput,
            Request::Size(Size {
                rows: 65535,
                columns: 0,
            }),
            Request::Signal(9),
            Request::Stop,
        ] {
            let packet = whole(request.parts());
            assert_eq!(Request::parse(&packet), Some(request));
        }
    }

    #[test]
    fn what_the_supervisor_says_is_understood() {
        let exit = ExitMember {
            code: 137,
            signal: Some(9),
            oom: true,
            finished: Some("then".into()),
            ..ExitMember::default()
        };
        for answer in [
            Answer::Welcome(Welcome::default()),
            Answer::Output(Stream::Stdout, b"out"),
            Answer::Output(Stream::Stderr, b""),
            Answer::Taken,
            Answer::Stopping,
            Answer::Ended(exit),
            Answer::LetGo("why"),
        ] {
            let packet = whole(answer.parts());
            assert_eq!(Answer::parse(&packet), Some(answer));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for packet in [
            &b""[..],
            b"?",
            b"h",
            b"h{",
            b"h[]x",
            b"i",
            b"e1",
            b"w{}",
            b"k0",
            b"k65",
            b"k-9",
            b"s ",
        ] {
            assert_eq!(Request::parse(packet), None, "{packet:?}");
        }
    }

    #[test]
    fn a_packet_that_is_too_long_is_no_message() {
        let (ours, theirs) = Connection::pair().unwrap();
        assert!(ours.say(&Request::Input(&[0; PIECE + 1])).unwrap());
        let mut buffer = [0; PACKET];
        let received = receive(theirs.as_fd(), &mut buffer, false);
        assert_eq!(received, Err(Errno::MSGSIZE));
        assert!(ours.say(&Request::Input(&[7; PIECE])).unwrap());
        assert_eq!(receive(theirs.as_fd(), &mut buffer, false), Ok(PACKET));
        drop(theirs);
        assert!(!ours.say(&Request::Stop).unwrap());
        assert_eq!(ours.hear(&mut buffer).unwrap(), None);
    }

    #[test]
    fn what_was_said_before_one_went_is_heard() {
        let (ours, theirs) = Connection::pair().unwrap();
        assert!(ours.say(&Request::Signal(1)).unwrap());
        // It goes without hearing this.
        answer(theirs.as_fd(), &Answer::Taken).unwrap();
        drop(ours);
        let mut buffer = [0; PACKET];
        let length = receive(theirs.as_fd(), &mut buffer, false).unwrap();
        assert_eq!(Request::parse(&buffer[..length]), Some(Request::Signal(1)));
        assert_eq!(receive(theirs.as_fd(), &mut buffer, false), Ok(0));
    }

    proptest! {
        #[test]
        fn no_packet_makes_anybody_panic(packet in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = (Request::parse(&packet), Answer::parse(&packet));
        }
    }
}
