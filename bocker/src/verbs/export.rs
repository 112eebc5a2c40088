//! `export`: the files of a container as an archive.

use std::ffi::OsString;

use bocker_pipe::Result;

use crate::container;
use crate::session::Session;
use crate::tools::Piece;

/// Write all files of a container as a tar archive
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container: id or name
    container: String,
    /// Write a file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<OsString>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (id, _) = container::find(&args.container)?;
    let stage = session
        .tool(Piece::Snap, "export")?
        .arg(id.as_str())
        .option("--output", args.output.as_ref());
    session.become_stage(&stage)
}
