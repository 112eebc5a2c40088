//! `attach`: this terminal, or these streams, and those of a container that runs are one.

use bocker_pipe::{Id, Result, lock};

use super::kill::not_running;
use super::run::Leaving;
use crate::container;
use crate::session::Session;
use crate::tools::Piece;

/// Stay with a running container to its end, and give its exit status
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hand no input to it
    #[arg(long)]
    no_stdin: bool,
    #[command(flatten)]
    leaving: Leaving,
    /// Id or name
    name: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (id, _) = container::find(&args.name)?;
    if !lock::is_alive(&id) {
        return Err(not_running(&args.name));
    }
    to(session, &id, !args.no_stdin, &args.leaving)
}

/// Becomes the one who is attached.
pub(crate) fn to(session: &Session, id: &Id, stdin: bool, leaving: &Leaving) -> Result<u8> {
    let stage = session
        .stage(Piece::Spawn, "attach")?
        .flag("--no-stdin", !stdin);
    session.become_stage(&leaving.of(stage).arg(id.as_str()))
}
