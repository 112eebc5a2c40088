//! `run`: makes the container, executes its command, keeps it company to the end, and passes the document on.

use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Instant;

use bocker_pipe::document::ExitMember;
use bocker_pipe::lock::{self, Alive, Lock};
use bocker_pipe::{
    Arg, Call, Document, Doing, Error, Id, Kind, Result, Step, claim, containers, paths,
};
use nix::sys::signalfd::SignalFd;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, Message};
use crate::log::{self, Log, Stream};
use crate::plan::Plan;
use crate::privileges::Stdio;
use crate::process::Request;
use crate::signals::{Attitude, Judge, Verdict};
use crate::streams::{After, Event, Streams};
use crate::sys::{self, Side};
use crate::{STAGE, cgroups, child, files, oom, procfs, seal, show, signals, spec, tty};

const RUNNING: &str = "running";
const EXITED: &str = "exited";

/// `bocker.spawn`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpawnMember {
    /// Process 1, as the host numbers it; absent when none runs. Never believed without the other two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// Its start time in clock ticks since boot (proc(5), stat, field 22).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start_time: Option<u64>,
    /// The boot that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot_id: Option<String>,
    /// Where its output is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<PathBuf>,
    /// When the document was handed to this tool first, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    /// When its command was executed, RFC 3339 in UTC; absent when none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<String>,
    /// What asks it to end, where the image names a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<String>,
    /// Whether the container's folder is of this tool's making, and so its to remove.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) made_folder: bool,
}

/// What the command line says beside the process.
#[derive(Default)]
struct Options {
    request: Request,
    read_only: bool,
    stdin: Option<RawFd>,
    stdout: Option<RawFd>,
    stderr: Option<RawFd>,
    detach: bool,
    on_exit: Option<String>,
    on_arg: Vec<String>,
}

/// Takes the options that `run`, `spec` and `create` share; answers `false` for any other.
pub(crate) fn process_option(call: &mut Call, option: &str, request: &mut Request) -> Result<bool> {
    match option {
        "-e" | "--env" => request.env.push(call.text()?),
        "-w" | "--workdir" => request.working_dir = Some(call.text()?),
        "-u" | "--user" => request.user = Some(call.text()?),
        "--entrypoint" => request.entrypoint = Some(call.text()?),
        "-t" | "--tty" => request.terminal = true,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The command begins at the first word, or after `--`.
pub(crate) fn take_command(
    call: &mut Call,
    first: std::ffi::OsString,
    request: &mut Request,
) -> Result<()> {
    let mut words = vec![first];
    words.extend(call.rest()?);
    request.set_command(words)
}

fn options(call: &mut Call) -> Result<Options> {
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(name) => match name.as_str() {
                "--read-only" => options.read_only = true,
                "--stdin" => options.stdin = Some(call.number()?),
                "--stdout" => options.stdout = Some(call.number()?),
                "--stderr" => options.stderr = Some(call.number()?),
                "-d" | "--detach" => options.detach = true,
                "--on-exit" => options.on_exit = Some(call.text()?),
                "--on-arg" => options.on_arg.push(call.text()?),
                name => {
                    if !process_option(call, name, &mut options.request)? {
                        return Err(call.unknown(name));
                    }
                }
            },
            Arg::Value(word) => {
                take_command(call, word, &mut options.request)?;
                break;
            }
        }
    }
    if options.on_exit.is_some() && !options.detach {
        return Err(Error::new(Kind::Usage, "--on-exit goes with --detach"));
    }
    if options.on_exit.is_none() && !options.on_arg.is_empty() {
        return Err(Error::new(Kind::Usage, "--on-arg goes with --on-exit"));
    }
    Ok(options)
}

/// What the steps work on.
pub(crate) struct Context {
    document: Document,
    options: Options,
    id: Option<Id>,
    folder: PathBuf,
    plan: Option<Plan>,
    member: SpawnMember,
    lock: Option<Lock>,
    alive: Option<Alive>,
    child: Option<Child>,
    streams: Streams,
    raw: Option<tty::Raw>,
    /// The files as they were, to be put back.
    before: Option<[(PathBuf, Option<Vec<u8>>); 3]>,
    dry_run: bool,
}

struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    channel: Channel,
    /// The parts of its work that it has reported, and what failed after them.
    parts: usize,
    failure: Option<Error>,
    /// The master of its terminal, once it has come.
    terminal: Option<OwnedFd>,
}

