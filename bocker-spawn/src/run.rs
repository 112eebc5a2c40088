//! `run`: makes the container, executes its command, keeps it company to the end, and passes the document on.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use bocker_pipe::events::Event;
use bocker_pipe::lock::Alive;
use bocker_pipe::{Call, Document, Doing, Error, Kind, Result, paths, timing};
use nix::sys::signalfd::SignalFd;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::attach::{self, Client, Ending};
use crate::options::{self, Options};
use crate::plan::Cgroups;
use crate::restart::through_all_runs;
use crate::socket::Welcome;
use crate::start::{First, abandon, begin};
use crate::supervise::{self, finish, supervise};
use crate::sys::{self, Side};
use crate::{cgroups, child, procfs, record, signals, title};

/// What the time is called that the container's command takes.
const CONTAINER: &str = "the container";
/// What the supervisor says to its caller once the command is executed; with `--attach` the document follows.
const BEGUN: u8 = b'+';

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let options = options::options(call)?;
    let document = call.document()?.clone();
    let dry_run = call.dry_run();
    if options.detach && !dry_run {
        return detached(call, document, options);
    }
    let signals = signals::open()?;
    if options.requested.restart().is_any() {
        let what = "without --detach nobody is left to begin it again";
        return Err(Error::new(Kind::Usage, what).hint("leave out --restart"));
    }
    let mut context = begin(call, document, options, None)?;
    if dry_run {
        call.adopt(context.document);
        return Ok(());
    }
    let exit = match timing::measure(CONTAINER, || supervise(&mut context, &signals)) {
        Ok(exit) => exit,
        Err(error) => {
            // It must not live on unseen.
            abandon(&mut context);
            return Err(error);
        }
    };
    call.set_exit_code(exit.code);
    let document = finish(&mut context, &exit);
    call.adopt(document);
    // Until the next stage has it, nobody else would clean up.
    call.write()?;
    match context.alive {
        Some(alive) => alive.let_go(),
        None => Ok(()),
    }
}

/// The supervisor is a process of its own, in its own session. The caller returns when it has said how it began, or, with
/// `--attach`, when the container has ended or the caller has left it.
fn detached(call: &mut Call, document: Document, options: Options) -> Result<()> {
    let terminal = options.request.terminal || document.get("/process/terminal")?.unwrap_or(false);
    let attached = match options.attach {
        // From here on a signal is for the container.
        true => Some((Client::first(&options, terminal)?, signals::open()?)),
        false => None,
    };
    let (mut reader, mut writer) = std::io::pipe().doing(|| "make a pipe".into())?;
    let cgroups = Cgroups::of(&document)?;
    let (side, born_in_cgroup) = cgroups::fork_supervisor(&cgroups)?;
    match side {
        Side::Parent(_, pidfd) => {
            drop(writer);
            let mut word = Vec::new();
            if reader.read_to_end(&mut word).is_ok() && word.first() == Some(&BEGUN) {
                return match attached {
                    Some(((client, ..), signals)) => {
                        accompanied(call, client, &signals, &word[1..])
                    }
                    None => sys::exit(0),
                };
            }
            let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            let status = status.doing(|| "wait for the supervisor".into())?;
            match status.and_then(|status| status.exit_status()) {
                // It has said on stdout and stderr why.
                Some(code) => sys::exit(code),
                None => return Err(killed(&document)),
            }
        }
        Side::Child => {}
    }
    drop(reader);
    title::show(document.id().ok().as_ref());
    rustix::process::setsid().doing(|| "begin a session".into())?;
    let first = attached.map(|((_, socket, hello, size), _)| First {
        socket,
        hello,
        size,
    });
    let signals = signals::open()?;
    let on_exit = options
        .on_exit
        .clone()
        .map(|program| (program, options.on_arg.clone()));
    let is_attached = options.attach;
    cgroups::leave_caller(&cgroups, born_in_cgroup)?;
    let mut context = begin(call, document, options, first)?;
    call.adopt(context.document.clone());
    let mut word = vec![BEGUN];
    let result = match is_attached {
        true => context
            .document
            .write(&mut word, false)
            .doing(|| "write the document".into()),
        false => call.write(),
    };
    if let Err(error) = result {
        // Nobody would know that it runs.
        abandon(&mut context);
        return Err(error);
    }
    // The caller may have gone meanwhile, which is its own affair.
    let _ = writer.write_all(&word);
    drop((word, writer));
    let_go()?;
    // From here on there is nobody to return an error to: what fails is in the status, or at least ends the container.
    let engine = call.engine();
    let run = || through_all_runs(&engine, &mut context, &signals);
    let exit = match timing::measure(CONTAINER, run) {
        Ok(exit) => exit,
        Err(_) => {
            abandon(&mut context);
            sys::exit(i32::from(bocker_pipe::error::EXIT_FAILED));
        }
    };
    let document = finish(&mut context, &exit);
    let result = on_exit
        .map_or(Ok(()), |(program, args)| {
            hand_over(&document, &program, &args)
        })
        .and_then(|()| context.alive.map_or(Ok(()), Alive::let_go));
    sys::exit(i32::from(
        result.map_or_else(|error| error.exit_code(), |()| 0),
    ))
}

