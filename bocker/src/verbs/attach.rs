//! `attach`: this terminal, or these streams, and those of a container that runs are one.

use bocker_pipe::{Id, Result, lock};

use super::chosen::One;
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
    #[command(flatten)]
    one: One,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let name = args.one.name(session)?;
    let (id, _) = container::find(&name)?;
    if !lock::is_alive(&id) {
        return Err(not_running(&name));
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
