//! Copies the container's standard streams: what it is given, what it writes, and the log. One poll(2) loop, one buffer a
//! stream, and nothing is read before the last piece is gone, so that memory is bounded and pressure reaches the writer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bocker_pipe::{Doing, Result};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, read, write};

use crate::log::{Log, Stream};
use crate::say;

const BUFFER: usize = 64 << 10;
/// More than what a pipe holds (pipe(7): 64 KiB, up to 1 MiB for root).
const LATE_READS: usize = 32;
/// The moment of [`After::Again`].
const MOMENT: Duration = Duration::from_millis(50);
/// pipe(7), PIPE_BUF: after poll(2) says that a pipe is writable, this much does not block. The descriptor is shared with
/// whoever gave it to us, so that it is not ours to make non-blocking.
const PIPE_BUF: usize = 4096;

struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Buffer {
        Buffer {
            bytes: vec![0; BUFFER],
            start: 0,
            end: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// What has been written of it.
    fn written(&self) -> &[u8] {
        &self.bytes[..self.start]
    }

    /// Reads into the empty buffer: `false` at the end.
    fn fill(&mut self, from: BorrowedFd) -> bool {
        match read(from, &mut self.bytes) {
            Ok(0) => false,
            Ok(length) => {
                (self.start, self.end) = (0, length);
                true
            }
            Err(Errno::INTR | Errno::AGAIN) => true,
            // EIO of a terminal's master: every descriptor of the terminal is closed.
            Err(_) => false,
        }
    }

    /// Writes a piece of the buffer: `false` when nobody reads any more.
    fn drain(&mut self, to: BorrowedFd, most: usize) -> bool {
        let piece = self.pending();
        match write(to, &piece[..piece.len().min(most)]) {
            Ok(length) => {
                self.start += length;
                true
            }
            Err(Errno::INTR | Errno::AGAIN) => true,
            Err(_) => false,
        }
    }
}

/// One stream of the container's, or what goes to it.
struct Copy {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    /// How much may be written at once.
    most: usize,
    buffer: Buffer,
    /// As what it is logged.
    stream: Option<Stream>,
    /// Reads since the process has ended. What it wrote fits a pipe, and its children may go on writing for ever.
    late_reads: usize,
    /// When its reader is gone, so are all: the streams share one terminal.
    is_terminal: bool,
}

/// All streams of one process.
#[derive(Default)]
pub(crate) struct Streams {
    copies: Vec<Copy>,
    log: Option<Log>,
}

/// What happens while streams are copied.
pub(crate) enum Event<'a> {
    /// A signal came.
    Signal(i32),
    /// A moment has passed.
    Tick,
    /// These bytes have reached the container's terminal.
    Typed(&'a [u8]),
}

/// What an event means for the loop.
pub(crate) enum After {
    /// Go on.
    Continue,
    /// Do not wait for those who read our output.
    Leave,
    /// Go on, and come back in a moment with [`Event::Tick`].
    Again,
}

impl Streams {
    /// Streams that are recorded in a log.
    pub(crate) fn new(log: Option<Log>) -> Streams {
        Streams {
            copies: Vec::new(),
            log,
        }
    }

    /// Whether there is nothing to copy yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// Copies what is read from `from`, a descriptor of the caller's, to the container.
    pub(crate) fn input(&mut self, from: OwnedFd, to: OwnedFd, is_terminal: bool) {
        self.copies.push(Copy {
            from: Some(from),
            to: Some(to),
            most: PIPE_BUF,
            buffer: Buffer::new(),
            stream: None,
            late_reads: 0,
            is_terminal,
        });
    }

    /// Copies what the container writes to the log and to `to`, a descriptor of the caller's.
    pub(crate) fn output(
        &mut self,
        from: OwnedFd,
        to: Option<OwnedFd>,
        stream: Stream,
        is_terminal: bool,
    ) {
        let is_file = to
            .as_ref()
            .and_then(|to| fstat(to).ok())
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        self.copies.push(Copy {
            from: Some(from),
            to,
            most: if is_file { BUFFER } else { PIPE_BUF },
            buffer: Buffer::new(),
            stream: Some(stream),
            late_reads: 0,
            is_terminal,
        });
    }

    /// Copies until `end` is readable, which says that the process has ended, and all that it wrote has arrived.
    /// `on_event` is called for every signal that comes, and for what was typed at the container's terminal.
    pub(crate) fn run(
        &mut self,
        end: BorrowedFd,
        signals: &SignalFd,
        mut on_event: impl FnMut(Event) -> After,
    ) -> Result<()> {
        let mut ended = false;
        let mut again: Option<Instant> = None;
        loop {
            let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
            // Of what each further entry is: the copy, and whether it is its source.
            let mut which: Vec<(usize, bool)> = Vec::new();
            for (index, copy) in self.copies.iter().enumerate() {
                let is_input = copy.stream.is_none();
                match (&copy.from, &copy.to) {
                    (_, Some(to)) if !copy.buffer.is_empty() => {
                        fds.push(PollFd::new(to, PollFlags::OUT));
                        which.push((index, false));
                    }
                    (Some(from), to) if !(ended && is_input) && copy.late_reads < LATE_READS => {
                        fds.push(PollFd::new(from, PollFlags::IN));
                        which.push((index, true));
                        // A process that has closed its stdin must not have ours read empty.
                        if let (true, Some(to)) = (is_input, to) {
                            fds.push(PollFd::new(to, PollFlags::empty()));
                            which.push((index, false));
                        }
                    }
                    _ => {}
                }
            }
            let waits = self
                .copies
                .iter()
                .any(|copy| copy.stream.is_some() && !copy.buffer.is_empty());
            if !ended {
                fds.push(PollFd::from_borrowed_fd(end, PollFlags::IN));
            }
            let patience = match (ended, again) {
                (true, _) if !waits => Some(Duration::ZERO),
                (_, Some(then)) => Some(then.saturating_duration_since(Instant::now())),
                _ => None,
            };
            let timeout = patience.map(|time| Timespec {
                tv_sec: 0,
                // Less than a second.
                tv_nsec: i64::from(time.subsec_nanos()),
            });
            let ready = match poll(&mut fds, timeout.as_ref()) {
                Err(Errno::INTR) => continue,
                result => result.doing(|| "wait for the container".into())?,
            };
            if ended && !waits && ready == 0 {
                return Ok(());
            }
            if again.is_some_and(|then| Instant::now() >= then) {
                again = None;
                if let After::Again = on_event(Event::Tick) {
                    again = Some(Instant::now() + MOMENT);
                }
            }
            let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
            if !events[0].is_empty()
                && let Some(signal) = signals.read_signal().doing(|| "read a signal".into())?
            {
                match on_event(Event::Signal(signal.ssi_signo as i32)) {
                    After::Continue => {}
                    After::Leave if ended => return Ok(()),
                    After::Leave => {}
                    After::Again => again = Some(Instant::now() + MOMENT),
                }
            }
            let mut progress = false;
            for ((index, is_source), event) in which.iter().zip(&events[1..]) {
                if !event.is_empty() {
                    progress = true;
                    self.act(*index, *is_source, *event);
                    self.copies[*index].late_reads += usize::from(ended && *is_source);
                    let copy = &self.copies[*index];
                    if copy.is_terminal
                        && copy.stream.is_none()
                        && !is_source
                        && copy.buffer.is_empty()
                    {
                        on_event(Event::Typed(copy.buffer.written()));
                    }
                }
            }
            self.settle();
            if !ended {
                ended = events.last().is_some_and(|event| !event.is_empty());
            } else if !progress && !waits {
                return Ok(());
            }
        }
    }

    fn act(&mut self, index: usize, is_source: bool, event: PollFlags) {
        let copy = &mut self.copies[index];
        if is_source {
            let Some(from) = &copy.from else { return };
            if !copy.buffer.fill(from.as_fd()) {
                copy.from = None;
            } else if let (Some(stream), Some(log)) = (copy.stream, &mut self.log)
                && !copy.buffer.is_empty()
                && let Err(error) = log.write(stream, copy.buffer.pending())
            {
                // A full disk does not end the container.
                say(format_args!("{error}; the container goes on without a log"));
                self.log = None;
            }
            if copy.to.is_none() {
                copy.buffer.start = copy.buffer.end;
            }
            return;
        }
        let Some(to) = &copy.to else { return };
        let gone = if copy.buffer.is_empty() {
            event.intersects(PollFlags::ERR | PollFlags::NVAL)
        } else {
            !copy.buffer.drain(to.as_fd(), copy.most)
        };
        if gone {
            // As in any pipeline: a writer whose reader has gone is told so, by its next write.
            let is_terminal = copy.is_terminal;
            for (other, copy) in self.copies.iter_mut().enumerate() {
                if other == index || is_terminal {
                    copy.from = None;
                    copy.to = None;
                    copy.buffer.start = copy.buffer.end;
                }
            }
        }
    }

    /// An input that has ended and is written is closed, so that the container reads its end.
    fn settle(&mut self) {
        for copy in &mut self.copies {
            if copy.from.is_none() && copy.buffer.is_empty() && !copy.is_terminal {
                copy.to = None;
            }
        }
    }
}
