//! The skeleton of every tool: verbs, common options, reading and passing the document, what happens when a stage fails.
//! A tool's program is `bocker_pipe::program!(|| bocker_pipe::tool::main(&TOOL))`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use serde::Serialize;

use crate::document::Document;
use crate::error::{Doing, EXIT_FAILED, EXIT_SIGNAL, Error, Kind, Result};
use crate::events::Event;
use crate::id::Id;
use crate::incoming::Incoming;
use crate::step::{Engine, Mode, Step};
use crate::{claim, containers, pool, signals, timing};

/// signal(7): a report whose reader has gone ends as if by this one, without a word.
const SIGPIPE: u8 = 13;

/// A tool: its names, its page and its verbs.
pub struct Tool {
    /// The program's name, `bocker-net`.
    pub name: &'static str,
    /// The stage's name in documents and steps, `net`.
    pub stage: &'static str,
    /// What `--help` prints.
    pub help: &'static str,
    /// What the tool can do.
    pub verbs: &'static [Verb],
    /// The verb that is meant when the first argument is none: `bocker-pull REF`.
    pub default_verb: Option<&'static str>,
}

/// One thing that a tool can do.
pub struct Verb {
    /// The word.
    pub name: &'static str,
    /// What the skeleton does around it.
    pub kind: VerbKind,
    /// The work. Everything that it wants to say to a later stage is in the call's document when it returns.
    pub run: fn(&mut Call) -> Result<()>,
}

/// How a verb stands in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerbKind {
    /// Creates and begins a pipeline: reads no document unless told (`-`, `--document FD`).
    Begins,
    /// Reads a document and creates; passes one with an error on, untouched.
    Creates,
    /// As `Creates`, but once it has begun it handles signals itself.
    Runs,
    /// Reads a document and deletes, whatever errors it carries; ignores the ending signals while it works.
    Deletes,
    /// Stands outside the pipeline and answers on stdout: `list`, `gc`.
    Reports,
    /// As `Reports`, but makes `BOCKER_ROOT` ready, so that it need not be.
    Prepares,
}

impl VerbKind {
    /// Whether it has nothing to do with documents.
    fn is_outside(self) -> bool {
        matches!(self, VerbKind::Reports | VerbKind::Prepares)
    }
}

/// One argument that is not a common option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    /// An option with its dashes: `-p`, `--publish`.
    Option(String),
    /// A word.
    Value(OsString),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// As the verb's kind says.
    Usual,
    Stdin,
    Descriptor(u32),
    /// `--new`: begin from nothing.
    New,
}

/// What is told of a creating verb, by the document: that its work is done, and that this was taken back.
struct Tells {
    done: fn(&Document) -> Vec<Event>,
    undone: fn(&Document) -> Vec<Event>,
}

/// One call of a verb.
pub struct Call {
    tool: &'static Tool,
    kind: VerbKind,
    args: lexopt::Parser,
    mode: Mode,
    source: Source,
    status: bool,
    help: bool,
    incoming: Option<Incoming>,
    document: Option<Document>,
    tells: Option<Tells>,
    written: bool,
    exit_code: u8,
}

impl Call {
    fn new(tool: &'static Tool, kind: VerbKind, args: Vec<OsString>) -> Call {
        Call {
            tool,
            kind,
            args: lexopt::Parser::from_args(args),
            mode: Mode::default(),
            source: Source::Usual,
            status: false,
            help: false,
            incoming: None,
            document: None,
            tells: None,
            written: false,
            exit_code: 0,
        }
    }

