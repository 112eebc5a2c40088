//! `exec`: another command in a running container, with its namespaces, cgroups and privileges.
//!
//! Two processes of ours stand between the caller and the command. The client, which is the caller's, copies the streams.
//! The agent, in a session of its own, is the command's parent and reaps it at once: a process that nobody reaps holds
//! process 1 of its pid namespace in the kernel (pid_namespaces(7)), and a client can be stopped by ^Z at any time.

use std::os::fd::{AsFd, OwnedFd};

use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result, events};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, setsid, waitid};
use rustix::thread::ThreadNameSpaceType;

use crate::caps::Sets;
use crate::channel::{Channel, Message};
use crate::container::{Container, has_ended};
use crate::keys::Keys;
use crate::log::Stream;
use crate::options::process_option;
use crate::plan::Program;
use crate::privileges::{self, Stdio};
use crate::process::{self, Request};
use crate::rooted::Root;
use crate::start::caller;
use crate::streams::{After, Event, Input, Streams};
use crate::supervise;
use crate::sys::{self, Side};
use crate::watch::Watch;
use crate::{cgroups, child, memory, run, seal, signals, title, tty};

/// The devpts of a container, as every one of ours has it.
const PTS: &str = "/dev/pts";
const PTMX: &str = "ptmx";
/// How much is read at once of what nobody wants.
const PIECE: usize = 4096;

#[derive(Default)]
struct Options {
    request: Request,
    interactive: bool,
    detach: bool,
    privileged: bool,
    keys: Keys,
    name: Option<String>,
}

fn options(call: &mut Call) -> Result<Options> {
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(name) => match name.as_str() {
                "-i" | "--interactive" => options.interactive = true,
                "-d" | "--detach" => options.detach = true,
                "--privileged" => options.privileged = true,
                "--detach-keys" => options.keys = Keys::parse(&call.text()?)?,
                "--entrypoint" => return Err(call.unknown(&name)),
                name => {
                    if !process_option(call, name, &mut options.request)? {
                        return Err(call.unknown(name));
                    }
                }
            },
            Arg::Value(word) => {
                let name = word
                    .into_string()
                    .map_err(|_| Error::new(Kind::Usage, "the container's name is not UTF-8"))?;
                options.name = Some(name);
                // What follows is the command, with or without `--` before it.
                let mut words = call.rest()?;
                if words.first().is_some_and(|word| word == "--") {
                    words.remove(0);
                }
                options.request.set_command(words)?;
                break;
            }
        }
    }
    Ok(options)
}

/// The verb.
pub(crate) fn exec(call: &mut Call) -> Result<()> {
    let options = options(call)?;
    let usage = |what: &str| {
        Error::new(Kind::Usage, what)
            .hint("exec [-d] [-i] [-t] [-e K=V] [-w DIR] [-u USER] [--privileged] ID COMMAND")
    };
    let name = options
        .name
        .clone()
        .ok_or_else(|| usage("no container is given"))?;
    if options.request.command.is_empty() {
        return Err(usage("no command is given"));
    }
    if !call.dry_run() {
        seal::seal()?;
    }
    let container = Container::find(&name)?;
    container.must_run()?;
    let (pid, target) = container
        .process()?
        .ok_or_else(|| container.not_running())?;
    let mut program = program(&container, &options.request, pid.as_raw_nonzero().get())?;
    if options.privileged {
        program.capabilities = Sets::held()?;
        program.no_new_privileges = false;
    }
    if call.dry_run() {
        return Ok(());
    }
    let signals = signals::open()?;
    let code = attach(&container, &target, &program, options, &signals)?;
    call.set_exit_code(code);
    Ok(())
}

/// As the container's own process, with what the options change. Names of users are looked up in the container as it is
/// now, through its process's root.
fn program(container: &Container, request: &Request, pid: i32) -> Result<Program> {
    let root = || Root::open(format!("/proc/{pid}/root").as_ref()).map(Some);
    let hostname: String = container.document.get("/hostname")?.unwrap_or_default();
    let mut process = process::derive(&container.document, request, &hostname, root)?;
    process.terminal = request.terminal;
    Program::of(&process)
}

