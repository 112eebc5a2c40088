//! The supervisor's side of its socket: who is connected, what each wants and has not taken yet, and what each says. Nothing
//! that a client does, or leaves undone, is the container's harm: what is kept for one is bounded, no write waits for one,
//! and one that does not keep to the messages is let go.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bocker_pipe::claim::{SOCKET_NEW, forget_socket};
use bocker_pipe::document::ExitMember;
use bocker_pipe::{Doing, Id, Result, paths};
use rustix::event::PollFlags;
use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size_force, socket_peercred};
use rustix::net::{SocketAddrUnix, SocketFlags, accept_with, bind, listen};
use rustix::process::geteuid;

use crate::log::Stream;
use crate::socket::{self, Answer, Hello, PACKET, PIECE, Request, Size, Welcome};

/// How many may be connected at a time.
const MAX_CLIENTS: usize = 128;
/// How many more may be waiting to be.
const BACKLOG: i32 = 64;
/// How long a client may leave what it is given, or say nothing at all.
const PATIENCE: Duration = Duration::from_secs(10);
const TOOK_NOTHING: &str = "it has taken nothing for 10 seconds";
const SAID_NOTHING: &str = "it has not said for 10 seconds what it wants";
const NO_MESSAGE: &str = "it said what is no message";
const TOO_MANY: &str = "too many are connected";
const NOT_RUNNING: &str = "the container does not run just now";
/// How long nobody new is heard when there are no descriptors left.
const DEAF: Duration = Duration::from_secs(1);
/// What the kernel may keep for a client of whom no more is to be waited for: all that there still is.
const LAST_WORDS: usize = 4 << 20;

/// What a client wants of others than this file.
pub(crate) enum Said {
    Nothing,
    Signal(i32),
    Size(Size),
    Stop,
}

struct Client {
    serial: u32,
    socket: OwnedFd,
    hello: Option<Hello>,
    /// Whether the container is its own: it holds it up, as a pipe would, and its input's end is the container's.
    began: bool,
    /// How much of what is in each stream's buffer it has not taken.
    pending: [usize; 2],
    /// Since when it has left something undone.
    since: Instant,
    /// What it wants to have written.
    input: Option<Vec<u8>>,
    input_over: bool,
    /// It is to be told that its input is taken, and its socket has had no room for that.
    untold: bool,
    gone: bool,
}

impl Client {
    fn wants(&self, stream: Stream) -> bool {
        !self.gone
            && self.hello.is_some_and(|hello| match stream {
                Stream::Stdout => hello.stdout,
                Stream::Stderr => hello.stderr,
            })
    }

    fn is_attached(&self) -> bool {
        self.hello
            .is_some_and(|hello| hello.stdin || hello.stdout || hello.stderr)
    }

    fn has_pending(&self) -> bool {
        self.pending != [0, 0] || self.untold
    }

    /// Until when it has to do what it has left undone.
    fn deadline(&self) -> Option<Instant> {
        let owes = self.has_pending() || self.hello.is_none();
        (owes && !self.began).then_some(self.since + PATIENCE)
    }

    fn tell_taken(&mut self) {
        let told = socket::answer(self.socket.as_fd(), &Answer::Taken);
        self.untold = told == Err(Errno::AGAIN);
    }

