//! Copies the container's standard streams: what it is given, what it writes, the log, and those who are attached. One
//! poll(2) loop, one buffer a stream, and nothing is read before everybody has taken the last piece, so that memory is
//! bounded and pressure reaches the writer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bocker_pipe::document::ExitMember;
use bocker_pipe::{Doing, Result};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, read, write};

use crate::keys::Keys;
use crate::log::{Log, Lost, Stream};
use crate::serve::{Said, Server};
use crate::socket::{Hello, Size, Welcome};
use crate::watch::{Token, Watch};
use crate::{memory, tty};

const BUFFER: usize = 64 << 10;
/// More than what a pipe holds (pipe(7): 64 KiB, up to 1 MiB for root).
const LATE_READS: usize = 32;
/// pipe(7), PIPE_BUF: after poll(2) says that a pipe is writable, this much does not block. The descriptor is shared with
/// whoever gave it to us, so that it is not ours to make non-blocking.
pub(crate) const PIPE_BUF: usize = 4096;
/// After so long without anything to do a supervisor gives back the memory that it can have again.
const SILENCE: Duration = Duration::from_secs(1);

/// One stream that the container writes.
struct Source {
    from: Option<OwnedFd>,
    /// What was read last is at its beginning.
    buffer: Vec<u8>,
    length: usize,
    stream: Stream,
    caller: Option<Caller>,
    /// Reads since the process has ended. What it wrote fits a pipe, and its children may go on writing for ever.
    late_reads: usize,
    is_terminal: bool,
    /// Until when it is left alone, of a terminal that has hung up ([`tty::HUNG_UP`]).
    hung_up_until: Option<Instant>,
}

/// A descriptor of the caller's that a stream goes to.
struct Caller {
    to: OwnedFd,
    /// How much may be written at once.
    most: usize,
    /// How much of the buffer has not been written.
    pending: usize,
}

impl Source {
    fn filled(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    fn is_caller_behind(&self) -> bool {
        self.caller.as_ref().is_some_and(|to| to.pending > 0)
    }

    /// Reads into the buffer, which everybody has taken. Whether there is something new.
    fn fill(&mut self, has_ended: bool) -> bool {
        let Some(from) = &self.from else { return false };
        self.buffer.resize(BUFFER, 0);
        match read(from, &mut self.buffer) {
            Err(Errno::INTR | Errno::AGAIN) => false,
            Err(Errno::IO) if self.is_terminal && !has_ended => {
                self.hung_up_until = Some(Instant::now() + tty::HUNG_UP);
                false
            }
            Ok(0) | Err(_) => {
                self.from = None;
                false
            }
            Ok(length) => {
                self.length = length;
                if let Some(caller) = &mut self.caller {
                    caller.pending = length;
                }
                true
            }
        }
    }

    /// Writes a piece to the caller: `false` when nobody reads there any more.
    fn drain(&mut self) -> bool {
        let Some(caller) = &mut self.caller else {
            return true;
        };
        let rest = &self.buffer[self.length - caller.pending..self.length];
        match write(&caller.to, &rest[..rest.len().min(caller.most)]) {
            Ok(length) => {
                caller.pending -= length;
                true
            }
            Err(Errno::INTR | Errno::AGAIN) => true,
            Err(_) => false,
        }
    }

    fn close(&mut self) {
        (self.from, self.caller) = (None, None);
    }
}

/// What goes to the container: of the caller, and of those who are attached, in turn.
pub(crate) struct Input {
    from: Option<OwnedFd>,
    keys: Option<Keys>,
    to: Option<OwnedFd>,
    piece: Vec<u8>,
    written: usize,
    /// Of the client whose the piece is.
    owner: Option<u32>,
    is_terminal: bool,
    /// As of a [`Source`].
    hung_up_until: Option<Instant>,
    ends_with_first: bool,
    is_over: bool,
}

impl Input {
    /// To a pipe or to a terminal's master.
    pub(crate) fn new(to: OwnedFd, is_terminal: bool) -> Input {
        Input {
            from: None,
            keys: None,
            to: Some(to),
            piece: Vec::new(),
            written: 0,
            owner: None,
            is_terminal,
            hung_up_until: None,
            ends_with_first: false,
            is_over: false,
        }
    }