impl Context {
    fn id(&self) -> Result<&Id> {
        self.id
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Document, "the container has no id"))
    }

    fn plan(&self) -> Result<&Plan> {
        self.plan
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Document, "the container has no plan"))
    }

    fn child(&mut self) -> Result<&mut Child> {
        self.child
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Document, "the container has no process"))
    }

    /// For what is shown.
    pub(crate) fn shown_plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// For what is shown.
    pub(crate) fn shown_folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// For what is shown: the process as the host numbers it.
    pub(crate) fn shown_pid(&self) -> String {
        self.member
            .pid
            .map_or_else(|| "PID".to_owned(), |pid| pid.to_string())
    }
}

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let options = options(call)?;
    let document = call.document()?.clone();
    let dry_run = call.dry_run();
    if options.detach && !dry_run {
        return detached(call, document, options);
    }
    let signals = signals::open()?;
    let mut context = begin(call, document, options)?;
    if dry_run {
        call.adopt(context.document);
        return Ok(());
    }
    let exit = supervise(&mut context, &signals)?;
    call.set_exit_code(exit.code);
    let document = finish(context, &exit, true);
    call.adopt(document);
    Ok(())
}

/// The supervisor is a process of its own, in its own session. The caller returns when it has said how it began.
fn detached(call: &mut Call, document: Document, options: Options) -> Result<()> {
    let (mut reader, mut writer) = std::io::pipe().doing(|| "make a pipe".into())?;
    match sys::clone(0).doing(|| "start the supervisor".into())? {
        Side::Parent(_, pidfd) => {
            drop(writer);
            let mut word = [0];
            if reader.read(&mut word).is_ok_and(|length| length == 1) {
                sys::exit(0);
            }
            // It has said on stdout and stderr why.
            let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            let code = status
                .ok()
                .flatten()
                .and_then(|status| status.exit_status());
            sys::exit(code.unwrap_or(i32::from(bocker_pipe::error::EXIT_FAILED)));
        }
        Side::Child => {}
    }
    drop(reader);
    rustix::process::setsid().doing(|| "begin a session".into())?;
    let signals = signals::open()?;
    let on_exit = options
        .on_exit
        .clone()
        .map(|program| (program, options.on_arg.clone()));
    let mut context = begin(call, document, options)?;
    call.adopt(context.document.clone());
    if let Err(error) = call.write() {
        // Nobody would know that it runs.
        abandon(&mut context);
        return Err(error);
    }
    // The caller may have gone meanwhile, which is its own affair.
    let _ = writer.write_all(b"+");
    drop(writer);
    let_go()?;
    // From here on there is nobody to return an error to: what fails is in the status, or at least ends the container.
    let exit = match supervise(&mut context, &signals) {
        Ok(exit) => exit,
        Err(_) => {
            abandon(&mut context);
            sys::exit(i32::from(bocker_pipe::error::EXIT_FAILED));
        }
    };
    let document = finish(context, &exit, false);
    let handed = on_exit.map_or(Ok(()), |(program, args)| {
        hand_over(&document, &program, &args)
    });
    sys::exit(i32::from(
        handed.map_or_else(|error| error.exit_code(), |()| 0),
    ))
}

/// Lets go of the caller's descriptors, and of its folder, which it may want to remove.
fn let_go() -> Result<()> {
    child::let_stdio_go()?;
    let root = std::env::var_os(paths::ROOT_VARIABLE).unwrap_or_default();
    if root.is_empty() || std::path::Path::new(&root).is_absolute() {
        rustix::process::chdir("/").doing(|| "enter /".into())?;
    }
    Ok(())
}

/// Executes the program that the caller named, in our place, with the finished document on its stdin.
fn hand_over(document: &Document, program: &str, args: &[String]) -> Result<()> {
    let (reader, mut writer) = std::io::pipe().doing(|| "make a pipe".into())?;
    let mut bytes = Vec::new();
    document
        .write(&mut bytes, false)
        .doing(|| "write the document".into())?;
    sys::reset_signals();
    let mut child = std::process::Command::new(program)
        .args(args)
        .stdin(reader)
        .spawn()
        .doing(|| format!("execute {program}"))?;
    // One that does not read its document has its reasons.
    let _ = writer.write_all(&bytes);
    drop(writer);
    let _ = child.wait();
    Ok(())
}

