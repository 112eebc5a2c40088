//! Netlink sockets, synchronously: a request or a batch goes out, its answers come back (netlink(7), linux/netlink.h).

use bocker_pipe::{Doing, Error, Kind, Result};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// `struct nlmsghdr`: length, type, flags, sequence, port.
pub(crate) const HEADER: usize = 16;
/// Every message and attribute begins at a multiple of this (NLMSG_ALIGNTO, NLA_ALIGNTO).
pub(crate) const ALIGN: usize = 4;
/// The kernel fills dumps in pieces of at most this size.
const BUFFER: usize = 32 * 1024;
/// What every socket sends at once, however the machine is set up (socket(7), wmem_default is 212,992).
const SMALL: usize = 64 * 1024;
/// How often a dump is begun again that was disturbed.
const TRIES: usize = 32;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The two flag bits of an attribute's type (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// `struct nfgenmsg` of linux/netfilter/nfnetlink.h: family, version, resource.
pub(crate) const NFGENMSG: usize = 4;
pub(crate) const NFPROTO_IPV4: u8 = 2;
pub(crate) const NFPROTO_IPV6: u8 = 10;
const NFNETLINK_V0: u8 = 0;
const NLA_F_NESTED: u16 = 0x8000;

/// What the kernel answered instead of doing it.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) errno: Errno,
    /// The same in words, where the kernel gives them (NETLINK_EXT_ACK).
    text: Option<String>,
}

impl Refusal {
    /// "cannot `what`: File exists (EEXIST): the kernel's own words".
    pub(crate) fn error(&self, what: &str) -> Error {
        let error = Error::system(what, self.errno);
        match &self.text {
            Some(text) => Error::new(
                Kind::System(self.errno as i32),
                format!("{}: {text}", error.message()),
            ),
            None => error,
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal { errno, text: None }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)).into()
    }
}

/// One message of an answer, its header included.
pub(crate) type Answer = Vec<u8>;

/// A netlink socket. It stays in the network namespace in which it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket of this protocol (NETLINK_ROUTE, NETLINK_NETFILTER) in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Netlink> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Both only make errors shorter and better worded; a kernel without them is as good.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            Ok::<_, std::io::Error>(socket)
        };
        let socket = open().doing(|| "open a netlink socket".into())?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// From here on the kernel refuses in dumps what it would not look at, and looks at what it would not: the index of an
    /// interface, whose addresses alone are wanted (NETLINK_GET_STRICT_CHK, netlink(7)).
    pub(crate) fn be_strict(&self, strict: bool) -> Result<()> {
        self.socket
            .set_netlink_get_strict_chk(strict)
            .doing(|| "set up a netlink socket".into())
    }

    /// A number for the next message, by which its answer is known.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Appends a request of netfilter's, with its `struct nfgenmsg`, and says its sequence number.
    pub(crate) fn netfilter(
        &mut self,
        into: &mut Vec<u8>,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: &[u8],
    ) -> u32 {
        let sequence = self.next_sequence();
        // Nothing that we send comes near 4 GiB.
        let length = (HEADER + NFGENMSG + attributes.len()) as u32;
        into.extend_from_slice(&length.to_ne_bytes());
        into.extend_from_slice(&kind.to_ne_bytes());
        into.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        into.extend_from_slice(&sequence.to_ne_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&[family, NFNETLINK_V0]);
        into.extend_from_slice(&resource.to_be_bytes());
        into.extend_from_slice(attributes);
        sequence
    }

    /// Sends messages and collects what comes back until the acknowledgement of message `last`, or the end of a dump.
    /// Fails with the first refusal. `first` and `last` are the sequence numbers of what is sent.
    pub(crate) fn exchange(
        &mut self,
        bytes: &[u8],
        first: u32,
        last: u32,
    ) -> Result<Vec<Answer>, Refusal> {
        if bytes.len() > SMALL {
            // A message is sent whole or not at all, and the kernel counts its own bookkeeping in.
            setsockopt(&self.socket, sockopt::SndBufForce, &(2 * bytes.len()))
                .map_err(Refusal::from)?;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            self.socket.send(bytes, 0)?;
            match self.collect(first, last) {
                // A dump during which the table changed may lack entries (NLM_F_DUMP_INTR): ask again.
                Err(refusal) if refusal.errno == Errno::EINTR && tries < TRIES => {}
                result => return result,
            }
        }
    }

    fn collect(&mut self, first: u32, last: u32) -> Result<Vec<Answer>, Refusal> {
        let mut answers = Answers::to(first, last);
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(result) = answers.take(&buffer) {
                return result;
            }
        }
    }
}

