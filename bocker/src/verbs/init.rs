//! `init DIR` and `init -`: an image from a directory, or from an archive on stdin.

use std::ffi::OsString;

use bocker_pipe::Result;

use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Create an image from a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A directory, or - for a tar archive on stdin
    directory: OsString,
    /// What to call the image: [REGISTRY/]NAME[:TAG]
    name: Option<OsString>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    session.run(&Pipeline::new([
        session
            .tool(Piece::Snap, "init")?
            .arg(&args.directory)
            .option("--name", args.name.as_ref()),
        session.own_stage("format").arg("Created: {{.id}}"),
    ]))
}
