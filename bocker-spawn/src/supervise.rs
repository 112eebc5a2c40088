//! Keeping a running container company: its streams, its signals, its end.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bocker_pipe::document::ExitMember;
use bocker_pipe::events;
use bocker_pipe::{
    Document, Doing, Error, Kind, Result, claim, containers, files, lock, paths, time,
};
use nix::sys::signalfd::SignalFd;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::health::Checks;
use crate::record;
use crate::signals::{Attitude, Judge, Verdict};
use crate::socket::Size;
use crate::start::{self, Context};
use crate::streams::{After, Event, Streams};
use crate::watch::{Token, Watch};
use crate::{STAGE, memory, oom, say, signals, sys, tty};

/// When a process that held a signal back is looked at again.
const MOMENT: Duration = Duration::from_millis(50);

/// A size that a terminal has had for so long is told: a window that is dragged larger would be fifty events.
const SIZE_KEPT: Duration = Duration::from_millis(200);

/// Copies and forwards until the container has ended.
pub(crate) fn supervise(context: &mut Context, signals: &SignalFd) -> Result<ExitMember> {
    let mut streams = std::mem::take(&mut context.streams);
    let result = accompany(context, &mut streams, signals);
    context.streams = streams;
    result
}

fn accompany(
    context: &mut Context,
    streams: &mut Streams,
    signals: &SignalFd,
) -> Result<ExitMember> {
    let sizes = match context.raw.is_some() {
        true => {
            let (from, to) = tty::of_caller(&context.options)?;
            Some(from.unwrap_or(to))
        }
        false => None,
    };
    let stop_signal = context.member.stop_signal();
    let request = &context.member.request;
    let stop_timeout = request.stop_timeout(None);
    let mut watch = Watch::default();
    let timeout = request.timeout.filter(|seconds| *seconds > 0);
    let timeout = timeout.map(Duration::from_secs);
    if let Some(then) = timeout.and_then(|time| Instant::now().checked_add(time)) {
        watch.at(Token::Timeout, then);
    }
    let mut checks = Checks::begin(context, &mut watch)?;
    let (mut stopped, mut is_ending) = (false, false);
    if context.options.detach {
        // A start needs three times as much of the program as what follows, which may go on for long without a rest.
        memory::trim();
        memory::forget_program();
    }
    let id = context.id()?.clone();
    let child = context.child()?;
    let mut judge = Judge::default();
    let mut killed_for = None;
    let mut end = |signal: i32| {
        killed_for.get_or_insert(signal);
        // One that has ended needs no signal.
        let _ = sys::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    };
    let ended = Some(child.pidfd.as_fd());
    let resize = |size: Option<Size>, watch: &mut Watch| {
        if let (Some(size), Some(to)) = (size, &child.terminal)
            && tty::size(to) != Some(size)
        {
            tty::set_size(to, size);
            watch.at(Token::Sized, Instant::now() + SIZE_KEPT);
        }
    };
    streams.run(ended, signals, &mut watch, |event, watch| {
        let status = signals::status(child.pid);
        match event {
            Event::Signal(libc::SIGWINCH) if sizes.is_some() => {
                resize(sizes.as_ref().and_then(tty::size), watch);
                After::Continue
            }
            Event::Size(size) => {
                resize(Some(size), watch);
                After::Continue
            }
            Event::Due(Token::Sized) => {
                if let Some(size) = child.terminal.as_ref().and_then(tty::size) {
                    events::Event::to(&id, "resize")
                        .with("height", size.rows)
                        .with("width", size.columns)
                        .record();
                }
                After::Continue
            }
            Event::Signal(_) | Event::HungUp | Event::Due(Token::Timeout) => {
                let signal = match event {
                    Event::Signal(signal) => signal,
                    Event::HungUp => libc::SIGHUP,
                    _ => stop_signal,
                };
                if let Event::Due(_) = event {
                    let then = stop_timeout.and_then(|time| Instant::now().checked_add(time));
                    then.into_iter()
                        .for_each(|then| watch.at(Token::Kill, then));
                }
                // Whoever ends the supervisor wants no other run; it is not the user's stop.
                is_ending |= matches!(event, Event::Signal(libc::SIGTERM));
                let verdict = judge.decide(signal, status.as_deref(), Instant::now());
                if verdict == Verdict::Kill {
                    end(signal);
                } else {
                    let _ = sys::send_signal(child.pidfd.as_fd(), signal);
                }
                if verdict == Verdict::ForwardAndLook {
                    watch.at(Token::Look, Instant::now() + MOMENT);
                }
                match signal {
                    libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => After::Leave,
                    _ => After::Continue,
                }
            }
            Event::Due(Token::Look) => {
                match judge.look_again(status.as_deref()) {
                    (Verdict::Kill, signal) => end(signal),
                    (Verdict::ForwardAndLook, _) => watch.at(Token::Look, Instant::now() + MOMENT),
                    _ => {}
                }
                After::Continue
            }
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
            Event::Due(Token::Kill) => {
                end(libc::SIGKILL);
                After::Continue
            }
            Event::Stop => {
                stopped = true;
                After::Continue
            }
            Event::Due(token) | Event::Readable(token) => {
                if let Some(checks) = &mut checks {
                    checks.on(token, watch);
                }
                After::Continue
            }
            Event::Detached => After::Continue,
        }
    })?;
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
        .doing(|| "wait for the container".into())?
        .ok_or_else(|| Error::new(Kind::System(libc::ECHILD), "the container has vanished"))?;
    let signal = match status.terminating_signal() {
        Some(libc::SIGKILL) => killed_for.or(Some(libc::SIGKILL)),
        other => other,
    };
    context.member.lost = streams.lost().or(context.member.lost.take());
    drop(checks);
    context.raw = None;
    context.child = None;
    context.member.request.remove_pidfile();
    context.member.stopped |= stopped;
    context.is_ending |= is_ending;
    let oom = oom::kills(&context.plan()?.cgroups) > context.oom_kills;
    let exit = ExitMember {
        code: code(status.exit_status(), signal),
        signal,
        oom,
        started: context.member.started.take(),
        finished: Some(time::now().to_string()),
        error: None,
    };
    let kept = files::read(&context.folder.join(containers::CONFIG))
        .ok()
        .flatten();
    record::take_name(&mut context.document, kept.as_deref());
    tell_end(&context.document, &exit);
    Ok(exit)
}