    /// The next argument that is not a common option (`-v`, `--explain`, `--dry-run`, `--document FD`, `-`, `--new`,
    /// `--status`, `--help`). Fails with [`Kind::Usage`].
    pub fn arg(&mut self) -> Result<Option<Arg>> {
        loop {
            let name = match self.args.next().map_err(usage)? {
                None => return Ok(None),
                Some(lexopt::Arg::Short(letter)) => format!("-{letter}"),
                Some(lexopt::Arg::Long(word)) => format!("--{word}"),
                Some(lexopt::Arg::Value(word)) => {
                    if word == "-" && !self.kind.is_outside() {
                        self.source = Source::Stdin;
                        continue;
                    }
                    return Ok(Some(Arg::Value(word)));
                }
            };
            match name.as_str() {
                "-v" | "--verbose" => self.mode.verbose = true,
                "--explain" => self.mode.explain = true,
                "--dry-run" => self.mode.dry_run = true,
                "--document" if !self.kind.is_outside() => {
                    self.source = Source::Descriptor(self.number()?);
                }
                "--new" if self.kind == VerbKind::Creates => self.source = Source::New,
                "--status" if self.kind == VerbKind::Deletes => self.status = true,
                "-h" | "--help" => {
                    self.help = true;
                    return Err(Error::new(Kind::Usage, "help"));
                }
                _ => return Ok(Some(Arg::Option(name))),
            }
        }
    }

    /// The value of the option that [`Call::arg`] returned last.
    pub fn value(&mut self) -> Result<OsString> {
        self.args.value().map_err(usage)
    }

    /// The same as text. Fails with [`Kind::Usage`] when it is not UTF-8.
    pub fn text(&mut self) -> Result<String> {
        text(self.value()?)
    }