    /// From a descriptor of the caller's, whose end is the end.
    pub(crate) fn from(mut self, from: OwnedFd) -> Input {
        self.from = Some(from);
        self
    }

    /// These keys of the caller's are [`Event::Detached`].
    pub(crate) fn keys(mut self, keys: Keys) -> Input {
        self.keys = Some(keys);
        self
    }

    /// It ends when the client that began the container ends it, or goes.
    pub(crate) fn ends_with_first(mut self) -> Input {
        self.ends_with_first = true;
        self
    }

    /// Reads from the caller. Whether the keys were typed by which one leaves.
    fn fill(&mut self) -> bool {
        let Some(from) = &self.from else { return false };
        let mut bytes = vec![0; BUFFER];
        let length = match read(from, &mut bytes) {
            Err(Errno::INTR | Errno::AGAIN) => return false,
            Ok(0) | Err(_) => {
                (self.from, self.is_over) = (None, true);
                if let Some(keys) = &mut self.keys {
                    self.piece.extend_from_slice(keys.rest());
                }
                return false;
            }
            Ok(length) => length,
        };
        bytes.truncate(length);
        match &mut self.keys {
            Some(keys) => keys.feed(&bytes, &mut self.piece),
            None => {
                self.piece = bytes;
                false
            }
        }
    }

    /// Writes a part of the piece. All of it, once it is written.
    fn drain(&mut self) -> Option<Vec<u8>> {
        let to = self.to.as_ref()?;
        let rest = &self.piece[self.written..];
        match write(to, &rest[..rest.len().min(PIPE_BUF)]) {
            Ok(length) => self.written += length,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.close(),
        }
        (self.written >= self.piece.len()).then(|| {
            self.written = 0;
            std::mem::take(&mut self.piece)
        })
    }

    /// Nobody will read any more.
    fn close(&mut self) {
        (self.from, self.to) = (None, None);
        self.piece.clear();
        self.written = 0;
    }
}

/// All streams of one process.
#[derive(Default)]
pub(crate) struct Streams {
    sources: Vec<Source>,
    input: Option<Input>,
    log: Option<Log>,
    server: Option<Server>,
}

/// What happens while streams are copied.
pub(crate) enum Event<'a> {
    /// A signal came, to this process or from a client.
    Signal(i32),
    /// A deadline has passed.
    Due(Token),
    /// There is something to read.
    Readable(Token),
    /// These bytes have reached the container's terminal.
    Typed(&'a [u8]),
    /// The terminal of one who is attached has this size.
    Size(Size),
    /// The container is not to be restarted; the client is answered afterwards.
    Stop,
    /// The caller wants to leave.
    Detached,
    /// The caller reads the terminal's output no more.
    HungUp,
}

/// What an event means for the loop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum After {
    /// Go on.
    Continue,
    /// Do not wait for those who read our output.
    Leave,
    /// Do not go on.
    Return,
}

/// Whose a polled descriptor is.
enum Who {
    Signals,
    End,
    Listener,
    Client(usize),
    Watched(Token),
    Source(usize),
    Caller(usize),
    From,
    To,
}

impl Streams {
    /// What is copied is recorded in this log.
    pub(crate) fn record(&mut self, log: Log) {
        self.log = Some(log);
    }