    /// Gives it as much of a stream as its socket takes. `all` is what is in the stream's buffer.
    fn give(&mut self, stream: Stream, all: &[u8], now: Instant) {
        while self.pending[stream as usize] > 0 {
            let pending = self.pending[stream as usize];
            let rest = &all[all.len().saturating_sub(pending)..];
            let piece = &rest[..rest.len().min(PIECE)];
            match socket::answer(self.socket.as_fd(), &Answer::Output(stream, piece)) {
                Ok(()) => {
                    self.pending[stream as usize] -= piece.len();
                    self.since = now;
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Err(_) => self.closes_its_ears(),
            }
        }
    }

    /// It reads no more. What it said before that is still to be heard.
    fn closes_its_ears(&mut self) {
        self.pending = [0, 0];
        if let Some(hello) = &mut self.hello {
            (hello.stdout, hello.stderr) = (false, false);
        }
    }

    fn leave(&mut self) {
        (self.gone, self.untold) = (true, false);
        self.pending = [0, 0];
        self.input = None;
    }

    /// From now on the kernel keeps for it what it has not read yet.
    fn open_wide(&self) {
        // Without the privilege for it, what fits is delivered.
        let _ = set_socket_send_buffer_size_force(&self.socket, LAST_WORDS);
    }

    /// The last that it is told.
    fn tell_last(&mut self, answer: &Answer) {
        self.open_wide();
        // Whoever has gone needs no word.
        let _ = socket::answer(self.socket.as_fd(), answer);
        self.leave();
    }
}

/// The socket and the clients.
pub(crate) struct Server {
    id: Id,
    listener: OwnedFd,
    deaf_until: Option<Instant>,
    clients: Vec<Client>,
    serial: u32,
    /// Whose input was written last.
    turn: u32,
}

impl Server {
    /// Listens. Whoever finds the socket is heard.
    pub(crate) fn listen(id: &Id) -> Result<Server> {
        let path = socket::path(id);
        let new: PathBuf = paths::claim(id).join(SOCKET_NEW);
        let doing = || format!("listen at {}", path.display());
        // Of one that was killed.
        forget_socket(id)?;
        let listener = socket::new(SocketFlags::NONBLOCK).doing(doing)?;
        let address = SocketAddrUnix::new(&new).doing(doing)?;
        bind(&listener, &address).doing(doing)?;
        chmod(&new, Mode::RUSR | Mode::WUSR).doing(doing)?;
        listen(&listener, BACKLOG).doing(doing)?;
        fs::rename(&new, &path).doing(doing)?;
        Ok(Server {
            id: id.clone(),
            listener,
            deaf_until: None,
            clients: Vec::new(),
            serial: 0,
            turn: 0,
        })
    }

    /// One that is connected before anybody can be: the container is begun for it.
    pub(crate) fn add_first(&mut self, socket: OwnedFd, hello: Hello) {
        let client = self.client(socket);
        self.clients.push(Client {
            hello: Some(hello),
            began: true,
            ..client
        });
    }

    fn client(&mut self, socket: OwnedFd) -> Client {
        self.serial = self.serial.wrapping_add(1);
        Client {
            serial: self.serial,
            socket,
            hello: None,
            began: false,
            pending: [0, 0],
            since: Instant::now(),
            input: None,
            input_over: false,
            untold: false,
            gone: false,
        }
    }

    /// Where new clients are heard of, unless there are no descriptors for them just now.
    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.deaf_until.is_none().then(|| self.listener.as_fd())
    }

