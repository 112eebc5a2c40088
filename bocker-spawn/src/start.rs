//! The steps that lead from a document to a running command, and how each is taken back.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;

use bocker_pipe::events::Event;
use bocker_pipe::lock::{self, Alive, Lock, Supervisor};
use bocker_pipe::state::State;
use bocker_pipe::{
    Call, Document, Doing, Error, Id, Kind, Result, Step, claim, containers, files, paths, time,
};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::channel::{Channel, Message};
use crate::container::Container;
use crate::log::{Log, Stream};
use crate::options::Options;
use crate::plan::Plan;
use crate::privileges::Stdio;
use crate::record::{self, SpawnMember};
use crate::serve::Server;
use crate::socket::{Hello, Size};
use crate::streams::{Input, Streams};
use crate::sys::{self, Side};
use crate::{STAGE, cgroups, child, procfs, seal, show, spec, tty};

/// What the steps work on.
pub(crate) struct Context {
    pub(crate) document: Document,
    pub(crate) options: Options,
    pub(crate) id: Option<Id>,
    pub(crate) folder: PathBuf,
    pub(crate) plan: Option<Plan>,
    pub(crate) member: SpawnMember,
    pub(crate) lock: Option<Lock>,
    pub(crate) alive: Option<Alive>,
    pub(crate) child: Option<Child>,
    pub(crate) streams: Streams,
    pub(crate) raw: Option<tty::Raw>,
    /// Whether the supervisor was asked to end, and begins no other run.
    pub(crate) is_ending: bool,
    /// The kills for want of memory in the container's cgroup when its process began.
    pub(crate) oom_kills: u64,
    /// Who is attached from the beginning, and the size of its terminal.
    pub(crate) first: Option<First>,
    /// What this very call has made, and takes back when it fails; a folder or claim from before is not.
    pub(crate) claim_is_new: bool,
    pub(crate) folder_is_new: bool,
    /// The files as they were, to be put back.
    pub(crate) before: Vec<(PathBuf, Option<Vec<u8>>)>,
    pub(crate) dry_run: bool,
}

/// A client that the container is begun for.
pub(crate) struct First {
    pub(crate) socket: OwnedFd,
    pub(crate) hello: Hello,
    pub(crate) size: Option<Size>,
}

pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: Channel,
    /// The parts of its work that it has reported, and what failed after them.
    pub(crate) parts: usize,
    pub(crate) failure: Option<Error>,
    /// The master of its terminal, once it has come.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Context {
    pub(crate) fn id(&self) -> Result<&Id> {
        self.id
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Document, "the container has no id"))
    }

    pub(crate) fn plan(&self) -> Result<&Plan> {
        self.plan
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Document, "the container has no plan"))
    }

    pub(crate) fn child(&mut self) -> Result<&mut Child> {
        self.child
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Document, "the container has no process"))
    }

    /// For what is shown: the process as the host numbers it.
    pub(crate) fn shown_pid(&self) -> String {
        self.member
            .pid
            .map_or_else(|| "PID".to_owned(), |pid| pid.to_string())
    }
}

/// Everything up to the moment at which the command runs; taken back when something fails.
pub(crate) fn begin(
    call: &mut Call,
    document: Document,
    options: Options,
    first: Option<First>,
) -> Result<Context> {
    let dry_run = call.dry_run();
    let id = match document.value("/bocker/id") {
        Some(_) => Some(document.id()?),
        None => None,
    };
    let mut context = Context {
        member: SpawnMember::of(&document, &options.requested)?,
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
        is_ending: false,
        oom_kills: 0,
        first,
        claim_is_new: false,
        folder_is_new: false,
        before: Vec::new(),
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
    ];
    steps.extend(steps_of_a_run());
    steps
}

