//! `load`: images from an archive.

use std::ffi::OsString;

use bocker_pipe::Result;

use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Read images from an archive, on stdin unless one is named
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive, or the folder of an image layout
    #[arg(short, long, value_name = "FILE")]
    input: Option<OsString>,
    /// Accepted for those used to it
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    session.run(&Pipeline::new([
        session
            .tool(Piece::Pull, "load")?
            .option("--input", args.input.as_ref()),
        session
            .own_stage("format")
            .arg("Loaded image: {{.source}} ({{.id}})"),
    ]))
}