/// The caller of `--attach`, once the command is executed. The document is passed on when it goes.
fn accompanied(
    call: &mut Call,
    mut client: Client,
    signals: &SignalFd,
    document: &[u8],
) -> Result<()> {
    let mut document = Document::parse(document)?;
    let welcome = Welcome {
        terminal: document.get("/process/terminal")?.unwrap_or(false),
        stdin: true,
    };
    let id = document.id()?;
    call.adopt(document.clone());
    Event::of(&document, "attach").record();
    match client.run(welcome, signals)? {
        Ending::Ended(exit) => {
            let mut member = document.member("spawn")?.unwrap_or_default();
            record::end(&mut document, &mut member, &exit);
            call.set_exit_code(exit.code);
        }
        Ending::Detached => attach::left(&document, &id),
        Ending::Gone(signal) => call.set_exit_code(supervise::code(None, Some(signal))),
        Ending::Lost => {
            return Err(killed(&document));
        }
    }
    call.adopt(document);
    Ok(())
}

/// The error for a supervisor that can say nothing any more.
fn killed(document: &Document) -> Error {
    let what = match document.id() {
        Ok(id) => format!("the supervisor of {id} was killed"),
        Err(_) => "the supervisor was killed".into(),
    };
    Error::new(Kind::System(libc::ECHILD), what)
        .hint("'bocker system prune' removes what is left of the container")
}

/// Lets go of the caller's descriptors, those that it has left open without meaning to too (a lock, a pipe that somebody reads to
/// its end), and of its folder, which it may want to remove.
pub(crate) fn let_go() -> Result<()> {
    child::let_stdio_go()?;
    // Ours are closed by execve(2), every one.
    for number in procfs::own_descriptors()? {
        if number > 2 && !sys::is_closed_by_exec(number) {
            sys::close(number);
        }
    }
    let root = std::env::var_os(paths::ROOT_VARIABLE).unwrap_or_default();
    if root.is_empty() || Path::new(&root).is_absolute() {
        rustix::process::chdir("/").doing(|| "enter /".into())?;
    }
    Ok(())
}

/// Executes the program that the caller named, with the finished document on its stdin. How it ends is its own affair, unless
/// it is killed: then what it was to do is left.
fn hand_over(document: &Document, program: &str, args: &[String]) -> Result<()> {
    let (reader, mut writer) = std::io::pipe().doing(|| "make a pipe".into())?;
    let mut bytes = Vec::new();
    document
        .write(&mut bytes, false)
        .doing(|| "write the document".into())?;
    let mut child = std::process::Command::new(program)
        .args(args)
        .stdin(reader)
        .spawn()
        .doing(|| format!("execute {program}"))?;
    // One that does not read its document has its reasons.
    let _ = writer.write_all(&bytes);
    drop(writer);
    let status = child.wait().doing(|| format!("wait for {program}"))?;
    match status.signal() {
        None => Ok(()),
        Some(signal) => Err(Error::new(
            Kind::Interrupted(signal),
            format!("{program} was killed by signal {signal}"),
        )),
    }
}
