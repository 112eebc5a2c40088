//! `exec`: another command in a running container, with its namespaces, cgroups and privileges.
//!
//! Two processes of ours stand between the caller and the command. The client, which is the caller's, copies the streams.
//! The agent, in a session of its own, is the command's parent and reaps it at once: a process that nobody reaps holds
//! process 1 of its pid namespace in the kernel (pid_namespaces(7)), and a client can be stopped by ^Z at any time.

use std::os::fd::{AsFd, OwnedFd};

use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, setsid, waitid};
use rustix::thread::ThreadNameSpaceType;

use crate::channel::{Channel, Message};
use crate::container::Container;
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
use crate::{cgroups, child, seal, signals, tty};

/// The devpts of a container, as every one of ours has it.
const PTS: &str = "/dev/pts";
const PTMX: &str = "ptmx";

#[derive(Default)]
struct Options {
    request: Request,
    interactive: bool,
    name: Option<String>,
}

fn options(call: &mut Call) -> Result<Options> {
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(name) => match name.as_str() {
                "-i" | "--interactive" => options.interactive = true,
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
        Error::new(Kind::Usage, what).hint("exec [-i] [-t] [-e K=V] [-w DIR] [-u USER] ID COMMAND")
    };
    let name = options.name.ok_or_else(|| usage("no container is given"))?;
    if options.request.command.is_empty() {
        return Err(usage("no command is given"));
    }
    if !call.dry_run() {
        seal::seal()?;
    }
    let container = Container::find(&name)?;
    match container.state() {
        State::Running => {}
        State::Restarting => {
            let what = format!("Container '{name}' is between two runs");
            return Err(Error::new(Kind::InUse, what).hint("try again in a moment"));
        }
        State::Paused => {
            return Err(
                Error::new(Kind::InUse, format!("Container '{name}' is paused"))
                    .hint(format!("'bocker unpause {name}' lets it go on")),
            );
        }
        _ => return Err(container.not_running()),
    }
    let (pid, target) = container
        .process()?
        .ok_or_else(|| container.not_running())?;
    let program = program(&container, &options.request, pid.as_raw_nonzero().get())?;
    if call.dry_run() {
        return Ok(());
    }
    let signals = signals::open()?;
    let code = attach(&container, &target, &program, options.interactive, &signals)?;
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
    interactive: bool,
    signals: &SignalFd,
) -> Result<u8> {
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe".into());
    let mut streams = Streams::default();
    let mut stdio = Stdio::default();
    if !program.terminal {
        let ((out_reader, out), (err_reader, err)) = (pipe()?, pipe()?);
        streams.output(out_reader, Some(caller(1)?), Stream::Stdout, false);
        streams.output(err_reader, Some(caller(2)?), Stream::Stderr, false);
        (stdio.stdout, stdio.stderr) = (Some(out), Some(err));
        if interactive {
            let (reader, writer) = pipe()?;
            streams.input(Input::new(writer, false).from(caller(0)?));
            stdio.stdin = Some(reader);
        }
    }
    let (here, there) = Channel::pair()?;
    match sys::fork().doing(|| "start the command's parent".into())? {
        Side::Child => {
            drop(here);
            drop(streams);
            if let Err(error) = agent(container, target, program, stdio, &there) {
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
    client(&here, streams, interactive, signals)
}

fn client(
    channel: &Channel,
    mut streams: Streams,
    interactive: bool,
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
            Message::Descriptor(master) if terminal.is_none() && streams.is_empty() => {
                // As in take_terminal.
                tty::never_wait(&master)?;
                tty::copy_size(rustix::stdio::stdout(), &master);
                if interactive {
                    raw = tty::Raw::new(rustix::stdio::stdin())?;
                    streams.input(Input::new(copy(&master)?, true).from(caller(0)?));
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
    streams.run(ended, signals, &mut Watch::default(), |event, _| {
        let Event::Signal(signal) = event else {
            return After::Continue;
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
/// client is killed.
fn agent(
    container: &Container,
    target: &OwnedFd,
    program: &Program,
    stdio: Stdio,
    client: &Channel,
) -> Result<()> {
    setsid().doing(|| "begin a session".into())?;
    privileges::hide()?;
    let enter = |kinds: ThreadNameSpaceType| {
        rustix::thread::move_into_thread_name_spaces(target.as_fd(), kinds)
            .map_err(|_| container.not_running())
    };
    // Of a pid namespace only children become members.
    enter(ThreadNameSpaceType::PROCESS_ID)?;
    let (here, there) = Channel::pair()?;
    let (side, born_in_cgroup) = cgroups::clone(&container.cgroups, 0)?;
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
    child::let_stdio_go()?;
    match relay(&here, client) {
        // A client that has gone is noticed below.
        Ok(()) => drop(client.descriptor(pidfd.as_fd())),
        Err(error) => {
            let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            return Err(error);
        }
    }
    if !ends_before(&pidfd, client)? {
        // Nobody would know of it any more. It leads its own process group, and its number is its own until it is reaped.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
        .doing(|| "wait for the command".into())?
        .ok_or_else(|| Error::new(Kind::System(libc::ECHILD), "the command has vanished"))?;
    let _ = client.ended(status.exit_status(), status.terminating_signal());
    Ok(())
}

/// Waits for the end of the command or of the client, whichever is first. Whether it was the command's.
fn ends_before(pidfd: &OwnedFd, client: &Channel) -> Result<bool> {
    // The client says nothing, so that there is only its end to be heard.
    let mut fds = [
        PollFd::new(pidfd, PollFlags::IN),
        PollFd::new(client, PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut fds, None)).doing(|| "wait for the command".into())?;
    Ok(!fds[0].revents().is_empty())
}

/// Leads the command's process up to execve(2).
fn relay(process: &Channel, client: &Channel) -> Result<()> {
    loop {
        match process.receive()? {
            Message::Descriptor(master) => client.descriptor(master.as_fd())?,
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