fn attach(
    container: &Container,
    target: &OwnedFd,
    program: &Program,
    options: Options,
    signals: &SignalFd,
) -> Result<u8> {
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe".into());
    let mut streams = Streams::default();
    let mut stdio = Stdio::default();
    if !program.terminal && !options.detach {
        let ((out_reader, out), (err_reader, err)) = (pipe()?, pipe()?);
        streams.output(out_reader, Some(caller(1)?), Stream::Stdout, false);
        streams.output(err_reader, Some(caller(2)?), Stream::Stderr, false);
        (stdio.stdout, stdio.stderr) = (Some(out), Some(err));
        if options.interactive {
            let (reader, writer) = pipe()?;
            streams.input(Input::new(writer, false).from(caller(0)?));
            stdio.stdin = Some(reader);
        }
    }
    let (here, there) = Channel::pair()?;
    let (side, born_in_cgroup) = match options.detach {
        true => cgroups::fork_supervisor(&container.cgroups)?,
        false => (
            sys::fork().doing(|| "start the command's parent".into())?,
            false,
        ),
    };
    match side {
        Side::Child => {
            drop(here);
            drop(streams);
            let detach = options.detach;
            // It outlives the group of whoever has started it, as the container's supervisor does.
            let moved = match detach {
                true => cgroups::leave_caller(&container.cgroups, born_in_cgroup),
                false => Ok(()),
            };
            let result =
                moved.and_then(|()| agent(container, target, program, stdio, &there, detach));
            if let Err(error) = result {
                // Without a client there is nobody to tell.
                let _ = there.failed(0, &error);
            }
            sys::exit(0)
        }
        Side::Parent(..) => {
            drop(there);
            drop(stdio);
        }
    }
    client(&here, streams, options, signals)
}

fn client(
    channel: &Channel,
    mut streams: Streams,
    options: Options,
    signals: &SignalFd,
) -> Result<u8> {
    let lost = || {
        Error::new(
            Kind::System(libc::ECHILD),
            "the command's parent has ended before the command",
        )
    };
    let copy = |fd: &OwnedFd| fd.try_clone().doing(|| "copy a descriptor".into());
    let mut terminal = None;
    let mut raw = None;
    // First a terminal, if there is one, then the command's pidfd, once it is executed.
    let pidfd = loop {
        match channel.receive()? {
            Message::Descriptor(_) if options.detach => return Ok(0),
            Message::Descriptor(master) if terminal.is_none() && streams.is_empty() => {
                // As in take_terminal.
                tty::never_wait(&master)?;
                tty::copy_size(rustix::stdio::stdout(), &master);
                if options.interactive {
                    raw = tty::Raw::new(rustix::stdio::stdin())?;
                    let input = Input::new(copy(&master)?, true).from(caller(0)?);
                    streams.input(input.keys(options.keys.clone()));
                }
                streams.output(copy(&master)?, Some(caller(1)?), Stream::Stdout, true);
                terminal = Some(master);
            }
            Message::Descriptor(pidfd) => break pidfd,
            Message::Failed(_, error) => return Err(error),
            Message::Done(_) => {}
            Message::Ended { .. } | Message::Closed => return Err(lost()),
        }
    };
    let ended = Some(channel.as_fd());
    let (mut left, mut hung_up) = (false, false);
    streams.run(ended, signals, &mut Watch::default(), |event, _| {
        let signal = match event {
            Event::Signal(signal) => signal,
            Event::Detached => {
                left = true;
                return After::Return;
            }
            Event::HungUp => {
                hung_up = true;
                return After::Return;
            }
            _ => return After::Continue,
        };
        if let (libc::SIGWINCH, Some(to)) = (signal, &terminal) {
            tty::copy_size(rustix::stdio::stdout(), to);
            return After::Continue;
        }
        // One that has ended needs no signal.
        let _ = sys::send_signal(pidfd.as_fd(), signal);
        After::Leave
    })?;
    drop(raw);
    if hung_up {
        // The agent ends the command when we go.
        return Ok(supervise::code(None, Some(libc::SIGPIPE)));
    }
    if left {
        // The agent goes on without us.
        return channel.go().map(|()| 0);
    }
    match channel.receive()? {
        Message::Ended { code, signal } => Ok(supervise::code(code, signal)),
        Message::Failed(_, error) => Err(error),
        _ => {
            // Its parent-death signal may have been cleared by a change of user, and those that it started have none.
            let _ = sys::send_signal_to_group(pidfd.as_fd(), libc::SIGKILL);
            Err(lost())
        }
    }
}

