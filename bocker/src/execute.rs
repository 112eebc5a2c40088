//! Runs a pipeline: every stage a process, joined by pipes, as a shell would.

use std::fs::File;
use std::io::{self, PipeWriter, Seek, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use bocker_pipe::error::EXIT_SIGNAL;
use bocker_pipe::{Doing, Error, Result};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::pipeline::{Output, Pipeline, STDIN, STDOUT, Stage};
use crate::{signals, sys};

/// Runs the pipeline to its end and gives the exit status of each stage, in order.
pub(crate) fn run(pipeline: &Pipeline) -> Result<Vec<u8>> {
    signals::watch()?;
    let mut carried = Vec::new();
    if pipeline.carries_stdin {
        carried.push(sys::carry(io::stdin(), STDIN)?);
    }
    if pipeline.carries_stdout {
        carried.push(sys::carry(io::stdout(), STDOUT)?);
    }
    let (children, failure) = start(pipeline, carried);
    let statuses = wait(children)?;
    match failure {
        Some(error) => Err(error),
        None => Ok(statuses),
    }
}

/// Becomes the stage. Returns only when that fails.
pub(crate) fn become_stage(stage: &Stage) -> Error {
    let error = command(stage).exec();
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    Error::system(&starting(stage), errno)
}

/// Runs one stage that only looks, and gives its stdout and exit status.
pub(crate) fn capture(stage: &Stage) -> Result<(Vec<u8>, u8)> {
    capture_with(stage, Stdio::inherit())
}

/// The same, for what says by its document what went wrong.
pub(crate) fn capture_quietly(stage: &Stage) -> Result<(Vec<u8>, u8)> {
    capture_with(stage, Stdio::null())
}

fn capture_with(stage: &Stage, stderr: Stdio) -> Result<(Vec<u8>, u8)> {
    let output = command(stage)
        .stdin(Stdio::null())
        .stderr(stderr)
        .output()
        .doing(|| starting(stage))?;
    Ok((output.stdout, code(output.status)))
}

/// Starts the last stage first: if one cannot be started, none of those that would have made something for it has been.
/// The carried descriptors are closed here once the stages have them.
fn start(pipeline: &Pipeline, carried: Vec<OwnedFd>) -> (Vec<Child>, Option<Error>) {
    let mut children = Vec::new();
    let result = start_backwards(pipeline, &mut children);
    drop(carried);
    children.reverse();
    signals::begin(children.iter().map(pid).collect());
    (children, result.err())
}

fn start_backwards(pipeline: &Pipeline, children: &mut Vec<Child>) -> Result<()> {
    let mut next: Option<PipeWriter> = None;
    for (position, stage) in pipeline.stages.iter().enumerate().rev() {
        let stdout = match (next.take(), pipeline.output) {
            (Some(writer), _) => Stdio::from(writer),
            (None, Output::Shown) => Stdio::inherit(),
            (None, Output::Discarded) => Stdio::null(),
        };
        let stdin = match (position, &pipeline.document) {
            (0, Some(document)) => Stdio::from(in_memory(document)?),
            (0, None) => Stdio::inherit(),
            _ => {
                let (reader, writer) = pipe().doing(|| "make a pipe".into())?;
                next = Some(writer);
                Stdio::from(reader)
            }
        };
        let child = command(stage)
            .stdin(stdin)
            .stdout(stdout)
            .spawn()
            .doing(|| starting(stage))?;
        children.push(child);
    }
    Ok(())
}

fn command(stage: &Stage) -> Command {
    let mut command = Command::new(&stage.program.path);
    command.args(&stage.args);
    command
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

/// Waits for all stages before it reaps the first one, so that a signal is never sent to a pid that has a new owner.
fn wait(mut children: Vec<Child>) -> Result<Vec<u8>> {
    for child in &children {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while let Err(Errno::EINTR) = waitid(Id::Pid(pid(child)), flags) {}
    }
    signals::end();
    children
        .iter_mut()
        .map(|child| child.wait().map(code).doing(|| "wait for a stage".into()))
        .collect()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// The exit status as a shell gives it.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => EXIT_SIGNAL.saturating_add(signal.unwrap_or_default() as u8),
    }
}
