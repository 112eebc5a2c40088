//! The front end: reads what people type, composes the tools as processes joined by pipes, and formats what they say.
//!
//! It makes no kernel object itself. Everything that it does is a pipeline that `-x` prints and a shell can run.

mod cli;
mod container;
mod execute;
mod filter;
mod image;
mod limits;
mod pipeline;
mod ports;
mod session;
mod shape;
mod shell;
mod signals;
mod sys;
mod table;
mod template;
mod time;
mod timing;
mod tools;
mod verbs;

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, Write};

use bocker_pipe::error::{EXIT_FAILED, EXIT_SIGNAL};
use bocker_pipe::{Error, Kind, Result, pool};
use cli::{Cli, Refusal, Verb};
use limits::Limits;
use nix::errno::Errno;
use session::Session;
use tools::Tools;

/// signal(7): a report whose reader has gone ends as if by this one, without a word.
const SIGPIPE: u8 = 13;

/// Does what the process's arguments say, and gives the exit code.
pub fn main() -> u8 {
    let args: Vec<OsString> = std::env::args_os().collect();
    let result = match cli::parse(&args) {
        Ok(cli) => dispatch(cli, &args),
        Err(Refusal::Answer(page)) => session::say(page.trim_end()).map(|()| 0),
        Err(Refusal::Wrong(error)) => Err(error),
    };
    result.unwrap_or_else(|error| fail(&error))
}

fn fail(error: &Error) -> u8 {
    match error.kind() {
        Kind::Passed(code) => *code,
        _ if error.is(Errno::EPIPE) => EXIT_SIGNAL + SIGPIPE,
        _ => {
            session::complain(error);
            error.exit_code()
        }
    }
}

fn dispatch(cli: Cli, args: &[OsString]) -> Result<u8> {
    if cli.version {
        return verbs::help::version();
    }
    if cli.help {
        return verbs::help::run(&verbs::help::Args::default());
    }
    let Some(verb) = cli.verb else {
        // As the tools do: the page, but for a script whose verb is an empty variable no success.
        let _ = io::stderr().write_all(verbs::help::page().as_bytes());
        return Ok(EXIT_FAILED);
    };
    if cli.timing {
        timing::begin()?;
    }
    let session = Session {
        trace: cli.trace,
        dry_run: cli.dry_run,
        verbose: cli.verbose,
        explain: cli.explain,
        tools: Tools::new(cli.with),
        limits: match verb {
            Verb::Run(_) | Verb::Create(_) => Limits::new(cli.cpu_share, cli.mem_limit)?,
            _ => Limits::default(),
        },
        unended: RefCell::default(),
    };
    if needs_root(&verb) && !nix::unistd::geteuid().is_root() {
        return Err(Error::new(
            Kind::System(Errno::EPERM as i32),
            "containers are made by root only",
        )
        .hint("run it as root"));
    }
    if needs_root(&verb) && !matches!(verb, Verb::System(verbs::system::Verb::Setup(_))) {
        pool::ensure()?;
    }
    let session = &session;
    if is_for_people(&verb) {
        verbs::cleanup::abandoned(session)?;
    }
    match verb {
        Verb::Pull(args) => verbs::pull::run(session, &args),
        Verb::Push(args) => verbs::push::run(session, &args),
        Verb::Init(args) => verbs::init::run(session, &args),
        Verb::Images(args) => verbs::images::run(session, &args),
        Verb::Image(verb) => verbs::image::run(session, &verb),
        Verb::Tag(args) => verbs::tag::run(session, &args),
        Verb::Rmi(args) => verbs::rmi::run(session, &args),
        Verb::Save(args) => verbs::save::run(session, &args),
        Verb::Load(args) => verbs::load::run(session, &args),
        Verb::Login(args) => verbs::login::run(session, &args),
        Verb::Logout(args) => verbs::login::out(session, &args),
        Verb::Create(words) => {
            with_what_is_left(session, verbs::create::run(session, &words, args)?)
        }
        Verb::Container(verb) => verbs::container::run(session, &verb),
        Verb::Run(words) => with_what_is_left(session, verbs::run::run(session, &words, args)?),
        Verb::Ps(args) => verbs::ps::run(session, &args),
        Verb::Top(args) => verbs::top::run(session, &args),
        Verb::Port(args) => verbs::port::run(session, &args),
        Verb::Exec(args) => verbs::exec::run(session, &args),
        Verb::Attach(args) => verbs::attach::run(session, &args),
        Verb::Wait(args) => verbs::wait::run(session, &args),
        Verb::Logs(args) => verbs::logs::run(session, &args),
        Verb::Events(args) => verbs::events::run(&args),
        Verb::Commit(args) => verbs::commit::run(session, &args),
        Verb::Diff(args) => verbs::diff::run(session, &args),
        Verb::Cp(args) => verbs::cp::run(session, &args),
        Verb::Export(args) => verbs::export::run(session, &args),
        Verb::Import(args) => verbs::import::run(session, &args),
        Verb::History(args) => verbs::history::run(session, &args),
        Verb::Start(args) => with_what_is_left(session, verbs::start::run(session, &args)?),
        Verb::Stop(args) => verbs::stop::run(session, &args),
        Verb::Restart(args) => verbs::restart::run(session, &args),
        Verb::Pause(args) => verbs::pause::run(session, &args),
        Verb::Unpause(args) => verbs::pause::unpause(session, &args),
        Verb::Kill(args) => verbs::kill::run(session, &args),
        Verb::Rename(args) => verbs::rename::run(session, &args),
        Verb::Rm(args) => verbs::rm::run(session, &args),
        Verb::Inspect(args) => verbs::inspect::run(session, &args),
        Verb::Network(verb) => verbs::network::run(session, &verb),
        Verb::Volume(verb) => verbs::volume::run(session, &verb),
        Verb::System(verb) => verbs::system::run(session, &verb),
        Verb::Info => verbs::system::run(session, &verbs::system::Verb::Info),
        Verb::Cleanup(args) => verbs::cleanup::run(session, &args),
        Verb::Format(args) => verbs::format::run(&args),
        Verb::Help(args) => verbs::help::run(&args),
        Verb::Version => verbs::help::version(),
        Verb::Other(words) => verbs::other::run(session, &words),
    }
}

/// A stage that was killed leaves those after it without a document, and the pipeline failed.
fn with_what_is_left(session: &Session, code: u8) -> Result<u8> {
    if code == EXIT_FAILED {
        verbs::cleanup::abandoned(session)?;
    }
    Ok(code)
}

/// Whether it is no stage of a pipeline.
fn is_for_people(verb: &Verb) -> bool {
    needs_root(verb) && !matches!(verb, Verb::Cleanup(_))
}

fn needs_root(verb: &Verb) -> bool {
    !matches!(
        verb,
        Verb::Format(_)
            | Verb::Help(_)
            | Verb::Login(_)
            | Verb::Logout(_)
            | Verb::Version
            | Verb::Other(_)
    )
}
