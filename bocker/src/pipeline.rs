//! A pipeline as a value: stages, what descriptors they get, and the document that begins it.
//! Two interpreters read it, so that what is printed is what is run: [`crate::shell`] and [`crate::execute`].

use std::ffi::OsString;

use crate::tools::Program;

/// The descriptor by which the container's stdin passes the pipes (`3<&0`).
pub(crate) const STDIN: i32 = 3;
/// The descriptor by which the container's stdout passes the pipes (`4>&1`).
pub(crate) const STDOUT: i32 = 4;

/// One process of a pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) program: Program,
    pub(crate) args: Vec<OsString>,
}

impl Stage {
    pub(crate) fn new(program: Program) -> Stage {
        Stage {
            program,
            args: Vec::new(),
        }
    }

    /// As the tools call themselves: `net create`.
    pub(crate) fn label(&self) -> String {
        let name = self.program.path.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let verb = self.args.first().map(|verb| verb.to_string_lossy());
        let name = name.strip_prefix("bocker-").unwrap_or(&name);
        format!("{name} {}", verb.unwrap_or_default())
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Stage {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Stage {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// An option and its value, if there is one.
    pub(crate) fn option(self, name: &str, value: Option<impl Into<OsString>>) -> Stage {
        match value {
            Some(value) => self.arg(name).arg(value),
            None => self,
        }
    }

    /// An option once for each of its values.
    pub(crate) fn options<A: Into<OsString>>(
        self,
        name: &str,
        values: impl IntoIterator<Item = A>,
    ) -> Stage {
        values
            .into_iter()
            .fold(self, |stage, value| stage.arg(name).arg(value))
    }

    /// An option without a value.
    pub(crate) fn flag(self, name: &str, given: bool) -> Stage {
        if given { self.arg(name) } else { self }
    }
}

/// Where the last stage's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// To the caller's stdout.
    Shown,
    /// Nowhere: the document has done its work.
    Discarded,
}

/// Stages joined by pipes. The exit status is the last one's.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    /// The first document, fed to the first stage. Without one that stage has the caller's stdin.
    pub(crate) document: Option<String>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) output: Output,
    /// The caller's stdin reaches the stages as [`STDIN`].
    pub(crate) carries_stdin: bool,
    /// The caller's stdout reaches the stages as [`STDOUT`].
    pub(crate) carries_stdout: bool,
    /// What is run once every stage has succeeded.
    pub(crate) next: Option<Box<Pipeline>>,
    /// A line for stdout once every stage has succeeded, those of `next` too.
    pub(crate) said: Option<String>,
}

impl Pipeline {
    pub(crate) fn new(stages: impl IntoIterator<Item = Stage>) -> Pipeline {
        Pipeline {
            document: None,
            stages: stages.into_iter().collect(),
            output: Output::Shown,
            carries_stdin: false,
            carries_stdout: false,
            next: None,
            said: None,
        }
    }

    pub(crate) fn discarded(mut self) -> Pipeline {
        self.output = Output::Discarded;
        self
    }

    /// The same for all that is run after it.
    pub(crate) fn discarded_to_the_end(mut self) -> Pipeline {
        self.next = self.next.map(|next| Box::new(next.discarded_to_the_end()));
        self.discarded()
    }

    pub(crate) fn then(mut self, next: Pipeline) -> Pipeline {
        self.next = Some(Box::new(next));
        self
    }

    pub(crate) fn said(mut self, line: String) -> Pipeline {
        self.said = Some(line);
        self
    }
}
