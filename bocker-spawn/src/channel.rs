//! What a container's first process and its supervisor say to each other until the command is executed: one datagram per
//! message over a socket pair that execve(2) closes, so that the end of file means success.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    send, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::sys;

/// More than any message: an error's two texts are cut so that they fit, each character escaped to six bytes.
const MAX_MESSAGE: usize = 8192;
const MAX_TEXT: usize = 400;

/// What comes from the other side.
#[derive(Debug)]
pub(crate) enum Message {
    /// So many parts of the work are done.
    Done(usize),
    /// The same, with a descriptor: the terminal's master, or a pidfd.
    Descriptor(OwnedFd),
    /// The process ended with this wait status: exit code, or signal.
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// It failed after so many parts, and the sender is gone.
    Failed(usize, Error),
    /// End of file.
    Closed,
}

#[derive(Serialize, Deserialize)]
enum Wire {
    Done(usize),
    Descriptor,
    Ended(Option<i32>, Option<i32>),
    Failed {
        done: usize,
        kind: WireKind,
        message: String,
        hint: Option<String>,
    },
}

/// The kinds of error that setting up a container has.
#[derive(Serialize, Deserialize)]
enum WireKind {
    System(i32),
    Document,
    Invalid,
    Unsupported,
    CannotExecute,
    CommandNotFound,
}

/// One end.
pub(crate) struct Channel(OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Channel, Channel)> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .doing(|| "make a socket pair".into())?;
        Ok((Channel(a), Channel(b)))
    }

    /// The end that the program before this one in the process has handed on under this number.
    pub(crate) fn inherited(number: RawFd) -> Result<Channel> {
        let end = sys::duplicate(number).doing(|| format!("use descriptor {number}"))?;
        sys::close(number);
        Ok(Channel(end))
    }

    fn send(&self, wire: &Wire, fd: Option<BorrowedFd>) -> Result<()> {
        let bytes = serde_json::to_vec(wire).unwrap_or_default();
        let flags = SendFlags::NOSIGNAL;
        match fd {
            None => send(&self.0, &bytes, flags).map(drop),
            Some(fd) => {
                let fds = [fd];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&fds));
                sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, flags).map(drop)
            }
        }
        .doing(|| "speak to the supervisor".into())
    }

    /// Says that so many parts are done.
    pub(crate) fn done(&self, parts: usize) -> Result<()> {
        self.send(&Wire::Done(parts), None)
    }

    /// Passes a descriptor on.
    pub(crate) fn descriptor(&self, fd: BorrowedFd) -> Result<()> {
        self.send(&Wire::Descriptor, Some(fd))
    }

    /// Says how the process ended.
    pub(crate) fn ended(&self, code: Option<i32>, signal: Option<i32>) -> Result<()> {
        self.send(&Wire::Ended(code, signal), None)
    }

    /// Says what failed after so many parts.
    pub(crate) fn failed(&self, done: usize, error: &Error) -> Result<()> {
        let kind = match error.kind() {
            Kind::System(errno) => WireKind::System(*errno),
            Kind::Document => WireKind::Document,
            Kind::Unsupported => WireKind::Unsupported,
            Kind::CannotExecute => WireKind::CannotExecute,
            Kind::CommandNotFound => WireKind::CommandNotFound,
            _ => WireKind::Invalid,
        };
        self.send(
            &Wire::Failed {
                done,
                kind,
                message: cut(error.message()),
                hint: error.hint_text().map(cut),
            },
            None,
        )
    }

    /// Lets the other side go on.
    pub(crate) fn go(&self) -> Result<()> {
        self.done(0)
    }

    /// Waits until the other side says to go on; `false` when it is gone.
    pub(crate) fn wait(&self) -> bool {
        let mut bytes = [0u8; MAX_MESSAGE];
        loop {
            match recv(&self.0, &mut bytes, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Ok((received, _)) => return received > 0,
                Err(_) => return false,
            }
        }
    }

    /// The next message.
    pub(crate) fn receive(&self) -> Result<Message> {
        let mut bytes = [0u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let flags = RecvFlags::CMSG_CLOEXEC;
            match recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags,
            ) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(Message::Closed),
                result => break result.doing(|| "hear from the container's process".into())?,
            }
        };
        if received.bytes == 0 {
            return Ok(Message::Closed);
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let wire = if received.flags.contains(ReturnFlags::TRUNC) {
            None
        } else {
            serde_json::from_slice(&bytes[..received.bytes]).ok()
        };
        Ok(match (wire, fd) {
            (Some(Wire::Done(parts)), _) => Message::Done(parts),
            (Some(Wire::Descriptor), Some(fd)) => Message::Descriptor(fd),
            (Some(Wire::Ended(code, signal)), _) => Message::Ended { code, signal },
            (
                Some(Wire::Failed {
                    done,
                    kind,
                    message,
                    hint,
                }),
                _,
            ) => {
                let kind = match kind {
                    WireKind::System(errno) => Kind::System(errno),
                    WireKind::Document => Kind::Document,
                    WireKind::Invalid => Kind::Invalid,
                    WireKind::Unsupported => Kind::Unsupported,
                    WireKind::CannotExecute => Kind::CannotExecute,
                    WireKind::CommandNotFound => Kind::CommandNotFound,
                };
                let error = Error::new(kind, message);
                let error = match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                };
                Message::Failed(done, error)
            }
            _ => {
                let what = "the container's process sent a message that is none";
                Message::Failed(0, Error::new(Kind::System(libc::EPROTO), what))
            }
        })
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_with_its_kind() {
        let (here, there) = Channel::pair().unwrap();
        let error = Error::new(Kind::CommandNotFound, "no such command").hint("look for it");
        there.failed(4, &error).unwrap();
        drop(there);
        match here.receive().unwrap() {
            Message::Failed(done, received) => assert_eq!((done, received), (4, error)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(here.receive().unwrap(), Message::Closed));
        assert!(!here.wait());
    }

    #[test]
    fn a_long_error_is_cut_and_not_lost() {
        let (here, there) = Channel::pair().unwrap();
        there
            .failed(0, &Error::new(Kind::Invalid, "\u{1F980}".repeat(10_000)))
            .unwrap();
        assert!(matches!(here.receive().unwrap(), Message::Failed(..)));
    }

    #[test]
    fn a_descriptor_crosses() {
        let (here, there) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        there.descriptor(file.as_fd()).unwrap();
        assert!(matches!(here.receive().unwrap(), Message::Descriptor(_)));
    }
}