/// Everything up to the moment at which the command runs; taken back when something fails.
fn begin(call: &mut Call, document: Document, options: Options) -> Result<Context> {
    let dry_run = call.dry_run();
    let id = match document.value("/bocker/id") {
        Some(_) => Some(document.id()?),
        None => None,
    };
    let mut context = Context {
        member: SpawnMember {
            stop_signal: crate::process::stop_signal(&document)?,
            ..document.member("spawn")?.unwrap_or_default()
        },
        document,
        options,
        folder: PathBuf::new(),
        id,
        plan: None,
        lock: None,
        alive: None,
        child: None,
        streams: Streams::default(),
        raw: None,
        before: None,
        dry_run,
    };
    if dry_run {
        let id = context.id.get_or_insert_with(Id::placeholder).clone();
        context.document.set_member("id", &id);
        complete(&mut context)?;
    }
    let engine = call.engine();
    let mut done = Vec::new();
    let result = engine.set_up(&mut context, steps(), &mut done);
    if let Err(error) = result {
        context.raw = None;
        return Err(match engine.take_back(&mut context, done) {
            Ok(()) => error,
            Err(second) => error.and(&second),
        });
    }
    context.lock = None;
    Ok(context)
}

fn steps() -> Vec<Step<Context>> {
    let mut steps = vec![
        Step::new(
            "spawn.claim",
            "the id is ours, and nobody else acts on the container meanwhile",
        )
        .command(show::claim)
        .look(|cx| format!("ls {}", cx.folder.display()))
        .apply(take_claim)
        .undo(release_claim),
        Step::new(
            "spawn.namespaces",
            "a process with its own view of mounts, processes, host name and IPC",
        )
        .command(show::namespaces)
        .look(|cx| format!("ls -l /proc/{}/ns", cx.shown_pid()))
        .apply(start)
        .undo(|cx| {
            abandon(cx);
            Ok(())
        }),
        Step::new("spawn.cgroup", "its limits hold before it does anything")
            .command(show::cgroup)
            .look(|cx| format!("cat /proc/{}/cgroup", cx.shown_pid()))
            .apply(enter_cgroups),
    ];
    for name in child::PARTS {
        steps.push(show::report(name).apply(report));
    }
    steps.push(
        Step::new(
            "spawn.config",
            "the document is kept, so that the container can be found",
        )
        .command(show::config)
        .look(|cx| format!("cat {}", cx.folder.join(containers::CONFIG).display()))
        .apply(record)
        .undo(unrecord),
    );
    steps.push(
        Step::new(
            "spawn.exec",
            "the container's command takes the place of the set-up",
        )
        .command(show::exec)
        .look(|cx| format!("cat /proc/{}/cmdline", cx.shown_pid()))
        .apply(execute),
    );
    steps
}

/// The document completed, and everything in it checked.
fn complete(context: &mut Context) -> Result<()> {
    if context.options.read_only {
        context.document.set("/root/readonly", &true);
    }
    let id = context.id()?.clone();
    context.folder = paths::container(&id);
    spec::complete(
        &mut context.document,
        &context.options.request,
        id.as_str(),
        context.dry_run,
    )?;
    context.member.log = Some(context.folder.join(containers::LOG));
    context.plan = Some(Plan::of(&context.document)?);
    Ok(())
}

fn take_claim(context: &mut Context) -> Result<()> {
    let id = match &context.id {
        Some(id) => {
            claim::renew(id, STAGE)?;
            id.clone()
        }
        None => {
            let id = claim::make(STAGE)?;
            context.document.set_member("id", &id);
            context.id.insert(id).clone()
        }
    };
    let result = begin_alone(context, &id);
    if result.is_err() {
        // A step that fails leaves nothing of its own.
        let _ = release_claim(context);
    }
    result
}

fn begin_alone(context: &mut Context, id: &Id) -> Result<()> {
    context.lock = Some(lock::verbs(id)?);
    context.alive = Some(Alive::take(id)?);
    complete(context)?;
    if !context.folder.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&context.folder)
            .doing(|| format!("make {}", context.folder.display()))?;
        context.member.made_folder = true;
    }
    Ok(())
}

fn release_claim(context: &mut Context) -> Result<()> {
    context.alive = None;
    if context.member.made_folder {
        remove_folder(context)?;
    }
    context.lock = None;
    claim::release_own(context.id()?, STAGE)
}

