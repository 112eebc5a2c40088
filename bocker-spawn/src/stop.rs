//! `kill` and `stop`: a signal to process 1, and all that belongs to ending a container: a while to end in, KILL, and waiting
//! until nothing of it is left.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use bocker_pipe::events::Event;
use bocker_pipe::lock::{self, Supervisor};
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Doing, Error, Id, Kind, Result, containers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::container::Container;
use crate::report::utf8;
use crate::requested::seconds;
use crate::signals::{self, Attitude};
use crate::{holders, say, socket, sys};

/// How long what was killed may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// After so long it is looked whether it can be gone at all.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(500);
/// How long a supervisor may take to notice that process 1 has ended.
const NOTICED: Duration = Duration::from_secs(1);
/// How long the cleaning up after it may take. What is not done by then goes on.
const TIDIED: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Options {
    signal: Option<i32>,
    time: Option<i64>,
    names: Vec<String>,
}

fn options(call: &mut Call, has_time: bool) -> Result<Options> {
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "-s" | "--signal" => options.signal = Some(signals::parse(&call.text()?)?),
                "-t" | "--time" if has_time => options.time = Some(seconds(call)?),
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) => options.names.push(utf8(word)?),
        }
    }
    if options.names.is_empty() {
        return Err(Error::new(Kind::Usage, "no container is given"));
    }
    Ok(options)
}

/// `kill`: a signal to process 1, which ends it if it would end any other process (as the supervisor does it too); KILL for
/// one that lives without a supervisor reaches everything in it.
pub(crate) fn kill(call: &mut Call) -> Result<()> {
    let options = options(call, false)?;
    let signal = options.signal.unwrap_or(libc::SIGKILL);
    let found: Vec<Container> = options
        .names
        .iter()
        .map(|name| Container::find(name))
        .collect::<Result<_>>()?;
    for mut container in found {
        let stop_signal = container.member.stop_signal();
        let is_to_end = [libc::SIGKILL, libc::SIGTERM, stop_signal].contains(&signal);
        let was_alive = lock::is_alive(&container.id);
        if !call.dry_run() && is_to_end {
            container = begin_no_other(container)?;
        }
        let state = container.state();
        let process = match state {
            State::Running | State::Paused | State::Orphaned => container.process()?,
            // It will not be: the signal has nobody to go to.
            State::Restarting if is_to_end => continue,
            _ if call.dry_run() => return Err(container.not_running()),
            _ => None,
        };
        if call.dry_run() {
            continue;
        }
        let sent = match process {
            _ if state == State::Orphaned && signal == libc::SIGKILL => {
                container.kill_all()?;
                continue;
            }
            Some((pid, pidfd)) => send(&container, pid, &pidfd, signal)?,
            None => None,
        };
        // That it has ended meanwhile is what was wanted.
        let is_done = || Ok(is_to_end && was_alive && has_ended(&container.id, NOTICED)?);
        if sent.is_none() && !is_done()? {
            return Err(container.not_running());
        }
    }
    Ok(())
}

/// Tells the supervisor of one that would be begun again that it is not to be, and waits for one that is being started.
/// The container as it is then.
pub(crate) fn begin_no_other(container: Container) -> Result<Container> {
    let id = &container.id;
    let would_begin = container.member.request.restart().is_any();
    let is_told = would_begin && socket::stop(id)?;
    if !is_told {
        let has_begun = !would_begin && container.process()?.is_some();
        if has_begun || lock::supervisor(id) != Supervisor::Runs {
            return Ok(container);
        }
        // Nobody listens, and no process is known, until this lock is free.
        drop(lock::verbs(id).ok());
        if would_begin {
            socket::stop(id)?;
        }
    }
    Container::load(container.id, &container.name)
}

/// Sends it, or KILL if the kernel would keep it from process 1 though it ends any other. Which was sent; `None` to one that has
/// ended meanwhile.
fn send(container: &Container, pid: Pid, pidfd: &OwnedFd, signal: i32) -> Result<Option<i32>> {
    let withheld = signals::is_withheld(signal, signals::status(pid).as_deref());
    let sent = if withheld { libc::SIGKILL } else { signal };
    // Before what comes of it is told.
    Event::of(&container.document, "kill")
        .with("signal", sent)
        .record();
    match sys::send_signal(pidfd.as_fd(), sent) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        result => result.doing(|| format!("send signal {sent} to {}", container.id))?,
    }
    if withheld {
        say(format_args!(
            "process 1 of {} has no handler for signal {signal}, which the kernel keeps from it: killed",
            container.id
        ));
    }
    Ok(Some(sent))
}