/// That it has ended, and how.
pub(crate) fn tell_end(document: &Document, exit: &ExitMember) {
    if exit.oom {
        events::Event::of(document, "oom").record();
    }
    let event = events::Event::of(document, "die").with("exitCode", exit.code);
    match exit.signal {
        Some(signal) => event.with("signal", signal),
        None => event,
    }
    .record();
}

/// The exit status as a shell sees it.
pub(crate) fn code(status: Option<i32>, signal: Option<i32>) -> u8 {
    match (status, signal) {
        (_, Some(signal)) => Kind::Interrupted(signal).exit_code(),
        (status, None) => (status.unwrap_or(0) & 0xff) as u8,
    }
}

/// Records the end, and answers with the finished document. The supervisor's lock, which says no longer that the container
/// runs, stays in the context for as long as there is something left to do.
pub(crate) fn finish(context: &mut Context, exit: &ExitMember) -> Document {
    let complain = |result: Result<()>| {
        if let Err(error) = result {
            say(&error);
        }
    };
    record::end(&mut context.document, &mut context.member, exit);
    // What the next stages remove is not written to the disk before: two files and two names less, which wait for its journal.
    if start::writes_its_end(context) {
        complain(record::write_status(exit, &context.folder));
        // A rename in between would be lost, or what is written here.
        let _lock = context.id().and_then(lock::verbs).ok();
        let document = &mut context.document;
        complain(record::write_document(document, &context.folder));
    }
    if context.member.lost.is_some()
        && let Ok(id) = context.id()
    {
        // The document has it now.
        complain(files::remove(&paths::claim(id).join(claim::LOST)));
    }
    if let Some(alive) = &context.alive {
        complain(alive.ended());
    }
    // Before anything of it is removed.
    context.streams.tell_end(exit, true);
    context.streams = Streams::default();
    if let Ok(id) = context.id().cloned() {
        // What nobody else began leaves nothing, as unshare(1) would.
        if !context.options.detach && context.member.made_folder {
            events::Event::of(&context.document, "destroy").record();
            complain(start::remove_folder(context));
            context.document.remove_member("spawn");
        }
        if claim::read(&id).is_some_and(|record| record.by == STAGE) {
            let _lock = lock::verbs(&id).ok();
            complain(claim::release(&id).map(drop));
        }
    }
    context.document.clone()
}
