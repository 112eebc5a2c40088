//! Runs a pipeline: every stage a process, joined by pipes, as a shell would.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeReader, Seek, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio, exit};

use bocker_pipe::error::{EXIT_FAILED, EXIT_SIGNAL};
use bocker_pipe::timing::measure;
use bocker_pipe::{Document, Doing, Error, Kind, Result};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout};

use crate::pipeline::{Output, Pipeline, STDIN, STDOUT, Stage};
use crate::session::complain;
use crate::signals::{self, Watch};
use crate::{sys, timing};

/// What a stage that cannot be started calls itself in the document.
const STAGE: &str = "bocker";

/// Runs the pipeline to its end and gives the exit status of each stage, in order.
pub(crate) fn run(pipeline: &Pipeline) -> Result<Vec<u8>> {
    let watch = Watch::begin()?;
    let mut carried = Vec::new();
    if pipeline.carries_stdin {
        carried.push(sys::carry(io::stdin(), STDIN)?);
    }
    if pipeline.carries_stdout {
        carried.push(sys::carry(io::stdout(), STDOUT)?);
    }
    let mut stages = Vec::new();
    let started = start(pipeline, &watch, &mut stages);
    drop(carried);
    if started.is_err() {
        // Begun a moment ago, they have made nothing yet, or take it back.
        for stage in &stages {
            let _ = kill(*stage, Signal::SIGTERM);
        }
    }
    watch.wait(&stages);
    let statuses = stages
        .into_iter()
        .zip(&pipeline.stages)
        .map(|(pid, stage)| reap(pid, stage))
        .collect();
    started.and(statuses)
}

/// Becomes the stage. Returns only when that fails.
pub(crate) fn become_stage(stage: &Stage) -> Error {
    not_started(stage, &command(stage).exec())
}

/// Runs one stage that only looks, and gives its stdout and exit status.
pub(crate) fn capture(stage: &Stage) -> Result<(Vec<u8>, u8)> {
    let mut command = command(stage);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = measure(stage.label(), || command.output()).doing(|| starting(stage))?;
    let signal = output.status.signal().map(Signal::try_from);
    if let Some(Ok(signal)) = signal {
        tell_killed(stage, signal);
    }
    Ok((output.stdout, code(output.status)))
}

/// Starts all stages, the first one first: it makes what the others wait for. `stages` receives their pids.
/// None is waited for until it is the program: that takes a third of a millisecond each.
fn start(pipeline: &Pipeline, watch: &Watch, stages: &mut Vec<Pid>) -> Result<()> {
    let mut input = match &pipeline.document {
        Some(document) => Input::Document(in_memory(document)?),
        None => Input::Callers,
    };
    let mut left = pipeline.stages.iter().peekable();
    while let Some(stage) = left.next() {
        let (reader, output) = match left.peek() {
            Some(_) => {
                let (reader, writer) = pipe().doing(|| "make a pipe".into())?;
                (Some(reader), Some(OwnedFd::from(writer)))
            }
            None => (None, None),
        };
        timing::starts(stage);
        match sys::fork().doing(|| starting(stage))? {
            Some(pid) => stages.push(pid),
            None => {
                drop(reader);
                exit(become_or_fail(stage, watch, input, output, pipeline.output).into())
            }
        }
        if let Some(reader) = reader {
            input = Input::Stage(reader);
        }
    }
    Ok(())
}

/// What a stage has as its stdin.
enum Input {
    /// What the caller has.
    Callers,
    /// The first document.
    Document(File),
    /// What the stage before writes.
    Stage(PipeReader),
}

/// In a child: becomes the stage. When that fails, this process does what every stage does that fails: it passes the
/// document on with the error, so that what the stages before have made is removed by those after.
fn become_or_fail(
    stage: &Stage,
    watch: &Watch,
    input: Input,
    output: Option<OwnedFd>,
    at_the_end: Output,
) -> u8 {
    let has_document = !matches!(input, Input::Callers);
    let is_last = output.is_none();
    let Err(error) = connect_and_become(stage, watch, input, output, at_the_end);
    let mut document = match has_document.then(|| Document::read(io::stdin())) {
        Some(Ok(document)) => document,
        _ => Document::new(),
    };
    // The same program stands in a pipeline twice.
    if document.error().is_none() {
        complain(&error);
        document.set_error(STAGE, &error);
    }
    if has_document && !is_last {
        // A reader that has gone has said why.
        let _ = document.write(io::stdout(), false);
    }
    error.exit_code()
}

fn connect_and_become(
    stage: &Stage,
    watch: &Watch,
    input: Input,
    output: Option<OwnedFd>,
    at_the_end: Output,
) -> Result<Infallible> {
    watch.let_through()?;
    match input {
        Input::Callers => {}
        Input::Document(file) => dup2_stdin(file).doing(|| starting(stage))?,
        Input::Stage(reader) => dup2_stdin(reader).doing(|| starting(stage))?,
    }
    let mut command = command(stage);
    match (output, at_the_end) {
        (Some(writer), _) => dup2_stdout(writer).doing(|| starting(stage))?,
        (None, Output::Shown) => {}
        (None, Output::Discarded) => drop(command.stdout(Stdio::null())),
    }
    Err(not_started(stage, &command.exec()))
}

fn command(stage: &Stage) -> Command {
    let mut command = Command::new(&stage.program.path);
    command.args(&stage.args);
    timing::hand_on(&mut command);
    command
}

fn not_started(stage: &Stage, error: &io::Error) -> Error {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    Error::system(&starting(stage), errno)
}

fn starting(stage: &Stage) -> String {
    format!("start {}", stage.program.path.display())
}

/// The first document as a file that needs no writer: of any length, at once.
fn in_memory(document: &str) -> Result<File> {
    let fd = memfd_create("document", MFdFlags::MFD_CLOEXEC).doing(|| "make a memfd".into())?;
    let mut file = File::from(fd);
    file.write_all(document.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.rewind())
        .doing(|| "write the first document".into())?;
    Ok(file)
}

/// The exit status, as a shell gives it, of a child that has ended.
fn reap(pid: Pid, stage: &Stage) -> Result<u8> {
    match waitpid(pid, None).doing(|| "wait for a stage".into())? {
        WaitStatus::Signaled(_, signal, _) => {
            tell_killed(stage, signal);
            Ok(EXIT_SIGNAL + signal as u8)
        }
        WaitStatus::Exited(_, code) => Ok(code as u8),
        _ => Ok(EXIT_FAILED),
    }
}

/// Says for a stage that was killed what it could not say itself. One that was asked to end needs no word, nor one whose reader has
/// gone, who has said why.
fn tell_killed(stage: &Stage, signal: Signal) {
    if signals::ENDING.contains(&signal) || signal == Signal::SIGPIPE {
        return;
    }
    let what = format!("'{}' was killed by {signal}", stage.label());
    let error = Error::new(Kind::Interrupted(signal as i32), what);
    complain(&error.hint("'bocker system prune' removes what it may have left, after ten minutes"));
}

/// The exit status as a shell gives it.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => EXIT_SIGNAL.saturating_add(signal.unwrap_or_default() as u8),
    }
}