    /// The same as a decimal number, digits only: no sign, no expression.
    pub fn number<N: std::str::FromStr>(&mut self) -> Result<N> {
        let text = self.text()?;
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::new(Kind::Usage, format!("'{text}' is not a number")));
        }
        text.parse()
            .map_err(|_| Error::new(Kind::Usage, format!("{text} is out of range")))
    }

    /// Everything that is left, as it stands: options of the container's command are not ours.
    pub fn rest(&mut self) -> Result<Vec<OsString>> {
        Ok(self.args.raw_args().map_err(usage)?.collect())
    }

    /// The error for an option that the verb does not know.
    pub fn unknown(&self, option: &str) -> Error {
        Error::new(Kind::Usage, format!("unknown option '{option}'"))
            .hint(format!("see '{} --help'", self.tool.name))
    }

    /// The error for a word that the verb does not take.
    pub fn unexpected(&self, word: &OsString) -> Error {
        Error::new(
            Kind::Usage,
            format!("unexpected argument '{}'", word.display()),
        )
        .hint(format!("see '{} --help'", self.tool.name))
    }

    /// Takes no arguments but the common options.
    pub fn no_more_args(&mut self) -> Result<()> {
        match self.arg()? {
            None => Ok(()),
            Some(Arg::Option(option)) => Err(self.unknown(&option)),
            Some(Arg::Value(word)) => Err(self.unexpected(&word)),
        }
    }

    /// All arguments of a verb: it answers the words, and gives `take` each option, which has to be one of those allowed.
    pub fn words(
        &mut self,
        allowed: &[&str],
        mut take: impl FnMut(&mut Call, &str) -> Result<()>,
    ) -> Result<Vec<String>> {
        let mut words = Vec::new();
        while let Some(arg) = self.arg()? {
            match arg {
                Arg::Value(word) => match word.to_str() {
                    Some(text) => words.push(text.to_owned()),
                    None => return Err(self.unexpected(&word)),
                },
                Arg::Option(option) if allowed.contains(&&*option) => take(self, &option)?,
                Arg::Option(option) => return Err(self.unknown(&option)),
            }
        }
        Ok(words)
    }

    /// The arguments of a verb on one container: its id or name, if one is given, and `--force` where the verb knows it.
    pub fn container(&mut self, mut force: Option<&mut bool>) -> Result<Option<String>> {
        let mut found = None;
        while let Some(arg) = self.arg()? {
            match (arg, force.as_deref_mut()) {
                (Arg::Option(option), Some(force)) if matches!(&*option, "-f" | "--force") => {
                    *force = true;
                }
                (Arg::Option(option), _) => return Err(self.unknown(&option)),
                (Arg::Value(word), _) if found.is_some() => return Err(self.unexpected(&word)),
                (Arg::Value(word), _) => found = Some(text(word)?),
            }
        }
        Ok(found)
    }

    /// The document, read on the first call as the verb's kind and the options say.
    /// For a creating verb, one with an error fails with [`Kind::Passed`].
    pub fn document(&mut self) -> Result<&mut Document> {
        if self.document.is_none() {
            let document = timing::measure(timing::READS, || self.read())?;
            return self.accept(document);
        }
        self.loaded()
    }

    /// Begins to read the document, which the first call of [`Call::document`] waits for, and the lines of bocker-pull before it.
    /// [`Call::create`] then asks for the document after the steps, not before them.
    pub fn incoming(&mut self) -> Result<Incoming> {
        let incoming = Incoming::new(self.input()?);
        self.incoming = Some(incoming.clone());
        Ok(incoming)
    }

    /// Instead of reading one from a pipe, takes the document of the container that `name` resolves to; of one that never
    /// reached bocker-spawn, or is only claimed yet, one that holds its id alone.
    pub fn document_of(&mut self, name: &str) -> Result<&mut Document> {
        let claimed = || {
            Id::parse(name)
                .ok()
                .filter(|id| id.is_container() && claim::read(id).is_some())
        };
        let id = containers::resolve(name).or_else(|error| claimed().ok_or(error))?;
        let document = match containers::load(&id) {
            Err(error) if error.kind() == &Kind::NotFound => {
                let mut document = Document::new();
                document.set_member("id", &id);
                document
            }
            document => document?,
        };
        self.document = Some(document);
        self.loaded()
    }

    /// Takes a document that the verb has found by itself.
    pub fn adopt(&mut self, document: Document) -> &mut Document {
        self.document.insert(document)
    }

    fn accept(&mut self, document: Document) -> Result<&mut Document> {
        self.mode.dry_run |= document.dry_run();
        let error = document.error();
        self.document = Some(document);
        match error {
            Some(error) if self.kind != VerbKind::Deletes => Err(Error::new(
                Kind::Passed(error.code),
                format!("{} failed: {}", error.stage, error.message),
            )),
            _ => self.loaded(),
        }
    }

    fn loaded(&mut self) -> Result<&mut Document> {
        self.document
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Document, "no document was read"))
    }

    fn reads_a_pipe(&self) -> bool {
        match self.source {
            Source::New => false,
            Source::Stdin | Source::Descriptor(_) => true,
            Source::Usual => self.kind != VerbKind::Begins && !self.kind.is_outside(),
        }
    }

    fn read(&self) -> Result<Document> {
        match &self.incoming {
            // The stages before end by a signal as we do, and what they have made goes on to those who remove it.
            Some(incoming) => incoming.document(|| Ok(())),
            None if self.reads_a_pipe() => Document::read(self.input()?),
            None => Ok(Document::new()),
        }
    }

    /// Where the document comes from.
    fn input(&self) -> Result<File> {
        if let Source::Descriptor(number) = self.source {
            return File::open(format!("/proc/self/fd/{number}"))
                .doing(|| format!("read the document from descriptor {number}"));
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Err(Error::new(
                Kind::Usage,
                "stdin is a terminal, and a document is read from it",
            )
            .hint(format!("pipe one in, or see '{} --help'", self.tool.name)));
        }
        let stdin = stdin.as_fd().try_clone_to_owned();
        stdin
            .map(File::from)
            .doing(|| "read the document from stdin".into())
    }

    /// Whether nothing is to be done, by option or because the document says so.
    pub fn dry_run(&self) -> bool {
        self.mode.dry_run
    }

    /// An engine that shows and does what the options say, for verbs that run steps by themselves.
    pub fn engine(&self) -> Engine {
        Engine::new(self.mode)
    }

    /// The stage's name.
    pub fn stage(&self) -> &'static str {
        self.tool.stage
    }

    /// From now on an ending signal is noted, for [`interruption`](crate::step::interruption) to tell: for a verb outside the
    /// pipeline that has to put something back before it ends.
    pub fn catch_signals(&self) {
        signals::catch();
    }

    /// Runs the steps of a verb that has no document. When one fails, all of it is taken back.
    pub fn run_steps<C>(&self, context: &mut C, steps: Vec<Step<C>>) -> Result<()> {
        let engine = self.engine();
        let mut done = Vec::new();
        let Err(error) = engine.set_up(context, steps, &mut done) else {
            return Ok(());
        };
        match engine.take_back(context, done) {
            Ok(()) => Err(error),
            Err(second) => Err(error.and(&second)),
        }
    }

    /// What [`Call::create`] records: `done` when the steps are, before the next stage can go on, and `undone` when nobody took
    /// the document and all was taken back.
    pub fn tells(
        &mut self,
        done: fn(&Document) -> Vec<Event>,
        undone: fn(&Document) -> Vec<Event>,
    ) {
        self.tells = Some(Tells { done, undone });
    }

    /// Records what is told of the document. Whether there was something to tell.
    fn tell(&self, which: impl Fn(&Tells) -> fn(&Document) -> Vec<Event>) -> bool {
        let (Some(tells), Some(document), false) = (&self.tells, &self.document, self.mode.dry_run)
        else {
            return false;
        };
        which(tells)(document).into_iter().for_each(Event::record);
        true
    }

    /// Runs a creating verb's steps. When they are done, `finish` puts what came of them into the document, which is
    /// written. When a step fails, a signal came, or nobody reads the document any more, all of it is taken back;
    /// if that fails too, `finish` is called so that the document names what remains.
    pub fn create<C>(
        &mut self,
        mut context: C,
        steps: Vec<Step<C>>,
        finish: impl Fn(&mut Document, &C) -> Result<()>,
    ) -> Result<()> {
        let engine = self.engine();
        let mut before = match self.incoming {
            Some(_) => None,
            None => Some(self.document()?.clone()),
        };
        let mut done = Vec::new();
        let mut told = false;
        let work = || {
            engine.set_up(&mut context, steps, &mut done)?;
            let document = self.document()?;
            before.get_or_insert_with(|| document.clone());
            finish(document, &context)?;
            told = self.tell(|tells| tells.done);
            self.write()
        };
        let Err(error) = work() else { return Ok(()) };
        match engine.take_back(&mut context, done) {
            Ok(()) => {
                if told {
                    self.tell(|tells| tells.undone);
                }
                self.document = before.or(self.document.take());
                Err(error)
            }
            Err(second) => {
                if let Some(document) = self.document.as_mut() {
                    let _ = finish(document, &context);
                }
                Err(error.and(&second))
            }
        }
    }

    /// Runs a deleting verb's steps, all of them. If none failed, `finish` removes the stage's member from the document,
    /// which is written in any case.
    pub fn delete<C>(
        &mut self,
        mut context: C,
        steps: Vec<Step<C>>,
        finish: impl FnOnce(&mut Document, &C) -> Result<()>,
    ) -> Result<()> {
        let engine = self.engine();
        engine
            .tear_down(&mut context, steps)
            .and_then(|()| finish(self.document()?, &context))?;
        self.write()
    }

    /// Writes the document to stdout, once.
    pub fn write(&mut self) -> Result<()> {
        let dry_run = self.mode.dry_run;
        self.written = true;
        let document = self.loaded()?;
        if dry_run {
            document.set_member("dry_run", &true);
        }
        let stdout = std::io::stdout();
        let pretty = stdout.is_terminal();
        timing::measure(timing::PASSES_ON, || document.write(stdout.lock(), pretty))
            .doing(|| "pass the document on".into())
    }

    /// Writes one JSON line to stdout, for verbs that report.
    pub fn line(&self, value: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec(value)
            .map_err(|error| Error::new(Kind::Invalid, format!("cannot print as JSON: {error}")))?;
        bytes.push(b'\n');
        std::io::stdout()
            .lock()
            .write_all(&bytes)
            .doing(|| "write to stdout".into())
    }

    /// The exit code of a call that succeeds, 0 unless set.
    pub fn set_exit_code(&mut self, code: u8) {
        self.exit_code = code;
    }

    /// What every stage does with an error: says it, records it in the document, and passes the document on.
    fn fail(&mut self, error: &Error) -> u8 {
        if !matches!(error.kind(), Kind::Passed(_)) {
            complain(self.tool, error);
        }
        if self.kind.is_outside() || self.written {
            return error.exit_code();
        }
        if self.document.is_none() {
            // Wrong usage: what the stages before have made must still reach those who remove it.
            self.document = Some(self.read().unwrap_or_default());
        }
        let stage = self.tool.stage;
        let bare = self
            .document
            .as_ref()
            .is_none_or(|document| document.id().is_err());
        if let Some(document) = self.document.as_mut() {
            document.set_error(stage, error);
        }
        // On a terminal, an error without anything made is said by its line alone.
        if !(bare && std::io::stdout().is_terminal()) {
            let _ = self.write();
        }
        error.exit_code()
    }
}

