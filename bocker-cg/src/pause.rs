//! `freeze` and `thaw`: a container stands still, for as long as a command runs, or until it is let go on.
//!
//! Who is killed meanwhile leaves no container that stands still for ever: the command holds a lock, and the next command of
//! anybody finds it free and thaws.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use bocker_pipe::error::EXIT_SIGNAL;
use bocker_pipe::events::{Event, Type};
use bocker_pipe::lock::Still;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Doing, Error, Id, Kind, Result, Step, containers};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::controller::Controller;
use crate::hierarchies::{Hierarchies, Version};
use crate::{freezer, group};

/// One container.
struct Context {
    id: Id,
    version: Version,
    /// That of the freezer.
    group: PathBuf,
    still: Option<Still>,
}

impl Context {
    fn new(name: &str) -> Result<Context> {
        let id = containers::resolve(name)?;
        let hierarchies = Hierarchies::read()?;
        let parent = hierarchies.of(Controller::Freezer).ok_or_else(|| {
            Error::new(Kind::Unsupported, "the freezer of cgroup v1 is not mounted")
                .hint("mount it: mount -t cgroup -o freezer freezer /sys/fs/cgroup/freezer")
        })?;
        Ok(Context {
            group: parent.join(&id),
            version: hierarchies.version(),
            id,
            still: None,
        })
    }

    fn runs(&self) -> bool {
        self.group.is_dir() && !group::are_empty(std::slice::from_ref(&self.group))
    }

    fn is_frozen(&self) -> bool {
        freezer::is_frozen(self.version, &self.group)
    }

    fn command(&self, stands: bool) -> String {
        let (file, word) = freezer::setting(self.version, stands);
        let file = self.group.join(file).display().to_string();
        format!("echo {word} > {}", quote(&file))
    }
}

/// `freeze CONTAINER [[--] COMMAND ARG...]`.
pub(crate) fn freeze(call: &mut Call) -> Result<()> {
    let name = match call.arg()? {
        Some(Arg::Value(word)) => word.to_string_lossy().into_owned(),
        Some(Arg::Option(option)) => return Err(call.unknown(&option)),
        None => return Err(Error::new(Kind::Usage, "no container is named")),
    };
    let mut command = call.rest()?;
    if command.first().is_some_and(|word| word == "--") {
        command.remove(0);
    }
    let mut context = Context::new(&name)?;
    let Some((program, arguments)) = command.split_first() else {
        if !context.runs() {
            let what = format!("Container '{name}' exists but is not running");
            return Err(Error::new(Kind::Invalid, what));
        }
        stop(call, &mut context)?;
        return tell(call, &context, "pause");
    };
    if !context.runs() {
        // What has ended stands still by itself.
        return work(call, program, arguments, None);
    }
    if !call.dry_run() {
        let forgotten = Still::forgotten(&context.id)?;
        let was_forgotten = forgotten.is_some();
        let still = forgotten.map_or_else(|| Still::begin(&context.id), Ok)?;
        // What was paused on purpose stays so.
        if !was_forgotten && context.is_frozen() {
            still.end()?;
            return work(call, program, arguments, None);
        }
        context.still = Some(still);
    }
    stop(call, &mut context)?;
    let worked = work(call, program, arguments, context.still.as_ref());
    let thawed = call.engine().tear_down(&mut context, vec![thaw_step()]);
    match (worked, thawed) {
        (Err(error), Err(second)) => Err(error.and(&second)),
        (worked, thawed) => worked.and(thawed),
    }
}

/// `thaw CONTAINER`.
pub(crate) fn thaw(call: &mut Call) -> Result<()> {
    let name = call.container(None)?;
    let name = name.ok_or_else(|| Error::new(Kind::Usage, "no container is named"))?;
    let mut context = Context::new(&name)?;
    if !call.dry_run() {
        context.still = Still::forgotten(&context.id)?;
    }
    let was_paused = context.still.is_none() && context.runs() && context.is_frozen();
    call.engine().tear_down(&mut context, vec![thaw_step()])?;
    match was_paused {
        true => tell(call, &context, "unpause"),
        false => Ok(()),
    }
}

