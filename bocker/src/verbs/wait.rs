//! `wait`: how containers end.

use bocker_pipe::Result;

use super::chosen::Chosen;
use crate::session::Session;
use crate::tools::Piece;

/// Wait until containers have ended, and print their exit statuses
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let names = args.chosen.names(session, |one| !one.is_over())?;
    if names.is_empty() {
        return Ok(0);
    }
    let stage = session.stage(Piece::Spawn, "wait")?.arg("--");
    session.become_stage(&stage.args(names))
}