fn text(value: OsString) -> Result<String> {
    value
        .into_string()
        .map_err(|value| Error::new(Kind::Usage, format!("'{}' is not UTF-8", value.display())))
}

fn usage(error: lexopt::Error) -> Error {
    Error::new(Kind::Usage, error.to_string())
}

fn complain(tool: &Tool, error: &Error) {
    // In one write: all stages of a pipeline share their stderr, and a line written in parts is torn.
    let line = format!("{}: {error}\n", tool.name);
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Runs the tool on the process's arguments, and gives the exit code.
pub fn main(tool: &'static Tool) -> u8 {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let first = args.first().cloned().unwrap_or_default();
    let find = |name: &str| tool.verbs.iter().find(|verb| verb.name == name);
    let named = first.to_str().and_then(find);
    match (named, first.to_str()) {
        (Some(verb), _) => {
            args.remove(0);
            timed(tool, verb, args)
        }
        (None, Some("-h" | "--help" | "help")) => print(tool.help),
        (None, Some("-V" | "--version" | "version")) => {
            print(&format!("{} {}\n", tool.name, env!("CARGO_PKG_VERSION")))
        }
        (None, _) if args.is_empty() => {
            let _ = std::io::stderr().write_all(tool.help.as_bytes());
            EXIT_FAILED
        }
        _ => match tool.default_verb.and_then(find) {
            Some(verb) => timed(tool, verb, args),
            None => {
                // It may be a mistyped stage of a pipeline: what came down the pipe goes on.
                let mut call = Call::new(tool, VerbKind::Creates, Vec::new());
                let error = Error::new(
                    Kind::Usage,
                    format!("there is no verb '{}'", first.display()),
                )
                .hint(format!("see '{} --help'", tool.name));
                call.fail(&error)
            }
        },
    }
}

fn print(text: &str) -> u8 {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(_) => EXIT_FAILED,
    }
}