/// The folder that this tool made, and what it wrote there.
fn remove_folder(context: &mut Context) -> Result<()> {
    remove_made_folder(&context.folder)?;
    context.member.made_folder = false;
    context.member.log = None;
    Ok(())
}

/// Removes what this tool writes into a container's folder, and the folder if nothing else is in it.
pub(crate) fn remove_made_folder(folder: &std::path::Path) -> Result<()> {
    for name in [containers::STATUS, containers::LOG, containers::CONFIG] {
        files::remove(&folder.join(name))?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", folder.display())),
    }
}

/// The process is born into its namespaces and waits.
fn start(context: &mut Context) -> Result<()> {
    let mut ends = Ends::default();
    let stdio = stdio(context, &mut ends)?;
    let plan = context.plan()?;
    let joins: Vec<OwnedFd> = plan
        .joins
        .iter()
        .map(|join| {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open(&join.path, flags, rustix::fs::Mode::empty())
                .doing(|| format!("open the {} namespace {}", join.kind, join.path.display()))
        })
        .collect::<Result<_>>()?;
    let (here, there) = Channel::pair()?;
    match sys::clone(plan.new).doing(|| "make the container's process".into())? {
        Side::Child => {
            drop(here);
            drop(ends);
            child::enter(plan, &there, stdio, &joins)
        }
        Side::Parent(pid, pidfd) => {
            context.member.pid = Some(pid.as_raw_nonzero().get());
            context.child = Some(Child {
                pid,
                pidfd,
                channel: here,
                parts: 0,
                failure: None,
                terminal: None,
            });
        }
    }
    ends.connect(context)
}

/// Our ends of the container's pipes.
#[derive(Default)]
struct Ends {
    input: Option<(OwnedFd, OwnedFd)>,
    outputs: Vec<(OwnedFd, Option<OwnedFd>, Stream)>,
}

impl Ends {
    fn connect(self, context: &mut Context) -> Result<()> {
        let path = context.folder.join(containers::LOG);
        context.streams = Streams::new(Some(Log::open(&path)?));
        if let Some((from, to)) = self.input {
            context.streams.input(from, to, false);
        }
        for (from, to, stream) in self.outputs {
            context.streams.output(from, to, stream, false);
        }
        Ok(())
    }
}

/// Pipes for the standard descriptors; a terminal is made inside instead, later.
fn stdio(context: &Context, ends: &mut Ends) -> Result<Option<Stdio>> {
    if context.plan()?.program.terminal {
        return Ok(None);
    }
    let options = &context.options;
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe".into());
    let mut stdio = Stdio::default();
    if let Some(number) = options.stdin {
        let from = caller(number)?;
        let (reader, writer) = pipe()?;
        stdio.stdin = Some(reader);
        ends.input = Some((from, writer));
    }
    for (stream, number) in [
        (Stream::Stdout, options.stdout.unwrap_or(2)),
        (Stream::Stderr, options.stderr.unwrap_or(2)),
    ] {
        let to = match options.detach {
            true => None,
            false => Some(caller(number)?),
        };
        let (reader, writer) = pipe()?;
        match stream {
            Stream::Stdout => stdio.stdout = Some(writer),
            Stream::Stderr => stdio.stderr = Some(writer),
        }
        ends.outputs.push((reader, to, stream));
    }
    Ok(Some(stdio))
}

/// A descriptor that the caller named.
pub(crate) fn caller(number: RawFd) -> Result<OwnedFd> {
    sys::duplicate(number).doing(|| format!("use descriptor {number}"))
}

fn enter_cgroups(context: &mut Context) -> Result<()> {
    let pid = context.child()?.pid;
    cgroups::join(&context.plan()?.cgroups, pid)?;
    context.child()?.channel.go()
}

/// Waits until the process has done its next part.
fn report(context: &mut Context) -> Result<()> {
    loop {
        let child = context.child()?;
        if let Some(left) = child.parts.checked_sub(1) {
            child.parts = left;
            return Ok(());
        }
        if let Some(error) = child.failure.take() {
            return Err(error);
        }
        match child.channel.receive()? {
            Message::Done(parts) => child.parts = parts,
            Message::Descriptor(fd) => take_terminal(context, fd)?,
            Message::Failed(parts, error) => {
                child.parts = parts;
                child.failure = Some(error);
            }
            Message::Ended { .. } | Message::Closed => return Err(died(context)),
        }
    }
}