    /// The clients, and what is to be known of the socket of each.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, PollFlags)> {
        self.clients.iter().enumerate().map(|(index, client)| {
            let flags = match client.has_pending() {
                true => PollFlags::IN | PollFlags::OUT,
                false => PollFlags::IN,
            };
            (index, client.socket.as_fd(), flags)
        })
    }

    /// Takes in who is waiting.
    pub(crate) fn accept(&mut self) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.deaf_until = Some(Instant::now() + DEAF);
                    return;
                }
            };
            // Its folder is closed to others; this is for one that was handed the socket.
            if socket_peercred(&socket).map_or(true, |peer| peer.uid != geteuid()) {
                continue;
            }
            let mut client = self.client(socket);
            if self.clients.len() >= MAX_CLIENTS {
                client.tell_last(&Answer::LetGo(TOO_MANY));
                continue;
            }
            self.clients.push(client);
        }
    }

    /// Takes one message from a client. `welcome` says what there is to have; nothing while no process runs.
    pub(crate) fn hear(&mut self, index: usize, welcome: Option<Welcome>) -> Said {
        let Some(client) = self.clients.get_mut(index).filter(|client| !client.gone) else {
            return Said::Nothing;
        };
        let mut buffer = [0; PACKET];
        let request = match socket::receive(client.socket.as_fd(), &mut buffer, false) {
            Err(Errno::AGAIN) => return Said::Nothing,
            Err(Errno::MSGSIZE) => None,
            Ok(0) | Err(_) => {
                client.leave();
                return Said::Nothing;
            }
            Ok(length) => Request::parse(&buffer[..length]),
        };
        match (request, client.hello) {
            (Some(Request::Hello(hello)), None) => {
                client.hello = Some(hello);
                match welcome {
                    None if client.is_attached() => client.tell_last(&Answer::LetGo(NOT_RUNNING)),
                    welcome => {
                        let answer = Answer::Welcome(welcome.unwrap_or_default());
                        // One that has gone is found to have in a moment.
                        let _ = socket::answer(client.socket.as_fd(), &answer);
                    }
                }
            }
            // One message of input at a time, until it is taken.
            (Some(Request::Input(bytes)), Some(hello))
                if hello.stdin && client.input.is_none() && !client.input_over =>
            {
                client.input = Some(bytes.to_vec());
            }
            (Some(Request::EndOfInput), Some(hello)) if hello.stdin => client.input_over = true,
            (Some(Request::Size(size)), Some(_)) => return Said::Size(size),
            (Some(Request::Signal(number)), Some(_)) => return Said::Signal(number),
            (Some(Request::Stop), _) => return Said::Stop,
            _ => client.tell_last(&Answer::LetGo(NO_MESSAGE)),
        }
        Said::Nothing
    }

    /// What a client asked for with [`Said::Stop`] is done.
    pub(crate) fn answer_stop(&mut self, index: usize) {
        if let Some(client) = self.clients.get(index) {
            let _ = socket::answer(client.socket.as_fd(), &Answer::Stopping);
        }
    }

    /// A stream's buffer has been filled anew: everybody who wants it gets as much as its socket takes.
    pub(crate) fn offer(&mut self, stream: Stream, all: &[u8]) {
        let now = Instant::now();
        for client in &mut self.clients {
            if client.wants(stream) {
                client.pending[stream as usize] = all.len();
                client.since = now;
                client.give(stream, all, now);
            }
        }
    }

    /// The same for one that can take more.
    pub(crate) fn give(&mut self, index: usize, stream: Stream, all: &[u8]) {
        if let Some(client) = self.clients.get_mut(index) {
            if client.untold {
                client.tell_taken();
            }
            client.give(stream, all, Instant::now());
        }
    }

    /// The process has ended: nobody is waited for any more, the kernel keeps it for them.
    pub(crate) fn give_the_rest(&mut self, stream: Stream, all: &[u8]) {
        for client in &mut self.clients {
            if client.pending[stream as usize] > 0 {
                client.open_wide();
                client.give(stream, all, Instant::now());
            }
        }
    }

    /// Whether somebody has not taken all of a stream's buffer.
    pub(crate) fn holds_up(&self, stream: Stream) -> bool {
        let has = |client: &Client| client.pending[stream as usize] > 0;
        self.clients.iter().any(has)
    }

    /// The next that wants to have something written, in turn.
    pub(crate) fn next_input(&mut self) -> Option<(u32, Vec<u8>)> {
        let waiting = |client: &&mut Client| client.input.is_some();
        let turn = self.turn;
        let after = |client: &&mut Client| client.serial.wrapping_sub(turn.wrapping_add(1));
        let client = self.clients.iter_mut().filter(waiting).min_by_key(after)?;
        self.turn = client.serial;
        Some((client.serial, client.input.take()?))
    }

    /// What a client wanted to have written is, or never will be.
    pub(crate) fn taken(&mut self, serial: u32) {
        let mut all = self.clients.iter_mut();
        if let Some(client) = all.find(|client| client.serial == serial) {
            client.tell_taken();
        }
    }

    /// Whether the one who began the container gives it no more input.
    pub(crate) fn first_is_over(&self) -> bool {
        let mut first = self.clients.iter().filter(|client| client.began);
        first.all(|client| client.gone || client.input_over && client.input.is_none())
    }

    /// When something is to be done if nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let clients = self.clients.iter().filter_map(Client::deadline);
        clients.chain(self.deaf_until).min()
    }

    /// Lets those go who have left something undone for too long, and forgets those who have gone.
    pub(crate) fn tidy(&mut self) {
        let now = Instant::now();
        if self.deaf_until.is_some_and(|until| until <= now) {
            self.deaf_until = None;
        }
        for client in &mut self.clients {
            if !client.gone && client.deadline().is_some_and(|deadline| deadline <= now) {
                let reason = match client.has_pending() {
                    true => TOOK_NOTHING,
                    false => SAID_NOTHING,
                };
                client.tell_last(&Answer::LetGo(reason));
            }
        }
        self.clients.retain(|client| !client.gone);
    }

    /// Tells how the container's process has ended: those who are attached to it, and if nothing comes after it, all.
    pub(crate) fn tell_end(&mut self, exit: &ExitMember, is_final: bool) {
        if is_final {
            // Whoever comes from here on finds what is recorded.
            let _ = forget_socket(&self.id);
            self.accept();
        }
        let told = |client: &&mut Client| is_final || client.is_attached();
        for client in self.clients.iter_mut().filter(told) {
            client.tell_last(&Answer::Ended(exit.clone()));
        }
        self.tidy();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Should it stay, nobody listens there.
        let _ = forget_socket(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::set_socket_send_buffer_size;

    use super::*;
    use crate::socket::Connection;

    const STREAMS: Hello = Hello {
        stdin: true,
        stdout: true,
        stderr: false,
    };

    /// One that nobody can find.
    fn server() -> Server {
        Server {
            id: Id::placeholder(),
            listener: socket::new(SocketFlags::NONBLOCK).unwrap(),
            deaf_until: None,
            clients: Vec::new(),
            serial: 0,
            turn: 0,
        }
    }

    /// The other end of a new client's socket, who has said this.
    fn joins(server: &mut Server, hello: Option<Hello>) -> Connection {
        let (connection, socket) = Connection::pair().unwrap();
        let mut client = server.client(socket);
        client.hello = hello;
        server.clients.push(client);
        connection
    }

    /// It says something, and the server hears it.
    fn says(server: &mut Server, index: usize, client: &Connection, request: &Request) -> Said {
        assert!(client.say(request).unwrap());
        server.hear(index, Some(Welcome::default()))
    }

    #[track_caller]
    fn is_let_go(client: &Connection, why: &str) {
        let mut buffer = [0; PACKET];
        let answer = client.hear(&mut buffer).unwrap();
        assert_eq!(answer, Some(Answer::LetGo(why)));
    }

    fn long_ago() -> Instant {
        Instant::now() - PATIENCE
    }

    /// Gives a client as much as its socket takes, which is not all.
    fn fill(server: &mut Server) {
        set_socket_send_buffer_size(&server.clients[0].socket, 2 * PIECE).unwrap();
        server.offer(Stream::Stdout, &[0; 8 * PIECE]);
        assert!(server.holds_up(Stream::Stdout));
    }

    #[test]
    fn whoever_owes_something_for_too_long_is_let_go_but_for_the_one_who_began() {
        let mut server = server();
        let (_own, socket) = Connection::pair().unwrap();
        server.add_first(socket, STREAMS);
        let late = joins(&mut server, Some(STREAMS));
        let mute = joins(&mut server, None);
        let silent = joins(&mut server, Some(Hello::default()));
        for client in &mut server.clients {
            client.since = long_ago();
            client.pending[0] = usize::from(client.is_attached());
        }
        server.tidy();
        is_let_go(&late, TOOK_NOTHING);
        is_let_go(&mute, SAID_NOTHING);
        let left: Vec<u32> = server.clients.iter().map(|client| client.serial).collect();
        assert_eq!(left, [1, 4]);
        drop(silent);
    }

    #[test]
    fn who_takes_a_piece_has_all_the_time_again_for_the_next() {
        let mut server = server();
        let client = joins(&mut server, Some(STREAMS));
        fill(&mut server);
        let left = server.clients[0].pending[0];
        server.clients[0].since = long_ago();
        let mut buffer = [0; PACKET];
        client.hear(&mut buffer).unwrap();
        server.give(0, Stream::Stdout, &[0; 8 * PIECE]);
        assert!(server.clients[0].pending[0] < left && server.holds_up(Stream::Stdout));
        server.tidy();
        assert_eq!(server.clients.len(), 1);
    }

    #[test]
    fn the_time_for_something_new_begins_when_it_is_offered() {
        let mut server = server();
        let _client = joins(&mut server, Some(STREAMS));
        fill(&mut server);
        server.clients[0].pending = [0, 0];
        server.clients[0].since = long_ago();
        server.offer(Stream::Stdout, b"x");
        server.tidy();
        assert!(server.holds_up(Stream::Stdout));
    }

    #[test]
    fn what_one_said_before_it_went_is_heard() {
        let mut server = server();
        let client = joins(&mut server, Some(STREAMS));
        assert!(client.say(&Request::Signal(1)).unwrap());
        drop(client);
        server.offer(Stream::Stdout, b"x");
        assert!(!server.holds_up(Stream::Stdout));
        assert!(matches!(server.hear(0, None), Said::Signal(1)));
    }

    #[test]
    fn what_is_out_of_turn_is_no_message() {
        let mut server = server();
        let without = Hello {
            stdin: false,
            ..STREAMS
        };
        let size = Request::Size(Size {
            rows: 1,
            columns: 1,
        });
        for (hello, first, then) in [
            // Before the first was taken, where there is no stdin to have, and before it has said what it wants.
            (
                Some(STREAMS),
                Some(Request::Input(b"x")),
                Request::Input(b"y"),
            ),
            (
                Some(STREAMS),
                Some(Request::EndOfInput),
                Request::Input(b"y"),
            ),
            (Some(without), None, Request::Input(b"x")),
            (Some(without), None, Request::EndOfInput),
            (Some(STREAMS), None, Request::Hello(STREAMS)),
            (None, None, size),
            (None, None, Request::Signal(1)),
        ] {
            let index = server.clients.len();
            let client = joins(&mut server, hello);
            if let Some(first) = first {
                says(&mut server, index, &client, &first);
            }
            assert!(matches!(
                says(&mut server, index, &client, &then),
                Said::Nothing
            ));
            is_let_go(&client, NO_MESSAGE);
        }
        assert_eq!(server.next_input(), None);
    }

    #[test]
    fn while_no_process_runs_one_can_wait_and_not_be_attached() {
        let mut server = server();
        for (hello, is_welcome) in [(Hello::default(), true), (STREAMS, false)] {
            let index = server.clients.len();
            let client = joins(&mut server, None);
            assert!(client.say(&Request::Hello(hello)).unwrap());
            server.hear(index, None);
            let mut buffer = [0; PACKET];
            match client.hear(&mut buffer).unwrap() {
                Some(Answer::Welcome(_)) => assert!(is_welcome),
                other => assert_eq!(
                    (other, is_welcome),
                    (Some(Answer::LetGo(NOT_RUNNING)), false)
                ),
            }
        }
    }

    #[test]
    fn input_is_taken_from_all_in_turn() {
        let mut server = server();
        let clients = [(); 3].map(|()| joins(&mut server, Some(STREAMS)));
        let type_in = |server: &mut Server, index: usize| {
            says(server, index, &clients[index], &Request::Input(b"x"));
        };
        (0..3).for_each(|index| type_in(&mut server, index));
        let mut order = Vec::new();
        for _ in 0..2 {
            while let Some((serial, _)) = server.next_input() {
                order.push(serial);
                if order.len() < 4 {
                    type_in(&mut server, serial as usize - 1);
                }
            }
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn the_input_of_who_began_is_over_when_its_last_was_taken() {
        let mut server = server();
        let (own, socket) = Connection::pair().unwrap();
        server.add_first(socket, STREAMS);
        says(&mut server, 0, &own, &Request::Input(b"x"));
        says(&mut server, 0, &own, &Request::EndOfInput);
        assert!(!server.first_is_over());
        server.next_input();
        assert!(server.first_is_over());
    }

    #[test]
    fn after_a_while_without_descriptors_new_ones_are_heard_again() {
        let mut server = server();
        server.deaf_until = Some(Instant::now() + DEAF);
        server.tidy();
        assert!(server.listener().is_none());
        server.deaf_until = Some(Instant::now());
        server.tidy();
        assert!(server.listener().is_some() && server.deadline().is_none());
    }
}