fn timed(tool: &'static Tool, verb: &Verb, args: Vec<OsString>) -> u8 {
    timing::begin(format_args!("{} {}", tool.stage, verb.name));
    timing::measure(timing::ALL, || run(tool, verb, args))
}

fn run(tool: &'static Tool, verb: &Verb, args: Vec<OsString>) -> u8 {
    match verb.kind {
        VerbKind::Deletes => signals::ignore(),
        VerbKind::Begins | VerbKind::Creates | VerbKind::Runs => signals::catch(),
        VerbKind::Reports | VerbKind::Prepares => {}
    }
    let mut call = Call::new(tool, verb.kind, args);
    if verb.kind != VerbKind::Prepares
        && let Err(error) = pool::ensure()
    {
        // What is deleted may lie elsewhere.
        match verb.kind {
            VerbKind::Deletes => complain(tool, &error),
            _ => return call.fail(&error),
        }
    }
    let Err(error) = (verb.run)(&mut call) else {
        return success(&mut call);
    };
    if call.help {
        return print(tool.help);
    }
    if verb.kind.is_outside() && error.is(Errno::EPIPE) {
        return EXIT_SIGNAL + SIGPIPE;
    }
    if verb.kind == VerbKind::Deletes
        && error.kind() == &Kind::Usage
        && call.document.is_none()
        && call.reads_a_pipe()
    {
        return delete_despite(tool, verb, &call, &error);
    }
    call.fail(&error)
}

fn success(call: &mut Call) -> u8 {
    let document_left = call.document.is_some() && !call.kind.is_outside() && !call.written;
    if document_left && let Err(error) = call.write() {
        return call.fail(&error);
    }
    match (&call.document, call.status) {
        (Some(document), true) => document.status(),
        _ => call.exit_code,
    }
}