/// What has come back so far of one exchange.
struct Answers {
    /// The sequence numbers of what was sent.
    first: u32,
    last: u32,
    messages: Vec<Answer>,
    refusal: Option<Refusal>,
    /// The table changed while the kernel dumped it.
    interrupted: bool,
}

impl Answers {
    fn to(first: u32, last: u32) -> Answers {
        Answers {
            first,
            last,
            messages: Vec::new(),
            refusal: None,
            interrupted: false,
        }
    }

    /// Takes one datagram, and says what came of the exchange if that was its end: of a dump that was disturbed, EINTR.
    fn take(&mut self, datagram: &[u8]) -> Option<Result<Vec<Answer>, Refusal>> {
        let asked = self.last.wrapping_sub(self.first);
        for message in messages(datagram) {
            let (kind, flags, sequence) =
                (u16_at(message, 4), u16_at(message, 6), u32_at(message, 8));
            // An answer to what was asked before, whose exchange ended with a refusal in its midst.
            if sequence.wrapping_sub(self.first) > asked {
                continue;
            }
            self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
            if kind != NLMSG_ERROR && kind != NLMSG_DONE {
                self.messages.push(message.to_vec());
                continue;
            }
            let code = i32::from_ne_bytes(u32_at(message, HEADER).to_ne_bytes());
            if code < 0 && self.refusal.is_none() {
                self.refusal = Some(Refusal {
                    errno: Errno::from_raw(code.saturating_neg()),
                    text: words(message, flags),
                });
            }
            // A batch that is refused as a whole is refused on its first message and says no more.
            if sequence == self.last || kind == NLMSG_DONE || (code < 0 && sequence == self.first) {
                return Some(match self.refusal.take() {
                    Some(refusal) => Err(refusal),
                    None if self.interrupted => Err(Errno::EINTR.into()),
                    None => Ok(std::mem::take(&mut self.messages)),
                });
            }
        }
        None
    }
}

/// A netlink attribute list under construction.
#[derive(Default)]
pub(crate) struct Attributes(pub(crate) Vec<u8>);

impl Attributes {
    /// Adds one with this payload.
    pub(crate) fn bytes(mut self, kind: u16, payload: &[u8]) -> Attributes {
        // No payload of ours comes near 64 KiB: names, numbers, and a rule of a few hundred bytes.
        let length = (ALIGN + payload.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    /// A text and its final zero.
    pub(crate) fn text(self, kind: u16, text: &str) -> Attributes {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number, big-endian as all of netfilter's.
    pub(crate) fn number(self, kind: u16, number: u32) -> Attributes {
        self.bytes(kind, &number.to_be_bytes())
    }

    /// Attributes within an attribute.
    pub(crate) fn nest(self, kind: u16, inner: Attributes) -> Attributes {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// The messages in a buffer, headers included. Stops at one that is cut off.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)).ok()?;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = &bytes[..length];
        bytes = &bytes[aligned(length).min(bytes.len())..];
        Some(message)
    })
}

/// The attributes in a buffer: type without its flags, and payload. Stops at one that is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0));
        if length < ALIGN || length > bytes.len() {
            return None;
        }
        let attribute = (u16_at(bytes, 2) & ATTRIBUTE_TYPE, &bytes[ALIGN..length]);
        bytes = &bytes[aligned(length).min(bytes.len())..];
        Some(attribute)
    })
}

/// The payload of the first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, payload)| payload)
}

/// The kernel's own words in an error message: after the errno and the header of the refused message.
fn words(message: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let text = attribute(message.get(HEADER + 4 + HEADER..)?, NLMSGERR_ATTR_MSG)?;
    let text = text.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Rounds up to where the next message or attribute begins.
pub(crate) fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

/// The number at this place in host byte order; zero when the buffer ends before it.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]))
}

