//! `kill`: a signal to the container's process 1.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result, lock};

use super::outcome::{Outcome, each};
use super::stop;
use crate::container;
use crate::session::{Session, say};

/// Send a signal to running containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    names: Vec<String>,
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    match each(&args.names, |name| kill(session, name, &args.signal))? {
        Outcome::Done => Ok(0),
        _ => Ok(EXIT_FAILED),
    }
}

fn kill(session: &Session, name: &str, signal: &str) -> Result<Outcome> {
    let (id, _) = container::find(name)?;
    if !lock::is_alive(&id) {
        return Err(not_running(name));
    }
    let outcome = Outcome::of_status(session.run(&stop::signal(session, &id, signal)?)?);
    if outcome == Outcome::Done && !session.dry_run {
        say(name)?;
    }
    Ok(outcome)
}

/// The original's words.
pub(crate) fn not_running(name: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!("Container '{name}' exists but is not running"),
    )
}
