//! `wait`: how containers end.

use bocker_pipe::Result;

use crate::session::Session;
use crate::tools::Piece;

/// Wait until containers have ended, and print their exit statuses
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session.stage(Piece::Spawn, "wait")?.arg("--");
    session.become_stage(&stage.args(&args.names))
}