/// As [`u16_at`].
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_found_by_type_whatever_their_flags() {
        let bytes = [5, 0, 1, 0x80, 7, 0, 0, 0, 8, 0, 2, 0, 1, 2, 3, 4];
        assert_eq!(attribute(&bytes, 1), Some(&[7][..]));
        assert_eq!(attribute(&bytes, 2), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&bytes, 3), None);
    }

    /// A message as the kernel sends it.
    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = (HEADER + payload.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn error(sequence: u32, errno: i32) -> Vec<u8> {
        let payload = [&(-errno).to_ne_bytes()[..], &[0; HEADER]].concat();
        message(NLMSG_ERROR, 0, sequence, &payload)
    }

    /// RTM_NEWLINK
    const NEWLINK: u16 = 16;

    fn errno(result: Option<Result<Vec<Answer>, Refusal>>) -> Errno {
        result.unwrap().unwrap_err().errno
    }

    #[test]
    fn a_dump_is_whole_with_its_last_message_and_over_several_datagrams() {
        let mut answers = Answers::to(7, 7);
        let part = |byte| message(NEWLINK, 2, 7, &[byte, 0, 0, 0]);
        assert!(answers.take(&[part(1), part(2)].concat()).is_none());
        assert!(answers.take(&part(3)).is_none());
        let done = answers.take(&message(NLMSG_DONE, 2, 7, &[0; 4]));
        assert_eq!(done.unwrap().unwrap(), [part(1), part(2), part(3)]);
    }

    #[test]
    fn a_dump_that_was_disturbed_anywhere_is_begun_again() {
        for disturbed in 0..3 {
            let flags = |at| if at == disturbed { NLM_F_DUMP_INTR } else { 0 };
            let mut answers = Answers::to(7, 7);
            assert!(answers.take(&message(NEWLINK, flags(0), 7, &[1])).is_none());
            assert!(answers.take(&message(NEWLINK, flags(1), 7, &[2])).is_none());
            let done = answers.take(&message(NLMSG_DONE, flags(2), 7, &[0; 4]));
            assert_eq!(errno(done), Errno::EINTR);
        }
    }

    #[test]
    fn a_dump_that_fails_at_its_end_has_failed() {
        let mut answers = Answers::to(7, 7);
        assert!(answers.take(&message(NEWLINK, 2, 7, &[1])).is_none());
        let end = (-(Errno::EMSGSIZE as i32)).to_ne_bytes();
        assert_eq!(
            errno(answers.take(&message(NLMSG_DONE, 2, 7, &end))),
            Errno::EMSGSIZE
        );
    }

    #[test]
    fn a_batch_ends_with_its_last_acknowledgement_or_with_a_refusal_of_the_whole() {
        let mut answers = Answers::to(7, 9);
        assert!(answers.take(&error(8, 0)).is_none());
        assert_eq!(answers.take(&error(9, 0)).unwrap().unwrap().len(), 0);
        let mut answers = Answers::to(7, 9);
        assert!(answers.take(&error(8, Errno::EEXIST as i32)).is_none());
        assert_eq!(errno(answers.take(&error(9, 0))), Errno::EEXIST);
        assert_eq!(
            errno(Answers::to(7, 9).take(&error(7, Errno::EPERM as i32))),
            Errno::EPERM
        );
        // The smallest number there is has no positive one.
        let odd = message(NLMSG_ERROR, 0, 7, &i32::MIN.to_ne_bytes());
        assert!(Answers::to(7, 7).take(&odd).unwrap().is_err());
    }

    #[test]
    fn what_is_left_of_an_exchange_before_is_not_taken_for_an_answer() {
        let mut answers = Answers::to(u32::MAX, 0);
        let before = [
            error(u32::MAX - 1, Errno::EPERM as i32),
            message(NEWLINK, 0, 5, &[1]),
        ]
        .concat();
        assert!(answers.take(&before).is_none());
        assert!(answers.take(&message(NEWLINK, 0, 0, &[2])).is_none());
        assert_eq!(answers.take(&error(0, 0)).unwrap().unwrap().len(), 1);
    }

    #[test]
    fn a_message_that_is_cut_off_ends_nothing() {
        let whole = error(7, 0);
        for length in 0..whole.len() {
            assert!(Answers::to(7, 7).take(&whole[..length]).is_none());
        }
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_reader_fail_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Answers::to(0, u32::MAX).take(&bytes);
        }

        #[test]
        fn no_bytes_make_the_readers_fail_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
            words(&bytes, NLM_F_ACK_TLVS);
        }
    }
}