fn died(context: &mut Context) -> Error {
    let status = context.child().ok().and_then(|child| {
        waitid(
            WaitId::PidFd(child.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .ok()
        .flatten()
    });
    match status.and_then(|status| status.terminating_signal()) {
        Some(signal) => Error::new(
            Kind::Interrupted(signal),
            format!("the container's process was killed by signal {signal} while it was set up"),
        ),
        None => Error::new(
            Kind::System(libc::EPROTO),
            "the container's process ended while it was set up",
        ),
    }
}

/// The container's terminal and the caller's are one from now on.
fn take_terminal(context: &mut Context, master: OwnedFd) -> Result<()> {
    let copy = |fd: &OwnedFd| fd.try_clone().doing(|| "copy a descriptor".into());
    let options = &context.options;
    let (from, to) = match (options.detach, options.stdin, options.stdout) {
        (true, ..) => (None, None),
        (false, None, None) => {
            let terminal = tty::controlling()?;
            (Some(copy(&terminal)?), Some(terminal))
        }
        (false, stdin, stdout) => (
            stdin.map(caller).transpose()?,
            Some(caller(stdout.unwrap_or(2))?),
        ),
    };
    if let Some(sizes) = from.as_ref().or(to.as_ref()) {
        tty::copy_size(sizes.as_fd(), &master);
    }
    if let Some(from) = from {
        context.raw = tty::Raw::new(from.as_fd())?;
        context.streams.input(from, copy(&master)?, true);
    }
    context
        .streams
        .output(copy(&master)?, to, Stream::Stdout, true);
    context.child()?.terminal = Some(master);
    Ok(())
}

/// Writes the document and the pid, so that others find the container from the moment at which it runs.
fn record(context: &mut Context) -> Result<()> {
    let id = context.id()?.clone();
    let pid = context.child()?.pid;
    context.member.start_time = Some(procfs::start_time(pid.as_raw_nonzero().get())?);
    context.member.boot_id = Some(claim::boot_id()?);
    let now = log::rfc3339(log::now());
    context.member.created.get_or_insert_with(|| now.clone());
    context.member.started = Some(now);
    context.document.set_member("spawn", &context.member);
    context.document.set_member("state", RUNNING);
    context.document.remove_member("exit");
    let paths = [
        context.folder.join(containers::CONFIG),
        context.folder.join(containers::STATUS),
        paths::claim(&id).join(claim::PID),
    ];
    let [config, status, pid_file] = paths;
    let before = [
        (config.clone(), files::read(&config)?),
        (status.clone(), files::read(&status)?),
        (pid_file.clone(), files::read(&pid_file)?),
    ];
    context.before = Some(before);
    let result = files::replace(&config, &bytes(&context.document)?)
        .and_then(|()| files::remove(&status))
        .and_then(|()| files::replace(&pid_file, format!("{}\n", pid.as_raw_nonzero()).as_bytes()));
    if result.is_err() {
        let _ = unrecord(context);
    }
    result
}

fn unrecord(context: &mut Context) -> Result<()> {
    for (path, before) in context.before.take().into_iter().flatten() {
        files::restore(&path, before.as_deref())?;
    }
    Ok(())
}

/// As it is kept, for people to read.
pub(crate) fn bytes(document: &Document) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    document
        .write(&mut bytes, true)
        .doing(|| "write the document".into())?;
    Ok(bytes)
}

fn execute(context: &mut Context) -> Result<()> {
    let child = context.child()?;
    child.channel.go()?;
    match child.channel.receive()? {
        Message::Closed => seal::refuse_own_program(child.pid),
        Message::Failed(_, error) => Err(error),
        _ => Err(died(context)),
    }
}

/// Kills the process and reaps it; with it goes its whole pid namespace.
fn abandon(context: &mut Context) {
    context.raw = None;
    if let Some(child) = context.child.take() {
        // It can only be dead already.
        let _ = sys::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
        let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
    context.member.pid = None;
    context.streams = Streams::default();
}

/// Copies and forwards until the container has ended.
fn supervise(context: &mut Context, signals: &SignalFd) -> Result<ExitMember> {
    let mut streams = std::mem::take(&mut context.streams);
    let sizes = match (&context.raw, context.options.detach) {
        (Some(_), false) => Some(match (context.options.stdin, context.options.stdout) {
            (Some(number), _) | (None, Some(number)) => caller(number)?,
            (None, None) => tty::controlling()?,
        }),
        _ => None,
    };
    let child = context.child()?;
    let mut judge = Judge::default();
    let mut killed_for = None;
    let mut end = |signal: i32| {
        killed_for.get_or_insert(signal);
        // One that has ended needs no signal.
        let _ = sys::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    };
    streams.run(child.pidfd.as_fd(), signals, |event| {
        let status = signals::status(child.pid);
        match event {
            Event::Signal(libc::SIGWINCH) if sizes.is_some() => {
                if let (Some(from), Some(to)) = (&sizes, &child.terminal) {
                    tty::copy_size(from.as_fd(), to);
                }
                After::Continue
            }
            Event::Signal(signal) => {
                let verdict = judge.decide(signal, status.as_deref(), Instant::now());
                if verdict == Verdict::Kill {
                    end(signal);
                } else {
                    let _ = sys::send_signal(child.pidfd.as_fd(), signal);
                }
                match (verdict, signal) {
                    (Verdict::ForwardAndLook, _) => After::Again,
                    (_, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) => {
                        After::Leave
                    }
                    _ => After::Continue,
                }
            }
            Event::Tick => match judge.look_again(status.as_deref()) {
                (Verdict::Kill, signal) => {
                    end(signal);
                    After::Continue
                }
                (Verdict::ForwardAndLook, _) => After::Again,
                _ => After::Continue,
            },
            Event::Typed(bytes) => {
                // The terminal has sent the signal by itself; a process 1 without a handler has not got it.
                let sent = child
                    .terminal
                    .as_ref()
                    .and_then(|master| tty::signal_of(master, bytes, child.pid));
                if let (Some(signal), Some(status)) = (sent, &status)
                    && signals::attitude(status, signal) == Attitude::Default
                {
                    end(signal);
                }
                After::Continue
            }
        }
    })?;
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
        .doing(|| "wait for the container".into())?
        .ok_or_else(|| Error::new(Kind::System(libc::ECHILD), "the container has vanished"))?;
    let signal = match status.terminating_signal() {
        Some(libc::SIGKILL) => killed_for.or(Some(libc::SIGKILL)),
        other => other,
    };
    context.raw = None;
    context.child = None;
    let oom = oom::happened(&context.plan()?.cgroups);
    Ok(ExitMember {
        code: code(status.exit_status(), signal),
        signal,
        oom,
        started: context.member.started.take(),
        finished: Some(log::rfc3339(log::now())),
    })
}

/// The exit status as a shell sees it.
pub(crate) fn code(status: Option<i32>, signal: Option<i32>) -> u8 {
    match (status, signal) {
        (_, Some(signal)) => Kind::Interrupted(signal).exit_code(),
        (status, None) => (status.unwrap_or(0) & 0xff) as u8,
    }
}

/// Puts the end into the document and into the container's folder.
pub(crate) fn record_end(
    document: &mut Document,
    member: &mut SpawnMember,
    exit: &ExitMember,
    folder: &std::path::Path,
) -> Result<()> {
    member.pid = None;
    member.start_time = None;
    member.boot_id = None;
    member.started = None;
    document.set_member("exit", exit);
    document.set_member("state", EXITED);
    document.set_member("spawn", member);
    let status = serde_json::to_vec(exit)
        .map_err(std::io::Error::from)
        .doing(|| "write the status".into())?;
    files::replace(&folder.join(containers::STATUS), &status)?;
    files::replace(&folder.join(containers::CONFIG), &bytes(document)?)
}

/// Records the end, lets go of what this tool holds, and answers with the finished document.
fn finish(mut context: Context, exit: &ExitMember, is_foreground: bool) -> Document {
    let complain = |result: Result<()>| {
        if let Err(error) = result {
            eprintln!("bocker-spawn: {error}");
        }
    };
    complain(record_end(
        &mut context.document,
        &mut context.member,
        exit,
        &context.folder,
    ));
    if let Ok(id) = context.id().cloned() {
        complain(files::remove(&paths::claim(&id).join(claim::PID)));
        context.alive = None;
        // What nobody else began leaves nothing, as unshare(1) would.
        if is_foreground && context.member.made_folder {
            complain(remove_folder(&mut context));
            context.document.remove_member("spawn");
        }
        complain(claim::release_own(&id, STAGE));
    }
    context.document
}