/// The command's parent. It holds nothing of the caller's, and stays until the command has ended, which it sees to when the
/// client is killed. From one that is to be detached, or has left, it takes the terminal over.
fn agent(
    container: &Container,
    target: &OwnedFd,
    program: &Program,
    stdio: Stdio,
    client: &Channel,
    detach: bool,
) -> Result<()> {
    title::show(Some(&container.id));
    setsid().doing(|| "begin a session".into())?;
    privileges::hide()?;
    let enter = |kinds: ThreadNameSpaceType| {
        rustix::thread::move_into_thread_name_spaces(target.as_fd(), kinds)
            .map_err(|_| container.not_running())
    };
    // Of a pid namespace only children become members.
    enter(ThreadNameSpaceType::PROCESS_ID)?;
    let (here, there) = Channel::pair()?;
    let (side, born_in_cgroup) = match cgroups::clone(&container.cgroups, 0) {
        // So the kernel says that process 1 has ended (pid_namespaces(7)).
        Err(error) if error.errno() == Some(libc::ENOMEM) => return Err(container.not_running()),
        result => result?,
    };
    let (pid, pidfd) = match side {
        Side::Child => {
            drop(here);
            let result = inside(program, stdio, &there, || {
                if !born_in_cgroup {
                    cgroups::join(&container.cgroups)?;
                }
                enter(
                    ThreadNameSpaceType::MOUNT
                        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
                        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
                        | ThreadNameSpaceType::NETWORK
                        | ThreadNameSpaceType::CONTROL_GROUP,
                )
            });
            if let Err(error) = result {
                let _ = there.failed(0, &error);
            }
            sys::exit(1)
        }
        Side::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(there);
    drop(stdio);
    match detach {
        true => run::let_go()?,
        false => child::let_stdio_go()?,
    }
    let mut terminal = None;
    match relay(&here, client, detach, &mut terminal) {
        Ok(()) => {
            let words = program.args.iter().map(|word| word.to_string_lossy());
            let words = words.collect::<Vec<_>>().join(" ");
            for action in ["exec_create", "exec_start"] {
                tell(container, format!("{action}: {words}"), pid).record();
            }
            // A client that has gone is noticed below.
            drop(client.descriptor(pidfd.as_fd()));
        }
        Err(error) => {
            let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            return Err(error);
        }
    }
    if detach || (!ends_before(&pidfd, client)? && client.wait()) {
        if !detach {
            tell(container, "exec_detach".into(), pid).record();
        }
        // It may be for long, and there is nothing to do before the end.
        memory::trim();
        memory::forget_program();
        drain(terminal, &pidfd)?;
    } else if !has_ended(&pidfd)? {
        // Nobody would know of it any more. It leads its own process group, and its number is its own until it is reaped.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
        .doing(|| "wait for the command".into())?
        .ok_or_else(|| Error::new(Kind::System(libc::ECHILD), "the command has vanished"))?;
    let code = supervise::code(status.exit_status(), status.terminating_signal());
    let event = tell(container, "exec_die".into(), pid);
    event.with("exitCode", code).record();
    let _ = client.ended(status.exit_status(), status.terminating_signal());
    Ok(())
}

/// What happens to the command: its number on the host tells it from others.
fn tell(container: &Container, action: String, pid: Pid) -> events::Event {
    events::Event::of(&container.document, action).with("execID", pid)
}

/// Takes what the command writes to a terminal that nobody reads any more, until it has ended.
fn drain(terminal: Option<OwnedFd>, pidfd: &OwnedFd) -> Result<()> {
    let mut bytes = [0; PIECE];
    let mut has_hung_up = false;
    loop {
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        let open = terminal.iter().filter(|_| !has_hung_up);
        fds.extend(open.map(|fd| PollFd::new(fd, PollFlags::IN)));
        let patience = has_hung_up.then(|| Timespec::try_from(tty::HUNG_UP));
        let patience = patience.and_then(std::result::Result::ok);
        rustix::io::retry_on_intr(|| poll(&mut fds, patience.as_ref()))
            .doing(|| "wait for the command".into())?;
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        if let Some(fd) = &terminal {
            has_hung_up = rustix::io::read(fd, &mut bytes) == Err(Errno::IO);
        }
    }
}

/// Waits for the end of the command or of the client, whichever is first. Whether it was the command's.
fn ends_before(pidfd: &OwnedFd, client: &Channel) -> Result<bool> {
    // The client says only that it leaves, or its end is heard.
    let mut fds = [
        PollFd::new(pidfd, PollFlags::IN),
        PollFd::new(client, PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut fds, None)).doing(|| "wait for the command".into())?;
    Ok(!fds[0].revents().is_empty())
}

/// Leads the command's process up to execve(2).
fn relay(
    process: &Channel,
    client: &Channel,
    detach: bool,
    terminal: &mut Option<OwnedFd>,
) -> Result<()> {
    loop {
        match process.receive()? {
            Message::Descriptor(master) => {
                if !detach {
                    client.descriptor(master.as_fd())?;
                }
                *terminal = Some(master);
            }
            Message::Done(_) => process.go()?,
            Message::Closed => return Ok(()),
            Message::Failed(_, error) => return Err(error),
            Message::Ended { .. } => {}
        }
    }
}

/// The command's process, in the container's pid namespace from birth.
fn inside(
    program: &Program,
    stdio: Stdio,
    channel: &Channel,
    enter: impl FnOnce() -> Result<()>,
) -> Result<()> {
    sys::reset_signals();
    setsid().doing(|| "begin a session".into())?;
    enter()?;
    let root = Root::open("/".as_ref())?;
    let stdio = if program.terminal {
        let pts = root
            .find_without_links(PTS)
            .doing(|| format!("open {PTS} in the container"))?;
        let (master, terminal) = tty::open_pair(pts.as_fd(), PTMX)?;
        channel.descriptor(master.as_fd())?;
        Stdio::terminal(terminal)?
    } else {
        stdio
    };
    privileges::prepare(program, &root, stdio)?;
    channel.done(0)?;
    if !channel.wait() {
        sys::exit(1);
    }
    Err(privileges::execute(
        &program.args,
        &program.env,
        &program.path,
    ))
}