/// `stop`: the stop signal to each, a while to end in, KILL; then waits until they are cleaned up. Prints each name once it is.
pub(crate) fn stop(call: &mut Call) -> Result<()> {
    let options = options(call, true)?;
    let mut failed = None;
    let mut fail = |error: Error| {
        // Each in a line of its own; the last is the verb's.
        if let Some(before) = failed.replace(error) {
            say(before);
        }
    };
    // All are asked before one is waited for.
    let mut asked = Vec::new();
    for name in &options.names {
        match ask(name, &options, call.dry_run()) {
            Ok(stopping) => asked.push(stopping),
            Err(error) => fail(error),
        }
    }
    if call.dry_run() {
        return failed.map_or(Ok(()), Err);
    }
    wait(&mut asked)?;
    for stopping in asked {
        let name = stopping.container.name.clone();
        match stopping.finish() {
            Ok(()) => println(&name)?,
            Err(error) => fail(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn println(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").doing(|| "write to stdout".into())
}

/// One that was asked to end.
struct Stopping {
    container: Container,
    /// Process 1, until it has ended.
    process: Option<(Pid, OwnedFd)>,
    signal: i32,
    /// What comes next, and when: KILL, a look at what holds it, giving up.
    next: Option<(Instant, Next)>,
    failure: Option<Error>,
    /// Whether it ran, or would have run again.
    was_alive: bool,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    Kill,
    Look { give_up: Instant },
}

/// Asks a container to end, if it runs. One that is to be killed need not have a document that can be read: its supervisor
/// knows it.
fn ask(name: &str, options: &Options, dry_run: bool) -> Result<Stopping> {
    let id = containers::resolve(name)?;
    let was_alive = lock::is_alive(&id);
    let container = match Container::load(id.clone(), name) {
        Ok(container) if dry_run => container,
        Ok(container) => begin_no_other(container)?,
        Err(_) if was_alive && options.signal == Some(libc::SIGKILL) => {
            if !dry_run {
                drop(lock::verbs(&id).ok());
                socket::kill(&id)?;
            }
            Container::unread(id, name)?
        }
        Err(error) => return Err(error),
    };
    let process = container.process()?;
    let member = &container.member;
    let signal = options.signal.unwrap_or_else(|| member.stop_signal());
    let patience = member.request.stop_timeout(options.time);
    let mut stopping = Stopping {
        container,
        process,
        signal,
        next: None,
        failure: None,
        was_alive,
    };
    if dry_run {
        return Ok(stopping);
    }
    if let Some((pid, pidfd)) = &stopping.process {
        let sent = send(&stopping.container, *pid, pidfd, signal)?;
        let now = Instant::now();
        stopping.next = match sent {
            // Its end is seen at once.
            None | Some(libc::SIGKILL) => Some(look(now)),
            Some(_) => patience
                .and_then(|patience| now.checked_add(patience))
                .map(|then| (then, Next::Kill)),
        };
    }
    Ok(stopping)
}

/// After KILL.
fn look(now: Instant) -> (Instant, Next) {
    let give_up = now + KILL_WAIT;
    (now + LOOK_AFTER, Next::Look { give_up })
}

/// Waits until all have ended, or will not.
fn wait(all: &mut [Stopping]) -> Result<()> {
    loop {
        let waiting = || all.iter().filter(|one| one.process.is_some());
        let mut fds: Vec<PollFd> = waiting()
            .filter_map(|one| one.process.as_ref())
            .map(|(_, pidfd)| PollFd::new(pidfd, PollFlags::IN))
            .collect();
        if fds.is_empty() {
            return Ok(());
        }
        let first = waiting().filter_map(|one| one.next).map(|(then, _)| then);
        let left = first
            .min()
            .map(|then| then.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "wait for containers".into()),
        }
        let ended: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let waiting = all.iter_mut().filter(|one| one.process.is_some());
        for (one, ended) in waiting.zip(ended) {
            if ended {
                one.process = None;
            } else if one.next.is_some_and(|(then, _)| Instant::now() >= then) {
                one.go_on();
            }
        }
    }
}

impl Stopping {
    /// The time for it is over.
    fn go_on(&mut self) {
        let (Some((pid, pidfd)), Some((_, next))) = (&self.process, self.next) else {
            return;
        };
        let now = Instant::now();
        match next {
            Next::Kill => {
                explain(&self.container.id, *pid, self.signal);
                // It can only have ended.
                let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
                self.next = Some(look(now));
            }
            Next::Look { give_up } => {
                let holders = holders::of(*pid);
                if now < give_up && holders.may_go() {
                    self.next = Some((give_up, next));
                    return;
                }
                self.failure = Some(holders.error(&self.container.id));
                self.process = None;
            }
        }
    }

    /// Waits until its supervisor has noticed the end, and cleaned up.
    fn finish(self) -> Result<()> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let id = &self.container.id;
        if !has_ended(id, NOTICED)? {
            // Its document does not name its process any more.
            self.container.kill_all()?;
            if !has_ended(id, KILL_WAIT)? {
                let what = format!("{id} has ended, and its supervisor does not notice");
                return Err(Error::new(Kind::InUse, what).hint(
                    "it may have been stopped by a signal: see bocker-spawn in the output of ps",
                ));
            }
        }
        if self.was_alive {
            Event::of(&self.container.document, "stop").record();
        }
        lock::wait(id, TIDIED, |state| state != Supervisor::Tidies).map(drop)
    }
}

/// Waits, at most so long, until a container's supervisor has noticed its end. Whether it has.
fn has_ended(id: &Id, patience: Duration) -> Result<bool> {
    lock::wait(id, patience, |state| state != Supervisor::Runs)
}

/// Says why the signal did not do, and what would.
fn explain(id: &Id, pid: Pid, signal: i32) {
    let status = signals::status(pid);
    let attitude = status.map(|status| signals::attitude(&status, signal));
    let why = match attitude {
        Some(Attitude::Ignores) => "ignores it, --stop-signal names one that it does not",
        Some(Attitude::Blocks { .. }) => "holds it back, --stop-signal names one that it does not",
        Some(Attitude::Handles) => "has a handler, -t or --stop-timeout gives it more time",
        // It has just changed its mind.
        Some(Attitude::Default) | None => "has no handler, with --init it need not have one",
    };
    say(format_args!(
        "process 1 of {id} did not end after signal {signal}: killed ({why})"
    ));
}
