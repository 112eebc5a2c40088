//! One call of `bocker`: the leading options, and the three ways to start tools.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Write};

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::part::Parts;
use bocker_pipe::{Doing, Error, Id, Kind, Result};
use serde_json::Value;

use crate::limits::Limits;
use crate::pipeline::{Pipeline, Stage};
use crate::tools::{Piece, Tools};
use crate::{execute, shell, timing};

/// The leading options, and where the tools are.
#[derive(Debug)]
pub(crate) struct Session {
    /// `-x`
    pub(crate) trace: bool,
    /// `--dry-run`
    pub(crate) dry_run: bool,
    /// `-v`, handed to each stage
    pub(crate) verbose: bool,
    /// `--explain`, handed to each stage
    pub(crate) explain: bool,
    pub(crate) tools: Tools,
    pub(crate) limits: Limits,
    /// Those that have lost their supervisor and that this call has tried to end in vain. It was said why, and is not tried twice.
    pub(crate) unended: RefCell<BTreeSet<Id>>,
}

impl Session {
    /// A stage of a pipeline.
    pub(crate) fn stage(&self, piece: Piece, verb: &str) -> Result<Stage> {
        Ok(self.with_options(Stage::new(self.tools.find(piece)?).arg(verb)))
    }

    /// A tool outside the pipelines of containers: what it is asked, a piece that stands for it there need not know.
    pub(crate) fn tool(&self, piece: Piece, verb: &str) -> Result<Stage> {
        Ok(self.with_options(Stage::new(self.tools.find_own(piece)?).arg(verb)))
    }

    fn with_options(&self, stage: Stage) -> Stage {
        stage
            .flag("--verbose", self.verbose)
            .flag("--explain", self.explain)
    }

    /// A stage that is this program.
    pub(crate) fn own_stage(&self, verb: &str) -> Stage {
        Stage::new(self.tools.own()).arg(verb)
    }

    /// Runs a pipeline, shown under `-x`; under `--dry-run` it is only printed. Gives the exit status of the last stage,
    /// or, when there is something to say after success, that of the last one that failed.
    pub(crate) fn run(&self, pipeline: &Pipeline) -> Result<u8> {
        if !self.announce(|| shell::pipeline(pipeline))? {
            return Ok(0);
        }
        Self::execute(pipeline)
    }

    fn execute(pipeline: &Pipeline) -> Result<u8> {
        let statuses = execute::run(pipeline)?;
        timing::report(&pipeline.stages)?;
        let last = statuses.last().copied().unwrap_or(EXIT_FAILED);
        if pipeline.next.is_none() && pipeline.said.is_none() {
            return Ok(last);
        }
        if let Some(status) = statuses.iter().rev().find(|status| **status != 0) {
            return Ok(*status);
        }
        match pipeline.next.as_deref().map(Self::execute).transpose()? {
            None | Some(0) => {}
            Some(status) => return Ok(status),
        }
        match &pipeline.said {
            Some(line) => say(line).map(|()| 0),
            None => Ok(0),
        }
    }

    /// Becomes the stage: the caller's descriptors, signals and terminal are its own.
    pub(crate) fn become_stage(&self, stage: &Stage) -> Result<u8> {
        if !self.announce(|| shell::command(stage))? {
            return Ok(0);
        }
        Err(execute::become_stage(stage))
    }

    /// Reads a report, JSON Lines, from a tool. Nothing changes by it, so it is done under `--dry-run` too, and shown as a
    /// comment: what is pasted shall print what this program prints, not what it read.
    pub(crate) fn read(&self, stage: &Stage) -> Result<Vec<Value>> {
        self.read_parts(stage, &Parts::of([""]))
    }

    /// The same of some parts of each line only.
    pub(crate) fn read_parts(&self, stage: &Stage, parts: &Parts) -> Result<Vec<Value>> {
        self.comment(stage)?;
        let (stdout, status) = execute::capture(stage)?;
        if status != 0 {
            return Err(Error::new(Kind::Passed(status), "a report failed"));
        }
        let lines = stdout.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.trim_ascii().is_empty());
        lines
            .map(|line| parts.read(line))
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| not_understood(stage, &error))
    }

    /// Shows a stage that only looks.
    pub(crate) fn comment(&self, stage: &Stage) -> Result<()> {
        if self.trace {
            let line = [b"# ".as_slice(), &shell::command(stage), b"\n"].concat();
            io::stderr()
                .write_all(&line)
                .doing(|| "write to stderr".into())?;
        }
        Ok(())
    }

    /// Shows a line that a shell understands, if it is to be shown. Whether it is to be done.
    fn announce(&self, line: impl Fn() -> Vec<u8>) -> Result<bool> {
        let line = || [line().as_slice(), b"\n"].concat();
        if self.dry_run {
            io::stdout()
                .write_all(&line())
                .doing(|| "write to stdout".into())?;
        } else if self.trace {
            io::stderr()
                .write_all(&line())
                .doing(|| "write to stderr".into())?;
        }
        Ok(!self.dry_run)
    }
}

/// The error for a report of another release, or of a swapped piece.
pub(crate) fn not_understood(stage: &Stage, error: &serde_json::Error) -> Error {
    let program = stage.program.path.display();
    Error::new(
        Kind::Document,
        format!("what {program} says is not understood: {error}"),
    )
    .hint("use tools of one release")
}

/// A line on stdout.
pub(crate) fn say(line: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush())
        .doing(|| "write to stdout".into())
}

/// The error's line on stderr, unless a tool has said it already.
pub(crate) fn complain(error: &Error) {
    if matches!(error.kind(), Kind::Passed(_)) {
        return;
    }
    // In one write: the stages write to the same terminal.
    let line = format!("bocker: {error}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}
