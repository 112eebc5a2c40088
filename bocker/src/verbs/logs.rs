//! `logs`: what a container wrote, from the log that it cannot reach.

use bocker_pipe::Result;

use crate::container;
use crate::session::Session;
use crate::tools::Piece;

/// Print what a container wrote
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id or name
    name: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (id, _) = container::find(&args.name)?;
    session.become_stage(&session.stage(Piece::Spawn, "logs")?.arg(id.as_str()))
}
