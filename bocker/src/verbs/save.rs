//! `save IMAGE...`: images as an archive.

use std::ffi::OsString;

use bocker_pipe::Result;

use crate::session::Session;
use crate::tools::Piece;

/// Write images to an archive, on stdout unless a file is named
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names; what is given by its id is saved without a name
    #[arg(required = true)]
    images: Vec<String>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: Option<OsString>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session.tool(Piece::Pull, "save")?;
    let stage = stage.option("--output", args.output.as_ref());
    session.become_stage(&stage.arg("--").args(&args.images))
}