/// A deleting stage with a mistyped option fails, but does what it stands there for: in a pipeline nobody comes after it
/// who would remove what the document names.
fn delete_despite(tool: &'static Tool, verb: &Verb, call: &Call, error: &Error) -> u8 {
    complain(tool, error);
    let mut again = Call::new(tool, verb.kind, Vec::new());
    again.mode = call.mode;
    again.source = call.source;
    match (verb.run)(&mut again) {
        Ok(()) => {
            success(&mut again);
        }
        Err(second) => {
            again.fail(&second);
        }
    }
    EXIT_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    static TOOL: Tool = Tool {
        name: "bocker-test",
        stage: "test",
        help: "help\n",
        verbs: &[],
        default_verb: None,
    };

    fn call(kind: VerbKind, args: &[&str]) -> Call {
        Call::new(&TOOL, kind, args.iter().map(OsString::from).collect())
    }

    #[test]
    fn common_options_are_taken_and_the_rest_is_the_verbs() {
        let mut call = call(
            VerbKind::Creates,
            &["-v", "--new", "-p", "80:80", "--dry-run", "word"],
        );
        assert_eq!(call.arg().unwrap(), Some(Arg::Option("-p".into())));
        assert_eq!(call.text().unwrap(), "80:80");
        assert_eq!(call.arg().unwrap(), Some(Arg::Value("word".into())));
        assert_eq!(call.arg().unwrap(), None);
        assert!(call.mode.verbose && call.dry_run());
        assert_eq!(call.source, Source::New);
    }

    #[test]
    fn an_option_that_does_not_fit_the_verb_is_the_verbs_to_refuse() {
        let mut call = call(VerbKind::Reports, &["--status"]);
        assert_eq!(call.arg().unwrap(), Some(Arg::Option("--status".into())));
    }

    #[test]
    fn the_commands_own_options_are_left_alone() {
        let mut call = call(VerbKind::Runs, &["-t", "--", "ls", "-v", "--", "-"]);
        assert_eq!(call.arg().unwrap(), Some(Arg::Option("-t".into())));
        assert_eq!(call.arg().unwrap(), Some(Arg::Value("ls".into())));
        assert_eq!(call.rest().unwrap(), ["-v", "--", "-"]);
    }

    #[test]
    fn a_verb_on_one_container_takes_one_and_force_only_where_it_is_known() {
        let of = |args: &[&str], knows: bool| {
            let mut force = false;
            let found = call(VerbKind::Deletes, args).container(knows.then_some(&mut force));
            found.map(|name| (name, force)).ok()
        };
        assert_eq!(of(&[], true), Some((None, false)));
        assert_eq!(
            of(&["web", "--force"], true),
            Some((Some("web".into()), true))
        );
        assert_eq!(of(&["-f"], true), Some((None, true)));
        assert_eq!(of(&["--force"], false), None);
        assert_eq!(of(&["web", "db"], true), None);
        assert_eq!(of(&["--tpyo"], true), None);
    }

    #[test]
    fn a_number_is_digits_and_never_an_expression() {
        for text in [
            "",
            "1+1",
            "a[$(id)]",
            "-1",
            "+1",
            " 1",
            "0x10",
            "99999999999999999999",
        ] {
            let mut call = call(VerbKind::Reports, &["--n", text]);
            call.arg().unwrap();
            assert_eq!(
                call.number::<u64>().unwrap_err().kind(),
                &Kind::Usage,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_creating_stage_passes_an_error_on_untouched() {
        let mut call = call(VerbKind::Creates, &[]);
        let document = Document::parse(
            br#"{"bocker":{"version":1,"error":{"stage":"a","code":127,"message":"m"}}}"#,
        );
        let error = call.accept(document.unwrap()).unwrap_err();
        assert_eq!(error.kind(), &Kind::Passed(127));
    }

    #[test]
    fn a_deleting_stage_ignores_the_error_it_carries() {
        let mut call = call(VerbKind::Deletes, &[]);
        let document = Document::parse(
            br#"{"bocker":{"version":1,"error":{"stage":"a","code":127,"message":"m"}}}"#,
        );
        assert!(call.accept(document.unwrap()).is_ok());
    }

    #[test]
    fn a_document_of_a_dry_run_makes_every_stage_only_print() {
        let mut call = call(VerbKind::Creates, &[]);
        call.accept(Document::parse(br#"{"bocker":{"version":1,"dry_run":true}}"#).unwrap())
            .unwrap();
        assert!(call.dry_run());
    }
}
