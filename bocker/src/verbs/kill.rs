//! `kill`: a signal to the container's process 1.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Document, Error, Kind, Result, lock};

use super::chosen::Chosen;
use super::outcome::{Outcome, each};
use super::stop;
use crate::container;
use crate::pipeline::Pipeline;
use crate::session::Session;

/// Send a signal to running containers
#[derive(Debug, clap::Args)]
#[command(mut_arg("all", |arg| arg.short('a')))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let names = args.chosen.names(session, |one| !one.is_over())?;
    match each(&names, |name| kill(session, name, &args.signal))? {
        Outcome::Done => Ok(0),
        _ => Ok(EXIT_FAILED),
    }
}

fn kill(session: &Session, name: &str, signal: &str) -> Result<Outcome> {
    let (id, document) = container::find(name)?;
    if !lock::is_alive(&id) {
        return Err(not_running(name));
    }
    let mut pipeline = stop::signal(session, &id, signal)?;
    if ends(&document, signal) {
        // One that stands still ends when it goes on.
        for stage in stop::thaw(session, &[id])? {
            pipeline = pipeline.then(Pipeline::new([stage]));
        }
    }
    Ok(Outcome::of_status(
        session.run(&pipeline.said(name.to_owned()))?,
    ))
}

/// Whether a signal is sent to end it: as docker sees it, one that stands still goes on for it, and any other signal waits.
fn ends(document: &Document, signal: &str) -> bool {
    let bare = |signal: &str| {
        let upper = signal.to_ascii_uppercase();
        upper.strip_prefix("SIG").unwrap_or(&upper).to_owned()
    };
    let own = document.value("/bocker/spawn/stop_signal");
    let own = own.and_then(|own| own.as_str()).map(bare);
    let signal = bare(signal);
    ["KILL", "9", "TERM", "15"].contains(&signal.as_str()) || Some(signal) == own
}

/// The original's words.
pub(crate) fn not_running(name: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!("Container '{name}' exists but is not running"),
    )
}
