//! `kill`: a signal to the container's process 1.

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result, lock};

use super::stop;
use crate::container;
use crate::session::{Session, complain, say};

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
    let mut code = 0;
    for name in &args.names {
        match kill(session, name, &args.signal) {
            Ok(0) => {}
            Ok(_) => code = EXIT_FAILED,
            Err(error) => {
                complain(&error);
                code = EXIT_FAILED;
            }
        }
    }
    Ok(code)
}

fn kill(session: &Session, name: &str, signal: &str) -> Result<u8> {
    let (id, _) = container::find(name)?;
    if !lock::is_alive(&id) {
        return Err(not_running(name));
    }
    let status = session.run(&stop::signal(session, &id, signal)?)?;
    if status == 0 && !session.dry_run {
        say(name)?;
    }
    Ok(status)
}

/// The original's words.
pub(crate) fn not_running(name: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!("Container '{name}' exists but is not running"),
    )
}