/// Those that are done again for each run.
pub(crate) fn steps_of_a_run() -> Vec<Step<Context>> {
    let mut steps = vec![
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
    ];
    for name in child::PARTS {
        steps.push(show::report(name).apply(report).timed_elsewhere());
    }
    steps.push(
        Step::new(
            "spawn.config",
            "the document is kept, so that the container can be found",
        )
        .command(show::config)
        .look(|cx| format!("cat {}", cx.folder.join(containers::CONFIG).display()))
        .apply(keep)
        .undo(forget),
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
    let log = context.folder.join(containers::LOG);
    context.member.log = context.member.request.log.is_kept().then_some(log);
    context.plan = Some(Plan::of(&context.document)?);
    Ok(())
}

fn take_claim(context: &mut Context) -> Result<()> {
    let id = match &context.id {
        Some(id) => {
            context.claim_is_new = claim::renew(id, STAGE)?;
            id.clone()
        }
        None => {
            let id = claim::make(STAGE)?;
            context.claim_is_new = true;
            context.document.set_member("id", &id);
            context.id.insert(id).clone()
        }
    };
    context.folder = paths::container(&id);
    let result = begin_alone(context, &id);
    if result.is_err() {
        // A step that fails leaves nothing of its own.
        let _ = release_claim(context);
    }
    result
}

fn begin_alone(context: &mut Context, id: &Id) -> Result<()> {
    context.lock = Some(lock::verbs(id)?);
    if lock::supervisor(id) == Supervisor::Lost
        && let Ok(before) = Container::load(id.clone(), id.as_str())
        && before.state() == State::Orphaned
    {
        let what = format!("{id} has lost its supervisor, and what is left of it has not ended");
        return Err(Error::new(Kind::InUse, what).hint(format!("'bocker-spawn reap {id}' ends it")));
    }
    context.alive = Some(Alive::take(id)?);
    complete(context)?;
    if record::make_folder(&context.folder)? {
        context.member.made_folder = true;
        context.folder_is_new = true;
    }
    Ok(())
}

fn release_claim(context: &mut Context) -> Result<()> {
    if context.folder_is_new {
        remove_folder(context)?;
    }
    if let Some(alive) = context.alive.take() {
        alive.let_go()?;
    }
    if context.claim_is_new {
        claim::release_own(context.id()?, STAGE)?;
    }
    context.lock = None;
    Ok(())
}

/// The folder that this tool made, and what it wrote there.
pub(crate) fn remove_folder(context: &mut Context) -> Result<()> {
    record::remove_made_folder(&context.folder)?;
    context.member.made_folder = false;
    context.member.log = None;
    Ok(())
}

/// The process is born into its namespaces and begins its parts of the work.
fn start(context: &mut Context) -> Result<()> {
    let mut ends = Ends::default();
    let stdio = stdio(context, &mut ends)?;
    let joins: Vec<OwnedFd> = context
        .plan()?
        .joins
        .iter()
        .map(|join| {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open(&join.path, flags, rustix::fs::Mode::empty())
                .doing(|| format!("open the {} namespace {}", join.kind, join.path.display()))
        })
        .collect::<Result<_>>()?;
    let init = match context.member.request.init {
        true => Some(seal::read_only()?),
        false => None,
    };
    let (here, there) = Channel::pair()?;
    // A lock that is inherited is held by both, and would outlive a supervisor that is killed.
    let locks = (context.alive.take(), context.lock.take());
    let plan = context.plan()?;
    match cgroups::clone(&plan.cgroups, plan.new) {
        Ok((Side::Child, born_in_cgroup)) => {
            drop((locks, here, ends));
            child::enter(plan, &there, stdio, &joins, born_in_cgroup, init.as_ref())
        }
        Err(error) => {
            (context.alive, context.lock) = locks;
            return Err(error);
        }
        Ok((Side::Parent(pid, pidfd), _)) => {
            (context.alive, context.lock) = locks;
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
    ends.connect(context).inspect_err(|_| abandon(context))
}

/// Our ends of the container's pipes.
#[derive(Default)]
struct Ends {
    input: Option<Input>,
    outputs: Vec<(OwnedFd, Option<OwnedFd>, Stream)>,
}

impl Ends {
    fn connect(self, context: &mut Context) -> Result<()> {
        let member = &context.member;
        if let Some(path) = &member.log {
            let shown = paths::claim(context.id()?).join(claim::LOST);
            let log = Log::open(path, &member.request.log, member.lost.clone(), shown)?;
            context.streams.record(log);
        }
        if let Some(input) = self.input {
            context.streams.input(input);
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
    if context.member.request.interactive {
        let (reader, writer) = pipe()?;
        stdio.stdin = Some(reader);
        let input = Input::new(writer, false);
        ends.input = Some(match (options.stdin, options.attach) {
            (Some(number), false) => input.from(caller(number)?),
            (Some(_), true) => input.ends_with_first(),
            (None, _) => input,
        });
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
    // Nobody but us has this end, and none of our writes may wait.
    tty::never_wait(&master)?;
    let (from, to) = match context.options.detach {
        true => (None, None),
        false => {
            let (from, to) = tty::of_caller(&context.options)?;
            (from, Some(to))
        }
    };
    let sizes = from.as_ref().or(to.as_ref());
    let first = context.first.as_ref().and_then(|first| first.size);
    if let Some(size) = sizes.and_then(tty::size).or(first) {
        tty::set_size(&master, size);
    }
    let input = Input::new(copy(&master)?, true);
    context.streams.input(match from {
        Some(from) => {
            context.raw = tty::Raw::new(from.as_fd())?;
            input.from(from)
        }
        None => input,
    });
    context
        .streams
        .output(copy(&master)?, to, Stream::Stdout, true);
    context.child()?.terminal = Some(master);
    Ok(())
}

/// Writes the document, so that others find the container from the moment at which it runs. How it ended before goes first:
/// it is not how this ends.
fn keep(context: &mut Context) -> Result<()> {
    let pid = context.child()?.pid;
    context.member.start_time = Some(procfs::start_time(pid.as_raw_nonzero().get())?);
    context.member.boot_id = Some(claim::boot_id()?);
    let now = time::now().to_string();
    context.member.created.get_or_insert_with(|| now.clone());
    context.member.started = Some(now);
    context.document.set_member("spawn", &context.member);
    context.document.set_member("state", &State::Running);
    context.document.remove_member("exit");
    let config = context.folder.join(containers::CONFIG);
    let status = context.folder.join(containers::STATUS);
    let pidfile = context.member.request.pidfile.clone();
    let changed = [Some(config.clone()), Some(status.clone()), pidfile.clone()];
    let before = changed.into_iter().flatten().map(|path| {
        let bytes = files::read(&path)?;
        Ok((path, bytes))
    });
    context.before = before.collect::<Result<_>>()?;
    let kept = context
        .before
        .first()
        .and_then(|(_, bytes)| bytes.as_deref());
    record::take_name(&mut context.document, kept);
    let is_again = context.streams.is_served();
    let bytes = record::bytes(&context.document)?;
    // Whoever finds that it is between two runs finds the end of the last.
    if let Some(alive) = context.alive.as_ref().filter(|_| is_again) {
        alive.runs_again()?;
    }
    let result = files::remove(&status)
        .and_then(|()| files::replace(&config, &bytes))
        .and_then(|()| match pidfile {
            Some(path) => files::replace(&path, format!("{}\n", pid.as_raw_nonzero()).as_bytes()),
            None => Ok(()),
        })
        .and_then(|()| match writes_its_end(context) {
            true => record::reserve_end(&context.folder, bytes.len()),
            false => Ok(()),
        })
        .and_then(|()| match is_again {
            true => Ok(None),
            false => Server::listen(context.id()?).map(Some),
        });
    let server = result.inspect_err(|_| drop(forget(context)))?;
    if let Some(server) = server {
        let first = context
            .first
            .take()
            .map(|first| (first.socket, first.hello));
        context.streams.serve(server, first);
    }
    Ok(())
}

/// Whether its end is written, and not only passed on to those who remove it.
pub(crate) fn writes_its_end(context: &Context) -> bool {
    context.options.detach || !context.document.is_removed_at_its_end()
}

fn forget(context: &mut Context) -> Result<()> {
    context.streams = Streams::default();
    record::unreserve_end(&context.folder)?;
    for (path, before) in std::mem::take(&mut context.before) {
        files::restore(&path, before.as_deref())?;
    }
    Ok(())
}

fn execute(context: &mut Context) -> Result<()> {
    let child = context.child()?;
    child.channel.go()?;
    match child.channel.receive()? {
        Message::Closed => {
            seal::refuse_own_program(child.pid)?;
            if context.claim_is_new && context.member.restarts == 0 {
                Event::of(&context.document, "create").record();
            }
            Event::of(&context.document, "start").record();
            if std::mem::take(&mut context.options.restarted) {
                Event::of(&context.document, "restart").record();
            }
            Ok(())
        }
        Message::Failed(_, error) => Err(error),
        _ => Err(died(context)),
    }
}

/// Kills the process and reaps it; with it goes its whole pid namespace.
pub(crate) fn abandon(context: &mut Context) {
    context.raw = None;
    if let Some(child) = context.child.take() {
        // It can only be dead already.
        let _ = sys::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
        let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
    context.member.pid = None;
    context.streams = Streams::default();
}