/// That it was paused on purpose, or goes on. For a command it stands still unsaid, as with docker.
fn tell(call: &Call, context: &Context, action: &str) -> Result<()> {
    if !call.dry_run() {
        let event = match containers::load(&context.id) {
            Ok(document) => Event::of(&document, action),
            Err(_) => Event::new(Type::Container, action, &context.id),
        };
        event.record();
    }
    Ok(())
}

/// Lets a container go on that stands still for nobody, for `gc`. Whether there was one.
pub(crate) fn thaw_forgotten(call: &Call, hierarchies: &Hierarchies, id: &Id) -> Result<bool> {
    let Some(parent) = hierarchies.of(Controller::Freezer) else {
        return Ok(false);
    };
    let Some(still) = Still::forgotten(id)? else {
        return Ok(false);
    };
    let mut context = Context {
        id: id.clone(),
        version: hierarchies.version(),
        group: parent.join(id),
        still: Some(still),
    };
    call.engine().tear_down(&mut context, vec![thaw_step()])?;
    Ok(true)
}

fn stop(call: &Call, context: &mut Context) -> Result<()> {
    let engine = call.engine();
    let mut done = Vec::new();
    match engine.set_up(context, vec![freeze_step()], &mut done) {
        Ok(()) => Ok(()),
        Err(error) => match engine.take_back(context, done) {
            Ok(()) => Err(error),
            Err(second) => Err(error.and(&second)),
        },
    }
}

fn freeze_step() -> Step<Context> {
    Step::new("cg.freeze", "all processes of the container stand still")
        .command(|c: &Context| vec![c.command(true)])
        .look(|c| format!("bocker-cg list | grep {}", c.id))
        .apply(|c| {
            if freezer::freeze(c.version, &c.group, freezer::PAUSE_WAIT) {
                return Ok(());
            }
            freezer::thaw(c.version, &c.group);
            let_go(c)?;
            let what = format!("{} does not stand still", c.id);
            Err(Error::new(Kind::InUse, what)
                .hint("a process of it waits for the kernel (ps shows state D); try again later"))
        })
        .undo(|c| {
            freezer::thaw(c.version, &c.group);
            let_go(c)
        })
}

fn thaw_step() -> Step<Context> {
    Step::new("cg.thaw", "the processes of the container go on")
        .command(|c: &Context| vec![c.command(false)])
        .look(|c| format!("bocker-cg list | grep {}", c.id))
        .apply(|c| {
            freezer::thaw(c.version, &c.group);
            let_go(c)
        })
}

fn let_go(context: &mut Context) -> Result<()> {
    context.still.take().map_or(Ok(()), Still::end)
}

/// Runs the command, whose exit status becomes ours. Signals that would end us are the command's: we have to thaw.
fn work(
    call: &mut Call,
    program: &OsString,
    arguments: &[OsString],
    still: Option<&Still>,
) -> Result<()> {
    if call.dry_run() {
        return Ok(());
    }
    let what = || format!("run {}", program.display());
    let mut ours = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGTERM,
    ] {
        ours.add(signal);
    }
    let mut command = Command::new(program);
    command.args(arguments);
    still.map_or(Ok(()), Still::hand_on)?;
    // They wait until they are asked for, but not in the command.
    ours.thread_block().doing(what)?;
    unblock(&mut command);
    let mut child = match command.spawn() {
        Err(error) => {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => Kind::CommandNotFound,
                _ => Kind::CannotExecute,
            };
            return Err(Error::new(kind, format!("cannot {}: {error}", what())));
        }
        Ok(child) => child,
    };
    let status = loop {
        if let Some(status) = child.try_wait().doing(what)? {
            break status;
        }
        match ours.wait() {
            Ok(Signal::SIGCHLD) | Err(Errno::EINTR) => {}
            Ok(signal) => _ = kill(Pid::from_raw(child.id().cast_signed()), signal),
            Err(errno) => return Err(errno).doing(what),
        }
    };
    call.set_exit_code(code(status));
    Ok(())
}

/// Has the command begin with no signal blocked.
fn unblock(command: &mut Command) {
    let empty = || SigSet::empty().thread_set_mask().map_err(Into::into);
    // SAFETY: between fork(2) and execve(2) it makes one system call, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(empty) };
}

fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => (code & 0xff) as u8,
        (None, signal) => EXIT_SIGNAL.saturating_add((signal.unwrap_or_default() & 0x7f) as u8),
    }
}