    /// Whether there is nothing to copy yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.input.is_none()
    }

    /// From now on others can be attached. `first` is one who is from the beginning.
    pub(crate) fn serve(&mut self, mut server: Server, first: Option<(OwnedFd, Hello)>) {
        if let Some((socket, hello)) = first {
            server.add_first(socket, hello);
        }
        self.server = Some(server);
    }

    /// Copies to the container.
    pub(crate) fn input(&mut self, input: Input) {
        self.input = Some(input);
    }

    /// Copies what the container writes to the log, to who is attached, and to `to`, a descriptor of the caller's.
    pub(crate) fn output(
        &mut self,
        from: OwnedFd,
        to: Option<OwnedFd>,
        stream: Stream,
        is_terminal: bool,
    ) {
        let is_file = |to: &OwnedFd| {
            fstat(to)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        };
        self.sources.push(Source {
            from: Some(from),
            buffer: Vec::new(),
            length: 0,
            stream,
            caller: to.map(|to| Caller {
                most: if is_file(&to) { BUFFER } else { PIPE_BUF },
                to,
                pending: 0,
            }),
            late_reads: 0,
            is_terminal,
            hung_up_until: None,
        });
    }

    /// Copies until `end` is readable, which says that the process has ended, and all that it wrote has arrived; without
    /// an `end`, until it is told to return. `on_event` is called for whatever is not a matter of copying.
    pub(crate) fn run(
        &mut self,
        end: Option<BorrowedFd>,
        signals: &SignalFd,
        watch: &mut Watch,
        mut on_event: impl FnMut(Event, &mut Watch) -> After,
    ) -> Result<()> {
        let mut ended = false;
        // Others than a supervisor are soon over.
        let never = self.server.is_none();
        let mut rests = never;
        let mut falls_asleep = false;
        loop {
            self.next_piece();
            let hung_up = self.look_again();
            let waits = self.is_waited_for();
            let (fds, who) = self.interests(signals, end.filter(|_| !ended), ended, watch);
            let patience = match ended && !waits {
                true => Some(Duration::ZERO),
                false => {
                    let clients = self.server.as_ref().and_then(Server::deadline);
                    let next = watch.next().into_iter().chain(clients);
                    let next = next.chain(hung_up).min();
                    let next = next.map(|then| then.saturating_duration_since(Instant::now()));
                    match rests {
                        true => next,
                        false => Some(next.unwrap_or(SILENCE).min(SILENCE)),
                    }
                }
            };
            let Some(events) = wait(fds, patience, std::mem::take(&mut falls_asleep))? else {
                continue;
            };
            let is_silent = events.iter().all(|event| event.is_empty());
            if !ended && !rests && is_silent && patience == Some(SILENCE) {
                self.rest();
                (rests, falls_asleep) = (true, true);
                continue;
            }
            rests &= is_silent || never;
            if ended && !waits && is_silent {
                return Ok(());
            }
            let mut after = After::Continue;
            // Of several in one round the strongest counts.
            let mut tell = |event: Event, watch: &mut Watch| {
                after = after.max(on_event(event, watch));
            };
            while let Some(token) = watch.due(Instant::now()) {
                tell(Event::Due(token), watch);
            }
            let mut progress = false;
            let mut has_ended = ended;
            for (who, event) in who.into_iter().zip(events) {
                if event.is_empty() {
                    continue;
                }
                match who {
                    Who::Signals => {
                        let signal = signals.read_signal().doing(|| "read a signal".into())?;
                        if let Some(signal) = signal {
                            tell(Event::Signal(signal.ssi_signo as i32), watch);
                        }
                    }
                    Who::End => has_ended = true,
                    Who::Watched(token) => tell(Event::Readable(token), watch),
                    Who::Listener => {
                        if let Some(server) = &mut self.server {
                            server.accept();
                        }
                    }
                    Who::Client(index) => {
                        progress |= event.contains(PollFlags::OUT);
                        self.with_client(index, event, |event| tell(event, watch));
                    }
                    Who::Source(index) => {
                        progress = true;
                        self.read_output(index, ended);
                        self.sources[index].late_reads += usize::from(ended);
                    }
                    Who::Caller(index) => {
                        progress = true;
                        if !self.sources[index].drain() && self.reader_has_gone(index) {
                            tell(Event::HungUp, watch);
                        }
                    }
                    Who::From => {
                        progress = true;
                        let input = self.input.as_mut();
                        if input.is_some_and(Input::fill) {
                            tell(Event::Detached, watch);
                        }
                    }
                    Who::To => {
                        progress = true;
                        self.write_input(event, |bytes| tell(Event::Typed(bytes), watch));
                    }
                }
            }
            if has_ended {
                self.give_the_rest();
            }
            self.settle();
            match after {
                After::Return => return Ok(()),
                After::Leave if ended => return Ok(()),
                _ if ended && !progress && !waits => return Ok(()),
                _ => ended = has_ended,
            }
        }
    }

    /// What of all that was to be recorded could not be, for one that has ended.
    pub(crate) fn lost(&mut self) -> Option<Lost> {
        self.log.as_mut().and_then(Log::lost)
    }

    /// Gives back what is only needed when something happens.
    fn rest(&mut self) {
        for index in 0..self.sources.len() {
            let source = &self.sources[index];
            if !source.is_caller_behind() && !self.is_held_up(source.stream) {
                let source = &mut self.sources[index];
                (source.buffer, source.length) = (Vec::new(), 0);
            }
        }
        if let Some(log) = &mut self.log {
            log.rest();
        }
        memory::trim();
    }

    /// What poll(2) is asked, and whose each is.
    fn interests<'a>(
        &'a self,
        signals: &'a SignalFd,
        end: Option<BorrowedFd<'a>>,
        ended: bool,
        watch: &'a Watch,
    ) -> (Vec<PollFd<'a>>, Vec<Who>) {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        let mut who = vec![Who::Signals];
        let mut ask = |fd: BorrowedFd<'a>, flags, of| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            who.push(of);
        };
        if let Some(end) = end {
            ask(end, PollFlags::IN, Who::End);
        }
        for (token, fd) in watch.descriptors() {
            ask(fd, PollFlags::IN, Who::Watched(token));
        }
        if let Some(server) = &self.server {
            if let Some(listener) = server.listener() {
                ask(listener, PollFlags::IN, Who::Listener);
            }
            for (index, fd, flags) in server.clients() {
                ask(fd, flags, Who::Client(index));
            }
        }
        for (index, source) in self.sources.iter().enumerate() {
            match (&source.from, &source.caller) {
                (_, Some(caller)) if caller.pending > 0 => {
                    ask(caller.to.as_fd(), PollFlags::OUT, Who::Caller(index));
                }
                (Some(from), _)
                    if source.late_reads < LATE_READS
                        && (ended || source.hung_up_until.is_none())
                        && !self.is_held_up(source.stream) =>
                {
                    ask(from.as_fd(), PollFlags::IN, Who::Source(index));
                }
                _ => {}
            }
        }
        if let Some(input) = &self.input
            && let Some(to) = &input.to
            && !ended
            && input.hung_up_until.is_none()
        {
            if !input.piece.is_empty() {
                ask(to.as_fd(), PollFlags::OUT, Who::To);
            } else if let Some(from) = &input.from {
                ask(from.as_fd(), PollFlags::IN, Who::From);
                // A process that has closed its stdin must not have ours read empty.
                ask(to.as_fd(), PollFlags::empty(), Who::To);
            }
        }
        (fds, who)
    }

    /// Forgets of a terminal that has hung up that it has when it is time to look again, or says when it will be.
    fn look_again(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let sources = self.sources.iter_mut();
        let sources = sources.map(|source| &mut source.hung_up_until);
        let input = self.input.iter_mut().map(|input| &mut input.hung_up_until);
        let all = sources.chain(input).filter_map(|until| {
            *until = until.filter(|until| *until > now);
            *until
        });
        all.min()
    }

    fn is_held_up(&self, stream: Stream) -> bool {
        let server = self.server.as_ref();
        server.is_some_and(|server| server.holds_up(stream))
    }

    /// Whether there is output that the caller has to take.
    fn is_waited_for(&self) -> bool {
        self.sources.iter().any(Source::is_caller_behind)
    }

    fn read_output(&mut self, index: usize, has_ended: bool) {
        let source = &mut self.sources[index];
        if !source.fill(has_ended) {
            return;
        }
        if let Some(log) = &mut self.log {
            log.write(source.stream, source.filled());
        }
        if let Some(server) = &mut self.server {
            server.offer(source.stream, source.filled());
        }
    }

    /// As in any pipeline: a writer whose reader has gone is told so, by its next write. When the reader of a terminal is
    /// gone, so are all: the streams share it. Whether it was one.
    fn reader_has_gone(&mut self, index: usize) -> bool {
        let is_terminal = self.sources[index].is_terminal;
        self.sources[index].close();
        if let (true, Some(input)) = (is_terminal, &mut self.input) {
            input.close();
        }
        is_terminal
    }

    fn write_input(&mut self, event: PollFlags, on_typed: impl FnOnce(&[u8])) {
        let Some(input) = &mut self.input else { return };
        if input.is_terminal && event.contains(PollFlags::HUP) {
            input.hung_up_until = Some(Instant::now() + tty::HUNG_UP);
        }
        if input.piece.is_empty() {
            if event.intersects(PollFlags::ERR | PollFlags::NVAL) {
                input.close();
            }
            return;
        }
        let Some(written) = input.drain() else { return };
        if input.is_terminal && input.to.is_some() {
            on_typed(&written);
        }
        if let (Some(owner), Some(server)) = (input.owner.take(), &mut self.server) {
            server.taken(owner);
        }
    }

    /// What those who are attached want to have written, in turn; where nobody will read it, they are told to go on.
    fn next_piece(&mut self) {
        let Some(server) = &mut self.server else {
            return;
        };
        let Some(input) = self.input.as_mut().filter(|input| input.to.is_some()) else {
            let owner = self.input.as_mut().and_then(|input| input.owner.take());
            owner.into_iter().for_each(|serial| server.taken(serial));
            while let Some((serial, _)) = server.next_input() {
                server.taken(serial);
            }
            return;
        };
        if input.piece.is_empty()
            && let Some((serial, bytes)) = server.next_input()
        {
            (input.owner, input.piece) = (Some(serial), bytes);
        }
    }

    fn with_client(&mut self, index: usize, event: PollFlags, mut tell: impl FnMut(Event)) {
        let welcome = self.welcome();
        let Some(server) = &mut self.server else {
            return;
        };
        if event.contains(PollFlags::OUT) {
            for source in &self.sources {
                server.give(index, source.stream, source.filled());
            }
        }
        if !event.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        match server.hear(index, welcome) {
            Said::Nothing => {}
            Said::Signal(number) => tell(Event::Signal(number)),
            Said::Size(size) => tell(Event::Size(size)),
            Said::Stop => {
                tell(Event::Stop);
                server.answer_stop(index);
            }
        }
    }

    fn welcome(&self) -> Option<Welcome> {
        let first = self.sources.first()?;
        Some(Welcome {
            terminal: first.is_terminal,
            stdin: self.input.as_ref().is_some_and(|input| input.to.is_some()),
        })
    }

    fn give_the_rest(&mut self) {
        if let Some(server) = &mut self.server {
            for source in &self.sources {
                server.give_the_rest(source.stream, source.filled());
            }
        }
    }

    /// An input that has ended and is written is closed, so that the container reads its end.
    fn settle(&mut self) {
        if let Some(server) = &mut self.server {
            server.tidy();
        }
        let Some(input) = &mut self.input else { return };
        if input.ends_with_first && self.server.as_ref().is_some_and(Server::first_is_over) {
            input.is_over = true;
        }
        if input.is_over && input.piece.is_empty() && !input.is_terminal {
            input.to = None;
        }
    }

    /// Tells those who are attached how the process has ended, and if nothing comes after it, those too who wait for that.
    pub(crate) fn tell_end(&mut self, exit: &ExitMember, is_final: bool) {
        if let Some(server) = &mut self.server {
            server.tell_end(exit, is_final);
        }
    }

    /// Whether others can be attached, or wait.
    pub(crate) fn is_served(&self) -> bool {
        self.server.is_some()
    }

    /// Lets the pipes of a process go that has ended, and keeps the log and those who wait.
    pub(crate) fn begin_again(&mut self) {
        self.sources.clear();
        self.input = None;
    }
}

/// Waits for one of the descriptors, perhaps for long; `None` when a signal came between. What each has, in order.
fn wait(
    mut fds: Vec<PollFd>,
    patience: Option<Duration>,
    for_long: bool,
) -> Result<Option<Vec<PollFlags>>> {
    let timeout = patience.and_then(|time| Timespec::try_from(time).ok());
    if for_long {
        memory::forget_program();
    }
    match poll(&mut fds, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(None),
        result => {
            result.doing(|| "wait for the container".into())?;
            Ok(Some(fds.iter().map(PollFd::revents).collect()))
        }
    }
}
